package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// tableRule is a rule on another table, with the position of its transaction.
func tableRule(table string) string {
	return fmt.Sprintf(`
event "added.%[1]s" {
  table = "public.%[1]s"
  on    = ["insert"]
  data  = { id = new.id, v = -1, lsn = tx.lsn }
}
`, table)
}

// tables makes rules of a version that name the tables, too.
func tables(version int, names ...string) string {
	rules := itemsAs(version)
	for _, n := range names {
		rules += tableRule(n)
	}
	return rules
}

const placeSchema = `CREATE TABLE items (id int PRIMARY KEY, v text);
CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY); CREATE TABLE d (id int PRIMARY KEY);`

// Each edit adds tables or changes a rule while transactions that write to all of them are under
// way. Every transaction tells by the event of its item at which position it committed and which
// version judged it: the versions change at the places that the daemon recorded, and of the tables
// that a version names it has exactly the events that it must have.
func TestPlace(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	for name, test := range map[string]func(*testing.T, *shop){
		"grows":   placeGrows,
		"killed":  placeKilled,
		"waiting": placeWaiting,
		"left":    placeLeft,
		"manage":  placeManaged,
		"column":  placeColumn,
	} {
		t.Run(name, func(t *testing.T) {
			o := shopOptions{rules: itemsAs(1), schema: placeSchema}
			if name == "waiting" {
				o.settings = "log {\n max_size = \"1MiB\"\n}"
			}
			s := newShop(t, cluster, "place_"+name, o)
			if name != "manage" {
				s.d.StartReady()
			}
			test(t, s)
		})
	}
}

// writers write transactions to items and to the tables until they are stopped; each one writes to
// the tables before and after a moment, so that it is under way when a publication is altered.
func writers(s *shop, names ...string) (stop func() int) {
	s.t.Helper()
	return writing(s, func(id int) string {
		sql := fmt.Sprintf("INSERT INTO items VALUES (%d, 'x');", id)
		for i, n := range names {
			if i == len(names)/2 {
				sql += "SELECT pg_sleep(0.02);"
			}
			sql += fmt.Sprintf("INSERT INTO %s VALUES (%d);", n, id)
		}
		return sql
	})
}

// writing runs transactions with the statements for ids from 1000 on until it is stopped; then it
// returns how many there were.
func writing(s *shop, statements func(id int) string) (stop func() int) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	next := 1000
	for range 3 {
		conn, err := s.cluster.Conn(ctx, s.name)
		if err != nil {
			s.t.Fatal(err)
		}
		wg.Go(func() {
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
			for ctx.Err() == nil {
				mu.Lock()
				id := next
				next++
				mu.Unlock()
				// A transaction that began is committed.
				if _, err := conn.PgConn().Exec(context.WithoutCancel(ctx), "BEGIN;"+statements(id)+"COMMIT").ReadAll(); err != nil {
					s.t.Errorf("write %d: %v", id, err)
					return
				}
			}
		})
	}
	return func() int {
		cancel()
		wg.Wait()
		return next - 1000
	}
}

// inForce is a rule set that came into force: its version, the tables it names and its place.
type inForce struct {
	version int
	names   []string
	from    relay.LSN
}

// goesOver reloads to the rules and returns where they came into force.
func (s *shop) goesOver(version int, names ...string) inForce {
	s.t.Helper()
	s.edit(tables(version, names...), "")
	res := s.reload()
	if len(res.Sources) != 1 {
		s.t.Fatalf("the reload says %+v", res)
	}
	src := s.untilSourceThat("has no rules waiting", func(src *api.SourceStatus) bool { return src.Rules.Waiting == "" && src.State == api.SourceStreaming })
	return inForce{version, names, lsnOf(s.t, src.Rules.From)}
}

func (s *shop) published() string {
	return s.ask("SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = 'rowhook_shop'")
}

