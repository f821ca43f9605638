package relay

import (
	"container/heap"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	defaultInFlight = 64
	// probeInterval is how often an endpoint that is down is looked at, so that
	// deliveries follow soon after its return.
	probeInterval = time.Second
	// downAfter is how many failures in a row make an endpoint count as down
	// when it can be connected to.
	downAfter = 10
)

// endpoint is an Endpoint at work: its cursors, its workers, and what is known
// of its health.
type endpoint struct {
	d         *Dispatcher
	cfg       *Endpoint
	log       *slog.Logger
	versions  []parsedVersion
	createdAt int64
	wg        sync.WaitGroup  // of the workers
	ctx       context.Context //nolint:containedctx // the workers' lifetime, set once by start
	cut       context.CancelFunc
	readers   sync.WaitGroup
	// reading is the lifetime of the readers.
	reading     context.Context //nolint:containedctx // set once by launch
	stopReading context.CancelFunc

	mu      sync.Mutex
	idle    *sync.Cond // a worker may have something to do
	room    chan struct{}
	cursors []*cursor
	fresh   queue     // ready, first attempt
	retries queue     // ready, further attempts
	replays queue     // ready, outside the order promise
	waiting retryHeap // due later
	clock   chan struct{}

	workers, parked int // parked counts those that nobody has woken yet
	sending         int // attempts under way, of live deliveries
	replaying       int // and of the others
	closing         bool
	retired         bool   // it goes: its positions get rows of their own
	disabled        string // why nothing is sent, or ""
	disabling       bool   // not yet recorded
	blocker         *item  // on_failure = block_endpoint: what everything waits for
	blockerReady    bool
	failing         []*item // all that block it, the blocker is one of them
	pausedUntil     int64   // Retry-After, microseconds
	unrecorded      int
	dirtyItems      []*item
	attempts        []Attempt
	pool            []*item

	offset int64 // of the wall clock to the time since the beginning, as last seen
	health breaker
	stats  EndpointStats
}

type parsedVersion struct {
	EndpointVersion
	patterns Patterns
}

// EndpointStats counts since the process began. Times are in microseconds since
// the Unix epoch.
type EndpointStats struct {
	Delivered, Dead, Retries int64
	Attempts                 map[ErrorClass]int64
	LastSuccess, LastFailure int64
	LastError                string
	// Latency counts deliveries by the time from commit to success; see
	// LatencyBuckets. LatencySum is in microseconds.
	Latency    [len(latencyBuckets) + 1]int64
	LatencySum int64
}

var latencyBuckets = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second,
	2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 24 * time.Hour,
}

// LatencyBuckets are the upper bounds of EndpointStats.Latency; its last entry
// counts what is longer than all of them.
func LatencyBuckets() []time.Duration { return latencyBuckets[:] }

func newEndpoint(d *Dispatcher, e *Endpoint, row *EndpointRow) *endpoint {
	ep := &endpoint{
		d: d, cfg: e, log: d.cfg.Logger.With("endpoint", e.ID),
		room: make(chan struct{}), clock: make(chan struct{}, 1),
		stats: EndpointStats{Attempts: map[ErrorClass]int64{}},
	}
	ep.createdAt = row.CreatedAt
	ep.idle = sync.NewCond(&ep.mu)
	for _, v := range row.Versions {
		pv := parsedVersion{EndpointVersion: v}
		if v.Patterns != "" {
			// What is in the store was valid when it was written.
			pv.patterns, _ = ParsePatterns(strings.Split(v.Patterns, ","))
		}
		ep.versions = append(ep.versions, pv)
	}
	if row.Status == EndpointDisabled {
		ep.disabled = row.Reason
		if ep.disabled == "" {
			ep.disabled = "disabled"
		}
	}
	return ep
}

func (ep *endpoint) maxInFlight() int { return orDefault(ep.cfg.MaxInFlight, defaultInFlight) }

func (ep *endpoint) newItem() *item {
	if n := len(ep.pool); n > 0 {
		it := ep.pool[n-1]
		ep.pool = ep.pool[:n-1]
		return it
	}
	return new(item)
}

func (ep *endpoint) free(it *item) {
	*it = item{}
	if len(ep.pool) < windowItems {
		ep.pool = append(ep.pool, it)
	}
}

func (ep *endpoint) start(ctx context.Context) {
	ep.mu.Lock()
	ep.ctx = ctx
	ep.mu.Unlock()
	ep.wg.Go(func() { ep.runClock(ctx) })
	ep.mu.Lock()
	for range min(ep.fresh.len()+ep.retries.len()+ep.replays.len(), ep.maxInFlight()) {
		ep.wakeWorker()
	}
	ep.mu.Unlock()
}

