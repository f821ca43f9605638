package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// blockBytes is the size at which a block is closed. A delivery that is
	// tried again reads one block, so blocks are small.
	blockBytes = 64 << 10
	// chunkBytes is how much of an open transaction is gathered before it is
	// stored without waiting for the commit, and what may wait for the store.
	chunkBytes = 1 << 20
	// Positions that move without events are stored this seldom.
	idleStoreInterval = 10 * time.Second
	idleStoreBytes    = 16 << 20
)

// IngestConfig configures an Ingest.
type IngestConfig struct {
	// Stream is the name of the stream it writes, Source that of its source.
	Stream, Source string
	// SystemID is the cluster's, a fact of every event id.
	SystemID uint64
	Rules    *RuleSet
	Log      Log
	Feed     *Feed
	Logger   *slog.Logger
	// MaxFailures is how many failures of one rule in a row stop the source; 0
	// is 1,000 and a negative number is no limit.
	MaxFailures int
	// Settled, when not nil, returns the place of the stream up to which every
	// delivery is settled: a position is then confirmed only when what it covers
	// is delivered (confirm = "delivered").
	Settled func() int64
	// Listed says that the publication sends only some columns. A change without a
	// column that a rule reads then stops the source, to be judged later, where it
	// otherwise (the column was dropped or renamed) becomes a dead letter.
	Listed bool
	// Recent, when not nil, remembers the row changes that rules are about.
	Recent *Recent
	// Keep says that changes are kept as they came.
	Keep bool
	// Stats counts; nil is counters of its own.
	Stats *IngestStats
	// Waiting are rule sets that follow Rules at their places; see AwaitRules.
	Waiting []NextRules
	// Placed, when not nil, is called after a rule set has come into force
	// durably. It must not block.
	Placed func()
	// Epoch is the time the connection was made, in microseconds since the Unix
	// epoch, a fact of the ids of notifications.
	Epoch int64
	// LastNotify is the place of the last event of a stream of notifications; the
	// places of those that come rise from there, whatever the clock says.
	LastNotify int64
}

// Ingest passes the changes of one stream through the rules and appends the
// events to the log. Its methods Begin, Change, Commit and Idle are called by
// the one goroutine that reads the source and never wait for the store; Run
// stores what they gather. A position is durable only when Durable returns it.
// An Ingest lives as long as one connection: the next one begins with what the
// log has, and the server sends the rest again.
type Ingest struct {
	cfg      IngestConfig
	programs *programs
	draft    Draft

	durable   atomic.Uint64 // LSN
	lastStore time.Time

	wake chan struct{} // capacity 1: something may be ready to be stored

	mu   sync.Mutex
	next pending
	// state and taken are as handed to the store, which is how it will be: an
	// append is tried until it is stored. state is nil for streams without a
	// checkpoint; its Partial goes when the transaction has come to its end.
	state  *SourceState
	taken  StreamState
	stored StreamState
	room   chan struct{} // closed when there is room; nil when there is
	paused string        // why nothing is to be read, "" when reading
	tx     openTx
	// waiting follow cfg.Rules at their places, following after the transaction
	// under way.
	waiting   []NextRules
	following *NextRules
	// lastNotify makes the times of notifications rise.
	lastNotify int64
	// gate is where the stream waits for a chunk of a backfill; reading is the
	// rule that a row being read is for.
	gate    gate
	reading *Rule
	// handed is the chunk whose progress is in the append being stored, follows the
	// last one of the backfill under way.
	handed, follows *Chunk
	// told says that the rule of the backfill has made an event of the change.
	told bool
	// broken is why a message that waited for the gate stops the source.
	broken error

	stats *IngestStats
	marks []mark
	kept  *keptBuffer // nil keeps nothing
}

// IngestStats counts what passed, for status and metrics.
type IngestStats struct {
	Transactions, Changes, Events atomic.Int64
	// LastChange is when the last change was received, in microseconds since the
	// Unix epoch.
	LastChange atomic.Int64
	// StoreErrors counts appends that failed; Storing is the reason while the
	// store does not accept anything.
	StoreErrors atomic.Int64
	StoreError  atomic.Pointer[string]
	// AppendMicros sums the time appends took, Appends counts them.
	AppendMicros, Appends atomic.Int64
}

// openTx is the transaction being read.
type openTx struct {
	open, skip bool
	tx         Tx
	changes    uint64 // seen so far
	resume     uint64 // that many were processed before a crash
	events     uint32
	marked     string // the ID of the set that it has the message of
}

