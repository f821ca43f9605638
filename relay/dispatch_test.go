package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func patterns(t testing.TB, p ...string) relay.Patterns {
	t.Helper()
	ps, err := relay.ParsePatterns(p)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// writer appends events to a stream of a store, as ingest does.
type writer struct {
	store *relaytest.Memory
	feed  *relay.Feed
	seq   int64
}

const stream = "shop"

func (w *writer) add(t testing.TB, events ...relay.Event) {
	t.Helper()
	var b relay.BlockBuilder
	for i := range events {
		e := &events[i]
		w.seq++
		f := relay.IDFacts{CommitLSN: relay.LSN(w.seq)}
		e.ID, e.Seq, e.Stream = f.ID(), w.seq, stream
		e.Time = time.Now().UnixMicro()
		if e.Type == "" {
			e.Type = "order.paid"
		}
		if e.Data == nil {
			e.Data = []byte("{}")
		}
		b.Add(e)
	}
	k := b.Finish()
	a := &relay.Append{Stream: stream, Blocks: []*relay.Block{k}, Head: w.seq, Tail: w.seq}
	if err := w.store.Append(context.Background(), a); err != nil {
		t.Fatal(err)
	}
	w.feed.Publish(stream, a.Blocks, w.seq)
}

func keyed(key string) relay.Event { return relay.Event{HasKey: true, Key: []byte(key)} }

// life is one run of a dispatcher.
type life struct {
	*relay.Dispatcher
	cancel context.CancelFunc
	done   chan error
}

func begin(t testing.TB, w *writer, eps ...*relay.Endpoint) *life {
	t.Helper()
	w.feed = relay.NewFeed()
	w.feed.Open(stream, w.seq)
	d, err := relay.NewDispatcher(context.Background(), relay.DispatcherConfig{
		Ledger: w.store, Feed: w.feed, Endpoints: eps, Logger: quiet(), Grace: time.Millisecond,
	}, []string{stream})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{d, cancel, make(chan error, 1)}
	go func() { l.done <- d.Run(ctx) }()
	return l
}

func (l *life) stop(t testing.TB) {
	t.Helper()
	l.cancel()
	if err := <-l.done; err != nil {
		t.Fatal(err)
	}
}

// kill ends the life so that nothing more of it becomes durable.
func (l *life) kill(t testing.TB, store *relaytest.Memory) {
	t.Helper()
	store.Inject(func(string) error { return errors.New("killed") })
	l.stop(t)
	store.Inject(nil)
}

func failed(class relay.ErrorClass) relay.Outcome {
	return relay.Outcome{Result: relay.Failed, Class: class, Status: 500, Err: "no"}
}

func seqs(sent []relaytest.Sent) []int64 {
	var out []int64
	for _, s := range sent {
		out = append(out, s.Seq)
	}
	return out
}

func TestDispatcher_SendsOnlyWhatTheEndpointWantsFromItsCreationOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}, feed: relay.NewFeed()}
		w.add(t, keyed("a"), keyed("b"))
		late, early := &relaytest.Sink{}, &relaytest.Sink{}
		l := begin(t, w,
			&relay.Endpoint{ID: "late", Events: patterns(t, "order.**"), Sink: late},
			&relay.Endpoint{ID: "early", Events: patterns(t, "**"), FromEarliest: true, Sink: early})
		w.add(t, keyed("a"), relay.Event{Type: "user.new"})
		synctest.Wait()
		if got := seqs(late.Ended.All()); !slices.Equal(got, []int64{3}) {
			t.Errorf("late got %v", got)
		}
		got := seqs(early.Ended.All())
		slices.Sort(got)
		if !slices.Equal(got, []int64{1, 2, 3, 4}) {
			t.Errorf("early got %v", got)
		}
		l.stop(t)
	})
}

func TestDispatcher_AFailingKeyBlocksOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{Script: func(_ context.Context, s relaytest.Sent) relay.Outcome {
			if s.Seq == 1 && s.Attempt < 3 {
				return failed(relay.ErrStatus5)
			}
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink, Retry: relay.RetryPolicy{Initial: time.Second, Jitter: -1}})
		w.add(t, keyed("a"), keyed("a"), keyed("b"))
		synctest.Wait()
		if got := seqs(sink.Ended.All()); len(got) != 2 || !slices.Contains(got, 3) {
			t.Errorf("after the failure sent %v, want 1 and 3", got)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		got := seqs(sink.Ended.All())
		slices.Sort(got[:2])
		if !slices.Equal(got, []int64{1, 3, 1, 1, 2}) {
			t.Errorf("sent %v", got)
		}
		l.stop(t)
		open, _ := w.store.OpenDeliveries(context.Background(), relay.CursorID{Endpoint: "e", Stream: stream})
		if len(open) != 0 {
			t.Errorf("rows are left: %+v", open)
		}
	})
}

