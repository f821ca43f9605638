package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"

	"github.com/rowhook/rowhook/relay"
)

// Starter is what a first rule file is made of.
type Starter struct {
	// Source is the name of the source; what is no name of one becomes one.
	Source string
	// Catalog has the tables of the database; nil is a template with made-up ones.
	Catalog *relay.Catalog
	// Webhook is the URL to deliver to; empty is to print the events.
	Webhook string
}

// maxStarterTables bounds the events of a first file: nobody reads more.
const maxStarterTables = 10

// migrations are tables in which tools keep what they have done to the schema.
var migrations = regexp.MustCompile(`(?i)^(schema_migrations?|migrations?|ar_internal_metadata|alembic_version|flyway_schema_history|databasechangelog(lock)?|django_migrations|goose_db_version|_prisma_migrations|__efmigrationshistory|knex_migrations(_lock)?|_sqlx_migrations|atlas_schema_revisions|spatial_ref_sys)$`)

// confidential are names of columns that do not belong in an event.
var confidential = regexp.MustCompile(`(?i)passw|secret|token|api_?key|salt|digest|credential|private|ssn|card_?number|iban|otp|hash`)

// stages are names of columns that say how far a row has come.
var stages = regexp.MustCompile(`(?i)^(status|state|stage|phase)$`)

// Text returns the file, in the canonical form.
func (s *Starter) Text() []byte {
	name := strings.Trim(notName.ReplaceAllString(strings.ToLower(s.Source), "_"), "_")
	if name = name[:min(len(name), 55)]; name == "" {
		name = "main"
	}
	var b strings.Builder
	fmt.Fprintf(&b, starterHead, name)
	if s.Catalog == nil {
		b.WriteString(starterTemplate)
	} else {
		s.events(&b)
	}
	if s.Webhook == "" {
		b.WriteString(starterStdout)
	} else {
		fmt.Fprintf(&b, starterWebhook, quoteHCL(s.Webhook))
	}
	return hclwrite.Format([]byte(b.String()))
}

const starterHead = `# What becomes of the commits of a database, and who is told. In this order:
#
#   rowhook check --database   finds every mistake in this file, with the cure
#   rowhook test               runs the tests in *.test.hcl beside it, without a database
#   rowhook plan               says what run would create in the database
#   rowhook run                reads the changes and delivers the events

source "postgres" "%s" {
  # The primary itself, not a pooler; wal_level = logical; a role with REPLICATION that owns the
  # tables. A secret stays out of this file: env("NAME") and file("path") read it at the start.
  url = env("DATABASE_URL")
}

`

const starterTemplate = `# An event: of which changes it is made, and what it says. The name is yours; endpoints choose by
# it, and ids are made of it.
event "order.paid" {
  description = "An order was paid in full."
  table       = "public.orders"
  on          = ["update"] # insert, update, delete, truncate

  # new is the row after, old the row before. PostgreSQL sends old values other than the primary
  # key only after: ALTER TABLE orders REPLICA IDENTITY FULL
  when = new.status == "paid" && old.status != "paid"

  # What the receiver gets. data = row is the whole row.
  data = {
    order_id = new.id
    total    = new.total
  }
}

`

const starterStdout = `# Every event is printed, which is enough to look at. For an endpoint, with a secret as rowhook init
# has printed one:
#
#   sink "webhook" "app" {
#     url     = "https://app.example.com/hooks"
#     events  = ["**"] # * is one segment of a type, ** any number, !x excludes
#     secrets = [env("WEBHOOK_SECRET")]
#   }
sink "stdout" "terminal" {
  events = ["**"]
}
`

const starterWebhook = `# Every event is posted, signed as Standard Webhooks has it, again and again until it is answered
# with 2xx (ten attempts over three days), in order for each row.
sink "webhook" "app" {
  url     = %s
  events  = ["**"] # * is one segment of a type, ** any number, !x excludes
  secrets = [env("WEBHOOK_SECRET")]
}
`

