package sqlitestore

import (
	"context"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

const (
	sqlInsertKept    = `INSERT INTO kept_changes (stream_id, seq, at, size, data) VALUES (?, ?, ?, ?, ?)`
	sqlKeptTable     = `INSERT INTO kept_tables (digest, definition) VALUES (?, ?) ON CONFLICT DO NOTHING`
	sqlKeptTailBytes = `SELECT coalesce(sum(size), 0) FROM kept_changes WHERE stream_id = ? AND seq > ?`
	sqlDropKeptTail  = `DELETE FROM kept_changes WHERE stream_id = ? AND seq > ?`
	sqlAdvanceKept   = `UPDATE streams SET kept_head = ?, kept_tail = ?, kept_bytes = kept_bytes + ? WHERE id = ?`
)

// keep stores what an append has to keep of its stream.
func (w *writer) keep(a *relay.Append, st *streamRow) error {
	head, tail, bytes := st.keptHead, st.keptTail, int64(0)
	if a.DiscardTail && tail > head {
		if err := w.conn.row(sqlKeptTailBytes, st.id, head).Scan(&bytes); err != nil {
			return err
		}
		if _, err := w.conn.exec(sqlDropKeptTail, st.id, head); err != nil {
			return err
		}
		bytes = -bytes
		tail = head
	}
	insert := func(k *relay.KeptChanges) error {
		if k == nil {
			return nil
		}
		tail++
		bytes += int64(len(k.Data))
		_, err := w.conn.exec(sqlInsertKept, st.id, tail, k.At, len(k.Data), k.Data)
		return err
	}
	if k := a.Kept; k != nil {
		for _, t := range k.Tables {
			if _, err := w.conn.exec(sqlKeptTable, t.ID, string(t.Definition)); err != nil {
				return fmt.Errorf("table of kept changes: %w", err)
			}
		}
		if err := insert(k.Whole); err != nil {
			return fmt.Errorf("kept changes: %w", err)
		}
		if k.Ended {
			head = tail
		}
		if err := insert(k.Open); err != nil {
			return fmt.Errorf("kept changes: %w", err)
		}
	}
	if a.Source == nil || a.Source.Partial == nil {
		head = tail
	}
	if head == st.keptHead && tail == st.keptTail && bytes == 0 {
		return nil
	}
	st.keptHead, st.keptTail = head, tail
	_, err := w.conn.exec(sqlAdvanceKept, head, tail, bytes, st.id)
	return err
}

const sqlKept = `
SELECT k.seq, k.at, k.data
FROM streams s JOIN kept_changes k ON k.stream_id = s.id AND k.seq > ?2 AND k.seq <= s.kept_head
WHERE s.name = ?1 AND k.at >= ?3
ORDER BY k.seq`

// Kept returns runs of kept changes of complete transactions, oldest first: at
// least one when there is one, and no more than about q.MaxBytes.
func (s *Store) Kept(ctx context.Context, q relay.KeptQuery) ([]relay.KeptChanges, error) {
	rows, err := s.read.QueryContext(ctx, sqlKept, q.Stream, q.After, q.Since)
	if err != nil {
		return nil, fmt.Errorf("read kept changes of stream %s: %w", q.Stream, err)
	}
	defer rows.Close()
	var out []relay.KeptChanges
	for size := 0; size < q.MaxBytes && rows.Next(); {
		var k relay.KeptChanges
		if err := rows.Scan(&k.Seq, &k.At, &k.Data); err != nil {
			return nil, fmt.Errorf("read kept changes of stream %s: %w", q.Stream, err)
		}
		size += len(k.Data)
		out = append(out, k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read kept changes of stream %s: %w", q.Stream, err)
	}
	return out, nil
}

const sqlKeptTables = `SELECT digest, definition FROM kept_tables ORDER BY digest`

// KeptTables returns all tables that kept changes name.
func (s *Store) KeptTables(ctx context.Context) ([]relay.KeptTable, error) {
	return collect(ctx, s.read, "read the tables of kept changes", func(r scanner) (t relay.KeptTable, err error) {
		err = r.Scan(&t.ID, &t.Definition)
		return t, err
	}, sqlKeptTables)
}

const (
	sqlKeptStreams = `
SELECT s.name, s.kept_bytes, (SELECT k.at FROM kept_changes k WHERE k.stream_id = s.id ORDER BY k.seq LIMIT 1)
FROM streams s
WHERE s.kept_bytes > 0`
	sqlOldestKept = `SELECT seq, at, size FROM kept_changes WHERE stream_id = ? ORDER BY seq LIMIT ?`
	sqlDropKept   = `DELETE FROM kept_changes WHERE stream_id = ? AND seq <= ?`
	sqlShrinkKept = `UPDATE streams SET kept_bytes = kept_bytes - ? WHERE id = ?`
	// The tables are few, so they stay until nothing is kept.
	sqlDropKeptTables = `DELETE FROM kept_tables WHERE NOT EXISTS (SELECT 1 FROM kept_changes)`
)

// TrimKept removes kept changes beyond the limits of their stream, the oldest
// first and a few at a time, so that those who append wait for it only a moment.
// A stream without limits keeps none. It returns the bytes that went.
func (s *Store) TrimKept(ctx context.Context, limits map[string]relay.RetentionLimits) (int64, error) {
	type held struct {
		stream        string
		bytes, oldest int64
	}
	streams, err := collect(ctx, s.read, "read streams", func(r scanner) (h held, err error) {
		err = r.Scan(&h.stream, &h.bytes, &h.oldest)
		return h, err
	}, sqlKeptStreams)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, h := range streams {
		before, over := int64(maxPlace), h.bytes
		if l, ok := limits[h.stream]; ok {
			before, over = s.now().Add(-l.Age).UnixMicro(), 0
			if l.MaxBytes > 0 {
				over = max(0, h.bytes-l.MaxBytes)
			}
		}
		for more := h.oldest < before || over > 0; more; {
			var freed int64
			if freed, more, err = s.dropKept(ctx, h.stream, before, over); err != nil {
				return total, fmt.Errorf("kept changes of stream %s: %w", h.stream, err)
			}
			over -= freed
			total += freed
		}
	}
	if total == 0 {
		return 0, nil
	}
	if _, err := s.change(ctx, "trim", sqlDropKeptTables); err != nil {
		return total, err
	}
	return total, s.vacuum(ctx)
}

// dropKept removes the oldest kept changes of a stream that are before the time
// or among so many bytes, and says whether there may be more of them.
func (s *Store) dropKept(ctx context.Context, stream string, before, over int64) (freed int64, more bool, err error) {
	err = s.do(ctx, "trim", func(w *writer) error {
		freed, more = 0, false
		st, err := w.stream(stream)
		if err != nil {
			return err
		}
		var last int64
		if last, freed, more, err = w.oldestKept(st.id, before, over); err != nil || last == 0 {
			return err
		}
		if _, err := w.conn.exec(sqlDropKept, st.id, last); err != nil {
			return err
		}
		_, err = w.conn.exec(sqlShrinkKept, freed, st.id)
		return err
	})
	return freed, more, err
}

// oldestKept returns where the changes that one transaction removes end, and
// whether more may follow.
func (w *writer) oldestKept(id, before, over int64) (last, freed int64, more bool, err error) {
	rows, err := w.conn.rows(sqlOldestKept, id, trimRows)
	if err != nil {
		return 0, 0, false, err
	}
	defer rows.Close()
	for n := 1; rows.Next(); n++ {
		var seq, at, size int64
		if err := rows.Scan(&seq, &at, &size); err != nil {
			return 0, 0, false, err
		}
		if at >= before && freed >= over {
			return last, freed, false, nil
		}
		last = seq
		freed += size
		if n == trimRows || freed >= trimBytes {
			return last, freed, true, nil
		}
	}
	return last, freed, false, rows.Err()
}
