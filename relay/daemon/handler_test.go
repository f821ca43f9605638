package daemon

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// The stream asks for room each time it wakes up, also when it wakes only to
// look at the clock: that is no sign of life of the server.
func TestHandler_OnlyTheServerIsASignOfLife(t *testing.T) {
	in, err := relay.NewIngest(context.Background(), relay.IngestConfig{
		Stream: "shop", Source: "shop", Rules: relay.NewRuleSet("shop", nil), Log: &relaytest.Memory{}, Feed: relay.NewFeed(),
		Logger: slog.New(slog.DiscardHandler),
	}, &relay.SourceState{Source: "shop", LSN: 1})
	if err != nil {
		t.Fatal(err)
	}
	var heard atomic.Int64
	h := &handler{Ingest: in, heard: &heard}
	h.Full()
	if heard.Load() != 0 {
		t.Error("a source counts as heard of because it asked itself for room")
	}
	tx := &relay.Tx{XID: 1, CommitLSN: 10}
	for name, f := range map[string]func() error{
		"begin": func() error { return h.Begin(tx) },
		"idle":  func() error { return h.Idle(1) },
		"change": func() error {
			_ = h.Begin(tx)
			heard.Store(0)
			return h.Change(&relay.Change{Op: relay.Message, Tx: tx})
		},
		"commit": func() error { _ = h.Begin(tx); heard.Store(0); return h.Commit(tx, 11) },
	} {
		heard.Store(0)
		if err := f(); err != nil {
			t.Fatal(err)
		}
		if heard.Load() == 0 {
			t.Errorf("%s is not taken for a sign of life", name)
		}
	}
}