func TestDispatcher_RetriesArePersistedAcrossRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		var fail atomic.Bool
		fail.Store(true)
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
			if fail.Load() {
				return failed(relay.ErrStatus5)
			}
			return relay.Outcome{}
		}}
		ep := &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink, Retry: relay.RetryPolicy{Initial: time.Hour, Jitter: -1}}
		l := begin(t, w, ep)
		w.add(t, keyed("a"), keyed("a"))
		time.Sleep(time.Second)
		l.kill(t, w.store)
		fail.Store(false)
		l = begin(t, w, ep)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := sink.Ended.All(); len(got) != 1 {
			t.Fatalf("the retry did not wait for its time: %v", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		got := sink.Ended.All()
		if len(got) != 3 || got[1].Attempt != 2 || got[1].Seq != 1 || got[2].Seq != 2 {
			t.Fatalf("sent %+v", got)
		}
		l.stop(t)
	})
}

func TestDispatcher_BarriersAndChangedKeysOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{Script: func(_ context.Context, s relaytest.Sent) relay.Outcome {
			time.Sleep(time.Duration(100-s.Seq) * time.Millisecond)
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink})
		row := func(key string) relay.Event {
			e := keyed(key)
			e.Table = "public.t"
			return e
		}
		moved := row("b")
		moved.OldKey = []byte("a")
		truncate := relay.Event{Table: "public.t", Barrier: true}
		w.add(t, row("a"), moved, row("a"), row("b"), truncate, row("c"), row("d"), truncate, truncate, row("e"))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		got := seqs(sink.Ended.All())
		at := func(seq int64) int { return slices.Index(got, seq) }
		for _, p := range [][2]int64{{1, 2}, {2, 3}, {2, 4}, {3, 5}, {4, 5}, {5, 6}, {5, 7}, {6, 8}, {7, 8}, {8, 9}, {9, 10}} {
			if at(p[0]) < 0 || at(p[0]) > at(p[1]) {
				t.Errorf("%d came after %d: %v", p[0], p[1], got)
			}
		}
		l.stop(t)
	})
}

func TestDispatcher_WhenAnEndpointReturnsDeliveriesFollowWithinTwoSeconds(t *testing.T) {
	for _, class := range []relay.ErrorClass{relay.ErrConnect, relay.ErrStatus5, relay.ErrTimeout} {
		t.Run(string(class), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &writer{store: &relaytest.Memory{}}
				var mu sync.Mutex
				var down atomic.Bool
				down.Store(true)
				sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
					mu.Lock()
					defer mu.Unlock()
					if down.Load() {
						return failed(class)
					}
					return relay.Outcome{}
				}}
				l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink, Retry: relay.RetryPolicy{Initial: time.Hour}})
				for i := range 200 {
					w.add(t, keyed(fmt.Sprint(i)))
				}
				time.Sleep(time.Minute)
				attempts := sink.Ended.Len()
				if attempts > 150 {
					t.Errorf("%d attempts in a minute at an endpoint that is down", attempts)
				}
				mu.Lock()
				down.Store(false)
				mu.Unlock()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if got := sink.Ended.Len() - attempts; got < 200 {
					t.Errorf("%d of 200 deliveries within two seconds of the return", got)
				}
				l.stop(t)
			})
		})
	}
}

func TestDispatcher_GoneDisablesAndHoldsUntilEnabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		var gone atomic.Bool
		gone.Store(true)
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
			if gone.Load() {
				return relay.Outcome{Result: relay.Gone, Class: relay.ErrGone, Status: 410}
			}
			return relay.Outcome{}
		}}
		ep := &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink, MaxInFlight: 1}
		l := begin(t, w, ep)
		w.add(t, keyed("a"), keyed("a"))
		time.Sleep(time.Minute)
		if n := sink.Ended.Len(); n != 1 {
			t.Fatalf("%d attempts after 410", n)
		}
		l.stop(t)
		l = begin(t, w, ep)
		w.add(t, keyed("a"))
		time.Sleep(time.Minute)
		if n := sink.Ended.Len(); n != 1 {
			t.Fatalf("%d attempts after a restart, the endpoint is disabled", n)
		}
		gone.Store(false)
		if err := l.SetEnabled(context.Background(), "e", true, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := seqs(sink.Ended.All())[1:]; !slices.Equal(got, []int64{1, 2, 3}) {
			t.Errorf("after enabling sent %v, want 1 2 3", got)
		}
		l.stop(t)
	})
}

