package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrNotRunning says that the dispatcher does not run (any more).
var ErrNotRunning = errors.New("the dispatcher is not running")

// do runs f in Run's goroutine, where cursors may be added.
func (d *Dispatcher) do(ctx context.Context, f func(*running) error) error {
	done := make(chan error, 1)
	cmd := func(r *running) { done <- f(r) }
	select {
	case d.commands <- cmd:
		return <-done
	case <-d.ended:
		return ErrNotRunning
	case <-ctx.Done():
		return ErrNotRunning
	}
}

// Serves reports whether the endpoint is configured.
func (d *Dispatcher) Serves(id string) bool { return d.endpoint(id) != nil }

// Retry makes another attempt of a delivery that the ledger has just turned
// from dead to retrying. It is outside the order promise.
func (d *Dispatcher) Retry(o *OpenDelivery) error {
	ep := d.endpoint(o.Endpoint)
	if ep == nil {
		return fmt.Errorf("endpoint %s: %w", o.Endpoint, ErrNotFound)
	}
	d.reopening.Lock()
	defer d.reopening.Unlock()
	if ep.retry(o) {
		return nil
	}
	// Its replay was done. It has nothing to read, only what is open.
	ctx := context.Background()
	replays, err := d.cfg.Ledger.Replays(ctx)
	if err != nil {
		return fmt.Errorf("read the replays: %w", err)
	}
	for _, r := range replays {
		if o.Replay != 0 && r.ID == o.Replay {
			return d.addCursor(ctx, ep, o.CursorID, r.To, true, r.To)
		}
	}
	return fmt.Errorf("stream %s: %w", o.Stream, ErrNotFound)
}

// retry gives the delivery to its cursor and reports whether there is one.
func (ep *endpoint) retry(o *OpenDelivery) bool {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	for _, c := range ep.cursors {
		if c.id == o.CursorID {
			r := *o
			r.Again = true
			if c.open[o.Seq] == nil {
				c.restore(&r)
			}
			return true
		}
	}
	return false
}

// Replay delivers the events of a stream from one place to another again to
// the endpoint, or to every endpoint when r.Endpoint is "". It returns the
// replays it started.
func (d *Dispatcher) Replay(ctx context.Context, r Replay) ([]Replay, error) {
	var started []Replay
	err := d.do(ctx, func(run *running) error {
		for _, ep := range d.endpoints() {
			if r.Endpoint != "" && r.Endpoint != ep.cfg.ID {
				continue
			}
			one := r
			one.Endpoint, one.CreatedAt = ep.cfg.ID, d.now()
			if err := d.cfg.Ledger.StartReplay(ctx, &one); err != nil {
				return fmt.Errorf("start replay: %w", err)
			}
			id := CursorID{ep.cfg.ID, one.Stream, one.ID}
			if err := d.addCursor(ctx, ep, id, one.From-1, false, one.To); err != nil {
				return err
			}
			ep.mu.Lock()
			c := ep.cursors[len(ep.cursors)-1]
			ep.mu.Unlock()
			run.read(c)
			started = append(started, one)
		}
		if len(started) == 0 {
			return fmt.Errorf("endpoint %s: %w", r.Endpoint, ErrNotFound)
		}
		return nil
	})
	return started, err
}