// close lets the workers end after the attempts under way.
func (ep *endpoint) close() {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.closing = true
	ep.wakeAll()
	ep.kickClock()
}

// touch says that there is something to record.
func (ep *endpoint) touch() {
	if !ep.d.dirty.Load() {
		ep.d.dirty.Store(true)
	}
}

// activate puts an item that waits for no other where its time says.
func (ep *endpoint) activate(it *item) {
	if it.state == itemDead {
		it.cur.lanes.remove(it, ep.activate)
		return
	}
	if it.nextAt > ep.d.now() {
		if it.state != itemReleased {
			it.state = itemWaiting
		}
		heap.Push(&ep.waiting, it)
		if it.due == 0 {
			ep.kickClock()
		}
		return
	}
	ep.ready(it)
}

func (ep *endpoint) ready(it *item) {
	released := it.state == itemReleased
	if !released {
		it.state = itemReady
	}
	switch {
	case it == ep.blocker:
		ep.blockerReady = true
	case it.again || it.cur.id.Replay > 0:
		ep.replays.push(it)
	case it.attempts > 0:
		ep.retries.push(it)
	default:
		ep.fresh.push(it)
	}
	ep.wakeWorker()
}

func (ep *endpoint) wakeWorker() {
	switch {
	case ep.ctx == nil || ep.closing:
	case ep.parked > 0:
		ep.parked--
		ep.idle.Signal()
	case ep.workers < ep.maxInFlight()+ep.replayShare():
		ep.workers++
		ep.wg.Go(ep.work)
	}
}

// wakeAll wakes every worker, and makes as many more as there is work for.
func (ep *endpoint) wakeAll() {
	ep.parked = 0
	ep.idle.Broadcast()
	for range min(ep.fresh.len()+ep.retries.len()+ep.replays.len(), ep.maxInFlight()) - ep.workers {
		ep.wakeWorker()
	}
}

// replayShare is how many attempts outside the order promise may be under way
// beside the live ones.
func (ep *endpoint) replayShare() int { return max(ep.maxInFlight()/8, 1) }

// downShare is how many attempts may be under way by their schedule at an
// endpoint that is down. The others are for probes: an endpoint that swallows
// every attempt until its deadline would not be looked at before that.
func (ep *endpoint) downShare() int { return max(ep.maxInFlight()/2, 1) }

// pick returns the next delivery to attempt, or nil when there is none that
// may be sent now.
func (ep *endpoint) pick() *item {
	switch {
	case ep.closing, ep.disabled != "", ep.unrecorded+ep.sending+ep.replaying >= recordMax:
		return nil
	case ep.pausedUntil > 0 && ep.pausedUntil > ep.d.now():
		return nil
	}
	live := ep.sending < ep.maxInFlight()
	if live && ep.blockerReady {
		ep.blockerReady = false
		ep.sending++
		return ep.blocker
	}
	live = live && ep.blocker == nil
	if live && ep.retries.len() > 0 && (!ep.health.down || ep.sending < ep.downShare()) {
		ep.sending++
		return ep.retries.pop()
	}
	if live && ep.fresh.len() > 0 && !ep.health.down {
		ep.sending++
		return ep.fresh.pop()
	}
	if ep.replays.len() > 0 && ep.replaying < ep.replayShare() && !ep.health.down {
		ep.replaying++
		return ep.replays.pop()
	}
	return nil
}

// work is one worker: it makes one attempt after the other.
func (ep *endpoint) work() {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	for {
		it := ep.pick()
		if it == nil {
			if ep.closing {
				ep.workers--
				return
			}
			ep.parked++
			ep.idle.Wait() // who wakes it counts it out
			continue
		}
		ep.attempt(it)
	}
}

// attempt makes one attempt with the lock given up while it lasts.
func (ep *endpoint) attempt(it *item) {
	released := it.state == itemReleased
	if !released {
		it.state = itemSending
	}
	it.started = ep.d.now()
	n := it.attempts + 1
	replay := it.again || it.cur.id.Replay > 0
	ep.mu.Unlock()
	out := ep.send(it, n, replay || released)
	ep.mu.Lock()
	if replay {
		ep.replaying--
	} else {
		ep.sending--
	}
	ep.finish(it, out, released)
}

