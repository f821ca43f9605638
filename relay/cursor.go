package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// windowItems bounds the deliveries of one cursor that are read and not yet
	// passed, windowBytes their blocks.
	windowItems = 4096
	windowBytes = 2 << 20
	// openItems bounds the open deliveries of one endpoint in memory. An
	// endpoint with more of them reads no further until some are settled.
	openItems = 10000
	// slowMicros is how long an attempt may be under way before its delivery
	// gets a row, so that the position can pass it.
	slowMicros = int64(time.Second / time.Microsecond)
)

// cursor is one pass of an endpoint over a stream. The endpoint's mutex guards
// it. Everything at or below position is settled or has an open row; what is
// between position and read stands in the window.
type cursor struct {
	id    CursorID
	ep    *endpoint
	end   int64 // last place of a replay, 0 for the live cursor
	lanes laneSet

	position int64 // as last handed to the store
	rowAt    int64 // position of the row in the store, -1 when there is none
	read     int64 // everything up to here has been taken from the log
	window   queue
	bytes    int             // of the events in the window
	known    map[int64]bool  // places after position that were settled or open at start
	open     map[int64]*item // deliveries with a row, by place
	success  []Success
	wants    map[wantKey]bool
	done     bool
}

type wantKey struct {
	version int
	typ     string
	typeVer int
}

// wanted reports whether the endpoint wants the event: whether the version of
// the endpoint that is in force at its place matches it. A replay asks for what
// the endpoint wants now.
func (c *cursor) wanted(e *Event) bool {
	vs := c.ep.versions
	v := len(vs) - 1
	if c.id.Replay == 0 {
		for v >= 0 && e.Seq <= vs[v].After[c.id.Stream] {
			v--
		}
	}
	if v < 0 {
		return false
	}
	k := wantKey{v, e.Type, e.Version}
	w, ok := c.wants[k]
	if !ok {
		w = vs[v].patterns.Match(e.Type, e.Version)
		c.wants[k] = w
	}
	return w
}

// full reports whether the cursor has to wait before it reads on.
func (c *cursor) full() bool {
	return c.window.len() >= windowItems || c.bytes >= windowBytes || len(c.open) >= openItems || c.ep.disabled != ""
}

