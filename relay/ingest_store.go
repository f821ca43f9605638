package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// mark says which checkpoint was stored together with which head.
type mark struct {
	head int64
	lsn  LSN
}

// pending is what has been gathered and not yet handed to the store.
type pending struct {
	builder  BlockBuilder
	blocks   []*Block
	bytes    int
	failures []Failure
	gaps     []*Gap
	discard  bool
	// tail is the last place given out, head the last one of a complete
	// transaction.
	tail, head int64
	// lsn is the position after the last complete transaction, 0 when it did
	// not move.
	lsn LSN
	// read is the commit LSN of that transaction, 0 when none was read.
	read LSN
	// chunk is of the backfill that read rows since the last append.
	chunk *Chunk
	// rules came into force at the end of complete transactions.
	rules []RulesPlace
}

// addMark keeps a mark. Where there are very many, every other one goes: then
// positions are confirmed in larger steps.
func (in *Ingest) addMark(m mark) {
	if in.cfg.Settled == nil {
		return
	}
	if n := len(in.marks); n > 0 && in.marks[n-1].head == m.head {
		in.marks[n-1] = m
		return
	}
	if len(in.marks) > 4096 {
		for i := range len(in.marks) / 2 {
			in.marks[i] = in.marks[2*i]
		}
		in.marks = in.marks[:len(in.marks)/2]
	}
	in.marks = append(in.marks, m)
}

func (p *pending) closeBlock() {
	if b := p.builder.Finish(); b != nil {
		p.blocks = append(p.blocks, b)
		p.bytes += len(b.Data)
	}
}

// split closes the block under way and returns the blocks of complete
// transactions and those of the open one.
func (p *pending) split() (complete, open []*Block) {
	p.closeBlock()
	for i, b := range p.blocks {
		if b.Last <= p.head {
			complete = append(complete, b)
			continue
		}
		if b.First > p.head {
			return complete, p.blocks[i:]
		}
		var before, after BlockBuilder
		r := b.Reader()
		for e := (Event{}); r.Next(&e); {
			if e.Seq <= p.head {
				before.Add(&e)
			} else {
				after.Add(&e)
			}
		}
		return append(complete, before.Finish()), append([]*Block{after.Finish()}, p.blocks[i+1:]...)
	}
	return complete, nil
}

func sizeOf(blocks []*Block) int {
	n := 0
	for _, b := range blocks {
		n += len(b.Data)
	}
	return n
}

func upTo(fs []Failure, place int64) []Failure {
	for i := range fs {
		if fs[i].Seq > place {
			return fs[:i:i]
		}
	}
	return fs
}

// take returns the next append, or nil when there is nothing to store yet.
func (in *Ingest) take(final bool) *Append {
	in.mu.Lock()
	defer in.mu.Unlock()
	p := &in.next
	keptWhole, kept := in.kept.sizes()
	chunk := in.tx.open && !in.tx.skip && (p.tail > p.head && p.bytes+p.builder.Len() >= chunkBytes || kept >= chunkBytes)
	whole := p.head > in.taken.Head || len(p.gaps) > 0 || len(p.rules) > 0
	moved := p.lsn != 0 && in.state != nil && p.lsn > in.state.LSN
	// What a backfill noted within a half-stored transaction waits for more of it:
	// an append without its events would end before them.
	half := in.taken.Tail > p.head
	if !chunk && !whole && (p.chunk == nil || half) {
		if !moved && keptWhole == 0 {
			return nil
		}
		due := time.Since(in.lastStore) >= idleStoreInterval || moved && p.lsn-in.state.LSN >= idleStoreBytes || keptWhole >= keptBytes
		if !due && !final && !p.discard {
			return nil
		}
	}
	a := &Append{Stream: in.cfg.Stream, DiscardTail: p.discard, Backfill: p.update(), Rules: p.rules, Kept: in.kept.take(chunk)}
	// A block never holds events of complete transactions and of the open one.
	complete, rest := p.split()
	a.Blocks, a.Failures = complete, p.failures
	a.Head, a.Tail = p.head, p.head
	restFailures := []Failure(nil)
	if chunk {
		a.Blocks, rest = append(a.Blocks, rest...), nil
		a.Tail = p.tail
	} else {
		a.Failures = upTo(p.failures, p.head)
		restFailures = p.failures[len(a.Failures):]
	}
	gaps := p.gaps
	if len(gaps) > 0 {
		a.Gap, gaps = gaps[0], gaps[1:]
	}
	if in.state != nil {
		s := *in.state
		if p.lsn != 0 {
			s.LSN = p.lsn
			s.Partial = nil
			s.ReadLSN, s.ReadAt = max(s.ReadLSN, p.read), time.Now().UnixMicro()
		}
		if chunk {
			s.Partial = &PartialTx{
				CommitLSN: in.tx.tx.CommitLSN, XID: in.tx.tx.XID, CommitTime: in.tx.tx.CommitTime,
				Changes: in.tx.changes, Events: in.tx.events,
				RulesHash: in.cfg.Rules.Hash(), Generation: s.Generation, Timeline: s.Timeline,
			}
		}
		s.UpdatedAt = max(time.Now().UnixMicro(), s.UpdatedAt+1) // isStored tells appends apart by it
		a.Source = &s
		handed := s
		in.state = &handed
	}
	in.taken.Head, in.taken.Tail = a.Head, a.Tail
	in.handed = p.chunk
	in.next = pending{head: p.head, tail: p.tail, blocks: rest, bytes: sizeOf(rest), failures: restFailures, gaps: gaps}
	in.giveRoom()
	return a
}

