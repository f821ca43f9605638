package webhook

import (
	"context"
	"sync"
	"time"
)

const (
	// idleTimeout is how long a connection waits for its next attempt.
	idleTimeout = 90 * time.Second
	// maxAge is how long a connection is used, so that a receiver whose name has
	// moved to another address gets the events there within minutes, although
	// the old address still answers.
	maxAge = 5 * time.Minute
	// maxWatches is how many contexts are watched before those without an
	// attempt are looked for.
	maxWatches = 16
)

// pool holds the connections of a sink: those that are kept, and those with an
// attempt under way, which a cancelled context must be able to wake.
//
// Attempts commonly share one context. It is therefore watched once, and not
// once an attempt, which would cost several allocations each.
type pool struct {
	mu     sync.Mutex
	keep   int
	idle   []*conn // the longest waiting first
	busy   []*conn // conn.slot is its index
	reaper *time.Timer
	closed bool

	last    <-chan struct{} // the context of the last attempt
	watches map[<-chan struct{}]func() bool
}

// take returns the kept connection that waited least, or nil.
func (p *pool) take(ctx context.Context) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle) - 1
	if n < 0 {
		return nil
	}
	c := p.idle[n]
	p.idle[n] = nil
	p.idle = p.idle[:n]
	p.begin(ctx, c)
	return c
}

// add takes in a new connection, for an attempt.
func (p *pool) add(ctx context.Context, c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(ctx, c)
}

// begin makes a connection busy. From then on the end of ctx sets its deadline
// into the past; an end before that is for the caller to see, after it has set
// the deadline of its own.
func (p *pool) begin(ctx context.Context, c *conn) {
	c.slot, c.done = len(p.busy), ctx.Done()
	p.busy = append(p.busy, c)
	if c.done == p.last || c.done == nil {
		return
	}
	p.last = c.done
	if _, ok := p.watches[c.done]; ok {
		return
	}
	if len(p.watches) >= maxWatches {
		p.prune()
	}
	if p.watches == nil {
		p.watches = map[<-chan struct{}]func() bool{}
	}
	done := c.done
	p.watches[done] = context.AfterFunc(ctx, func() { p.cut(done) })
}

// prune forgets the contexts without an attempt. The caller holds mu.
func (p *pool) prune() {
	used := make(map[<-chan struct{}]bool, len(p.busy))
	for _, c := range p.busy {
		used[c.done] = true
	}
	for done, stop := range p.watches {
		if !used[done] {
			stop()
			delete(p.watches, done)
		}
	}
}

// cut ends the attempts of a context that has ended.
func (p *pool) cut(done <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watches, done)
	if p.last == done {
		p.last = nil
	}
	past := time.Unix(1, 0)
	for _, c := range p.busy {
		if c.done == done {
			c.nc.SetDeadline(past) //nolint:errcheck // it fails on a closed connection, which needs none
		}
	}
}

// end takes a connection out of the busy ones. The caller holds mu.
func (p *pool) end(c *conn) {
	n := len(p.busy) - 1
	p.busy[c.slot] = p.busy[n]
	p.busy[c.slot].slot = c.slot
	p.busy[n] = nil
	p.busy = p.busy[:n]
	c.done = nil
}

// put keeps a busy connection for the next attempt, or closes it when there are
// enough of them.
func (p *pool) put(c *conn, now time.Time) {
	c.trim()
	c.idleSince = now
	p.mu.Lock()
	p.end(c)
	if p.closed || len(p.idle) >= p.keep || now.Sub(c.born) > maxAge {
		p.mu.Unlock()
		c.nc.Close()
		return
	}
	p.idle = append(p.idle, c)
	if p.reaper == nil {
		p.reaper = time.AfterFunc(idleTimeout, p.reap)
	}
	p.mu.Unlock()
}

// drop closes a busy connection.
func (p *pool) drop(c *conn) {
	p.mu.Lock()
	p.end(c)
	p.mu.Unlock()
	c.nc.Close()
}

// reap closes the connections that have waited too long, and comes again while
// there are others.
func (p *pool) reap() {
	p.mu.Lock()
	now := time.Now()
	n := 0
	for n < len(p.idle) && now.Sub(p.idle[n].idleSince) >= idleTimeout {
		n++
	}
	old := append([]*conn(nil), p.idle[:n]...)
	p.idle = append(p.idle[:0], p.idle[n:]...)
	clear(p.idle[len(p.idle):cap(p.idle)])
	p.reaper = nil
	if len(p.idle) > 0 {
		p.reaper = time.AfterFunc(p.idle[0].idleSince.Add(idleTimeout).Sub(now), p.reap)
	}
	p.mu.Unlock()
	for _, c := range old {
		c.nc.Close()
	}
}

// close closes the kept connections and keeps none from now on.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	if p.reaper != nil {
		p.reaper.Stop()
		p.reaper = nil
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.nc.Close()
	}
}
