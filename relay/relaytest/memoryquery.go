package relaytest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/rowhook/rowhook/relay"
)

// events calls f with every visible event, newest place first within a stream.
func (m *Memory) events(f func(e relay.Event)) {
	for _, name := range slices.Sorted(maps.Keys(m.streams)) {
		s := m.streams[name]
		for _, b := range slices.Backward(s.blocks) {
			if b.Last > s.head {
				continue
			}
			var all []relay.Event
			var e relay.Event
			for r := b.Reader(); r.Next(&e); {
				all = append(all, e)
			}
			for _, e := range slices.Backward(all) {
				f(e)
			}
		}
	}
}

func limitOf(n int) int {
	if n <= 0 {
		return 50
	}
	return n
}

// Events implements relay.Queries.
func (m *Memory) Events(_ context.Context, q relay.EventQuery) ([]relay.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []relay.Event
	m.events(func(e relay.Event) {
		if (q.Stream == "" || q.Stream == e.Stream) && (q.Source == "" || q.Source == e.Source) &&
			(q.Types == nil || q.Types.Match(e.Type, e.Version)) &&
			(q.Key == "" || (e.HasKey && string(e.Key) == q.Key)) && (q.Tenant == "" || string(e.Tenant) == q.Tenant) &&
			(q.After == 0 || e.Time >= q.After) && (q.Before == 0 || e.Time <= q.Before) {
			out = append(out, e)
		}
	})
	slices.SortStableFunc(out, func(a, b relay.Event) int { return cmp.Compare(b.Time, a.Time) })
	return out[:min(len(out), limitOf(q.Limit))], nil
}

// Event implements relay.Queries.
func (m *Memory) Event(_ context.Context, id relay.EventID) (*relay.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.event(id); e != nil {
		return e, nil
	}
	return nil, relay.ErrNotFound
}

func (m *Memory) event(id relay.EventID) (found *relay.Event) {
	m.events(func(e relay.Event) {
		if e.ID == id {
			found = &e
		}
	})
	return found
}

// Deliveries implements relay.Queries.
func (m *Memory) Deliveries(_ context.Context, q relay.DeliveryQuery) ([]relay.DeliveryRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rows := map[relay.DeliveryRef]relay.DeliveryRow{}
	for ref, list := range m.successes {
		ok := list[len(list)-1]
		rows[ref] = relay.DeliveryRow{
			OpenDelivery: relay.OpenDelivery{
				CursorID: ref.CursorID, Seq: ref.Seq, State: relay.StateDelivered, Attempts: ok.Attempts, UpdatedAt: ok.At, LastStatus: ok.Status,
			},
			Time: ok.At, Status: ok.Status,
		}
	}
	for ref, d := range m.open {
		rows[ref] = relay.DeliveryRow{OpenDelivery: d, Time: d.UpdatedAt, Status: d.LastStatus}
	}
	m.events(func(e relay.Event) {
		if q.Event != nil && e.ID == *q.Event {
			m.addPending(&e, rows)
		}
		for ref, r := range rows {
			if ref.Stream == e.Stream && ref.Seq == e.Seq && r.State == relay.StateDelivered {
				r.EventID, r.Type, r.Table, r.Barrier = e.ID, e.Type, e.Table, e.Barrier
				rows[ref] = r
			}
		}
	})
	out := slices.DeleteFunc(slices.Collect(maps.Values(rows)), func(r relay.DeliveryRow) bool {
		return (q.Endpoint != "" && q.Endpoint != r.Endpoint) || (q.State != "" && q.State != r.State) ||
			(q.Event != nil && *q.Event != r.EventID)
	})
	slices.SortFunc(out, func(a, b relay.DeliveryRow) int {
		return cmp.Or(cmp.Compare(b.Time, a.Time), compareCursor(a.CursorID, b.CursorID), cmp.Compare(b.Seq, a.Seq))
	})
	return out[:min(len(out), limitOf(q.Limit))], nil
}

