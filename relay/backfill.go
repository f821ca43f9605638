package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Backfill makes events of the rows that exist, for one rule that lists read
// among its operations. It reads a table in chunks, by key. Each chunk is of one
// snapshot, and its events stand in the stream at the snapshot's point: after
// every transaction that the snapshot contains, before every other. So whoever
// applies the events in order has the rows as they are, also where they change
// meanwhile.
//
// What was read is recorded in the store transaction that appends the events. A
// backfill that was interrupted goes on with the next key, in a new chunk at a
// new point, and makes no event twice.
type Backfill struct {
	ID           int64 // set by the store, from 1
	Source, Rule string
	// Where is an SQL condition on the rows, "" for all of them.
	Where string
	// Rate bounds the rows read each second; 0 is no bound.
	Rate int
	// Initial says that the configuration asked for it at the source's first
	// start: it begins with the snapshot in which the source's slot was made.
	Initial bool
	State   BackfillState
	// Reason says why it failed.
	Reason string
	// Times are in microseconds since the Unix epoch. CreatedAt is a fact of the
	// ids of its events.
	CreatedAt, EndedAt int64
	Progress           BackfillProgress
}

// BackfillState is how a backfill stands. Only an open one changes: its last
// append makes it done, a person cancels it, an error that stays fails it.
type BackfillState string

// The states of a backfill.
const (
	BackfillOpen      BackfillState = "open"
	BackfillDone      BackfillState = "done"
	BackfillCancelled BackfillState = "cancelled"
	BackfillFailed    BackfillState = "failed"
)

// BackfillProgress is what a backfill has read.
type BackfillProgress struct {
	// Done are the tables that were read to their end.
	Done []TableName `json:",omitempty"`
	// Table is the one under way, Key has the columns of the key by which it is
	// read, and After is the key of the last row read, one text a column. They are
	// empty before its first row.
	Table TableName `json:",omitzero"`
	Key   []string  `json:",omitempty"`
	After [][]byte  `json:",omitempty"`
	// Moved are keys of rows of it that may have been moved to where was read
	// already, and of which the events do not tell all: they are read once more.
	// Lost says why they cannot be known; then the backfill fails.
	Moved [][][]byte `json:",omitempty"`
	Lost  string     `json:",omitempty"`
	// Rows were read, and made so many Events. Estimate is about how many rows
	// there were when it began, 0 when that is not known.
	Rows, Events, Estimate int64
	// Point is that of the last chunk, Row and Index are the number of rows and
	// events of that chunk.
	Point LSN
	Row   uint32
	Index uint32
	// At is when this was recorded, in microseconds since the Unix epoch.
	At int64
}

// mostMoved bounds what the keys of moved rows may take, in bytes with so many for
// each value.
const (
	mostMoved  = 1 << 20
	valueBytes = 64
)

func sizeOfKey(key [][]byte) int {
	n := 0
	for _, v := range key {
		n += valueBytes + len(v)
	}
	return n
}

func (p *BackfillProgress) clone() BackfillProgress {
	c := *p
	c.Done, c.Key, c.Moved = slices.Clone(p.Done), slices.Clone(p.Key), slices.Clone(p.Moved)
	c.After = cloneKey(p.After)
	return c
}

func cloneKey(key [][]byte) [][]byte {
	c := slices.Clone(key)
	for i := range c {
		c[i] = slices.Clone(c[i])
	}
	return c
}

// BackfillUpdate is what an append records of a backfill. It does not touch one
// that is not open any more.
type BackfillUpdate struct {
	ID       int64
	Progress BackfillProgress
	// Done ends the backfill.
	Done bool
}

// Errors of a chunk. After all but ErrRowsLost another one may be tried.
var (
	// ErrPointPassed: the stream is past the point already, so the chunk has no
	// place in it.
	ErrPointPassed = errors.New("the stream has passed the snapshot's point")
	// ErrRowsLost: rows were moved in the table, and it cannot be known any more
	// which ones.
	ErrRowsLost = errors.New("which rows it lacks cannot be known any more")
	// ErrRuleChanged: another rule is in force than the chunk was read for.
	ErrRuleChanged = errors.New("the rules have changed")
)

