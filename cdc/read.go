package cdc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/relay"
)

// readOptions are those of sessions that make snapshots and read tables. Values
// are printed as in the stream. No timeout of the database or the role ends a
// chunk, or the wait for transactions before one. A policy that
// would hide rows is an error. The key's index is used also where the planner
// would sort the whole table, chunk for chunk.
const readOptions = SessionOptions + " -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c lock_timeout=0" +
	" -c row_security=off -c standard_conforming_strings=on -c enable_seqscan=off -c enable_sort=off -c enable_incremental_sort=off" +
	" -c enable_bitmapscan=off -c max_parallel_workers_per_gather=0 -c jit=off"

// TableRead says what to read of a table.
type TableRead struct {
	Table relay.TableName
	// Where is an SQL condition on the rows, "" for all of them.
	Where string
	// Publication is the one that the source streams: only what it sends of the
	// table is read. It may be without the table.
	Publication string
	// Columns are those needed besides the keys; nil is all.
	Columns []string
	// Key, when not nil, has the columns of [Snapshot.Key] as they have to be.
	Key []string
	// After is the key of the row to begin behind; nil begins with the first.
	After [][]byte
	// Keys, when not nil, are those of the rows to read.
	Keys [][][]byte
}

// ErrTableChanged says that the table was changed or rewritten after the
// snapshot was made, which therefore does not show it as it was. Another
// snapshot does.
var ErrTableChanged = errors.New("the table was altered or truncated while it was read")

// reader reads tables in an ordinary session.
type reader struct{ conn *pgx.Conn }

func newReader(ctx context.Context, url relay.Secret) (*reader, error) {
	conn, err := connect(ctx, url, "backfill", readOptions+" -c lock_timeout=2000")
	if err != nil {
		return nil, err
	}
	encoding := "UTF8" // as the stream has it
	if conn.PgConn().ParameterStatus("server_encoding") == "SQL_ASCII" {
		encoding = "SQL_ASCII"
	}
	sql := "SET client_encoding = " + quoteLiteral(encoding)
	if serverVersion(conn.PgConn().ParameterStatus("server_version")) >= 170000 {
		sql += "; SET transaction_timeout = 0"
	}
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		disconnect(conn)
		return nil, fmt.Errorf("prepare to read: %w", err)
	}
	return &reader{conn}, nil
}

const beginReadSQL = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

