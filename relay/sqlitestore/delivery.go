package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rowhook/rowhook/relay"
)

const sqlPutDelivery = `
INSERT INTO deliveries (cursor_id, seq, event_id, type, state, attempts, next_at, lane, old_lane, relation, barrier, again,
	last_class, last_status, last_error, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (cursor_id, seq) DO UPDATE SET
	event_id = excluded.event_id, type = excluded.type, state = excluded.state, attempts = excluded.attempts,
	next_at = excluded.next_at, lane = excluded.lane, old_lane = excluded.old_lane, relation = excluded.relation,
	barrier = excluded.barrier, again = excluded.again, last_class = excluded.last_class,
	last_status = excluded.last_status, last_error = excluded.last_error, updated_at = excluded.updated_at`

func (w *writer) putDelivery(d *relay.OpenDelivery) error {
	id, err := w.cursor(d.CursorID)
	if err != nil {
		return err
	}
	_, err = w.conn.exec(sqlPutDelivery, id, d.Seq, d.EventID[:], d.Type, string(d.State), d.Attempts, d.NextAt,
		int64(d.Lane), int64(d.OldLane), d.Table, d.Barrier, d.Again,
		string(d.LastClass), d.LastStatus, cut(d.LastError, maxError), d.UpdatedAt)
	return err
}

const sqlRemoveDelivery = `DELETE FROM deliveries WHERE cursor_id = ? AND seq = ?`

func (w *writer) removeDelivery(r relay.DeliveryRef) error {
	id, err := w.cursor(r.CursorID)
	if err != nil {
		return err
	}
	_, err = w.conn.exec(sqlRemoveDelivery, id, r.Seq)
	return err
}

// deliveryColumns are what scanDelivery reads.
const deliveryColumns = `
	c.endpoint, s.name, c.replay, d.seq, d.event_id, d.type, d.state, d.attempts, d.next_at, d.lane, d.old_lane,
	d.relation, d.barrier, d.again, d.last_class, d.last_status, d.last_error, d.updated_at`

func scanDelivery(r scanner) (relay.OpenDelivery, error) {
	var d relay.OpenDelivery
	var id []byte
	var lane, oldLane int64
	err := r.Scan(&d.Endpoint, &d.Stream, &d.Replay, &d.Seq, &id, &d.Type, &d.State, &d.Attempts, &d.NextAt, &lane, &oldLane,
		&d.Table, &d.Barrier, &d.Again, &d.LastClass, &d.LastStatus, &d.LastError, &d.UpdatedAt)
	copy(d.EventID[:], id)
	d.Lane, d.OldLane = uint64(lane), uint64(oldLane)
	return d, err
}

const sqlOpenDeliveries = `SELECT` + deliveryColumns + `
FROM streams s
JOIN cursors c ON c.stream_id = s.id AND c.endpoint = ?1 AND c.replay = ?3
JOIN deliveries d INDEXED BY deliveries_by_state ON d.cursor_id = c.id AND d.state IN ('pending', 'retrying', 'held')
WHERE s.name = ?2
ORDER BY d.seq`

// OpenDeliveries returns the rows of a cursor that are pending, retrying or
// held, by place.
func (s *Store) OpenDeliveries(ctx context.Context, c relay.CursorID) ([]relay.OpenDelivery, error) {
	return collect(ctx, s.read, "read open deliveries of "+c.Endpoint, scanDelivery, sqlOpenDeliveries, c.Endpoint, c.Stream, c.Replay)
}

const sqlDeliveryCounts = `
SELECT c.endpoint, d.state, sum(d.n)
FROM (SELECT cursor_id, state, count(*) n FROM deliveries INDEXED BY deliveries_by_state GROUP BY cursor_id, state) d
JOIN cursors c ON c.id = d.cursor_id
GROUP BY c.endpoint, d.state`

// DeliveryCounts returns how many deliveries of each endpoint have a row, by
// state.
func (s *Store) DeliveryCounts(ctx context.Context) (map[string]map[relay.State]int64, error) {
	type count struct {
		endpoint string
		state    relay.State
		n        int64
	}
	all, err := collect(ctx, s.read, "count deliveries", func(r scanner) (c count, err error) {
		err = r.Scan(&c.endpoint, &c.state, &c.n)
		return c, err
	}, sqlDeliveryCounts)
	if err != nil {
		return nil, err
	}
	out := map[string]map[relay.State]int64{}
	for _, c := range all {
		if out[c.endpoint] == nil {
			out[c.endpoint] = map[relay.State]int64{}
		}
		out[c.endpoint][c.state] = c.n
	}
	return out, nil
}

