package relaytest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

var (
	billing = relay.CursorID{Endpoint: "billing", Stream: shop}
	mail    = relay.CursorID{Endpoint: "mail", Stream: shop}
)

func testKeepsPositions(t *testing.T, s Store) {
	fill(t, s, shop, 20)
	replay := relay.CursorID{Endpoint: "billing", Stream: shop, Replay: 1}
	must(t, s.Settle(ctx(t), &relay.Settlement{
		Routed:  map[string]int64{shop: 7},
		Cursors: []relay.CursorState{{CursorID: replay, Position: 3}, {CursorID: billing, Position: 5}, {CursorID: mail, Position: 2}},
	}))
	check := func(routed int64, want ...relay.CursorState) {
		t.Helper()
		for range 2 {
			rows, places, err := s.Cursors(ctx(t))
			must(t, err)
			same(t, "cursors", rows, want)
			same(t, "routed", places, map[string]int64{shop: routed})
			s.Reopen(t)
		}
	}
	check(7, relay.CursorState{CursorID: billing, Position: 5}, relay.CursorState{CursorID: replay, Position: 3}, relay.CursorState{CursorID: mail, Position: 2})
	must(t, s.Settle(ctx(t), &relay.Settlement{
		Routed: map[string]int64{shop: 20}, Current: []relay.CursorID{billing}, Cursors: []relay.CursorState{{CursorID: mail, Position: 9}},
	}))
	check(20, relay.CursorState{CursorID: replay, Position: 3}, relay.CursorState{CursorID: mail, Position: 9})
	must(t, s.Settle(ctx(t), &relay.Settlement{Cursors: []relay.CursorState{{CursorID: billing, Position: 20}}, Current: []relay.CursorID{mail}}))
	check(20, relay.CursorState{CursorID: billing, Position: 20}, relay.CursorState{CursorID: replay, Position: 3})
}

func testRefusesAPlaceAfterTheHead(t *testing.T, s Store) {
	fill(t, s, shop, 4)
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, Blocks: []*relay.Block{block(shop, 5, 8)}, Head: 4, Tail: 8}))
	for _, bad := range []*relay.Settlement{
		{Routed: map[string]int64{shop: 5}},
		{Routed: map[string]int64{"other": 1}},
		{Cursors: []relay.CursorState{{CursorID: billing, Position: 5}}},
	} {
		bad.Put = []relay.OpenDelivery{open(billing, 1, relay.StateRetrying)}
		if err := s.Settle(ctx(t), bad); err == nil {
			t.Errorf("%+v was stored", bad)
		}
	}
	if d := got[[]relay.OpenDelivery](t)(s.OpenDeliveries(ctx(t), billing)); len(d) != 0 {
		t.Fatalf("half of a settlement was stored: %v", d)
	}
}