// begin takes a snapshot over and returns the server's time in microseconds.
func (r *reader) begin(ctx context.Context, snapshot string) (at int64, err error) {
	if _, err := r.conn.Exec(ctx, beginReadSQL); err != nil {
		return 0, err
	}
	if _, err := r.conn.Exec(ctx, "SET TRANSACTION SNAPSHOT "+quoteLiteral(snapshot)); err != nil {
		return 0, err
	}
	err = r.conn.QueryRow(ctx, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").Scan(&at)
	return at, err
}

// CheckRead reports whether the table can be read, and about how many rows it
// would be.
func CheckRead(ctx context.Context, url relay.Secret, t TableRead) (rows int64, err error) {
	r, err := newReader(ctx, url)
	if err != nil {
		return 0, err
	}
	defer disconnect(r.conn)
	if _, err := r.conn.Exec(ctx, beginReadSQL); err != nil {
		return 0, err
	}
	q, err := r.prepare(ctx, t)
	if err != nil {
		return 0, err
	}
	var plan string
	if err := r.conn.QueryRow(ctx, "EXPLAIN (FORMAT JSON) "+q.sql).Scan(&plan); err != nil {
		return 0, r.readError(t, err)
	}
	var explained []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal([]byte(plan), &explained); err != nil || len(explained) != 1 {
		return 0, fmt.Errorf("estimate the rows of %s: %w", t.Table, err)
	}
	return int64(explained[0].Plan.Rows), nil
}

// tableQuery reads one table by its key.
type tableQuery struct {
	relation *relay.Relation
	keys     int // columns of the key, after those of the relation
	sql      string
}

// prepare makes the query, with the table locked against being rewritten or
// dropped.
func (r *reader) prepare(ctx context.Context, t TableRead) (*tableQuery, error) {
	if err := checkCondition(t.Where); err != nil {
		return nil, err
	}
	tables, err := readTables(ctx, r.conn, []relay.TableName{t.Table})
	if err != nil {
		return nil, fmt.Errorf("read the table %s: %w", t.Table, err)
	}
	if len(tables) == 0 {
		return nil, &SetupError{Summary: fmt.Sprintf("the table %s does not exist", t.Table)}
	}
	table := tables[0]
	only := "ONLY "
	if table.Kind == 'p' {
		only = ""
	}
	// Unlike LOCK TABLE it needs no right on columns that are not read.
	if _, err := r.conn.Exec(ctx, "SELECT FROM "+only+quoteTable(t.Table)+" WHERE false"); err != nil {
		return nil, r.readError(t, err)
	}
	key, err := r.key(ctx, table.Table(), table.OID)
	if err != nil {
		return nil, err
	}
	if t.Key != nil && !slices.EqualFunc(key, t.Key, func(k keyColumn, name string) bool { return k.name == name }) {
		return nil, &SetupError{
			Summary: fmt.Sprintf("the key by which %s is read is not (%s) any more, as when the backfill began", t.Table, strings.Join(t.Key, ", ")), Detail: "begin a new backfill",
		}
	}
	columns, filter, err := r.published(ctx, t, table)
	if err != nil {
		return nil, err
	}
	rel := &relay.Relation{OID: table.OID, Schema: table.Schema, Name: table.Name, Identity: table.Identity}
	var oids []uint32
	var list []string
	place := map[int]int{}
	for _, i := range columns {
		place[i] = len(rel.Columns)
		rel.Columns = append(rel.Columns, table.Columns[i])
		oids = append(oids, table.Columns[i].TypeOID)
		list = append(list, quoteIdent(table.Columns[i].Name))
	}
	for _, i := range table.PrimaryKey {
		if at, ok := place[i]; ok {
			rel.PrimaryKey = append(rel.PrimaryKey, at)
		}
	}
	if len(rel.PrimaryKey) < len(table.PrimaryKey) {
		rel.PrimaryKey = nil
	}
	types, err := readTypes(ctx, r.conn, oids)
	if err != nil {
		return nil, err
	}
	if len(types) > 0 {
		rel.Types = typeSet(types)
	}
	q := &tableQuery{relation: rel, keys: len(key)}
	var conditions, order []string
	if t.After != nil {
		conditions = append(conditions, keyAfter(key, t.After))
	}
	if t.Keys != nil {
		conditions = append(conditions, keyAmong(key, t.Keys))
	}
	for _, c := range []string{filter, t.Where} {
		if c != "" {
			conditions = append(conditions, "("+c+"\n)")
		}
	}
	for _, k := range key {
		list = append(list, quoteIdent(k.name))
		order = append(order, quoteIdent(k.name)+" USING "+k.less)
	}
	q.sql = "SELECT " + strings.Join(list, ", ") + " FROM " + only + quoteTable(t.Table)
	if len(conditions) > 0 {
		q.sql += " WHERE " + strings.Join(conditions, " AND ")
	}
	q.sql += " ORDER BY " + strings.Join(order, ", ")
	return q, nil
}

// readError says in our words why a table cannot be read.
func (r *reader) readError(t TableRead, err error) error {
	user := r.conn.Config().User
	switch sqlState(err) {
	case codeUndefinedTable, codeUndefinedSchema:
		return fmt.Errorf("%w: %w", ErrTableChanged, err)
	case codePrivilege:
		grants := []string{
			"GRANT USAGE ON SCHEMA " + quoteIdent(t.Table.Schema) + " TO " + quoteIdent(user) + ";",
			"GRANT SELECT ON " + quoteTable(t.Table) + " TO " + quoteIdent(user) + ";",
		}
		if strings.Contains(err.Error(), "row-level security") {
			return &SetupError{
				Summary: fmt.Sprintf("row level security would hide rows of %s from the role %q, and the backfill would be wrong", t.Table, user),
				SQL:     []string{"ALTER ROLE " + quoteIdent(user) + " WITH BYPASSRLS;"}, Err: err,
			}
		}
		return &SetupError{
			Summary: fmt.Sprintf("the role %q may not read the table %s", user, t.Table),
			Detail:  "the right to replicate is not the right to read, which a backfill needs", SQL: grants, Err: err,
		}
	}
	if t.Where != "" && !IsTemporary(err) {
		return &SetupError{Summary: fmt.Sprintf("the condition %q cannot be used on %s", t.Where, t.Table), Err: err}
	}
	return fmt.Errorf("read %s: %w", t.Table, err)
}

const publishedColumnsSQL = `SELECT attnames::text[], coalesce(rowfilter, '')
FROM pg_catalog.pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3`

// published returns the columns to read, as positions in the table, and the row
// filter of the publication. Where whole rows are read, they have the columns
// that the stream has too.
func (r *reader) published(ctx context.Context, t TableRead, table *relay.Table) (columns []int, filter string, err error) {
	version := serverVersion(r.conn.PgConn().ParameterStatus("server_version"))
	var sent []string
	if version >= 150000 {
		err = r.conn.QueryRow(ctx, publishedColumnsSQL, t.Publication, t.Table.Schema, t.Table.Name).Scan(&sent, &filter)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, "", fmt.Errorf("read publication %s: %w", t.Publication, err)
		}
	}
	for i := range table.Columns {
		name := table.Columns[i].Name
		needed := slices.Contains(table.PrimaryKey, i)
		switch {
		case t.Columns != nil:
			needed = needed || slices.Contains(t.Columns, name)
		case sent != nil && version >= 180000: // may have generated columns
			needed = slices.Contains(sent, name)
		default:
			needed = table.Generated[i] == 0 && (sent == nil || slices.Contains(sent, name))
		}
		if needed {
			columns = append(columns, i)
		}
	}
	return columns, filter, nil
}

