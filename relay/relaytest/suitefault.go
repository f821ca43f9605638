package relaytest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

var errInjected = errors.New("injected")

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

// failAt returns a judge that fails the step.
func failAt(step string) func(string) error {
	return func(s string) error {
		if s == step {
			return fmt.Errorf("%s: %w", step, errInjected)
		}
		return nil
	}
}

// look returns everything a store shows, for comparison.
func look(t testing.TB, s Store) string {
	t.Helper()
	cursors, routed, err := s.Cursors(ctx(t))
	must(t, err)
	open := got[[]relay.OpenDelivery](t)(s.OpenDeliveries(ctx(t), billing))
	streams := got[map[string]relay.StreamState](t)(s.Streams(ctx(t)))
	for name, st := range streams { // a stream that was only named is as one that was not
		if st == (relay.StreamState{}) && routed[name] == 0 {
			delete(streams, name)
			delete(routed, name)
		}
	}
	return fmt.Sprintf("%+v\n%+v\n%+v\n%v\n%+v\n%v\n%v\n%+v\n%+v\n%+v\n%v",
		streams, got[[]relay.SourceState](t)(s.Sources(ctx(t))), got[[]relay.Gap](t)(s.Gaps(ctx(t), "")),
		seqs(t, s, shop), cursors, routed, open, got[[]int64](t)(s.SettledAfter(ctx(t), billing, 0)),
		got[[]relay.EndpointRow](t)(s.Endpoints(ctx(t))), got[[]relay.Replay](t)(s.Replays(ctx(t))), got[int64](t)(s.Size(ctx(t))))
}

// writes are the calls that change a store of which fill made 14 events, each
// with the name of its step.
func writes(t testing.TB, s Store) map[string]func() error {
	return map[string]func() error{
		"append": func() error {
			return s.Append(ctx(t), &relay.Append{
				Stream: shop, Blocks: []*relay.Block{block(shop, 15, 18), block(shop, 19, 20)}, Failures: []relay.Failure{{Seq: 21}},
				Head: 21, Tail: 21, Source: source(500), Gap: &relay.Gap{Source: "shop"},
			})
		},
		"settle": func() error {
			return s.Settle(ctx(t), &relay.Settlement{
				Routed: map[string]int64{shop: 14}, Cursors: []relay.CursorState{{CursorID: mail, Position: 5}},
				Put: []relay.OpenDelivery{open(billing, 3, relay.StateRetrying)}, Attempts: []relay.Attempt{{CursorID: billing, Seq: 3, N: 1}},
				Successes: []relay.SuccessBatch{{CursorID: billing, Successes: []relay.Success{{Seq: 1, Attempts: 1}, {Seq: 2, Attempts: 1}}}},
			})
		},
		"source": func() error { return s.PutSource(ctx(t), source(700), &relay.Gap{Source: "shop"}) },
		"endpoint": func() error {
			return s.PutEndpoint(ctx(t), &relay.EndpointRow{ID: "billing", Status: relay.EndpointActive})
		},
		"replay": func() error { return s.StartReplay(ctx(t), &relay.Replay{Stream: shop, From: 1, To: 2}) },
	}
}

func testFaultLeavesNothing(t *testing.T, s Store) {
	fill(t, s, shop, 14)
	all := writes(t, s)
	for _, name := range []string{"append", "settle", "source", "endpoint", "replay"} {
		before := look(t, s)
		for _, step := range []string{"begin", name, "commit"} {
			s.Inject(failAt(step))
			if err := all[name](); !errors.Is(err, errInjected) {
				t.Fatalf("%s with a fault at %s: %v", name, step, err)
			}
			s.Inject(nil)
			same(t, name+" with a fault at "+step, look(t, s), before)
			s.Reopen(t)
			same(t, name+" with a fault at "+step+", opened again", look(t, s), before)
		}
		must(t, all[name]())
		if look(t, s) == before {
			t.Fatalf("%s without a fault changed nothing", name)
		}
	}
}

func testUnknownCommitIsAllOrNothing(t *testing.T, s Store) {
	fill(t, s, shop, 14)
	all := writes(t, s)
	for _, name := range []string{"append", "settle", "source", "endpoint", "replay"} {
		before := look(t, s)
		s.Inject(failAt("committed"))
		if err := all[name](); !errors.Is(err, errInjected) {
			t.Fatalf("%s: %v", name, err)
		}
		s.Inject(nil)
		after := look(t, s)
		if after == before {
			t.Fatalf("%s: the fault came before the fact", name)
		}
		s.Reopen(t)
		same(t, name+", opened again", look(t, s), after)
	}
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, Blocks: []*relay.Block{block(shop, 22, 23)}, Head: 23, Tail: 23}))
}

func testSettlesTheSameAgain(t *testing.T, s Store) {
	fill(t, s, shop, 14)
	settle := writes(t, s)["settle"]
	must(t, settle())
	before := look(t, s)
	first, third := event(shop, 1), event(shop, 3)
	attempts := got[[]relay.Attempt](t)(s.Attempts(ctx(t), third.ID))
	must(t, settle())
	same(t, "settled twice", look(t, s), before)
	same(t, "attempts", got[[]relay.Attempt](t)(s.Attempts(ctx(t), third.ID)), attempts)
	if rows := got[[]relay.DeliveryRow](t)(s.Deliveries(ctx(t), relay.DeliveryQuery{Endpoint: "billing"})); len(rows) != 3 {
		t.Errorf("deliveries are listed more than once: %+v", rows)
	}
	if rows := got[[]relay.DeliveryRow](t)(s.Deliveries(ctx(t), relay.DeliveryQuery{Event: &first.ID})); len(rows) != 1 {
		t.Errorf("a delivery is listed more than once: %+v", rows)
	}
}
