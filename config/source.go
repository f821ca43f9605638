package config

import (
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

var sourceBlock = &Block{
	Name: "source",
	Many: true,
	Labels: []Label{
		{Name: "type", OneOf: []string{"postgres"}, Doc: "The only type is \"postgres\"."},
		{Name: "name", Doc: "The name is a-z, 0-9 and _, at most 55 of them, unique among the sources; slot and publication are named after it."},
	},
	Doc: "A PostgreSQL database that is read.",
	Arguments: []Argument{
		{Name: "url", Type: TypeSecret, Required: true,
			Doc: "Where the database is and who reads it: \"postgres://user@host:5432/database\", or the key=value form of libpq. It must lead to the primary itself: a pooler such as PgBouncer cannot carry replication. " +
				"The user needs the REPLICATION attribute and, with manage = true, CREATE on the database and ownership of the tables. Write a URL that has a password as env(\"DATABASE_URL\") or file(\"path\")."},
		{Name: "slot", Type: TypeString,
			Doc: "The replication slot: a-z, 0-9 and _, at most 63 of them. Two daemons cannot read one slot. The default is rowhook_ and the source's name."},
		{Name: "publication", Type: TypeString,
			Doc: "The publication, literal, case and all. The default is rowhook_ and the source's name."},
		{Name: "manage", Type: TypeBool, Default: "true",
			Doc: "Whether rowhook makes and alters the publication and the slot. With false both must exist; rowhook runs no DDL and prints what a DBA must run."},
		{Name: "columns", Type: TypeString, Default: `"all"`, OneOf: []string{"all", "rules"},
			Doc: "What the server sends of each table. all: whole rows. rules: only the columns that rules read, the replica identity and the primary key, which the publication then lists, and no other table; it needs PostgreSQL 15. A listed column can be dropped or retyped only after the publication was altered."},
		{Name: "confirm", Type: TypeString, Default: `"stored"`, OneOf: []string{"stored", "delivered"},
			Doc: "When PostgreSQL is told that it may forget WAL. stored: when the events are durable in rowhook's log. delivered: when every endpoint has them too, or they are dead letters; for disks that do not survive the machine. An endpoint that is down then makes WAL grow."},
		{Name: "backfill", Type: TypeStrings,
			Doc: "Events whose rows are read at the source's first start, in the snapshot in which the slot is made: what was committed before is read, what comes after it is streamed, and no row is in both. The stream waits meanwhile. The events list read in on. Later, use rowhook backfill."},
		{Name: "on_error", Type: TypeString, Default: `"continue"`, OneOf: onErrors,
			Doc: "What happens when a rule that has no on_error of its own fails on a change; see on_error of events. With halt, rules on channels continue: a notification that is not taken is lost."},
		{Name: "max_rule_failures", Type: TypeInteger, Default: "1000", Min: 1,
			Doc: "The number of changes in a row on which rules may fail before the source stops, so that a broken rule does not fill the log with dead letters."},
		{Name: "keep_changes", Type: TypeDuration, Min: 1,
			Doc: "How long changes are kept as they came, all columns that the server sends, so that rowhook simulate can judge them by other rules. They are stored with the log, unencrypted, and are in its backups: personal data that no rule reads is there too. The default is not at all."},
		{Name: "keep_changes_size", Type: TypeSize, Default: `"1GiB"`, Min: 1 << 20,
			Doc: "About how much keep_changes keeps at most; beyond it the oldest changes go first. It does not count towards log { max_size }."},
		{Name: "failover", Type: TypeBool, Default: "true",
			Doc: "Whether the slot has the FAILOVER option where the server knows it (PostgreSQL 17 and later), so that standbys with sync_replication_slots copy it and it survives their promotion. Without such standbys it changes nothing."},
	},
}

// Source is a source block.
type Source struct {
	Name string
	// URL is a postgres:// URL or a key=value string. It is zero when a check
	// without secrets did not get it.
	URL         relay.Secret
	Slot        string
	Publication string
	Manage      bool
	Columns     Columns
	Confirm     Confirm
	// OnError is of rules that have none of their own.
	OnError relay.OnError
	// MaxRuleFailures in a row stop the source.
	MaxRuleFailures int
	Failover        bool
	// KeepChanges is how long changes are kept as they came, 0 for not at all, and
	// KeepChangesSize how many bytes of them.
	KeepChanges     time.Duration
	KeepChangesSize int64
	// Backfill are the rules to read rows for at the first start.
	Backfill []string
	backfill []settingText
	// Range is the block's header.
	Range hcl.Range
}

// Columns is what the server sends of each table.
type Columns string

// The choices of columns.
const (
	ColumnsAll   Columns = "all"
	ColumnsRules Columns = "rules"
)

// Confirm is when PostgreSQL is told that it may forget.
type Confirm string

// The moments of confirmation.
const (
	ConfirmStored    Confirm = "stored"
	ConfirmDelivered Confirm = "delivered"
)

var (
	nameForm   = regexp.MustCompile(`^[a-z0-9_]{1,55}$`)
	slotForm   = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	schemeForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*$`)
	hostForm   = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?$`)
)

// maxIdentifier is the length of a PostgreSQL identifier in bytes
// (NAMEDATALEN - 1). The server cuts longer ones silently.
const maxIdentifier = 63

