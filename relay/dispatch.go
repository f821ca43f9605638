package relay

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// Outcomes are recorded this often, or when an endpoint has recordAt of
	// them; with recordMax unrecorded ones it sends nothing more. After a crash
	// at most that many deliveries an endpoint are sent again.
	recordInterval = 250 * time.Millisecond
	recordAt       = 500
	recordMax      = 1000
)

// DispatcherConfig configures a Dispatcher.
type DispatcherConfig struct {
	Ledger    Ledger
	Feed      *Feed
	Endpoints []*Endpoint
	Logger    *slog.Logger
	// Grace is how long attempts under way may go on when Run is told to stop;
	// 0 is 20 s.
	Grace time.Duration
	// Now is the wall clock, by which deliveries are due; nil is time.Now.
	Now func() time.Time
}

// Dispatcher takes visible events to the endpoints that want them and records
// what came of it.
type Dispatcher struct {
	cfg      DispatcherConfig
	began    time.Time
	streams  []string      // that are read
	kick     chan struct{} // capacity 1: a settlement is due now
	dirty    atomic.Bool   // there is something to record
	flushes  chan chan struct{}
	commands chan func(*running)
	ended    chan struct{} // closed when no more commands are taken

	reopening sync.Mutex // held while a cursor of a replay that was done is made again

	mu       sync.Mutex
	list     []*endpoint // by id; replaced, never changed
	idle     []EndpointRow
	recorded map[CursorID]int64 // positions in the store
	routed   map[string]int64
	held     map[string]map[string]int64 // by stream and vanished endpoint, after which place its held events begin
	problem  string                      // why outcomes cannot be recorded, or ""
}

// NewDispatcher reads the state of the endpoints from the ledger, writes down
// which are new, changed or vanished, and returns a dispatcher that Run starts.
// streams are all streams that will be read.
func NewDispatcher(ctx context.Context, cfg DispatcherConfig, streams []string) (*Dispatcher, error) {
	d := &Dispatcher{
		cfg:      cfg,
		began:    time.Now(),
		kick:     make(chan struct{}, 1),
		flushes:  make(chan chan struct{}),
		commands: make(chan func(*running)),
		ended:    make(chan struct{}),
		recorded: map[CursorID]int64{},
		held:     map[string]map[string]int64{},
	}
	if d.cfg.Now == nil {
		d.cfg.Now = time.Now
	}
	if d.cfg.Grace == 0 {
		d.cfg.Grace = 20 * time.Second
	}
	d.streams = streams
	states, at, routed, err := d.positions(ctx)
	if err != nil {
		return nil, err
	}
	d.routed = routed
	known, err := cfg.Ledger.Endpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the endpoints: %w", err)
	}
	pin := &Settlement{Routed: map[string]int64{}}
	for _, e := range cfg.Endpoints {
		i := slices.IndexFunc(known, func(r EndpointRow) bool { return r.ID == e.ID })
		var row *EndpointRow
		if i >= 0 {
			row = &known[i]
		}
		ep, err := d.openEndpoint(ctx, e, row, states, at)
		if err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", e.ID, err)
		}
		d.list = append(d.list, ep)
	}
	for i := range known {
		if slices.ContainsFunc(cfg.Endpoints, func(e *Endpoint) bool { return e.ID == known[i].ID }) {
			continue
		}
		if err := d.vanish(ctx, &known[i], states, at, pin); err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", known[i].ID, err)
		}
		d.idle = append(d.idle, known[i])
	}
	if len(pin.Cursors) > 0 {
		if err := cfg.Ledger.Settle(ctx, pin); err != nil {
			return nil, fmt.Errorf("record positions: %w", err)
		}
	}
	sortEndpoints(d.list)
	for _, ep := range d.list {
		if err := d.openReplays(ctx, ep); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func sortEndpoints(list []*endpoint) {
	slices.SortFunc(list, func(a, b *endpoint) int { return strings.Compare(a.cfg.ID, b.cfg.ID) })
}

// positions reads how far the streams and the cursors are.
func (d *Dispatcher) positions(ctx context.Context) (states map[string]StreamState, at map[CursorID]int64, routed map[string]int64, err error) {
	if states, err = d.cfg.Ledger.Streams(ctx); err != nil {
		return nil, nil, nil, fmt.Errorf("read the streams: %w", err)
	}
	for _, s := range d.streams {
		if _, ok := states[s]; !ok {
			states[s] = StreamState{}
		}
	}
	rows, routed, err := d.cfg.Ledger.Cursors(ctx)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the positions: %w", err)
	}
	at = map[CursorID]int64{}
	for _, r := range rows {
		at[r.CursorID] = r.Position
	}
	return states, at, routed, nil
}