// NewIngest returns an Ingest that continues the stream as the log has it.
// state is the source's row, or nil for a stream without a checkpoint.
func NewIngest(ctx context.Context, cfg IngestConfig, state *SourceState) (*Ingest, error) {
	in := &Ingest{
		cfg:      cfg,
		programs: newPrograms(cfg.Rules),
		waiting:  slices.Clone(cfg.Waiting),
		wake:     make(chan struct{}, 1),
		stats:    cfg.Stats,

		lastNotify: cfg.LastNotify,
	}
	if in.stats == nil {
		in.stats = new(IngestStats)
	}
	if in.cfg.MaxFailures == 0 {
		in.cfg.MaxFailures = 1000
	}
	if cfg.Keep {
		in.kept = &keptBuffer{}
	}
	st, err := cfg.Log.Stream(ctx, cfg.Stream)
	if err != nil {
		return nil, fmt.Errorf("read the state of stream %s: %w", cfg.Stream, err)
	}
	in.stored, in.taken = st, st
	in.next = pending{head: st.Head, tail: st.Tail}
	if state != nil {
		s := *state
		in.state = &s
		in.durable.Store(uint64(s.LSN))
		in.marks = []mark{{st.Head, s.LSN}}
	}
	if (st.Tail > st.Head || st.KeptTail > st.KeptHead) && (in.state == nil || in.state.Partial == nil) {
		in.discardTail()
	}
	in.lastStore = time.Now()
	cfg.Feed.Open(cfg.Stream, st.Head)
	return in, nil
}

// discardTail makes the next append void the half-stored transaction.
func (in *Ingest) discardTail() {
	in.next.discard = true
	in.next.tail, in.taken.Tail = in.next.head, in.next.head
	if in.state != nil {
		in.state.Partial = nil
	}
}

// Durable returns the position that may be confirmed: up to it everything is
// in the log, and delivered where the configuration asks for that. 0 is none.
func (in *Ingest) Durable() LSN {
	if in.cfg.Settled == nil {
		return LSN(in.durable.Load())
	}
	settled := in.cfg.Settled()
	in.mu.Lock()
	defer in.mu.Unlock()
	n := 0
	for n < len(in.marks) && in.marks[n].head <= settled {
		n++
	}
	if n == 0 {
		return 0
	}
	in.marks = in.marks[n-1:]
	return in.marks[0].lsn
}

// Checkpoint returns the position up to which everything is in the log.
func (in *Ingest) Checkpoint() LSN { return LSN(in.durable.Load()) }

// Full returns nil when there is room for more, else a channel that is closed
// when there is again.
func (in *Ingest) Full() <-chan struct{} {
	in.mu.Lock()
	defer in.mu.Unlock()
	_, kept := in.kept.sizes()
	if in.paused == "" && in.next.bytes < chunkBytes && kept < chunkBytes && !in.gate.held && in.gate.message == nil {
		return nil
	}
	if in.room == nil {
		in.room = make(chan struct{})
	}
	return in.room
}

// Waits says what has to happen before there is room for more.
func (in *Ingest) Waits() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.paused != "":
		return "the log takes events again: " + in.paused
	case in.gate.held || in.gate.message != nil:
		return "a backfill has read the rows whose place is before what comes next"
	}
	return "the store has taken what was read"
}

// Pause stops the reading for the given reason until Resume.
func (in *Ingest) Pause(reason string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.paused = reason
}

// Resume undoes Pause.
func (in *Ingest) Resume() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.paused = ""
	in.giveRoom()
}

func (in *Ingest) giveRoom() {
	if in.room != nil && in.paused == "" {
		close(in.room)
		in.room = nil
	}
}

// Begin starts a transaction. One that ended before the checkpoint is skipped,
// as a whole, by its commit LSN.
func (in *Ingest) Begin(tx *Tx) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.broken != nil {
		return in.broken
	}
	in.tx = openTx{open: true, tx: *tx}
	t := &in.tx
	if in.position() > tx.CommitLSN {
		t.skip = true
		return nil
	}
	if in.gate.closedFor(tx.CommitLSN) {
		in.gate.held = true
		in.gate.notify()
	}
	if in.state == nil || in.state.Partial == nil {
		return nil
	}
	p := in.state.Partial
	if p.CommitLSN == tx.CommitLSN && p.XID == tx.XID && p.CommitTime == tx.CommitTime &&
		p.RulesHash == in.cfg.Rules.Hash() && p.Generation == in.state.Generation && p.Timeline == in.state.Timeline {
		t.resume, t.events = p.Changes, p.Events
		in.cfg.Logger.Info("continuing a half-stored transaction", "source", in.cfg.Source, "lsn", tx.CommitLSN, "xid", tx.XID, "changes", p.Changes)
		return nil
	}
	in.cfg.Logger.Info("voiding a half-stored transaction", "source", in.cfg.Source, "lsn", p.CommitLSN, "xid", p.XID)
	in.discardTail()
	return nil
}