func placeGrows(t *testing.T, s *shop) {
	sets := []inForce{{version: 1}}
	stop := writers(s, "a", "b")
	sets = append(sets, s.goesOver(2, "a"))
	sets = append(sets, s.goesOver(3, "a"))
	sets = append(sets, s.goesOver(4, "a", "b"))
	// A transaction that has begun before the place and commits after it is judged by the new set
	// as a whole.
	old, err := s.cluster.Conn(t.Context(), s.name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close(context.Background()) }()
	run := func(sql string) {
		t.Helper()
		if _, err := old.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	run("BEGIN; INSERT INTO items VALUES (1, 'x')")
	sets = append(sets, s.goesOver(5, "a", "b", "c"))
	run("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO c VALUES (1); COMMIT")
	n := stop() + 1
	s.hook.Wait(harness.Patience, func() error {
		for _, q := range s.hook.Events() {
			if m := madeBy(t, q); q.Type == "added.c" && m.ID == 1 {
				return nil
			}
		}
		return fmt.Errorf("no event of the row that a transaction under way wrote to the table that was added")
	})
	for _, q := range s.hook.Events() {
		if m := madeBy(t, q); q.Type == "item" && m.ID == 1 && m.V != 5 {
			t.Errorf("the transaction under way is judged by version %d", m.V)
		}
	}
	// The publication shrinks when the place is behind the checkpoint.
	sets = append(sets, s.goesOver(6))
	s.eventually(func() error {
		if got := s.published(); got != "items" {
			return fmt.Errorf("published are %s", got)
		}
		return nil
	})
	if cp := lsnOf(t, s.checkpoint().LSN); cp < sets[len(sets)-1].from {
		t.Errorf("the publication shrank at checkpoint %s, before the place %s", cp, sets[len(sets)-1].from)
	}
	s.judgeTables(n, sets)
}

// judgeTables holds the events of n transactions, and what they wrote to a and b, against the sets
// that were in force.
func (s *shop) judgeTables(n int, sets []inForce) {
	s.t.Helper()
	got := map[string]int{}
	s.hook.Wait(harness.Patience, func() error {
		clear(got)
		items := 0
		for _, q := range s.hook.Events() {
			switch q.Type {
			case "item":
				items++
			case "added.c":
				continue
			}
			got[fmt.Sprint(q.Type, " ", madeBy(s.t, q).ID)]++
		}
		if items != n {
			return fmt.Errorf("events of %d items, want %d", items, n)
		}
		return nil
	})
	for _, q := range s.hook.Events() {
		if q.Type != "item" {
			continue
		}
		m := madeBy(s.t, q)
		var set inForce
		for _, f := range sets {
			if f.from <= lsnOf(s.t, m.LSN) {
				set = f
			}
		}
		if m.V != set.version {
			s.t.Errorf("item %d, committed at %s, is judged by version %d; the places are %+v", m.ID, m.LSN, m.V, sets)
		}
		for _, name := range []string{"a", "b"} {
			want := 0
			if slices.Contains(set.names, name) {
				want = 1
			}
			if k := fmt.Sprint("added.", name, " ", m.ID); got[k] != want {
				s.t.Errorf("event %s came %d times, want %d: version %d judged its transaction at %s", k, got[k], want, m.V, m.LSN)
			}
		}
	}
}

// The daemon is killed at any moment of a reload, again and again: the rules of the files come into
// force all the same, at one place.
func placeKilled(t *testing.T, s *shop) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	all := []string{"a", "b", "c", "d"}
	stop := writers(s, all...)
	sets := []inForce{{version: 1}}
	for i := range all {
		s.edit(tables(i+2, all[:i+1]...), "")
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.d.Command("reload", "--data-dir", "DATA") // the daemon may be gone before it answers
		}()
		// From before the call reaches the daemon until after the place has been passed.
		select {
		case <-done:
		case <-time.After(time.Duration(rnd.IntN(250)) * time.Millisecond):
		}
		s.d.Kill9()
		<-done
		s.exec(fmt.Sprintf("INSERT INTO items SELECT -i, 'x' FROM generate_series(%d, %d) i", 5000*i+1, 5000*i+5000)) // stored in chunks
		s.d.StartReady()
		src := s.untilSourceThat("has no rules waiting", func(src *api.SourceStatus) bool { return src.Rules.Waiting == "" && src.State == api.SourceStreaming })
		sets = append(sets, inForce{i + 2, all[:i+1], lsnOf(t, src.Rules.From)})
	}
	n := stop()
	for i := 1; i < len(sets); i++ {
		if sets[i].from <= sets[i-1].from {
			t.Errorf("the places are %+v", sets)
		}
	}
	s.judgeKilled(n, sets)
	if g := s.source().Gaps; g != 0 {
		t.Errorf("%d gaps are recorded", g)
	}
}