// send loads the event if need be and sends it.
func (ep *endpoint) send(it *item, attempt int, outside bool) Outcome {
	e := &it.event
	if !it.loaded {
		loaded, err := ep.load(it)
		for err != nil {
			ep.log.Error("log cannot be read", "event_id", e.ID, "err", err)
			if !pause(ep.ctx, time.Second) {
				return Outcome{Result: Cut, Class: ErrShutdown}
			}
			loaded, err = ep.load(it)
		}
		if loaded == nil {
			return Outcome{Result: Rejected, Class: ErrPayload, Err: "the event is no longer in the log"}
		}
		e = loaded
	}
	d := Delivery{Event: e, Attempt: attempt, Replay: outside}
	began := time.Now()
	out := ep.cfg.Sink.Send(ep.ctx, &d)
	if out.Duration == 0 {
		out.Duration = time.Since(began)
	}
	return out
}

// load reads the item's event from the log; nil when it is not there any more.
func (ep *endpoint) load(it *item) (*Event, error) {
	blocks, err := ep.d.cfg.Ledger.Blocks(ep.ctx, it.cur.id.Stream, it.event.Seq-1, 1)
	if err != nil || len(blocks) == 0 {
		return nil, err
	}
	r := blocks[0].Reader()
	for e := (Event{}); r.Next(&e); {
		if e.Seq == it.event.Seq {
			return &e, nil
		}
	}
	return nil, r.Err()
}

// finish does what the outcome of an attempt asks for.
func (ep *endpoint) finish(it *item, out Outcome, released bool) {
	now := ep.d.now()
	probe := it.probe
	it.probe = false
	if out.Result == Cut {
		// An attempt cut by our own shutdown is not a failed one.
		if !released {
			it.state = itemReady
		}
		return
	}
	ep.stats.Attempts[out.Class]++
	if probe && out.Result == Failed {
		ep.suspect(&out, now)
		if it.nextAt > now {
			ep.activate(it)
			ep.kickClock()
			ep.wakeNext()
			return
		}
		// Its time came meanwhile: this was the attempt.
	}
	it.attempts++
	it.outcome = out
	it.outcome.Response = nil
	ep.unrecorded++
	ep.touch()
	if out.Result == Delivered {
		ep.delivered(it, &out, now, released)
	} else {
		ep.failed(it, &out, now, released)
	}
	if ep.unrecorded >= recordAt {
		ep.d.kickRecord()
	}
	ep.wakeNext()
}

// wakeNext wakes a worker when more may be sent than the calling worker takes
// next by itself.
func (ep *endpoint) wakeNext() {
	if ep.fresh.len()+ep.retries.len()+ep.replays.len() > 1 && ep.parked > 0 {
		ep.wakeWorker()
	}
}

func (d *Dispatcher) kickRecord() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

func (ep *endpoint) delivered(it *item, out *Outcome, now int64, released bool) {
	ep.stats.Delivered++
	ep.stats.LastSuccess = now
	if it.event.Time > 0 && !it.again && it.cur.id.Replay == 0 {
		ep.stats.observe(now - it.event.Time)
	}
	ep.recovered(now)
	c := it.cur
	c.success = append(c.success, Success{Seq: it.event.Seq, Attempts: it.attempts, At: now, Duration: out.Duration, Status: out.Status})
	if it.attempts > 1 || it.row {
		ep.record(it, out)
	}
	it.state = itemSettled
	if it.row {
		ep.markDirty(it)
	}
	ep.unblock(it, released)
}

func (s *EndpointStats) observe(micros int64) {
	s.LatencySum += micros
	for i, b := range latencyBuckets {
		if micros <= b.Microseconds() {
			s.Latency[i]++
			return
		}
	}
	s.Latency[len(latencyBuckets)]++
}

func (ep *endpoint) failed(it *item, out *Outcome, now int64, released bool) {
	ep.stats.LastFailure, ep.stats.LastError = now, out.Err
	ep.record(it, out)
	ep.markDirty(it)
	it.unload()
	if out.Result == Gone {
		it.state = itemHeld
		it.attempts--
		ep.disabled = "the endpoint answered 410 Gone"
		ep.disabling = true
		ep.log.Warn("endpoint is disabled, its deliveries are held", "reason", ep.disabled, "event_id", it.event.ID)
		return
	}
	if out.Result == Failed {
		ep.suspect(out, now)
	}
	delay, again := ep.cfg.Retry.Delay(it.attempts, out.RetryAfter)
	if out.Result == Rejected || !again {
		it.state = itemDead
		ep.stats.Dead++
		ep.log.Warn("delivery is dead", "event_id", it.event.ID, "attempt", it.attempts, "status", out.Status, "class", string(out.Class), "err", out.Err)
		ep.unblock(it, released)
		return
	}
	ep.stats.Retries++
	it.nextAt = now + delay.Microseconds()
	if out.RetryAfter > 0 {
		ep.pausedUntil = max(ep.pausedUntil, now+out.RetryAfter.Microseconds())
	}
	ep.log.Debug("attempt failed", "event_id", it.event.ID, "attempt", it.attempts, "status", out.Status, "class", string(out.Class), "err", out.Err, "next", delay)
	switch {
	case released || it.again:
		it.state = itemReleased
	case ep.cfg.OnFailure == Park:
		it.state = itemReleased
		it.cur.lanes.remove(it, ep.activate)
	case ep.cfg.OnFailure == BlockEndpoint && it.cur.id.Replay == 0:
		it.state = itemWaiting
		ep.block(it)
	default:
		it.state = itemWaiting
	}
	ep.activate(it)
	ep.kickClock()
}

