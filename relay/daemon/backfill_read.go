package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/relay"
)

// rule returns the rule in force that the backfill is of.
func (b *backfiller) rule(in *relay.Ingest, job *relay.Backfill) (*relay.Rule, error) {
	rule := in.Rule(job.Rule)
	switch {
	case (rule == nil || !rule.Ops.Has(relay.Read)) && in.Awaits(job.Rule):
		return nil, fmt.Errorf("the rule %q waits for its place in the stream", job.Rule)
	case rule == nil:
		return nil, &unreadable{fmt.Errorf("the rule %q is not in force (any more)", job.Rule)}
	case !rule.Ops.Has(relay.Read):
		return nil, &unreadable{fmt.Errorf("the rule %q does not have read among its operations (any more)", job.Rule)}
	case len(left(rule, &job.Progress)) == 0:
		return nil, &unreadable{fmt.Errorf("the rule %q has no table left to read", job.Rule)}
	}
	return rule, nil
}

// left returns the tables that are not read to their end, the one under way first.
func left(rule *relay.Rule, p *relay.BackfillProgress) []relay.TableName {
	tables := slices.DeleteFunc(slices.Clone(rule.Tables), func(t relay.TableName) bool { return slices.Contains(p.Done, t) })
	if i := slices.Index(tables, p.Table); i > 0 {
		tables[0], tables[i] = tables[i], tables[0]
	}
	return tables
}

// tableRead says how a table is read for the rule.
func tableRead(rule *relay.Rule, table relay.TableName, where, publication string) cdc.TableRead {
	t := cdc.TableRead{Table: table, Where: where, Publication: publication}
	if !rule.All {
		t.Columns = []string{}
		for _, ref := range rule.Reads {
			t.Columns = append(t.Columns, ref.Name)
		}
	}
	return t
}

// checkRead reports whether the tables can be read, and about how many rows they
// have.
func checkRead(ctx context.Context, cfg *backfillConfig, rule *relay.Rule, where string) (rows int64, err error) {
	for _, table := range rule.Tables {
		n, err := cdc.CheckRead(ctx, cfg.url, tableRead(rule, table, where, cfg.publication))
		if err != nil {
			return 0, err
		}
		rows += n
	}
	return rows, nil
}

// estimate says about how many rows there are, once.
func (b *backfiller) estimate(ctx context.Context, rule *relay.Rule, job *relay.Backfill) error {
	if job.Progress.Estimate > 0 || job.Progress.Rows > 0 {
		return nil
	}
	n, err := checkRead(ctx, &b.cfg, rule, job.Where)
	if err != nil {
		return readingError(err)
	}
	job.Progress.Estimate = max(n, 1)
	b.mu.Lock()
	b.live.job.Progress = job.Progress
	b.mu.Unlock()
	return nil
}

// readingError marks errors that last.
func readingError(err error) error {
	if err == nil || cdc.IsTemporary(err) || errors.Is(err, relay.ErrRuleChanged) || errors.Is(err, cdc.ErrTableChanged) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &unreadable{err}
}

// take makes the snapshot of a chunk. While that waits for transactions to end,
// the stream follows at a little distance.
func (b *backfiller) take(ctx context.Context, in *relay.Ingest, snaps *cdc.Snapshots, job *relay.Backfill) (*cdc.Snapshot, error) {
	var told time.Time
	known := time.Now()
	defer b.setNote("")
	return snaps.Take(ctx, func(w cdc.SnapshotWait) error {
		if w.Before == 0 {
			if time.Since(known) > holdPatience {
				return in.Open()
			}
			return nil
		}
		known = time.Now()
		if w.Blockers != "" {
			note := "its snapshot waits for every transaction that has written, of any database of the cluster, to end; these are open: " + w.Blockers
			b.setNote(note)
			if time.Since(told) > tellEvery {
				told = time.Now()
				b.log.Warn("backfill waits for long transactions", "backfill", job.ID, "open", w.Blockers)
			}
		}
		return in.Hold(w.Before)
	})
}

