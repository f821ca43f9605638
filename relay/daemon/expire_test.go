package daemon

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// A stream that has nothing to expire does not keep the log from being brought
// within its bound by those that have.
func TestExpire_GoesOnBehindAStreamWithoutEvents(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	store, err := sqlitestore.Open(ctx, sqlitestore.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	appends := []*relay.Append{{Stream: "a", Source: &relay.SourceState{Source: "a", Phase: relay.PhaseStreaming, LSN: 1}}}
	for i := int64(1); i <= 100; i++ {
		var b relay.BlockBuilder
		b.Add(&relay.Event{Seq: i, Stream: "b", Type: "item", Version: 1, Data: make([]byte, 1000)})
		appends = append(appends, &relay.Append{Stream: "b", Blocks: []*relay.Block{b.Finish()}, Head: i, Tail: i})
	}
	for _, a := range appends {
		if err := store.Append(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	all, err := relay.ParsePatterns([]string{"**"})
	if err != nil {
		t.Fatal(err)
	}
	hanging := &relaytest.Sink{Script: func(ctx context.Context, _ relaytest.Sent) relay.Outcome {
		<-ctx.Done()
		return relay.Outcome{Result: relay.Cut}
	}}
	d := &Daemon{store: store, feed: relay.NewFeed(), log: slog.New(slog.DiscardHandler)}
	d.feed.Open("b", 100)
	d.dispatcher, err = relay.NewDispatcher(ctx, relay.DispatcherConfig{
		Ledger: store, Feed: d.feed, Logger: d.log, Grace: time.Millisecond,
		Endpoints: []*relay.Endpoint{{ID: "hook", Events: all, FromEarliest: true, Sink: hanging}},
	}, []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- d.dispatcher.Run(ctx) }()
	states, err := store.Streams(ctx)
	if err != nil || len(states) != 2 {
		t.Fatalf("streams %v, %v", states, err)
	}
	d.refresh(ctx)
	if err := d.expire(ctx, 1000, states); err != nil {
		t.Fatal(err)
	}
	if d.size > 1000 {
		t.Errorf("the log has %d bytes, and may have 1000", d.size)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
