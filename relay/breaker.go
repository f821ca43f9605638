package relay

import (
	"container/heap"
	"context"
	"time"
)

// breaker is what is known of an endpoint's health. An endpoint is down when
// no connection to it can be made, or downAfter attempts in a row failed. While
// it is down, retries keep their schedule and each probeInterval one delivery
// is tried as a probe; the first success ends it.
type breaker struct {
	failures  int // in a row
	down      bool
	since     int64
	nextProbe int64
	probes    int
	class     ErrorClass
	err       string
}

// suspect notes a failure and decides whether the endpoint is down.
func (ep *endpoint) suspect(out *Outcome, now int64) {
	h := &ep.health
	h.failures++
	h.class, h.err = out.Class, out.Err
	if h.down || !out.Class.Unreachable() && h.failures < downAfter {
		return
	}
	h.down, h.since = true, now
	h.nextProbe = now + probeInterval.Microseconds()
	ep.kickClock()
	ep.log.Warn("endpoint is down", "class", string(out.Class), "status", out.Status, "err", out.Err)
}

// recovered notes a success. After an outage what waits is tried at once,
// before its time and as a probe: what fails again goes back to its schedule,
// so that deliveries that always fail do not use up their attempts.
func (ep *endpoint) recovered(now int64) {
	h := &ep.health
	h.failures = 0
	if !h.down {
		return
	}
	h.down = false
	ep.pausedUntil = 0
	ep.log.Info("endpoint is back", "down_for", time.Duration(now-h.since)*time.Microsecond)
	if now-h.since >= probeInterval.Microseconds() {
		for len(ep.waiting) > 0 {
			it := heap.Pop(&ep.waiting).(*item)
			it.probe = it.attempts > 0
			ep.ready(it)
		}
	}
	ep.wakeAll()
}

func (ep *endpoint) kickClock() {
	select {
	case ep.clock <- struct{}{}:
	default:
	}
}

// runClock makes deliveries ready when they are due and looks after an
// endpoint that is down.
func (ep *endpoint) runClock(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, probe := ep.tick()
		if probe {
			ep.probe(ctx)
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-ep.clock:
		case <-ctx.Done():
			return
		}
		ep.mu.Lock()
		closing := ep.closing
		ep.mu.Unlock()
		if closing {
			return
		}
	}
}

// tick readies what is due and returns how long there is nothing more to do,
// and whether a probe is due.
func (ep *endpoint) tick() (wait time.Duration, probe bool) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	now := ep.d.now()
	ep.followClock(now)
	next := now + time.Minute.Microseconds()
	for len(ep.waiting) > 0 {
		it := ep.waiting[0]
		if it.nextAt > now {
			next = min(next, it.nextAt)
			break
		}
		heap.Pop(&ep.waiting)
		ep.ready(it)
	}
	if ep.pausedUntil > 0 {
		if ep.pausedUntil <= now {
			ep.pausedUntil = 0
			ep.wakeAll()
		} else {
			next = min(next, ep.pausedUntil)
		}
	}
	if h := &ep.health; h.down && ep.pausedUntil == 0 && ep.disabled == "" {
		if h.nextProbe <= now {
			h.nextProbe = now + probeInterval.Microseconds()
			probe = true
		}
		next = min(next, h.nextProbe)
	}
	return time.Duration(next-now) * time.Microsecond, probe
}

// probe looks whether an endpoint that is down is back. When its sink can tell
// by connecting, nothing is sent for it.
func (ep *endpoint) probe(ctx context.Context) {
	ep.mu.Lock()
	class := ep.health.class
	ep.mu.Unlock()
	if p, ok := ep.cfg.Sink.(Prober); ok && class.Unreachable() {
		ctx, cancel := context.WithTimeout(ctx, probeInterval)
		defer cancel()
		if p.Probe(ctx) != nil {
			return
		}
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.closing || !ep.health.down || ep.disabled != "" || ep.sending >= ep.maxInFlight() {
		return
	}
	it := ep.probeItem()
	if it == nil {
		if ep.sending+ep.replaying == 0 {
			// Nothing waits: the next event finds out.
			ep.recovered(ep.d.now())
		}
		return
	}
	it.probe = it.attempts > 0
	if it.again || it.cur.id.Replay > 0 {
		ep.replaying++
	} else {
		ep.sending++
	}
	ep.wg.Go(func() {
		ep.mu.Lock()
		defer ep.mu.Unlock()
		ep.attempt(it)
	})
}

// freshProbe is how often a probe is the first attempt of a delivery, so that
// deliveries that always fail cannot make a healthy endpoint look down for ever.
const freshProbe = 8

// probeItem takes a delivery that waits for its endpoint. One that has not been
// tried yet makes its first attempt; any other is tried before its time, which
// does not count.
func (ep *endpoint) probeItem() *item {
	ep.health.probes++
	switch {
	case ep.blocker == nil && ep.fresh.len() > 0 && ep.health.probes%freshProbe == 0:
		return ep.fresh.pop()
	case ep.blockerReady:
		ep.blockerReady = false
		return ep.blocker
	case ep.blocker != nil:
		if ep.blocker.due < 0 {
			return nil
		}
		return heap.Remove(&ep.waiting, ep.blocker.due).(*item)
	case ep.retries.len() > 0:
		return ep.retries.pop()
	case len(ep.waiting) > 0:
		for n := range ep.waiting {
			i := (n + ep.health.probes) % len(ep.waiting)
			if it := ep.waiting[i]; !it.again && it.cur.id.Replay == 0 {
				return heap.Remove(&ep.waiting, i).(*item)
			}
		}
	}
	if ep.fresh.len() > 0 {
		return ep.fresh.pop()
	}
	// What is outside the order promise comes last.
	if ep.replays.len() > 0 {
		return ep.replays.pop()
	}
	if len(ep.waiting) > 0 {
		return heap.Remove(&ep.waiting, ep.health.probes%len(ep.waiting)).(*item)
	}
	return nil
}
