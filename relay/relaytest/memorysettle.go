package relaytest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rowhook/rowhook/relay"
)

func compareCursor(a, b relay.CursorID) int {
	return cmp.Or(strings.Compare(a.Endpoint, b.Endpoint), strings.Compare(a.Stream, b.Stream), cmp.Compare(a.Replay, b.Replay))
}

// Settle implements relay.Ledger.
func (m *Memory) Settle(ctx context.Context, s *relay.Settlement) error {
	check := func() error {
		for stream, place := range s.Routed {
			if head := m.streams[stream].state().Head; place > head {
				return fmt.Errorf("routed place %d of stream %s lies after its head %d", place, stream, head)
			}
		}
		for _, c := range s.Cursors {
			if head := m.streams[c.Stream].state().Head; c.Position > head {
				return fmt.Errorf("position %d of %s lies after the head %d of stream %s", c.Position, c.Endpoint, head, c.Stream)
			}
		}
		return nil
	}
	return m.write(ctx, "settle", check, func() {
		for stream, place := range s.Routed {
			m.stream(stream).routed = place
		}
		for _, c := range s.Cursors {
			m.stream(c.Stream)
			m.cursors[c.CursorID] = c.Position
		}
		for _, c := range s.Current {
			delete(m.cursors, c)
		}
		for _, d := range s.Put {
			m.open[relay.DeliveryRef{CursorID: d.CursorID, Seq: d.Seq}] = d
		}
		for _, ref := range s.Remove {
			delete(m.open, ref)
		}
		for _, a := range s.Attempts {
			ref := relay.DeliveryRef{CursorID: a.CursorID, Seq: a.Seq}
			a.Response = slices.Clone(a.Response)
			m.attempts[ref] = append(slices.DeleteFunc(m.attempts[ref], func(o relay.Attempt) bool { return o.N == a.N }), a)
		}
		for _, b := range s.Successes {
			for _, ok := range b.Successes {
				ref := relay.DeliveryRef{CursorID: b.CursorID, Seq: ok.Seq}
				m.successes[ref] = append(m.successes[ref], ok)
			}
		}
		for id, reason := range s.Disable {
			if e, ok := m.endpoints[id]; ok {
				e.Status, e.Reason = relay.EndpointDisabled, reason
				m.endpoints[id] = e
			}
		}
		for _, id := range s.FinishedReplays {
			for i := range m.replays {
				if m.replays[i].ID == id {
					m.replays[i].Done = true
				}
			}
			maps.DeleteFunc(m.cursors, func(c relay.CursorID, _ int64) bool { return c.Replay == id })
		}
		m.traceSettle(s)
	})
}

func (m *Memory) traceSettle(s *relay.Settlement) {
	if m.Trace == nil {
		return
	}
	var w []string
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	for _, stream := range slices.Sorted(maps.Keys(s.Routed)) {
		add("routed=%s:%d", stream, s.Routed[stream])
	}
	for _, c := range s.Cursors {
		add("cursor=%s:%d", cursorWord(c.CursorID), c.Position)
	}
	for _, c := range s.Current {
		add("current=%s", cursorWord(c))
	}
	for i := range s.Put {
		d := &s.Put[i]
		add("put=%s#%d:%s/%d", cursorWord(d.CursorID), d.Seq, d.State, d.Attempts)
	}
	for _, r := range s.Remove {
		add("remove=%s#%d", cursorWord(r.CursorID), r.Seq)
	}
	for _, b := range s.Successes {
		seqs := make([]string, len(b.Successes))
		for i, ok := range b.Successes {
			seqs[i] = fmt.Sprint(ok.Seq)
		}
		add("delivered=%s#%s", cursorWord(b.CursorID), strings.Join(seqs, ","))
	}
	for _, id := range slices.Sorted(maps.Keys(s.Disable)) {
		add("disable=%s", id)
	}
	for _, id := range s.FinishedReplays {
		add("finished=%d", id)
	}
	m.Trace.Step("settle %s", strings.Join(w, " "))
}

func cursorWord(c relay.CursorID) string {
	if c.Replay != 0 {
		return fmt.Sprintf("%s/%s/%d", c.Endpoint, c.Stream, c.Replay)
	}
	return c.Endpoint + "/" + c.Stream
}
