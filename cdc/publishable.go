package cdc

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/relay"
)

// publishable is what decides whether and how a table can be published.
type publishable struct {
	relay.TableColumns // what is wanted of it
	exists             bool
	kind               byte // pg_class.relkind
	persistence        byte
	owner              string
	owned              bool // by the role, which may publish it
	canCreate          bool // a publication in this database
	// columns are all columns in the table's order, key those of the primary key,
	// generated those that are computed.
	columns, key, generated []string
	// identity is what changes of a partitioned table are sent with, whose parts
	// have to have the same.
	identity []string
	// parts are the tables that hold the rows: the table itself, or its partitions.
	parts []part
	// ancestors are the partitioned tables that the table is a partition of.
	ancestors []relay.TableName
}

// part is a table that holds rows. The server judges updates and deletes by its
// replica identity, also when they are published as those of its root.
type part struct {
	relay.TableName
	identity byte
	// hasIdentity says that updates and deletes find the row: a primary key under
	// the default identity (one that is deferrable does not count), the index under
	// index, anything under full.
	hasIdentity bool
	columns     []string // of the identity; none under full
	// unsent says that the identity has a generated column, which is not published
	// without a list, so that 18 refuses updates.
	unsent bool
}

// of names the part in messages about its table.
func (p *part) of(t *publishable) string {
	if p.TableName == t.TableName {
		return fmt.Sprintf("the table %s", t.TableName)
	}
	return fmt.Sprintf("the partition %s of %s", p.TableName, t.TableName)
}

const publishableSQL = `SELECT want.s, want.t, c.oid IS NOT NULL, coalesce(c.relkind::text, ' '), coalesce(c.relpersistence::text, ' '),
  coalesce(pg_get_userbyid(c.relowner), ''), coalesce(pg_has_role(c.relowner, 'USAGE'), false),
  has_database_privilege(current_database(), 'CREATE'),
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
  ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey[0:i.indnkeyatts - 1])
    WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY a.attnum),
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> '' ORDER BY a.attnum),
  ARRAY(SELECT a.attname::text FROM pg_attribute a
    LEFT JOIN pg_index i ON i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND (c.relreplident = 'f' OR a.attnum = ANY(i.indkey[0:i.indnkeyatts - 1])) ORDER BY a.attnum),
  ARRAY(SELECT u.nspname::text FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS p(oid, n) JOIN pg_class k ON k.oid = p.oid JOIN pg_namespace u ON u.oid = k.relnamespace WHERE p.oid <> c.oid ORDER BY p.n),
  ARRAY(SELECT k.relname::text FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS p(oid, n) JOIN pg_class k ON k.oid = p.oid WHERE p.oid <> c.oid ORDER BY p.n)
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS want(s, t, n)
LEFT JOIN pg_namespace ns ON ns.nspname = want.s
LEFT JOIN pg_class c ON c.relnamespace = ns.oid AND c.relname = want.t
ORDER BY want.n`

// partsSQL returns, for each table, those that hold its rows. An index that is
// checked late, at commit, identifies no row.
const partsSQL = `SELECT want.n - 1, ns.nspname, l.relname, l.relreplident::text, l.relreplident = 'f' OR i.indexrelid IS NOT NULL,
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = l.oid AND a.attnum = ANY(i.indkey[0:i.indnkeyatts - 1]) ORDER BY a.attnum),
  current_setting('server_version_num')::int >= 180000 AND EXISTS (
    SELECT FROM pg_attribute a WHERE a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''
      AND (l.relreplident = 'f' OR a.attnum = ANY(i.indkey[0:i.indnkeyatts - 1])))
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS want(s, t, n)
JOIN pg_namespace root ON root.nspname = want.s
JOIN pg_class c ON c.relnamespace = root.oid AND c.relname = want.t
CROSS JOIN LATERAL (SELECT c.oid WHERE c.relkind <> 'p' UNION ALL SELECT relid::oid FROM pg_partition_tree(c.oid) WHERE isleaf AND c.relkind = 'p') AS leaf
JOIN pg_class l ON l.oid = leaf.oid AND l.relkind IN ('r', 'f')
JOIN pg_namespace ns ON ns.oid = l.relnamespace
LEFT JOIN pg_index i ON i.indrelid = l.oid AND i.indimmediate
  AND CASE l.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
WHERE l.relkind = 'r'
ORDER BY want.n, ns.nspname, l.relname`