// events writes an event for each table that can have one, the most telling
// tables first, and says which were left out.
func (s *Starter) events(b *strings.Builder) {
	var tables []*relay.Table
	var noIdentity, more []string
	for _, t := range s.Catalog.Tables {
		switch {
		case t.Kind != 'r' && t.Kind != 'p', t.Persistence != 'p', len(t.Ancestors) > 0, migrations.MatchString(t.Name), len(t.Columns) == 0:
		case t.Kind == 'r' && !identified(t):
			noIdentity = append(noIdentity, t.Table().String())
		default:
			tables = append(tables, t)
		}
	}
	slices.SortStableFunc(tables, func(a, b *relay.Table) int { return btoi(stageOf(b) != "") - btoi(stageOf(a) != "") })
	for _, t := range tables[min(len(tables), maxStarterTables):] {
		more = append(more, t.Table().String())
	}
	tables = tables[:min(len(tables), maxStarterTables)]
	if len(tables) == 0 {
		b.WriteString("# The database has no table whose changes can be read, so this is an event to begin with: of a\n" +
			"# logical message. SELECT pg_logical_emit_message(true, 'hello', '{\"to\": \"world\"}')\n" +
			"event \"hello\" {\n  message = \"hello\"\n  data = payload\n}\n\n")
	}
	used := map[string]bool{}
	for i, t := range tables {
		starterEvent(b, t, i == 0, used)
	}
	leftOut(b, "Without a primary key or another replica identity, so that UPDATE and DELETE would fail once they\n# are published", noIdentity)
	leftOut(b, "Tables that are left, for as many events as somebody wants", more)
}

func leftOut(b *strings.Builder, why string, tables []string) {
	if len(tables) > 0 {
		fmt.Fprintf(b, "# %s:\n", why)
		for len(tables) > 0 {
			n := min(len(tables), 4)
			fmt.Fprintf(b, "#   %s\n", strings.Join(tables[:n], ", "))
			tables = tables[n:]
		}
		b.WriteString("\n")
	}
}

func stageOf(t *relay.Table) string {
	for i := range t.Columns {
		if stages.MatchString(t.Columns[i].Name) {
			return t.Columns[i].Name
		}
	}
	return ""
}

// starterEvent writes the event of a table; the first one explains itself.
func starterEvent(b *strings.Builder, t *relay.Table, first bool, used map[string]bool) {
	base := t.Name
	if t.Schema != "public" {
		base = t.Schema + "." + t.Name
	}
	label := fixedType(base)
	if label == "" || label == "rowhook" || strings.HasPrefix(label, "rowhook.") {
		label = "table_" + strings.ReplaceAll(label, ".", "_")
	}
	for n := 2; used[label]; n++ {
		label = fmt.Sprintf("%s_%d", fixedType(base), n)
	}
	used[label] = true
	if first {
		b.WriteString("# An event: of which changes it is made, and what it says. The name is yours; endpoints choose by\n# it, and ids are made of it.\n")
	}
	fmt.Fprintf(b, "event %s {\n  table = %s\n  on = [\"insert\", \"update\", \"delete\"]\n", quoteHCL(label+".changed"), quoteHCL(writeTable(t.Table())))
	if first {
		starterWhen(b, t)
	}
	omitted := ""
	for i := range t.Columns {
		sent := len(t.Generated) <= i || t.Generated[i] == 0
		if name := t.Columns[i].Name; sent && confidential.MatchString(name) {
			omitted += ", " + quoteHCL(name)
		}
	}
	switch {
	case omitted != "":
		fmt.Fprintf(b, "\n  # The row, without what nobody else should see. { id = row.id, ... } chooses what the receiver gets.\n  data = omit(row%s)\n}\n\n", omitted)
	case first:
		b.WriteString("\n  # The whole row: new, or on delete old. { id = row.id, ... } chooses what the receiver gets.\n  data = row\n}\n\n")
	default:
		b.WriteString("  data = row\n}\n\n")
	}
}

// starterWhen shows a condition, as a comment: every change is what somebody
// who begins wants to see.
func starterWhen(b *strings.Builder, t *relay.Table) {
	column := stageOf(t)
	if column == "" {
		return
	}
	path := columnPath("changed", column)
	fmt.Fprintf(b, "\n  # Only some of the changes:\n  #   on = [\"update\"]\n  #   when = %s\n", path)
	for i := range t.Columns {
		if t.Columns[i].Name == column && !t.OldKnown(i) {
			fmt.Fprintf(b, "  # for which PostgreSQL has to send the old %s: ALTER TABLE %s REPLICA IDENTITY FULL\n", column, quoteTable(t.Table()))
		}
	}
}

// columnPath is an expression for a column.
func columnPath(row, column string) string {
	if hclKey(column) == column && !strings.Contains(column, "-") {
		return row + "." + column
	}
	return row + "[" + quoteHCL(column) + "]"
}
