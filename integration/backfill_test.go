package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
)

const backfillRules = `
source "postgres" "shop" {
  url = env("DATABASE_URL")
%s
}
event "item" {
  table = "public.items"
  on    = ["insert", "update", "delete", "read"]
  data  = { id = row.id, was = old.id, v = new.v }
}
sink "webhook" "mirror" {
  url     = %q
  events  = ["**"]
  secrets = [%q]
  retry { max_attempts = 100 }
}
`

// backfillWorld is a table of items, a daemon and a receiver that is the mirror.
type backfillWorld struct {
	t        *testing.T
	cluster  *postgres.Cluster
	daemon   *harness.Daemon
	receiver *harness.Receiver
}

// newBackfillWorld makes a table of n items and does not start the daemon yet.
func newBackfillWorld(t *testing.T, n int, source string, settings map[string]string) *backfillWorld {
	t.Helper()
	w := &backfillWorld{t: t, cluster: postgres.New(t, postgres.Options{Settings: settings}), receiver: harness.NewReceiver(t)}
	url := w.cluster.Database(t, "shop")
	w.exec(fmt.Sprintf("CREATE TABLE items (id int PRIMARY KEY, v text NOT NULL); INSERT INTO items SELECT i, 'first ' || i FROM generate_series(1, %d) i; ANALYZE items", n))
	w.daemon = harness.NewDaemon(t, harness.DaemonOptions{DatabaseURL: url, Rules: fmt.Sprintf(backfillRules, source, w.receiver.URL, harness.Secret)})
	return w
}

func (w *backfillWorld) exec(sql string) {
	w.t.Helper()
	if err := w.cluster.Exec(w.t.Context(), "shop", sql); err != nil {
		w.t.Fatal(err)
	}
}

func (w *backfillWorld) conn() *pgx.Conn {
	w.t.Helper()
	conn, err := w.cluster.Conn(w.t.Context(), "shop")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// backfill is what "rowhook backfill ... --json" prints.
type backfill struct {
	ID       int64
	State    string
	Reason   string
	Rows     int64
	Events   int64
	Estimate int64
}

// command runs "rowhook backfill" with the arguments, which has to end well.
func (w *backfillWorld) command(args ...string) backfill {
	w.t.Helper()
	r := w.daemon.Command(append([]string{"backfill", "--data-dir", "DATA", "--json"}, args...)...)
	if r.Code != 0 {
		w.t.Fatalf("rowhook backfill %v: %+v", args, r)
	}
	var b backfill
	if err := json.Unmarshal([]byte(r.Stdout), &b); err != nil {
		w.t.Fatalf("%v: %s", err, r.Stdout)
	}
	return b
}

// until waits until the backfill is as it should be.
func (w *backfillWorld) until(id int64, what string, is func(backfill) bool) backfill {
	w.t.Helper()
	var b backfill
	harness.Eventually(w.t, harness.Patience, func() error {
		r := w.daemon.Command("backfill", "show", strconv.FormatInt(id, 10), "--data-dir", "DATA", "--json")
		if r.Code == 0 {
			if err := json.Unmarshal([]byte(r.Stdout), &b); err != nil {
				return err
			}
			if is(b) {
				return nil
			}
		}
		return fmt.Errorf("backfill %d is not %s: %+v, %s", id, what, b, r.Stderr)
	})
	return b
}

func (w *backfillWorld) done(id int64) backfill {
	w.t.Helper()
	return w.until(id, "done", func(b backfill) bool { return b.State == "done" })
}

type item struct {
	ID int
	V  string
}

// change is an event of an item as it came.
type change struct {
	item
	was int // the id before, 0 when there is none
	op  string
}

// table returns the rows by id.
func (w *backfillWorld) table() map[int]string {
	w.t.Helper()
	rows, err := w.conn().Query(w.t.Context(), "SELECT id, v FROM items")
	if err != nil {
		w.t.Fatal(err)
	}
	items, err := pgx.CollectRows(rows, pgx.RowToStructByPos[item])
	if err != nil {
		w.t.Fatal(err)
	}
	m := map[int]string{}
	for _, i := range items {
		m[i.ID] = i.V
	}
	return m
}

func (w *backfillWorld) changes() []change {
	w.t.Helper()
	var all []change
	for _, q := range w.receiver.Events() {
		var body struct {
			Op   string
			Data struct {
				item
				Was int
			}
		}
		if err := json.Unmarshal(q.Body, &body); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, change{body.Data.item, body.Data.Was, body.Op})
	}
	return all
}