// position returns the position after the last complete transaction, stored
// or not.
func (in *Ingest) position() LSN {
	if in.next.lsn != 0 {
		return in.next.lsn
	}
	if in.state != nil {
		return in.state.LSN
	}
	return 0
}

// Change judges one change. It returns an error only when the source has to
// stop.
func (in *Ingest) Change(c *Change) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.broken != nil {
		return in.broken
	}
	if c.Tx == nil {
		if c.Op == Message && in.gate.closedFor(c.LSN-1) && !in.tx.open {
			in.holdMessage(c)
			return nil
		}
		return in.single(c)
	}
	t := &in.tx
	if !t.open {
		return errors.New("change outside a transaction")
	}
	if t.skip {
		return nil
	}
	if in.cfg.Listed && t.changes >= t.resume {
		if err := in.lacking(c); err != nil {
			return err
		}
	}
	t.changes++
	if c.Op == Message && c.Name == RulesPrefix {
		in.marked(string(c.Payload))
	}
	if t.changes <= t.resume {
		return nil
	}
	in.kept.keep(c)
	f := IDFacts{
		SystemID: in.cfg.SystemID, CommitLSN: c.Tx.CommitLSN, XID: c.Tx.XID, CommitTime: c.Tx.CommitTime,
		Kind: c.Op, ChangeLSN: c.LSN, Ordinal: c.Ordinal,
	}
	in.told = false
	err := in.judge(c, &f, c.Tx.CommitTime, &t.events)
	if c.Op == Update && in.follows != nil {
		in.follows.noteMoved(c, in.told)
	}
	if err != nil {
		return err
	}
	if _, kept := in.kept.sizes(); in.next.bytes+in.next.builder.Len() >= chunkBytes || kept >= chunkBytes {
		in.kick()
	}
	return nil
}

// single takes a change that is a transaction of its own: a notification, or a
// message outside a transaction. The latter moves the checkpoint to its own
// LSN, which is the end of its record: every commit before it in the WAL was
// received before it, and the server does not send it again from there.
func (in *Ingest) single(c *Change) error {
	var events uint32
	f := IDFacts{SystemID: in.cfg.SystemID, Kind: c.Op, Ordinal: c.Ordinal}
	at := time.Now().UnixMicro()
	switch c.Op {
	case Message:
		if c.LSN <= in.position() {
			return nil
		}
		f.CommitLSN, f.ChangeLSN = c.LSN, c.LSN
		if in.tx.open {
			return fmt.Errorf("message at %s outside its transaction came inside another", c.LSN)
		}
	case Notify:
		at = c.Time
		in.lastNotify = max(at, in.lastNotify+1)
		f.CommitLSN, f.XID, f.CommitTime = LSN(in.lastNotify), c.PID, in.cfg.Epoch
	}
	in.kept.keep(c)
	if err := in.judge(c, &f, at, &events); err != nil {
		return err
	}
	in.next.head = in.next.tail
	in.kept.end()
	if c.Op == Message {
		in.next.lsn = c.LSN
	}
	in.kick()
	return nil
}

// lacking returns an error when the change does not carry a column that a rule
// about it reads, and that stays in force.
func (in *Ingest) lacking(c *Change) error {
	for _, b := range in.programs.of(c) {
		rule := b.rule
		if _, ok := errors.AsType[*MissingColumnError](b.err); ok && rule.Ops.Has(c.Op) && !in.leaving(rule) {
			return &NotSentError{Rule: rule.Name, LSN: c.LSN, Err: b.err}
		}
	}
	return nil
}