func testKeepsOpenDeliveries(t *testing.T, s Store) {
	fill(t, s, shop, 10)
	must(t, s.Settle(ctx(t), &relay.Settlement{Routed: map[string]int64{shop: 10}, Put: []relay.OpenDelivery{
		open(billing, 6, relay.StateHeld), open(billing, 2, relay.StateRetrying), open(billing, 3, relay.StateDead),
		open(billing, 5, relay.StatePending), open(billing, 7, relay.StateCancelled), open(mail, 2, relay.StateRetrying),
	}}))
	s.Reopen(t)
	same(t, "open", got[[]relay.OpenDelivery](t)(s.OpenDeliveries(ctx(t), billing)),
		[]relay.OpenDelivery{open(billing, 2, relay.StateRetrying), open(billing, 5, relay.StatePending), open(billing, 6, relay.StateHeld)})
	same(t, "counts", got[map[string]map[relay.State]int64](t)(s.DeliveryCounts(ctx(t))), map[string]map[relay.State]int64{
		"billing": {relay.StateHeld: 1, relay.StateRetrying: 1, relay.StateDead: 1, relay.StatePending: 1, relay.StateCancelled: 1},
		"mail":    {relay.StateRetrying: 1},
	})
	same(t, "settled", got[[]int64](t)(s.SettledAfter(ctx(t), billing, 0)), []int64{3, 7})
	same(t, "settled", got[[]int64](t)(s.SettledAfter(ctx(t), billing, 3)), []int64{7})
	again := open(billing, 2, relay.StateDead)
	again.Attempts, again.LastError, again.LastStatus, again.NextAt = 9, "worse", 500, 0
	must(t, s.Settle(ctx(t), &relay.Settlement{
		Put: []relay.OpenDelivery{again}, Remove: []relay.DeliveryRef{{CursorID: billing, Seq: 5}, {CursorID: billing, Seq: 99}},
	}))
	s.Reopen(t)
	same(t, "open", got[[]relay.OpenDelivery](t)(s.OpenDeliveries(ctx(t), billing)), []relay.OpenDelivery{open(billing, 6, relay.StateHeld)})
	rows := got[[]relay.DeliveryRow](t)(s.Deliveries(ctx(t), relay.DeliveryQuery{Endpoint: "billing", State: relay.StateDead}))
	if len(rows) != 2 {
		t.Fatalf("dead deliveries: %+v", rows)
	}
	same(t, "dead", rows[1].OpenDelivery, again)
}

func testKeepsSuccesses(t *testing.T, s Store) {
	fill(t, s, shop, 200)
	batch := func(c relay.CursorID, seqs ...int64) relay.SuccessBatch {
		b := relay.SuccessBatch{CursorID: c}
		for i, seq := range seqs {
			b.Successes = append(b.Successes, relay.Success{
				Seq: seq, Attempts: 1 + i%3, At: 1_700_000_000_000_000 + seq*10 - int64(i%4), Duration: time.Duration(seq) * time.Millisecond, Status: 200 + i%5,
			})
		}
		return b
	}
	late := batch(billing, 199, 3, 150, 101) // after retries, out of order
	must(t, s.Settle(ctx(t), &relay.Settlement{Routed: map[string]int64{shop: 200}, Successes: []relay.SuccessBatch{
		batch(billing, upTo(10, 90)...), batch(mail, upTo(1, 20)...), late, {CursorID: mail},
	}}))
	for range 2 {
		same(t, "settled", got[[]int64](t)(s.SettledAfter(ctx(t), billing, 0)), append(append([]int64{3}, upTo(10, 90)...), 101, 150, 199))
		same(t, "settled", got[[]int64](t)(s.SettledAfter(ctx(t), billing, 88)), []int64{89, 90, 101, 150, 199})
		same(t, "settled", got[[]int64](t)(s.SettledAfter(ctx(t), billing, 199)), []int64(nil))
		same(t, "settled", got[[]int64](t)(s.SettledAfter(ctx(t), mail, 18)), []int64{19, 20})
		for i, seq := range []int64{199, 3, 150, 101} {
			e := event(shop, seq)
			a := got[[]relay.Attempt](t)(s.Attempts(ctx(t), e.ID))
			w := late.Successes[i]
			want := []relay.Attempt{{CursorID: billing, Seq: seq, N: w.Attempts, At: w.At - w.Duration.Microseconds(), Duration: w.Duration, Status: w.Status}}
			if seq == 3 {
				m := batch(mail, upTo(1, 20)...).Successes[2]
				want = append(want, relay.Attempt{CursorID: mail, Seq: 3, N: m.Attempts, At: m.At - m.Duration.Microseconds(), Duration: m.Duration, Status: m.Status})
				if want[1].At < want[0].At {
					want[0], want[1] = want[1], want[0]
				}
			}
			same(t, fmt.Sprintf("attempts of %d", seq), a, want)
		}
		s.Reopen(t)
	}
}