// read reads rows within the limits, from where the backfill is. It returns true
// when nothing is left.
func (b *backfiller) read(ctx context.Context, chunk *relay.Chunk, snap *cdc.Snapshot, rule *relay.Rule, job *relay.Backfill, limits cdc.ReadLimits) (done bool, err error) {
	tables := left(rule, &job.Progress)
	for i, table := range tables {
		t := tableRead(rule, table, job.Where, b.cfg.publication)
		if table == job.Progress.Table {
			t.Key, t.After = job.Progress.Key, job.Progress.After
		}
		if t.Key == nil {
			if t.Key, err = snap.Key(ctx, table); err != nil {
				return false, readingError(err)
			}
		}
		chunk.Table(table, t.Key)
		if err := readAgain(ctx, chunk, snap, t); err != nil {
			return false, readingError(err)
		}
		rows := 0
		end, err := snap.Read(ctx, t, limits, func(rel *relay.Relation, row relay.Row, key [][]byte) error {
			if rows++; rows%256 == 0 {
				b.mu.Lock()
				b.live.job.Progress.Rows += 256
				b.mu.Unlock()
			}
			return chunk.Read(ctx, rel, row, key)
		})
		if err != nil || !end {
			return false, readingError(err)
		}
		chunk.EndTable(table, i == len(tables)-1)
		if limits.Rows > 0 {
			if limits.Rows -= rows; limits.Rows <= 0 {
				return i == len(tables)-1, nil
			}
		}
	}
	return true, nil
}

// againAtOnce is how many rows are looked up in one query.
const againAtOnce = 500

// readAgain reads rows of the table under way once more whose key was changed.
func readAgain(ctx context.Context, chunk *relay.Chunk, snap *cdc.Snapshot, t cdc.TableRead) error {
	t.After = nil
	for keys := chunk.Moved(); len(keys) > 0; keys = chunk.Moved() {
		t.Keys = keys[:min(len(keys), againAtOnce)]
		_, err := snap.Read(ctx, t, cdc.ReadLimits{}, func(rel *relay.Relation, row relay.Row, _ [][]byte) error {
			return chunk.Read(ctx, rel, row, nil)
		})
		if err != nil {
			return err
		}
		chunk.ReadAgain(len(t.Keys))
	}
	return nil
}

// readFirst reads the backfills that are to begin with the slot's own snapshot,
// in it and as a whole: what was committed before the slot is read, what comes
// after it is streamed, and no row is in both. The stream waits meanwhile.
func (b *backfiller) readFirst(ctx context.Context, in *relay.Ingest) (err error) {
	if b.first == nil {
		return nil
	}
	defer func() { err = errors.Join(err, in.Open()) }()
	defer b.dropFirst()
	jobs, err := b.open(ctx)
	if err != nil {
		return err
	}
	for i := range jobs {
		if job := &jobs[i]; job.Initial && job.Progress.Rows == 0 {
			if err := b.readInFirst(ctx, in, job); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *backfiller) readInFirst(ctx context.Context, in *relay.Ingest, job *relay.Backfill) error {
	jobCtx, end := b.begin(ctx, job)
	defer end()
	in.Follow(job)
	rule, err := b.rule(in, job)
	if err == nil {
		err = b.estimate(jobCtx, rule, job)
	}
	var chunk *relay.Chunk
	if err == nil {
		chunk, err = in.NewChunk(job, rule, b.first.Point, b.first.At)
	}
	done := false
	if err == nil {
		b.setHolding(true)
		if err = chunk.Wait(jobCtx); err == nil {
			done, err = b.read(jobCtx, chunk, b.first.Snapshot, rule, job, cdc.ReadLimits{})
		}
		done, err = b.close(ctx, chunk, job, true, done, err)
	}
	switch {
	case done:
		b.log.Info("backfill is done", "backfill", job.ID, "rule", job.Rule, "rows", job.Progress.Rows, "events", job.Progress.Events)
		return nil
	case ctx.Err() == nil && jobCtx.Err() != nil:
		return nil // cancelled
	case lasting(err):
		return b.fail(ctx, job, err)
	}
	return err
}
