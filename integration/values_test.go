package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// valueTypes makes a type of every kind that a user can make.
const valueTypes = `
CREATE EXTENSION hstore;
CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
CREATE DOMAIN cents AS int;
CREATE DOMAIN price AS cents;
CREATE DOMAIN tags AS text[];
CREATE TYPE pt AS (yy int, x numeric);
CREATE TYPE ln AS (name text, "to" pt, at timestamptz, "Ä ""q""" bool, m mood[], j jsonb);`

// The expressions whose to_jsonb is compared, byte for byte.
var serverValues = []string{
	`true`, `false`, `null::bool`, `32767::int2`, `(-2147483648)::int4`, `9223372036854775807::int8`,
	`12345678901234567890.1200::numeric`, `-0.00::numeric`, `'NaN'::numeric`, `'Infinity'::numeric`, `1e-20::numeric`, `1e40::numeric`,
	`0.1::float4`, `3.4028235e38::float4`, `0.1::float8`, `1e20::float8`, `1.5e-10::float8`, `1.7976931348623157e308::float8`, `5e-324::float8`,
	`'-0'::float8`, `'NaN'::float8`, `'-Infinity'::float8`, `123456.789e3::float8`,
	`'plain'::text`, `E'q" b\\ \n\t\r\b\f \x01 \x7f / é € 😀 <&>'::text`, `''::text`, `'x'::char(3)`, `'v'::varchar(5)`, `'n'::name`, `'c'::"char"`,
	`'{"b": 1.0, "a": [null, true, "x\"y", 12345678901234567890, 1e30], "é": {}}'::jsonb`, `'"s"'::jsonb`, `'null'::jsonb`,
	`'2024-01-02 03:04:05'::timestamp`, `'2024-01-02 03:04:05.1234'::timestamp`, `'0044-03-15 01:02:03 BC'::timestamp`, `'294276-12-31 23:59:59.999999'::timestamp`,
	`'infinity'::timestamp`, `'2024-01-02 03:04:05+05:30'::timestamptz`, `'2024-07-02 03:04:05.5-07'::timestamptz`, `'0044-03-15 01:02:03 BC'::timestamptz`, `'-infinity'::timestamptz`,
	`'2024-01-02'::date`, `'0044-03-15 BC'::date`, `'infinity'::date`, `'5874897-12-31'::date`,
	`'24:00:00'::time`, `'03:04:05.5+05:30'::timetz`, `'1 year 2 mons -3 days 04:05:06.7'::interval`,
	`'\x00ff10'::bytea`, `'$1,234.50'::money`, `'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid`, `'<a b="c">d</a>'::xml`, `B'101'`, `'10.0.0.0/8'::cidr`, `'::1'::inet`,
	`'08:00:2b:01:02:03'::macaddr`, `'(1,2)'::point`, `'(3,4),(1,2)'::box`, `'<(1,2),3>'::circle`, `'a & b'::tsquery`, `'a:1 b:2'::tsvector`, `'$.a'::jsonpath`,
	`'[1,5)'::int4range`, `'{[1,5),[7,9)}'::int4multirange`, `'["2024-01-02 03:04:05","2024-01-03 03:04:05")'::tsrange`, `5::oid`, `'0/16B3748'::pg_lsn`,
	`'1 2 3'::int2vector`, `''::int2vector`, `'1 2'::oidvector`,
	`'{}'::int[]`, `'{1,NULL,3}'::int[]`, `'{{1,2},{3,4}}'::int8[]`, `'[0:1]={1,2}'::int[]`, `'[-1:0][5:6]={{1,2},{3,4}}'::numeric[]`, `'{1e20,NaN}'::float8[]`,
	`array['a', 'b,c', 'd"e\f', 'NULL', null, '', ' ', '{}', 'null']`, `array[true, false, null]`, `array['{"a": [1, 2]}'::jsonb, 'null'::jsonb, null]`,
	`array['2024-01-02 03:04:05+00'::timestamptz, 'infinity']`, `array['(3,4),(1,2)'::box, '(7,8),(5,6)'::box]`, `array['1 2'::int2vector]`, `array['\xff'::bytea]`, `array['[1,5)'::int4range]`,
	`'so so'::mood`, `array['sad', 'so so', null]::mood[]`, `12::cents`, `13::price`, `array['a', 'b c']::tags`, `array[1, 2]::cents[]`,
	`row(1, 2.50)::pt`, `row(null, 'NaN')::pt`, `row(null, null)::pt`,
	`row(E'a "b" \\ (c), d', row(1, null), '2024-01-02 03:04:05+00', true, array['so so', 'sad']::mood[], '{"k": [1, "x"]}')::ln`,
	`row('', null, null, null, '{}', 'null')::ln`, `array[row('a', row(1, 2), null, false, null, null)::ln, null]`,
	`'a=>1, "b\"c"=>NULL, "d\\e"=>"f g"'::hstore`, `''::hstore`,
}

