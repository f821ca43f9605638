package relay_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

func TestDispatcher_ABurstAfterAQuietTimeIsSentInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
			time.Sleep(time.Second)
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink})
		w.add(t, keyed("first"))
		time.Sleep(5 * time.Second) // its worker is parked now
		var burst []relay.Event
		for i := range 30 {
			burst = append(burst, keyed(fmt.Sprint(i)))
		}
		w.add(t, burst...)
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if n := sink.Ended.Len(); n != 31 {
			t.Errorf("%d of 31 keys delivered after 1.5 s, at most %d at once", n, sink.Peak())
		}
		l.stop(t)
	})
}

func TestDispatcher_AReplayKeepsItsScheduleWhileTheEndpointIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		var bad atomic.Bool
		bad.Store(false)
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
			if bad.Load() {
				return failed(relay.ErrStatus5)
			}
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink})
		for i := range 40 {
			w.add(t, keyed(fmt.Sprint(i)))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		bad.Store(true)
		if _, err := l.Replay(context.Background(), relay.Replay{Endpoint: "e", Stream: stream, From: 1, To: 40}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := l.Status()[0].Stats.Dead; n != 0 {
			t.Errorf("%d of 40 replayed deliveries are dead after five minutes, the schedule is 75 hours", n)
		}
		bad.Store(false)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := l.Status()[0].Stats.Delivered; n != 80 {
			t.Errorf("%d deliveries, want 80", n)
		}
		l.stop(t)
	})
}

func TestDispatcher_DeliveriesThatAlwaysFailKeepTheirScheduleBesideOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{Script: func(_ context.Context, s relaytest.Sent) relay.Outcome {
			if strings.HasPrefix(s.Key, "bad") {
				return failed(relay.ErrStatus5)
			}
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink})
		for i := range 20 {
			w.add(t, keyed(fmt.Sprintf("bad%d", i)))
		}
		for i := range 300 {
			time.Sleep(time.Second)
			w.add(t, keyed(fmt.Sprint(i)))
		}
		synctest.Wait()
		n1 := map[string]int{}
		for _, x := range sink.Ended.All() {
			if x.Attempt > n1[x.Key] {
				n1[x.Key] = x.Attempt
			}
		}
		t.Log(n1["bad0"], n1["bad7"], n1["bad19"], sink.Ended.Len(), l.Status()[0].Stats.Delivered)
		if n := l.Status()[0].Stats.Dead; n != 0 {
			t.Errorf("%d of 20 deliveries are dead after five minutes, the schedule is 75 hours", n)
		}
		l.stop(t)
	})
}

func TestDispatcher_BlockEndpointHoldsAcrossARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		var fail atomic.Bool
		fail.Store(true)
		sink := &relaytest.Sink{Script: func(_ context.Context, s relaytest.Sent) relay.Outcome {
			if fail.Load() && s.Seq == 1 {
				return failed(relay.ErrStatus5)
			}
			return relay.Outcome{}
		}}
		ep := &relay.Endpoint{
			ID: "e", Events: patterns(t, "**"), Sink: sink, OnFailure: relay.BlockEndpoint,
			Retry: relay.RetryPolicy{Initial: time.Hour, Jitter: -1},
		}
		l := begin(t, w, ep)
		w.add(t, keyed("a"))
		time.Sleep(time.Second)
		w.add(t, keyed("b"))
		time.Sleep(time.Second)
		l.stop(t)
		l = begin(t, w, ep)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := seqs(sink.Ended.All()); !slices.Equal(got, []int64{1}) {
			t.Errorf("sent %v while 1 is retrying and blocks the endpoint", got)
		}
		fail.Store(false)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if got := seqs(sink.Ended.All()); !slices.Equal(got, []int64{1, 1, 2}) {
			t.Errorf("sent %v", got)
		}
		l.stop(t)
	})
}