// name reports a label that cannot be the name of a source or sink.
func (e *evaluator) name(b *body, label settingText) {
	if label.s == "" && label.at == b.at {
		return // missing, and reported
	}
	if !nameForm.MatchString(label.s) {
		e.errorf(label.at, "Invalid name", "The name of a %s is a-z, 0-9 and _, at most 55 of them.%s", b.def.Name, nameHint(label.s))
	}
}

var notName = regexp.MustCompile(`[^a-z0-9_]+`)

// nameHint suggests a valid spelling of a name.
func nameHint(s string) string {
	fixed := strings.Trim(notName.ReplaceAllString(strings.ToLower(s), "_"), "_")
	if fixed == "" || len(fixed) > 55 {
		return ""
	}
	return ` Write "` + fixed + `".`
}

func (e *evaluator) source(b *body) Source {
	name := b.labels[1]
	e.name(b, name)
	s := Source{
		Name:            name.s,
		Slot:            "rowhook_" + name.s,
		Publication:     "rowhook_" + name.s,
		Manage:          get[bool](b, "manage"),
		Columns:         Columns(get[settingText](b, "columns").s),
		Confirm:         Confirm(get[settingText](b, "confirm").s),
		OnError:         onErrorOf(b),
		MaxRuleFailures: get[int](b, "max_rule_failures"),
		Failover:        get[bool](b, "failover"),
		KeepChanges:     get[time.Duration](b, "keep_changes"),
		KeepChangesSize: get[int64](b, "keep_changes_size"),
		Range:           b.at,
		backfill:        get[[]settingText](b, "backfill"),
	}
	for _, t := range s.backfill {
		s.Backfill = append(s.Backfill, t.s)
	}
	if t := get[settingText](b, "slot"); t.s != "" {
		s.Slot = t.s
		if !slotForm.MatchString(t.s) {
			e.errorf(t.at, "Invalid slot name", "PostgreSQL allows a-z, 0-9 and _ in the name of a slot, at most 63 of them.%s", nameHint(t.s))
		}
	}
	if t := get[settingText](b, "publication"); t.s != "" {
		s.Publication = t.s
		if len(t.s) > maxIdentifier || strings.ContainsRune(t.s, 0) {
			e.errorf(t.at, "Name is too long", "PostgreSQL cuts names after 63 bytes; this one has %d.", len(t.s))
		}
	}
	if !s.Manage && b.arg("failover") != nil {
		e.warnf(b.arg("failover").name, "Argument without effect", "With manage = false rowhook does not create the slot: whoever does decides whether it has the FAILOVER option.")
	}
	if s.KeepChanges == 0 && b.arg("keep_changes") == nil && b.arg("keep_changes_size") != nil {
		e.warnf(b.arg("keep_changes_size").name, "Argument without effect", "Without keep_changes nothing is kept. Write how long, as in keep_changes = \"24h\".")
	}
	if t := get[settingText](b, "url"); t.s != "" {
		s.URL = relay.NewSecret(t.s)
		e.databaseURL(t)
	}
	return s
}

// databaseURL reports what is wrong with the URL of a database. The text of
// the URL, also that in an error of its parser, stays out of the diagnostics.
func (e *evaluator) databaseURL(t settingText) {
	var password bool
	scheme, _, isURL := strings.Cut(t.s, "://")
	switch isURL = isURL && schemeForm.MatchString(scheme); {
	case isURL && (scheme == "postgres" || scheme == "postgresql"):
		u, err := url.Parse(t.s)
		if err != nil {
			// Several hosts with ports, host1:5432,host2:5432, are libpq's and no URL.
			if strings.Contains(t.s, ",") {
				return
			}
			e.errorf(t.at, "Invalid database URL", "The form is postgres://user:password@host:5432/database. A password with characters such as @ / : # ? must have them percent-encoded (%%40 %%2F %%3A %%23 %%3F).")
			return
		}
		_, password = u.User.Password()
		password = password || u.Query().Has("password")
	case isURL:
		e.errorf(t.at, "Invalid database URL", "The URL of a PostgreSQL database begins with postgres://.")
		return
	case strings.Contains(t.s, "="):
		password = strings.Contains(t.s, "password")
	default:
		e.errorf(t.at, "Invalid database URL", "The form is postgres://user:password@host:5432/database, or host=... user=... dbname=....")
		return
	}
	if password && !t.secret {
		e.warnf(t.at, "Secret written into the file", "Whoever reads this file reads the password. Write url = env(\"DATABASE_URL\") or url = file(\"path\").")
	}
}

// checkBackfill reports what a source cannot read rows for.
func checkBackfill(p *problems, sources []Source, rules []*rule) {
	for _, s := range sources {
		for _, t := range s.backfill {
			var names []string
			var found *rule
			for _, r := range rules {
				if r.Source == s.Name && len(r.Tables) > 0 {
					names = append(names, r.Name)
				}
				if r.Name == t.s {
					found = r
				}
			}
			switch {
			case t.unknown:
			case found == nil:
				p.errorf(t.at, "Unknown event", "There is no event %q.%s", t.s, didYouMean(t.s, names))
			case found.Source != s.Name:
				p.errorf(t.at, "Event of another source", "The event %s is about source %s.", t.s, found.Source)
			case !found.Ops.Has(relay.Read):
				p.errorf(t.at, "Event without read", "The event %s (%s) makes nothing of rows that are read. Add \"read\" to its on.", t.s, place(found.at))
			}
		}
	}
}