// Run stores what is gathered until ctx is done; then it stores what is
// complete and returns nil, or the reason why that cannot be stored: the server
// sends it again.
func (in *Ingest) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		final := false
		select {
		case <-in.wake:
		case <-tick.C:
		case <-ctx.Done():
			final = true
		}
		for a := in.take(final); a != nil; a = in.take(final) {
			if err := in.store(ctx, a, final); err != nil {
				return err
			}
		}
		if final {
			return nil
		}
	}
}

// store appends a, again and again until it is stored. When ctx is done it
// gives up: what is not stored is sent again by the server.
func (in *Ingest) store(ctx context.Context, a *Append, final bool) error {
	opCtx := context.WithoutCancel(ctx)
	retry := backoff.NewExponentialBackOff()
	retry.MaxElapsedTime, retry.InitialInterval, retry.MaxInterval = 0, 50*time.Millisecond, 2*time.Second
	for {
		began := time.Now()
		err := in.cfg.Log.Append(opCtx, a)
		if err == nil {
			in.stats.AppendMicros.Add(time.Since(began).Microseconds())
			in.stats.Appends.Add(1)
			break
		}
		in.stats.StoreErrors.Add(1)
		reason := err.Error()
		in.stats.StoreError.Store(&reason)
		in.cfg.Logger.Error("store does not accept events, reading is paused", "source", in.cfg.Source, "stream", a.Stream, "err", err)
		if final || !pause(ctx, retry.NextBackOff()) {
			// Nothing may be stored after what could not be.
			return fmt.Errorf("append to stream %s at shutdown: %w", a.Stream, err)
		}
		if in.isStored(opCtx, a) {
			break
		}
	}
	if in.stats.StoreError.Swap(nil) != nil {
		in.cfg.Logger.Info("store accepts events again", "source", in.cfg.Source, "stream", a.Stream)
	}
	in.storedAppend(a)
	return nil
}

// isStored re-reads the state after a commit whose result is unknown.
func (in *Ingest) isStored(ctx context.Context, a *Append) bool {
	st, err := in.cfg.Log.Stream(ctx, a.Stream)
	if err != nil || st.Tail != a.Tail || st.Head != a.Head {
		return false
	}
	if a.Source == nil {
		return a.Kept == nil || st.KeptTail > in.stored.KeptTail
	}
	src, err := in.cfg.Log.SourceState(ctx, a.Source.Source)
	return err == nil && src != nil && src.LSN == a.Source.LSN && src.UpdatedAt == a.Source.UpdatedAt
}

// storedAppend makes what is durable now visible.
func (in *Ingest) storedAppend(a *Append) {
	in.mu.Lock()
	visible := a.Head > in.stored.Head
	whole := in.stored.Tail == in.stored.Head && a.Tail == a.Head || a.DiscardTail && a.Tail == a.Head
	in.stored.Head, in.stored.Tail = a.Head, a.Tail
	if a.Source == nil && a.Kept != nil { // one whole run
		in.stored.KeptTail++
	}
	if a.Source != nil {
		in.addMark(mark{a.Head, a.Source.LSN})
	}
	in.lastStore = time.Now()
	if c := in.handed; c != nil {
		c.stored, in.handed = c.handed, nil
		in.gate.notify()
	}
	in.mu.Unlock()
	if a.Source != nil {
		in.durable.Store(uint64(a.Source.LSN))
	}
	if len(a.Rules) > 0 && in.cfg.Placed != nil {
		in.cfg.Placed()
	}
	if visible {
		blocks := a.Blocks
		if !whole {
			blocks = nil
		}
		in.cfg.Feed.Publish(a.Stream, blocks, a.Head)
	}
}
