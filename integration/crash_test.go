package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// crashBed is what the tests of crashes share: a database, a receiver and a daemon between them.
type crashBed struct {
	t        *testing.T
	cluster  *postgres.Cluster
	db       *pgx.Conn
	receiver *harness.Receiver
	daemon   *harness.Daemon
}

// newCrashBed makes the tables; rules get the receiver's URL in place of URL.
func newCrashBed(t *testing.T, schema, rules string, o harness.DaemonOptions, settings map[string]string) *crashBed {
	t.Helper()
	b := &crashBed{t: t, cluster: postgres.New(t, postgres.Options{Settings: settings})}
	o.DatabaseURL = b.cluster.Database(t, "shop")
	var err error
	if b.db, err = b.cluster.Conn(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close(context.Background()) })
	b.exec(schema)
	b.receiver = harness.NewReceiver(t)
	o.Rules = b.rules(rules)
	b.daemon = harness.NewDaemon(t, o)
	return b
}

func (b *crashBed) rules(text string) string {
	return strings.ReplaceAll(text, `"URL"`, fmt.Sprintf("%q\n  secrets = [%q]", b.receiver.URL, harness.Secret))
}

func (b *crashBed) exec(sql string) {
	b.t.Helper()
	if _, err := b.db.PgConn().Exec(b.t.Context(), sql).ReadAll(); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

// lsn is a position that a query returns.
func (b *crashBed) lsn(sql string) relay.LSN {
	b.t.Helper()
	var text string
	if err := b.db.QueryRow(b.t.Context(), sql).Scan(&text); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	lsn, err := relay.ParseLSN(text)
	if err != nil {
		b.t.Fatal(err)
	}
	return lsn
}

func (b *crashBed) written() relay.LSN {
	b.t.Helper()
	return b.lsn("SELECT pg_current_wal_lsn()::text")
}

func (b *crashBed) confirmed() relay.LSN {
	b.t.Helper()
	return b.lsn("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'rowhook_shop'")
}

// checkpoint asks the program, of which it does not matter whether it runs.
func (b *crashBed) checkpoint() (relay.LSN, *api.Partial) {
	b.t.Helper()
	r := b.daemon.Command("checkpoint", "show", "--json", "--data-dir", "DATA")
	var shown api.Checkpoints
	if err := json.Unmarshal([]byte(r.Stdout), &shown); err != nil || r.Code != 0 || len(shown.Checkpoints) != 1 {
		b.t.Fatalf("checkpoint show: exit code %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	lsn, err := relay.ParseLSN(shown.Checkpoints[0].LSN)
	if err != nil {
		b.t.Fatal(err)
	}
	return lsn, shown.Checkpoints[0].Partial
}

// log reads the visible events of the source's stream out of the store of a stopped daemon, and how
// far the stream is.
func (b *crashBed) log() ([]relay.Event, relay.StreamState) {
	b.t.Helper()
	store, err := sqlitestore.Open(b.t.Context(), sqlitestore.Options{Dir: b.daemon.DataDir})
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			b.t.Error(err)
		}
	}()
	state, err := store.Stream(b.t.Context(), "shop")
	if err != nil {
		b.t.Fatal(err)
	}
	var events []relay.Event
	for after := int64(0); ; {
		blocks, err := store.Blocks(b.t.Context(), "shop", after, 1<<20)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(blocks) == 0 {
			return events, state
		}
		for _, block := range blocks {
			r := block.Reader()
			for e := (relay.Event{}); r.Next(&e); {
				events = append(events, e)
			}
			if r.Err() != nil {
				b.t.Fatal(r.Err())
			}
			after = block.Last
		}
	}
}

const bigRules = `
source "postgres" "shop" { url = env("DATABASE_URL") }
event "row.made" {
  table = "public.big"
  on    = ["insert"]
  data  = { n = new.n, rules = "RULES" }
}
event "row.thousandth" {
  table = "public.big"
  on    = ["insert"]
  when  = new.n % 1000 == 0
  data  = { n = new.n, rules = "RULES" }
}
sink "webhook" "receiver" {
  url    = "URL"
  events = ["row.thousandth"]
}
`

// A transaction of 200,000 rows does not fit into memory at once, so it is stored in parts. rowhook
// is killed between them.
func TestCrash_HalfStoredTransaction(t *testing.T) {
	const rows = 200_000
	rules := func(n int) string { return strings.ReplaceAll(bigRules, "RULES", fmt.Sprint(n)) }
	b := newCrashBed(t, "CREATE TABLE big (n int PRIMARY KEY, pad text)", rules(1), harness.DaemonOptions{}, nil)
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	b.daemon.StartReady()
	b.exec("INSERT INTO big VALUES (0, '')")
	b.receiver.WaitCount(1)
	if code := b.daemon.Term(); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	// The whole transaction is there when the daemon starts, so that the parts come one after the other.
	b.exec(fmt.Sprintf("INSERT INTO big SELECT n, 'x' FROM generate_series(1, %d) AS n", rows))
	end := b.written()
	var before uint64
	kill := func(use int) {
		t.Helper()
		b.daemon.SetRules(b.rules(rules(use)))
		b.daemon.Start()
		// Somewhere in what is left, and past two parts of 1 MiB, of which one is stored then.
		b.untilChanges(float64(rows) * (0.2 + 0.1*rng.Float64()))
		b.daemon.Kill9()
		lsn, partial := b.checkpoint()
		if partial == nil || partial.Changes == 0 || partial.Changes >= rows {
			t.Fatalf("the kill did not fall between two parts: checkpoint %s, half-stored %+v", lsn, partial)
		}
		if lsn >= end || b.confirmed() > lsn {
			t.Errorf("a half-stored transaction: checkpoint %s, confirmed %s, its end is %s", lsn, b.confirmed(), end)
		}
		events, state := b.log()
		if len(events) != 2 || state.Head != 2 || state.Tail != 2+int64(partial.Events) {
			t.Errorf("a half-stored transaction is visible: %d events, head %d, tail %d, half-stored %+v", len(events), state.Head, state.Tail, partial)
		}
		if r := b.daemon.Command("events", "list", "--data-dir", "DATA"); strings.Count(r.Stdout, "evt_") != 2 {
			t.Errorf("events list shows it: %s", r.Stdout)
		}
		if n := b.receiver.Count(); n != 1 {
			t.Errorf("%d of its events were delivered", n-1)
		}
		t.Logf("killed with %d changes in the log, under rules %d", partial.Changes, use)
		before = partial.Changes
	}
	const continuing = "continuing a half-stored transaction"
	wantLog := func(text string, times int) {
		t.Helper()
		if n := strings.Count(b.daemon.Log(), text); n != times {
			t.Errorf("the log says %s %d times, want %d", text, n, times)
		}
	}
	kill(1)
	first := before
	kill(1)
	if before <= first {
		t.Errorf("the first start left %d changes, the second %d: it did not go on", first, before)
	}
	wantLog(continuing, 1)
	wantLog("voiding a half-stored transaction", 0)
	kill(2) // other rules: what is there is of no use
	wantLog(continuing, 1)
	wantLog("voiding a half-stored transaction", 1)
	kill(2)
	wantLog(continuing, 2)
	kill(3)
	wantLog("voiding a half-stored transaction", 2)

	b.daemon.Start()
	b.receiver.WaitCount(1 + rows/1000)
	b.exec(fmt.Sprintf("INSERT INTO big VALUES (%d, '')", 2*rows))
	b.receiver.WaitCount(2 + rows/1000)
	wantLog(continuing, 3)
	if code := b.daemon.Term(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if lsn, partial := b.checkpoint(); partial != nil || lsn < end {
		t.Errorf("checkpoint %s, half-stored %+v, the transaction ended at %s", lsn, partial, end)
	}
	events, _ := b.log()
	wantEvents(t, events, rows)
	if n := len(b.receiver.Requests()); n != 2+rows/1000 {
		t.Errorf("%d requests for %d events", n, 2+rows/1000)
	}
}

// wantEvents looks for the events of row 0 under rules 1, of the transaction under rules 3, and of
// the row after it, each once and in their order.
func wantEvents(t *testing.T, events []relay.Event, rows int) {
	t.Helper()
	ids := map[relay.EventID]bool{}
	i := 0
	next := func(typ string, n, rules int) bool {
		if i == len(events) {
			t.Errorf("the log ends before %s of row %d", typ, n)
			return false
		}
		e := events[i]
		if want := fmt.Sprintf(`{"n":%d,"rules":"%d"}`, n, rules); e.Type != typ || string(e.Data) != want || ids[e.ID] || e.Seq <= 0 || i > 0 && e.Seq <= events[i-1].Seq {
			t.Errorf("event %d of the log is %s %s %s at %d, want %s %s", i, e.ID, e.Type, e.Data, e.Seq, typ, want)
			return false
		}
		ids[e.ID] = true
		i++
		return true
	}
	row := func(n, rules int) bool {
		return next("row.made", n, rules) && (n%1000 != 0 || next("row.thousandth", n, rules))
	}
	ok := row(0, 1)
	for n := 1; ok && n <= rows; n++ {
		ok = row(n, 3)
	}
	if ok = ok && row(2*rows, 3); ok && i != len(events) {
		t.Errorf("%d more events in the log", len(events)-i)
	}
}

// untilChanges waits until the daemon has judged so many changes since its start.
func (b *crashBed) untilChanges(n float64) {
	b.t.Helper()
	late := time.Now().Add(harness.Patience)
	tick := time.NewTicker(2 * time.Millisecond) // finer than Eventually: a kill has to hit
	defer tick.Stop()
	for time.Now().Before(late) {
		if got, err := b.daemon.Metric("rowhook_source_changes_total"); err == nil && got >= n {
			return
		}
		<-tick.C
	}
	b.t.Fatalf("%.0f changes were not read in time", n)
}
