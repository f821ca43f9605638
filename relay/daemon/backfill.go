package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/relay"
)

const (
	// chunkTime bounds a chunk when live changes wait for it, and longestChunk when
	// none does: for so long the server keeps what the snapshot sees.
	chunkTime    = 300 * time.Millisecond
	longestChunk = 5 * time.Second
	// chunkPatience is how long a chunk waits for a log that takes nothing, and
	// pointPatience how long for the stream to come to its point.
	chunkPatience = 5 * time.Second
	pointPatience = time.Minute
	// holdPatience is how long live changes wait for a snapshot of which it is not
	// known what it waits for. Then they go on, and the snapshot comes too late.
	holdPatience = 10 * time.Second
	// tellEvery is how often it is logged what a snapshot waits for.
	tellEvery = time.Minute
)

// backfiller runs the backfills of a source, one after the other, beside its
// stream.
type backfiller struct {
	source string
	cfg    backfillConfig
	store  relay.Backfills
	log    *slog.Logger
	wake   chan struct{} // capacity 1: there may be another one

	// first is the snapshot in which the source's slot was made, for backfills that
	// are to begin with it.
	first *firstSnapshot

	mu   sync.Mutex
	live liveBackfill
}

type backfillConfig struct {
	url               relay.Secret
	slot, publication string
}

// firstSnapshot is a snapshot with the sessions that hold it.
type firstSnapshot struct {
	*cdc.Snapshot
	from *cdc.Snapshots
}

func (f *firstSnapshot) close() {
	f.Snapshot.Close()
	f.from.Close()
}

// liveBackfill is the backfill under way.
type liveBackfill struct {
	id       int64
	progress relay.BackfillProgress
	// note says what it waits for.
	note string
	// holding says that the stream waits for rows.
	holding bool
	began   time.Time
	before  int64 // rows read when it began
	cancel  context.CancelFunc
	ended   chan struct{}
}

// rate returns the rows read a second.
func (l *liveBackfill) rate() float64 {
	if s := time.Since(l.began).Seconds(); s > 0 {
		return float64(l.progress.Rows-l.before) / s
	}
	return 0
}

func newBackfiller(source string, cfg backfillConfig, store relay.Backfills, log *slog.Logger) *backfiller {
	return &backfiller{source: source, cfg: cfg, store: store, log: log, wake: make(chan struct{}, 1)}
}

func (b *backfiller) kick() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *backfiller) snapshots() *cdc.Snapshots {
	return &cdc.Snapshots{URL: b.cfg.url, Slot: b.cfg.slot}
}

// adopt keeps the snapshot in which the source's slot was made.
func (b *backfiller) adopt(ctx context.Context, name string, point relay.LSN) {
	from := b.snapshots()
	snap, err := from.Adopt(ctx, name, point)
	if err != nil {
		b.log.Warn("the backfill does not begin with the slot's own snapshot", "err", err)
		return
	}
	b.first = &firstSnapshot{snap, from}
}

// hold keeps the stream at the point of the first snapshot, if there is one.
// Call it before the stream begins.
func (b *backfiller) hold(in *relay.Ingest) error {
	if b.first == nil {
		return nil
	}
	return in.Hold(b.first.Point)
}

func (b *backfiller) dropFirst() {
	if b.first != nil {
		b.first.close()
		b.first = nil
	}
}

// want adds the backfills that the configuration asks for at the first start of
// the source, and reports whether there are any to begin.
func (b *backfiller) want(ctx context.Context, rules []string) (bool, error) {
	if len(rules) == 0 {
		return false, nil
	}
	all, err := b.store.Backfills(ctx)
	if err != nil {
		return false, err
	}
	begin := false
	for _, rule := range rules {
		i := slices.IndexFunc(all, func(f relay.Backfill) bool { return f.Initial && f.Source == b.source && f.Rule == rule })
		if i >= 0 {
			begin = begin || all[i].State == relay.BackfillOpen && all[i].Progress.Rows == 0
			continue
		}
		begin = true
		job := relay.Backfill{Source: b.source, Rule: rule, Initial: true, CreatedAt: time.Now().UnixMicro()}
		if err := b.store.AddBackfill(ctx, &job); err != nil {
			return false, err
		}
	}
	return begin, nil
}

// open returns the open backfills of the source, in order.
func (b *backfiller) open(ctx context.Context) ([]relay.Backfill, error) {
	all, err := b.store.Backfills(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(f relay.Backfill) bool { return f.Source != b.source || f.State != relay.BackfillOpen }), nil
}

