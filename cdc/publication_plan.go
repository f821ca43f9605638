package cdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/relay"
)

// publicationPlan is what has to be run, in one transaction, and what stands in
// the way. No statements: there is nothing to do.
type publicationPlan struct {
	name string
	// create says that there is no such publication yet, viaRoot that it begins to
	// publish partitions as their root.
	create, viaRoot bool
	// lock are the statements that wait for writers, before the others.
	lock       []string
	statements []string
	// missing says what the rules do not get without them.
	missing []string
	// rights are what the role lacks to run them.
	rights []string
	// tables are what the publication sends when it has been run.
	tables []plannedTable
	ops    relay.Ops
}

// plannedTable is a table of a plan.
type plannedTable struct {
	relay.TableName
	Columns []string // nil for all
	change  tableChange
}

// tableChange is what a plan does with a table.
type tableChange byte

const (
	tableKept tableChange = iota
	tableAdded
	tableRelisted // its columns change
	tableDropped
)

// script returns what a person runs.
func (p *publicationPlan) script() []string {
	var out []string
	for _, s := range slices.Concat(p.lock, p.statements) {
		out = append(out, s+";")
	}
	if len(out) > 1 {
		out = slices.Concat([]string{"BEGIN;"}, out, []string{"COMMIT;"})
	}
	return out
}

// readPublicationPlan reads what there is and decides what has to be run. It
// changes nothing.
func readPublicationPlan(ctx context.Context, conn *pgx.Conn, name string, want Want) (*publicationPlan, error) {
	version := serverVersion(conn.PgConn().ParameterStatus("server_version"))
	pub, err := readPublication(ctx, conn, version, name)
	if err != nil {
		return nil, err
	}
	tables, err := readPublishable(ctx, conn, want.Tables)
	if err != nil {
		return nil, err
	}
	if err := checkOthers(ctx, conn, pub, want); err != nil {
		return nil, err
	}
	return planPublication(name, conn.Config().User, version, pub, tables, want)
}

// checkOthers refuses to publish updates or deletes when those of other tables
// of the publication would then fail: it has one set of operations for all, and
// filters that people made.
func checkOthers(ctx context.Context, conn *pgx.Conn, pub *PublicationState, want Want) error {
	changes := relay.OpsOf(relay.Update, relay.Delete)
	if pub == nil || want.Ops&changes&^pub.Ops == 0 {
		return nil
	}
	var errs []error
	for _, m := range pub.Members {
		if m.RowFilter != "" {
			errs = append(errs, &SetupError{
				Summary: fmt.Sprintf("the publication %s has a row filter for %s: with updates and deletes, those of the application would fail where the filter reads columns outside the replica identity", pub.Name, m.TableName),
				Detail:  "if it reads none of those, publish them by hand",
				SQL:     []string{"ALTER PUBLICATION " + quoteIdent(pub.Name) + " SET (publish = '" + opList(pub.Ops|want.Ops) + "');"},
			})
		}
	}
	var others []relay.TableColumns
	for _, t := range pub.Tables {
		if !want.Least && !slices.ContainsFunc(want.Tables, func(w relay.TableColumns) bool { return w.TableName == t.TableName }) {
			others = append(others, relay.TableColumns{TableName: t.TableName, All: true})
		}
	}
	tables, err := readPublishable(ctx, conn, others)
	if err != nil {
		return err
	}
	if err := preflight(tables, changes, false); err != nil {
		errs = append(errs, fmt.Errorf("the publication %s has tables that no rule names; take those out of it, or mend them: %w", pub.Name, err))
	}
	return joined(errs)
}

// planPublication decides what makes the publication send what is wanted.
func planPublication(name, user string, version int, pub *PublicationState, tables []publishable, want Want) (*publicationPlan, error) {
	ops := want.Ops & relay.OpsOf(relay.Insert, relay.Update, relay.Delete, relay.Truncate)
	p := &publicationPlan{name: name, create: pub == nil, ops: ops}
	if pub == nil {
		p.missing = []string{"publication " + name + " does not exist"}
	}
	if pub != nil {
		p.ops |= pub.Ops
	}
	if err := preflight(tables, p.ops, want.Least); err != nil {
		return nil, err
	}
	if want.Least {
		if err := refuseLists(name, version, pub, tables, p.ops); err != nil {
			return nil, err
		}
	}
	if pub == nil {
		for i := range tables {
			p.tables = append(p.tables, plannedTable{tables[i].TableName, tables[i].list(want.Least), tableAdded})
		}
		p.statements = []string{createPublication(name, tables, p.tables, ops)}
	} else {
		p.alter(pub, tables, want)
	}
	p.rights = lacking(user, pub, tables, p)
	return p, nil
}