// SetEnabled disables an endpoint, with a reason, or enables it again. What is
// open is held meanwhile and precedes what comes later.
func (d *Dispatcher) SetEnabled(ctx context.Context, id string, enabled bool, reason string) error {
	ep := d.endpoint(id)
	if ep == nil {
		return fmt.Errorf("endpoint %s: %w", id, ErrNotFound)
	}
	rows, err := d.cfg.Ledger.Endpoints(ctx)
	if err != nil {
		return fmt.Errorf("read the endpoints: %w", err)
	}
	i := slices.IndexFunc(rows, func(r EndpointRow) bool { return r.ID == id })
	if i < 0 {
		return fmt.Errorf("endpoint %s: %w", id, ErrNotFound)
	}
	row := rows[i]
	row.Status, row.Reason = EndpointActive, ""
	if !enabled {
		row.Status, row.Reason = EndpointDisabled, reason
	}
	if err := d.cfg.Ledger.PutEndpoint(ctx, &row); err != nil {
		return fmt.Errorf("write endpoint %s: %w", id, err)
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.disabled = row.Reason
	if enabled {
		ep.enable()
	}
	return nil
}

// enable lets the deliveries go that were held.
func (ep *endpoint) enable() {
	ep.disabled, ep.disabling, ep.pausedUntil = "", false, 0
	ep.kickClock()
	held := slices.Clone(ep.dirtyItems) // what the answer 410 to it holds is not open before it is recorded
	for _, c := range ep.cursors {
		held = slices.AppendSeq(held, maps.Values(c.open))
	}
	for _, it := range held {
		if it.state == itemHeld {
			it.nextAt = 0
			it.state = itemWaiting
			ep.markDirty(it)
			ep.activate(it)
		}
	}
	ep.touch()
	close(ep.room)
	ep.room = make(chan struct{})
	ep.wakeAll()
}

// RemoveVanished gives up what is held for an endpoint that is no longer
// configured, so that the log may let go of it. The caller cancels the rows of its
// open deliveries.
func (d *Dispatcher) RemoveVanished(ctx context.Context, id string) error {
	i := slices.IndexFunc(d.Vanished(), func(r EndpointRow) bool { return r.ID == id })
	if i < 0 {
		return fmt.Errorf("endpoint %s that is no longer in the configuration: %w", id, ErrNotFound)
	}
	rows, _, err := d.cfg.Ledger.Cursors(ctx)
	if err != nil {
		return fmt.Errorf("read the positions: %w", err)
	}
	s := &Settlement{}
	for _, c := range rows {
		if c.Endpoint == id {
			s.Current = append(s.Current, c.CursorID)
		}
	}
	if err := d.cfg.Ledger.Settle(ctx, s); err != nil {
		return fmt.Errorf("record positions: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, held := range d.held {
		delete(held, id)
	}
	return nil
}

// EndpointStatus is an endpoint as it is now.
type EndpointStatus struct {
	ID, Kind, Target string
	// Patterns are the event types it wants, CreatedAt is in microseconds since
	// the Unix epoch.
	Patterns  string
	CreatedAt int64
	// Disabled is why nothing is sent, or "".
	Disabled string
	// Down says since when (microseconds) the endpoint does not answer, 0 when
	// it does, and DownReason why.
	Down       int64
	DownReason string
	// PausedUntil is what the endpoint asked for with Retry-After, 0 when it
	// asked nothing.
	PausedUntil int64
	InFlight    int
	Retrying    int
	Held        int
	Cursors     []CursorStatus
	Stats       EndpointStats
}

// CursorStatus is a cursor as it is now.
type CursorStatus struct {
	CursorID
	// Position is as last recorded, Read how far the log has been read, Head how
	// far it goes.
	Position, Read, Head int64
	Done                 bool
}

// Status returns the endpoints by id.
func (d *Dispatcher) Status() []EndpointStatus {
	var out []EndpointStatus
	for _, ep := range d.endpoints() {
		ep.mu.Lock()
		s := EndpointStatus{
			ID: ep.cfg.ID, Kind: ep.cfg.Kind, Target: ep.cfg.Target, Disabled: ep.disabled,
			Patterns: ep.cfg.Events.String(), CreatedAt: ep.createdAt,
			PausedUntil: ep.pausedUntil, InFlight: ep.sending + ep.replaying, Stats: ep.stats,
		}
		s.Stats.Attempts = make(map[ErrorClass]int64, len(ep.stats.Attempts))
		for k, v := range ep.stats.Attempts {
			s.Stats.Attempts[k] = v
		}
		if ep.health.down {
			s.Down, s.DownReason = ep.health.since, ep.health.err
		}
		for _, c := range ep.cursors {
			for _, it := range c.open {
				switch {
				case it.state == itemHeld:
					s.Held++
				case it.attempts > 0:
					s.Retrying++
				}
			}
			head := d.cfg.Feed.Head(c.id.Stream)
			if c.end > 0 {
				head = c.end
			}
			s.Cursors = append(s.Cursors, CursorStatus{c.id, c.position, c.read, head, c.done})
		}
		ep.mu.Unlock()
		out = append(out, s)
	}
	return out
}

// Vanished returns the endpoints that the store knows and the configuration
// does not.
func (d *Dispatcher) Vanished() []EndpointRow {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.idle)
}

// Problem returns why outcomes cannot be recorded, or "".
func (d *Dispatcher) Problem() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.problem
}

