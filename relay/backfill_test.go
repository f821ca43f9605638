package relay_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// reading is rule(name) with read among its operations.
func reading(name string) *relay.Rule {
	r := rule(name)
	r.Ops |= relay.OpsOf(relay.Read)
	return r
}

// runIngest runs in until the returned function is called.
func runIngest(t *testing.T, in *relay.Ingest) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- in.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// data returns what logged returns without the ids.
func data(t testing.TB, store *relaytest.Memory) []string {
	t.Helper()
	var out []string
	for _, line := range logged(t, store) {
		_, d, _ := strings.Cut(line, " ")
		out = append(out, strings.Trim(d, `"`))
	}
	return out
}

func one(xid uint32, lsn relay.LSN, row string) *tx {
	return &tx{Tx: relay.Tx{XID: xid, CommitLSN: lsn, CommitTime: int64(lsn)}, end: lsn + 8, rows: []string{row}}
}

func TestChunk_StandsExactlyAtItsPoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reading("a")
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{r, reading("b")}}
		b := relay.Backfill{Source: "shop", Rule: "a", CreatedAt: 5}
		check(t, s.store.AddBackfill(t.Context(), &b))
		in := s.open(t)
		defer runIngest(t, in)()
		check(t, in.Hold(100))
		stop := forever
		check(t, send(in, one(1, 96, "before"), &stop))
		streamed := make(chan error, 1)
		go func() {
			// It commits at the very point: its record is the first one after it.
			err := send(in, one(2, 200, "at"), &stop)
			if err == nil {
				err = send(in, one(3, 208, "after"), &stop)
			}
			streamed <- err
		}()
		synctest.Wait()
		if got := data(t, s.store); !slices.Equal(got, []string{"before", "before"}) {
			t.Fatalf("while the gate is closed: %q", got)
		}
		c, err := in.NewChunk(&b, r, 200, 77)
		check(t, err)
		check(t, c.Wait(t.Context()))
		for i := range 3 {
			check(t, c.Read(t.Context(), tableT, value(fmt.Sprint("row", i)), [][]byte{[]byte(fmt.Sprint(i))}))
		}
		check(t, c.Read(t.Context(), tableT, value("skip"), [][]byte{[]byte("3")}))
		synctest.Wait()
		progress, err := c.Close(t.Context(), false)
		check(t, err)
		check(t, <-streamed)
		synctest.Wait()
		want := []string{"before", "before", "row0", "row1", "row2", "at", "at", "after", "after"}
		if got := data(t, s.store); !slices.Equal(got, want) {
			t.Errorf("the log has %q, want %q", got, want)
		}
		if progress.Rows != 4 || progress.Events != 3 || string(progress.After[0]) != "3" {
			t.Errorf("progress %+v", progress)
		}
		kept, err := s.store.Backfills(t.Context())
		check(t, err)
		if kept[0].State != relay.BackfillOpen || kept[0].Progress.Rows != 4 {
			t.Errorf("the store has %+v", kept[0])
		}
		// What the sequence says is the order of the log.
		var last string
		events, err := s.store.Blocks(t.Context(), "shop", 0, 1<<20)
		check(t, err)
		for _, block := range events {
			reader := block.Reader()
			for e := (relay.Event{}); reader.Next(&e); {
				if seq := e.Sequence(); seq <= last {
					t.Errorf("sequence %s of %s after %s", seq, e.Data, last)
				} else {
					last = seq
				}
			}
		}
	})
}

