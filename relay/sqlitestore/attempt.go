package sqlitestore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/rowhook/rowhook/relay"
)

const sqlAttemptsOfPlace = `
SELECT c.endpoint, c.replay, a.n, a.at, a.duration, a.status, a.class, a.error, a.response
FROM streams s
CROSS JOIN cursors c ON c.stream_id = s.id
CROSS JOIN attempts a ON a.cursor_id = c.id AND a.seq = ?2
WHERE s.name = ?1`

// Attempts returns every known attempt of an event's deliveries, oldest first:
// the failed ones in full, and the last one of each that succeeded.
func (s *Store) Attempts(ctx context.Context, id relay.EventID) ([]relay.Attempt, error) {
	type place struct {
		stream string
		seq    int64
	}
	at := map[place]bool{}
	// The rows know the place also when the event has left the log.
	open, err := collect(ctx, s.read, "read deliveries", scanDelivery, sqlRowsOfEvent, id[:])
	if err != nil {
		return nil, err
	}
	for _, d := range open {
		at[place{d.Stream, d.Seq}] = true
	}
	e, err := s.Event(ctx, id)
	if err != nil && !errors.Is(err, relay.ErrNotFound) {
		return nil, err
	}
	if e != nil {
		at[place{e.Stream, e.Seq}] = true
	}
	var out []relay.Attempt
	for p := range at {
		failed, err := collect(ctx, s.read, "read attempts", func(r scanner) (relay.Attempt, error) {
			a := relay.Attempt{CursorID: relay.CursorID{Stream: p.stream}, Seq: p.seq}
			var micros int64
			err := r.Scan(&a.Endpoint, &a.Replay, &a.N, &a.At, &micros, &a.Status, &a.Class, &a.Err, &a.Response)
			a.Duration = time.Duration(micros) * time.Microsecond
			return a, err
		}, sqlAttemptsOfPlace, p.stream, p.seq)
		if err != nil {
			return nil, err
		}
		out = append(out, failed...)
		type try struct {
			relay.CursorID
			n int
		}
		// A settlement may be on record twice, and a success that failures came
		// before is also among the attempts that are kept in full.
		seen := map[try]bool{}
		for i := range failed {
			seen[try{failed[i].CursorID, failed[i].N}] = true
		}
		err = s.successesAt(ctx, p.stream, p.seq, func(c relay.CursorID, ok relay.Success) {
			if t := (try{c, ok.Attempts}); !seen[t] {
				seen[t] = true
				out = append(out, relay.Attempt{
					CursorID: c, Seq: ok.Seq, N: ok.Attempts, At: ok.At - ok.Duration.Microseconds(), Duration: ok.Duration, Status: ok.Status,
				})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b relay.Attempt) int {
		return cmp.Or(cmp.Compare(a.At, b.At), strings.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Replay, b.Replay), cmp.Compare(a.N, b.N))
	})
	return out, nil
}