// Expire makes every delivery of the stream up to the place that is not settled
// dead, so that the log can let go of its events, and records that. It returns
// how many it were.
func (d *Dispatcher) Expire(ctx context.Context, stream string, upTo int64) (int64, error) {
	var n int64
	for _, ep := range d.endpoints() {
		ep.mu.Lock()
		var cursors []*cursor
		for _, c := range ep.cursors {
			if c.id.Stream == stream {
				cursors = append(cursors, c)
			}
		}
		ep.mu.Unlock()
		for _, c := range cursors {
			m, err := c.expire(ctx, upTo)
			n += m
			if err != nil {
				return n, fmt.Errorf("expire deliveries of %s: %w", ep.cfg.ID, err)
			}
		}
		ep.touch()
	}
	err := d.do(ctx, func(*running) error {
		for _, row := range d.Vanished() {
			m, err := d.expireHeld(ctx, &row, stream, upTo)
			n += m
			if err != nil {
				return fmt.Errorf("expire deliveries held for %s: %w", row.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return n, err
	}
	return n, d.flush(ctx)
}

// expireHeld makes dead what is held for an endpoint that has vanished. It runs
// in Run's goroutine, so that the endpoint does not come back meanwhile.
func (d *Dispatcher) expireHeld(ctx context.Context, row *EndpointRow, stream string, upTo int64) (int64, error) {
	_, at, _, err := d.positions(ctx)
	if err != nil {
		return 0, err
	}
	id := CursorID{Endpoint: row.ID, Stream: stream}
	pos, ok := at[id]
	if !ok { // it was given up, or the stream is younger
		return 0, nil
	}
	ep := newEndpoint(d, &Endpoint{ID: row.ID}, row)
	ep.retired = true
	if err := d.addCursor(ctx, ep, id, pos, true, 0); err != nil {
		return 0, err
	}
	n, err := ep.cursors[0].expire(ctx, upTo)
	if err != nil {
		return 0, err
	}
	s := &Settlement{}
	d.mu.Lock() // the recorder writes what plan reads of d
	ep.plan(s, d, d.now())
	d.mu.Unlock()
	if err := d.cfg.Ledger.Settle(ctx, s); err != nil {
		return 0, fmt.Errorf("record what is dead: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, held := d.held[stream][row.ID]; held {
		d.held[stream][row.ID] = ep.cursors[0].position
	}
	return n, nil
}

// flush waits until everything that has happened is recorded.
func (d *Dispatcher) flush(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case d.flushes <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// expire makes the cursor's deliveries up to the place dead. Attempts under way
// go on; what they bring is recorded.
func (c *cursor) expire(ctx context.Context, upTo int64) (int64, error) {
	out := Outcome{Result: Rejected, Class: ErrExpired, Err: "the log was full and this was among its oldest deliveries (on_full = \"expire\")"}
	var n int64
	for {
		read := c.place()
		if read >= upTo {
			break
		}
		blocks, err := c.ep.d.cfg.Ledger.Blocks(ctx, c.id.Stream, read, windowBytes/8)
		if err != nil {
			return n, err
		}
		c.ep.mu.Lock()
		if len(blocks) == 0 {
			c.read = max(c.read, upTo)
		}
		for _, b := range blocks {
			r := b.Reader()
			for e := (Event{}); r.Next(&e) && e.Seq <= upTo; {
				if e.Seq <= c.read {
					continue
				}
				c.read = e.Seq
				if c.known[e.Seq] {
					delete(c.known, e.Seq)
					continue
				}
				if c.wanted(&e) {
					c.push(&e)
				}
			}
			if r.Err() == nil {
				c.read = max(c.read, min(b.Last, upTo))
			}
		}
		n += c.killTo(upTo, &out)
		c.ep.mu.Unlock()
	}
	c.ep.mu.Lock()
	defer c.ep.mu.Unlock()
	return n + c.killTo(upTo, &out), nil
}

// killTo makes the deliveries in memory up to the place dead.
func (c *cursor) killTo(upTo int64, out *Outcome) int64 {
	var items []*item
	for i := range c.window.len() {
		if it := c.window.items[c.window.head+i]; it.event.Seq <= upTo && !it.row {
			items = append(items, it)
		}
	}
	for _, it := range c.open {
		if it.event.Seq <= upTo {
			items = append(items, it)
		}
	}
	slices.SortFunc(items, func(a, b *item) int { return int(a.event.Seq - b.event.Seq) })
	var n int64
	for _, it := range items {
		if it.state == itemSettled || it.state == itemDead || it.state == itemSending {
			continue
		}
		c.ep.kill(it, out)
		n++
	}
	return n
}