// endpoints returns those at work, by id.
func (d *Dispatcher) endpoints() []*endpoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.list
}

// place returns the position of a cursor: its row, or where all cursors
// without one are.
func (d *Dispatcher) place(at map[CursorID]int64, id CursorID) (pos int64, row bool) {
	if pos, row = at[id]; row {
		return pos, true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.routed[id.Stream], false
}

// openEndpoint brings the endpoint's row up to date with its configuration and
// makes its cursors.
func (d *Dispatcher) openEndpoint(ctx context.Context, e *Endpoint, row *EndpointRow, states map[string]StreamState, at map[CursorID]int64) (*endpoint, error) {
	heads := map[string]int64{}
	for name, st := range states {
		heads[name] = st.Head
	}
	now := d.now()
	created := row == nil
	if created {
		row = &EndpointRow{ID: e.ID, CreatedAt: now, Status: EndpointActive}
	}
	changed := created || row.Kind != e.Kind || row.Target != e.Target
	row.Kind, row.Target = e.Kind, e.Target
	patterns := e.Events.String()
	if last := len(row.Versions) - 1; last < 0 || row.Versions[last].Patterns != patterns {
		v := EndpointVersion{Version: last + 2, Patterns: patterns, After: heads, At: now}
		if created && e.FromEarliest {
			v.After = map[string]int64{}
		}
		row.Versions = append(row.Versions, v)
		changed = true
	}
	if row.Status == EndpointVanished {
		row.Status, row.Reason, changed = EndpointActive, "", true
	}
	if created {
		// Its positions first: with a row of its own and no positions it would be
		// taken, after a crash in between, for one that is current.
		places := &Settlement{}
		for _, stream := range slices.Sorted(maps.Keys(states)) {
			c := CursorState{CursorID: CursorID{Endpoint: e.ID, Stream: stream}}
			if !e.FromEarliest {
				c.Position = states[stream].Head
			}
			places.Cursors = append(places.Cursors, c)
		}
		if err := d.cfg.Ledger.Settle(ctx, places); err != nil {
			return nil, fmt.Errorf("record positions: %w", err)
		}
	}
	if changed {
		if err := d.cfg.Ledger.PutEndpoint(ctx, row); err != nil {
			return nil, err
		}
	}
	ep := newEndpoint(d, e, row)
	for _, stream := range slices.Sorted(maps.Keys(states)) {
		id := CursorID{Endpoint: e.ID, Stream: stream}
		pos, hasRow := d.place(at, id)
		if created {
			pos = 0
			if !e.FromEarliest {
				pos = states[stream].Head
			}
			hasRow = true
		}
		if err := d.addCursor(ctx, ep, id, pos, hasRow, 0); err != nil {
			return nil, err
		}
	}
	return ep, nil
}

// addCursor makes a cursor at the position and gives it what the ledger has of
// it.
func (d *Dispatcher) addCursor(ctx context.Context, ep *endpoint, id CursorID, pos int64, hasRow bool, end int64) error {
	c := &cursor{
		id: id, ep: ep, end: end, lanes: newLaneSet(), position: pos, read: pos, rowAt: -1,
		known: map[int64]bool{}, open: map[int64]*item{}, wants: map[wantKey]bool{},
	}
	if hasRow {
		c.rowAt = pos
		d.mu.Lock()
		d.recorded[id] = pos
		d.mu.Unlock()
	}
	settled, err := d.cfg.Ledger.SettledAfter(ctx, id, pos)
	if err != nil {
		return fmt.Errorf("read what is settled: %w", err)
	}
	for _, seq := range settled {
		c.known[seq] = true
	}
	open, err := d.cfg.Ledger.OpenDeliveries(ctx, id)
	if err != nil {
		return fmt.Errorf("read the open deliveries: %w", err)
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	for i := range open {
		c.restore(&open[i])
	}
	ep.cursors = append(ep.cursors, c)
	return nil
}

// vanish notes that an endpoint is no longer configured. Its deliveries are
// held: its positions stay where they are until it is configured again.
func (d *Dispatcher) vanish(ctx context.Context, row *EndpointRow, states map[string]StreamState, at map[CursorID]int64, pin *Settlement) error {
	for stream := range states {
		id := CursorID{Endpoint: row.ID, Stream: stream}
		pos, hasRow := d.place(at, id)
		if !hasRow {
			pin.Cursors = append(pin.Cursors, CursorState{id, pos})
		}
		vanished := states[stream].Head
		if row.Status == EndpointVanished && len(row.Versions) > 0 {
			vanished = row.Versions[len(row.Versions)-1].After[stream]
		}
		if pos < vanished {
			d.mu.Lock()
			if d.held[stream] == nil {
				d.held[stream] = map[string]int64{}
			}
			d.held[stream][row.ID] = pos
			d.mu.Unlock()
		}
	}
	if row.Status == EndpointVanished {
		return nil
	}
	heads := map[string]int64{}
	for name, st := range states {
		heads[name] = st.Head
	}
	row.Status, row.Reason = EndpointVanished, "no longer in the configuration"
	row.Versions = append(row.Versions, EndpointVersion{Version: len(row.Versions) + 1, After: heads, At: d.now()})
	d.cfg.Logger.Warn("endpoint is no longer in the configuration, its open deliveries are held", "endpoint", row.ID)
	return d.cfg.Ledger.PutEndpoint(ctx, row)
}

// openReplays makes the cursors of the endpoint's replays that are not done.
func (d *Dispatcher) openReplays(ctx context.Context, ep *endpoint) error {
	replays, err := d.cfg.Ledger.Replays(ctx)
	if err != nil {
		return fmt.Errorf("read the replays: %w", err)
	}
	rows, _, err := d.cfg.Ledger.Cursors(ctx)
	if err != nil {
		return fmt.Errorf("read the positions: %w", err)
	}
	for _, r := range replays {
		if r.Endpoint != ep.cfg.ID {
			continue
		}
		id := CursorID{Endpoint: r.Endpoint, Stream: r.Stream, Replay: r.ID}
		pos, hasRow := r.From-1, false
		for _, c := range rows {
			if c.CursorID == id {
				pos, hasRow = c.Position, true
			}
		}
		if err := d.addCursor(ctx, ep, id, pos, hasRow, r.To); err != nil {
			return fmt.Errorf("replay %d: %w", r.ID, err)
		}
	}
	return nil
}

func (d *Dispatcher) endpoint(id string) *endpoint {
	for _, ep := range d.endpoints() {
		if ep.cfg.ID == id {
			return ep
		}
	}
	return nil
}

// Run delivers until ctx is done. Then it begins nothing new, lets the
// attempts under way end within the grace period, records what came of them
// and returns nil. An error is about the log itself.
func (d *Dispatcher) Run(ctx context.Context) error {
	sending, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	reading, stop := context.WithCancel(ctx)
	defer stop()

	errs := make(chan error, 1)
	r := &running{reading: reading, sending: sending, errs: errs}
	var recorder sync.WaitGroup
	for _, ep := range d.endpoints() {
		r.launch(ep)
	}
	recording, finish := context.WithCancel(context.WithoutCancel(ctx))
	defer finish()
	recorder.Go(func() { d.record(recording) })

	var err error
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case err = <-errs:
			running = false
		case f := <-d.commands:
			f(r)
		}
	}
	close(d.ended)
	stop()
	for _, ep := range d.endpoints() {
		ep.readers.Wait()
		ep.close()
	}
	grace := time.AfterFunc(d.cfg.Grace, cut)
	for _, ep := range d.endpoints() {
		ep.wg.Wait()
	}
	grace.Stop()
	finish()
	recorder.Wait()
	return err
}

