package relaytest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

// Store is a store under test.
type Store interface {
	relay.Log
	relay.Ledger
	relay.Queries
	relay.Backfills
	// Inject makes f judge every durable step from now on: "begin", "append",
	// "settle", "source", "endpoint", "replay", "commit", and "committed", whose
	// error comes after the fact. Nil ends it.
	Inject(f func(step string) error)
	// Reopen closes the store and opens it again.
	Reopen(t testing.TB)
}

// TestStore runs the conformance suite. Open returns an empty store, which it
// closes at the end of its test.
func TestStore(t *testing.T, open func(t *testing.T) Store) {
	for name, test := range map[string]func(*testing.T, Store){
		"AppendIsWhole":                testAppendIsWhole,
		"ShowsOnlyWhatIsVisible":       testShowsOnlyWhatIsVisible,
		"DiscardsTheTail":              testDiscardsTheTail,
		"ContinuesAHalfStoredTail":     testContinuesAHalfStoredTail,
		"RefusesWhatDoesNotContinue":   testRefusesWhatDoesNotContinue,
		"BlocksInPortions":             testBlocksInPortions,
		"KeepsSourcesAndGaps":          testKeepsSourcesAndGaps,
		"KeepsBackfills":               testKeepsBackfills,
		"KeepsRulesAndTheirPlaces":     testKeepsRules,
		"KeepsChanges":                 testKeepsChanges,
		"KeepsPositions":               testKeepsPositions,
		"RefusesAPlaceAfterTheHead":    testRefusesAPlaceAfterTheHead,
		"KeepsOpenDeliveries":          testKeepsOpenDeliveries,
		"KeepsSuccesses":               testKeepsSuccesses,
		"KeepsAttempts":                testKeepsAttempts,
		"KeepsEndpointsAndReplays":     testKeepsEndpointsAndReplays,
		"ListsDeliveriesOfAnEvent":     testListsDeliveriesOfAnEvent,
		"ListsRecentDeliveries":        testListsRecentDeliveries,
		"FindsEvents":                  testFindsEvents,
		"FaultLeavesNothing":           testFaultLeavesNothing,
		"UnknownCommitIsAllOrNothing":  testUnknownCommitIsAllOrNothing,
		"SettlesTheSameAgain":          testSettlesTheSameAgain,
		"EndedContextStoresNothing":    testEndedContext,
		"AppendsAndSettlesAtOnce":      testAppendsAndSettlesAtOnce,
		"BehavesAsTheModel":            testModel,
		"BehavesAsTheModelUnderFaults": testModelUnderFaults,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

const shop = "shop/wal"

// event returns event seq of a stream; all of it follows from the two.
func event(stream string, seq int64) relay.Event {
	place := uint64(1000 + seq/2*10) // transactions of two events
	f := relay.IDFacts{SystemID: 7, CommitLSN: relay.LSN(place), CommitTime: seq, Ordinal: uint32(seq), Rule: stream}
	e := relay.Event{
		ID: f.ID(), Seq: seq, Stream: stream, Source: "shop", Type: "order.paid", Version: 1, Rule: "order.paid", Table: "public.orders",
		Op: relay.Update, Time: 1_700_000_000_000_000 + seq*1000, Generation: 1, Place: place, Index: uint32(seq % 2),
		HasKey: true, Key: fmt.Appendf(nil, "key-%d", seq%5), Tenant: []byte("acme"), Data: fmt.Appendf(nil, `{"n":%d}`, seq),
	}
	if seq%3 == 0 {
		e.Type, e.HasKey, e.Key = "user.left", false, nil
	}
	return e
}

// block returns the block of the events from first to last.
func block(stream string, first, last int64) *relay.Block {
	var b relay.BlockBuilder
	for seq := first; seq <= last; seq++ {
		e := event(stream, seq)
		b.Add(&e)
	}
	return b.Finish()
}

// source returns a state whose every field is set.
func source(lsn relay.LSN) *relay.SourceState {
	return &relay.SourceState{
		Source: "shop", Generation: 1, SystemID: 1<<63 + 5, Timeline: 1, Database: "shop", Address: "db:5432", Slot: "rowhook_shop",
		Publication: "rowhook_shop", Phase: relay.PhaseStreaming, LSN: lsn, ReadLSN: 1<<63 + 7, ReadAt: 16, UpdatedAt: 17,
	}
}

// fill appends visible events 1 to last in blocks of some events.
func fill(t testing.TB, s Store, stream string, last int64) {
	t.Helper()
	for first := int64(1); first <= last; first += 7 {
		end := min(first+6, last)
		must(t, s.Append(ctx(t), &relay.Append{Stream: stream, Blocks: []*relay.Block{block(stream, first, end)}, Head: end, Tail: end, Source: source(relay.LSN(end))}))
	}
}

func ctx(t testing.TB) context.Context { return t.Context() }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// got ends the test when err is not nil and returns v.
func got[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// same compares what prints the same way; it is for values without pointers.
func same(t testing.TB, what string, have, want any) {
	t.Helper()
	if h, w := fmt.Sprintf("%+v", have), fmt.Sprintf("%+v", want); h != w {
		t.Fatalf("%s:\nhave %s\nwant %s", what, h, w)
	}
}

// seqs returns the places of all visible events, each of which must be what
// was appended.
func seqs(t testing.TB, s Store, stream string) []int64 {
	t.Helper()
	after := int64(0)
	var out []int64
	for {
		blocks := got[[]*relay.Block](t)(s.Blocks(ctx(t), stream, after, 1<<10))
		if len(blocks) == 0 {
			return out
		}
		for _, b := range blocks {
			var e relay.Event
			r := b.Reader()
			for r.Next(&e) {
				same(t, "event", e, event(stream, e.Seq))
				out = append(out, e.Seq)
			}
			must(t, r.Err())
			after = b.Last
		}
	}
}

func upTo(first, last int64) []int64 {
	var out []int64
	for ; first <= last; first++ {
		out = append(out, first)
	}
	return out
}

func testAppendIsWhole(t *testing.T, s Store) {
	a := &relay.Append{
		Stream: shop, Blocks: []*relay.Block{block(shop, 1, 4), block(shop, 6, 9)},
		Failures: []relay.Failure{{Seq: 5, Rule: "r", At: 3, LSN: 4, XID: 5, Table: "public.orders", Change: []byte(`{"a":1}`), Err: "no"}},
		Head:     9, Tail: 9, Source: source(90), Gap: &relay.Gap{Source: "shop", Generation: 1, At: 2, From: 1, To: 5, Reason: "accepted"},
	}
	must(t, s.Append(ctx(t), a))
	for range 2 {
		same(t, "stream", got[relay.StreamState](t)(s.Stream(ctx(t), shop)), relay.StreamState{Head: 9, Tail: 9, First: 1})
		same(t, "streams", got[map[string]relay.StreamState](t)(s.Streams(ctx(t))), map[string]relay.StreamState{shop: {Head: 9, Tail: 9, First: 1}})
		same(t, "events", seqs(t, s, shop), []int64{1, 2, 3, 4, 6, 7, 8, 9})
		same(t, "source", *got[*relay.SourceState](t)(s.SourceState(ctx(t), "shop")), *source(90))
		same(t, "gaps", got[[]relay.Gap](t)(s.Gaps(ctx(t), "shop")), []relay.Gap{*a.Gap})
		failures := got[[]relay.Failure](t)(s.Failures(ctx(t), 0))
		if len(failures) != 1 || failures[0].ID == 0 {
			t.Fatalf("failures: %+v", failures)
		}
		want := a.Failures[0]
		want.ID, want.Stream = failures[0].ID, shop
		same(t, "failure", failures[0], want)
		same(t, "size", got[int64](t)(s.Size(ctx(t))), len(a.Blocks[0].Data)+len(a.Blocks[1].Data))
		s.Reopen(t)
	}
	same(t, "an unknown stream", got[relay.StreamState](t)(s.Stream(ctx(t), "other")), relay.StreamState{})
}

func testShowsOnlyWhatIsVisible(t *testing.T, s Store) {
	fill(t, s, shop, 4)
	must(t, s.Append(ctx(t), &relay.Append{
		Stream: shop, Blocks: []*relay.Block{block(shop, 5, 8)}, Failures: []relay.Failure{{Seq: 9, Rule: "r"}}, Head: 4, Tail: 9,
	}))
	for range 2 {
		same(t, "events", seqs(t, s, shop), upTo(1, 4))
		if e := got[[]relay.Event](t)(s.Events(ctx(t), relay.EventQuery{})); len(e) != 4 {
			t.Fatalf("%d events are listed", len(e))
		}
		hidden := event(shop, 6)
		if _, err := s.Event(ctx(t), hidden.ID); !errors.Is(err, relay.ErrNotFound) {
			t.Fatalf("a hidden event: %v", err)
		}
		if f := got[[]relay.Failure](t)(s.Failures(ctx(t), 0)); len(f) != 0 {
			t.Fatalf("hidden failures are listed: %v", f)
		}
		s.Reopen(t)
	}
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, Head: 9, Tail: 9}))
	same(t, "events", seqs(t, s, shop), upTo(1, 8))
	if f := got[[]relay.Failure](t)(s.Failures(ctx(t), 0)); len(f) != 1 {
		t.Fatalf("failures: %v", f)
	}
}