// gate keeps the stream from passing a point until a chunk stands there.
type gate struct {
	// at closes the gate for what commits at or after it; 0 is open.
	at LSN
	// held says that the transaction that has begun waits, message that a message
	// outside a transaction does.
	held    bool
	message *Change
	// idle is the furthest position at which the server had nothing more for us.
	idle LSN
	// changed is closed when any of this changes; nil when nobody waits.
	changed chan struct{}
}

func (g *gate) notify() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

func (g *gate) closedFor(lsn LSN) bool { return g.at != 0 && lsn >= g.at }

// Hold lets nothing pass that commits at or after the position, until it is
// called with a later one or the gate is opened. It is called before a snapshot
// is made whose point will be at or after the position.
func (in *Ingest) Hold(at LSN) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.moveGate(at)
}

// Open lets everything pass.
func (in *Ingest) Open() error { return in.Hold(0) }

// moveGate closes the gate at the position and lets go what may pass now. The
// error is of the message that waited: the source has to stop.
func (in *Ingest) moveGate(at LSN) error {
	g := &in.gate
	g.at = at
	if g.held && !g.closedFor(in.tx.tx.CommitLSN) {
		g.held = false
	}
	var err error
	if m := g.message; m != nil && !g.closedFor(m.LSN-1) {
		g.message = nil
		err = in.single(m)
		in.broken = err
	}
	in.giveRoom()
	g.notify()
	return err
}

// holdMessage keeps a message that may not pass yet.
func (in *Ingest) holdMessage(c *Change) {
	m := *c
	m.Payload = slices.Clone(c.Payload)
	in.gate.message = &m
	in.gate.notify()
}

// await returns when done returns true; mu is held while it is called.
func (in *Ingest) await(ctx context.Context, done func() (bool, error)) error {
	for {
		in.mu.Lock()
		ok, err := done()
		if ok || err != nil {
			in.mu.Unlock()
			return err
		}
		if in.gate.changed == nil {
			in.gate.changed = make(chan struct{})
		}
		changed := in.gate.changed
		in.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Reached waits until everything that committed before the position has been
// read.
func (in *Ingest) Reached(ctx context.Context, lsn LSN) error {
	return in.await(ctx, func() (bool, error) {
		return in.position() >= lsn || in.gate.idle >= lsn || (in.gate.held && in.tx.tx.CommitLSN >= lsn), nil
	})
}

// passed reports whether something is in the stream that belongs after the
// point.
func (in *Ingest) passed(point LSN) bool {
	t := &in.tx
	return in.position() > point || (t.open && !t.skip && !in.gate.held && t.tx.CommitLSN >= point)
}

// standsAt reports whether the stream stands at the point: everything before it
// is there and nothing after it.
func (in *Ingest) standsAt(point LSN) bool {
	g := &in.gate
	switch {
	case in.tx.open:
		return g.held && in.tx.resume == 0 && in.tx.tx.CommitLSN >= point
	case g.message != nil:
		return g.message.LSN > point
	}
	return in.position() >= point || g.idle >= point
}

// Held reports whether a change waits for the gate.
func (in *Ingest) Held() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.gate.held || in.gate.message != nil
}

// Chunk is the part of a backfill that is read in one snapshot. The stream does
// not pass its point until it is closed. One goroutine uses it.
type Chunk struct {
	in       *Ingest
	rule     *Rule  // nil where nothing is read
	name     string // of the rule
	id       IDFacts
	at       int64
	progress BackfillProgress
	// moved is the size of the keys in progress.Moved.
	moved    int
	backfill int64
	done     bool
	// dirty says that the progress is not handed to the store yet, stored counts
	// the appends that had some.
	dirty  bool
	handed int64
	stored int64
}

// Follow has the ingest note what the backfill has to read once more. Call it
// before the stream begins, for the backfill that is under way or comes next, and
// with nil when there is none.
func (in *Ingest) Follow(b *Backfill) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if b == nil {
		in.follows = nil
		return
	}
	if in.follows == nil || in.follows.backfill != b.ID {
		in.follows = in.chunkOf(b)
	}
}

func (in *Ingest) chunkOf(b *Backfill) *Chunk {
	c := &Chunk{in: in, name: b.Rule, backfill: b.ID, progress: b.Progress.clone()}
	for _, key := range c.progress.Moved {
		c.moved += sizeOfKey(key)
	}
	return c
}