// running is what endpoints live in while Run runs.
type running struct {
	reading, sending context.Context //nolint:containedctx // lifetimes
	errs             chan<- error
}

// launch starts the endpoint's workers and readers.
func (r *running) launch(ep *endpoint) {
	ep.reading, ep.stopReading = context.WithCancel(r.reading)
	sending, cut := context.WithCancel(r.sending)
	ep.cut = cut
	ep.start(sending)
	ep.mu.Lock()
	cursors := slices.Clone(ep.cursors)
	ep.mu.Unlock()
	for _, c := range cursors {
		r.read(c)
	}
}

// read starts the reader of a cursor.
func (r *running) read(c *cursor) {
	c.ep.readers.Go(func() {
		if err := c.run(c.ep.reading); err != nil {
			select {
			case r.errs <- err:
			default:
			}
		}
	})
}

// record writes settlements until ctx is done and everything is written.
func (d *Dispatcher) record(ctx context.Context) {
	tick := time.NewTicker(recordInterval)
	defer tick.Stop()
	for {
		last := false
		var asked chan struct{}
		select {
		case asked = <-d.flushes:
		case <-d.kick:
		case <-tick.C:
			if d.heldUp(d.now()) {
				d.dirty.Store(true)
			}
		case <-ctx.Done():
			last = true
		}
		if d.dirty.Swap(false) {
			d.settle(ctx)
		}
		if asked != nil {
			close(asked)
		}
		if last {
			return
		}
	}
}