// valueSettings are the settings of a source's session that change how values
// are printed.
const valueSettings = `SET DateStyle = ISO; SET IntervalStyle = iso_8601; SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = hex; SET lc_monetary = 'C'`

// TestValues_AreWhatToJSONBPrints holds package pgvalue against a server.
func TestValues_AreWhatToJSONBPrints(t *testing.T) {
	ctx := context.Background()
	c := postgres.New(t, postgres.Options{})
	url := c.Database(t, "pgvalues")
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range []string{valueTypes, valueSettings} {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	types := readTypes(t, conn)
	for _, expr := range serverValues {
		// The simple protocol gives text, as the change stream does. pg_typeof
		// is of the expression, so a domain keeps its own OID.
		res, err := conn.PgConn().Exec(ctx, fmt.Sprintf(`SELECT v, to_jsonb(v), pg_typeof(v)::oid FROM (SELECT %s AS v) s`, expr)).ReadAll()
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		row := res[0].Rows[0]
		if row[0] == nil {
			continue // null is the state of a value, not a text
		}
		var oid uint32
		if _, err := fmt.Sscan(string(row[2]), &oid); err != nil {
			t.Fatal(err)
		}
		if got := pgvalue.AppendJSON(nil, oid, row[0], types); !bytes.Equal(got, row[1]) {
			t.Errorf("%s (type %d) is %s\n got %s\nwant %s", expr, oid, row[0], got, row[1])
		}
	}
	// A json column is passed as it is.
	const doc = ` {"b":1, "a" : [ 1e2 ],"b":2} `
	if got := pgvalue.AppendJSON(nil, 114, []byte(doc), types); string(got) != doc || !json.Valid(got) {
		t.Errorf("json: got %s", got)
	}
}

// readTypes reads the types of the database's own as a source does.
func readTypes(t *testing.T, conn *pgx.Conn) *relay.Catalog {
	t.Helper()
	ctx := context.Background()
	cat := &relay.Catalog{Types: map[uint32]relay.Type{}}
	rows, err := conn.Query(ctx, `
		SELECT t.oid, n.nspname, t.typname, t.typtype::text, t.typelem, t.typdelim::text, t.typbasetype,
		       coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '{}'),
		       coalesce((SELECT array_agg(a.atttypid::int8 ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '{}')
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid >= 16384`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var (
			ty          relay.Type
			kind, delim string
			names       []string
			oids        []int64
		)
		if err := rows.Scan(&ty.OID, &ty.Schema, &ty.Name, &kind, &ty.Elem, &delim, &ty.Base, &names, &oids); err != nil {
			t.Fatal(err)
		}
		ty.Kind, ty.Delim = kind[0], delim[0]
		for i, n := range names {
			ty.Fields = append(ty.Fields, relay.Column{Name: n, TypeOID: uint32(oids[i])})
		}
		cat.Types[ty.OID] = ty
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return cat
}
