package cdc

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// lookups asks the catalogue beside a stream, in an ordinary session that is
// opened when it is needed and closed when it has not been for a while.
type lookups struct {
	ctx  context.Context // of the stream, whose part this is
	url  relay.Secret
	conn *pgx.Conn
	used time.Time
}

const lookupIdle = 10 * time.Second

func (l *lookups) idle(now time.Time) {
	if l.conn != nil && now.Sub(l.used) > lookupIdle {
		l.close()
	}
}

func (l *lookups) close() {
	if l.conn != nil {
		disconnect(l.conn)
		l.conn = nil
	}
}

// do runs f with a session. One that was open already may have died since: then
// f runs once more with a new one.
func (l *lookups) do(f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(l.ctx, lookupTimeout)
	defer cancel()
	if l.conn != nil {
		if err := f(ctx, l.conn); err == nil || !IsTemporary(err) {
			l.used = time.Now()
			return err
		}
		l.close()
	}
	conn, err := connect(ctx, l.url, "lookup", SessionOptions)
	if err != nil {
		return err
	}
	l.conn, l.used = conn, time.Now()
	return f(ctx, conn)
}

const primaryKeySQL = `SELECT a.attname
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(attnum, n)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = $1 AND i.indisprimary
ORDER BY k.n`

func (l *lookups) primaryKey(oid uint32) (names []string, err error) {
	err = l.do(func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, primaryKeySQL, oid)
		if err != nil {
			return err
		}
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return names, err
}

func (l *lookups) types(oids []uint32) (types map[uint32]relay.Type, err error) {
	err = l.do(func(ctx context.Context, conn *pgx.Conn) error {
		types, err = readTypes(ctx, conn, oids)
		return err
	})
	return types, err
}

const partitionSQL = `SELECT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors($1) WHERE relid = $2),
  ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
    WHERE c.oid = $1 AND a.attnum > 0 AND NOT a.attisdropped
      AND (c.relreplident = 'f' OR a.attnum = ANY(i.indkey[0:i.indnkeyatts - 1])) ORDER BY a.attnum)`

func (l *lookups) partitionOf(oid, root uint32) (is bool, identity []string, err error) {
	err = l.do(func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, partitionSQL, oid, root).Scan(&is, &identity)
	})
	return is, identity, err
}

// toUTF8 converts a text from the database's encoding. What is no text in that
// encoding (the content of a message may be anything) stays as it is.
func (l *lookups) toUTF8(content []byte) (text []byte, err error) {
	err = l.do(func(ctx context.Context, conn *pgx.Conn) error {
		var s string
		err := conn.QueryRow(ctx, "SELECT convert_from($1, current_setting('server_encoding'))", content).Scan(&s)
		text = []byte(s)
		if code := sqlState(err); code == codeCharacterNotInTable || code == codeUntranslatable {
			text, err = content, nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("convert a message to UTF-8: %w", err)
	}
	return text, nil
}

// An array is told from other types that have elements (point, name) by how it
// is subscripted. Its delimiter is its element's.
const typesSQL = `SELECT t.oid, n.nspname, t.typname, t.typtype::text,
  CASE WHEN t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc THEN t.typelem ELSE 0 END AS elem,
  t.typdelim::text, t.typbasetype, t.typrelid, t.typnotnull,
  (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid)
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.oid = ANY($1)`

const fieldsSQL = `SELECT attrelid, attname, atttypid, atttypmod
FROM pg_catalog.pg_attribute
WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped
ORDER BY attrelid, attnum`

// readTypes returns those of the types, and of the types they consist of, that
// exist and are not built in.
func readTypes(ctx context.Context, conn *pgx.Conn, oids []uint32) (map[uint32]relay.Type, error) {
	types := make(map[uint32]relay.Type)
	asked := make(map[uint32]bool)
	for want := lookedUp(nil, asked, oids...); len(want) > 0; {
		rows, err := conn.Query(ctx, typesSQL, want)
		if err != nil {
			return nil, fmt.Errorf("read types: %w", err)
		}
		want = nil
		var composites []uint32
		typeOf := make(map[uint32]uint32) // by the composite's relation
		var t relay.Type
		var kind, delim string
		var relid uint32
		_, err = pgx.ForEachRow(rows, []any{&t.OID, &t.Schema, &t.Name, &kind, &t.Elem, &delim, &t.Base, &relid, &t.NotNull, &t.Labels}, func() error {
			t.Kind, t.Delim = kind[0], delim[0]
			types[t.OID] = t
			want = lookedUp(want, asked, t.Elem, t.Base)
			if t.Kind == 'c' {
				composites = append(composites, relid)
				typeOf[relid] = t.OID
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read types: %w", err)
		}
		if len(composites) == 0 {
			continue
		}
		if rows, err = conn.Query(ctx, fieldsSQL, composites); err != nil {
			return nil, fmt.Errorf("read fields of types: %w", err)
		}
		var field relay.Column
		_, err = pgx.ForEachRow(rows, []any{&relid, &field.Name, &field.TypeOID, &field.TypeMod}, func() error {
			t := types[typeOf[relid]]
			t.Fields = append(t.Fields, field)
			types[t.OID] = t
			want = lookedUp(want, asked, field.TypeOID)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read fields of types: %w", err)
		}
	}
	return types, nil
}

// lookedUp appends those of the types that are not built in and not asked for
// yet.
func lookedUp(want []uint32, asked map[uint32]bool, oids ...uint32) []uint32 {
	for _, oid := range oids {
		if oid != 0 && !pgvalue.BuiltIn(oid) && !asked[oid] {
			asked[oid] = true
			want = append(want, oid)
		}
	}
	return want
}