// keyColumn is a column of a key with the operators of its index, which decide
// the order: those that a name alone leads to may be of another type or order.
type keyColumn struct {
	name, typ            string
	less, equal, greater string
}

const keySQL = `SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), max(op.name) FILTER (WHERE o.amopstrategy = 1),
  max(op.name) FILTER (WHERE o.amopstrategy = 3), max(op.name) FILTER (WHERE o.amopstrategy = 5)
FROM (
  SELECT i.* FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_am m ON m.oid = c.relam AND m.amname = 'btree'
  WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS (
    SELECT FROM unnest(i.indkey[0:i.indnkeyatts - 1]::int2[], i.indcollation[0:i.indnkeyatts - 1]::oid[]) AS k(attnum, coll)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE NOT a.attnotnull OR a.attcollation <> k.coll)
  ORDER BY i.indisreplident DESC, i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1
) i
CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]::int2[], i.indclass[0:i.indnkeyatts - 1]::oid[]) WITH ORDINALITY AS k(attnum, opclass, n)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_catalog.pg_opclass c ON c.oid = k.opclass
JOIN pg_catalog.pg_amop o ON o.amopfamily = c.opcfamily AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype
CROSS JOIN LATERAL (
  SELECT 'OPERATOR(' || pg_catalog.quote_ident(n.nspname) || '.' || p.oprname || ')' AS name
  FROM pg_catalog.pg_operator p JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace WHERE p.oid = o.amopopr
) AS op
GROUP BY k.n, a.attname, a.atttypid, a.atttypmod
ORDER BY k.n`

// Key returns the columns of the key by which a table is read.
func (s *Snapshot) Key(ctx context.Context, table relay.TableName) ([]string, error) {
	tables, err := readTables(ctx, s.reader.conn, []relay.TableName{table})
	if err != nil {
		return nil, fmt.Errorf("read the table %s: %w", table, err)
	}
	if len(tables) == 0 {
		return nil, &SetupError{Summary: fmt.Sprintf("the table %s does not exist", table)}
	}
	key, err := s.reader.key(ctx, table, tables[0].OID)
	var names []string
	for _, k := range key {
		names = append(names, k.name)
	}
	return names, err
}

// key returns the columns by which the table is read: those of the index that is
// its replica identity, of which the changes carry the old values, else of its
// primary key, else of a unique index over columns that are not null.
func (r *reader) key(ctx context.Context, table relay.TableName, oid uint32) ([]keyColumn, error) {
	rows, err := r.conn.Query(ctx, keySQL, oid)
	if err != nil {
		return nil, fmt.Errorf("read the key of %s: %w", table, err)
	}
	key, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k keyColumn, err error) {
		err = row.Scan(&k.name, &k.typ, &k.less, &k.equal, &k.greater)
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the key of %s: %w", table, err)
	}
	if len(key) == 0 {
		return nil, &SetupError{
			Summary: fmt.Sprintf("the table %s has neither a primary key nor a unique index on columns that are NOT NULL", table),
			Detail:  "a backfill reads a table by its key, since the place of a row in the table is not stable",
			SQL:     []string{"ALTER TABLE " + quoteTable(table) + " ADD PRIMARY KEY (...);"},
		}
	}
	return key, nil
}

// keyAfter returns the condition that the key is greater than the given one.
func keyAfter(key []keyColumn, after [][]byte) string {
	same := true
	var names, values []string
	for i, k := range key {
		same = same && k.greater == key[0].greater
		names = append(names, quoteIdent(k.name))
		values = append(values, quoteLiteral(string(after[i]))+"::"+k.typ)
	}
	if len(key) == 1 {
		return names[0] + " " + key[0].greater + " " + values[0]
	}
	if same {
		return "ROW(" + strings.Join(names, ", ") + ") " + key[0].greater + " ROW(" + strings.Join(values, ", ") + ")"
	}
	var either []string
	var equal string
	for i, k := range key {
		either = append(either, "("+equal+names[i]+" "+k.greater+" "+values[i]+")")
		equal += names[i] + " " + k.equal + " " + values[i] + " AND "
	}
	return "(" + strings.Join(either, " OR ") + ")"
}