func TestDispatcher_PausesWhenOutcomesCannotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink})
		w.store.Inject(func(step string) error {
			if step == "settle" {
				return relay.ErrStoreFull
			}
			return nil
		})
		for range 3000 {
			w.add(t, relay.Event{})
		}
		time.Sleep(time.Minute)
		if n := sink.Ended.Len(); n > 1000 || n < 100 {
			t.Errorf("%d deliveries with no outcome stored, want at most 1000", n)
		}
		if l.Problem() == "" {
			t.Error("the dispatcher does not say that it is stuck")
		}
		w.store.Inject(nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := sink.Ended.Len(); n != 3000 {
			t.Errorf("%d deliveries after the store recovered, want 3000", n)
		}
		if l.Problem() != "" {
			t.Errorf("still: %s", l.Problem())
		}
		l.stop(t)
	})
}

func TestDispatcher_ReplayIsMarkedAndDoesNotDelayLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink, MaxInFlight: 2})
		for i := range 20 {
			w.add(t, keyed(fmt.Sprint(i)))
		}
		time.Sleep(time.Second)
		if _, err := l.Replay(context.Background(), relay.Replay{Stream: stream, From: 6, To: 15}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		got := sink.Ended.All()
		if len(got) != 30 {
			t.Fatalf("%d attempts, want 20 and 10", len(got))
		}
		for i, s := range got {
			if s.Replay != (i >= 20) || s.Replay && (s.Seq < 6 || s.Seq > 15) {
				t.Errorf("attempt %d: %+v", i, s)
			}
		}
		if rs, _ := w.store.Replays(context.Background()); len(rs) != 0 {
			t.Errorf("the replay is not done: %+v", rs)
		}
		l.stop(t)
	})
}

func TestDispatcher_AVanishedEndpointKeepsItsOpenDeliveries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{}
		sink.Block()
		ep := &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink}
		l := begin(t, w, ep)
		w.add(t, keyed("a"), keyed("a"))
		synctest.Wait()
		l.stop(t)
		l = begin(t, w)
		w.add(t, keyed("a"))
		time.Sleep(time.Second)
		l.stop(t)
		sink.Release()
		before := sink.Ended.Len()
		l = begin(t, w, ep)
		w.add(t, keyed("a"))
		time.Sleep(time.Second)
		synctest.Wait()
		if got := seqs(sink.Ended.All()[before:]); !slices.Equal(got, []int64{1, 2, 4}) {
			t.Errorf("sent %v, want what was open, and what came after the return", got)
		}
		l.stop(t)
	})
}

// TestDispatcher_KeepsItsPromisesInRandomWorlds lets events, failures, slow
// answers, kills and restarts come as a seed says, and then looks at every
// promise: everything settles, order per key holds, and what is sent again
// after a kill is a suffix of its lane.
func TestDispatcher_KeepsItsPromisesInRandomWorlds(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomWorld(t, seed) })
		})
	}
}

type sentIn struct {
	relaytest.Sent
	life      int
	delivered bool
	dead      bool
	started   bool
}

