package cdc

import (
	"context"

	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/relay"
)

// Plan is what has to be done to a database before a source can be read, and
// what is worth knowing. No steps: there is nothing to do.
type Plan struct {
	Server   *ServerState
	Steps    []Step
	Warnings []Warning
}

// Step is one thing to make or alter.
type Step struct {
	Action StepAction
	// Kind is publication, slot, setting or role, Name which one.
	Kind, Name string
	// Changes are the parts of it that change, in words, each with the sign of what
	// happens to it: +, ~ or -.
	Changes []string
	// Run says that the daemon does it when it starts. Otherwise a DBA has to,
	// because of Why, and Detail says how where it is not all SQL.
	Run         bool
	Why, Detail string
	// SQL are the statements, in order.
	SQL []string

	// missing says what is not read without it, or "".
	missing string
}

// StepAction is what a step does.
type StepAction string

// The actions.
const (
	StepCreate StepAction = "create"
	StepAlter  StepAction = "alter"
)

// Warning is something that does not keep a source from being read, and will
// surprise somebody.
type Warning struct {
	Summary, Detail string
	SQL             []string
}

// PlanOptions say what is planned for.
type PlanOptions struct {
	Slot, Publication string
	Want              Want
	// Managed says that the daemon makes publication and slot itself, as far as it
	// may. Failover is that of [SlotOptions].
	Managed, Failover bool
	// AnySlot says that whoever asks has judged the state of the slot already: a
	// lost one may be about to be made anew.
	AnySlot bool
}

// ReadPlan compares what a source needs with what its database has. It changes
// nothing: its session is read-only. What cannot be had at all (a table that
// does not exist, one whose updates would fail in the application) is a
// *SetupError, or several joined.
func ReadPlan(ctx context.Context, url relay.Secret, o PlanOptions) (*Plan, error) {
	if err := validSlotName(o.Slot); err != nil {
		return nil, err
	}
	conn, err := connect(ctx, url, "plan", SessionOptions)
	if err != nil {
		return nil, err
	}
	defer disconnect(conn)
	// Not an option of the connection: a URL with target_session_attrs=read-write
	// would take the primary for a standby.
	if _, err := conn.Exec(ctx, "SET default_transaction_read_only = on"); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	st := &ServerState{Address: address(conn.Config().Config), User: conn.Config().User}
	if err := st.readServer(ctx, conn); err != nil {
		return nil, err
	}
	p := &Plan{Server: st}
	for _, problem := range st.problems() {
		if problem.fatal {
			return nil, problem.setupError()
		}
		p.Steps = append(p.Steps, problem.Step)
	}
	if st.InRecovery {
		return nil, &SetupError{Summary: "the server is a standby, where neither publication nor slot can be made", Detail: "name the primary in the source's url"}
	}
	if st.Slot, err = readSlot(ctx, conn, o.Slot); err != nil {
		return nil, err
	}
	if st.Publication, err = readPublication(ctx, conn, st.Version, o.Publication); err != nil {
		return nil, err
	}
	tables, err := readPublishable(ctx, conn, o.Want.Tables)
	if err != nil {
		return nil, err
	}
	pub, err := planPublication(o.Publication, st.User, st.Version, st.Publication, tables, o.Want)
	switch {
	case err != nil && !o.Managed && st.Publication != nil:
		// Somebody made it that way; what there is can be read.
		p.Warnings = append(p.Warnings, Warning{Summary: err.Error()})
		pub = &publicationPlan{}
	case err != nil:
		return nil, err
	case len(pub.statements) > 0:
		p.Steps = append(p.Steps, pub.step(st, tables, o.Managed))
	}
	if err := p.slot(o); err != nil {
		return nil, err
	}
	if err := unmatched(st.Publication, pub, tables, o); err != nil {
		return nil, err
	}
	failing, err := readFailing(ctx, conn, st.Version, tables)
	if err != nil {
		return nil, err
	}
	p.Warnings = append(p.Warnings, failing...)
	p.Warnings = append(p.Warnings, partitions14(o.Publication, st.Version, tables)...)
	if o.Want.Least {
		p.Warnings = append(p.Warnings, pub.migrations(tables)...)
	}
	p.Warnings = append(p.Warnings, st.warnings(o)...)
	return p, nil
}

