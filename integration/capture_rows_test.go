package integration_test

import (
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/postgres"
)

// TestCapture_RowsOfEveryShape reads row changes of every shape from one real
// server.
func TestCapture_RowsOfEveryShape(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"max_prepared_transactions": "5"}})

	t.Run("C3 C4 C6 replica identities", func(t *testing.T) {
		s := newSource(t, cluster, "identities", `
			CREATE TABLE d (id int PRIMARY KEY, v text, w int);
			CREATE TABLE f (id int PRIMARY KEY, v text, w int); ALTER TABLE f REPLICA IDENTITY FULL;
			CREATE TABLE x (id int PRIMARY KEY, code text NOT NULL UNIQUE, w int); ALTER TABLE x REPLICA IDENTITY USING INDEX x_code_key;
			CREATE TABLE c (b int, a int, v text, PRIMARY KEY (a, b));`, "d", "f", "x", "c")
		s.run()
		s.exec("INSERT INTO d VALUES (1, NULL, 5); UPDATE d SET w = 6; UPDATE d SET id = 2; DELETE FROM d")
		s.expect("begin",
			"insert public.d new id=1 v=NULL w=5 key(id)",
			"update public.d old id=1 v=? w=? new id=1 v=NULL w=6 key(id)",
			"update public.d old id=1 v=? w=? new id=2 v=NULL w=6 key(id)",
			"delete public.d old id=2 v=? w=? key(id)", "commit")
		s.exec("INSERT INTO f VALUES (1, NULL, 5); UPDATE f SET w = 6; DELETE FROM f")
		s.expect("begin",
			"insert public.f new id=1 v=NULL w=5 key(id)",
			"update public.f old id=1 v=NULL w=5 new id=1 v=NULL w=6 key(id)",
			"delete public.f old id=1 v=NULL w=6 key(id)", "commit")
		s.exec("INSERT INTO x VALUES (1, 'k', 5); UPDATE x SET w = 6; UPDATE x SET code = 'l'; DELETE FROM x")
		s.expect("begin",
			"insert public.x new id=1 code=k w=5 key(id)",
			"update public.x old id=? code=k w=? new id=1 code=k w=6 key(id)",
			"update public.x old id=? code=k w=? new id=1 code=l w=6 key(id)",
			"delete public.x old id=? code=l w=? key(id)", "commit")
		s.exec("INSERT INTO c VALUES (1, 2, 'v')")
		s.expect("begin", "insert public.c new b=1 a=2 v=v key(a,b)", "commit")
		s.stop()
	})

	t.Run("C1 C2 unchanged toast is unknown and never null", func(t *testing.T) {
		s := newSource(t, cluster, "toast", `
			CREATE TABLE d (id int PRIMARY KEY, big text, w int); ALTER TABLE d ALTER big SET STORAGE EXTERNAL;
			CREATE TABLE f (id int PRIMARY KEY, big text, w int); ALTER TABLE f ALTER big SET STORAGE EXTERNAL; ALTER TABLE f REPLICA IDENTITY FULL;
			CREATE TABLE k (id text PRIMARY KEY, v int); ALTER TABLE k ALTER id SET STORAGE EXTERNAL;`, "d", "f", "k")
		s.run()
		s.exec("INSERT INTO d VALUES (1, repeat('x', 9000), 1); INSERT INTO f VALUES (1, repeat('y', 9000), 1); INSERT INTO k VALUES (repeat('z', 2500), 1)")
		s.settle()
		s.exec("UPDATE d SET w = 2; UPDATE d SET id = 2; UPDATE f SET w = 2; UPDATE k SET v = 2")
		s.expect("begin",
			"update public.d old id=1 big=? w=? new id=1 big=? w=2 key(id)",
			"update public.d old id=1 big=? w=? new id=2 big=? w=2 key(id)",
			"update public.f old id=1 big=yyyy..9000 w=1 new id=1 big=yyyy..9000 w=2 key(id)",
			"update public.k old id=zzzz..2500 v=? new id=zzzz..2500 v=2 key(id)", "commit")
		s.stop()
	})

	t.Run("A6 rows of one copy share a position and differ by ordinal", func(t *testing.T) {
		s := newSource(t, cluster, "copying", "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)", "a", "b")
		s.run()
		if _, err := s.db.PgConn().CopyFrom(t.Context(), strings.NewReader("1\n2\n3\n"), "COPY a FROM STDIN"); err != nil {
			t.Fatal(err)
		}
		s.expect("begin", "insert public.a new id=1 key(id)", "insert public.a new id=2 key(id) #1", "insert public.a new id=3 key(id) #2", "commit")
		s.exec("TRUNCATE a, b RESTART IDENTITY CASCADE")
		s.expect("begin", "truncate public.a key(id)", "truncate public.b key(id) #1", "commit")
		for id, n := range s.got.ids {
			if n != 1 {
				t.Errorf("%d changes have the identity %s", n, id)
			}
		}
		s.stop()
	})

	t.Run("D1 the table changes in mid-stream", func(t *testing.T) {
		s := newSource(t, cluster, "ddl", "CREATE TABLE a (id int PRIMARY KEY, v text)", "a")
		s.got.hold = true // the slot stays where it is
		s.run()
		s.exec("INSERT INTO a VALUES (1, 'x')")
		s.exec(`BEGIN; INSERT INTO a VALUES (2, 'y'); ALTER TABLE a ADD COLUMN w int DEFAULT 7; INSERT INTO a VALUES (3, 'z', 8);
			ALTER TABLE a DROP COLUMN v; INSERT INTO a VALUES (4, 9); COMMIT`)
		s.exec(`ALTER TABLE a RENAME w TO "We""ird Näme"`)
		s.exec(`ALTER TABLE a RENAME TO "B b"`)
		s.exec(`ALTER TABLE "B b" ALTER id TYPE bigint`)
		s.exec(`INSERT INTO "B b" VALUES (5, 1)`)
		s.exec(`ALTER TABLE "B b" RENAME id TO "ID"`)
		want := []string{
			"begin", "insert public.a new id=1 v=x key(id)", "commit",
			"begin", "insert public.a new id=2 v=y key(id)", "insert public.a new id=3 v=z w=8 key(id)", "insert public.a new id=4 w=9 key(id)", "commit",
			"begin", `insert public.B b new id=5 We"ird Näme=1 key(id)`, "commit",
		}
		s.expect(want...)
		if s.got.rels != 4 {
			t.Errorf("%d relations for 4 shapes of the table", s.got.rels)
		}
		s.stop()
		// The past again, when the catalogue of now has other names.
		s.got = newCaptured(s.start)
		s.run()
		s.expect(want...)
		s.stop()
	})

	t.Run("F4 F5 savepoints, prepared transactions and messages", func(t *testing.T) {
		s := newSource(t, cluster, "txs", "CREATE TABLE a (id int PRIMARY KEY)", "a")
		s.run()
		s.exec(`BEGIN; INSERT INTO a VALUES (1); SAVEPOINT s; INSERT INTO a VALUES (2); ROLLBACK TO s; INSERT INTO a VALUES (3); COMMIT`)
		s.exec(`BEGIN; INSERT INTO a VALUES (4); PREPARE TRANSACTION 'p'`)
		s.exec(`COMMIT PREPARED 'p'`)
		s.exec(`BEGIN; INSERT INTO a VALUES (5); PREPARE TRANSACTION 'q'`)
		s.exec(`ROLLBACK PREPARED 'q'`)
		s.exec(`BEGIN; SELECT pg_logical_emit_message(true, 'rowhook.context', '{"who": "ann", "n": 1}');
			SELECT pg_logical_emit_message(true, 'rowhook.context', '{"n": 2.50}'); SELECT pg_logical_emit_message(true, 'rowhook.context', 'not json');
			SELECT pg_logical_emit_message(true, 'signup', 'in'); SELECT pg_logical_emit_message(false, 'signup', 'out'); ROLLBACK`)
		s.exec(`BEGIN; SELECT pg_logical_emit_message(true, 'rowhook.context', '{"who": "ann", "n": 1}');
			SELECT pg_logical_emit_message(true, 'rowhook.context', '{"n": 2.50}'); SELECT pg_logical_emit_message(true, 'rowhook.context', 'not json');
			SELECT pg_logical_emit_message(true, 'signup', 'in'); COMMIT`)
		s.expect("begin", "insert public.a new id=1 key(id)", "insert public.a new id=3 key(id)", "commit",
			"begin", "insert public.a new id=4 key(id)", "commit",
			"message signup out",
			"begin", `message rowhook.context {"who": "ann", "n": 1} tx {"n":1,"who":"ann"}`, `message rowhook.context {"n": 2.50} tx {"n":2.50,"who":"ann"}`,
			`message rowhook.context not json tx {"n":2.50,"who":"ann"}`, `message signup in tx {"n":2.50,"who":"ann"}`, "commit")
		s.stop()
	})

	t.Run("C8 partitions come as their root", func(t *testing.T) {
		s := newSource(t, cluster, "parts", `
			CREATE TABLE p (id int, region text, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
			CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu');
			CREATE TABLE p_us (v text, region text NOT NULL, id int NOT NULL); ALTER TABLE p ATTACH PARTITION p_us FOR VALUES IN ('us');`, "p")
		s.run()
		s.exec("INSERT INTO p VALUES (1, 'eu', 'a'), (2, 'us', 'b'); UPDATE p SET region = 'us' WHERE id = 1")
		s.expect("begin",
			"insert public.p new id=1 region=eu v=a key(region,id)", "insert public.p new id=2 region=us v=b key(region,id)",
			"delete public.p old id=1 region=eu v=? key(region,id)", "insert public.p new id=1 region=us v=a key(region,id)", "commit")
		s.stop()
	})

	t.Run("E1 E2 types of the user and pinned settings", func(t *testing.T) {
		s := newSource(t, cluster, "values", `
			CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN price AS numeric(10,2); CREATE TYPE pair AS (a int, m mood);
			CREATE TABLE a (id int PRIMARY KEY, m mood, ms mood[], p price, c pair, t timestamptz, i interval, f float8, b bytea, r regclass);
			ALTER DATABASE values SET DateStyle = 'SQL, DMY'; ALTER DATABASE values SET TimeZone = 'Asia/Tokyo'; ALTER DATABASE values SET bytea_output = 'escape';
			ALTER DATABASE values SET extra_float_digits = -3; ALTER DATABASE values SET IntervalStyle = 'sql_standard'; ALTER DATABASE values SET quote_all_identifiers = on;`, "a")
		s.run()
		s.exec(`INSERT INTO a VALUES (1, 'ok', '{sad,ok}', 1.5, '(1,ok)', '2024-02-01 00:00:00+00', '1 day 2 hours', 0.1::float8 + 0.2::float8, '\x00ff', 'a')`)
		s.expect("begin", `insert public.a new id=1 m=ok ms={sad,ok} p=1.50 c=(1,ok) t=2024-02-01 00:00:00+00 i=P1DT2H f=0.30000000000000004 b=\x00ff r=public.a key(id)`, "commit")
		rel := s.got.last
		for column, kind := range map[string]byte{"m": 'e', "ms": 'b', "p": 'd', "c": 'c'} {
			typ, ok := rel.Types.ResolveType(rel.Columns[rel.Column(column)].TypeOID)
			if !ok || typ.Kind != kind {
				t.Errorf("type of %s is %+v, %t", column, typ, ok)
			}
			switch column {
			case "ms":
				if elem, ok := rel.Types.ResolveType(typ.Elem); !ok || elem.Kind != 'e' {
					t.Errorf("element type of ms is %+v, %t", elem, ok)
				}
			case "c":
				if len(typ.Fields) != 2 || typ.Fields[1].Name != "m" {
					t.Errorf("fields of c are %+v", typ.Fields)
				}
			}
		}
		s.stop()
	})
}