func readPublishable(ctx context.Context, conn *pgx.Conn, tables []relay.TableColumns) ([]publishable, error) {
	var schemas, names []string
	for i := range tables {
		schemas, names = append(schemas, tables[i].Schema), append(names, tables[i].Name)
	}
	rows, err := conn.Query(ctx, publishableSQL, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("read tables to publish: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p publishable, err error) {
		var kind, persistence string
		var schemas, names []string
		err = row.Scan(&p.Schema, &p.Name, &p.exists, &kind, &persistence, &p.owner, &p.owned, &p.canCreate, &p.columns, &p.key, &p.generated, &p.identity, &schemas, &names)
		if err == nil {
			p.kind, p.persistence = kind[0], persistence[0]
			for i := range schemas {
				p.ancestors = append(p.ancestors, relay.TableName{Schema: schemas[i], Name: names[i]})
			}
		}
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("read tables to publish: %w", err)
	}
	for i := range found {
		found[i].TableColumns = tables[i]
	}
	if rows, err = conn.Query(ctx, partsSQL, schemas, names); err != nil {
		return nil, fmt.Errorf("read replica identities: %w", err)
	}
	var n int
	var p part
	var identity string
	_, err = pgx.ForEachRow(rows, []any{&n, &p.Schema, &p.Name, &identity, &p.hasIdentity, &p.columns, &p.unsent}, func() error {
		p.identity = identity[0]
		found[n].parts = append(found[n].parts, p)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read replica identities: %w", err)
	}
	return found, nil
}

// sql names the table in a statement. ONLY keeps inheriting tables out, which
// are other tables to a rule; it does not apply to partitions.
func (t *publishable) sql() string {
	if t.kind == 'p' {
		return quoteTable(t.TableName)
	}
	return "ONLY " + quoteTable(t.TableName)
}

// list returns the columns that have to be sent, in the table's order; nil is
// all.
func (t *publishable) list(least bool) []string {
	if !least || t.All {
		return nil
	}
	need := slices.Concat(t.Columns, t.key)
	for i := range t.parts {
		need = append(need, t.parts[i].columns...)
	}
	out := []string{}
	for _, c := range t.columns {
		if slices.Contains(need, c) {
			out = append(out, c)
		}
	}
	return out
}

// extended returns the columns of a list that someone made, with those that
// rules need and it lacks; nil is all.
func (t *publishable) extended(have []string) []string {
	need := t.list(true)
	if have == nil || need == nil {
		return nil
	}
	out := []string{}
	for _, c := range t.columns {
		if slices.Contains(have, c) || slices.Contains(need, c) {
			out = append(out, c)
		}
	}
	return out
}

// preflight refuses tables that cannot be published, and those whose updates
// and deletes would fail in the application once they are. lists says that they
// are published with lists of columns.
func preflight(tables []publishable, ops relay.Ops, lists bool) error {
	var errs []error
	for i := range tables {
		t := &tables[i]
		switch {
		case !t.exists:
			errs = append(errs, &SetupError{Summary: fmt.Sprintf("the table %s does not exist", t.TableName)})
		case t.kind != 'r' && t.kind != 'p':
			errs = append(errs, &SetupError{Summary: fmt.Sprintf("%s is %s, which has no changes to read", t.TableName, kindName(t.kind))})
		case t.persistence != 'p':
			errs = append(errs, &SetupError{
				Summary: fmt.Sprintf("the table %s is %s, and its changes are not in the WAL", t.TableName, persistenceName(t.persistence)),
			})
		case ops.Has(relay.Update) || ops.Has(relay.Delete):
			for j := range t.parts {
				if err := t.parts[j].preflight(t, lists); err != nil {
					errs = append(errs, err)
				}
			}
		}
	}
	return joined(errs)
}

// preflight refuses a part whose updates and deletes would fail.
func (p *part) preflight(t *publishable, lists bool) error {
	switch {
	case !p.hasIdentity:
		return &SetupError{
			Summary: p.of(t) + " has no replica identity: once it is published with updates and deletes, those of the application itself would fail",
			Detail:  "give it a primary key that is not deferrable, or one of these (full writes the whole old row to the WAL); or let no rule of this source ask for updates or deletes",
			SQL: []string{
				"ALTER TABLE " + quoteTable(p.TableName) + " REPLICA IDENTITY FULL;",
				"ALTER TABLE " + quoteTable(p.TableName) + " REPLICA IDENTITY USING INDEX a_unique_index_on_not_null_columns;",
			},
		}
	case t.kind == 'p' && !p.sends(t.identity):
		identity := "DEFAULT"
		if len(t.identity) == len(t.columns) {
			identity = "FULL"
		}
		return &SetupError{
			Summary: p.of(t) + " does not have the replica identity of its root: the server would send what it lacks of an old row as null",
			Detail:  "a replica identity is a table's own; partitions do not inherit it, neither now nor when they are made",
			SQL:     []string{"ALTER TABLE " + quoteTable(p.TableName) + " REPLICA IDENTITY " + identity + ";"},
		}
	case p.unsent && (!lists || t.list(true) == nil):
		return &SetupError{
			Summary: "the replica identity of " + p.of(t) + " has a generated column, which is not published: the application's own updates and deletes would fail",
			Detail:  "use the primary key or an index without generated columns",
			SQL:     []string{"ALTER TABLE " + quoteTable(p.TableName) + " REPLICA IDENTITY DEFAULT;"},
		}
	}
	return nil
}

// sends reports whether the identity of the part has the columns.
func (p *part) sends(columns []string) bool {
	return p.identity == relay.IdentityFull || !slices.ContainsFunc(columns, func(c string) bool { return !slices.Contains(p.columns, c) })
}

func kindName(kind byte) string {
	switch kind {
	case 'v':
		return "a view"
	case 'm':
		return "a materialized view"
	case 'f':
		return "a foreign table"
	case 'S':
		return "a sequence"
	}
	return "not a table"
}

func persistenceName(persistence byte) string {
	if persistence == 'u' {
		return "unlogged"
	}
	return "temporary"
}
