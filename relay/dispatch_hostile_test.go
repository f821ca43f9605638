package relay_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// An endpoint may be enabled before it is recorded that its answer 410 holds a
// delivery.
func TestDispatcher_AnEndpointEnabledRightAfterItsAnswer410GetsItsDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		var gone atomic.Bool
		gone.Store(true)
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
			if gone.Swap(false) {
				return relay.Outcome{Result: relay.Gone, Class: relay.ErrGone, Status: 410}
			}
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink})
		w.add(t, keyed("a"), keyed("a"))
		synctest.Wait()
		if l.Status()[0].Disabled == "" {
			t.Fatal("410 does not disable the endpoint")
		}
		if err := l.SetEnabled(context.Background(), "e", true, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := seqs(sink.Ended.All()); !slices.Equal(got, []int64{1, 1, 2}) {
			t.Errorf("sent %v, want 1 again and then 2", got)
		}
		l.stop(t)
		rows, err := w.store.Endpoints(context.Background())
		if err != nil || rows[0].Status != relay.EndpointActive {
			t.Errorf("the store says %+v, %v", rows, err)
		}
	})
}

// What is held for an endpoint that is no longer configured goes with the log as
// everything else does: as dead deliveries that a person can see.
func TestDispatcher_ExpireMakesDeadWhatIsHeldForAVanishedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome { return failed(relay.ErrStatus5) }}
		ep := &relay.Endpoint{ID: "e", Events: patterns(t, "order.**"), Sink: sink}
		l := begin(t, w, ep)
		w.add(t, keyed("a"), keyed("a")) // these have rows,
		time.Sleep(time.Second)
		if err := l.SetEnabled(ctx, "e", false, "a test"); err != nil {
			t.Fatal(err)
		}
		w.add(t, relay.Event{Type: "user.new"}, keyed("b"), keyed("c")) // these have not
		time.Sleep(time.Second)
		l.stop(t)
		l = begin(t, w)
		w.add(t, keyed("after it had gone"))
		for i, want := range []int64{3, 0} { // the second time there is nothing left to do
			if n, err := l.Expire(ctx, stream, 4); n != want || err != nil {
				t.Fatalf("call %d: %d are dead, %v", i, n, err)
			}
		}
		dead := func() (places []int64) {
			rows, err := w.store.Deliveries(ctx, relay.DeliveryQuery{State: relay.StateDead, Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				if r.LastClass != relay.ErrExpired {
					t.Errorf("delivery %d is dead because of %q", r.Seq, r.LastClass)
				}
				places = append(places, r.Seq)
			}
			slices.Sort(places)
			return places
		}
		if got := dead(); !slices.Equal(got, []int64{1, 2, 4}) {
			t.Errorf("dead are %v, want 1, 2 and 4", got)
		}
		if got := l.Keep(stream); got != 4 {
			t.Errorf("the log keeps what comes after %d, want 4", got)
		}
		l.stop(t)
		sink.Script = nil
		l = begin(t, w, ep)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := seqs(sink.Ended.All()); !slices.Equal(got, []int64{1, 5}) {
			t.Errorf("sent %v, want what failed once, and what was not dead when the endpoint came back", got)
		}
		l.stop(t)
	})
}

// A clock that was hours ahead is set right: what is due in some seconds is due in
// some seconds, and an endpoint that is down is looked at each second.
func TestDispatcher_AClockThatIsSetBackHoldsUpNothing(t *testing.T) {
	for name, class := range map[string]relay.ErrorClass{"a retry": relay.ErrStatus5, "an endpoint that is down": relay.ErrConnect} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &writer{store: &relaytest.Memory{}, feed: relay.NewFeed()}
				w.feed.Open(stream, 0)
				var well atomic.Bool
				sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
					if well.Load() {
						return relay.Outcome{}
					}
					return failed(class)
				}}
				var ahead atomic.Int64
				ahead.Store(int64(3 * time.Hour))
				d, err := relay.NewDispatcher(context.Background(), relay.DispatcherConfig{
					Ledger: w.store, Feed: w.feed, Logger: quiet(), Grace: time.Millisecond,
					Now:       func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
					Endpoints: []*relay.Endpoint{{ID: "e", Events: patterns(t, "**"), Sink: sink, Retry: relay.RetryPolicy{Jitter: -1}}},
				}, []string{stream})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				l := &life{d, cancel, make(chan error, 1)}
				go func() { l.done <- d.Run(ctx) }()
				w.add(t, keyed("a"), keyed("b"))
				time.Sleep(2500 * time.Millisecond)
				synctest.Wait()
				ahead.Store(0)
				well.Store(true)
				time.Sleep(3 * time.Second) // the retry is due after 5 s in all, a probe after 1 s
				synctest.Wait()
				if got := l.Status()[0].Stats.Delivered; got != 2 {
					t.Errorf("%d of 2 are delivered", got)
				}
				l.stop(t)
			})
		})
	}
}
