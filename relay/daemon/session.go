package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// session starts the source and reads it until something breaks.
func (s *source) session(ctx context.Context) error {
	defer s.backfills.dropFirst()
	start, in, err := s.start(ctx)
	if err != nil {
		return err
	}
	defer func() {
		s.placing.Lock()
		s.live = nil
		s.placing.Unlock()
	}()
	if err := s.backfills.hold(ctx, in); err != nil {
		return err
	}
	stop := s.runIngest(in)
	defer stop()
	stream := &cdc.Stream{
		Source: s.cfg.Name, URL: s.cfg.URL, Slot: s.cfg.Slot, Publication: s.cfg.Publication,
		SystemID: start.SystemID, Timeline: start.Timeline, ReadLSN: start.ReadLSN, ReadAt: start.ReadAt, Log: s.d.log,
	}
	if stream.Last, err = s.lastTransaction(ctx, start); err != nil {
		return stored(err)
	}
	h := &handler{Ingest: in, heard: &s.heard}
	watch, unwatch := context.WithCancelCause(context.WithoutCancel(ctx))
	defer unwatch(nil)
	// When told to stop: stop reading, store what is complete, then let the
	// stream confirm it.
	release := context.AfterFunc(ctx, func() {
		h.stop()
		stop()
		unwatch(context.Canceled)
	})
	defer release()
	var wg sync.WaitGroup
	defer wg.Wait()
	sv, err := cdc.Inspect(ctx, s.cfg.URL, s.cfg.Slot, s.cfg.Publication)
	if err != nil {
		return err
	}
	wg.Go(func() { s.watch(watch, unwatch, sv, in) })
	wg.Go(func() { s.backfills.run(watch, in) })
	s.log.Info("streaming", "slot", s.cfg.Slot, "lsn", start.LSN.String(), "generation", start.Generation)
	s.heard.Store(0)
	s.setState(api.SourceStreaming, "")
	err = stream.Run(watch, start.LSN, h)
	if cause := context.Cause(watch); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	unwatch(nil)
	if errors.Is(err, cdc.ErrNotPublished) {
		s.log.Error("reading stops", "err", err)
		stop() // the checkpoint is final
		return s.notPublished(ctx, in.State())
	}
	if errors.Is(err, cdc.ErrOtherHistory) {
		return s.otherHistory(ctx, in.State(), err)
	}
	return err
}

// slotWaits says which transactions the making of the slot waits for.
func (s *source) slotWaits(open string) {
	if s.setState(api.SourceStarting, "its slot waits for every transaction that has written, of any database of the cluster, to end; these are open: "+open) {
		s.log.Warn("the slot waits for long transactions", "slot", s.cfg.Slot, "open", open)
	}
}

// lastTransaction returns the transaction of the last event in the log, when
// the source's present history made it.
func (s *source) lastTransaction(ctx context.Context, st *relay.SourceState) (last cdc.Seam, err error) {
	e, err := s.d.lastEvent(ctx, walStream(s.cfg.Name))
	if err == nil && e.Generation == st.Generation && relay.OpsOf(relay.Insert, relay.Update, relay.Delete, relay.Truncate).Has(e.Op) {
		last = cdc.Seam{LSN: relay.LSN(e.Place), Time: e.Time}
	}
	return last, err
}

// lastEvent returns the last visible event of a stream, a zero one when the log
// has none.
func (d *Daemon) lastEvent(ctx context.Context, stream string) (last relay.Event, err error) {
	st, err := d.store.Stream(ctx, stream)
	if err != nil || st.Head == 0 {
		return last, err
	}
	blocks, err := d.store.Blocks(ctx, stream, st.Head-1, 1)
	if err != nil {
		return last, err
	}
	for _, b := range blocks {
		r := b.Reader()
		for e := (relay.Event{}); r.Next(&e); {
			last = e
		}
	}
	return last, nil
}

// otherKey is the setting that says in which generation the server turned out
// to have another history, for the reset that accepts it.
func otherKey(source string) string { return "history.other." + source }

func (s *source) otherHistory(ctx context.Context, st *relay.SourceState, why error) error {
	if err := s.d.store.PutSetting(ctx, otherKey(s.cfg.Name), fmt.Sprint(st.Generation)); err != nil {
		return stored(err)
	}
	return relay.OtherHistory(st, why.Error())
}

// inOtherHistory reports whether that was found out in the present generation.
// Only a reset is judged by it: a start without one forgets it, and finds out
// anew.
func (s *source) inOtherHistory(ctx context.Context, known *relay.SourceState, reset bool) (bool, error) {
	at, _, err := s.d.store.Setting(ctx, otherKey(s.cfg.Name))
	if err != nil || at == "" || known == nil {
		return false, err
	}
	if !reset {
		return false, s.d.store.PutSetting(ctx, otherKey(s.cfg.Name), "")
	}
	return at == fmt.Sprint(known.Generation), nil
}

// notPublished says what is missing since the publication was.
func (s *source) notPublished(ctx context.Context, st *relay.SourceState) error {
	flush := st.LSN
	if sv, err := cdc.Inspect(ctx, s.cfg.URL, s.cfg.Slot, ""); err == nil {
		flush = sv.Flush
	}
	return relay.NotPublished(st, flush)
}