// step describes what a plan of a publication does.
func (p *publicationPlan) step(st *ServerState, tables []publishable, managed bool) Step {
	s := Step{Action: StepAlter, Kind: "publication", Name: p.name, SQL: p.script(), Run: managed && len(p.rights) == 0}
	s.missing = strings.Join(p.missing, "; ")
	if p.create {
		s.Action = StepCreate
	}
	signs := map[tableChange]string{tableAdded: "+ ", tableRelisted: "~ ", tableDropped: "- "}
	for i := range p.tables {
		t := &p.tables[i]
		if sign := signs[t.change]; sign != "" {
			line := sign + t.TableName.String()
			if t.change != tableDropped {
				line += columnWords(t.Columns)
			}
			s.Changes = append(s.Changes, line)
		}
	}
	switch was := st.Publication; {
	case was == nil:
		s.Changes = append(s.Changes, "+ publish "+opList(p.ops))
	case was.Ops != p.ops:
		s.Changes = append(s.Changes, "~ publish "+opList(p.ops)+", now "+opList(was.Ops))
	}
	if p.viaRoot {
		s.Changes = append(s.Changes, "~ publish partitions as their root")
	}
	switch {
	case s.Run:
	case !managed:
		s.Why = "manage = false forbids to run it"
	default:
		s.Why = fmt.Sprintf("the role %q may not: %s", st.User, strings.Join(p.rights, "; "))
		s.Detail = "run it as " + runner(st, tables) + ", who needs CREATE on the database; the role then needs neither ownership nor CREATE, and SELECT on a table only for a backfill. " +
			"Or let the role do it, now and whenever the rules change: " + grants(st, tables)
	}
	return s
}

