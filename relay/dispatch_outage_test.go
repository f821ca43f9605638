package relay_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
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
		bad := false
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
			if bad {
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
		bad = true
		if _, err := l.Replay(context.Background(), relay.Replay{Endpoint: "e", Stream: stream, From: 1, To: 40}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := l.Status()[0].Stats.Dead; n != 0 {
			t.Errorf("%d of 40 replayed deliveries are dead after five minutes, the schedule is 75 hours", n)
		}
		bad = false
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
		fail := true
		sink := &relaytest.Sink{Script: func(_ context.Context, s relaytest.Sent) relay.Outcome {
			if fail && s.Seq == 1 {
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
		fail = false
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