func testDiscardsTheTail(t *testing.T, s Store) {
	fill(t, s, shop, 4)
	before := got[int64](t)(s.Size(ctx(t)))
	must(t, s.Append(ctx(t), &relay.Append{
		Stream: shop, Blocks: []*relay.Block{block(shop, 5, 8), block(shop, 9, 12)}, Failures: []relay.Failure{{Seq: 13, Rule: "r"}}, Head: 4, Tail: 13,
	}))
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, DiscardTail: true, Blocks: []*relay.Block{block(shop, 5, 6)}, Head: 6, Tail: 6}))
	for range 2 {
		same(t, "events", seqs(t, s, shop), upTo(1, 6))
		same(t, "stream", got[relay.StreamState](t)(s.Stream(ctx(t), shop)), relay.StreamState{Head: 6, Tail: 6, First: 1})
		if f := got[[]relay.Failure](t)(s.Failures(ctx(t), 0)); len(f) != 0 {
			t.Fatalf("failures of the tail: %v", f)
		}
		same(t, "size", got[int64](t)(s.Size(ctx(t))), before+int64(len(block(shop, 5, 6).Data)))
		s.Reopen(t)
	}
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, DiscardTail: true, Head: 6, Tail: 6}))
	same(t, "events", seqs(t, s, shop), upTo(1, 6))
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, Blocks: []*relay.Block{block(shop, 7, 20)}, Head: 20, Tail: 20}))
	same(t, "events", seqs(t, s, shop), upTo(1, 20))
	if f := got[[]relay.Failure](t)(s.Failures(ctx(t), 0)); len(f) != 0 {
		t.Fatalf("failures of a tail that was discarded: %v", f)
	}
}