func TestChunk_AStreamThatHasPassedHasNoPlaceForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reading("a")
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{r}}
		b := relay.Backfill{ID: 1, Source: "shop", Rule: "a"}
		in := s.open(t)
		defer runIngest(t, in)()
		stop := forever
		check(t, send(in, one(1, 200, "x"), &stop))
		if _, err := in.NewChunk(&b, r, 200, 1); !errors.Is(err, relay.ErrPointPassed) {
			t.Errorf("after a commit at the point: %v", err)
		}
		open := one(2, 300, "y")
		check(t, in.Begin(&open.Tx))
		if _, err := in.NewChunk(&b, r, 300, 1); !errors.Is(err, relay.ErrPointPassed) {
			t.Errorf("within a transaction after the point: %v", err)
		}
		if full := in.Full(); full != nil {
			t.Error("the gate stays closed")
		}
		// One that begins before the point does no harm: the chunk waits for its end.
		check(t, in.Commit(&open.Tx, 308))
		open = one(3, 400, "z")
		check(t, in.Begin(&open.Tx))
		c, err := in.NewChunk(&b, r, 500, 1)
		check(t, err)
		waited := make(chan error, 1)
		go func() { waited <- c.Wait(t.Context()) }()
		synctest.Wait()
		check(t, in.Commit(&open.Tx, 408))
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatalf("the chunk did not wait for the stream: %v", err)
		default:
		}
		check(t, in.Idle(1000)) // the server has nothing before 1000
		check(t, <-waited)
		// A message outside a transaction waits too, and nothing is lost of it.
		check(t, in.Change(&relay.Change{Op: relay.Message, LSN: 600, Name: "m", Payload: []byte("p")}))
		if in.Full() == nil || !strings.HasPrefix(in.Waits(), "a backfill has read the rows") {
			t.Errorf("a message passed the point, or waits until %s", in.Waits())
		}
		if _, err := c.Close(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if in.Full() != nil {
			t.Error("the stream stays held")
		}
		check(t, in.Idle(1008))
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if got := in.Durable(); got != 1008 {
			t.Errorf("durable %s, want 0/3F0", got)
		}
	})
}

// underWay is the progress of a backfill that has read some of the table, by id.
func underWay(table *relay.Relation) relay.BackfillProgress {
	return relay.BackfillProgress{Table: table.Table(), Key: []string{"id"}, After: [][]byte{[]byte("3")}}
}

func TestBackfill_NotesRowsThatMoveWithoutAllTheirValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := &relay.Relation{
			OID: 1, Schema: "public", Name: "t", Identity: relay.IdentityDefault,
			Columns: []relay.Column{{Name: "id", Identity: true}, {Name: "big"}}, PrimaryKey: []int{0},
		}
		row := func(id string, big relay.ValueState) relay.Row {
			return relay.Row{{State: relay.Known, Text: []byte(id)}, {State: big}}
		}
		r := reading("a")
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{r}}
		b := relay.Backfill{Source: "shop", Rule: "a", Progress: underWay(table)}
		check(t, s.store.AddBackfill(t.Context(), &b))
		in := s.open(t)
		in.Follow(&b)
		end := runIngest(t, in)
		x := relay.Tx{XID: 1, CommitLSN: 96}
		check(t, in.Begin(&x))
		for _, u := range []relay.Change{
			{Old: row("1", relay.Unknown), New: row("1", relay.Unknown)}, // the key is the same
			{Old: row("2", relay.Unknown), New: row("3", relay.Null)},    // all is there
			{Old: row("4", relay.Unknown), New: row("5", relay.Unknown)},
		} {
			u.Op, u.Relation, u.Tx = relay.Update, table, &x
			check(t, in.Change(&u))
		}
		check(t, in.Commit(&x, 104))
		synctest.Wait()
		end() // the process ends, the store has it
		all, err := s.store.Backfills(t.Context())
		check(t, err)
		in = s.open(t)
		defer runIngest(t, in)()
		in.Follow(&all[0])
		c, err := in.NewChunk(&all[0], in.Rule("a"), 200, 1)
		check(t, err)
		check(t, in.Idle(200))
		check(t, c.Wait(t.Context()))
		again := c.Moved()
		if len(again) != 1 || string(again[0][0]) != "5" {
			t.Fatalf("to read once more: %q", again)
		}
		check(t, c.Read(t.Context(), table, row("5", relay.Null), nil))
		c.ReadAgain(1)
		p, err := c.Close(t.Context(), false)
		check(t, err)
		if len(p.Moved) != 0 || string(p.After[0]) != "3" || p.Rows != 1 {
			t.Errorf("progress %+v", p)
		}
	})
}

