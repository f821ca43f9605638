package sqlitestore

import (
	"context"
	"fmt"
	"time"

	"github.com/rowhook/rowhook/relay"
)

const (
	// A transaction of retention removes at most so many rows and bytes, so that
	// those who append wait for it only a moment.
	trimRows  = 1000
	trimBytes = 4 << 20
	// vacuumPages is how many pages are given back to the file system at once.
	vacuumPages = 256
	// keepFree is how many free pages stay in the file for what comes next.
	keepFree = 1024
	// metadataAge is how long the rows of events that have left the log are kept
	// when the log has no limit of age.
	metadataAge = 7 * 24 * time.Hour
)

// removed counts what retention removed.
type removed struct {
	blocks, bytes, dead, failures int64
}

// Trim removes blocks that are older than the limit of age, or that are the
// oldest of a log larger than its limit of size. It removes only whole blocks
// that end at or below keep, the place of each stream at or below which
// everything is settled; a stream without such a place keeps all. Whatever keep
// says, a delivery that is pending, retrying or held keeps its event. With the
// blocks go the records of their successes.
//
// Dead and cancelled deliveries, attempts and failures of events that have left
// the log go when they are older than the limit of age themselves (seven days
// when there is none). Their number is logged: nothing is dropped quietly.
//
// It returns the bytes by which the log became smaller, also with an error.
func (s *Store) Trim(ctx context.Context, limits relay.RetentionLimits, keep map[string]int64) (int64, error) {
	now := s.now()
	var total removed
	defer func() { s.logRemoved(&total) }()
	for stream, place := range keep {
		if limits.Age > 0 {
			oldest := now.Add(-limits.Age).UnixMicro()
			if err := s.dropBlocks(ctx, stream, place, oldest, true, maxPlace, &total); err != nil {
				return total.bytes, err
			}
		}
	}
	if limits.MaxBytes > 0 {
		for stream, place := range keep {
			size, err := s.Size(ctx)
			over := size - limits.MaxBytes
			if err != nil || over <= 0 {
				break // the next call tries again
			}
			if err := s.dropBlocks(ctx, stream, place, maxPlace, true, over, &total); err != nil {
				return total.bytes, err
			}
		}
	}
	age := limits.Age
	if age == 0 {
		age = metadataAge
	}
	if err := s.dropRecords(ctx, now.Add(-age).UnixMicro(), &total); err != nil {
		return total.bytes, err
	}
	return total.bytes, s.vacuum(ctx)
}

// ExpireOldest removes the blocks of a stream that end at or below the place,
// whatever became of their deliveries: the caller has made those dead, and
// their rows stay. It returns the bytes by which the log became smaller.
func (s *Store) ExpireOldest(ctx context.Context, stream string, upTo int64) (int64, error) {
	var total removed
	defer func() { s.logRemoved(&total) }()
	if err := s.dropBlocks(ctx, stream, upTo, maxPlace, false, maxPlace, &total); err != nil {
		return total.bytes, err
	}
	return total.bytes, s.vacuum(ctx)
}

func (s *Store) logRemoved(r *removed) {
	if *r != (removed{}) {
		s.log.Info("log trimmed", "blocks", r.blocks, "bytes", r.bytes, "dead_deliveries", r.dead, "failures", r.failures)
	}
}

const (
	sqlOldestOpen = `
SELECT coalesce(min(d.seq), 9223372036854775807)
FROM cursors c CROSS JOIN deliveries d INDEXED BY deliveries_by_state ON d.cursor_id = c.id AND d.state IN ('pending', 'retrying', 'held')
WHERE c.stream_id = ?`
	sqlOldestBlocks = `
SELECT b.last, b.last_time, b.size FROM streams s JOIN blocks b ON b.stream_id = s.id AND b.last <= min(?2, s.head)
WHERE s.id = ?1
ORDER BY b.last LIMIT ?3`
	sqlDropBlocks = `DELETE FROM blocks WHERE stream_id = ? AND last <= ?`
	sqlTrimStream = `UPDATE streams SET trimmed = max(trimmed, ?1), bytes = bytes - ?2 WHERE id = ?3`
)

// dropBlocks removes blocks of the stream from its beginning: those that end
// at or below the place and before the time, until so many bytes are free.
func (s *Store) dropBlocks(ctx context.Context, stream string, place, before int64, settled bool, bytes int64, total *removed) error {
	for more := true; more && bytes > 0; {
		var n, freed int64
		err := s.do(ctx, "trim", func(w *writer) error {
			n, freed, more = 0, 0, false
			st, err := w.stream(stream)
			if err != nil {
				return err
			}
			upTo := place
			if settled {
				var open int64
				if err := w.conn.row(sqlOldestOpen, st.id).Scan(&open); err != nil {
					return err
				}
				upTo = min(upTo, open-1)
			}
			var last int64
			last, freed, more, err = w.chooseBlocks(st.id, upTo, before, bytes)
			if err != nil || last == 0 {
				return err
			}
			if n, err = w.conn.exec(sqlDropBlocks, st.id, last); err != nil {
				return err
			}
			if _, err := w.conn.exec(sqlTrimStream, last, freed, st.id); err != nil {
				return err
			}
			w.size -= freed
			return nil
		})
		if err != nil {
			return fmt.Errorf("stream %s: %w", stream, err)
		}
		total.blocks += n
		total.bytes += freed
		bytes -= freed
	}
	return nil
}