// run works through the open backfills until ctx is done. in is the ingest of
// the source's session.
func (b *backfiller) run(ctx context.Context, in *relay.Ingest) {
	snaps := b.snapshots()
	defer snaps.Close()
	retry := backoff.NewExponentialBackOff()
	retry.MaxElapsedTime, retry.InitialInterval, retry.MaxInterval = 0, 100*time.Millisecond, maxReconnect
	if err := b.readFirst(ctx, in); err != nil && ctx.Err() == nil {
		b.log.Warn("what is left of the first backfill goes on with a snapshot of its own", "err", err)
	}
	for ctx.Err() == nil {
		jobs, err := b.open(ctx)
		if err == nil && len(jobs) == 0 {
			snaps.Close()
			select {
			case <-b.wake:
			case <-ctx.Done():
			}
			continue
		}
		if err == nil {
			err = b.work(ctx, in, snaps, &jobs[0])
		}
		if err == nil {
			retry.Reset()
			continue
		}
		snaps.Close()
		wait := retry.NextBackOff()
		if ctx.Err() == nil {
			b.log.Warn("backfill is interrupted, trying again", "err", err, "in", wait.Round(time.Millisecond))
			b.setNote(reasonText(err))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// begin makes the job the one under way. end is called when it is no more.
func (b *backfiller) begin(ctx context.Context, job *relay.Backfill) (jobCtx context.Context, end func()) {
	jobCtx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live.id != job.ID {
		b.live = liveBackfill{id: job.ID, began: time.Now(), before: job.Progress.Rows}
	}
	b.live.progress, b.live.cancel, b.live.ended = job.Progress, cancel, ended
	return jobCtx, func() {
		cancel()
		close(ended)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.live.holding = false
		b.live.cancel, b.live.ended = nil, nil
	}
}

// stop ends the work on a backfill that is not open any more.
func (b *backfiller) stop(id int64) {
	b.mu.Lock()
	cancel, ended := b.live.cancel, b.live.ended
	if b.live.id != id {
		cancel = nil
	}
	b.mu.Unlock()
	if cancel != nil {
		cancel()
		<-ended
	}
	b.kick()
}

func (b *backfiller) setNote(note string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live.note = note
}

func (b *backfiller) setHolding(holding bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live.holding = holding
}

// isHolding reports whether the stream waits for rows that are being read.
func (b *backfiller) isHolding() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.live.holding
}

// status returns the backfill under way.
func (b *backfiller) status() liveBackfill {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.live
}

// work reads the backfill to its end. A nil error says that it is not open any
// more; others are tried again.
func (b *backfiller) work(ctx context.Context, in *relay.Ingest, snaps *cdc.Snapshots, job *relay.Backfill) error {
	jobCtx, end := b.begin(ctx, job)
	defer end()
	passed := 0
	for {
		began, before := time.Now(), job.Progress.Rows
		done, err := b.chunk(ctx, jobCtx, in, snaps, job)
		switch {
		case done || jobCtx.Err() != nil:
			if done {
				b.log.Info("backfill is done", "backfill", job.ID, "rule", job.Rule, "rows", job.Progress.Rows, "events", job.Progress.Events)
			}
			return ctx.Err()
		case err == nil:
			passed = 0
		case errors.Is(err, relay.ErrPointPassed), errors.Is(err, relay.ErrRuleChanged), errors.Is(err, cdc.ErrTableChanged), errors.Is(err, errChunkWaited):
			b.log.Debug("chunk of a backfill is given up", "backfill", job.ID, "err", err)
			if passed++; passed > 10 {
				return err
			}
		case lasting(err):
			return b.fail(ctx, job, err)
		default:
			return err
		}
		if job.Rate > 0 {
			due := time.Duration(job.Progress.Rows-before) * time.Second / time.Duration(job.Rate)
			if !sleep(jobCtx, time.Until(began.Add(due))) {
				return ctx.Err()
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errChunkWaited says that a chunk ended before its time, because the log or the
// stream did not move.
var errChunkWaited = errors.New("the chunk waited too long")

// unreadable marks an error of reading that another try does not mend.
type unreadable struct{ err error }

func (e *unreadable) Error() string { return e.err.Error() }

func (e *unreadable) Unwrap() error { return e.err }

// lasting reports whether a backfill has failed with err. Errors of the making
// of a snapshot never last: somebody may free a slot.
func lasting(err error) bool {
	var u *unreadable
	return errors.As(err, &u)
}

func (b *backfiller) fail(ctx context.Context, job *relay.Backfill, err error) error {
	reason := reasonText(err)
	b.log.Error("backfill has failed", "backfill", job.ID, "rule", job.Rule, "rows", job.Progress.Rows, "err", reason)
	if _, err := b.store.EndBackfill(ctx, job.ID, relay.BackfillFailed, reason, time.Now().UnixMicro()); err != nil {
		return stored(err)
	}
	return nil
}

// chunk reads one chunk. The stream waits from a position on that is before the
// snapshot's point, so that it cannot have passed the point when that is known.
func (b *backfiller) chunk(ctx, jobCtx context.Context, in *relay.Ingest, snaps *cdc.Snapshots, job *relay.Backfill) (done bool, err error) {
	rule, err := b.rule(in, job)
	if err != nil {
		return false, err
	}
	if err := b.estimate(jobCtx, rule, job); err != nil {
		return false, err
	}
	b.setNote("waits for the stream to catch up")
	_, flushed, err := snaps.Positions(jobCtx)
	if err == nil {
		err = in.Reached(jobCtx, flushed)
	}
	var written relay.LSN
	if err == nil {
		written, _, err = snaps.Positions(jobCtx)
	}
	if err != nil {
		return false, err
	}
	b.setNote("")
	if err := in.Hold(written); err != nil {
		return false, err
	}
	snap, err := b.take(jobCtx, in, snaps, job)
	if err != nil {
		return false, errors.Join(err, in.Open())
	}
	defer snap.Close()
	limits := cdc.ReadLimits{Rows: job.Rate} // with a rate: the rows of a second
	chunk, err := in.NewChunk(job, rule, snap.Point, snap.At)
	if err != nil {
		return false, err
	}
	b.setHolding(true)
	defer b.setHolding(false)
	waiting, cancel := context.WithTimeout(jobCtx, pointPatience)
	err = chunk.Wait(waiting)
	cancel()
	if err == nil {
		began := time.Now()
		limits.Enough = func() bool {
			took := time.Since(began)
			return took > longestChunk || took > chunkTime && in.Held()
		}
		reading, cancel := context.WithTimeout(jobCtx, longestChunk+chunkPatience)
		done, err = b.read(reading, chunk, snap, rule, job, limits)
		cancel()
	}
	if errors.Is(err, context.DeadlineExceeded) && jobCtx.Err() == nil {
		err = fmt.Errorf("%w: %w", errChunkWaited, err)
	}
	return b.close(ctx, chunk, job, false, done, err)
}

// close ends the chunk and takes its progress over.
func (b *backfiller) close(ctx context.Context, chunk *relay.Chunk, job *relay.Backfill, hold, done bool, err error) (bool, error) {
	progress, cerr := chunk.Close(ctx, hold)
	if cerr != nil {
		return false, errors.Join(err, cerr)
	}
	job.Progress = progress
	b.mu.Lock()
	b.live.progress = progress
	b.mu.Unlock()
	return done, err
}

// rule returns the rule in force that the backfill is of.
func (b *backfiller) rule(in *relay.Ingest, job *relay.Backfill) (*relay.Rule, error) {
	rule := in.Rule(job.Rule)
	switch {
	case rule == nil:
		return nil, &unreadable{fmt.Errorf("the rule %q is not in force (any more)", job.Rule)}
	case !rule.Ops.Has(relay.Read):
		return nil, &unreadable{fmt.Errorf("the rule %q does not have read among its operations (any more)", job.Rule)}
	case len(left(rule, &job.Progress)) == 0:
		return nil, &unreadable{fmt.Errorf("the rule %q has no table left to read", job.Rule)}
	}
	return rule, nil
}

// left returns the tables that are not read to their end.
func left(rule *relay.Rule, p *relay.BackfillProgress) []relay.TableName {
	return slices.DeleteFunc(slices.Clone(rule.Tables), func(t relay.TableName) bool { return slices.Contains(p.Done, t) })
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
	b.live.progress = job.Progress
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
		if i == 0 {
			t.After = job.Progress.After
		}
		rows := 0
		end, err := snap.Read(ctx, t, limits, func(rel *relay.Relation, row relay.Row, key [][]byte) error {
			if rows++; rows%256 == 0 {
				b.mu.Lock()
				b.live.progress.Rows += 256
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