func TestChunk_AnotherRuleEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{reading("a")}}
		in := s.open(t)
		defer runIngest(t, in)()
		if _, err := in.NewChunk(&relay.Backfill{ID: 1, Rule: "a"}, reading("a"), 100, 1); !errors.Is(err, relay.ErrRuleChanged) {
			t.Errorf("a chunk for a rule that is not in force: %v", err)
		}
	})
}

// TestBackfill_RandomCrashes reads a table in chunks while transactions come,
// kills the process again and again, and holds the log against what a server
// would have said at each point.
func TestBackfill_RandomCrashes(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomBackfill(t, seed) })
		})
	}
}

// backfillWorld is a server with one table: key i has the value of the last
// commit that touched it.
type backfillWorld struct {
	mu   sync.Mutex
	rng  *rand.Rand
	txs  []*tx
	keys int
}

func (w *backfillWorld) random(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

// pause takes up to n milliseconds.
func (w *backfillWorld) pause(n int) { time.Sleep(time.Duration(w.random(n+1)) * time.Millisecond) }

func (w *backfillWorld) commit() {
	w.mu.Lock()
	defer w.mu.Unlock()
	lsn := relay.LSN(1000)
	if n := len(w.txs); n > 0 {
		lsn = w.txs[n-1].end + relay.LSN(8*w.rng.IntN(2))
	}
	x := one(uint32(len(w.txs)+1), lsn, "")
	x.rows = nil
	for range 1 + w.rng.IntN(3) {
		x.rows = append(x.rows, fmt.Sprintf("%02d=%d", w.rng.IntN(w.keys), lsn))
	}
	w.txs = append(w.txs, x)
}

// sent returns the i-th transaction, nil when there is none yet, and the end of
// the WAL.
func (w *backfillWorld) sent(i int) (*tx, relay.LSN) {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := w.txs[len(w.txs)-1].end
	if i < len(w.txs) {
		return w.txs[i], end
	}
	return nil, end
}

// snapshot returns a point and the rows at it, by key.
func (w *backfillWorld) snapshot() (relay.LSN, map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rows := map[string]string{}
	for k := range w.keys {
		rows[fmt.Sprintf("%02d", k)] = "0"
	}
	for _, x := range w.txs {
		for _, r := range x.rows {
			k, v, _ := strings.Cut(r, "=")
			rows[k] = v
		}
	}
	return w.txs[len(w.txs)-1].end, rows
}

func randomBackfill(t *testing.T, seed uint64) {
	w := &backfillWorld{rng: rand.New(rand.NewPCG(seed, 1)), keys: 20}
	r := reading("a")
	s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{r}}
	b := relay.Backfill{Source: "shop", Rule: "a", CreatedAt: 3}
	check(t, s.store.AddBackfill(t.Context(), &b))
	w.commit()
	for life := 0; b.State == relay.BackfillOpen; life++ {
		if life > 1000 {
			t.Fatal("the backfill does not come to its end")
		}
		backfillLife(t, w, s, b, r)
		all, err := s.store.Backfills(t.Context())
		check(t, err)
		b = all[0]
	}
	// Whoever applies the events in order has the rows.
	in := s.open(t)
	end := runIngest(t, in)
	stop := forever
	for i := 0; ; i++ {
		x, _ := w.sent(i)
		if x == nil {
			break
		}
		check(t, send(in, x, &stop))
	}
	synctest.Wait()
	end()
	mirror, read, ids := map[string]string{}, map[string]int{}, map[string]bool{}
	for _, line := range logged(t, s.store) {
		id, d, _ := strings.Cut(line, " ")
		if ids[id] {
			t.Errorf("the id %s comes twice", id)
		}
		ids[id] = true
		k, v, _ := strings.Cut(strings.Trim(d, `"`), "=")
		if name, ok := strings.CutPrefix(k, "read"); ok {
			k = name
			read[k]++
		}
		mirror[k] = v
	}
	_, rows := w.snapshot()
	for k, v := range rows {
		if mirror[k] != v {
			t.Errorf("the mirror has %s=%s, the table %s", k, mirror[k], v)
		}
		if read[k] != 1 {
			t.Errorf("key %s was read %d times", k, read[k])
		}
	}
}