// judgeKilled does that for all tables and the transactions with positive ids, where deliveries may
// have been repeated.
func (s *shop) judgeKilled(n int, sets []inForce) {
	s.t.Helper()
	type key struct {
		typ string
		id  int
	}
	s.eventually(func() error {
		items, got := map[int]made{}, map[key]bool{}
		negative := map[int]bool{}
		for _, q := range s.hook.Events() {
			m := madeBy(s.t, q)
			switch {
			case m.ID < 0 && q.Type == "item":
				negative[m.ID] = true
			case m.ID < 0:
			case q.Type == "item":
				if before, ok := items[m.ID]; ok && before != m {
					s.t.Fatalf("item %d is judged twice: %+v and %+v", m.ID, before, m)
				}
				items[m.ID] = m
			default:
				got[key{q.Type, m.ID}] = true
			}
		}
		if len(items) != n || len(negative) != 5000*(len(sets)-1) {
			return fmt.Errorf("events of %d items and %d of large transactions, want %d and %d", len(items), len(negative), n, 5000*(len(sets)-1))
		}
		for id, m := range items {
			var set inForce
			for _, f := range sets {
				if f.from <= lsnOf(s.t, m.LSN) {
					set = f
				}
			}
			if m.V != set.version {
				return fmt.Errorf("item %d, committed at %s, is judged by version %d; the places are %+v", id, m.LSN, m.V, sets)
			}
			for _, name := range sets[len(sets)-1].names {
				if has, want := got[key{"added." + name, id}], slices.Contains(set.names, name); has != want {
					return fmt.Errorf("event of %s %d: %v, want %v: version %d judged its transaction at %s; the places are %+v", name, id, has, want, m.V, m.LSN, sets)
				}
			}
		}
		return nil
	})
}

// While reading is paused the place waits in the WAL; killed there, the daemon finds it again, and
// what was committed before it is judged by the rules before.
func placeWaiting(t *testing.T, s *shop) {
	s.put(1)
	s.expect(1)
	s.hook.Down()
	s.exec(`ALTER TABLE items ALTER v SET STORAGE EXTERNAL`)
	s.edit(strings.Replace(itemsAs(1), "v = 1,", "v = 1, text = new.v,", 1), "")
	s.reload()
	s.exec("INSERT INTO items SELECT i, repeat('x', 10000) FROM generate_series(2, 400) i")
	s.untilSource(api.SourcePaused)
	s.put(1001) // not read yet, and before the place
	s.exec("INSERT INTO a VALUES (1001)")
	s.edit(tables(2, "a"), "")
	res := s.reload()
	if len(res.Sources) != 1 || res.Sources[0].Rules.Waiting == "" || !strings.Contains(res.Sources[0].Note, "place") {
		t.Errorf("the reload says %+v", res.Sources)
	}
	s.put(1002)
	s.exec("INSERT INTO a VALUES (1002)")
	contains(t, "status", s.command("status").Stdout, "goes over to rules "+res.Sources[0].Rules.Waiting)
	s.d.Kill9()
	s.put(1003)
	s.exec("INSERT INTO a VALUES (1003)")
	s.hook.Up()
	s.d.Start()
	s.hook.Wait(harness.Patience, func() error {
		got := map[string]bool{}
		for _, q := range s.hook.Events() {
			if m := madeBy(t, q); m.ID > 1000 {
				got[fmt.Sprint(q.Type, m.ID, " v", m.V)] = true
			}
		}
		for _, want := range []string{"item1001 v1", "item1002 v2", "item1003 v2", "added.a1002 v-1", "added.a1003 v-1"} {
			if !got[want] {
				return fmt.Errorf("no event %s in %v", want, got)
			}
		}
		if len(got) != 5 {
			t.Fatalf("events of the last rows: %v", got)
		}
		return nil
	})
}