// heldUp reports whether a position waits for a slow attempt that has no row
// yet: then there is something to record although nothing has happened.
func (d *Dispatcher) heldUp(now int64) bool {
	for _, ep := range d.endpoints() {
		ep.mu.Lock()
		slow := slices.ContainsFunc(ep.cursors, func(c *cursor) bool {
			return c.window.len() > 1 && !c.window.front().row && len(c.open) < openItems && c.window.front().pushOut(now)
		})
		ep.mu.Unlock()
		if slow {
			return true
		}
	}
	return false
}

// settle gathers what there is to record and stores it, again and again until
// it is stored. It gives up when ctx is done: what is not recorded is sent
// again after the next start.
func (d *Dispatcher) settle(ctx context.Context) {
	now := d.now()
	endpoints := d.endpoints()
	s := &Settlement{Routed: map[string]int64{}, Disable: map[string]string{}}
	// Read the heads before looking at the cursors: a cursor that then has
	// nothing unsettled at or below the head is current.
	for _, stream := range streamsOf(endpoints) {
		if head := d.cfg.Feed.Head(stream); head > d.routed[stream] {
			s.Routed[stream] = head
		}
	}
	counts := make([]int, len(endpoints))
	for i, ep := range endpoints {
		counts[i] = ep.plan(s, d, now)
	}
	retry := backoff.NewExponentialBackOff()
	retry.MaxElapsedTime, retry.InitialInterval, retry.MaxInterval = 0, 50*time.Millisecond, 2*time.Second
	for {
		err := d.cfg.Ledger.Settle(context.WithoutCancel(ctx), s)
		if err == nil {
			break
		}
		d.cfg.Logger.Error("outcomes cannot be recorded, sending is paused", "err", err)
		d.setProblem(err.Error())
		if !pause(ctx, retry.NextBackOff()) {
			return
		}
	}
	if d.setProblem("") {
		d.cfg.Logger.Info("outcomes are recorded again")
	}
	d.mu.Lock()
	maps.Copy(d.routed, s.Routed)
	for _, c := range s.Cursors {
		d.recorded[c.CursorID] = c.Position
	}
	for _, c := range s.Current {
		delete(d.recorded, c)
	}
	d.mu.Unlock()
	for i, ep := range endpoints {
		ep.recorded(counts[i])
	}
}

// setProblem sets why outcomes cannot be recorded and reports whether there
// was a reason before.
func (d *Dispatcher) setProblem(reason string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	had := d.problem != ""
	d.problem = reason
	return had
}

func streamsOf(endpoints []*endpoint) []string {
	set := map[string]bool{}
	for _, ep := range endpoints {
		ep.mu.Lock()
		for _, c := range ep.cursors {
			set[c.id.Stream] = true
		}
		ep.mu.Unlock()
	}
	return slices.Sorted(maps.Keys(set))
}

// Keep returns the place of the stream up to which retention may remove events:
// what is settled, and not held for an endpoint that has vanished.
func (d *Dispatcher) Keep(stream string) int64 {
	to := d.Settled(stream)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, held := range d.held[stream] {
		to = min(to, held)
	}
	return to
}

// Settled returns the place of the stream up to which every delivery of every
// active endpoint is delivered, dead or cancelled, durably.
func (d *Dispatcher) Settled(stream string) int64 {
	to := d.cfg.Feed.Head(stream)
	for _, ep := range d.endpoints() {
		ep.mu.Lock()
		for _, c := range ep.cursors {
			if c.id.Stream != stream || c.done {
				continue
			}
			d.mu.Lock()
			at, own := d.recorded[c.id]
			if !own {
				at = d.routed[stream]
			}
			d.mu.Unlock()
			if c.id.Replay > 0 {
				at = min(at, c.position)
			}
			to = min(to, c.settledTo(at))
		}
		ep.mu.Unlock()
	}
	return to
}
