package sqlitestore_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// A row that is retrying and that nobody retries keeps its event, and with it
// the log, for ever.
func TestRetryDead_ADeadDeliveryOfAFinishedReplayIsDelivered(t *testing.T) {
	for _, restart := range []bool{false, true} {
		committed := make(chan struct{}, 1)
		s := openStore(t, sqlitestore.Options{})
		s.Inject(func(step string) error {
			if step == "committed" {
				select {
				case committed <- struct{}{}:
				default:
				}
			}
			return nil
		})
		check(t, s.Append(t.Context(), &relay.Append{Stream: "shop", Blocks: []*relay.Block{blockOf("shop", 1, 2)}, Head: 2, Tail: 2}))
		var fail atomic.Bool
		sink := &relaytest.Sink{Script: func(context.Context, relaytest.Sent) relay.Outcome {
			if fail.Load() {
				return relay.Outcome{Result: relay.Rejected, Class: relay.ErrPayload}
			}
			return relay.Outcome{}
		}}
		all, err := relay.ParsePatterns([]string{"**"})
		check(t, err)
		ep := &relay.Endpoint{ID: "billing", Events: all, FromEarliest: true, Sink: sink}
		begin := func() (*relay.Dispatcher, func()) {
			feed := relay.NewFeed()
			feed.Open("shop", 2)
			d, err := relay.NewDispatcher(t.Context(), relay.DispatcherConfig{
				Ledger: s, Feed: feed, Endpoints: []*relay.Endpoint{ep}, Logger: slog.New(slog.DiscardHandler),
			}, []string{"shop"})
			check(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- d.Run(ctx) }()
			return d, func() { cancel(); check(t, <-done) }
		}
		until := func(what string, ok func() bool) {
			t.Helper()
			deadline := time.After(20 * time.Second)
			for !ok() { // whatever it waits for is followed by a commit
				select {
				case <-committed:
				case <-deadline:
					t.Fatalf("restart %v: not within twenty seconds: %s (%d attempts)", restart, what, sink.Ended.Len())
				}
			}
		}
		rows := func(state relay.State) []relay.DeliveryRow {
			ds, err := s.Deliveries(t.Context(), relay.DeliveryQuery{Endpoint: "billing", State: state, Limit: 10})
			check(t, err)
			return ds
		}
		d, stop := begin()
		until("first deliveries", func() bool { return sink.Ended.Len() == 2 })
		fail.Store(true)
		_, err = d.Replay(t.Context(), relay.Replay{Endpoint: "billing", Stream: "shop", From: 1, To: 2})
		check(t, err)
		until("the replay is over", func() bool {
			left, err := s.Replays(t.Context())
			check(t, err)
			return len(left) == 0 && len(rows(relay.StateDead)) == 2
		})
		fail.Store(false)
		if restart {
			stop()
		}
		for _, r := range rows(relay.StateDead) {
			row, err := s.RetryDead(t.Context(), relay.DeliveryRef{CursorID: r.CursorID, Seq: r.Seq}, time.Now())
			check(t, err)
			if !restart {
				check(t, d.Retry(&row))
			}
		}
		if restart {
			_, stop = begin()
		}
		until("the retries are delivered", func() bool { return sink.Ended.Len() == 6 })
		until("no row is left", func() bool {
			left, err := s.Replays(t.Context())
			check(t, err)
			return len(rows(relay.StateRetrying)) == 0 && len(left) == 0
		})
		stop()
	}
}