// noteMoved notes an update that may have changed the key of a row of the table
// under way, unless told: an event of the rule has all its values. Where the row
// was not read yet and is moved to where was read, nobody has the rest.
func (c *Chunk) noteMoved(u *Change, told bool) {
	p := &c.progress
	if p.Key == nil || p.Lost != "" || u.Relation.Table() != p.Table {
		return
	}
	if told && !slices.ContainsFunc(u.New, func(v Value) bool { return v.State == Unknown }) {
		return
	}
	key, unknown, moved := movedKey(u, p.Key)
	if !moved {
		return
	}
	p.Moved = append(p.Moved, key)
	c.moved += sizeOfKey(key)
	switch {
	case unknown != "":
		p.Lost = fmt.Sprintf("the key of a row of %[1]s changed, and the change does not carry %[2]q, which is part of the key by which the table is read: "+
			"give the table a primary key, or a replica identity with this column, and begin anew", p.Table, unknown)
	case c.moved > mostMoved:
		p.Lost = fmt.Sprintf("the keys of %d rows of %s changed before a chunk could read them once more, and no more are remembered: begin anew when they stay as they are", len(p.Moved), p.Table)
	}
	if p.Lost != "" {
		p.Moved = nil
	}
	c.dirty = true
	c.in.next.chunk = c
}

// movedKey returns the key of a row after an update, by the given columns,
// and whether it may have changed. unknown is a column whose value is not known.
func movedKey(u *Change, columns []string) (key [][]byte, unknown string, moved bool) {
	for _, name := range columns {
		var now, was Value
		i := u.Relation.Column(name)
		if i >= 0 {
			now = u.New[i]
		}
		if i >= 0 && u.Old != nil {
			was = u.Old[i]
		}
		switch {
		case now.State == Known:
			moved = moved || was.State != Known || string(was.Text) != string(now.Text)
			key = append(key, slices.Clone(now.Text))
		case was.State == Known: // it did not change
			key = append(key, slices.Clone(was.Text))
		default:
			moved = moved || i < 0
			unknown = name
		}
	}
	return key, unknown, moved
}

// Moved returns the keys of rows to read once more, of the table under way. Call
// it after Wait; once they are read, call ReadAgain with their number.
func (c *Chunk) Moved() [][][]byte {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return slices.Clone(c.progress.Moved)
}

// ReadAgain notes that the first n rows were read once more.
func (c *Chunk) ReadAgain(n int) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	for _, key := range c.progress.Moved[:n] {
		c.moved -= sizeOfKey(key)
	}
	c.progress.Moved = slices.Delete(c.progress.Moved, 0, n)
	c.place()
}

// NewChunk begins a chunk of the backfill in a snapshot with the given point,
// made at the given time (microseconds since the Unix epoch). rule is what the
// rows will be read for. The stream is kept from passing the point until the
// chunk is closed, also when it is not there yet: [Chunk.Wait] waits for that.
// The error is one of those above, and then the gate is open.
func (in *Ingest) NewChunk(b *Backfill, rule *Rule, point LSN, at int64) (*Chunk, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.passed(point) {
		return nil, errors.Join(ErrPointPassed, in.moveGate(0))
	}
	if in.ruleOf(b.Rule) != rule {
		return nil, errors.Join(ErrRuleChanged, in.moveGate(0))
	}
	if err := in.moveGate(point); err != nil {
		return nil, err
	}
	c := in.chunkOf(b)
	c.rule, c.at = rule, at
	if f := in.follows; f != nil && f.backfill == b.ID {
		c.progress.Moved, c.moved, c.progress.Lost = slices.Clone(f.progress.Moved), f.moved, f.progress.Lost
	}
	if why := c.progress.Lost; why != "" {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrRowsLost, why), in.moveGate(0))
	}
	in.follows = c
	if c.progress.Point != point {
		c.progress.Point, c.progress.Row, c.progress.Index = point, 0, 0
	}
	// The place just before the point: no commit record begins there, since records
	// begin at multiples of eight, and a transaction that commits at the point
	// itself comes after the chunk.
	c.id = IDFacts{
		SystemID: in.cfg.SystemID, CommitLSN: point - 1, ChangeLSN: point - 1, Kind: Read, XID: uint32(b.ID), CommitTime: b.CreatedAt,
	}
	return c, nil
}

