package sqlitestore

import (
	"context"
	"errors"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

// errContinue marks an Append that does not continue its stream. It means that
// its caller has a wrong idea of the stream; nothing of it is stored.
var errContinue = errors.New("append does not continue the stream")

// Append stores a: blocks, failures, kept changes, head and tail, the source's state,
// the gap and the places of rule sets are durable together or not at all. It refuses what would overlap what is
// stored, and a head inside a block.
func (s *Store) Append(ctx context.Context, a *relay.Append) error {
	if a.Stream == "" {
		return fmt.Errorf("append: %w: it names none", errContinue)
	}
	err := s.do(ctx, "append", func(w *writer) error { return w.append(a) })
	if err != nil {
		return fmt.Errorf("stream %s: %w", a.Stream, err)
	}
	return nil
}

const (
	sqlTailBytes     = `SELECT coalesce(sum(size), 0) FROM blocks WHERE stream_id = ? AND last > ?`
	sqlDropTail      = `DELETE FROM blocks WHERE stream_id = ? AND last > ?`
	sqlDropFailures  = `DELETE FROM failures WHERE stream_id = ? AND seq > ?`
	sqlAround        = `SELECT count(*) FROM blocks WHERE stream_id = ?1 AND last > ?2 AND first <= ?2`
	sqlAdvanceStream = `UPDATE streams SET head = ?, tail = ?, bytes = bytes + ?, width = max(width, ?) WHERE id = ?`
)

func (w *writer) append(a *relay.Append) error {
	st, err := w.stream(a.Stream)
	if err != nil {
		return err
	}
	var bytes, width int64
	if a.DiscardTail && st.tail > st.head {
		if err := w.conn.row(sqlTailBytes, st.id, st.head).Scan(&bytes); err != nil {
			return err
		}
		for _, text := range []string{sqlDropTail, sqlDropFailures} {
			if _, err := w.conn.exec(text, st.id, st.head); err != nil {
				return err
			}
		}
		bytes = -bytes
		st.tail = st.head
	}
	if err := w.checkPlaces(a, st); err != nil {
		return err
	}
	for _, b := range a.Blocks {
		if err := w.insertBlock(st.id, b); err != nil {
			return fmt.Errorf("block %d to %d: %w", b.First, b.Last, err)
		}
		bytes += int64(len(b.Data))
		width = max(width, int64(b.LastPlace-b.FirstPlace))
	}
	for i := range a.Failures {
		if err := w.insertFailure(st.id, &a.Failures[i]); err != nil {
			return fmt.Errorf("failure at %d: %w", a.Failures[i].Seq, err)
		}
	}
	if _, err := w.conn.exec(sqlAdvanceStream, a.Head, a.Tail, bytes, width, st.id); err != nil {
		return err
	}
	w.size += bytes
	st.head, st.tail = a.Head, a.Tail
	if err := w.keep(a, st); err != nil {
		return err
	}
	if err := w.updateBackfill(a.Backfill); err != nil {
		return err
	}
	for _, p := range a.Rules {
		if err := w.placeRules(p); err != nil {
			return err
		}
	}
	return w.putSource(a.Source, a.Gap)
}

// checkPlaces holds a against the stream it continues.
func (w *writer) checkPlaces(a *relay.Append, st *streamRow) error {
	last, failed := st.tail, st.tail
	for _, b := range a.Blocks {
		if b.Stream != a.Stream {
			return fmt.Errorf("%w: a block is of stream %q", errContinue, b.Stream)
		}
		if b.First <= last || b.Last < b.First {
			return fmt.Errorf("%w: block %d to %d follows place %d", errContinue, b.First, b.Last, last)
		}
		if b.First <= a.Head && a.Head < b.Last {
			return fmt.Errorf("%w: head %d lies inside the block %d to %d", errContinue, a.Head, b.First, b.Last)
		}
		last = b.Last
	}
	for i := range a.Failures {
		seq := a.Failures[i].Seq
		if seq <= failed {
			return fmt.Errorf("%w: failure at %d follows place %d", errContinue, seq, failed)
		}
		failed = seq
	}
	if a.Head < st.head || a.Head > a.Tail {
		return fmt.Errorf("%w: head %d must lie between the head so far, %d, and the tail, %d", errContinue, a.Head, st.head, a.Tail)
	}
	if a.Tail < max(last, failed) {
		return fmt.Errorf("%w: tail %d lies before the last place, %d", errContinue, a.Tail, max(last, failed))
	}
	if st.head < a.Head && a.Head < st.tail {
		var n int
		if err := w.conn.row(sqlAround, st.id, a.Head).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%w: head %d lies inside a stored block", errContinue, a.Head)
		}
	}
	return nil
}

const sqlInsertFailure = `
INSERT INTO failures (stream_id, seq, rule, at, lsn, xid, relation, change, error)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`

func (w *writer) insertFailure(stream int64, f *relay.Failure) error {
	_, err := w.conn.exec(sqlInsertFailure, stream, f.Seq, f.Rule, f.At, int64(f.LSN), f.XID, f.Table, f.Change, f.Err)
	return err
}