// alter plans the change of a publication that exists.
func (p *publicationPlan) alter(pub *PublicationState, tables []publishable, want Want) {
	least := want.Least
	set := "ALTER PUBLICATION " + quoteIdent(p.name) + " "
	for i := range tables {
		if t := &tables[i]; !pub.ViaRoot && t.kind == 'p' {
			p.missing = append(p.missing, fmt.Sprintf("the changes of %s come as those of its partitions: a rule that names it never matches", t.TableName))
			p.viaRoot = true
		}
	}
	if p.viaRoot {
		p.statements = append(p.statements, set+"SET (publish_via_partition_root = true)")
	}
	var locked []string
	if p.ops != pub.Ops {
		p.statements = append(p.statements, set+"SET (publish = '"+opList(p.ops)+"')")
		for i := range tables {
			locked = append(locked, tables[i].sql())
		}
	}
	var drop, add []string
	for i := range tables {
		t := &tables[i]
		member := pub.member(t.TableName)
		next := plannedTable{TableName: t.TableName, Columns: t.list(least)}
		filter := ""
		switch {
		case member == nil && !least && pub.publishes(t.TableName):
			// With all tables, by its schema, or a root whose partitions are sent.
		case member == nil:
			next.change = tableAdded
			p.missing = append(p.missing, fmt.Sprintf("the publication does not have the table %s that rules name", t.TableName))
		default:
			if !least {
				next.Columns = t.extended(member.Columns)
			}
			filter = member.RowFilter
			if !sameColumns(next.Columns, member.Columns) {
				next.change = tableRelisted
				if !sameColumns(t.extended(member.Columns), member.Columns) {
					p.missing = append(p.missing, fmt.Sprintf("the publication does not list columns of %s that the rules read", t.TableName))
				}
				drop = append(drop, quoteTable(t.TableName))
			}
		}
		if next.change != tableKept {
			add = append(add, t.sql()+columnList(next.Columns)+rowFilter(filter))
			if member == nil || !covers(member.Columns, next.Columns) {
				locked = append(locked, t.sql()) // a list that only narrows takes nothing from a writer
			}
		}
		p.tables = append(p.tables, next)
	}
	for i := range pub.Members {
		m := &pub.Members[i]
		if slices.ContainsFunc(tables, func(t publishable) bool { return t.TableName == m.TableName }) {
			continue
		}
		kept := plannedTable{TableName: m.TableName, Columns: m.Columns}
		if least && !slices.Contains(want.Keep, m.TableName) {
			kept.change = tableDropped
			drop = append(drop, quoteTable(m.TableName))
		}
		p.tables = append(p.tables, kept)
	}
	// A list cannot be altered in place: the table leaves and comes back, which
	// nobody sees before the commit.
	if len(drop) > 0 {
		p.statements = append(p.statements, set+"DROP TABLE "+strings.Join(drop, ", "))
	}
	if len(add) > 0 {
		p.statements = append(p.statements, set+"ADD TABLE "+strings.Join(add, ", "))
	}
	if slices.Sort(locked); len(p.statements) > 0 && len(locked) > 0 {
		p.lock = []string{
			setLockTimeout,
			"LOCK TABLE " + strings.Join(slices.Compact(locked), ", ") + " IN SHARE ROW EXCLUSIVE MODE",
		}
	}
}

func createPublication(name string, tables []publishable, planned []plannedTable, ops relay.Ops) string {
	sql := "CREATE PUBLICATION " + quoteIdent(name)
	for i := range tables {
		if i == 0 {
			sql += " FOR TABLE "
		} else {
			sql += ", "
		}
		sql += tables[i].sql() + columnList(planned[i].Columns)
	}
	if ops == 0 { // messages do not depend on it; an empty list is no list
		ops = relay.OpsOf(relay.Insert)
	}
	return sql + " WITH (publish = '" + opList(ops) + "', publish_via_partition_root = true)"
}

// columnList writes a column list, nothing for all columns.
func columnList(columns []string) string {
	if columns == nil {
		return ""
	}
	quoted := make([]string, len(columns))
	for i, c := range columns {
		quoted[i] = quoteIdent(c)
	}
	return " (" + strings.Join(quoted, ", ") + ")"
}

