package integration_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
)

// byHand is newSource with the publication named hand that the schema makes.
func byHand(t *testing.T, cluster *postgres.Cluster, name, schema string) *source {
	t.Helper()
	s := newSource(t, cluster, name, schema)
	s.stream.Publication = "hand"
	s.run()
	return s
}

// TestCapture_ChangesOfEveryShape reads, from one real server, what
// applications and people do to tables and publications. The letters are those
// of README.md beside this file. It does not run beside others: it looks at the
// heap.
func TestCapture_ChangesOfEveryShape(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	since15 := cluster.Major() >= 15

	t.Run("C5 no replica identity", func(t *testing.T) {
		s := byHand(t, cluster, "noidentity", `CREATE TABLE n (id int PRIMARY KEY, v text); ALTER TABLE n REPLICA IDENTITY NOTHING; CREATE TABLE k (v text);
			CREATE PUBLICATION hand FOR TABLE n, k WITH (publish = 'insert, truncate')`)
		s.exec("INSERT INTO n VALUES (1, 'a'); UPDATE n SET v = 'b'; DELETE FROM n; INSERT INTO k VALUES ('c'); TRUNCATE k")
		s.expect("begin", "insert public.n new id=1 v=a key(id)", "insert public.k new v=c", "truncate public.k", "commit")
		s.stop()
	})

	t.Run("C6 C7 updates without effect are changes and statements without one are none", func(t *testing.T) {
		s := byHand(t, cluster, "noop", "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, 'x'); CREATE PUBLICATION hand FOR TABLE a")
		s.exec("UPDATE a SET v = 'x'; INSERT INTO a VALUES (1, 'y') ON CONFLICT DO NOTHING; SELECT * FROM a FOR UPDATE; INSERT INTO a VALUES (1, 'z') ON CONFLICT (id) DO UPDATE SET v = excluded.v; DELETE FROM a WHERE id = 2")
		s.expect("begin", "update public.a old id=1 v=? new id=1 v=x key(id)", "update public.a old id=1 v=? new id=1 v=z key(id)", "commit")
		s.exec("DELETE FROM a")
		s.expect("begin", "delete public.a old id=1 v=? key(id)", "commit")
		s.stop()
	})

	t.Run("C9 truncate of several tables with cascade", func(t *testing.T) {
		s := byHand(t, cluster, "truncate", `CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
			CREATE TABLE c (id int PRIMARY KEY, b int REFERENCES b); CREATE TABLE other (id int PRIMARY KEY, a int REFERENCES a); CREATE TABLE d (id int PRIMARY KEY);
			CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
			CREATE PUBLICATION hand FOR TABLE a, b, c, d, p WITH (publish_via_partition_root = true)`)
		s.exec("INSERT INTO a DEFAULT VALUES")
		s.settle()
		s.exec("TRUNCATE d, a RESTART IDENTITY CASCADE")
		// The order is the server's, the same in every reading. other is not published.
		s.expect("begin", "truncate public.d key(id)", "truncate public.a key(id) #1", "truncate public.b key(id) #2", "truncate public.c key(id) #3", "commit")
		s.exec("TRUNCATE p")
		s.expect("begin", "truncate public.p key(id)", "commit")
		s.exec("TRUNCATE p1") // the server says nothing of it under the name of the root
		s.expect()
		s.stop()
	})

	t.Run("C10 statements that rewrite tables make no changes", func(t *testing.T) {
		s := byHand(t, cluster, "rewrite", `CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, '7'), (2, '8');
			CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 (id int PRIMARY KEY); INSERT INTO p1 VALUES (3);
			CREATE PUBLICATION hand FOR ALL TABLES WITH (publish_via_partition_root = true)`)
		s.exec("ALTER TABLE a ALTER v TYPE int USING v::int * 2; ALTER TABLE a ADD w double precision DEFAULT random(); ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (9)")
		s.exec("VACUUM FULL a")
		s.exec("CLUSTER a USING a_pkey")
		s.exec("ALTER TABLE p DETACH PARTITION p1")
		s.expect()
		s.exec("UPDATE a SET w = 0.5 WHERE id = 1; INSERT INTO p1 VALUES (4)")
		s.expect("begin", "update public.a old id=1 v=? w=? new id=1 v=14 w=0.5 key(id)", "insert public.p1 new id=4 key(id)", "commit")
		s.stop()
	})

	t.Run("C11 row filters and column lists made by hand", func(t *testing.T) {
		tables := "CREATE TABLE f (id int PRIMARY KEY, v int, big text); ALTER TABLE f ALTER big SET STORAGE EXTERNAL; ALTER TABLE f REPLICA IDENTITY FULL; CREATE TABLE l (a text, id int PRIMARY KEY, secret text);"
		publication := " CREATE PUBLICATION hand FOR TABLE f WHERE (v > 10), l (id, a)"
		if !since15 {
			s := newSource(t, cluster, "filters", tables)
			if _, err := s.db.Exec(t.Context(), publication); err == nil {
				t.Error("PostgreSQL 14 has row filters")
			}
			return
		}
		s := byHand(t, cluster, "filters", tables+publication)
		s.exec("INSERT INTO f VALUES (1, 5, repeat('x', 9000)), (2, 50, 'y')")
		s.expect("begin", "insert public.f new id=2 v=50 big=y key(id)", "commit")
		s.exec("UPDATE f SET v = 20 WHERE id = 1; UPDATE f SET v = 30 WHERE id = 1; UPDATE f SET v = 3 WHERE id = 1; UPDATE f SET v = 4 WHERE id = 1; TRUNCATE f")
		s.expect("begin", "insert public.f new id=1 v=20 big=xxxx..9000 key(id)",
			"update public.f old id=1 v=20 big=xxxx..9000 new id=1 v=30 big=xxxx..9000 key(id)",
			"delete public.f old id=1 v=30 big=xxxx..9000 key(id)", "truncate public.f key(id)", "commit")
		s.exec("INSERT INTO l VALUES ('a', 1, 's'); UPDATE l SET secret = 't'; UPDATE l SET id = 2; DELETE FROM l")
		s.expect("begin", "insert public.l new a=a id=1 key(id)", "update public.l old a=? id=1 new a=a id=1 key(id)",
			"update public.l old a=? id=1 new a=a id=2 key(id)", "delete public.l old a=? id=2 key(id)", "commit")
		s.stop()
	})

	t.Run("C12 generated columns come only where the publication says so", func(t *testing.T) {
		virtual, stored, with := "", "", ""
		if cluster.Major() >= 18 {
			virtual, stored, with = ", x int GENERATED ALWAYS AS (a + 1) VIRTUAL", " g=4", " WITH (publish_generated_columns = stored)"
		}
		s := byHand(t, cluster, "generated", "CREATE TABLE a (a int, g int GENERATED ALWAYS AS (a * 2) STORED"+virtual+", id int PRIMARY KEY); CREATE PUBLICATION hand FOR TABLE a"+with)
		s.exec("INSERT INTO a (a, id) VALUES (2, 1)")
		s.expect("begin", "insert public.a new a=2"+stored+" id=1 key(id)", "commit")
		s.stop()
	})

	t.Run("C14 what the WAL does not have", func(t *testing.T) {
		s := byHand(t, cluster, "unlogged", `CREATE UNLOGGED TABLE u (id int PRIMARY KEY); CREATE TABLE a (id serial PRIMARY KEY);
			CREATE MATERIALIZED VIEW m AS SELECT 1 AS id; CREATE PUBLICATION hand FOR ALL TABLES`)
		s.exec("CREATE TEMP TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); INSERT INTO u VALUES (1); REFRESH MATERIALIZED VIEW m; SELECT nextval('a_id_seq'), lo_create(0)")
		s.exec("INSERT INTO a DEFAULT VALUES")
		s.expect("begin", "insert public.a new id=2 key(id)", "commit")
		s.stop()
	})

	t.Run("inherited tables are tables of their own", func(t *testing.T) {
		s := byHand(t, cluster, "inherits", `CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (parent); CREATE TABLE quiet (PRIMARY KEY (id)) INHERITS (parent);
			CREATE PUBLICATION hand FOR TABLE ONLY parent, child`)
		s.exec("INSERT INTO parent VALUES (1, 'a'); INSERT INTO child VALUES (2, 'b', 3); INSERT INTO quiet VALUES (3, 'c'); UPDATE parent SET v = 'z'")
		s.expect("begin", "insert public.parent new id=1 v=a key(id)", "insert public.child new id=2 v=b extra=3 key(id)",
			"update public.parent old id=1 v=? new id=1 v=z key(id)", "update public.child old id=2 v=? extra=? new id=2 v=z extra=3 key(id)", "commit")
		s.stop()
	})

	t.Run("D1 tables and schemas that change in mid-stream and within a transaction", func(t *testing.T) {
		s := byHand(t, cluster, "midstream", `CREATE TABLE a (id int PRIMARY KEY, v text); CREATE SCHEMA old; CREATE TABLE old.t (id int PRIMARY KEY); CREATE PUBLICATION hand FOR ALL TABLES`)
		s.exec(`BEGIN; INSERT INTO a VALUES (1, 'x'); DROP TABLE a; CREATE TABLE a (v int, id bigint PRIMARY KEY); INSERT INTO a VALUES (2, 1); COMMIT`)
		s.expect("begin", "insert public.a new id=1 v=x key(id)", "insert public.a new v=2 id=1 key(id)", "commit")
		renamed := `insert New, "s.t new id=2 key(id)`
		if cluster.Major() < 16 {
			renamed = "insert old.t new id=2 key(id)" // these servers do not say it, until the table changes too
		}
		s.exec(`BEGIN; INSERT INTO old.t VALUES (1); ALTER SCHEMA old RENAME TO "New, ""s"; INSERT INTO "New, ""s".t VALUES (2); ALTER TABLE "New, ""s".t SET SCHEMA public; UPDATE t SET id = 3 WHERE id = 1; COMMIT`)
		s.expect("begin", "insert old.t new id=1 key(id)", renamed, "update public.t old id=1 new id=3 key(id)", "commit")
		s.exec(`BEGIN; SAVEPOINT s; ALTER TABLE a ADD w text; INSERT INTO a VALUES (3, 2, 'w'); ROLLBACK TO s; INSERT INTO a VALUES (4, 3); COMMIT`)
		s.expect("begin", "insert public.a new v=4 id=3 key(id)", "commit")
		s.exec("ALTER TABLE a ALTER id TYPE text; ALTER TABLE a RENAME v TO vv; UPDATE a SET vv = 9 WHERE id = '3'")
		s.exec("ALTER TABLE a REPLICA IDENTITY FULL; DELETE FROM a WHERE id = '3'")
		// A key that was dropped stays the key: the stream may be in the past, when it was one.
		s.exec("ALTER TABLE a DROP CONSTRAINT a_pkey; DELETE FROM a")
		s.expect("begin", "update public.a old vv=? id=3 new vv=9 id=3 key(id)", "commit",
			"begin", "delete public.a old vv=9 id=3 key(id)", "commit", "begin", "delete public.a old vv=2 id=1 key(id)", "commit")
		s.stop()
	})

	t.Run("D5 names of every kind", func(t *testing.T) {
		long, column := strings.Repeat("ä", 31)+"x", strings.Repeat("日", 21) // 63 bytes each
		s := newSource(t, cluster, "names", fmt.Sprintf(`CREATE TABLE "%s" ("%s" int PRIMARY KEY, "a, ""b"" '\" text, "😀" int); CREATE TABLE "select" ("from" int PRIMARY KEY, "A.b" text)`, long, column), long, "select")
		s.run()
		s.exec(fmt.Sprintf(`INSERT INTO "%s" VALUES (1, 'x', 2); INSERT INTO "select" VALUES (3, 'y')`, long))
		s.expect("begin", fmt.Sprintf(`insert public.%s new %s=1 a, "b" '\=x 😀=2 key(%[2]s)`, long, column), "insert public.select new from=3 A.b=y key(from)", "commit")
		s.stop()
	})

	t.Run("F1 a transaction is never held in memory", func(t *testing.T) {
		s := newSource(t, cluster, "large", "CREATE TABLE a (id int PRIMARY KEY, v text)", "a")
		const rows, size = 200_000, 300
		s.exec(fmt.Sprintf("INSERT INTO a SELECT n, repeat('x', %d) FROM generate_series(1, %d) n", size, rows))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h := &counting{captured: s.got, rows: rows, done: cancel}
		if err := s.stream.Run(ctx, s.start, h); err != nil {
			t.Fatal(err)
		}
		if h.seenRows != rows || h.most > rows*size/4 {
			t.Errorf("%d rows, %d bytes of heap more than at first", h.seenRows, h.most)
		}
		t.Logf("%d rows of %d bytes, at most %d bytes of heap more than at first", h.seenRows, size, h.most)
	})

	t.Run("F7 interleaved transactions come one after the other as they committed", func(t *testing.T) {
		s := byHand(t, cluster, "interleaved", "CREATE TABLE a (id int PRIMARY KEY, who text); CREATE PUBLICATION hand FOR TABLE a")
		other, err := cluster.Conn(t.Context(), "interleaved")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close(context.Background())
		late := func(sql string) {
			if _, err := other.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
				t.Fatal(err)
			}
		}
		late("BEGIN; INSERT INTO a VALUES (1, 'late'); SAVEPOINT s")
		s.exec("BEGIN; INSERT INTO a VALUES (2, 'early')")
		late("INSERT INTO a VALUES (3, 'late'); RELEASE s")
		s.exec("INSERT INTO a VALUES (4, 'early'); COMMIT")
		late("INSERT INTO a VALUES (5, 'late'); COMMIT")
		s.expect("begin", "insert public.a new id=2 who=early key(id)", "insert public.a new id=4 who=early key(id)", "commit",
			"begin", "insert public.a new id=1 who=late key(id)", "insert public.a new id=3 who=late key(id)", "insert public.a new id=5 who=late key(id)", "commit")
		s.stop()
	})

	t.Run("F6 transactions of another origin come too", func(t *testing.T) {
		s := byHand(t, cluster, "origins", "CREATE TABLE a (id int PRIMARY KEY); CREATE PUBLICATION hand FOR TABLE a")
		s.exec("SELECT pg_replication_origin_create('elsewhere'); SELECT pg_replication_origin_session_setup('elsewhere')")
		s.exec("BEGIN; SELECT pg_replication_origin_xact_setup('0/1', now()); INSERT INTO a VALUES (1); COMMIT; SELECT pg_replication_origin_session_reset()")
		s.expect("begin", "insert public.a new id=1 key(id)", "commit")
		s.exec("SELECT pg_replication_origin_drop('elsewhere')")
		s.stop()
	})

	t.Run("A6 a message has the position of the change after it", func(t *testing.T) {
		s := byHand(t, cluster, "positions", "CREATE TABLE a (id int PRIMARY KEY); CREATE PUBLICATION hand FOR TABLE a")
		s.exec("BEGIN; SELECT pg_logical_emit_message(true, 'm', 'x'); INSERT INTO a VALUES (1); SELECT pg_logical_emit_message(true, 'm', 'y'), pg_logical_emit_message(true, 'm', 'z'); UPDATE a SET id = 2; COMMIT")
		if lines := s.settle(); len(lines) != 7 {
			t.Errorf("%q", lines)
		}
		for id, n := range s.got.ids {
			if n != 1 {
				t.Errorf("%d changes have the identity %s", n, id)
			}
		}
		s.stop()
	})
}

