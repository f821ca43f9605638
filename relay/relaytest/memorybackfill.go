package relaytest

import (
	"context"
	"fmt"
	"slices"

	"github.com/rowhook/rowhook/relay"
)

// AddBackfill implements relay.Backfills.
func (m *Memory) AddBackfill(ctx context.Context, b *relay.Backfill) error {
	return m.write(ctx, "backfill", nil, func() {
		b.ID, b.State = int64(len(m.backfills)+1), relay.BackfillOpen
		m.backfills = append(m.backfills, *b)
		m.Trace.Step("backfill %d %s", b.ID, b.State)
	})
}

// EndBackfill implements relay.Backfills.
func (m *Memory) EndBackfill(ctx context.Context, id int64, state relay.BackfillState, reason string, at int64) (ended bool, err error) {
	var b *relay.Backfill
	err = m.write(ctx, "backfill", func() error {
		if b = m.backfill(id); b == nil {
			return fmt.Errorf("backfill %d: %w", id, relay.ErrNotFound)
		}
		return nil
	}, func() {
		if ended = b.State == relay.BackfillOpen; ended {
			b.State, b.Reason, b.EndedAt = state, reason, at
			m.Trace.Step("backfill %d %s", id, state)
		}
	})
	return ended, err
}

// Backfills implements relay.Backfills.
func (m *Memory) Backfills(context.Context) ([]relay.Backfill, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.backfills), nil
}

func (m *Memory) backfill(id int64) *relay.Backfill {
	if id < 1 || id > int64(len(m.backfills)) {
		return nil
	}
	return &m.backfills[id-1]
}

func (m *Memory) updateBackfill(u *relay.BackfillUpdate) {
	if u == nil {
		return
	}
	b := m.backfill(u.ID)
	if b == nil || b.State != relay.BackfillOpen {
		return
	}
	b.Progress = u.Progress
	if u.Done {
		b.State, b.EndedAt = relay.BackfillDone, u.Progress.At
	}
}
