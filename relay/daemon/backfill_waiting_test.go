package daemon

import (
	"log/slog"
	"testing"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// A backfill of a rule that is configured, and whose set waits for its place.
func TestBackfill_OfAARuleThatWaitsForItsPlace(t *testing.T) {
	store := &relaytest.Memory{}
	rule := &relay.Rule{
		Name: "new", Source: "shop", Hash: "1", Tables: []relay.TableName{{Schema: "public", Name: "t"}},
		Ops: relay.OpsOf(relay.Insert, relay.Read),
	}
	next := relay.NewRuleSet("shop", []*relay.Rule{rule})
	in, err := relay.NewIngest(t.Context(), relay.IngestConfig{
		Stream: "shop", Source: "shop", Rules: relay.NewRuleSet("shop", nil), Log: store, Feed: relay.NewFeed(), Logger: slog.New(slog.DiscardHandler),
		Waiting: []relay.NextRules{{ID: "x", Rules: next}},
	}, &relay.SourceState{Source: "shop", Generation: 1, LSN: 1})
	if err != nil {
		t.Fatal(err)
	}
	b := newBackfiller("shop", backfillConfig{}, store, slog.New(slog.DiscardHandler))
	if _, err := b.rule(in, &relay.Backfill{ID: 1, Source: "shop", Rule: "new"}); lasting(err) {
		t.Errorf("the backfill fails for good: %v", err)
	}
}
