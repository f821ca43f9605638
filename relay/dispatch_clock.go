package relay

import "time"

// leastSetBack is how far the clock is set back before that matters.
const leastSetBack = int64(time.Second / time.Microsecond)

// now returns the wall clock in microseconds since the Unix epoch.
func (d *Dispatcher) now() int64 { return d.cfg.Now().UnixMicro() }

// followClock notices that the wall clock was set back, which the time that
// passed tells, and moves what is due along: else it would wait for the clock to
// be there again. A clock that is set forward only makes it due earlier.
func (ep *endpoint) followClock(now int64) {
	offset := now - time.Since(ep.d.began).Microseconds()
	back := ep.offset - offset
	switch {
	case back <= 0:
		ep.offset = offset
		return
	case back < leastSetBack:
		return
	}
	ep.offset = offset
	ep.log.Warn("the clock was set back", "by", time.Duration(back)*time.Microsecond)
	for _, it := range ep.waiting { // they stay in order
		it.nextAt -= back
		ep.markDirty(it)
	}
	for _, c := range ep.cursors {
		for i := range c.window.len() {
			c.window.items[c.window.head+i].started -= back
		}
	}
	if ep.pausedUntil > 0 {
		ep.pausedUntil -= back
	}
	ep.health.since -= back
	ep.health.nextProbe -= back
	ep.touch()
}