// chooseBlocks returns where the blocks that one transaction removes end, and
// whether more may follow. The scan stops at the first block that is too young,
// so that what is removed is always the beginning of the stream.
func (w *writer) chooseBlocks(id, upTo, before, bytes int64) (last, freed int64, more bool, err error) {
	rows, err := w.conn.rows(sqlOldestBlocks, id, upTo, trimRows)
	if err != nil {
		return 0, 0, false, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		if freed >= min(bytes, trimBytes) {
			return last, freed, true, nil
		}
		var end, at, size int64
		if err := rows.Scan(&end, &at, &size); err != nil {
			return 0, 0, false, err
		}
		if at >= before {
			return last, freed, false, nil
		}
		last = end
		freed += size
		n++
	}
	return last, freed, n == trimRows, rows.Err()
}

// The statements of dropRecords take the cursor's number or the stream's, the
// place up to which the stream was trimmed, a time (not all have a use for it)
// and how many rows to remove.
const (
	sqlTrimmed       = `SELECT id, trimmed FROM streams WHERE trimmed > 0`
	sqlCursorIDs     = `SELECT id FROM cursors WHERE stream_id = ?`
	sqlDropSuccesses = `
DELETE FROM successes WHERE id IN (SELECT id FROM successes WHERE cursor_id = ?1 AND last_seq <= ?2 LIMIT ?4)`
	sqlDropDead = `
DELETE FROM deliveries WHERE cursor_id = ?1 AND seq IN (SELECT seq FROM deliveries
	WHERE cursor_id = ?1 AND state IN ('dead', 'cancelled') AND updated_at < ?3 AND seq <= ?2 LIMIT ?4)`
	sqlDropAttempts = `
DELETE FROM attempts WHERE id IN (SELECT a.id FROM attempts a WHERE a.cursor_id = ?1 AND a.seq <= ?2 AND a.at < ?3
	AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.cursor_id = a.cursor_id AND d.seq = a.seq) LIMIT ?4)`
	sqlDropOldFailures = `
DELETE FROM failures WHERE id IN (SELECT id FROM failures WHERE stream_id = ?1 AND seq <= ?2 AND at < ?3 LIMIT ?4)`
)

// dropRecords removes what belongs to events that have left the log. It goes by
// the streams' trimmed places, so that what a crash or an error left behind
// goes the next time.
func (s *Store) dropRecords(ctx context.Context, before int64, total *removed) error {
	type place struct{ id, trimmed int64 }
	streams, err := collect(ctx, s.read, "read streams", func(r scanner) (p place, err error) {
		err = r.Scan(&p.id, &p.trimmed)
		return p, err
	}, sqlTrimmed)
	if err != nil {
		return err
	}
	drop := func(text string, id, place int64, count *int64) error {
		for {
			n, err := s.change(ctx, "trim", text, id, place, before, trimRows)
			if err != nil {
				return err
			}
			if count != nil {
				*count += n
			}
			if n < trimRows {
				return nil
			}
		}
	}
	for _, st := range streams {
		cursors, err := collect(ctx, s.read, "read cursors", func(r scanner) (id int64, err error) {
			err = r.Scan(&id)
			return id, err
		}, sqlCursorIDs, st.id)
		if err != nil {
			return err
		}
		for _, c := range cursors {
			if err := drop(sqlDropSuccesses, c, st.trimmed, nil); err != nil {
				return err
			}
			if err := drop(sqlDropDead, c, st.trimmed, &total.dead); err != nil {
				return err
			}
			if err := drop(sqlDropAttempts, c, st.trimmed, nil); err != nil {
				return err
			}
		}
		if err := drop(sqlDropOldFailures, st.id, st.trimmed, &total.failures); err != nil {
			return err
		}
	}
	return nil
}

const sqlFreePages = `SELECT freelist_count FROM pragma_freelist_count`

// vacuum gives free pages back to the file system in small steps. SQLite reuses
// those that stay.
func (s *Store) vacuum(ctx context.Context) error {
	for {
		var free int64
		err := s.do(ctx, "vacuum", func(w *writer) error {
			if err := w.conn.row(sqlFreePages).Scan(&free); err != nil || free <= keepFree {
				return err
			}
			return w.conn.script(fmt.Sprintf("PRAGMA incremental_vacuum(%d)", min(vacuumPages, free-keepFree)))
		})
		if err != nil || free <= keepFree+vacuumPages {
			return err
		}
	}
}