// judge passes the change through its rules and gathers what they make. Also
// when one of them stops the source the others are asked: what was gathered may
// be stored as far as this change, and is then continued after it.
func (in *Ingest) judge(c *Change, f *IDFacts, at int64, index *uint32) error {
	in.stats.Changes.Add(1)
	var stop error
	used := true // the draft
	programs := in.programs.of(c)
	if in.cfg.Recent != nil && len(programs) > 0 && c.Relation != nil && c.Tx != nil && c.Op != Read {
		in.cfg.Recent.Add(c)
	}
	for _, b := range programs {
		rule, stats := b.rule, b.stats
		if c.Relation != nil && !b.ops.Has(c.Op) {
			continue
		}
		if c.Op == Message && c.Tx == nil && !rule.NonTransactional {
			continue
		}
		if c.Op == Read && rule != in.reading {
			continue
		}
		stats.Seen.Add(1)
		ok, err := false, b.err
		d := &in.draft
		if err == nil {
			if used { // a rule that does not match leaves it as it is
				d.Reset()
			}
			ok, err = b.prog.Eval(c, d)
			used = ok || err != nil
		}
		if err != nil {
			in.noteFailure(c, rule, stats, err)
			switch {
			case rule.OnError == OnErrorHalt && !in.leaving(rule):
				if c.Op != Read { // a transaction that waits for the gate goes on
					in.dropOpen()
				}
				return &RuleFailedError{Rule: rule.Name, LSN: c.LSN, Err: err}
			case rule.OnError == OnErrorSkip:
				continue
			}
			in.fail(c, rule, f, at, err)
			if in.cfg.MaxFailures > 0 && stats.inRow >= in.cfg.MaxFailures && !in.leaving(rule) {
				stop = &RuleFailedError{Rule: rule.Name, Times: stats.inRow, LSN: c.LSN, Err: err}
			}
			continue
		}
		if !ok {
			continue
		}
		stats.inRow = 0
		stats.Matched.Add(1)
		stats.LastMatch.Store(at)
		in.told = in.told || in.follows != nil && in.follows.name == rule.Name && d.Len() > 0
		for i := range d.Len() {
			f.Item = uint32(i)
			in.add(c, rule, d.At(i), f, at, *index)
			*index++
		}
		f.Item = 0
	}
	return stop
}

// noteFailure counts a failure, and logs it, but not every one of very many.
func (in *Ingest) noteFailure(c *Change, rule *Rule, stats *RuleStats, err error) {
	now := time.Now()
	stats.Failed.Add(1)
	stats.inRow++
	stats.LastFailure.Store(&RuleFailure{At: now.UnixMicro(), Err: err.Error()})
	if now.Sub(stats.told) > time.Minute {
		stats.told = now
		in.cfg.Logger.Warn("a rule failed on a change, see rowhook events failures", "source", in.cfg.Source, "rule", rule.Name, "lsn", c.LSN.String(), "failed", stats.Failed.Load(), "err", err)
	}
}

// dropOpen forgets what was gathered of the open transaction, so that a source
// that halts begins it anew, or where a half-stored one ended.
func (in *Ingest) dropOpen() {
	p := &in.next
	p.blocks, _ = p.split()
	p.bytes = sizeOf(p.blocks)
	p.failures = upTo(p.failures, p.head)
	p.tail = p.head
	in.kept.drop()
	in.tx = openTx{}
}

// add gathers the event of the draft.
func (in *Ingest) add(c *Change, rule *Rule, d *Draft, f *IDFacts, at int64, index uint32) {
	in.next.tail++
	e := makeEvent(c, rule, d, f, at)
	e.Seq, e.Stream, e.Source, e.Index, e.Generation = in.next.tail, in.cfg.Stream, in.cfg.Source, index, 1
	if in.state != nil {
		e.Generation = in.state.Generation
	}
	in.next.builder.Add(&e)
	in.stats.Events.Add(1)
	if in.next.builder.Len() >= blockBytes {
		in.next.closeBlock()
	}
}

// makeEvent makes the event of a draft, but for its place. It points into the
// draft.
func makeEvent(c *Change, rule *Rule, d *Draft, f *IDFacts, at int64) Event {
	f.Rule = rule.Name
	e := Event{
		ID: f.ID(), Type: rule.Type, Version: max(rule.Version, 1), Rule: rule.Name,
		Op: c.Op, Time: at, Data: d.Data, Unchanged: d.Unchanged,
		Barrier: rule.Barrier || c.Op == Truncate,
	}
	if c.Relation != nil {
		e.Table = c.Relation.Table().String()
	}
	if d.HasTenant {
		e.Tenant = d.Tenant
		if e.Tenant == nil {
			e.Tenant = []byte{}
		}
	}
	switch d.KeyKind {
	case KeyDefault:
		d.Key, d.OldKey = defaultKeys(c, d.Key[:0], d.OldKey[:0])
		d.HasOldKey = len(d.OldKey) > 0
		e.HasKey = len(d.Key) > 0
	case KeySet:
		e.HasKey = true
	}
	if e.HasKey {
		e.Key = d.Key
		if e.Key == nil {
			e.Key = []byte{}
		}
		if d.HasOldKey && string(d.OldKey) != string(d.Key) {
			e.OldKey = d.OldKey
		}
	}
	return e
}