// addPending adds the deliveries of e that no cursor has come to.
func (m *Memory) addPending(e *relay.Event, rows map[relay.DeliveryRef]relay.DeliveryRow) {
	for _, ep := range m.endpoints {
		c := relay.CursorID{Endpoint: ep.ID, Stream: e.Stream}
		pos, own := m.cursors[c]
		if !own {
			pos = m.streams[e.Stream].routed
		}
		ref := relay.DeliveryRef{CursorID: c, Seq: e.Seq}
		if _, known := rows[ref]; known || e.Seq <= pos || !Wants(&ep, e) {
			continue
		}
		d := relay.OpenDelivery{
			CursorID: c, Seq: e.Seq, EventID: e.ID, Type: e.Type, Table: e.Table, Barrier: e.Barrier, State: relay.StatePending,
		}
		if ep.Status != relay.EndpointActive {
			d.State = relay.StateHeld
		}
		rows[ref] = relay.DeliveryRow{OpenDelivery: d}
	}
}

// Wants reports whether the version of the endpoint that is in force at the
// event's place wants the event.
func Wants(ep *relay.EndpointRow, e *relay.Event) bool {
	for _, v := range slices.Backward(ep.Versions) {
		if v.After[e.Stream] >= e.Seq {
			continue
		}
		p, err := relay.ParsePatterns(strings.Split(v.Patterns, ","))
		return err == nil && p.Match(e.Type, e.Version)
	}
	return false
}

// Attempts implements relay.Queries.
func (m *Memory) Attempts(_ context.Context, id relay.EventID) ([]relay.Attempt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []relay.Attempt
	add := func(ref relay.DeliveryRef) {
		out = append(out, m.attempts[ref]...)
		for _, ok := range m.successes[ref] {
			out = append(out, relay.Attempt{
				CursorID: ref.CursorID, Seq: ref.Seq, N: ok.Attempts, At: ok.At - ok.Duration.Microseconds(), Duration: ok.Duration, Status: ok.Status,
			})
		}
	}
	seen := map[relay.DeliveryRef]bool{}
	for ref, d := range m.open {
		seen[ref] = d.EventID == id
	}
	if e := m.event(id); e != nil {
		for ref := range m.attempts {
			seen[ref] = seen[ref] || (ref.Stream == e.Stream && ref.Seq == e.Seq)
		}
		for ref := range m.successes {
			seen[ref] = seen[ref] || (ref.Stream == e.Stream && ref.Seq == e.Seq)
		}
	}
	for ref, yes := range seen {
		if yes {
			add(ref)
		}
	}
	slices.SortFunc(out, func(a, b relay.Attempt) int {
		return cmp.Or(cmp.Compare(a.At, b.At), compareCursor(a.CursorID, b.CursorID), cmp.Compare(a.N, b.N))
	})
	return out, nil
}

// Failures implements relay.Queries.
func (m *Memory) Failures(_ context.Context, limit int) ([]relay.Failure, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []relay.Failure
	for _, f := range slices.Backward(m.failures) {
		if f.Seq <= m.streams[f.Stream].head {
			out = append(out, f)
		}
	}
	return out[:min(len(out), limitOf(limit))], nil
}

// Gaps implements relay.Queries.
func (m *Memory) Gaps(_ context.Context, source string) ([]relay.Gap, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.gaps), func(g relay.Gap) bool { return source != "" && g.Source != source }), nil
}

// Sources implements relay.Queries.
func (m *Memory) Sources(context.Context) ([]relay.SourceState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []relay.SourceState
	for _, name := range slices.Sorted(maps.Keys(m.sources)) {
		st := m.sources[name]
		out = append(out, *copySource(&st))
	}
	return out, nil
}

// DeliveryCounts implements relay.Queries.
func (m *Memory) DeliveryCounts(context.Context) (map[string]map[relay.State]int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]map[relay.State]int64{}
	for ref, d := range m.open {
		if out[ref.Endpoint] == nil {
			out[ref.Endpoint] = map[relay.State]int64{}
		}
		out[ref.Endpoint][d.State]++
	}
	return out, nil
}

// Size implements relay.Queries.
func (m *Memory) Size(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var n int64
	for _, s := range m.streams {
		for _, b := range s.blocks {
			n += int64(len(b.Data))
		}
	}
	return n, nil
}