func TestDispatcher_BlockEndpointWaitsForEveryFailedDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{Script: func(_ context.Context, s relaytest.Sent) relay.Outcome {
			if s.Seq == 1 && s.Attempt == 1 {
				time.Sleep(50 * time.Millisecond)
				return failed(relay.ErrStatus5)
			}
			if s.Seq == 2 && s.Attempt <= 1 {
				time.Sleep(100 * time.Millisecond) // under way when 1 fails
				return failed(relay.ErrStatus5)
			}
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{
			ID: "e", Events: patterns(t, "**"), Sink: sink, OnFailure: relay.BlockEndpoint,
			Retry: relay.RetryPolicy{Initial: time.Minute, Jitter: -1},
		})
		w.add(t, keyed("a"), keyed("b"))
		time.Sleep(time.Second)
		w.add(t, keyed("c"))
		time.Sleep(59*time.Second + 75*time.Millisecond) // 1 was sent again, 2 not yet
		synctest.Wait()
		if got := seqs(sink.Ended.All()); slices.Contains(got, 3) {
			t.Errorf("sent %v: 3 left while 2 was retrying", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := seqs(sink.Ended.All()); len(got) != 5 {
			t.Errorf("sent %v", got)
		}
		l.stop(t)
	})
}
func TestDispatcher_ABlockerThatExpiresLeavesTheEndpointWorking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{Script: func(_ context.Context, s relaytest.Sent) relay.Outcome {
			if s.Seq == 1 {
				return failed(relay.ErrStatus5)
			}
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{
			ID: "e", Events: patterns(t, "**"), Sink: sink, OnFailure: relay.BlockEndpoint, MaxInFlight: 1,
			Retry: relay.RetryPolicy{Initial: 10 * time.Second, Jitter: -1},
		})
		w.add(t, keyed("a"))
		time.Sleep(time.Second)
		if err := l.SetEnabled(context.Background(), "e", false, "maintenance"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // the blocker is due, and may not be sent
		if _, err := l.Expire(context.Background(), stream, 1); err != nil {
			t.Fatal(err)
		}
		if err := l.SetEnabled(context.Background(), "e", true, ""); err != nil {
			t.Fatal(err)
		}
		w.add(t, keyed("b"))
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := l.Status()[0].Stats.Delivered; n != 1 {
			t.Errorf("%d deliveries an hour after the endpoint was enabled, want 1; in flight %d", n, l.Status()[0].InFlight)
		}
		l.stop(t)
	})
}

func TestDispatcher_AFailingReplayDoesNotBlockTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{Script: func(_ context.Context, s relaytest.Sent) relay.Outcome {
			if s.Replay && s.Attempt < 3 {
				return failed(relay.ErrStatus5)
			}
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{
			ID: "e", Events: patterns(t, "**"), Sink: sink, OnFailure: relay.BlockEndpoint, MaxInFlight: 1,
			Retry: relay.RetryPolicy{Initial: 10 * time.Second, Jitter: -1},
		})
		w.add(t, keyed("a"))
		time.Sleep(time.Second)
		if _, err := l.Replay(context.Background(), relay.Replay{Endpoint: "e", Stream: stream, From: 1, To: 1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		w.add(t, keyed("b"))
		time.Sleep(time.Second)
		synctest.Wait()
		if n := l.Status()[0].Stats.Delivered; n != 2 {
			t.Errorf("%d deliveries, want 2: a replay holds up a live delivery", n)
		}
		time.Sleep(time.Hour)
		w.add(t, keyed("c"))
		time.Sleep(time.Second)
		synctest.Wait()
		if s := l.Status()[0]; s.Stats.Delivered != 4 || s.InFlight != 0 {
			t.Errorf("%d deliveries, want 4; %d in flight, want 0", s.Stats.Delivered, s.InFlight)
		}
		l.stop(t)
	})
}

func TestDispatcher_SettledFollowsAnEndpointThatIsAlwaysCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		ep := &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: &relaytest.Sink{}}
		l := begin(t, w, ep)
		w.add(t, keyed("a"))
		time.Sleep(time.Second)
		l.stop(t)
		l = begin(t, w, ep)
		for range 100 {
			time.Sleep(100 * time.Millisecond) // between two settlements
			w.add(t, keyed("a"))
			time.Sleep(900 * time.Millisecond)
		}
		if got := l.Settled(stream); got != w.seq {
			t.Errorf("settled up to %d, everything up to %d is delivered and recorded", got, w.seq)
		}
		l.stop(t)
	})
}

func TestDispatcher_OneHangingDeliveryDoesNotHoldUpOtherKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{Script: func(_ context.Context, s relaytest.Sent) relay.Outcome {
			if s.Seq == 1 {
				time.Sleep(15 * time.Second)
			}
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink})
		data := make([]byte, 8<<10)
		for i := range 2000 {
			e := keyed(fmt.Sprint(i))
			e.Data = data
			w.add(t, e)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := sink.Ended.Len(); n != 1999 {
			t.Errorf("%d of 1999 deliveries of other keys in five seconds", n)
		}
		time.Sleep(20 * time.Second)
		l.stop(t)
	})
}