// keyAmong returns the condition that the key is one of those.
func keyAmong(key []keyColumn, keys [][][]byte) string {
	either := []string{"false"}
	for _, values := range keys {
		var all []string
		for i, k := range key {
			all = append(all, quoteIdent(k.name)+" "+k.equal+" "+quoteLiteral(string(values[i]))+"::"+k.typ)
		}
		either = append(either, strings.Join(all, " AND "))
	}
	return "(" + strings.Join(either, " OR ") + ")"
}

// shapeSQL is a digest of what a table and its partitions are: their files, which
// a rewrite or truncate replaces, and their columns.
const shapeSQL = `WITH RECURSIVE t(oid) AS (
  SELECT %[1]d::oid UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN t ON i.inhparent = t.oid)
SELECT pg_catalog.md5(pg_catalog.string_agg(s.x, ',' ORDER BY s.x COLLATE "C")) FROM (
  SELECT pg_catalog.concat_ws(' ', c.oid, c.relnamespace, c.relfilenode, c.relname) FROM pg_catalog.pg_class c JOIN t ON t.oid = c.oid
  UNION ALL
  SELECT pg_catalog.concat_ws(' ', a.attrelid, a.attnum, a.atttypid, a.attisdropped, a.attname)
  FROM pg_catalog.pg_attribute a JOIN t ON t.oid = a.attrelid WHERE a.attnum > 0) AS s(x)`

const (
	// fetchBytes is about how much is fetched at once.
	fetchBytes = 512 << 10
	firstFetch = 200
	mostFetch  = 20000
)

// ReadLimits bound the reading of a table.
type ReadLimits struct {
	// Rows is the most rows to read; 0 is no bound.
	Rows int
	// Enough, when not nil, is asked now and then, and ends the reading.
	Enough func() bool
}

// Read reads rows of the table in the order of its key and gives each to f,
// with its key; both are valid only until f returns. It returns true at the end
// of the table. An error of f ends it.
func (s *Snapshot) Read(ctx context.Context, t TableRead, limits ReadLimits, f func(rel *relay.Relation, row relay.Row, key [][]byte) error) (end bool, err error) {
	r := s.reader
	q, err := r.prepare(ctx, t)
	if err != nil {
		return false, err
	}
	shape := fmt.Sprintf(shapeSQL, q.relation.OID)
	var then string
	if err := r.conn.QueryRow(ctx, shape).Scan(&then); err != nil {
		return false, fmt.Errorf("read %s: %w", t.Table, err)
	}
	now, err := s.now(ctx, shape)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", t.Table, err)
	}
	if len(now) != 1 || now[0][0] != then {
		return false, ErrTableChanged
	}
	plan := "off" // see readOptions
	if t.Keys != nil {
		plan = "on"
	}
	if _, err := r.conn.PgConn().Exec(ctx, "SET LOCAL enable_bitmapscan = "+plan+"; SET LOCAL enable_sort = "+plan).ReadAll(); err != nil {
		return false, fmt.Errorf("read %s: %w", t.Table, err)
	}
	if _, err := r.conn.PgConn().Exec(ctx, "DECLARE rows NO SCROLL CURSOR FOR "+q.sql).ReadAll(); err != nil {
		return false, r.readError(t, err)
	}
	n, rows := firstFetch, 0
	for {
		if limits.Rows > 0 {
			n = min(n, limits.Rows-rows)
		}
		got, size, err := r.fetch(ctx, q, n, f)
		if err != nil {
			return false, r.readError(t, err)
		}
		rows += got
		switch {
		case got < n:
			_, err := r.conn.Exec(ctx, "CLOSE rows")
			return true, err
		case limits.Rows > 0 && rows >= limits.Rows, limits.Enough != nil && limits.Enough():
			return false, nil
		}
		n = max(1, min(mostFetch, 2*n, int(int64(got)*fetchBytes/int64(max(size, 1)))))
	}
}

// fetch gives the next n rows of the cursor to f.
func (r *reader) fetch(ctx context.Context, q *tableQuery, n int, f func(*relay.Relation, relay.Row, [][]byte) error) (rows, bytes int, err error) {
	results := r.conn.PgConn().Exec(ctx, fmt.Sprintf("FETCH FORWARD %d FROM rows", n))
	defer func() {
		if cerr := results.Close(); err == nil {
			err = cerr
		}
	}()
	row := make(relay.Row, len(q.relation.Columns))
	for results.NextResult() {
		result := results.ResultReader()
		for result.NextRow() {
			values := result.Values()
			for i := range row {
				row[i] = relay.Value{State: relay.Null}
				if values[i] != nil {
					row[i] = relay.Value{State: relay.Known, Text: values[i]}
				}
				bytes += len(values[i])
			}
			rows++
			if err := f(q.relation, row, values[len(row):]); err != nil {
				return rows, bytes, byHandler(err)
			}
		}
	}
	return rows, bytes, nil
}
