package sqlitestore

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/rowhook/rowhook/relay"
)

// A record of successes is a format byte and, for each success by rising
// place, unsigned varints but for the signed time and status:
//
//	place, less the one before (at first: less the row's first_seq)
//	attempts
//	time, less the one before (at first: less the row's last_at)
//	duration in microseconds
//	status, less 200
//
// A success that comes at once takes some eight bytes.
const successFormat = 1

// maxApart: successes further apart than this many places go into different
// records. Without that, one success after three days of retries would make a
// record span the whole log, and every search for a place would read it.
const maxApart = 1 << 14

const (
	sqlPutSuccesses = `INSERT INTO successes (cursor_id, first_seq, last_seq, last_at, data) VALUES (?, ?, ?, ?, ?)`
	sqlWidenCursor  = `UPDATE cursors SET width = ?1 WHERE id = ?2 AND width < ?1`
)

func (w *writer) putSuccesses(b *relay.SuccessBatch) error {
	if len(b.Successes) == 0 {
		return nil
	}
	id, err := w.cursor(b.CursorID)
	if err != nil {
		return err
	}
	all := b.Successes
	bySeq := func(a, b relay.Success) int { return cmp.Compare(a.Seq, b.Seq) }
	if !slices.IsSortedFunc(all, bySeq) {
		all = slices.Clone(all)
		slices.SortStableFunc(all, bySeq)
	}
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].Seq-all[0].Seq <= maxApart {
			n++
		}
		lastAt := all[0].At
		for _, s := range all[:n] {
			lastAt = max(lastAt, s.At)
		}
		first, last := all[0].Seq, all[n-1].Seq
		w.packed = packSuccesses(w.packed[:0], all[:n], first, lastAt)
		if _, err := w.conn.exec(sqlPutSuccesses, id, first, last, lastAt, w.packed); err != nil {
			return err
		}
		if last > first {
			if _, err := w.conn.exec(sqlWidenCursor, last-first, id); err != nil {
				return err
			}
		}
		all = all[n:]
	}
	return nil
}

func packSuccesses(d []byte, all []relay.Success, seq, at int64) []byte {
	d = append(d, successFormat)
	for _, s := range all {
		d = binary.AppendUvarint(d, uint64(s.Seq-seq))
		d = binary.AppendUvarint(d, uint64(s.Attempts))
		d = binary.AppendVarint(d, s.At-at)
		d = binary.AppendUvarint(d, uint64(max(s.Duration, 0)/time.Microsecond))
		d = binary.AppendVarint(d, int64(s.Status)-200)
		seq, at = s.Seq, s.At
	}
	return d
}

var errSuccesses = errors.New("record of successes is damaged")

// unpackSuccesses calls f with each success of a record.
func unpackSuccesses(d []byte, seq, at int64, f func(relay.Success)) error {
	if len(d) == 0 || d[0] != successFormat {
		return errSuccesses
	}
	d = d[1:]
	bad := false
	unsigned := func() uint64 {
		v, n := binary.Uvarint(d)
		if n <= 0 {
			bad, d = true, nil
			return 0
		}
		d = d[n:]
		return v
	}
	signed := func() int64 {
		v := unsigned()
		return int64(v>>1) ^ -int64(v&1)
	}
	for len(d) > 0 {
		var s relay.Success
		seq += int64(unsigned())
		s.Seq = seq
		attempts := unsigned()
		at += signed()
		s.At = at
		micros := unsigned()
		s.Status = int(signed() + 200)
		s.Attempts, s.Duration = int(attempts), time.Duration(micros)*time.Microsecond
		if bad || attempts > math.MaxInt32 || micros > math.MaxInt64/1000 {
			return errSuccesses
		}
		f(s)
	}
	return nil
}

// successRow is a record as it is stored.
type successRow struct {
	first, lastAt int64
	data          []byte
}

func scanSuccesses(r scanner) (s successRow, err error) {
	err = r.Scan(&s.first, &s.lastAt, &s.data)
	return s, err
}

const sqlSettledAfter = `
SELECT p.first_seq, p.last_at, p.data
FROM streams s
JOIN cursors c ON c.stream_id = s.id AND c.endpoint = ?1 AND c.replay = ?3
JOIN successes p ON p.cursor_id = c.id AND p.last_seq > ?4
WHERE s.name = ?2`

const sqlDeadAfter = `
SELECT d.seq
FROM streams s
JOIN cursors c ON c.stream_id = s.id AND c.endpoint = ?1 AND c.replay = ?3
JOIN deliveries d ON d.cursor_id = c.id AND d.seq > ?4 AND d.state IN ('dead', 'cancelled')
WHERE s.name = ?2`

// SettledAfter returns the places after the given one that are settled: those
// that have a success record of the cursor, or a row that is dead or cancelled.
// Each is there once, in order.
func (s *Store) SettledAfter(ctx context.Context, c relay.CursorID, after int64) ([]int64, error) {
	records, err := collect(ctx, s.read, "read successes of "+c.Endpoint, scanSuccesses, sqlSettledAfter, c.Endpoint, c.Stream, c.Replay, after)
	if err != nil {
		return nil, err
	}
	out, err := collect(ctx, s.read, "read dead deliveries of "+c.Endpoint, func(r scanner) (seq int64, err error) {
		err = r.Scan(&seq)
		return seq, err
	}, sqlDeadAfter, c.Endpoint, c.Stream, c.Replay, after)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		err := unpackSuccesses(r.data, r.first, r.lastAt, func(ok relay.Success) {
			if ok.Seq > after {
				out = append(out, ok.Seq)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("read successes of %s at %d: %w", c.Endpoint, r.first, err)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
