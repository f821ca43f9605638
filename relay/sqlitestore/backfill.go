package sqlitestore

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

const (
	sqlAddBackfill = `
INSERT INTO backfills (source, rule, condition, rate, initial, state, reason, created_at, ended_at, progress)
VALUES (?, ?, ?, ?, ?, 'open', '', ?, 0, ?)
RETURNING id`
	sqlUpdateBackfill = `UPDATE backfills SET progress = ? WHERE id = ? AND state = 'open'`
	sqlEndBackfill    = `UPDATE backfills SET state = ?, reason = ?, ended_at = ? WHERE id = ? AND state = 'open'`
	sqlBackfillKnown  = `SELECT count(*) FROM backfills WHERE id = ?`
	sqlBackfills      = `
SELECT id, source, rule, condition, rate, initial, state, reason, created_at, ended_at, progress
FROM backfills
ORDER BY id`
)

// AddBackfill implements relay.Backfills.
func (s *Store) AddBackfill(ctx context.Context, b *relay.Backfill) error {
	return s.do(ctx, "backfill", func(w *writer) error {
		progress, err := json.Marshal(&b.Progress)
		if err != nil {
			return err
		}
		b.State = relay.BackfillOpen
		return w.conn.row(sqlAddBackfill, b.Source, b.Rule, b.Where, b.Rate, b.Initial, b.CreatedAt, string(progress)).Scan(&b.ID)
	})
}

// EndBackfill implements relay.Backfills.
func (s *Store) EndBackfill(ctx context.Context, id int64, state relay.BackfillState, reason string, at int64) (ended bool, err error) {
	err = s.do(ctx, "backfill", func(w *writer) error {
		var known int
		if err := w.conn.row(sqlBackfillKnown, id).Scan(&known); err != nil {
			return err
		}
		if known == 0 {
			return fmt.Errorf("backfill %d: %w", id, relay.ErrNotFound)
		}
		n, err := w.conn.exec(sqlEndBackfill, string(state), reason, at, id)
		ended = n > 0
		return err
	})
	return ended, err
}

// updateBackfill records what an append has of a backfill.
func (w *writer) updateBackfill(u *relay.BackfillUpdate) error {
	if u == nil {
		return nil
	}
	progress, err := json.Marshal(&u.Progress)
	if err == nil {
		_, err = w.conn.exec(sqlUpdateBackfill, string(progress), u.ID)
	}
	if err == nil && u.Done {
		_, err = w.conn.exec(sqlEndBackfill, string(relay.BackfillDone), "", u.Progress.At, u.ID)
	}
	if err != nil {
		return fmt.Errorf("progress of backfill %d: %w", u.ID, err)
	}
	return nil
}

// Backfills implements relay.Backfills.
func (s *Store) Backfills(ctx context.Context) ([]relay.Backfill, error) {
	return collect(ctx, s.read, "read backfills", func(r scanner) (relay.Backfill, error) {
		var b relay.Backfill
		var progress string
		err := r.Scan(&b.ID, &b.Source, &b.Rule, &b.Where, &b.Rate, &b.Initial, &b.State, &b.Reason, &b.CreatedAt, &b.EndedAt, &progress)
		if err == nil {
			err = json.Unmarshal([]byte(progress), &b.Progress)
		}
		return b, err
	}, sqlBackfills)
}