// Rule returns the rule of the name that is in force, or nil.
func (in *Ingest) Rule(name string) *Rule {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.ruleOf(name)
}

func (in *Ingest) ruleOf(name string) *Rule {
	for _, r := range in.cfg.Rules.Rules() {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// Wait waits until the stream stands at the chunk's point.
func (c *Chunk) Wait(ctx context.Context) error {
	return c.in.await(ctx, func() (bool, error) { return c.in.standsAt(c.progress.Point), nil })
}

// Table begins or goes on with a table, which is read by the given columns.
func (c *Chunk) Table(table TableName, key []string) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	p := &c.progress
	if p.Table != table {
		p.After, p.Moved, c.moved = nil, nil, 0
	}
	p.Table, p.Key = table, key
}

// Read judges one row and adds what the rule makes of it to the log. key is the
// row's key as the next chunk will need it, nil for a row that is read once more.
// It waits while the log has no room.
func (c *Chunk) Read(ctx context.Context, rel *Relation, row Row, key [][]byte) error {
	in := c.in
	in.mu.Lock()
	for in.paused != "" || in.next.bytes >= chunkBytes {
		if in.room == nil {
			in.room = make(chan struct{})
		}
		room := in.room
		in.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
		in.mu.Lock()
	}
	defer in.mu.Unlock()
	if in.ruleOf(c.rule.Name) != c.rule {
		return ErrRuleChanged
	}
	p := &c.progress
	before := p.Index
	c.id.Ordinal = p.Row
	change := Change{Op: Read, Relation: rel, New: row, LSN: p.Point - 1, Ordinal: p.Row}
	in.reading = c.rule
	err := in.judge(&change, &c.id, c.at, &p.Index)
	if halted, ok := errors.AsType[*RuleFailedError](err); ok && halted.Times == 0 {
		return err // not judged: it does not count as read
	}
	p.Row++
	p.Rows++
	p.Events += int64(p.Index - before)
	if p.After == nil && key != nil {
		p.After = make([][]byte, len(key))
	}
	for i := range key {
		p.After[i] = append(p.After[i][:0], key[i]...)
	}
	c.place()
	if len(in.next.blocks) > 0 {
		in.kick()
	}
	return err
}

// place makes what the chunk has gathered part of the next append.
func (c *Chunk) place() {
	in := c.in
	c.dirty = true
	in.next.chunk = c
	in.next.head = in.next.tail
	if c.progress.Point > in.position() {
		in.next.lsn = c.progress.Point
	}
}

// EndTable notes that the table was read to its end, and with last that the
// backfill is done.
func (c *Chunk) EndTable(table TableName, last bool) {
	in := c.in
	in.mu.Lock()
	defer in.mu.Unlock()
	p := &c.progress
	p.Done = append(p.Done, table)
	p.Table, p.Key, p.After = TableName{}, nil, nil
	c.done = last
	c.place()
	if last {
		in.follows = nil
	}
}

// Close lets the stream pass, unless hold says that another chunk follows at the
// same point, and waits until what was read is durable. It returns the progress
// as it is then.
func (c *Chunk) Close(ctx context.Context, hold bool) (BackfillProgress, error) {
	in := c.in
	in.mu.Lock()
	var err error
	if !hold {
		err = in.moveGate(0)
	}
	in.kick()
	progress := c.progress.clone()
	in.mu.Unlock()
	if err != nil {
		return progress, err
	}
	err = in.await(ctx, func() (bool, error) { return !c.dirty && c.stored == c.handed, nil })
	if err != nil {
		return progress, fmt.Errorf("what was read last of backfill %d is not stored yet: %w", c.backfill, err)
	}
	return progress, nil
}

// update returns what the next append records, nil when there is nothing.
func (p *pending) update() *BackfillUpdate {
	c := p.chunk
	if c == nil {
		return nil
	}
	c.dirty = false
	c.handed++
	c.progress.At = time.Now().UnixMicro()
	return &BackfillUpdate{ID: c.backfill, Progress: c.progress.clone(), Done: c.done}
}
