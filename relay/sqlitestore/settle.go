package sqlitestore

import (
	"context"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

// maxResponse is how much of a response body is kept, maxError how much of an
// error's text.
const (
	maxResponse = 4096
	maxError    = 1024
)

// Settle stores what the dispatcher decided, all of it or nothing. Storing the
// same settlement again, when the result of the first time is unknown, changes
// nothing but that its successes are on record twice; reading shows them once.
func (s *Store) Settle(ctx context.Context, st *relay.Settlement) error {
	return s.do(ctx, "settle", func(w *writer) error { return w.settle(st) })
}

func (w *writer) settle(s *relay.Settlement) error {
	if err := w.moveCursors(s); err != nil {
		return err
	}
	for i := range s.Put {
		if err := w.putDelivery(&s.Put[i]); err != nil {
			return fmt.Errorf("delivery of %d to %s: %w", s.Put[i].Seq, s.Put[i].Endpoint, err)
		}
	}
	for _, r := range s.Remove {
		if err := w.removeDelivery(r); err != nil {
			return fmt.Errorf("delivery of %d to %s: %w", r.Seq, r.Endpoint, err)
		}
	}
	for i := range s.Attempts {
		if err := w.putAttempt(&s.Attempts[i]); err != nil {
			return fmt.Errorf("attempt of %d to %s: %w", s.Attempts[i].Seq, s.Attempts[i].Endpoint, err)
		}
	}
	for i := range s.Successes {
		if err := w.putSuccesses(&s.Successes[i]); err != nil {
			return fmt.Errorf("successes of %s: %w", s.Successes[i].Endpoint, err)
		}
	}
	for id, reason := range s.Disable {
		if _, err := w.conn.exec(sqlDisable, reason, id); err != nil {
			return fmt.Errorf("endpoint %s: %w", id, err)
		}
	}
	return nil
}

const sqlPutAttempt = `
INSERT INTO attempts (cursor_id, seq, n, at, duration, status, class, error, response)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (cursor_id, seq, n) DO UPDATE SET
	at = excluded.at, duration = excluded.duration, status = excluded.status, class = excluded.class,
	error = excluded.error, response = excluded.response`

func (w *writer) putAttempt(a *relay.Attempt) error {
	id, err := w.cursor(a.CursorID)
	if err != nil {
		return err
	}
	_, err = w.conn.exec(sqlPutAttempt, id, a.Seq, a.N, a.At, a.Duration.Microseconds(), a.Status, string(a.Class),
		cut(a.Err, maxError), cut(a.Response, maxResponse))
	return err
}

func cut[T string | []byte](v T, n int) T { return v[:min(len(v), n)] }