// grants are the statements that give the role what it lacks to publish.
func grants(st *ServerState, tables []publishable) string {
	var out []string
	if !st.CanCreate {
		out = append(out, "GRANT CREATE ON DATABASE "+quoteIdent(st.Database)+" TO "+quoteIdent(st.User)+";")
	}
	if p := st.Publication; p != nil && !p.Ours {
		out = append(out, "ALTER PUBLICATION "+quoteIdent(p.Name)+" OWNER TO "+quoteIdent(st.User)+";")
	}
	for i := range tables {
		if t := &tables[i]; !t.owned {
			out = append(out, "GRANT "+quoteIdent(t.owner)+" TO "+quoteIdent(st.User)+";")
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ") + " (a member of a table's owner may do all that the owner may)"
}

// runner says who may publish the tables.
func runner(st *ServerState, tables []publishable) string {
	var owners []string
	for i := range tables {
		owners = append(owners, tables[i].owner)
	}
	slices.Sort(owners)
	who := "the owner of the tables"
	if owners = slices.Compact(owners); len(owners) == 1 {
		who += " (" + owners[0] + ")"
	} else {
		who = "a role that is a member of all owners of the tables (" + strings.Join(owners, ", ") + ")"
	}
	if st.Service == "" {
		return who + " or a superuser"
	}
	return who + " (" + string(st.Service) + " has no superuser)"
}

// columnWords writes a column list for people.
func columnWords(columns []string) string {
	if columns == nil {
		return ""
	}
	return " (" + strings.Join(columns, ", ") + ")"
}

// slot plans the slot. One that cannot be read is an error where it takes a
// person's decision.
func (p *Plan) slot(o PlanOptions) error {
	st := p.Server
	failover := o.Failover && st.CanFailover()
	if have := st.Slot; have != nil {
		switch {
		case have.Physical || have.Plugin != "pgoutput":
			return &SetupError{Summary: fmt.Sprintf("the slot %q exists and is not a pgoutput slot", o.Slot), Detail: "name another slot in the source"}
		case have.Database != st.Database:
			return &SetupError{Summary: fmt.Sprintf("the slot %q exists and belongs to the database %s", o.Slot, have.Database), Detail: "name another slot in the source"}
		case have.Lost != "" && !o.AnySlot:
			return &SetupError{
				Summary: fmt.Sprintf("the slot %q is lost (%s): nothing can be read from it any more", o.Slot, have.Lost),
				Detail:  "'rowhook run' says what is missing and names the flag that accepts it",
			}
		}
		if sign := "+ "; st.AlterFailover(o) {
			if !failover {
				sign = "- "
			}
			p.Steps = append(p.Steps, Step{
				Action: StepAlter, Kind: "slot", Name: o.Slot, Changes: []string{sign + "failover"}, Run: true,
				Detail: "a command of a replication connection", SQL: []string{alterFailover(o.Slot, failover) + ";"},
			})
		}
		return nil
	}
	if st.MaxSlots > 0 && st.Slots >= st.MaxSlots {
		full := st.setting("max_replication_slots", fmt.Sprint(st.MaxSlots+1), fmt.Sprintf("all %d replication slots of the server are in use", st.MaxSlots))
		full.Detail += "; or drop a slot that nobody reads (pg_replication_slots)"
		p.Steps = append(p.Steps, full.Step)
	}
	s := Step{Action: StepCreate, Kind: "slot", Name: o.Slot, missing: "slot " + o.Slot + " does not exist", SQL: []string{createSlotSQL(o.Slot, failover) + ";"}, Run: o.Managed}
	s.Changes = []string{"+ plugin pgoutput"}
	if failover {
		s.Changes = append(s.Changes, "+ failover")
	}
	switch {
	case !o.Managed:
		s.Why = "manage = false forbids to run it"
	default:
		s.Detail = "leave it to the daemon, which reads no slot that it did not make; with manage = false it reads one that somebody made"
	}
	p.Steps = append(p.Steps, s)
	return nil
}

// createSlotSQL is what a person runs. The publication has to exist before.
func createSlotSQL(slot string, failover bool) string {
	args := quoteLiteral(slot) + ", 'pgoutput'"
	if failover {
		args += ", failover => true"
	}
	return "SELECT pg_create_logical_replication_slot(" + args + ")"
}

// Unmanaged returns what keeps a source from being read that someone else
// manages: a *SetupError with what is missing, or nil.
func (p *Plan) Unmanaged() error {
	var errs []error
	for i := range p.Steps {
		s := &p.Steps[i]
		if s.missing != "" {
			errs = append(errs, &SetupError{Summary: s.missing, Detail: "manage = false forbids to " + string(s.Action) + " the " + s.Kind, SQL: s.SQL})
		}
	}
	return joined(errs)
}

// warnings are what the settings of the server mean for a slot.
func (st *ServerState) warnings(o PlanOptions) []Warning {
	var out []Warning
	add := func(summary, detail string, sql ...string) {
		if st.Service != "" && len(sql) > 0 && strings.HasPrefix(sql[0], "ALTER SYSTEM") {
			detail, sql = detail+". It is a parameter of "+string(st.Service), nil
		}
		out = append(out, Warning{summary, detail, sql})
	}
	if st.SlotKeepSize < 0 {
		add("max_slot_wal_keep_size is -1: the WAL that the slot pins has no bound",
			"while nobody reads the slot, WAL grows until the disk of the database is full; with a bound the slot is lost instead, and changes with it",
			"ALTER SYSTEM SET max_slot_wal_keep_size = '50GB';", "SELECT pg_reload_conf();")
	}
	if st.SlotTimeout > 0 {
		add(fmt.Sprintf("idle_replication_slot_timeout is set: a slot that nobody reads for %s is lost", st.SlotTimeout),
			"a daemon that is down for longer loses changes")
	}
	switch {
	case st.WALSenderTimeout == 0:
		add("wal_sender_timeout is 0: the server does not notice a reader that is gone", "after a broken network the slot may stay in use until TCP gives up")
	case st.WALSenderTimeout < 5*time.Second:
		add(fmt.Sprintf("wal_sender_timeout is %s: a short delay of the network ends the stream", st.WALSenderTimeout), "the default is a minute")
	}
	if free := st.MaxSenders - st.Senders; st.MaxSenders > 0 && free <= 0 && (st.Slot == nil || !st.Slot.Active) {
		add(fmt.Sprintf("all %d walsenders of the server are in use (max_wal_senders)", st.MaxSenders), "the source waits until one is free")
	}
	failover := o.Failover && st.CanFailover()
	if !o.Managed && st.Slot != nil {
		failover = st.Slot.Failover
	}
	switch {
	case st.Standbys == 0:
	case !st.CanFailover():
		add("the server has standbys, and they do not copy logical slots before PostgreSQL 17", "after a promotion the slot is missing, and a checkpoint reset has to accept the gap")
	case !failover:
		add("the server has standbys, and the slot is not a failover slot: after a promotion it is missing",
			"it is made one over a replication connection, while nobody reads it; failover = true does that where rowhook manages the slot", alterFailover(o.Slot, true)+";")
	case st.StandbySlots == "":
		add("synchronized_standby_slots is empty: changes may be delivered that a promoted standby does not have",
			"name the physical slots of the standbys in it. The standbys need sync_replication_slots = on, hot_standby_feedback = on, primary_slot_name and a dbname in primary_conninfo, which cannot be seen from here")
	}
	if p := st.Publication; p != nil {
		for i := range p.Tables {
			if t := &p.Tables[i]; t.RowFilter != "" {
				add(fmt.Sprintf("the publication sends only some rows of %s: WHERE %s", t.TableName, t.RowFilter), "no rule sees the others; a row that comes to match is an insert, one that ceases to is a delete")
			}
		}
	}
	return out
}

// AlterFailover reports whether the daemon changes the slot that is there.
func (st *ServerState) AlterFailover(o PlanOptions) bool {
	return o.Managed && st.CanFailover() && st.Slot != nil && st.Slot.Failover != o.Failover
}

// unmatched refuses rules whose table's changes come under another name, so
// that they never match.
func unmatched(have *PublicationState, plan *publicationPlan, tables []publishable, o PlanOptions) error {
	if !o.Managed && have != nil && !have.ViaRoot {
		return nil // partitions are published as themselves
	}
	comes := func(root relay.TableName) bool {
		planned := slices.ContainsFunc(plan.tables, func(p plannedTable) bool { return p.TableName == root && p.change != tableDropped })
		return planned || have != nil && have.publishes(root) && (!o.Managed || !o.Want.Least)
	}
	var errs []error
	for i := range tables {
		t := &tables[i]
		for _, root := range slices.Backward(t.ancestors) {
			if comes(root) {
				errs = append(errs, &SetupError{
					Summary: fmt.Sprintf("the changes of %s come as those of %s, of which it is a partition: a rule that names it never matches", t.TableName, root),
					Detail:  "the publication has both, or all tables, with publish_via_partition_root: name the root in the rule, or take it out of the publication",
				})
				break
			}
		}
	}
	return joined(errs)
}

// partitions14 says what it takes to attach and detach partitions where the
// walsender decides once, at the first change of a table, under which name it
// sends its changes, and only a change of the publication makes it decide again.
func partitions14(publication string, version int, tables []publishable) []Warning {
	i := slices.IndexFunc(tables, func(t publishable) bool { return t.kind == 'p' })
	if i < 0 || version >= 150000 {
		return nil
	}
	return []Warning{{
		Summary: fmt.Sprintf("PostgreSQL 14 does not notice that a table to which something was written becomes a partition of %s, or ceases to be one, while it sends changes", tables[i].TableName),
		Detail:  "its changes would be lost, or still come as those of the root. Run this in the transaction that attaches or detaches it; PostgreSQL 15 does not need it",
		SQL:     []string{"ALTER PUBLICATION " + quoteIdent(publication) + " SET (publish_via_partition_root = true);"},
	}}
}

// migrations says what lists of columns mean for who alters the tables.
func (p *publicationPlan) migrations(tables []publishable) []Warning {
	for i := range tables {
		t := &tables[i]
		list := t.list(true)
		if list == nil {
			continue
		}
		alter := "ALTER PUBLICATION " + quoteIdent(p.name)
		return []Warning{{
			Summary: `columns = "rules": a column that the publication lists cannot be dropped or retyped while it is listed`,
			Detail: "to drop one, take it out of the rules first, start rowhook with them, and then drop it; DROP ... CASCADE would take the whole table out of the publication. " +
				"To retype one that rules read, or to change the replica identity, take the table out and put it back in one transaction, such as",
			SQL: []string{
				"BEGIN;", "LOCK TABLE " + t.sql() + " IN ACCESS EXCLUSIVE MODE;", alter + " DROP TABLE " + quoteTable(t.TableName) + ";",
				"-- the migration", alter + " ADD TABLE " + t.sql() + columnList(list) + ";", "COMMIT;",
			},
		}}
	}
	return nil
}

const failing14SQL = `SELECT t.schemaname, t.tablename, p.pubname, NULL::text[], NULL::text[], false
FROM pg_publication_tables t JOIN pg_publication p ON p.pubname = t.pubname
WHERE (p.pubupdate OR p.pubdelete) AND (t.schemaname, t.tablename) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY 3, 1, 2`

// failingSQL returns the publications that send updates or deletes of tables,
// with their column list and the columns of their row filter, each null when
// there is none. The columns of a filter are known by what it depends on.
const failingSQL = `SELECT t.schemaname, t.tablename, p.pubname,
  CASE WHEN r.prattrs IS NOT NULL THEN t.attnames::text[] END,
  CASE WHEN r.prattrs IS NULL AND r.prqual IS NOT NULL THEN ARRAY(
    SELECT DISTINCT a.attname::text FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0) END,
  coalesce(to_jsonb(p)->>'pubgencols', 'n') = 's'
FROM pg_publication_tables t JOIN pg_publication p ON p.pubname = t.pubname
JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
WHERE (p.pubupdate OR p.pubdelete) AND (t.schemaname, t.tablename) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY 3, 1, 2`

// readFailing warns of tables whose updates and deletes fail in the application
// already, because of any publication of the database: the server asks each of
// them for the replica identity.
func readFailing(ctx context.Context, conn *pgx.Conn, version int, tables []publishable) ([]Warning, error) {
	parts := map[relay.TableName][]*part{} // by the name a publication may have for them
	for i := range tables {
		for j := range tables[i].parts {
			p := &tables[i].parts[j]
			parts[tables[i].TableName] = append(parts[tables[i].TableName], p)
			if p.TableName != tables[i].TableName {
				parts[p.TableName] = []*part{p}
			}
		}
	}
	var schemas, names []string
	for name := range parts {
		schemas, names = append(schemas, name.Schema), append(names, name.Name)
	}
	sql := failingSQL
	if version < 150000 {
		sql = failing14SQL
	}
	rows, err := conn.Query(ctx, sql, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("read publications: %w", err)
	}
	var out []Warning
	var table relay.TableName
	var publication string
	var list, filter []string
	var sendsGenerated bool
	_, err = pgx.ForEachRow(rows, []any{&table.Schema, &table.Name, &publication, &list, &filter, &sendsGenerated}, func() error {
		for _, p := range parts[table] {
			if why := p.failing(list, filter, sendsGenerated); why != "" {
				out = append(out, Warning{
					Summary: fmt.Sprintf("updates and deletes of %s fail in the application, because of the publication %q", p.TableName, publication),
					Detail:  why,
				})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read publications: %w", err)
	}
	return out, nil
}

// failing says why a publication with a column list and a row filter (their
// columns; nil is none) makes updates and deletes of the part fail, or "".
func (p *part) failing(list, filter []string, sendsGenerated bool) string {
	full := p.identity == relay.IdentityFull
	lacks := func(all []string, some []string) string {
		for _, c := range some {
			if !slices.Contains(all, c) {
				return c
			}
		}
		return ""
	}
	switch {
	case !p.hasIdentity:
		return "the table has no replica identity"
	case list != nil && full:
		return "its list of columns does not cover REPLICA IDENTITY FULL"
	case list != nil && lacks(list, p.columns) != "":
		return "its list of columns lacks " + lacks(list, p.columns) + " of the replica identity"
	case filter != nil && !full && lacks(p.columns, filter) != "":
		return "its row filter uses " + lacks(p.columns, filter) + ", which is not in the replica identity"
	case list == nil && p.unsent && !sendsGenerated:
		return "the replica identity has a generated column, which it does not send"
	}
	return ""
}