// block makes everything wait for the item (on_failure = block_endpoint).
func (ep *endpoint) block(it *item) {
	if !slices.Contains(ep.failing, it) {
		ep.failing = append(ep.failing, it)
	}
	if ep.blocker == nil {
		ep.blocker = it
	}
}

// kill makes a delivery dead that no worker has.
func (ep *endpoint) kill(it *item, out *Outcome) {
	released := it.state == itemReleased
	if it.due >= 0 {
		heap.Remove(&ep.waiting, it.due)
	}
	for _, q := range []*queue{&ep.fresh, &ep.retries, &ep.replays} {
		q.remove(it)
	}
	it.state = itemDead
	it.outcome = *out
	ep.stats.Dead++
	ep.markDirty(it)
	it.unload()
	ep.touch()
	// One that waits behind others leaves its lanes when it comes to their front.
	if it.waits == 0 {
		ep.unblock(it, released)
	}
}

// unblock lets those go on that waited for the item.
func (ep *endpoint) unblock(it *item, released bool) {
	if i := slices.Index(ep.failing, it); i >= 0 {
		ep.failing = slices.Delete(ep.failing, i, i+1)
	}
	if ep.blocker == it {
		ep.blocker, ep.blockerReady = nil, false
		if len(ep.failing) > 0 {
			ep.blocker = ep.failing[0]
			ep.blockerReady = ep.retries.remove(ep.blocker)
		}
		ep.wakeAll()
	}
	if !released && !it.again && ep.cfg.Order != OrderNone {
		it.cur.lanes.remove(it, ep.activate)
	}
}

// record keeps an attempt in full.
func (ep *endpoint) record(it *item, out *Outcome) {
	ep.attempts = append(ep.attempts, Attempt{
		CursorID: it.cur.id, Seq: it.event.Seq, N: it.attempts, At: it.started, Duration: out.Duration,
		Status: out.Status, Class: out.Class, Err: out.Err, Response: out.Response,
	})
}

func (ep *endpoint) markDirty(it *item) {
	if !it.dirty {
		it.dirty = true
		ep.dirtyItems = append(ep.dirtyItems, it)
	}
}

// plan adds what the endpoint has to record to s and returns how many outcomes
// that is.
func (ep *endpoint) plan(s *Settlement, d *Dispatcher, now int64) int {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	for _, it := range ep.dirtyItems {
		it.dirty = false
		c := it.cur
		switch it.state {
		case itemSettled:
			if it.row {
				s.Remove = append(s.Remove, DeliveryRef{c.id, it.event.Seq})
				it.row = false
				delete(c.open, it.event.Seq)
			}
		case itemDead:
			s.Put = append(s.Put, it.openRow(now))
			it.row = true
			delete(c.open, it.event.Seq)
		default:
			s.Put = append(s.Put, it.openRow(now))
			it.row = true
			c.open[it.event.Seq] = it
		}
	}
	ep.dirtyItems = ep.dirtyItems[:0]
	s.Attempts = append(s.Attempts, ep.attempts...)
	ep.attempts = nil
	for _, c := range ep.cursors {
		routed := d.routed[c.id.Stream]
		if r, ok := s.Routed[c.id.Stream]; ok {
			routed = r
		}
		c.plan(s, routed, now)
	}
	ep.cursors = slices.DeleteFunc(ep.cursors, func(c *cursor) bool { return c.done })
	if ep.disabling {
		ep.disabling = false
		s.Disable[ep.cfg.ID] = ep.disabled
	}
	close(ep.room)
	ep.room = make(chan struct{})
	return ep.unrecorded
}

// recorded says that n outcomes are durable.
func (ep *endpoint) recorded(n int) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	before := ep.unrecorded + ep.sending + ep.replaying
	ep.unrecorded -= n
	if before >= recordMax {
		ep.wakeAll()
	}
}
