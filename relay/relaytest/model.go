package relaytest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/rowhook/rowhook/relay"
	"pgregory.net/rapid"
)

// model is a store so simple that it is plainly right: the places of one
// stream and what one cursor made of them.
type model struct {
	head, tail int64
	lasts      []int64 // where blocks end
	lsn        relay.LSN
	routed     int64
	position   int64 // -1 is current
	open       map[int64]relay.State
	settled    map[int64]bool
}

func (m model) clone() model {
	m.lasts = slices.Clone(m.lasts)
	m.open, m.settled = maps.Clone(m.open), maps.Clone(m.settled)
	return m
}

func testModel(t *testing.T, s Store) { runModel(t, s, false) }

func testModelUnderFaults(t *testing.T, s Store) { runModel(t, s, true) }

// runModel makes random changes and compares. Each run of rapid has a stream
// of its own in the one store. After a fault either the state before or the
// state after may be found, and no other.
func runModel(t *testing.T, s Store, faults bool) {
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		d := &modelRun{r: r, t: t, s: s, stream: fmt.Sprintf("model-%d", runs), faults: faults,
			m: model{position: -1, open: map[int64]relay.State{}, settled: map[int64]bool{}}}
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			d.step()
		}
	})
}

type modelRun struct {
	r      *rapid.T
	t      *testing.T
	s      Store
	stream string
	faults bool
	m      model
}

func (d *modelRun) step() {
	next := d.m.clone()
	var call func() error
	switch rapid.SampledFrom([]string{"append", "append", "settle", "reopen"}).Draw(d.r, "step") {
	case "append":
		call = d.append(&next)
	case "settle":
		call = d.settle(&next)
	default:
		d.s.Reopen(d.t)
		d.compare(d.m)
		return
	}
	fault := ""
	if d.faults && rapid.Bool().Draw(d.r, "fault") {
		fault = rapid.SampledFrom([]string{"begin", "append", "settle", "commit", "committed"}).Draw(d.r, "where")
		d.s.Inject(failAt(fault))
	}
	err := call()
	d.s.Inject(nil)
	switch {
	case err == nil:
		d.m = next
	case !errors.Is(err, errInjected):
		d.r.Fatalf("%v", err)
	case fault == "committed":
		d.m = next
	}
	d.compare(d.m)
}

func (d *modelRun) append(m *model) func() error {
	a := &relay.Append{Stream: d.stream, DiscardTail: rapid.Bool().Draw(d.r, "discard")}
	if a.DiscardTail {
		m.tail = m.head
		m.lasts = slices.DeleteFunc(m.lasts, func(l int64) bool { return l > m.head })
	}
	for range rapid.IntRange(0, 3).Draw(d.r, "blocks") {
		first := m.tail + 1 + rapid.Int64Range(0, 2).Draw(d.r, "gap")
		last := first + rapid.Int64Range(0, 3).Draw(d.r, "more")
		a.Blocks = append(a.Blocks, block(d.stream, first, last))
		m.tail = last
		m.lasts = append(m.lasts, last)
	}
	heads := []int64{m.head, m.tail}
	for _, l := range m.lasts {
		if l > m.head {
			heads = append(heads, l)
		}
	}
	m.head = rapid.SampledFrom(heads).Draw(d.r, "head")
	m.lsn++
	a.Head, a.Tail = m.head, m.tail
	a.Source = source(m.lsn)
	a.Source.Source = d.stream
	return func() error { return d.s.Append(ctx(d.t), a) }
}

