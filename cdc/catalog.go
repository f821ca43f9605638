package cdc

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/relay"
)

// tablesSQL returns one row a column of each named table; a table without
// columns has one row without.
const tablesSQL = `SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relreplident::text,
  pg_get_userbyid(c.relowner),
  coalesce(a.attname, ''), coalesce(a.atttypid, 0), coalesce(a.atttypmod, -1), coalesce(a.attnotnull, false), coalesce(a.attgenerated::text, ''),
  coalesce(format_type(a.atttypid, a.atttypmod), ''), coalesce(a.attstorage::text, ''), coalesce(a.attndims, 0)::int,
  coalesce(CASE c.relreplident
    WHEN 'f' THEN true
    WHEN 'd' THEN pk.indimmediate AND a.attnum = ANY(pk.indkey[0:pk.indnkeyatts - 1])
    WHEN 'i' THEN a.attnum = ANY(ri.indkey[0:ri.indnkeyatts - 1])
  END, false),
  coalesce(array_position(pk.indkey[0:pk.indnkeyatts - 1]::int2[], a.attnum) - 1, -1),
  ARRAY(SELECT u.nspname::text FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS p(oid, n) JOIN pg_class k ON k.oid = p.oid JOIN pg_namespace u ON u.oid = k.relnamespace WHERE p.oid <> c.oid ORDER BY p.n),
  ARRAY(SELECT k.relname::text FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS p(oid, n) JOIN pg_class k ON k.oid = p.oid WHERE p.oid <> c.oid ORDER BY p.n)
FROM (SELECT DISTINCT s, t FROM unnest($1::text[], $2::text[]) AS w(s, t)) AS want
JOIN pg_namespace n ON n.nspname = want.s
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = want.t AND c.relkind NOT IN ('i', 'I', 't', 'c')
LEFT JOIN pg_index pk ON pk.indrelid = c.oid AND pk.indisprimary
LEFT JOIN pg_index ri ON ri.indrelid = c.oid AND ri.indisreplident
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY n.nspname, c.relname, a.attnum`

const tableNamesSQL = `SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1, 2`

// ReadCatalog reads what the database knows of the tables. A table that does
// not exist is not in the catalogue. all are the names of all tables of the
// database, to say what may have been meant. The caller sets Catalog.Source.
func ReadCatalog(ctx context.Context, url relay.Secret, tables []relay.TableName) (_ *relay.Catalog, all []relay.TableName, err error) {
	conn, err := connect(ctx, url, "catalog", SessionOptions)
	if err != nil {
		return nil, nil, err
	}
	defer disconnect(conn)
	catalog := &relay.Catalog{}
	if catalog.Tables, err = readTables(ctx, conn, tables); err != nil {
		return nil, nil, fmt.Errorf("read tables: %w", err)
	}
	var oids []uint32
	for _, t := range catalog.Tables {
		for i := range t.Columns {
			oids = append(oids, t.Columns[i].TypeOID)
		}
	}
	if catalog.Types, err = readTypes(ctx, conn, oids); err != nil {
		return nil, nil, err
	}
	for _, t := range catalog.Tables {
		t.Types = catalog
	}
	rows, err := conn.Query(ctx, tableNamesSQL)
	if err != nil {
		return nil, nil, fmt.Errorf("read names of tables: %w", err)
	}
	all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t relay.TableName, err error) {
		err = row.Scan(&t.Schema, &t.Name)
		return t, err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read names of tables: %w", err)
	}
	return catalog, all, nil
}

func readTables(ctx context.Context, conn *pgx.Conn, names []relay.TableName) ([]*relay.Table, error) {
	schemas, tables := make([]string, len(names)), make([]string, len(names))
	for i := range names {
		schemas[i], tables[i] = names[i].Schema, names[i].Name
	}
	rows, err := conn.Query(ctx, tablesSQL, schemas, tables)
	if err != nil {
		return nil, err
	}
	var found []*relay.Table
	var t relay.Table
	var kind, persistence, identity, generated, typeName, storage string
	var c relay.Column
	var notNull bool
	var keyPlace, dims int
	var rootSchemas, rootNames []string
	// The position in the key (from 0) and in the table of the key's columns.
	places := make(map[*relay.Table]map[int]int)
	_, err = pgx.ForEachRow(rows, []any{
		&t.OID, &t.Schema, &t.Name, &kind, &persistence, &identity, &t.Owner,
		&c.Name, &c.TypeOID, &c.TypeMod, &notNull, &generated, &typeName, &storage, &dims, &c.Identity, &keyPlace, &rootSchemas, &rootNames,
	}, func() error {
		if len(found) == 0 || found[len(found)-1].OID != t.OID {
			next := t
			next.Kind, next.Persistence, next.Identity = kind[0], persistence[0], identity[0]
			for i := range rootNames {
				next.Ancestors = append(next.Ancestors, relay.TableName{Schema: rootSchemas[i], Name: rootNames[i]})
			}
			found = append(found, &next)
			places[&next] = make(map[int]int)
		}
		if c.TypeOID == 0 {
			return nil // a table without columns
		}
		into := found[len(found)-1]
		if keyPlace >= 0 {
			places[into][keyPlace] = len(into.Columns)
		}
		into.Columns = append(into.Columns, c)
		into.NotNull = append(into.NotNull, notNull)
		into.TypeNames = append(into.TypeNames, typeName)
		into.Storage = append(into.Storage, storage[0])
		into.Dims = append(into.Dims, dims)
		var g byte
		if generated != "" {
			g = generated[0]
		}
		into.Generated = append(into.Generated, g)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, t := range found {
		for place := range len(places[t]) {
			t.PrimaryKey = append(t.PrimaryKey, places[t][place])
		}
	}
	return found, nil
}