// rowFilter writes a row filter as pg_get_expr printed it.
func rowFilter(filter string) string {
	if filter == "" {
		return ""
	}
	return " WHERE (" + filter + ")"
}

// sameColumns compares column lists, in which order means nothing and nil is
// all columns.
func sameColumns(a, b []string) bool {
	if a == nil || b == nil {
		return (a == nil) == (b == nil)
	}
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// covers reports whether the list has all columns of next; nil is all columns.
func covers(list, next []string) bool {
	return list == nil || next != nil && !slices.ContainsFunc(next, func(c string) bool { return !slices.Contains(list, c) })
}

func opList(ops relay.Ops) string {
	var words []string
	for _, op := range []relay.Op{relay.Insert, relay.Update, relay.Delete, relay.Truncate} {
		if ops.Has(op) {
			words = append(words, op.String())
		}
	}
	return strings.Join(words, ", ")
}

// lacking says which privileges the role lacks for a plan, so that everything a
// DBA has to do is said at once, where the server would refuse halfway.
func lacking(user string, pub *PublicationState, tables []publishable, p *publicationPlan) []string {
	if len(p.statements) == 0 {
		return nil
	}
	var why []string
	if pub != nil && !pub.Ours {
		why = append(why, fmt.Sprintf("it belongs to %s", pub.Owner))
	}
	if pub == nil && len(tables) > 0 && !tables[0].canCreate {
		why = append(why, fmt.Sprintf("the role has no CREATE privilege on the database (GRANT CREATE ON DATABASE ... TO %s)", quoteIdent(user)))
	}
	for i := range tables {
		// More operations lock every table, which takes its owner.
		if t := &tables[i]; !t.owned && (p.tables[i].change != tableKept || pub != nil && p.ops != pub.Ops) {
			why = append(why, fmt.Sprintf("the table %s belongs to %s", t.TableName, t.owner))
		}
	}
	return why
}

// refuseLists refuses column lists that the server does not take, or with which
// the application's own updates and deletes would fail.
func refuseLists(name string, version int, pub *PublicationState, tables []publishable, ops relay.Ops) error {
	const detail = `columns = "all" in the source sends whole tables`
	refuse := func(format string, args ...any) error {
		return &SetupError{Summary: `columns = "rules" is not possible: ` + fmt.Sprintf(format, args...), Detail: detail}
	}
	switch {
	case version < 150000:
		return refuse("a publication with a list of columns needs PostgreSQL 15, the server has %d", version/10000)
	case pub != nil && pub.AllTables:
		return refuse("the publication %q is for all tables, which takes no list of columns; name another publication, or drop this one", name)
	case pub != nil && pub.Schemas:
		return refuse("the publication %q has whole schemas, beside which the server takes no list of columns; name another publication, or drop this one", name)
	}
	var errs []error
	for i := range tables {
		t := &tables[i]
		list := t.list(true)
		if list == nil {
			continue // some rule reads every column
		}
		if len(list) == 0 {
			errs = append(errs, refuse("the rules read no column of the table %s, it has no primary key, and a list cannot be empty", t.TableName))
		}
		for _, g := range t.generated {
			if version < 180000 && slices.Contains(list, g) {
				errs = append(errs, refuse("the column %s of %s is generated, and a list takes such a column only since PostgreSQL 18", g, t.TableName))
			}
		}
		if !ops.Has(relay.Update) && !ops.Has(relay.Delete) {
			continue
		}
		for j := range t.parts {
			if part := &t.parts[j]; part.identity == relay.IdentityFull {
				errs = append(errs, &SetupError{
					Summary: fmt.Sprintf(`columns = "rules" is not possible: %s has REPLICA IDENTITY FULL, which a list of columns does not cover: the application's own updates and deletes would fail`, part.of(t)),
					Detail:  "give it an identity of a few columns, " + detail + ", and so does data = row",
					SQL: []string{
						"ALTER TABLE " + quoteTable(part.TableName) + " REPLICA IDENTITY DEFAULT;",
						"ALTER TABLE " + quoteTable(part.TableName) + " REPLICA IDENTITY USING INDEX a_unique_index_on_not_null_columns;",
					},
				})
			}
		}
	}
	return joined(errs)
}

// joined is errors.Join that leaves a single error as it is.
func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}