func (d *modelRun) settle(m *model) func() error {
	c := relay.CursorID{Endpoint: "billing", Stream: d.stream}
	s := &relay.Settlement{}
	if rapid.Bool().Draw(d.r, "route") {
		m.routed = rapid.Int64Range(0, m.head).Draw(d.r, "routed")
		s.Routed = map[string]int64{d.stream: m.routed}
	}
	switch rapid.IntRange(0, 2).Draw(d.r, "cursor") {
	case 1:
		m.position = rapid.Int64Range(0, m.head).Draw(d.r, "position")
		s.Cursors = []relay.CursorState{{CursorID: c, Position: m.position}}
	case 2:
		m.position = -1
		s.Current = []relay.CursorID{c}
	}
	batch := relay.SuccessBatch{CursorID: c}
	touched := map[int64]bool{}
	for range rapid.IntRange(0, 5).Draw(d.r, "outcomes") {
		if m.head == 0 {
			break
		}
		seq := rapid.Int64Range(1, m.head).Draw(d.r, "seq")
		if touched[seq] {
			continue
		}
		touched[seq] = true
		if rapid.Bool().Draw(d.r, "delivered") {
			if _, ok := m.open[seq]; ok {
				delete(m.open, seq)
				s.Remove = append(s.Remove, relay.DeliveryRef{CursorID: c, Seq: seq})
			}
			m.settled[seq] = true
			batch.Successes = append(batch.Successes, relay.Success{Seq: seq, Attempts: 1, At: seq})
			continue
		}
		state := rapid.SampledFrom([]relay.State{relay.StateRetrying, relay.StatePending, relay.StateHeld, relay.StateDead}).Draw(d.r, "state")
		m.open[seq] = state
		s.Put = append(s.Put, open(c, seq, state))
		s.Attempts = append(s.Attempts, relay.Attempt{CursorID: c, Seq: seq, N: 1})
	}
	s.Successes = []relay.SuccessBatch{batch}
	return func() error { return d.s.Settle(ctx(d.t), s) }
}

// compare holds the store against the model.
func (d *modelRun) compare(m model) {
	c := relay.CursorID{Endpoint: "billing", Stream: d.stream}
	st := got[relay.StreamState](d.t)(d.s.Stream(ctx(d.t), d.stream))
	if st.Head != m.head || st.Tail != m.tail {
		d.r.Fatalf("stream %+v, want head %d and tail %d", st, m.head, m.tail)
	}
	var lasts []int64
	for after := int64(0); ; {
		blocks := got[[]*relay.Block](d.t)(d.s.Blocks(ctx(d.t), d.stream, after, 1<<9))
		if len(blocks) == 0 {
			break
		}
		for _, b := range blocks {
			lasts = append(lasts, b.Last)
			after = b.Last
		}
	}
	visible := slices.DeleteFunc(slices.Clone(m.lasts), func(l int64) bool { return l > m.head })
	if !slices.Equal(lasts, visible) {
		d.r.Fatalf("blocks end at %v, want %v", lasts, visible)
	}
	src := got[*relay.SourceState](d.t)(d.s.SourceState(ctx(d.t), d.stream))
	if (src == nil) != (m.lsn == 0) || (src != nil && src.LSN != m.lsn) {
		d.r.Fatalf("source %+v, want %v", src, m.lsn)
	}
	rows, routed, err := d.s.Cursors(ctx(d.t))
	must(d.t, err)
	if routed[d.stream] != m.routed {
		d.r.Fatalf("routed %d, want %d", routed[d.stream], m.routed)
	}
	position := int64(-1)
	for _, r := range rows {
		if r.CursorID == c {
			position = r.Position
		}
	}
	if position != m.position {
		d.r.Fatalf("position %d, want %d", position, m.position)
	}
	want := maps.Clone(m.open)
	maps.DeleteFunc(want, func(_ int64, s relay.State) bool { return s.Settled() })
	have := map[int64]relay.State{}
	for _, o := range got[[]relay.OpenDelivery](d.t)(d.s.OpenDeliveries(ctx(d.t), c)) {
		have[o.Seq] = o.State
	}
	if !maps.Equal(have, want) {
		d.r.Fatalf("open %v, want %v", have, want)
	}
	settled := maps.Clone(m.settled)
	for seq, state := range m.open {
		if state.Settled() {
			settled[seq] = true
		}
	}
	if s := got[[]int64](d.t)(d.s.SettledAfter(ctx(d.t), c, 0)); !slices.Equal(s, slices.Sorted(maps.Keys(settled))) {
		d.r.Fatalf("settled %v, want %v", s, settled)
	}
}
