package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

// streamRow is what the writer knows of a row of streams. Only the writer
// changes it, so it is read once: reading it was a sixth of a small append.
type streamRow struct {
	id, head, tail     int64
	keptHead, keptTail int64
}

const (
	sqlStream    = `SELECT id, head, tail, kept_head, kept_tail FROM streams WHERE name = ?`
	sqlAddStream = `INSERT INTO streams (name) VALUES (?) RETURNING id`
)

// stream returns the row of the stream and makes it when there is none.
func (w *writer) stream(name string) (*streamRow, error) {
	if r, ok := w.streams[name]; ok {
		return r, nil
	}
	r := new(streamRow)
	err := w.conn.row(sqlStream, name).Scan(&r.id, &r.head, &r.tail, &r.keptHead, &r.keptTail)
	if errors.Is(err, sql.ErrNoRows) {
		err = w.conn.row(sqlAddStream, name).Scan(&r.id)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %q: %w", name, err)
	}
	w.streams[name] = r
	return r, nil
}

const sqlStreamStates = `
SELECT s.name, s.head, s.tail, s.routed, s.kept_head, s.kept_tail,
       coalesce((SELECT b.first FROM blocks b WHERE b.stream_id = s.id AND b.last <= s.head ORDER BY b.last LIMIT 1), 0)
FROM streams s
WHERE ?1 = '' OR s.name = ?1`

// streamStates returns the states and the routed places of one stream, or of
// all when name is empty.
func streamStates(ctx context.Context, db querier, name string) (map[string]relay.StreamState, map[string]int64, error) {
	rows, err := db.QueryContext(ctx, sqlStreamStates, name)
	if err != nil {
		return nil, nil, fmt.Errorf("read streams: %w", err)
	}
	defer rows.Close()
	states, routed := map[string]relay.StreamState{}, map[string]int64{}
	for rows.Next() {
		var n string
		var st relay.StreamState
		var r int64
		if err := rows.Scan(&n, &st.Head, &st.Tail, &r, &st.KeptHead, &st.KeptTail, &st.First); err != nil {
			return nil, nil, fmt.Errorf("read streams: %w", err)
		}
		states[n], routed[n] = st, r
	}
	if err := rows.Err(); err != nil {
		return nil, nil, fmt.Errorf("read streams: %w", err)
	}
	return states, routed, nil
}

// Stream returns the state of a stream; an unknown stream is empty.
func (s *Store) Stream(ctx context.Context, stream string) (relay.StreamState, error) {
	states, _, err := streamStates(ctx, s.read, stream)
	return states[stream], err
}

// Streams returns the state of all streams.
func (s *Store) Streams(ctx context.Context) (map[string]relay.StreamState, error) {
	states, _, err := streamStates(ctx, s.read, "")
	return states, err
}
