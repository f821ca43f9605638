package relaytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/rowhook/rowhook/relay"
)

// Memory is a store in memory, for tests of those who use a store. It keeps
// every promise of the interfaces but that of surviving its process. The zero
// value is ready.
type Memory struct {
	// Trace records every durable step; nil records nothing.
	Trace *Trace

	mu        sync.Mutex
	fault     func(step string) error
	streams   map[string]*memoryStream
	sources   map[string]relay.SourceState
	gaps      []relay.Gap
	rules     []relay.RulesRecord
	failures  []relay.Failure
	lastID    int64
	cursors   map[relay.CursorID]int64
	open      map[relay.DeliveryRef]relay.OpenDelivery
	attempts  map[relay.DeliveryRef][]relay.Attempt
	successes map[relay.DeliveryRef][]relay.Success
	endpoints map[string]relay.EndpointRow
	replays   []relay.Replay
	backfills []relay.Backfill
	tables    map[string]relay.KeptTable
}

type memoryStream struct {
	head, tail, routed int64
	blocks             []*relay.Block
	keptHead, keptTail int64
	kept               []relay.KeptChanges
}

// Inject makes f judge every durable step from now on: "begin", the name of
// the operation ("append", "settle", "source", "endpoint", "replay"), "commit",
// and "committed". An error of the last comes after the fact: the operation
// fails although it is stored. Nil ends it.
func (m *Memory) Inject(f func(step string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// write runs one store transaction: check, then change.
func (m *Memory) write(ctx context.Context, step string, check func() error, change func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.streams == nil {
		m.streams = map[string]*memoryStream{}
		m.sources = map[string]relay.SourceState{}
		m.cursors = map[relay.CursorID]int64{}
		m.open = map[relay.DeliveryRef]relay.OpenDelivery{}
		m.attempts = map[relay.DeliveryRef][]relay.Attempt{}
		m.successes = map[relay.DeliveryRef][]relay.Success{}
		m.endpoints = map[string]relay.EndpointRow{}
	}
	for _, s := range []string{"begin", step} {
		if err := m.judge(s); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	if check != nil {
		if err := check(); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	if err := m.judge("commit"); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	change()
	if err := m.judge("committed"); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	return nil
}

func (m *Memory) judge(step string) error {
	if m.fault == nil {
		return nil
	}
	return m.fault(step)
}

// Close does nothing: what was stored stays.
func (m *Memory) Close() error { return nil }

// SourceState implements relay.Log.
func (m *Memory) SourceState(_ context.Context, source string) (*relay.SourceState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st, ok := m.sources[source]
	if !ok {
		return nil, nil
	}
	return copySource(&st), nil
}

func copySource(st *relay.SourceState) *relay.SourceState {
	c := *st
	if st.Partial != nil {
		p := *st.Partial
		c.Partial = &p
	}
	return &c
}

// PutSource implements relay.Log.
func (m *Memory) PutSource(ctx context.Context, st *relay.SourceState, gap *relay.Gap) error {
	return m.write(ctx, "source", nil, func() {
		m.putSource(st, gap)
		m.Trace.Step("source %s generation=%d %s lsn=%v%s", st.Source, st.Generation, st.Phase, st.LSN, gapWord(gap))
	})
}

func (m *Memory) putSource(st *relay.SourceState, gap *relay.Gap) {
	if st != nil {
		m.sources[st.Source] = *copySource(st)
	}
	if gap != nil {
		m.gaps = append(m.gaps, *gap)
	}
}

// RulesRecords implements relay.Log.
func (m *Memory) RulesRecords(_ context.Context, source string) ([]relay.RulesRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []relay.RulesRecord
	for _, r := range m.rules {
		if r.Source == source {
			out = append(out, r)
		}
	}
	return out, nil
}

// PutRules implements relay.Log.
func (m *Memory) PutRules(ctx context.Context, r *relay.RulesRecord) error {
	return m.write(ctx, "rules", nil, func() {
		i := slices.IndexFunc(m.rules, func(o relay.RulesRecord) bool { return o.ID == r.ID })
		if i < 0 {
			i = len(m.rules)
			m.rules = append(m.rules, relay.RulesRecord{})
		}
		m.rules[i] = *r
		if r.From > 0 {
			m.placeRules(relay.RulesPlace{ID: r.ID, From: r.From})
		}
		m.Trace.Step("rules of %s %s from=%v", r.Source, r.ID, r.From)
	})
}

func (m *Memory) placeRules(p relay.RulesPlace) {
	i := slices.IndexFunc(m.rules, func(r relay.RulesRecord) bool { return r.ID == p.ID })
	if i < 0 {
		return
	}
	m.rules[i].From = p.From
	source := m.rules[i].Source
	var before, kept []relay.RulesRecord
	for _, r := range m.rules[:i] {
		switch {
		case r.Source != source:
			kept = append(kept, r)
		case r.From > 0:
			r.Text = ""
			before = append(before, r)
		}
	}
	before = before[max(0, len(before)-relay.PastRules):]
	m.rules = slices.Concat(kept, before, m.rules[i:])
}

func gapWord(g *relay.Gap) string {
	if g == nil {
		return ""
	}
	return fmt.Sprintf(" gap=%v..%v", g.From, g.To)
}

// Stream implements relay.Log.
func (m *Memory) Stream(_ context.Context, stream string) (relay.StreamState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.streams[stream].state(), nil
}

func (s *memoryStream) state() relay.StreamState {
	if s == nil {
		return relay.StreamState{}
	}
	st := relay.StreamState{Head: s.head, Tail: s.tail, KeptHead: s.keptHead, KeptTail: s.keptTail}
	if len(s.blocks) > 0 && s.blocks[0].Last <= s.head {
		st.First = s.blocks[0].First
	}
	return st
}

func (m *Memory) stream(name string) *memoryStream {
	s := m.streams[name]
	if s == nil {
		s = &memoryStream{}
		m.streams[name] = s
	}
	return s
}

var errAppend = errors.New("append does not continue the stream")

// Append implements relay.Log.
func (m *Memory) Append(ctx context.Context, a *relay.Append) error {
	return m.write(ctx, "append", func() error { return m.checkAppend(a) }, func() {
		s := m.stream(a.Stream)
		if a.DiscardTail {
			s.blocks = slices.DeleteFunc(s.blocks, func(b *relay.Block) bool { return b.Last > s.head })
			m.failures = slices.DeleteFunc(m.failures, func(f relay.Failure) bool {
				return f.Stream == a.Stream && f.Seq > s.head
			})
		}
		m.keep(s, a)
		for _, b := range a.Blocks {
			c := *b
			c.Data = slices.Clone(b.Data)
			s.blocks = append(s.blocks, &c)
		}
		for _, f := range a.Failures {
			m.lastID++
			f.ID, f.Stream, f.Change = m.lastID, a.Stream, slices.Clone(f.Change)
			m.failures = append(m.failures, f)
		}
		s.head, s.tail = a.Head, a.Tail
		m.putSource(a.Source, a.Gap)
		m.updateBackfill(a.Backfill)
		for _, p := range a.Rules {
			m.placeRules(p)
		}
		m.traceAppend(a)
	})
}

func (m *Memory) checkAppend(a *relay.Append) error {
	head, tail := int64(0), int64(0)
	var old []*relay.Block
	if s := m.streams[a.Stream]; s != nil {
		head, tail, old = s.head, s.tail, s.blocks
	}
	if a.DiscardTail {
		tail = head
		old = slices.DeleteFunc(slices.Clone(old), func(b *relay.Block) bool { return b.Last > head })
	}
	last, lastFailure := tail, tail
	for _, b := range a.Blocks {
		if b.Stream != a.Stream || b.First <= last || b.Last < b.First {
			return fmt.Errorf("%w: block %d to %d of %q after place %d", errAppend, b.First, b.Last, b.Stream, last)
		}
		last = b.Last
	}
	for _, f := range a.Failures {
		if f.Seq <= lastFailure {
			return fmt.Errorf("%w: failure at %d after place %d", errAppend, f.Seq, lastFailure)
		}
		lastFailure = f.Seq
	}
	if a.Tail < max(last, lastFailure) || a.Head < head || a.Head > a.Tail {
		return fmt.Errorf("%w: head %d and tail %d after head %d and last place %d", errAppend, a.Head, a.Tail, head, max(last, lastFailure))
	}
	for _, b := range slices.Concat(old, a.Blocks) {
		if b.First <= a.Head && a.Head < b.Last {
			return fmt.Errorf("%w: head %d lies inside the block %d to %d", errAppend, a.Head, b.First, b.Last)
		}
	}
	return nil
}

func (m *Memory) traceAppend(a *relay.Append) {
	if m.Trace == nil {
		return
	}
	var w []string
	if a.DiscardTail {
		w = append(w, "discard")
	}
	for _, b := range a.Blocks {
		w = append(w, fmt.Sprintf("%d-%d", b.First, b.Last))
	}
	for _, f := range a.Failures {
		w = append(w, fmt.Sprintf("failure=%d", f.Seq))
	}
	w = append(w, fmt.Sprintf("head=%d tail=%d", a.Head, a.Tail))
	if a.Source != nil {
		w = append(w, fmt.Sprintf("lsn=%v", a.Source.LSN))
		if p := a.Source.Partial; p != nil {
			w = append(w, fmt.Sprintf("partial=%v/%d", p.CommitLSN, p.Changes))
		}
	}
	if b := a.Backfill; b != nil {
		w = append(w, fmt.Sprintf("backfill=%d/%d", b.ID, b.Progress.Rows))
	}
	m.Trace.Step("append %s %s%s", a.Stream, strings.Join(w, " "), gapWord(a.Gap))
}

// Streams implements relay.Ledger.
func (m *Memory) Streams(context.Context) (map[string]relay.StreamState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]relay.StreamState, len(m.streams))
	for name, s := range m.streams {
		out[name] = s.state()
	}
	return out, nil
}

// Blocks implements relay.Ledger.
func (m *Memory) Blocks(_ context.Context, stream string, after int64, maxBytes int) ([]*relay.Block, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	if s == nil {
		return nil, nil
	}
	var out []*relay.Block
	size := 0
	for _, b := range s.blocks {
		if b.Last <= after {
			continue
		}
		size += len(b.Data)
		if b.Last > s.head || (len(out) > 0 && size > maxBytes) {
			break
		}
		c := *b
		c.Data = slices.Clone(b.Data)
		out = append(out, &c)
	}
	return out, nil
}

// Cursors implements relay.Ledger.
func (m *Memory) Cursors(context.Context) ([]relay.CursorState, map[string]int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var rows []relay.CursorState
	for id, pos := range m.cursors {
		rows = append(rows, relay.CursorState{CursorID: id, Position: pos})
	}
	slices.SortFunc(rows, func(a, b relay.CursorState) int { return compareCursor(a.CursorID, b.CursorID) })
	routed := make(map[string]int64, len(m.streams))
	for name, s := range m.streams {
		routed[name] = s.routed
	}
	return rows, routed, nil
}

// OpenDeliveries implements relay.Ledger.
func (m *Memory) OpenDeliveries(_ context.Context, c relay.CursorID) ([]relay.OpenDelivery, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []relay.OpenDelivery
	for ref, d := range m.open {
		if ref.CursorID == c && !d.State.Settled() {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b relay.OpenDelivery) int { return int(a.Seq - b.Seq) })
	return out, nil
}

// SettledAfter implements relay.Ledger.
func (m *Memory) SettledAfter(_ context.Context, c relay.CursorID, after int64) ([]int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []int64
	for ref := range m.successes {
		if ref.CursorID == c && ref.Seq > after {
			out = append(out, ref.Seq)
		}
	}
	for ref, o := range m.open {
		if ref.CursorID == c && ref.Seq > after && o.State.Settled() {
			out = append(out, ref.Seq)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Endpoints implements relay.Ledger.
func (m *Memory) Endpoints(context.Context) ([]relay.EndpointRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []relay.EndpointRow
	for _, id := range slices.Sorted(maps.Keys(m.endpoints)) {
		e := m.endpoints[id]
		out = append(out, copyEndpoint(&e))
	}
	return out, nil
}

func copyEndpoint(e *relay.EndpointRow) relay.EndpointRow {
	c := *e
	c.Versions = slices.Clone(e.Versions)
	for i := range c.Versions {
		c.Versions[i].After = maps.Clone(c.Versions[i].After)
	}
	return c
}

// PutEndpoint implements relay.Ledger.
func (m *Memory) PutEndpoint(ctx context.Context, e *relay.EndpointRow) error {
	return m.write(ctx, "endpoint", nil, func() {
		m.endpoints[e.ID] = copyEndpoint(e)
		m.Trace.Step("endpoint %s %s versions=%d", e.ID, e.Status, len(e.Versions))
	})
}

// Replays implements relay.Ledger.
func (m *Memory) Replays(context.Context) ([]relay.Replay, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.replays), func(r relay.Replay) bool { return r.Done }), nil
}

// StartReplay implements relay.Ledger.
func (m *Memory) StartReplay(ctx context.Context, r *relay.Replay) error {
	return m.write(ctx, "replay", nil, func() {
		r.ID = int64(len(m.replays) + 1)
		m.replays = append(m.replays, *r)
		m.Trace.Step("replay %d %s %s %d-%d", r.ID, r.Endpoint, r.Stream, r.From, r.To)
	})
}