func testKeepsAttempts(t *testing.T, s Store) {
	fill(t, s, shop, 10)
	e := event(shop, 4)
	failed := func(c relay.CursorID, n int) relay.Attempt {
		return relay.Attempt{
			CursorID: c, Seq: 4, N: n, At: 1000 * int64(n), Duration: time.Duration(n) * time.Millisecond, Status: 500 + n,
			Class: relay.ErrStatus5, Err: "answered " + fmt.Sprint(500+n), Response: []byte{0, byte(n)},
		}
	}
	must(t, s.Settle(ctx(t), &relay.Settlement{
		Put: []relay.OpenDelivery{open(billing, 4, relay.StateRetrying)}, Attempts: []relay.Attempt{failed(billing, 1), failed(mail, 1)},
	}))
	must(t, s.Settle(ctx(t), &relay.Settlement{
		Remove: []relay.DeliveryRef{{CursorID: billing, Seq: 4}}, Attempts: []relay.Attempt{failed(billing, 2)},
		Successes: []relay.SuccessBatch{{CursorID: billing, Successes: []relay.Success{{Seq: 4, Attempts: 3, At: 9000, Duration: time.Millisecond, Status: 204}}}},
	}))
	s.Reopen(t)
	same(t, "attempts", got[[]relay.Attempt](t)(s.Attempts(ctx(t), e.ID)), []relay.Attempt{
		failed(billing, 1), failed(mail, 1), failed(billing, 2), {CursorID: billing, Seq: 4, N: 3, At: 8000, Duration: time.Millisecond, Status: 204},
	})
	other := event(shop, 5)
	if a := got[[]relay.Attempt](t)(s.Attempts(ctx(t), other.ID)); len(a) != 0 {
		t.Fatalf("attempts of another event: %v", a)
	}
}

func testKeepsEndpointsAndReplays(t *testing.T, s Store) {
	fill(t, s, shop, 10)
	e := relay.EndpointRow{
		ID: "billing", Kind: "webhook", Target: "https://x", Status: relay.EndpointActive, CreatedAt: 5,
		Versions: []relay.EndpointVersion{{Version: 1, Patterns: "**", At: 5}, {Version: 2, Patterns: "order.**,!order.paid", After: map[string]int64{shop: 4}, At: 6}},
	}
	must(t, s.PutEndpoint(ctx(t), &e))
	must(t, s.PutEndpoint(ctx(t), &relay.EndpointRow{ID: "a", Status: relay.EndpointVanished}))
	s.Reopen(t)
	same(t, "endpoints", got[[]relay.EndpointRow](t)(s.Endpoints(ctx(t))), []relay.EndpointRow{{ID: "a", Status: relay.EndpointVanished}, e})
	must(t, s.Settle(ctx(t), &relay.Settlement{Disable: map[string]string{"billing": "answered 410"}}))
	s.Reopen(t)
	e.Status, e.Reason = relay.EndpointDisabled, "answered 410"
	same(t, "endpoint", got[[]relay.EndpointRow](t)(s.Endpoints(ctx(t)))[1], e)
	e.Status, e.Reason = relay.EndpointActive, ""
	must(t, s.PutEndpoint(ctx(t), &e))
	same(t, "endpoint", got[[]relay.EndpointRow](t)(s.Endpoints(ctx(t)))[1], e)

	one := relay.Replay{Endpoint: "billing", Stream: shop, From: 2, To: 5, CreatedAt: 3, Reason: "asked for"}
	two := relay.Replay{Stream: shop, From: 1, To: 9, CreatedAt: 4}
	must(t, s.StartReplay(ctx(t), &one))
	must(t, s.StartReplay(ctx(t), &two))
	if one.ID == 0 || one.ID == two.ID {
		t.Fatalf("ids %d and %d", one.ID, two.ID)
	}
	run := relay.CursorID{Endpoint: "billing", Stream: shop, Replay: one.ID}
	must(t, s.Settle(ctx(t), &relay.Settlement{Cursors: []relay.CursorState{{CursorID: run, Position: 3}}}))
	s.Reopen(t)
	same(t, "replays", got[[]relay.Replay](t)(s.Replays(ctx(t))), []relay.Replay{one, two})
	must(t, s.Settle(ctx(t), &relay.Settlement{FinishedReplays: []int64{one.ID}}))
	s.Reopen(t)
	same(t, "replays", got[[]relay.Replay](t)(s.Replays(ctx(t))), []relay.Replay{two})
	if rows, _, err := s.Cursors(ctx(t)); err != nil || len(rows) != 0 {
		t.Fatalf("cursors of a finished replay: %v, %v", rows, err)
	}
}

