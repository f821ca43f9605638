package relay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// progFunc is a Program made of a function.
type progFunc func(c *relay.Change, d *relay.Draft) (bool, error)

func (f progFunc) Eval(c *relay.Change, d *relay.Draft) (bool, error) { return f(c, d) }

// rule makes an event of every change of public.t but those whose first column
// begins with "skip", and fails on "fail". Of one that ends with "many" it makes three.
func rule(name string) *relay.Rule {
	return &relay.Rule{
		Name: name, Type: name, Source: "shop", Hash: "1",
		Tables: []relay.TableName{{Schema: "public", Name: "t"}},
		Ops:    relay.OpsOf(relay.Insert, relay.Update, relay.Delete, relay.Truncate),
		Bind: func(*relay.Relation) (relay.Program, error) {
			return progFunc(func(c *relay.Change, d *relay.Draft) (bool, error) {
				row := c.New
				if row == nil {
					row = c.Old
				}
				if row != nil {
					switch {
					case bytes.HasPrefix(row[0].Text, []byte("skip")):
						return false, nil
					case string(row[0].Text) == "fail":
						return false, errors.New("the rule fails")
					}
					d.Data = append(append(append(d.Data, '"'), row[0].Text...), '"')
					if bytes.HasSuffix(row[0].Text, []byte("many")) {
						for n := range 2 {
							more := d.Add()
							more.Data = fmt.Appendf(more.Data, `"%s%d"`, row[0].Text, n+1)
						}
					}
				}
				return true, nil
			}), nil
		},
	}
}

var tableT = &relay.Relation{
	OID: 1, Schema: "public", Name: "t", Identity: relay.IdentityDefault,
	Columns: []relay.Column{{Name: "id", TypeOID: 25, Identity: true}}, PrimaryKey: []int{0},
}

func value(s string) relay.Row { return relay.Row{{State: relay.Known, Text: []byte(s)}} }

// tx is a transaction of the fake server.
type tx struct {
	relay.Tx
	end  relay.LSN
	rows []string
}

// source is a fake server and the reader of it: it sends transactions in the
// order of their commits, from the checkpoint on.
type source struct {
	store  *relaytest.Memory
	feed   *relay.Feed
	rules  []*relay.Rule
	listed bool
	keep   bool
}

