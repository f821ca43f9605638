package sqlitestore

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

const (
	sqlPutEndpoint = `
INSERT INTO endpoints (id, kind, target, status, reason, created_at, versions) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
	kind = excluded.kind, target = excluded.target, status = excluded.status, reason = excluded.reason,
	created_at = excluded.created_at, versions = excluded.versions`
	sqlDisable = `UPDATE endpoints SET status = 'disabled', reason = ? WHERE id = ?`
)

// PutEndpoint writes the endpoint durably.
func (s *Store) PutEndpoint(ctx context.Context, e *relay.EndpointRow) error {
	versions, err := json.Marshal(e.Versions)
	if err != nil {
		return fmt.Errorf("endpoint %s: %w", e.ID, err)
	}
	return s.do(ctx, "endpoint", func(w *writer) error {
		_, err := w.conn.exec(sqlPutEndpoint, e.ID, e.Kind, e.Target, e.Status, e.Reason, e.CreatedAt, string(versions))
		return err
	})
}

const sqlEndpoints = `SELECT id, kind, target, status, reason, created_at, versions FROM endpoints ORDER BY id`

// Endpoints returns all endpoints, by id.
func (s *Store) Endpoints(ctx context.Context) ([]relay.EndpointRow, error) {
	return collect(ctx, s.read, "read endpoints", func(r scanner) (relay.EndpointRow, error) {
		var e relay.EndpointRow
		var versions string
		err := r.Scan(&e.ID, &e.Kind, &e.Target, &e.Status, &e.Reason, &e.CreatedAt, &versions)
		if err == nil {
			err = json.Unmarshal([]byte(versions), &e.Versions)
		}
		return e, err
	}, sqlEndpoints)
}

const sqlStartReplay = `
INSERT INTO replays (endpoint, stream_id, first, last, created_at, reason, done) VALUES (?, ?, ?, ?, ?, ?, 0)
RETURNING id`

// StartReplay adds a replay and sets its ID.
func (s *Store) StartReplay(ctx context.Context, r *relay.Replay) error {
	var id int64
	err := s.do(ctx, "replay", func(w *writer) error {
		stream, err := w.stream(r.Stream)
		if err != nil {
			return err
		}
		return w.conn.row(sqlStartReplay, r.Endpoint, stream.id, r.From, r.To, r.CreatedAt, r.Reason).Scan(&id)
	})
	if err == nil {
		r.ID = id
	}
	return err
}

const sqlReplays = `
SELECT r.id, r.endpoint, s.name, r.first, r.last, r.created_at, r.reason
FROM replays r JOIN streams s ON s.id = r.stream_id
WHERE r.done = 0
ORDER BY r.id`

// Replays returns the replays that are not done.
func (s *Store) Replays(ctx context.Context) ([]relay.Replay, error) {
	return collect(ctx, s.read, "read replays", func(r scanner) (relay.Replay, error) {
		var p relay.Replay
		err := r.Scan(&p.ID, &p.Endpoint, &p.Stream, &p.From, &p.To, &p.CreatedAt, &p.Reason)
		return p, err
	}, sqlReplays)
}