// fail gathers the dead letter of a change on which a rule failed.
func (in *Ingest) fail(c *Change, rule *Rule, f *IDFacts, at int64, err error) {
	in.next.tail++
	fl := Failure{
		Stream: in.cfg.Stream, Seq: in.next.tail, Rule: rule.Name, At: at, LSN: c.LSN,
		Change: encodeChange(c, f, err), Err: err.Error(),
	}
	if c.Tx != nil {
		fl.XID = c.Tx.XID
	}
	if c.Relation != nil {
		fl.Table = c.Relation.Table().String()
	}
	in.next.failures = append(in.next.failures, fl)
	in.next.bytes += len(fl.Change)
}

// Commit ends the transaction; end is the first byte after its commit record.
func (in *Ingest) Commit(_ *Tx, end LSN) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	t := in.tx
	in.tx = openTx{}
	if t.skip {
		return nil
	}
	if t.changes < t.resume {
		return fmt.Errorf("the half-stored transaction at %s has %d changes in the log and only %d were sent now", t.tx.CommitLSN, t.resume, t.changes)
	}
	if in.state != nil {
		in.state.Partial = nil
	}
	in.stats.Transactions.Add(1)
	in.stats.LastChange.Store(time.Now().UnixMicro())
	in.next.head = in.next.tail
	in.kept.end()
	in.next.lsn, in.next.read = end, t.tx.CommitLSN
	in.switchRules(t.marked, end)
	in.kick()
	in.gate.notify()
	return nil
}

// Idle takes a position the server has reported while no transaction is open.
func (in *Ingest) Idle(lsn LSN) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.broken != nil {
		return in.broken
	}
	if in.tx.open || lsn <= in.position() {
		return nil
	}
	if lsn > in.gate.idle {
		in.gate.idle = lsn
		in.gate.notify()
	}
	if in.gate.at != 0 {
		if lsn = min(lsn, in.gate.at); lsn <= in.position() {
			return nil
		}
	}
	if in.state != nil && in.state.Partial != nil {
		if lsn <= in.state.Partial.CommitLSN {
			return nil
		}
		in.discardTail()
	}
	in.next.lsn = lsn
	in.kick()
	return nil
}

func (in *Ingest) kick() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// State returns the source's row as it was last handed to the store.
func (in *Ingest) State() *SourceState {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.state == nil {
		return nil
	}
	s := *in.state
	return &s
}

// RuleFailedError says that one rule failed so often in a row that its source
// has to stop, or that it stops its source at once.
type RuleFailedError struct {
	Rule string
	// Times is how often it failed in a row, 0 where once is enough (on_error =
	// "halt").
	Times int
	LSN   LSN
	Err   error
}

func (e *RuleFailedError) Error() string {
	if e.Times == 0 {
		return fmt.Sprintf("rule %q failed on the change at %s (on_error = \"halt\"): %v. Correct the rule and start again: the change is then judged again", e.Rule, e.LSN, e.Err)
	}
	return fmt.Sprintf("rule %q failed on %d changes in a row (max_rule_failures), the last at %s: %v. Correct the rule and start again", e.Rule, e.Times, e.LSN, e.Err)
}

func (e *RuleFailedError) Unwrap() error { return e.Err }

// NotSentError says that a change does not carry a column that a rule reads,
// because it was made when the publication did not list it. The change was not
// judged, and comes again.
type NotSentError struct {
	Rule string
	LSN  LSN
	Err  error
}

func (e *NotSentError) Error() string {
	return fmt.Sprintf("the change at %s does not carry a column that the rule %q reads: %v. Either somebody altered the publication, which did not list it then, or the column has got another name. Correct the rule and reload: what was written before becomes dead letters, which the corrected rule can judge (rowhook events retry-failures). Or give up what was written meanwhile with a checkpoint reset", e.LSN, e.Rule, e.Err)
}

func (e *NotSentError) Unwrap() error { return e.Err }