// mirror applies what came, in order.
func mirror(all []change) map[int]string {
	m := map[int]string{}
	for _, c := range all {
		if c.was != 0 {
			delete(m, c.was)
		}
		if c.op != "delete" {
			m[c.ID] = c.V
		}
	}
	return m
}

// equal waits until the mirror has what the table has.
func (w *backfillWorld) equal() {
	w.t.Helper()
	want := w.table()
	w.receiver.Wait(harness.Patience, func() error {
		got := mirror(w.changes())
		if maps.Equal(got, want) {
			return nil
		}
		n := 0
		for id, v := range want {
			if got[id] != v {
				n++
			}
		}
		return fmt.Errorf("the mirror has %d rows, %d of which are missing or wrong, the table has %d", len(got), n, len(want))
	})
}

// writers change rows at random until the returned function is called. A
// connection that breaks is made anew.
func (w *backfillWorld) writers(seed uint64, n, rows int) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	for i := range n {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() {
			for ctx.Err() == nil {
				if conn, err := w.cluster.Conn(ctx, "shop"); err == nil {
					for err == nil && ctx.Err() == nil {
						_, err = conn.Exec(ctx, writeItem(rng, rows))
						if err != nil && strings.Contains(err.Error(), "duplicate key") {
							err = nil
						}
					}
					_ = conn.Close(context.Background())
				}
				wait(ctx, 10*time.Millisecond)
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// writeItem returns a random statement on one of so many ids.
func writeItem(rng *rand.Rand, rows int) string {
	id, v := 1+rng.IntN(rows), rng.Uint32()
	switch rng.IntN(10) {
	case 0:
		return fmt.Sprintf("INSERT INTO items VALUES (%d, 'insert %d') ON CONFLICT DO NOTHING", id, v)
	case 1:
		return fmt.Sprintf("DELETE FROM items WHERE id = %d", id)
	case 2:
		return fmt.Sprintf("UPDATE items SET id = %d, v = 'move %d' WHERE id = %d", 1+rng.IntN(rows), v, id)
	case 3:
		return fmt.Sprintf("BEGIN; UPDATE items SET v = 'undone' WHERE id = %d; SELECT pg_sleep(0.005); ROLLBACK", id)
	}
	return fmt.Sprintf("UPDATE items SET v = 'update %d' WHERE id = %d", v, id)
}

// TestBackfill_MirrorIsRightWhileRowsChange kills rowhook and the server while a
// table under writers is read.
func TestBackfill_MirrorIsRightWhileRowsChange(t *testing.T) {
	const rows = 4000
	seed := seedOf(t)
	w := newBackfillWorld(t, rows, "", nil)
	w.daemon.StartReady()
	stop := w.writers(seed, 3, rows)
	b := w.command("item", "--rate", "800")
	if b.Estimate < rows/2 || b.Estimate > 2*rows {
		t.Errorf("about %d rows of %d", b.Estimate, rows)
	}
	read := int64(0)
	for i := range 3 {
		read = w.until(b.ID, "reading", func(b backfill) bool { return b.Rows > read }).Rows
		// No snapshot is made until this ends: however slow the machine, something is
		// left to read.
		blocker := w.conn()
		if _, err := blocker.Exec(t.Context(), "BEGIN; CREATE TABLE blocker (id int)"); err != nil {
			t.Fatal(err)
		}
		switch i {
		case 0, 2:
			w.daemon.Kill9()
			w.daemon.StartReady()
		case 1:
			w.cluster.Kill9()
			if err := w.cluster.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		_ = blocker.Close(t.Context())
	}
	b = w.done(b.ID)
	stop()
	w.equal()
	reads := map[int]int{}
	for _, c := range w.changes() {
		if c.op == "read" {
			reads[c.ID]++
		}
	}
	total := 0
	for _, n := range reads {
		total += n
	}
	if int64(total) != b.Events || b.Rows != b.Events {
		t.Errorf("%d read events came, the backfill says %+v", total, b)
	}
	w.slots(1)
}

// TestBackfill_G5_TheStreamAnswersWhileAChunkIsRead reads one chunk for five times
// as long as the server waits for a sign of life of the stream.
func TestBackfill_G5_TheStreamAnswersWhileAChunkIsRead(t *testing.T) {
	t.Parallel()
	const rows = 100
	w := newBackfillWorld(t, rows, "", map[string]string{"wal_sender_timeout": "1s"})
	w.exec("CREATE FUNCTION public.slow(v text) RETURNS bool LANGUAGE sql VOLATILE AS $$ SELECT v || pg_sleep(0.05)::text <> '' $$")
	w.daemon.StartReady()
	conn := w.conn()
	walsender := func() (pid int) {
		t.Helper()
		harness.Eventually(t, harness.Patience, func() error {
			return conn.QueryRow(t.Context(), "SELECT active_pid FROM pg_replication_slots WHERE NOT temporary AND active").Scan(&pid)
		})
		return pid
	}
	before := walsender()
	begin := time.Now()
	b := w.done(w.command("item", "--where", "public.slow(v)").ID)
	if took := time.Since(begin); took < rows*50*time.Millisecond || b.Rows != rows {
		t.Errorf("%d rows were read in %s, want %d and no less than 50 ms for each", b.Rows, took, rows)
	}
	if after := walsender(); after != before {
		t.Errorf("the stream was with process %d of the server and is with %d", before, after)
	}
	w.exec("UPDATE items SET v = 'last' WHERE id = 1")
	w.equal()
}

// slots checks that nothing is left but the source's own slot.
func (w *backfillWorld) slots(want int) {
	w.t.Helper()
	conn := w.conn()
	harness.Eventually(w.t, harness.Patience, func() error {
		n := 0
		if err := conn.QueryRow(w.t.Context(), "SELECT count(*) FROM pg_replication_slots").Scan(&n); err != nil {
			return err
		}
		if n != want {
			return fmt.Errorf("the server has %d slots", n)
		}
		return nil
	})
}

// seedOf returns a seed, which a failing test prints.
func seedOf(t *testing.T) uint64 {
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return seed
}

// TestBackfill_G2_VisibilityIsNotWALOrder streams a commit that nobody sees yet,
// because it waits for a standby. A snapshot that was placed by a position of
// the WAL would have the old row, after the event of the new one.
func TestBackfill_G2_VisibilityIsNotWALOrder(t *testing.T) {
	w := newBackfillWorld(t, 20, "", nil)
	w.daemon.StartReady()
	w.exec("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	w.exec("SELECT pg_reload_conf()")
	slow := w.conn()
	committed := make(chan error, 1)
	harness.Eventually(t, harness.Patience, func() error {
		var names string
		if err := slow.QueryRow(t.Context(), "SHOW synchronous_standby_names").Scan(&names); err != nil || names != "nobody" {
			return fmt.Errorf("synchronous_standby_names is %q, %w", names, err)
		}
		return nil
	})
	go func() {
		_, err := slow.Exec(t.Context(), "UPDATE items SET v = 'new' WHERE id = 7")
		committed <- err
	}()
	w.receiver.WaitCount(1)
	if got := w.table()[7]; got != "first 7" {
		t.Fatalf("row 7 is %q: the commit is visible", got)
	}
	b := w.command("item")
	b = w.until(b.ID, "waiting for the transaction", func(b backfill) bool { return strings.Contains(b.Reason, "pid ") })
	if b.Rows != 0 || !strings.Contains(b.Reason, "its snapshot waits for every transaction that has written") {
		t.Errorf("while the transaction is open: %+v", b)
	}
	w.daemon.WaitLog("backfill waits for long transactions")
	// Others' changes keep flowing meanwhile.
	w.exec("SET synchronous_commit = local; INSERT INTO items VALUES (100, 'meanwhile')")
	w.receiver.WaitCount(2)
	w.exec("ALTER SYSTEM RESET synchronous_standby_names")
	w.exec("SELECT pg_reload_conf()")
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	w.done(b.ID)
	w.equal()
	var of7 []string
	for _, c := range w.changes() {
		if c.ID == 7 {
			of7 = append(of7, c.op+" "+c.V)
		}
	}
	if fmt.Sprint(of7) != "[update new read new]" {
		t.Errorf("row 7 came as %q", of7)
	}
}

func TestBackfill_CancelWhereAndOrder(t *testing.T) {
	w := newBackfillWorld(t, 4000, "", nil)
	w.daemon.StartReady()
	first := w.command("item", "--rate", "200")
	second := w.command("item", "--where", "id % 1000 = 0 AND v <> 'it''s'")
	w.until(first.ID, "reading", func(b backfill) bool { return b.Rows > 0 && b.State == "running" })
	if b := w.until(second.ID, "there", func(b backfill) bool { return true }); b.State != "waiting" {
		t.Errorf("the second one is %s while the first runs", b.State)
	}
	cancelled := w.command("cancel", strconv.FormatInt(first.ID, 10))
	if cancelled.State != "cancelled" || cancelled.Rows == 0 || cancelled.Rows >= 4000 {
		t.Errorf("after cancel: %+v", cancelled)
	}
	if r := w.daemon.Command("backfill", "cancel", "1", "--data-dir", "DATA"); r.Code != 1 || !strings.Contains(r.Stderr, "has ended already") {
		t.Errorf("a second cancel: %+v", r)
	}
	if b := w.done(second.ID); b.Rows != 4 || b.Events != 4 {
		t.Errorf("with the condition: %+v", b)
	}
	w.exec("INSERT INTO items VALUES (5000, 'last')")
	w.receiver.WaitCount(int(cancelled.Events) + 5)
	if n := w.receiver.Count(); n != int(cancelled.Events)+5 {
		t.Errorf("%d events came, want %d of the cancelled one, 4 of the second and the insert", n, cancelled.Events)
	}
	for _, c := range []struct{ args, says string }{
		{"item --where true)", "a closing parenthesis too many"},
		{"item --where nothing=1", `column "nothing" does not exist`},
		{"itm", "no event is called itm; there are item"},
	} {
		r := w.daemon.Command(append([]string{"backfill", "--data-dir", "DATA"}, strings.Fields(c.args)...)...)
		if r.Code == 0 || !strings.Contains(r.Stderr, c.says) {
			t.Errorf("rowhook backfill %s: %+v", c.args, r)
		}
	}
	// What was asked for while no daemon ran is read when it does.
	w.daemon.Term()
	r := w.daemon.Command("backfill", "item", "-c", "CONFIG", "--where", "id = 3", "--json")
	var b backfill
	if err := json.Unmarshal([]byte(r.Stdout), &b); err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	w.daemon.StartReady()
	if b := w.done(b.ID); b.Events != 1 {
		t.Errorf("of the stopped daemon: %+v", b)
	}
}

// TestBackfill_FirstStartHasEachRowOnce begins a source with the rows there are,
// while more come: each is read or streamed, and none is both.
func TestBackfill_FirstStartHasEachRowOnce(t *testing.T) {
	w := newBackfillWorld(t, 2000, `  backfill = ["item"]`, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := w.cluster.Conn(ctx, "shop")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		for id := 10000; ctx.Err() == nil; id++ {
			if _, err := conn.Exec(ctx, "INSERT INTO items VALUES ($1, 'during')", id); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	w.daemon.StartReady()
	b := w.done(1)
	cancel()
	wg.Wait()
	w.equal()
	seen := map[int]string{}
	reads := int64(0)
	for _, c := range w.changes() {
		if before := seen[c.ID]; before != "" {
			t.Fatalf("row %d came as %s and as %s", c.ID, before, c.op)
		}
		seen[c.ID] = c.op
		if c.op == "read" {
			reads++
		}
	}
	if reads != b.Rows || reads < 2000 {
		t.Errorf("%d rows were read, the backfill says %+v", reads, b)
	}
	// It is of the first start only.
	w.daemon.Term()
	w.daemon.StartReady()
	if r := w.daemon.Command("backfill", "list", "--data-dir", "DATA", "--json"); strings.Count(r.Stdout, `"id"`) != 1 {
		t.Errorf("after another start: %s", r.Stdout)
	}
}

// TestBackfill_FirstStartSurvivesKills kills rowhook while the rows of the first
// start are read: what is left goes on with snapshots of its own.
func TestBackfill_FirstStartSurvivesKills(t *testing.T) {
	const rows = 30000
	w := newBackfillWorld(t, rows, `  backfill = ["item"]`, nil)
	stop := w.writers(seedOf(t), 2, rows)
	w.daemon.Start()
	w.daemon.WaitLog("msg=streaming")
	w.until(1, "reading", func(b backfill) bool { return b.Rows > 0 })
	w.daemon.Kill9()
	w.daemon.StartReady()
	w.done(1)
	stop()
	w.equal()
}

// TestBackfill_MovedRowIsWhole moves a row that was not read yet to where was
// read already. The event of the move lacks the value that did not change, and
// no chunk will come by: the row is read once more, also after a crash.
func TestBackfill_MovedRowIsWhole(t *testing.T) {
	w := newBackfillWorld(t, 0, "", nil)
	w.exec(`CREATE TABLE large (a int, b text, big text, n numeric, at timestamptz, js jsonb, PRIMARY KEY (a, b)); ALTER TABLE large ALTER big SET STORAGE EXTERNAL;
		INSERT INTO large SELECT i, 'k' || i, repeat(md5(i::text), 200), i / 7.0, timestamptz '2026-01-01' + i * interval '1 hour', jsonb_build_object('i', i) FROM generate_series(1, 900) i`)
	w.daemon.SetRules(strings.Replace(fmt.Sprintf(backfillRules, "", w.receiver.URL, harness.Secret), `event "item" {
  table = "public.items"
  on    = ["insert", "update", "delete", "read"]
  data  = { id = row.id, was = old.id, v = new.v }`, `event "large" {
  table = "public.large"
  on    = ["insert", "update", "read"]
  data  = merge(row, { was = old.b })`, 1))
	w.daemon.StartReady()
	b := w.command("large", "--rate", "300")
	w.until(b.ID, "reading", func(b backfill) bool { return b.Rows > 0 })
	blocker := w.conn()
	if _, err := blocker.Exec(t.Context(), "BEGIN; CREATE TABLE blocker (id int)"); err != nil {
		t.Fatal(err)
	}
	w.exec("UPDATE large SET a = 0, b = 'it''s' WHERE a = 900; UPDATE large SET a = -1 WHERE a = 899")
	w.receiver.Wait(harness.Patience, func() error {
		for _, q := range w.receiver.Events() {
			if strings.Contains(string(q.Body), `"unchanged":["big"]`) {
				return nil
			}
		}
		return fmt.Errorf("no event lacks the value")
	})
	w.daemon.Kill9()
	w.daemon.StartReady()
	_ = blocker.Close(t.Context())
	w.done(b.ID)
	rows, err := w.conn().Query(t.Context(), "SELECT b, to_jsonb(large)::text FROM large")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for rows.Next() {
		var b, text string
		if err := rows.Scan(&b, &text); err != nil {
			t.Fatal(err)
		}
		want[b] = text
	}
	w.receiver.Wait(harness.Patience, func() error { return sameLarge(w.receiver.Events(), want) })
}

// sameLarge applies the events to rows and compares them with the server's.
func sameLarge(events []*harness.Request, want map[string]string) error {
	got := map[string]map[string]any{}
	for _, q := range events {
		var data map[string]any
		if err := json.Unmarshal(q.Data, &data); err != nil {
			return err
		}
		key, was := data["b"].(string), data["was"]
		delete(data, "was")
		row := map[string]any{}
		if s, ok := was.(string); ok {
			maps.Copy(row, got[s])
			delete(got, s)
		}
		maps.Copy(row, got[key])
		maps.Copy(row, data)
		got[key] = row
	}
	if len(got) != len(want) {
		return fmt.Errorf("the mirror has %d rows, the table %d", len(got), len(want))
	}
	for key, text := range want {
		var row map[string]any
		if err := json.Unmarshal([]byte(text), &row); err != nil {
			return err
		}
		if !reflect.DeepEqual(row, got[key]) {
			return fmt.Errorf("row %s is %v, want %.200s", key, got[key], text)
		}
	}
	return nil
}