// run reads the log and fills the window until ctx is done, or, for a replay,
// until its end.
func (c *cursor) run(ctx context.Context) error {
	retry := backoff.NewExponentialBackOff()
	retry.MaxElapsedTime, retry.MaxInterval = 0, 5*time.Second
	for {
		if !c.waitRoom(ctx) {
			return nil
		}
		read := c.place()
		if c.end > 0 && read >= c.end {
			return nil
		}
		blocks, head, wake := c.ep.d.cfg.Feed.After(c.id.Stream, read)
		if len(blocks) == 0 && head > read {
			var err error
			blocks, err = c.ep.d.cfg.Ledger.Blocks(ctx, c.id.Stream, read, windowBytes/8)
			if err != nil {
				if ctx.Err() != nil {
					return nil //nolint:nilerr // told to stop
				}
				c.ep.log.Error("log cannot be read", "stream", c.id.Stream, "err", err)
				if !pause(ctx, retry.NextBackOff()) {
					return nil
				}
				continue
			}
			retry.Reset()
			if len(blocks) == 0 {
				// Nothing is left in the log up to the head.
				c.advance(head)
				continue
			}
		}
		if len(blocks) == 0 {
			select {
			case <-wake:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		for _, b := range blocks {
			if err := c.take(ctx, b); err != nil || ctx.Err() != nil {
				return err
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// waitRoom waits until the cursor may read on; false when ctx is done.
func (c *cursor) waitRoom(ctx context.Context) bool {
	for {
		c.ep.mu.Lock()
		full := c.full()
		room := c.ep.room
		c.ep.mu.Unlock()
		if !full {
			return ctx.Err() == nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return false
		}
	}
}

// place returns how far the log was read, which Expire moves as well.
func (c *cursor) place() int64 {
	c.ep.mu.Lock()
	defer c.ep.mu.Unlock()
	return c.read
}

func (c *cursor) advance(to int64) {
	c.ep.mu.Lock()
	defer c.ep.mu.Unlock()
	c.read = max(c.read, to)
	c.ep.touch()
}

// take puts the events of the block that the endpoint wants into the window,
// waiting for room where there is none.
func (c *cursor) take(ctx context.Context, b *Block) error {
	const atOnce = 32
	r := b.Reader()
	var e Event
	wanted := 0
	more := true
	for more {
		if !c.waitRoom(ctx) {
			return nil
		}
		c.ep.mu.Lock()
		for range atOnce {
			if more = r.Next(&e); !more {
				break
			}
			if e.Seq <= c.read {
				continue
			}
			if c.end > 0 && e.Seq > c.end {
				more = false
				break
			}
			c.read = e.Seq
			if c.known[e.Seq] {
				delete(c.known, e.Seq)
				continue
			}
			if c.wanted(&e) {
				// An event points into its block. A few events must not keep a
				// whole block in memory.
				if wanted++; wanted*8 <= b.Count {
					e.detach()
				}
				c.push(&e)
			}
		}
		if !more && r.Err() == nil {
			c.read = max(c.read, b.Last)
			if c.end > 0 {
				c.read = min(c.read, c.end)
			}
		}
		c.ep.touch()
		c.ep.mu.Unlock()
	}
	if err := r.Err(); err != nil {
		return fmt.Errorf("read the log of stream %s: %w", c.id.Stream, err)
	}
	return nil
}

// detach makes the event independent of the block it was read from.
func (e *Event) detach() {
	all := make([]byte, 0, len(e.Data)+len(e.Key)+len(e.OldKey)+len(e.Tenant))
	for _, b := range []*[]byte{&e.Key, &e.OldKey, &e.Tenant, &e.Data} {
		if *b != nil {
			n := len(all)
			all = append(all, *b...)
			*b = all[n:len(all):len(all)]
		}
	}
}

// push adds a delivery of e at the end of the window.
func (c *cursor) push(e *Event) {
	it := c.ep.newItem()
	it.cur, it.event, it.loaded, it.due = c, *e, true, -1
	it.hash = c.hashes(e)
	c.window.push(it)
	it.bytes = len(e.Data) + 256
	c.bytes += it.bytes
	c.enlist(it)
}

// hashes returns the lanes of the event under the endpoint's order.
func (c *cursor) hashes(e *Event) [2]uint64 {
	switch c.ep.cfg.Order {
	case OrderStrict:
		return [2]uint64{1, 0}
	case OrderNone:
		return [2]uint64{}
	}
	var h [2]uint64
	if e.HasKey {
		h[0] = laneHash(e.Key)
	}
	if e.OldKey != nil {
		h[1] = laneHash(e.OldKey)
	}
	return h
}

func (c *cursor) enlist(it *item) {
	if c.ep.cfg.Order != OrderNone {
		c.lanes.add(it)
	}
	if it.waits == 0 {
		c.ep.activate(it)
	}
}

// restore adds the delivery of an open row found at start.
func (c *cursor) restore(o *OpenDelivery) {
	it := c.ep.newItem()
	it.cur, it.due, it.row = c, -1, true
	it.event = Event{ID: o.EventID, Seq: o.Seq, Stream: o.Stream, Type: o.Type, Table: o.Table, Barrier: o.Barrier}
	it.attempts, it.nextAt, it.again = o.Attempts, o.NextAt, o.Again
	it.hash = [2]uint64{o.Lane, o.OldLane}
	it.outcome = Outcome{Class: o.LastClass, Status: o.LastStatus, Err: o.LastError}
	c.open[o.Seq] = it
	if o.Seq > c.position {
		c.known[o.Seq] = true
	}
	if o.Again || c.ep.cfg.OnFailure == Park && o.Attempts > 0 {
		it.state = itemReleased
		c.ep.activate(it)
		return
	}
	if c.ep.cfg.OnFailure == BlockEndpoint && o.Attempts > 0 && c.id.Replay == 0 {
		c.ep.block(it)
	}
	c.enlist(it)
}

// openRow returns the item's row.
func (it *item) openRow(now int64) OpenDelivery {
	e := &it.event
	o := OpenDelivery{
		CursorID: it.cur.id, Seq: e.Seq, EventID: e.ID, Type: e.Type, State: StatePending,
		Attempts: it.attempts, Lane: it.hash[0], OldLane: it.hash[1], Table: e.Table, Barrier: e.Barrier,
		Again: it.again, LastClass: it.outcome.Class, LastStatus: it.outcome.Status, LastError: it.outcome.Err,
		UpdatedAt: now,
	}
	switch {
	case it.state == itemDead:
		o.State = StateDead
	case it.state == itemHeld:
		o.State = StateHeld
	case it.attempts > 0:
		o.State, o.NextAt = StateRetrying, max(it.nextAt, 1)
	}
	return o
}

// pushOut reports whether the first delivery of the window holds the position
// up for longer than it should and gets a row: its attempt is slow, or it
// waits behind a delivery that has a row.
func (it *item) pushOut(now int64) bool {
	if it.state == itemSending {
		return now-it.started > slowMicros
	}
	// What stands before the window has a row, so that is what it waits for.
	return it.waits > 0
}

// plan adds what the cursor has to record to s. routed is how far cursors
// without a row are taken to be.
func (c *cursor) plan(s *Settlement, routed, now int64) {
	for c.window.len() > 0 {
		it := c.window.front()
		switch {
		case it.state == itemSettled || it.row:
		case it.pushOut(now) && len(c.open) < openItems:
			it.row = true
			c.open[it.event.Seq] = it
			s.Put = append(s.Put, it.openRow(now))
			if it.state == itemWaiting {
				it.unload()
			}
		default:
			goto planned
		}
		c.window.pop()
		c.bytes -= it.bytes
		if it.state == itemSettled {
			c.ep.free(it)
		}
	}
planned:
	pos := c.read
	if c.window.len() > 0 {
		pos = c.window.front().event.Seq - 1
	}
	c.position = pos
	if !c.ep.retired && c.id.Replay == 0 && c.window.len() == 0 && pos >= routed {
		if c.rowAt >= 0 {
			s.Current = append(s.Current, c.id)
			c.rowAt = -1
		}
	} else if c.rowAt != pos {
		s.Cursors = append(s.Cursors, CursorState{c.id, pos})
		c.rowAt = pos
	}
	if len(c.success) > 0 {
		s.Successes = append(s.Successes, SuccessBatch{c.id, c.success})
		c.success = nil
	}
	if c.end > 0 && !c.done && c.read >= c.end && c.window.len() == 0 && len(c.open) == 0 {
		c.done = true
		s.FinishedReplays = append(s.FinishedReplays, c.id.Replay)
	}
}

// unload gives up the event's data; what the lanes and the row need stays.
func (it *item) unload() {
	it.loaded = false
	it.event.Data, it.event.Key, it.event.OldKey, it.event.Tenant, it.event.Unchanged = nil, nil, nil, nil, nil
}

// settledTo returns the place up to which nothing is pending, retrying or held
// and everything is recorded.
func (c *cursor) settledTo(recorded int64) int64 {
	to := recorded
	for seq := range c.open {
		to = min(to, seq-1)
	}
	return to
}