func testListsDeliveriesOfAnEvent(t *testing.T, s Store) {
	fill(t, s, shop, 20)
	for _, e := range []relay.EndpointRow{
		{ID: "billing", Status: relay.EndpointActive, Versions: []relay.EndpointVersion{{Patterns: "order.**"}, {Patterns: "user.**", After: map[string]int64{shop: 15}}}},
		{ID: "mail", Status: relay.EndpointDisabled, Versions: []relay.EndpointVersion{{Patterns: "**"}}},
		{ID: "new", Status: relay.EndpointActive, Versions: []relay.EndpointVersion{{Patterns: "**", After: map[string]int64{shop: 16}}}},
	} {
		must(t, s.PutEndpoint(ctx(t), &e))
	}
	must(t, s.Settle(ctx(t), &relay.Settlement{
		Routed:    map[string]int64{shop: 10},
		Cursors:   []relay.CursorState{{CursorID: mail, Position: 4}},
		Put:       []relay.OpenDelivery{open(billing, 8, relay.StateRetrying)},
		Successes: []relay.SuccessBatch{{CursorID: billing, Successes: []relay.Success{{Seq: 7, Attempts: 1, At: 77, Status: 200}}}},
	}))
	for _, c := range []struct {
		seq  int64
		want string
	}{
		{7, "billing delivered, mail held"},
		{8, "billing retrying, mail held"},
		{10, "mail held"},                  // order.paid: billing's cursor is past it without a record
		{11, "billing pending, mail held"}, // order.paid
		{12, "mail held"},                  // user.left, before version 2 of billing
		{18, "billing pending, mail held, new pending"},
		{19, "mail held, new pending"}, // order.paid, after version 2 of billing
	} {
		e := event(shop, c.seq)
		var words []string
		for _, d := range got[[]relay.DeliveryRow](t)(s.Deliveries(ctx(t), relay.DeliveryQuery{Event: &e.ID})) {
			words = append(words, d.Endpoint+" "+string(d.State))
			if d.EventID != e.ID || d.Type != e.Type || d.Seq != c.seq {
				t.Errorf("delivery of %d: %+v", c.seq, d)
			}
		}
		// The order is by time, and those that wait have none.
		have := strings.Join(sorted(words), ", ")
		if have != c.want {
			t.Errorf("event %d: %q, want %q", c.seq, have, c.want)
		}
	}
	e := event(shop, 7)
	rows := got[[]relay.DeliveryRow](t)(s.Deliveries(ctx(t), relay.DeliveryQuery{Event: &e.ID, State: relay.StateDelivered}))
	if len(rows) != 1 || rows[0].Time != 77 || rows[0].Status != 200 || rows[0].Attempts != 1 {
		t.Fatalf("delivered: %+v", rows)
	}
	unknown := event("nowhere", 1)
	if rows := got[[]relay.DeliveryRow](t)(s.Deliveries(ctx(t), relay.DeliveryQuery{Event: &unknown.ID})); len(rows) != 0 {
		t.Fatalf("deliveries of an unknown event: %v", rows)
	}
}