func TestDispatcher_AWindowOfRareEventsDoesNotKeepTheirBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		data := make([]byte, 300)
		for range 2000 {
			var block []relay.Event
			for i := range 200 {
				e := relay.Event{Type: "often", Data: data}
				if i == 100 {
					e.Type = "rare"
				}
				block = append(block, e)
			}
			if w.feed == nil {
				w.feed = relay.NewFeed()
			}
			w.add(t, block...)
		}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc >> 20
		}
		sink := &relaytest.Sink{}
		sink.Block()
		before := heap()
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "rare"), FromEarliest: true, Sink: sink})
		time.Sleep(time.Second)
		synctest.Wait()
		during := heap()
		if during > before+16 {
			t.Errorf("a window of rare events takes %d MiB", during-before)
		}
		sink.Release()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := sink.Ended.Len(); n != 2000 {
			t.Errorf("%d deliveries", n)
		}
		l.stop(t)
		_ = context.Background
	})
}

func TestFeed_OpenWakesThoseWhoWaitForWhatIsVisibleNow(t *testing.T) {
	f := relay.NewFeed()
	f.Open(stream, 5)
	_, _, wake := f.After(stream, 5)
	// An append with an unknown result was stored after all; the next session
	// reads how far the log is.
	f.Open(stream, 6)
	select {
	case <-wake:
	default:
		t.Error("a cursor that waits at 5 is not told that 6 is visible")
	}
}

func TestDispatcher_AnEndpointThatGoesDownWithADeadDeliveryIsProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		var down atomic.Bool
		down.Store(true)
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
			if down.Load() {
				return failed(relay.ErrConnect)
			}
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink, Retry: relay.RetryPolicy{MaxAttempts: 1}})
		time.Sleep(10 * time.Second)
		w.add(t, keyed("a"))
		time.Sleep(time.Second)
		down.Store(false)
		w.add(t, keyed("b"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := l.Status()[0].Stats.Delivered; n != 1 {
			t.Errorf("%d deliveries two seconds after the return of the endpoint, want 1", n)
		}
		l.stop(t)
	})
}

func TestDispatcher_FromEarliestSurvivesACrashAtTheEndpointsCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		other := &relay.Endpoint{ID: "other", Events: patterns(t, "**"), Sink: &relaytest.Sink{}}
		l := begin(t, w, other)
		w.add(t, keyed("a"), keyed("b"))
		time.Sleep(time.Second)
		l.stop(t)
		sink := &relaytest.Sink{}
		ep := &relay.Endpoint{ID: "e", Events: patterns(t, "**"), FromEarliest: true, Sink: sink}
		w.store.Inject(func(step string) error {
			if step == "settle" {
				return errors.New("killed")
			}
			return nil
		})
		_, err := relay.NewDispatcher(context.Background(), relay.DispatcherConfig{
			Ledger: w.store, Feed: relay.NewFeed(), Endpoints: []*relay.Endpoint{ep, other}, Logger: quiet(),
		}, []string{stream})
		if err == nil {
			t.Fatal("no error")
		}
		w.store.Inject(nil)
		l = begin(t, w, ep, other)
		time.Sleep(time.Second)
		synctest.Wait()
		got := seqs(sink.Ended.All())
		slices.Sort(got)
		if !slices.Equal(got, []int64{1, 2}) {
			t.Errorf("sent %v, want 1 and 2", got)
		}
		l.stop(t)
	})
}

func TestDispatcher_TheLogKeepsWhatIsHeldForAVanishedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome { return failed(relay.ErrConnect) }}
		ep := &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink}
		other := &relay.Endpoint{ID: "other", Events: patterns(t, "**"), Sink: &relaytest.Sink{}}
		l := begin(t, w, ep, other)
		w.add(t, keyed("a"))
		time.Sleep(time.Second)
		for range 10 {
			w.add(t, keyed("b"))
		}
		time.Sleep(time.Second)
		l.stop(t)
		l = begin(t, w, other)
		w.add(t, keyed("c"))
		time.Sleep(time.Second)
		if keep := l.Keep(stream); keep > 1 {
			t.Errorf("retention may remove up to %d, and 2 to 11 are held for an endpoint that has vanished", keep)
		}
		l.stop(t)
	})
}

func TestDispatcher_AnEndpointThatWasDownIsProbedAtOnceWhenItIsEnabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		var down atomic.Bool
		down.Store(true)
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
			if down.Load() {
				return failed(relay.ErrConnect)
			}
			return relay.Outcome{}
		}}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: sink, Retry: relay.RetryPolicy{Initial: time.Hour}})
		w.add(t, keyed("a"), keyed("b"))
		time.Sleep(time.Second)
		if err := l.SetEnabled(context.Background(), "e", false, "moving"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Minute + 10*time.Second)
		down.Store(false)
		if err := l.SetEnabled(context.Background(), "e", true, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := l.Status()[0].Stats.Delivered; n != 2 {
			t.Errorf("%d deliveries two seconds after the endpoint was enabled, want 2", n)
		}
		l.stop(t)
	})
}