func randomWorld(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := &writer{store: &relaytest.Memory{}}
	policies := []relay.OnFailure{relay.BlockKey, relay.BlockKey, relay.BlockEndpoint, relay.Park}
	policy := policies[rnd.IntN(len(policies))]
	attempts := 1 + rnd.IntN(4)
	var mu sync.Mutex
	var log []sentIn
	lifeNo := 0
	sink := &relaytest.Sink{}
	sink.Script = func(ctx context.Context, s relaytest.Sent) relay.Outcome {
		mu.Lock()
		me := lifeNo
		log = append(log, sentIn{Sent: s, life: me, started: true})
		r := rand.New(rand.NewPCG(seed, uint64(s.Seq)<<8|uint64(s.Attempt)))
		mu.Unlock()
		select {
		case <-time.After(time.Duration(r.IntN(50)) * time.Millisecond):
		case <-ctx.Done():
			return relay.Outcome{Result: relay.Cut}
		}
		var out relay.Outcome
		switch p := r.IntN(100); {
		case p < 60:
		case p < 90:
			out = failed([]relay.ErrorClass{relay.ErrStatus5, relay.ErrTimeout, relay.ErrReset}[r.IntN(3)])
		case p < 95:
			out = failed(relay.ErrConnect)
		default:
			out = relay.Outcome{Result: relay.Rejected, Class: relay.ErrPayload}
		}
		mu.Lock()
		defer mu.Unlock()
		log = append(log, sentIn{
			Sent: s, life: me, delivered: out.Result == relay.Delivered,
			dead: out.Result == relay.Rejected || out.Result == relay.Failed && s.Attempt >= attempts,
		})
		return out
	}
	ep := &relay.Endpoint{
		ID: "e", Events: patterns(t, "**"), Sink: sink, OnFailure: policy, MaxInFlight: 1 + rnd.IntN(8),
		Retry: relay.RetryPolicy{MaxAttempts: attempts, Initial: 300 * time.Millisecond, Max: 2 * time.Second},
	}
	keys := map[int64][]string{}
	recorded := map[int64]int{} // the life after which the store had it as settled
	for life := range 4 {
		mu.Lock()
		lifeNo = life
		mu.Unlock()
		l := begin(t, w, ep)
		for range rnd.IntN(30) {
			var e relay.Event
			if k := rnd.IntN(5); k < 4 {
				e = keyed(string(rune('a' + k)))
				if rnd.IntN(6) == 0 {
					e.OldKey = []byte(string(rune('a' + rnd.IntN(4))))
				}
			}
			w.add(t, e)
			if e.HasKey {
				keys[w.seq] = append(keys[w.seq], string(e.Key))
			}
			if e.OldKey != nil && string(e.OldKey) != string(e.Key) {
				keys[w.seq] = append(keys[w.seq], string(e.OldKey))
			}
			time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
		}
		if life < 3 {
			time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond)
			l.kill(t, w.store)
			for seq := range recordedAt(t, w.store, w.seq) {
				if _, ok := recorded[seq]; !ok {
					recorded[seq] = life
				}
			}
			continue
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for _, s := range l.Status() {
			if s.InFlight+s.Retrying+s.Held != 0 || s.Cursors[0].Position != w.seq {
				t.Errorf("not settled after ten minutes: %+v", s)
			}
		}
		l.stop(t)
	}
	for _, s := range log {
		if after, ok := recorded[s.Seq]; ok && s.life > after {
			t.Errorf("event %d came again in life %d, and its outcome was stored in life %d", s.Seq, s.life, after)
		}
	}
	checkWorld(t, log, keys, w.seq, policy)
}

// recordedAt returns the places that the store has as settled.
func recordedAt(t *testing.T, store *relaytest.Memory, last int64) map[int64]bool {
	t.Helper()
	ctx := context.Background()
	id := relay.CursorID{Endpoint: "e", Stream: stream}
	rows, routed, err := store.Cursors(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pos := routed[stream]
	for _, r := range rows {
		if r.CursorID == id {
			pos = r.Position
		}
	}
	out := map[int64]bool{}
	for seq := int64(1); seq <= min(pos, last); seq++ {
		out[seq] = true
	}
	above, err := store.SettledAfter(ctx, id, pos)
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range above {
		out[seq] = true
	}
	open, err := store.OpenDeliveries(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range open {
		delete(out, o.Seq)
	}
	return out
}

func checkWorld(t *testing.T, log []sentIn, keys map[int64][]string, last int64, policy relay.OnFailure) {
	t.Helper()
	settledAt := map[int64]int{} // index in log of the first settling outcome
	firstStart := map[int64]int{}
	for i, s := range log {
		if s.started {
			if _, ok := firstStart[s.Seq]; !ok {
				firstStart[s.Seq] = i
			}
		} else if s.delivered || s.dead {
			if _, ok := settledAt[s.Seq]; !ok {
				settledAt[s.Seq] = i
			}
		}
	}
	lanes := map[string][]int64{}
	for seq := int64(1); seq <= last; seq++ {
		if _, ok := settledAt[seq]; !ok {
			t.Errorf("event %d was neither delivered nor given up", seq)
		}
		for _, k := range keys[seq] {
			lanes[k] = append(lanes[k], seq)
		}
	}
	if policy == relay.Park {
		return
	}
	for k, lane := range lanes {
		for i := 1; i < len(lane); i++ {
			if firstStart[lane[i]] < settledAt[lane[i-1]] {
				t.Errorf("key %s: event %d was sent before %d was settled", k, lane[i], lane[i-1])
			}
		}
		// In every life the lane is sent from some place on, in order and without
		// leaving anything out: what repeats is a suffix of what was sent before.
		for life := range 4 {
			var sent []int
			for _, s := range log {
				i := slices.Index(lane, s.Seq)
				if i >= 0 && s.started && s.life == life && !slices.Contains(sent, i) {
					sent = append(sent, i)
				}
			}
			for n, i := range sent {
				if i != sent[0]+n {
					t.Errorf("key %s, life %d: of lane %v the places %v were sent, not one run", k, life, lane, sent)
					break
				}
			}
		}
	}
}