func testListsRecentDeliveries(t *testing.T, s Store) {
	fill(t, s, shop, 300)
	at := func(n int64) int64 { return 1_700_000_000_000_000 + n }
	st := relay.Settlement{Routed: map[string]int64{shop: 300}}
	for first := int64(1); first <= 300; first += 3 {
		b := relay.SuccessBatch{CursorID: billing}
		for seq := first; seq < first+3; seq++ {
			if seq != 150 && seq != 298 {
				b.Successes = append(b.Successes, relay.Success{Seq: seq, Attempts: 1, At: at(seq), Status: 200})
			}
		}
		st.Successes = append(st.Successes, b)
	}
	// Delivered late, so it is the newest.
	st.Successes = append(st.Successes, relay.SuccessBatch{CursorID: billing, Successes: []relay.Success{{Seq: 150, Attempts: 2, At: at(999), Status: 200}}})
	st.Put = []relay.OpenDelivery{open(billing, 298, relay.StateDead)} // updated at(298)
	must(t, s.Settle(ctx(t), &st))
	rows := got[[]relay.DeliveryRow](t)(s.Deliveries(ctx(t), relay.DeliveryQuery{Endpoint: "billing", Limit: 60}))
	var have, want []int64
	for _, r := range rows {
		have = append(have, r.Seq)
		if e := event(shop, r.Seq); r.EventID != e.ID || r.Type != e.Type {
			t.Errorf("delivery of %d: %+v", r.Seq, r)
		}
		if dead := r.Seq == 298; dead != (r.State == relay.StateDead) {
			t.Errorf("delivery of %d is %s", r.Seq, r.State)
		}
	}
	want = append(want, 150)
	for seq := int64(300); len(want) < 60; seq-- {
		want = append(want, seq)
	}
	same(t, "newest first", have, want)
	if rows := got[[]relay.DeliveryRow](t)(s.Deliveries(ctx(t), relay.DeliveryQuery{})); len(rows) != 50 {
		t.Errorf("%d rows without a limit", len(rows))
	}
	if rows := got[[]relay.DeliveryRow](t)(s.Deliveries(ctx(t), relay.DeliveryQuery{Endpoint: "mail"})); len(rows) != 0 {
		t.Errorf("deliveries of an endpoint that has none: %v", rows)
	}
}

func testFindsEvents(t *testing.T, s Store) {
	fill(t, s, shop, 60)
	fill(t, s, "crm/wal", 30)
	for _, stream := range []string{shop, "crm/wal"} {
		for seq := int64(1); seq <= 30; seq++ {
			want := event(stream, seq)
			same(t, "event", *got[*relay.Event](t)(s.Event(ctx(t), want.ID)), want)
		}
	}
	missing := event("nowhere", 4)
	if _, err := s.Event(ctx(t), missing.ID); !errors.Is(err, relay.ErrNotFound) {
		t.Errorf("an unknown event: %v", err)
	}
	users, err := relay.ParsePatterns([]string{"user.**"})
	must(t, err)
	list := func(q relay.EventQuery) (out []int64) {
		t.Helper()
		for _, e := range got[[]relay.Event](t)(s.Events(ctx(t), q)) {
			same(t, "event", e, event(e.Stream, e.Seq))
			out = append(out, e.Seq)
		}
		return out
	}
	same(t, "of a stream", list(relay.EventQuery{Stream: shop, Limit: 4}), []int64{60, 59, 58, 57})
	same(t, "of a type", list(relay.EventQuery{Stream: shop, Types: &users, Limit: 3}), []int64{60, 57, 54})
	same(t, "of a key", list(relay.EventQuery{Stream: shop, Key: "key-4", Limit: 3}), []int64{59, 49, 44})
	same(t, "of a tenant", list(relay.EventQuery{Stream: shop, Tenant: "other"}), []int64(nil))
	same(t, "of a source", list(relay.EventQuery{Source: "other"}), []int64(nil))
	low, high := event(shop, 20).Time, event(shop, 23).Time
	same(t, "of a time", list(relay.EventQuery{Stream: shop, After: low, Before: high}), []int64{23, 22, 21, 20})
	all := list(relay.EventQuery{After: event(shop, 29).Time, Limit: 100})
	if len(all) != 32+2 || all[0] != 60 || all[len(all)-1] != 29 {
		t.Errorf("of all streams: %v", all)
	}
	if n := len(list(relay.EventQuery{})); n != 50 {
		t.Errorf("%d events without a limit", n)
	}
}