// runIngest runs in until the returned function is called, which waits until
// what is complete is stored.
func (s *source) runIngest(in *relay.Ingest) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := in.Run(ctx); err != nil {
			s.log.Warn("what was read last is not stored and will be read again", "err", err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// handler lets the source know when the server was last heard of, and when to
// stop reading.
type handler struct {
	*relay.Ingest
	heard   *atomic.Int64
	stopped atomic.Pointer[chan struct{}]
}

func (h *handler) note() { h.heard.Store(time.Now().UnixMicro()) }

// Idle implements cdc.Handler.
func (h *handler) Idle(lsn relay.LSN) error {
	h.note()
	return h.Ingest.Idle(lsn)
}

// Begin implements cdc.Handler.
func (h *handler) Begin(tx *relay.Tx) error {
	h.note()
	return h.Ingest.Begin(tx)
}

// Change implements cdc.Handler.
func (h *handler) Change(c *relay.Change) error {
	h.note()
	return h.Ingest.Change(c)
}

// Commit implements cdc.Handler.
func (h *handler) Commit(tx *relay.Tx, end relay.LSN) error {
	h.note()
	return h.Ingest.Commit(tx, end)
}

// Full implements cdc.Handler. It is no sign of life: the stream also asks when
// it wakes up to look at the clock.
func (h *handler) Full() <-chan struct{} {
	if c := h.stopped.Load(); c != nil {
		return *c
	}
	return h.Ingest.Full()
}

func (h *handler) stop() {
	c := make(chan struct{})
	h.stopped.CompareAndSwap(nil, &c)
}

// watch looks at slot and publication from time to time, for the status and to
// notice what the stream itself does not say.
func (s *source) watch(ctx context.Context, stop context.CancelCauseFunc, sv *cdc.ServerState, in *relay.Ingest) {
	tick := time.NewTicker(inspectInterval)
	defer tick.Stop()
	wide := "" // why the publication still sends more than the rules need
	shrink := func() {
		err := s.shrink(ctx)
		if ctx.Err() == nil {
			s.warnOnce(&wide, fmt.Sprint(err), err != nil, "the publication keeps what no rules need any more, it will be tried again")
		}
	}
	whole := in.Checkpoint() // before it everything was published
	for {
		select {
		case <-tick.C:
		case <-s.shrinks:
			shrink()
			continue
		case <-ctx.Done():
			return
		}
		at := in.Checkpoint()
		s.placing.Lock() // while nobody alters the publication
		_ = s.mark(ctx)  // logged
		needs := in.Rules().Needs()
		now, err := sv.Refresh(ctx, s.cfg.URL, s.cfg.Slot, s.cfg.Publication)
		s.placing.Unlock()
		if wide != "" {
			shrink()
		}
		if err != nil {
			continue // the stream finds out by itself
		}
		had := sv.Publication.Lacks(needs)
		moved := sv.Publication != nil && now.Publication != nil && sv.Publication.Partitions != now.Publication.Partitions
		sv = now
		s.mu.Lock()
		s.server = sv
		s.mu.Unlock()
		if sv.Publication == nil && len(needs) > 0 {
			s.unpublished.Store(true)
			stop(s.publicationGone())
			return
		}
		lacks := slices.DeleteFunc(sv.Publication.Lacks(needs), func(l string) bool { return slices.Contains(had, l) })
		if len(lacks) == 0 && moved {
			s.log.Warn("partitions were made, attached or detached, which PostgreSQL 14 does not tell a stream under way: it begins anew. "+
				"Of a table that had changes before it was attached, those made between then and now may be missing: backfill it", "since", whole.String())
			stop(errPartitions)
			return
		}
		if len(lacks) == 0 {
			whole = at
			continue
		}
		if err := s.d.store.PutSetting(ctx, leftKey(s.cfg.Name), whole.String()); err != nil {
			s.log.Error("since when the publication lacks something cannot be recorded", "lsn", whole.String(), "err", err)
		}
		stop(&cdc.SetupError{
			Summary: fmt.Sprintf("publication %s does not send any more what the rules need: %s", s.cfg.Publication, strings.Join(lacks, "; ")),
			Detail: "somebody altered it, or dropped a table and made it again. Changes made without it are not sent. " +
				"Start the daemon again: where it manages the publication it puts that right, and it records the gap. See to what was changed meanwhile",
		})
		return
	}
}

// errPartitions begins a stream anew.
var errPartitions = errors.New("partitions were made, attached or detached")

// publicationGone is the error of a source that waits for its publication.
// Changes that were made without it the server refuses to send, so nothing is
// passed over when reading goes on.
func (s *source) publicationGone() error {
	return &unusableError{&cdc.SetupError{
		Summary: fmt.Sprintf("publication %s does not exist any more", s.cfg.Publication),
		Detail: "Make it again, as rowhook plan says: reading goes on by itself, and stops again where something was changed without it. " +
			"Where the daemon manages the publication, it makes it when it is started again",
	}}
}

// leftKey is the setting that says up to where a publication that was altered
// by somebody else is known to have sent what the rules need.
func leftKey(source string) string { return "publication.left." + source }

// left returns that position, 0 when there is none.
func (s *source) left(ctx context.Context) (relay.LSN, error) {
	text, _, err := s.d.store.Setting(ctx, leftKey(s.cfg.Name))
	if err != nil || text == "" {
		return 0, stored(err)
	}
	return relay.ParseLSN(text)
}

// rest waits until a stopped source is to start again, and looks at its slot
// meanwhile, which pins more and more WAL. It returns false when ctx is done.
func (s *source) rest(ctx context.Context, again <-chan time.Time) bool {
	tick := time.NewTicker(inspectInterval)
	defer tick.Stop()
	for {
		select {
		case <-again:
			return true
		case <-s.wake:
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		if s.server == nil { // nobody else sets it now
			continue
		}
		looking, cancel := context.WithTimeout(ctx, inspectInterval/2)
		now, err := s.server.Refresh(looking, s.cfg.URL, s.cfg.Slot, s.cfg.Publication)
		cancel()
		if err == nil {
			s.mu.Lock()
			s.server = now
			s.mu.Unlock()
		}
	}
}
