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
	// near is how many bytes of WAL the stream may be behind when a snapshot is
	// made, which is a moment's reading. It cannot always be 0: what is flushed may
	// end within a record, which is whole only when somebody commits.
	near = 1 << 20
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
	job relay.Backfill
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
		return float64(l.job.Progress.Rows-l.before) / s
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

// hold prepares the ingest for what is open, and keeps the stream at the point of
// the first snapshot, if there is one. Call it before the stream begins.
func (b *backfiller) hold(ctx context.Context, in *relay.Ingest) error {
	jobs, err := b.open(ctx)
	if err != nil {
		return stored(err)
	}
	if len(jobs) > 0 {
		in.Follow(&jobs[0])
	}
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
	if b.live.job.ID != job.ID {
		b.live = liveBackfill{began: time.Now(), before: job.Progress.Rows}
	}
	b.live.job, b.live.cancel, b.live.ended = *job, cancel, ended
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
	if b.live.job.ID != id {
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
	in.Follow(job)
	passed := 0
	for {
		began, before := time.Now(), job.Progress.Rows
		done, err := b.chunk(ctx, jobCtx, in, snaps, job)
		switch {
		case done || jobCtx.Err() != nil:
			if done {
				b.log.Info("backfill is done", "backfill", job.ID, "rule", job.Rule, "rows", job.Progress.Rows, "events", job.Progress.Events)
			} else if ctx.Err() == nil { // cancelled
				in.Follow(nil)
			}
			return ctx.Err()
		case err == nil:
			passed = 0
		case errors.Is(err, relay.ErrPointPassed), errors.Is(err, relay.ErrRuleChanged), errors.Is(err, cdc.ErrTableChanged), errors.Is(err, errChunkWaited):
			b.log.Debug("chunk of a backfill is given up", "backfill", job.ID, "err", err)
			if passed++; passed > 10 {
				return err
			}
		case lasting(err), errors.Is(err, relay.ErrRowsLost):
			in.Follow(nil)
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
		err = in.Reached(jobCtx, flushed-min(flushed, near))
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
	b.live.job.Progress = progress
	b.mu.Unlock()
	return done, err
}