func (s *source) open(t testing.TB) *relay.Ingest {
	t.Helper()
	ctx := context.Background()
	st, err := s.store.SourceState(ctx, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if st == nil {
		st = &relay.SourceState{Source: "shop", Generation: 1, SystemID: 7, Timeline: 1, Phase: relay.PhaseStreaming, LSN: 1}
		if err := s.store.PutSource(ctx, st, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.feed = relay.NewFeed()
	in, err := relay.NewIngest(ctx, relay.IngestConfig{
		Listed: s.listed, Keep: s.keep,
		Stream: "shop", Source: "shop", SystemID: 7, Rules: relay.NewRuleSet("shop", s.rules),
		Log: s.store, Feed: s.feed, Logger: quiet(),
	}, st)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// send gives a transaction to in, waiting for room as a stream does, and stops
// after the given number of calls.
func send(in *relay.Ingest, x *tx, stop *int) error {
	step := func(f func() error) error {
		if *stop--; *stop < 0 {
			return errStopped
		}
		for full := in.Full(); full != nil; full = in.Full() {
			<-full
		}
		return f()
	}
	if err := step(func() error { return in.Begin(&x.Tx) }); err != nil {
		return err
	}
	for i, r := range x.rows {
		c := relay.Change{Op: relay.Insert, Relation: tableT, New: value(r), LSN: x.CommitLSN - 1, Ordinal: uint32(i), Tx: &x.Tx}
		if err := step(func() error { return in.Change(&c) }); err != nil {
			return err
		}
	}
	return step(func() error { return in.Commit(&x.Tx, x.end) })
}

var errStopped = errors.New("stopped")

const forever = 1 << 40

// logged returns the visible events of the store, in order, as "id data".
func logged(t testing.TB, store *relaytest.Memory) []string {
	t.Helper()
	var out []string
	for after := int64(0); ; {
		bs, err := store.Blocks(context.Background(), "shop", after, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(bs) == 0 {
			return out
		}
		for _, b := range bs {
			r := b.Reader()
			for e := (relay.Event{}); r.Next(&e); {
				if e.Seq <= after {
					t.Fatalf("place %d after %d", e.Seq, after)
				}
				after = e.Seq
				out = append(out, e.ID.String()+" "+string(e.Data))
			}
			if r.Err() != nil {
				t.Fatal(r.Err())
			}
		}
	}
}

func TestIngest_IsDurableOnlyAfterTheStoreHasCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{rule("a")}}
		in := s.open(t)
		var mu sync.Mutex
		var atCommit []relay.LSN
		s.store.Inject(func(step string) error {
			if step == "commit" {
				mu.Lock()
				atCommit = append(atCommit, in.Durable())
				mu.Unlock()
			}
			return nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()
		stop := forever
		for i := range 3 {
			x := &tx{Tx: relay.Tx{XID: uint32(i), CommitLSN: relay.LSN(100 * (i + 1))}, end: relay.LSN(100*(i+1) + 50), rows: []string{"x"}}
			if err := send(in, x, &stop); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := in.Durable(); got != x.end {
				t.Errorf("durable %s after the commit at %s was stored", got, x.end)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if want := []relay.LSN{1, 150, 250}; !slices.Equal(atCommit, want) {
			t.Errorf("when the store committed, durable was %v, want %v", atCommit, want)
		}
	})
}

func TestIngest_AnIdleDatabaseMovesTheCheckpointSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{rule("a")}}
		in := s.open(t)
		var writes atomic.Int64
		s.store.Inject(func(step string) error {
			if step == "append" {
				writes.Add(1)
			}
			return nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()
		for i := range 10000 {
			if err := in.Idle(relay.LSN(100 + i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if n := writes.Load(); n > 2 {
			t.Errorf("%d writes in ten seconds of keepalives", n)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if got := in.Durable(); got != 10099 {
			t.Errorf("durable %s, want 0/2773", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestIngest_ALargeTransactionIsVisibleOnlyWithItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{rule("a")}}
		in := s.open(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()
		x := &tx{Tx: relay.Tx{XID: 9, CommitLSN: 100}, end: 150}
		for i := range 5000 {
			x.rows = append(x.rows, fmt.Sprint(i, strings.Repeat("x", 1000)))
		}
		stop := len(x.rows)
		if err := send(in, x, &stop); !errors.Is(err, errStopped) {
			t.Fatal(err)
		}
		synctest.Wait()
		st, _ := s.store.Stream(ctx, "shop")
		if st.Head != 0 || st.Tail < 3000 {
			t.Errorf("head %d, tail %d while the transaction is open", st.Head, st.Tail)
		}
		if got := s.feed.Head("shop"); got != 0 {
			t.Errorf("the feed shows %d", got)
		}
		// The process ends here; the next one continues by counting.
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		in = s.open(t)
		ctx, cancel = context.WithCancel(context.Background())
		go func() { done <- in.Run(ctx) }()
		stop = forever
		if err := send(in, x, &stop); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := logged(t, s.store); len(got) != 5000 || len(slices.Compact(slices.Sorted(slices.Values(got)))) != 5000 {
			t.Errorf("%d events in the log, want 5000 different ones", len(got))
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// The state says which transaction was read last, with events or without, and
// when: a position of a keepalive does not change the first.
func TestIngest_RemembersTheLastTransactionThatWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{rule("a")}}
		in := s.open(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()
		stop := forever
		for _, x := range []*tx{
			{Tx: relay.Tx{XID: 9, CommitLSN: 100}, end: 150, rows: []string{"1"}},
			{Tx: relay.Tx{XID: 10, CommitLSN: 160}, end: 170, rows: []string{"skip"}},
		} {
			if err := send(in, x, &stop); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if err := in.Idle(300); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		st, err := s.store.SourceState(context.Background(), "shop")
		if err != nil || st.LSN != 300 || st.ReadLSN != 160 || time.Since(time.UnixMicro(st.ReadAt)) > time.Minute {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

func TestIngest_StopsASourceWhoseRuleAlwaysFails(t *testing.T) {
	s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{rule("a")}}
	in := s.open(t)
	x := &tx{Tx: relay.Tx{XID: 9, CommitLSN: 100}, end: 150, rows: slices.Repeat([]string{"fail"}, 1000)}
	stop := forever
	err := send(in, x, &stop)
	var failed *relay.RuleFailedError
	if !errors.As(err, &failed) || failed.Times != 1000 {
		t.Errorf("got %v, want the source to stop", err)
	}
}

// A change that does not carry what a rule reads stops the source before any
// rule has judged it, and is judged when the rules fit.
func TestIngest_AChangeWithoutAColumnIsNotJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lacks := rule("b")
		lacks.Bind = func(*relay.Relation) (relay.Program, error) {
			return nil, fmt.Errorf("bind: %w", &relay.MissingColumnError{Table: lacks.Tables[0], Column: "total"})
		}
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{rule("a"), lacks}, listed: true}
		in := s.open(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		run := func() { done <- in.Run(ctx) }
		go run()
		x := &tx{Tx: relay.Tx{XID: 9, CommitLSN: 100}, end: 150, rows: []string{"1", "2"}}
		stop := forever
		var unsent *relay.NotSentError
		if err := send(in, x, &stop); !errors.As(err, &unsent) || unsent.Rule != "b" {
			t.Errorf("got %v, want the source to stop", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := logged(t, s.store); len(got) != 0 {
			t.Errorf("the log has %v", got)
		}
		s.rules = []*relay.Rule{rule("a"), rule("b")}
		in = s.open(t)
		ctx, cancel = context.WithCancel(context.Background())
		go run()
		if err := send(in, x, &stop); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := logged(t, s.store); len(got) != 4 {
			t.Errorf("the log has %v, want two events of each change", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestIngest_ExactlyOnceInRandomWorlds lets transactions of many sizes, broken
// connections, crashes, changed rules and a failing store come as a seed says.
// In the end the log holds every event exactly once, in commit order, and so do
// the kept changes every change, in the worlds that keep them.
func TestIngest_ExactlyOnceInRandomWorlds(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomIngest(t, seed) })
		})
	}
}

func randomIngest(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 2))
	s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{rule("b"), rule("a")}, keep: seed%2 == 0}
	var txs []*tx
	lsn := relay.LSN(100)
	var want []string
	for i := range 1 + rnd.IntN(12) {
		x := &tx{Tx: relay.Tx{XID: uint32(i), CommitLSN: lsn, CommitTime: int64(i)}, end: lsn + 10}
		rows := rnd.IntN(8)
		if rnd.IntN(5) == 0 {
			rows = rnd.IntN(3000)
		}
		skip := s.keep && rnd.IntN(3) == 0 // no event, however much there is to keep
		for n := range rows {
			r := fmt.Sprintf("%d.%d.%s", i, n, strings.Repeat("x", rnd.IntN(1500)))
			switch rnd.IntN(10) {
			case 0:
				r = "skip"
			case 2:
				r += "many"
			case 1:
				if n%7 == 0 {
					r = "fail"
				}
			}
			if skip {
				r = "skip" + r
			}
			x.rows = append(x.rows, r)
			if strings.HasPrefix(r, "skip") || r == "fail" {
				continue
			}
			for _, name := range []string{"a", "b"} {
				f := relay.IDFacts{SystemID: 7, CommitLSN: lsn, XID: uint32(i), CommitTime: int64(i), Kind: relay.Insert, ChangeLSN: lsn - 1, Ordinal: uint32(n), Rule: name}
				want = append(want, f.ID().String()+` "`+r+`"`)
				for n := range 2 * strings.Count(r, "many") {
					f.Item = uint32(n + 1)
					want = append(want, fmt.Sprintf("%s \"%s%d\"", f.ID(), r, n+1))
				}
			}
		}
		txs = append(txs, x)
		lsn += relay.LSN(10 + rnd.IntN(100))
	}
	var mu sync.Mutex
	faults := rnd.IntN(3) == 0
	s.store.Inject(func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if faults && rnd.IntN(6) == 0 {
			return errors.New("the disk has a bad day")
		}
		return nil
	})
	for finished := false; !finished; {
		mu.Lock()
		was := faults
		faults = false
		mu.Unlock()
		in := s.open(t)
		mu.Lock()
		faults = was
		for _, r := range s.rules {
			if rnd.IntN(6) == 0 {
				r.Hash += "+" // the rule set counts as another one
			}
		}
		mu.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()
		mu.Lock()
		stop := rnd.IntN(4000)
		if rnd.IntN(4) == 0 {
			stop = forever
		}
		mu.Unlock()
		from := in.Durable()
		finished = true
		for _, x := range txs {
			if x.CommitLSN < from {
				continue
			}
			if err := send(in, x, &stop); err != nil {
				finished = false
				break
			}
		}
		if finished {
			if err := in.Idle(lsn + 1000); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		cancel()
		if err := <-done; err != nil && !faults {
			t.Fatal(err)
		}
	}
	mu.Lock()
	faults = false
	mu.Unlock()
	if s.keep {
		var all []string
		for _, x := range txs {
			for n, r := range x.rows {
				all = append(all, fmt.Sprintf("%d %d %d %s", x.XID, x.CommitLSN, n, r))
			}
		}
		if kept := keptRows(t, s.store); !slices.Equal(kept, all) {
			t.Errorf("seed %d: %d changes are kept, want %d", seed, len(kept), len(all))
		}
	}
	got := logged(t, s.store)
	if !slices.Equal(got, want) {
		for i := range want {
			if i >= len(got) || got[i] != want[i] {
				t.Errorf("first difference at %d: want %.60s", i, want[i])
				if i < len(got) {
					t.Errorf("got %.60s", got[i])
				}
				break
			}
		}
		t.Fatalf("seed %d: the log holds %d events, want %d", seed, len(got), len(want))
	}
	st, _ := s.store.Stream(context.Background(), "shop")
	if st.Head != st.Tail {
		t.Errorf("head %d, tail %d in the end", st.Head, st.Tail)
	}
}

func TestIngest_AChangeAtWhichARuleStopsTheSourceIsJudgedByTheOtherRules(t *testing.T) {
	failing, good := rule("a"), rule("b")
	failing.Bind = func(*relay.Relation) (relay.Program, error) {
		return progFunc(func(*relay.Change, *relay.Draft) (bool, error) { return false, errors.New("no") }), nil
	}
	good.Bind = func(*relay.Relation) (relay.Program, error) {
		return progFunc(func(c *relay.Change, d *relay.Draft) (bool, error) {
			d.Data = append(append(append(d.Data, '"'), c.New[0].Text[:4]...), '"')
			return true, nil
		}), nil
	}
	x := &tx{Tx: relay.Tx{XID: 1, CommitLSN: 100, CommitTime: 1}, end: 101}
	for i := range 30 {
		x.rows = append(x.rows, fmt.Sprintf("%04d%s", i, strings.Repeat("x", 60000)))
	}
	run := func(s *source, max int) error {
		s.open(t) // makes the source known
		st, _ := s.store.SourceState(context.Background(), "shop")
		in, err := relay.NewIngest(context.Background(), relay.IngestConfig{
			Stream: "shop", Source: "shop", SystemID: 7, Rules: relay.NewRuleSet("shop", s.rules),
			Log: s.store, Feed: s.feed, Logger: quiet(), MaxFailures: max,
		}, st)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()
		stop := forever
		err = send(in, x, &stop)
		cancel()
		return errors.Join(err, <-done)
	}
	// One of these stops at the change that fills a chunk.
	for max := 2; max < 25; max++ {
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{failing, good}}
		if err := run(s, max); err == nil {
			t.Fatal("the rule fails without end and the source goes on")
		}
		// Somebody allows it to fail, which does not change the rules.
		if err := run(s, -1); err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, e := range logged(t, s.store) {
			_, data, _ := strings.Cut(e, " ")
			got[data[1:5]] = true
		}
		for i := range x.rows {
			if !got[fmt.Sprintf("%04d", i)] {
				t.Errorf("stopped at change %d: the event of rule b of change %d is lost", max-1, i)
			}
		}
	}
}