// backfillLife is one life of the process: the stream from the checkpoint on,
// chunks beside it, and a death somewhere.
func backfillLife(t *testing.T, w *backfillWorld, s *source, b relay.Backfill, r *relay.Rule) {
	in := s.open(t)
	end := runIngest(t, in)
	ctx, die := context.WithTimeout(t.Context(), time.Duration(1+w.random(40))*time.Millisecond)
	defer die()
	var streaming sync.WaitGroup
	streaming.Go(func() { serveStream(ctx, w, in) })
	for ctx.Err() == nil {
		if oneChunk(ctx, w, in, &b, r) != nil {
			break
		}
	}
	die()
	streaming.Wait()
	end()
}

// serveStream is the server's side: it sends what was committed, in order, and says
// when there is nothing more.
func serveStream(ctx context.Context, w *backfillWorld, in *relay.Ingest) {
	start := in.Checkpoint()
	room := func() bool {
		for full := in.Full(); full != nil; full = in.Full() {
			select {
			case <-full:
			case <-ctx.Done():
				return false
			}
		}
		return ctx.Err() == nil
	}
	for i := 0; room(); {
		x, end := w.sent(i)
		if x == nil {
			_ = in.Idle(end)
			time.Sleep(time.Millisecond)
			if w.random(2) == 0 {
				w.commit()
			}
			continue
		}
		i++
		if x.CommitLSN < start {
			continue
		}
		_ = in.Begin(&x.Tx)
		for n, row := range x.rows {
			if !room() {
				return
			}
			_ = in.Change(&relay.Change{Op: relay.Insert, Relation: tableT, New: value(row), LSN: x.CommitLSN - 1, Ordinal: uint32(n), Tx: &x.Tx})
		}
		if !room() {
			return
		}
		_ = in.Commit(&x.Tx, x.end)
	}
}

// oneChunk takes a snapshot and reads some rows after the last key. It returns
// an error when it is the last chunk of this life.
func oneChunk(ctx context.Context, w *backfillWorld, in *relay.Ingest, b *relay.Backfill, r *relay.Rule) error {
	_, flushed := w.sent(0)
	if w.random(4) > 0 { // without it the stream may have passed
		if err := in.Hold(flushed); err != nil {
			return err
		}
	}
	w.pause(4)
	point, rows := w.snapshot()
	w.pause(2)
	c, err := in.NewChunk(b, r, point, 9)
	if errors.Is(err, relay.ErrPointPassed) {
		return nil
	}
	if err != nil {
		return err
	}
	err = readSome(ctx, w, c, b, rows)
	p, cerr := c.Close(ctx, false)
	if cerr == nil {
		b.Progress = p
	}
	return errors.Join(err, cerr)
}

func readSome(ctx context.Context, w *backfillWorld, c *relay.Chunk, b *relay.Backfill, rows map[string]string) error {
	if err := c.Wait(ctx); err != nil {
		return err
	}
	after := ""
	if k := b.Progress.After; k != nil {
		after = string(k[0])
	}
	some := 1 + w.random(6)
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		if key <= after {
			continue
		}
		if some--; some < 0 {
			return nil
		}
		if err := c.Read(ctx, tableT, value("read"+key+"="+rows[key]), [][]byte{[]byte(key)}); err != nil {
			return err
		}
		w.pause(1)
	}
	c.EndTable(relay.TableName{Schema: "public", Name: "t"}, true)
	return errDone
}

var errDone = errors.New("all is read")