func testContinuesAHalfStoredTail(t *testing.T, s Store) {
	half := source(40)
	half.Partial = &relay.PartialTx{CommitLSN: 99, XID: 7, CommitTime: 8, Changes: 1 << 40, Events: 4, RulesHash: "abc", Generation: 1, Timeline: 2}
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, Blocks: []*relay.Block{block(shop, 1, 4)}, Head: 0, Tail: 4, Source: half}))
	s.Reopen(t)
	same(t, "stream", got[relay.StreamState](t)(s.Stream(ctx(t), shop)), relay.StreamState{Head: 0, Tail: 4})
	st := got[*relay.SourceState](t)(s.SourceState(ctx(t), "shop"))
	if st.Partial == nil || *st.Partial != *half.Partial {
		t.Fatalf("partial: %+v", st.Partial)
	}
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, Blocks: []*relay.Block{block(shop, 5, 8)}, Head: 0, Tail: 8, Source: half}))
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, Blocks: []*relay.Block{block(shop, 9, 9)}, Head: 9, Tail: 9, Source: source(99)}))
	s.Reopen(t)
	same(t, "events", seqs(t, s, shop), upTo(1, 9))
	if st := got[*relay.SourceState](t)(s.SourceState(ctx(t), "shop")); st.Partial != nil || st.LSN != 99 {
		t.Fatalf("source: %+v", st)
	}
}