// counting counts the rows of one transaction and watches the heap meanwhile.
type counting struct {
	*captured
	rows, seenRows int
	first, most    uint64
	done           func()
}

func (h *counting) Change(*relay.Change) error {
	if h.seenRows%10_000 == 0 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		if h.first == 0 {
			h.first = m.HeapAlloc
		}
		h.most = max(h.most, m.HeapAlloc-min(h.first, m.HeapAlloc))
	}
	h.seenRows++
	return nil
}

func (h *counting) Commit(tx *relay.Tx, end relay.LSN) error {
	if h.seenRows >= h.rows {
		h.done()
	}
	return h.captured.Commit(tx, end)
}

// tx.context says who made a change, and in which request.
func TestCapture_TheContextOfATransaction(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newSource(t, cluster, "context", "CREATE TABLE t (id int PRIMARY KEY)", "t")
	rule := compile(t, `data = { id = new.id, trace = tx.context.traceparent, request = tx.context.request.id }`)
	var judged []string
	s.got.seen = func(c *relay.Change) {
		if c.Op != relay.Insert {
			return
		}
		prog, err := rule.Bind(c.Relation)
		if err != nil {
			t.Error(err)
			return
		}
		var d relay.Draft
		if ok, err := prog.Eval(c, &d); !ok || err != nil {
			t.Error(ok, err)
		}
		judged = append(judged, string(d.Data))
	}
	s.run()
	emit := func(payload string) string {
		return "SELECT pg_logical_emit_message(true, 'rowhook.context', " + payload + ");"
	}
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	s.exec("BEGIN; INSERT INTO t VALUES (1);" + emit(`'{"traceparent": "`+trace+`"}'`) + emit(`'{"request": {"id": "r-1", "n": 12345678901234567890}}'`) + "INSERT INTO t VALUES (2); COMMIT")
	s.exec("INSERT INTO t VALUES (3)") // another transaction
	// A savepoint that is rolled back takes its messages along.
	s.exec("BEGIN; SAVEPOINT s;" + emit(`'{"request": {"id": "undone"}}'`) + "ROLLBACK TO s; INSERT INTO t VALUES (4); COMMIT")
	// At 64 KiB it is full: what does not fit is left out, what came before stays, and what fits still comes.
	s.exec("BEGIN;" + emit(`'{"traceparent": "kept"}'`) + emit(`json_build_object('big', repeat('x', 40000))::text`) + emit(`json_build_object('more', repeat('y', 40000), 'traceparent', 'left out')::text`) +
		emit(`'{"request": {"id": "fits"}}'`) + "INSERT INTO t VALUES (5); COMMIT")
	s.settle()
	want := []string{`{"id":1,"trace":null,"request":null}`, `{"id":2,"trace":"` + trace + `","request":"r-1"}`, `{"id":3,"trace":null,"request":null}`, `{"id":4,"trace":null,"request":null}`,
		`{"id":5,"trace":"kept","request":"fits"}`}
	if got := strings.Join(judged, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
	s.stop()
	if log := s.log.String(); strings.Count(log, "message left out of tx.context") != 1 || !strings.Contains(log, "would exceed 65536 bytes") {
		t.Errorf("log: %s", log)
	}
}

// E7: a row comes in one message, which has a bound.
func TestCapture_HugeRows(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newSource(t, cluster, "huge", "CREATE TABLE t (id int PRIMARY KEY, v bytea); ALTER TABLE t ALTER v SET STORAGE EXTERNAL", "t")
	s.run()
	s.exec("INSERT INTO t SELECT 1, decode(repeat('00ff', 8000000), 'hex')")
	s.expect("begin", "insert public.t new id=1 v=\\x00..32000002 key(id)", "commit")
	s.stop()
	s.stream.MaxMessage = 1 << 20
	s.exec("INSERT INTO t VALUES (2, '\\x00'); UPDATE t SET v = v || '\\x00' WHERE id = 1")
	s.run()
	err := s.end()
	var decode *cdc.DecodeError
	if !errors.As(err, &decode) || !strings.Contains(err.Error(), "a row is larger than the source's limit") {
		t.Errorf("stream: %v", err)
	}
}

// TestCapture_Partitions: they come as the table that the publication has, the
// root or the partition itself.
func TestCapture_Partitions(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	const schema = `CREATE TABLE p (id int, region text, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
		CREATE TABLE eu PARTITION OF p FOR VALUES IN ('eu') PARTITION BY RANGE (id); CREATE TABLE eu1 PARTITION OF eu FOR VALUES FROM (0) TO (10); CREATE TABLE eu2 PARTITION OF eu FOR VALUES FROM (10) TO (20);
		CREATE TABLE us (v text, region text NOT NULL, id int NOT NULL); ALTER TABLE p ATTACH PARTITION us FOR VALUES IN ('us');`
	const changes = "INSERT INTO p VALUES (1, 'eu', 'a'), (2, 'us', 'b'); UPDATE p SET id = 11 WHERE id = 1; UPDATE p SET region = 'us' WHERE id = 11"

	t.Run("C8 by choice as partitions, and a row that moves is deleted and inserted", func(t *testing.T) {
		s := newSource(t, cluster, "asparts", schema, "eu", "us")
		s.run()
		s.exec(changes)
		s.expect("begin", "insert public.eu new id=1 region=eu v=a key(region,id)", "insert public.us new v=b region=us id=2 key(region,id)",
			"delete public.eu old id=1 region=eu v=? key(region,id)", "insert public.eu new id=11 region=eu v=a key(region,id)",
			"delete public.eu old id=11 region=eu v=? key(region,id)", "insert public.us new v=a region=us id=11 key(region,id)", "commit")
		s.stop()
	})
	for _, test := range []struct{ name, alter, old, refused string }{
		{"full root", "ALTER TABLE p REPLICA IDENTITY FULL", "id=2 region=us v=?", `ALTER TABLE "public"."us" REPLICA IDENTITY FULL;`},
		{"partition by index", "CREATE UNIQUE INDEX us_i ON us (id); ALTER TABLE us REPLICA IDENTITY USING INDEX us_i", "id=2 region=? v=?", `ALTER TABLE "public"."us" REPLICA IDENTITY DEFAULT;`},
		{"full partition", "ALTER TABLE us REPLICA IDENTITY FULL", "id=2 region=us v=?", ""},
		{"all full", "ALTER TABLE p REPLICA IDENTITY FULL; ALTER TABLE eu1 REPLICA IDENTITY FULL; ALTER TABLE eu2 REPLICA IDENTITY FULL; ALTER TABLE us REPLICA IDENTITY FULL", "id=2 region=us v=b", ""},
	} {
		t.Run("C4 replica identities of root and partition "+test.name, func(t *testing.T) {
			s := byHand(t, cluster, strings.ReplaceAll(test.name, " ", ""), schema+test.alter+"; CREATE PUBLICATION hand FOR TABLE p WITH (publish_via_partition_root = true)")
			s.exec("INSERT INTO p VALUES (2, 'us', 'b'); UPDATE p SET v = 'b'")
			s.exec("UPDATE p SET id = 2 WHERE id = 2; DELETE FROM p")
			// What the partition did not write is unknown. The server sends null.
			s.expect("begin", "insert public.p new id=2 region=us v=b key(region,id)", "update public.p old "+test.old+" new id=2 region=us v=b key(region,id)", "commit",
				"begin", "update public.p old "+test.old+" new id=2 region=us v=b key(region,id)", "delete public.p old "+test.old+" key(region,id)", "commit")
			_, err := cdc.EnsurePublication(t.Context(), s.url, "made", whole(writes, "p"))
			if test.refused != "" {
				wantSetup(t, err, "does not have the replica identity of its root", test.refused)
			} else if err != nil {
				t.Error(err)
			}
			s.exec("ALTER TABLE us REPLICA IDENTITY FULL; INSERT INTO p VALUES (1, 'us', 'b'); DELETE FROM p")
			if lines := strings.Join(s.settle(), "\n"); strings.HasPrefix(test.alter, "ALTER TABLE p ") && !strings.Contains(lines, "delete public.p old id=1 region=us v=b") {
				t.Errorf("mended: %s", lines)
			}
			s.stop()
		})
	}

	t.Run("a partition that is published as its root has no changes of its own", func(t *testing.T) {
		s := newSource(t, cluster, "unreached", schema)
		for _, test := range []struct {
			publication, table, words string
		}{
			{"FOR ALL TABLES WITH (publish_via_partition_root = true)", "eu1", "the changes of public.eu1 come as those of public.p"},
			{"FOR TABLE p, eu WITH (publish_via_partition_root = true)", "eu", "the changes of public.eu come as those of public.p"},
			{"FOR ALL TABLES", "p", "the changes of public.p come as those of its partitions"},
			{"FOR TABLE eu", "us", "the publication does not have the table public.us"},
			{"FOR TABLE us", "us", ""}, {"FOR ALL TABLES WITH (publish_via_partition_root = true)", "p", ""}, {"FOR TABLE eu WITH (publish_via_partition_root = true)", "eu", ""},
		} {
			s.exec("DROP PUBLICATION IF EXISTS hand; CREATE PUBLICATION hand " + test.publication)
			plan, err := cdc.ReadPlan(t.Context(), s.url, cdc.PlanOptions{Slot: "unreached", Publication: "hand", Want: whole(inserts, test.table)})
			if err == nil {
				err = plan.Unmanaged()
			}
			if test.words != "" {
				wantSetup(t, err, test.words)
			} else if err != nil {
				t.Error(err)
			}
		}
	})
}
