package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

// maxKnown bounds what the writer remembers of cursors.
const maxKnown = 4096

const (
	sqlCursor    = `SELECT id FROM cursors WHERE endpoint = ? AND stream_id = ? AND replay = ?`
	sqlAddCursor = `INSERT INTO cursors (endpoint, stream_id, replay) VALUES (?, ?, ?) RETURNING id`
)

// cursor returns the number of the cursor and gives it one when it has none.
func (w *writer) cursor(c relay.CursorID) (int64, error) {
	if id, ok := w.cursors[c]; ok {
		return id, nil
	}
	stream, err := w.stream(c.Stream)
	if err != nil {
		return 0, err
	}
	var id int64
	err = w.conn.row(sqlCursor, c.Endpoint, stream.id, c.Replay).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = w.conn.row(sqlAddCursor, c.Endpoint, stream.id, c.Replay).Scan(&id)
	}
	if err != nil {
		return 0, fmt.Errorf("cursor of %s in stream %s: %w", c.Endpoint, c.Stream, err)
	}
	if len(w.cursors) >= maxKnown {
		clear(w.cursors)
	}
	w.cursors[c] = id
	return id, nil
}

const (
	sqlRoute   = `UPDATE streams SET routed = ? WHERE id = ?`
	sqlPlace   = `UPDATE cursors SET position = ? WHERE id = ?`
	sqlFinish  = `UPDATE replays SET done = 1 WHERE id = ?`
	sqlDropRun = `UPDATE cursors SET position = NULL WHERE replay = ?`
)

// moveCursors writes the places of a settlement. A place after the head of its
// stream cannot be right: nobody has seen what lies there.
func (w *writer) moveCursors(s *relay.Settlement) error {
	for stream, place := range s.Routed {
		row, err := w.stream(stream)
		if err != nil {
			return err
		}
		if err := row.checkHead(stream, place); err != nil {
			return err
		}
		if _, err := w.conn.exec(sqlRoute, place, row.id); err != nil {
			return fmt.Errorf("routed place %d of stream %s: %w", place, stream, err)
		}
	}
	for _, c := range s.Cursors {
		id, err := w.cursor(c.CursorID)
		if err != nil {
			return err
		}
		stream, err := w.stream(c.Stream)
		if err != nil {
			return err
		}
		if err := stream.checkHead(c.Stream, c.Position); err != nil {
			return err
		}
		if _, err := w.conn.exec(sqlPlace, c.Position, id); err != nil {
			return err
		}
	}
	for _, c := range s.Current {
		id, err := w.cursor(c)
		if err != nil {
			return err
		}
		if _, err := w.conn.exec(sqlPlace, nil, id); err != nil {
			return err
		}
	}
	for _, id := range s.FinishedReplays {
		if _, err := w.conn.exec(sqlFinish, id); err != nil {
			return err
		}
		if _, err := w.conn.exec(sqlDropRun, id); err != nil {
			return err
		}
	}
	return nil
}

func (r *streamRow) checkHead(name string, place int64) error {
	if place > r.head {
		return fmt.Errorf("place %d lies after the head %d of stream %s", place, r.head, name)
	}
	return nil
}

const sqlCursors = `
SELECT c.endpoint, s.name, c.replay, c.position
FROM cursors c JOIN streams s ON s.id = c.stream_id
WHERE c.position IS NOT NULL
ORDER BY c.endpoint, s.name, c.replay`

// Cursors returns the cursors that have a place of their own, and the routed
// place of every stream.
func (s *Store) Cursors(ctx context.Context) ([]relay.CursorState, map[string]int64, error) {
	tx, err := s.read.BeginTx(ctx, nil) // both as of one commit
	if err != nil {
		return nil, nil, fmt.Errorf("read cursors: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	_, routed, err := streamStates(ctx, tx, "")
	if err != nil {
		return nil, nil, err
	}
	rows, err := collect(ctx, tx, "read cursors", func(r scanner) (relay.CursorState, error) {
		var c relay.CursorState
		err := r.Scan(&c.Endpoint, &c.Stream, &c.Replay, &c.Position)
		return c, err
	}, sqlCursors)
	return rows, routed, err
}