func testRefusesWhatDoesNotContinue(t *testing.T, s Store) {
	fill(t, s, shop, 4)
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, Blocks: []*relay.Block{block(shop, 5, 8)}, Head: 4, Tail: 8}))
	size := got[int64](t)(s.Size(ctx(t)))
	for name, a := range map[string]*relay.Append{
		"overlap":                   {Blocks: []*relay.Block{block(shop, 8, 9)}, Head: 9, Tail: 9},
		"disorder":                  {Blocks: []*relay.Block{block(shop, 11, 12), block(shop, 9, 10)}, Head: 12, Tail: 12},
		"another stream's block":    {Blocks: []*relay.Block{block("other", 9, 9)}, Head: 9, Tail: 9},
		"head after tail":           {Blocks: []*relay.Block{block(shop, 9, 9)}, Head: 10, Tail: 9},
		"head goes back":            {Blocks: []*relay.Block{block(shop, 9, 9)}, Head: 3, Tail: 9},
		"tail before the block":     {Blocks: []*relay.Block{block(shop, 9, 11)}, Head: 8, Tail: 10},
		"tail goes back":            {Head: 4, Tail: 7},
		"head inside a block":       {Blocks: []*relay.Block{block(shop, 9, 12)}, Head: 10, Tail: 12},
		"head inside a stored one":  {Blocks: []*relay.Block{block(shop, 9, 12)}, Head: 6, Tail: 12},
		"failure in what is stored": {Failures: []relay.Failure{{Seq: 8}}, Head: 8, Tail: 9},
		"failures in disorder":      {Failures: []relay.Failure{{Seq: 10}, {Seq: 9}}, Head: 10, Tail: 10},
		"failure after the tail":    {Failures: []relay.Failure{{Seq: 10}}, Head: 8, Tail: 9},
	} {
		a.Stream, a.Source = shop, source(999)
		if err := s.Append(ctx(t), a); err == nil {
			t.Errorf("%s: was stored", name)
		}
	}
	same(t, "stream", got[relay.StreamState](t)(s.Stream(ctx(t), shop)), relay.StreamState{Head: 4, Tail: 8, First: 1})
	same(t, "size", got[int64](t)(s.Size(ctx(t))), size)
	if st := got[*relay.SourceState](t)(s.SourceState(ctx(t), "shop")); st.LSN == 999 {
		t.Fatal("the source's state was stored without its events")
	}
}

func testBlocksInPortions(t *testing.T, s Store) {
	fill(t, s, shop, 35)
	one := len(block(shop, 8, 14).Data)
	for _, c := range []struct {
		after    int64
		maxBytes int
		want     []int64 // first places
	}{
		{0, 0, []int64{1}}, {0, one * 2, []int64{1, 8}}, {6, one, []int64{1}}, {7, one, []int64{8}},
		{14, 1 << 20, []int64{15, 22, 29}}, {35, 1 << 20, nil}, {99, 1 << 20, nil},
	} {
		var first []int64
		for _, b := range got[[]*relay.Block](t)(s.Blocks(ctx(t), shop, c.after, c.maxBytes)) {
			first = append(first, b.First)
			same(t, "block", *b, *block(shop, b.First, b.Last))
		}
		same(t, fmt.Sprintf("blocks after %d of %d bytes", c.after, c.maxBytes), first, c.want)
	}
	if b := got[[]*relay.Block](t)(s.Blocks(ctx(t), "other", 0, 1)); len(b) != 0 {
		t.Fatal("an unknown stream has blocks")
	}
}

