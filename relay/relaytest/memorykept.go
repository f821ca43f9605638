package relaytest

import (
	"context"
	"slices"

	"github.com/rowhook/rowhook/relay"
)

// keep stores what an append has to keep.
func (m *Memory) keep(s *memoryStream, a *relay.Append) {
	if a.DiscardTail {
		s.kept = slices.DeleteFunc(s.kept, func(k relay.KeptChanges) bool { return k.Seq > s.keptHead })
		s.keptTail = s.keptHead
	}
	add := func(k *relay.KeptChanges) {
		if k != nil {
			s.keptTail++
			s.kept = append(s.kept, relay.KeptChanges{Seq: s.keptTail, At: k.At, Data: slices.Clone(k.Data)})
		}
	}
	if a.Kept != nil {
		add(a.Kept.Whole)
		if a.Kept.Ended {
			s.keptHead = s.keptTail
		}
		add(a.Kept.Open)
		if m.tables == nil {
			m.tables = map[string]relay.KeptTable{}
		}
		for _, t := range a.Kept.Tables {
			m.tables[t.ID] = t
		}
	}
	if a.Source == nil || a.Source.Partial == nil {
		s.keptHead = s.keptTail
	}
}

// Kept implements relay.KeptStore.
func (m *Memory) Kept(_ context.Context, q relay.KeptQuery) ([]relay.KeptChanges, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []relay.KeptChanges
	size := 0
	s := m.streams[q.Stream]
	if s == nil {
		return nil, nil
	}
	for _, k := range s.kept {
		if k.Seq <= q.After || k.Seq > s.keptHead || k.At < q.Since {
			continue
		}
		size += len(k.Data)
		if len(out) > 0 && size > q.MaxBytes {
			break
		}
		out = append(out, k)
	}
	return out, nil
}

// KeptTables implements relay.KeptStore.
func (m *Memory) KeptTables(context.Context) ([]relay.KeptTable, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []relay.KeptTable
	for _, t := range m.tables {
		out = append(out, t)
	}
	return out, nil
}