// A table that somebody took out of the publication comes back at the next start, and what may be
// missing is recorded once, with its end.
func placeLeft(t *testing.T, s *shop) {
	s.put(1)
	s.expect(1)
	generation := s.source().Generation
	if code := s.d.Term(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	s.exec("ALTER PUBLICATION rowhook_shop DROP TABLE items")
	s.put(2)
	lost := s.wal()
	for range 2 {
		s.d.StartReady()
		src := s.untilSourceThat("has a gap", func(src *api.SourceStatus) bool { return src.Gaps == 1 })
		g := src.LastGap
		if src.Generation != generation+1 || lsnOf(t, g.To) < lost || lsnOf(t, g.From) > lost || !strings.Contains(g.Reason, "public.items") {
			t.Errorf("generation %d, gap %+v, lost was what came before %s", src.Generation, g, lost)
		}
		s.recorded("hook", len(s.hook.Events()))
		s.d.Kill9()
	}
	s.d.StartReady()
	s.put(3)
	s.expect(1, 3)
	if src := s.source(); src.Gaps != 1 {
		t.Errorf("%d gaps", src.Gaps)
	}
}

// Where a person manages the publication, a reload that needs more says what to run, and afterwards
// the rules wait for the transactions that may have written before.
func placeManaged(t *testing.T, s *shop) {
	source := strings.Replace(strings.ReplaceAll(shopSource, "SLOT", "rowhook_"+s.name), "url  =", "manage = false\n  url  =", 1)
	edit := func(rules string) { s.d.SetRules(source + rules + sinkTo("hook", s.hook.URL)) }
	s.exec("CREATE PUBLICATION rowhook_shop FOR TABLE items")
	s.exec("SELECT pg_create_logical_replication_slot('rowhook_" + s.name + "', 'pgoutput')")
	edit(itemsAs(1))
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	edit(tables(2, "a"))
	contains(t, "the reload", s.refused(1), "public.a", "ALTER PUBLICATION", "ADD TABLE")
	old, err := s.cluster.Conn(t.Context(), s.name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close(context.Background()) }()
	run := func(sql string) {
		t.Helper()
		if _, err := old.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	run("BEGIN; INSERT INTO a VALUES (1)")
	s.exec("ALTER PUBLICATION rowhook_shop ADD TABLE a") // waits for nobody
	done := make(chan api.ReloadResponse, 1)
	go func() { done <- s.reload() }()
	s.eventually(func() error {
		if s.rulesInForce().Waiting == "" && s.ask("SELECT count(*)::text FROM pg_stat_activity WHERE query LIKE '%pg_snapshot_xmin%' AND pid <> pg_backend_pid()") == "0" {
			return fmt.Errorf("the rules do not wait for the writer")
		}
		return nil
	})
	run("INSERT INTO a VALUES (2); COMMIT")
	<-done
	s.untilSourceThat("has no rules waiting", func(src *api.SourceStatus) bool { return src.Rules.Waiting == "" })
	s.exec("INSERT INTO a VALUES (3)")
	// The transaction of rows 1 and 2 committed before the place: it is judged by the rules before,
	// as a whole, though half of it was sent.
	s.expect(1, 3)
}

// A rule that reads a column which a migration has just added judges only what commits afterwards,
// also when the daemon was away and has yet to read what was written before the migration.
func placeColumn(t *testing.T, s *shop) {
	s.put(1)
	s.expect(1)
	if code := s.d.Term(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	s.put(2, 3)
	s.exec("ALTER TABLE items ADD COLUMN more int DEFAULT 7")
	s.put2(4)
	s.edit(strings.Replace(itemsAs(2), "v = 2,", "v = 2, more = new.more,", 1), "")
	s.d.StartReady()
	s.untilSourceThat("has no rules waiting", func(src *api.SourceStatus) bool { return src.Rules.Waiting == "" && src.Rules.Fingerprint != "" })
	s.put2(5)
	s.expect(1, 2, 3, 4, 5)
	for _, q := range s.hook.Events() {
		if m := madeBy(t, q); m.V == 2 != (m.ID == 5) {
			t.Errorf("item %d is judged by version %d", m.ID, m.V)
		}
	}
	if n := len(readJSON[api.Failures](s, "events", "failures").Failures); n != 0 {
		t.Errorf("%d failures", n)
	}
}

func (s *shop) put2(id int) {
	s.t.Helper()
	s.exec(fmt.Sprintf("INSERT INTO items (id, v) VALUES (%d, 'x')", id))
}