func testKeepsSourcesAndGaps(t *testing.T, s Store) {
	if st := got[*relay.SourceState](t)(s.SourceState(ctx(t), "shop")); st != nil {
		t.Fatalf("an unknown source: %+v", st)
	}
	creating := source(0)
	creating.Phase = relay.PhaseCreating
	must(t, s.PutSource(ctx(t), creating, nil))
	gap := relay.Gap{Source: "shop", Generation: 2, At: 5, From: 1 << 40, To: 1 << 41, Reason: "slot was lost"}
	next := source(1 << 41)
	next.Generation = 2
	must(t, s.PutSource(ctx(t), next, &gap))
	other := source(3)
	other.Source = "crm"
	must(t, s.PutSource(ctx(t), other, nil))
	s.Reopen(t)
	same(t, "sources", got[[]relay.SourceState](t)(s.Sources(ctx(t))), []relay.SourceState{*other, *next})
	same(t, "gaps", got[[]relay.Gap](t)(s.Gaps(ctx(t), "shop")), []relay.Gap{gap})
	if g := got[[]relay.Gap](t)(s.Gaps(ctx(t), "crm")); len(g) != 0 {
		t.Fatalf("gaps of another source: %v", g)
	}
}

func testEndedContext(t *testing.T, s Store) {
	c, cancel := context.WithCancel(ctx(t))
	cancel()
	if err := s.Append(c, &relay.Append{Stream: shop, Blocks: []*relay.Block{block(shop, 1, 4)}, Head: 4, Tail: 4}); err == nil {
		// A store may be done before it looks; then it must be true.
		same(t, "events", seqs(t, s, shop), upTo(1, 4))
		return
	}
	fill(t, s, shop, 9)
	same(t, "events", seqs(t, s, shop), upTo(1, 9))
}

func testAppendsAndSettlesAtOnce(t *testing.T, s Store) {
	const streams, appends = 4, 25
	var wg sync.WaitGroup
	errs := make(chan error, 2*streams)
	for i := range streams {
		name := fmt.Sprintf("s%d", i)
		c := relay.CursorID{Endpoint: "billing", Stream: name}
		stored := make(chan int64, appends)
		wg.Go(func() {
			defer close(stored)
			for n := int64(1); n <= appends; n++ {
				a := &relay.Append{Stream: name, Blocks: []*relay.Block{block(name, 2*n-1, 2*n)}, Head: 2 * n, Tail: 2 * n}
				if err := s.Append(context.Background(), a); err != nil {
					errs <- err
					return
				}
				stored <- 2 * n
			}
		})
		wg.Go(func() {
			for place := range stored {
				err := s.Settle(context.Background(), &relay.Settlement{
					Cursors:   []relay.CursorState{{CursorID: c, Position: place}},
					Put:       []relay.OpenDelivery{open(c, place, relay.StateRetrying)},
					Successes: []relay.SuccessBatch{{CursorID: c, Successes: []relay.Success{{Seq: place - 1, Attempts: 1, At: place}}}},
				})
				if err != nil {
					errs <- err
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	s.Reopen(t)
	for i := range streams {
		name := fmt.Sprintf("s%d", i)
		c := relay.CursorID{Endpoint: "billing", Stream: name}
		same(t, "events", seqs(t, s, name), upTo(1, 2*appends))
		if n := len(got[[]int64](t)(s.SettledAfter(ctx(t), c, 0))); n != appends {
			t.Errorf("%s: %d successes", name, n)
		}
		if n := len(got[[]relay.OpenDelivery](t)(s.OpenDeliveries(ctx(t), c))); n != appends {
			t.Errorf("%s: %d open deliveries", name, n)
		}
	}
}

// open returns an open delivery whose every field is set.
func open(c relay.CursorID, seq int64, state relay.State) relay.OpenDelivery {
	e := event(c.Stream, seq)
	return relay.OpenDelivery{
		CursorID: c, Seq: seq, EventID: e.ID, Type: e.Type, State: state, Attempts: 3, NextAt: 44, Lane: 1<<63 + uint64(seq), OldLane: 9,
		Table: e.Table, Barrier: seq%2 == 0, Again: seq%3 == 0, LastClass: relay.ErrStatus5, LastStatus: 503, LastError: "busy",
		UpdatedAt: 1_700_000_000_000_000 + seq,
	}
}