const (
	sqlDeadDelivery = `SELECT` + deliveryColumns + `
FROM streams s
JOIN cursors c ON c.stream_id = s.id AND c.endpoint = ?1 AND c.replay = ?3
JOIN deliveries d ON d.cursor_id = c.id AND d.seq = ?4 AND d.state = 'dead'
WHERE s.name = ?2 AND s.trimmed < d.seq`
	// A retry is due at once, marked as asked for by a person, and keeps the
	// attempts made so far.
	sqlRetryDead = `
UPDATE deliveries SET state = 'retrying', again = 1, next_at = ?1, updated_at = ?1
WHERE state = 'dead' AND cursor_id = ?2 AND seq = ?3`
	sqlReopenReplay = `UPDATE replays SET done = 0 WHERE id = ? AND done = 1`
	sqlReopenCursor = `UPDATE cursors SET position = (SELECT last FROM replays WHERE id = ?2) WHERE id = ?1`
)

// RetryDead makes a dead delivery due at once and returns its row. It returns
// relay.ErrNotFound when there is no such dead delivery, or its event has left
// the log.
func (s *Store) RetryDead(ctx context.Context, ref relay.DeliveryRef, now time.Time) (relay.OpenDelivery, error) {
	var d relay.OpenDelivery
	err := s.do(ctx, "retry dead", func(w *writer) error {
		var err error
		d, err = scanDelivery(w.conn.row(sqlDeadDelivery, ref.Endpoint, ref.Stream, ref.Replay, ref.Seq))
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("dead delivery of place %d in stream %s to %s: %w", ref.Seq, ref.Stream, ref.Endpoint, relay.ErrNotFound)
		}
		if err != nil {
			return err
		}
		id, err := w.cursor(ref.CursorID)
		if err != nil {
			return err
		}
		d.State, d.Again, d.NextAt, d.UpdatedAt = relay.StateRetrying, true, now.UnixMicro(), now.UnixMicro()
		if _, err = w.conn.exec(sqlRetryDead, d.NextAt, id, ref.Seq); err != nil || ref.Replay == 0 {
			return err
		}
		// A replay that was done is not any more, and has nothing left to read.
		n, err := w.conn.exec(sqlReopenReplay, ref.Replay)
		if err == nil && n > 0 {
			_, err = w.conn.exec(sqlReopenCursor, id, ref.Replay)
		}
		return err
	})
	if err != nil {
		return relay.OpenDelivery{}, err
	}
	return d, nil
}

const (
	sqlCancel = `
UPDATE deliveries SET state = 'cancelled', next_at = 0, updated_at = ?1
WHERE state IN ('pending', 'retrying', 'held') AND cursor_id IN (SELECT id FROM cursors WHERE endpoint = ?2)`
	sqlHold = `
UPDATE deliveries SET state = 'held', next_at = 0, updated_at = ?1
WHERE state IN ('pending', 'retrying') AND cursor_id IN (SELECT id FROM cursors WHERE endpoint = ?2)`
	sqlRelease = `
UPDATE deliveries SET state = 'pending', next_at = 0, updated_at = ?1
WHERE state = 'held' AND cursor_id IN (SELECT id FROM cursors WHERE endpoint = ?2)`
)

// CancelEndpoint cancels the open deliveries of an endpoint that was removed
// and returns how many had a row.
func (s *Store) CancelEndpoint(ctx context.Context, endpoint string) (int64, error) {
	return s.change(ctx, "cancel endpoint", sqlCancel, s.now().UnixMicro(), endpoint)
}

// HoldEndpoint holds the open deliveries of an endpoint and returns how many
// had a row that was not held before.
func (s *Store) HoldEndpoint(ctx context.Context, endpoint string) (int64, error) {
	return s.change(ctx, "hold endpoint", sqlHold, s.now().UnixMicro(), endpoint)
}

// ReleaseEndpoint makes the held deliveries of an endpoint pending and returns
// how many there were.
func (s *Store) ReleaseEndpoint(ctx context.Context, endpoint string) (int64, error) {
	return s.change(ctx, "release endpoint", sqlRelease, s.now().UnixMicro(), endpoint)
}

// change runs one statement and returns how many rows it changed.
func (s *Store) change(ctx context.Context, step, text string, args ...any) (int64, error) {
	var n int64
	err := s.do(ctx, step, func(w *writer) (err error) {
		n, err = w.conn.exec(text, args...)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}
