package relay

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// heldScan bounds how much of the log is read to count what is held for an
// endpoint that vanishes.
const heldScan = 64 << 20

// Held is how many deliveries are held for an endpoint that has vanished; More
// says that they were not counted to the end.
type Held struct {
	Endpoint string
	Count    int64
	More     bool
}

// Reconfigure makes the dispatcher deliver to the endpoints of put, which are
// new or have changed, and no more to those of remove, whose deliveries are
// held. The others go on untouched. An endpoint that changes or goes begins no
// new attempt, ends those under way within the grace period, and records what
// came of them; then it begins again where the ledger says, as after a restart.
// So nothing is lost or sent twice, and the order holds. A new or changed
// selection of events is in force from the end of the log on.
//
// Once it has begun it goes on until it is done, also when the ledger has to be
// asked again and again. The only error is ErrNotRunning.
func (d *Dispatcher) Reconfigure(ctx context.Context, put []*Endpoint, remove []string) ([]Held, error) {
	var held []Held
	err := d.do(ctx, func(run *running) error {
		var going []*endpoint
		for _, ep := range d.endpoints() {
			if slices.Contains(remove, ep.cfg.ID) || slices.ContainsFunc(put, func(e *Endpoint) bool { return e.ID == ep.cfg.ID }) {
				going = append(going, ep)
			}
		}
		d.retire(run, going)
		if err := d.flush(run.reading); err != nil {
			return ErrNotRunning
		}
		for _, ep := range going {
			if slices.Contains(remove, ep.cfg.ID) {
				held = append(held, ep.countHeld(run.reading))
			}
		}
		var list []*endpoint
		if err := d.untilStored(run.reading, func() (err error) {
			list, err = d.reopen(run.reading, going, put, remove)
			return err
		}); err != nil {
			return err
		}
		for _, ep := range list {
			if ep.ctx == nil {
				run.launch(ep)
			}
		}
		return nil
	})
	return held, err
}

// retire lets the endpoints end what they do and gives their positions rows of
// their own with the next settlement.
func (d *Dispatcher) retire(run *running, going []*endpoint) {
	for _, ep := range going {
		ep.stopReading()
		ep.readers.Wait()
		ep.close()
		grace := time.AfterFunc(d.cfg.Grace, ep.cut)
		defer grace.Stop()
		defer context.AfterFunc(run.reading, ep.cut)()
	}
	for _, ep := range going {
		ep.wg.Wait()
		ep.mu.Lock()
		ep.retired = true
		ep.touch()
		ep.mu.Unlock()
	}
}

// reopen makes the endpoints of put from what the ledger has, notes which have
// vanished, and returns and sets the new list.
func (d *Dispatcher) reopen(ctx context.Context, going []*endpoint, put []*Endpoint, remove []string) ([]*endpoint, error) {
	states, at, _, err := d.positions(ctx)
	if err != nil {
		return nil, err
	}
	known, err := d.cfg.Ledger.Endpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the endpoints: %w", err)
	}
	list := slices.DeleteFunc(slices.Clone(d.endpoints()), func(ep *endpoint) bool { return slices.Contains(going, ep) })
	idle := d.Vanished()
	pin := &Settlement{}
	for i := range known {
		if !slices.Contains(remove, known[i].ID) {
			continue
		}
		if err := d.vanish(ctx, &known[i], states, at, pin); err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", known[i].ID, err)
		}
		idle = append(idle, known[i])
	}
	if len(pin.Cursors) > 0 {
		if err := d.cfg.Ledger.Settle(ctx, pin); err != nil {
			return nil, fmt.Errorf("record positions: %w", err)
		}
	}
	for _, e := range put {
		var row *EndpointRow
		if i := slices.IndexFunc(known, func(r EndpointRow) bool { return r.ID == e.ID }); i >= 0 {
			row = &known[i]
		}
		ep, err := d.openEndpoint(ctx, e, row, states, at)
		if err == nil {
			err = d.openReplays(ctx, ep)
		}
		if err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", e.ID, err)
		}
		if i := slices.IndexFunc(going, func(old *endpoint) bool { return old.cfg.ID == e.ID }); i >= 0 {
			ep.inherit(going[i])
		}
		idle = slices.DeleteFunc(idle, func(r EndpointRow) bool { return r.ID == e.ID })
		list = append(list, ep)
	}
	sortEndpoints(list)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list, d.idle = list, idle
	for _, held := range d.held {
		for _, e := range put {
			delete(held, e.ID)
		}
	}
	return list, nil
}

// inherit takes over what is known of the endpoint beside the ledger.
func (ep *endpoint) inherit(old *endpoint) {
	old.mu.Lock()
	stats, health, until := old.stats, old.health, old.pausedUntil
	old.mu.Unlock()
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.stats = stats
	if ep.cfg.Target == old.cfg.Target { // else it is another one, which may be well
		ep.health, ep.pausedUntil = health, until
	}
}

// countHeld counts what a retired endpoint has not delivered.
func (ep *endpoint) countHeld(ctx context.Context) Held {
	h := Held{Endpoint: ep.cfg.ID}
	ep.mu.Lock() // what is being recorded is in there, too
	cursors := slices.DeleteFunc(slices.Clone(ep.cursors), func(c *cursor) bool { return c.id.Replay > 0 })
	for _, c := range cursors {
		h.Count += int64(len(c.open))
		for i := range c.window.len() {
			if it := c.window.items[c.window.head+i]; it.state != itemSettled && !it.row {
				h.Count++
			}
		}
	}
	ep.mu.Unlock()
	scanned := 0
	for _, c := range cursors { // their readers have ended
		for read := c.read; !h.More; {
			blocks, err := ep.d.cfg.Ledger.Blocks(ctx, c.id.Stream, read, windowBytes)
			if err != nil {
				h.More = true
			}
			if len(blocks) == 0 {
				break
			}
			for _, b := range blocks {
				r := b.Reader()
				for e := (Event{}); r.Next(&e); {
					if e.Seq > read && !c.known[e.Seq] && c.wanted(&e) {
						h.Count++
					}
				}
				read = b.Last
				scanned += len(b.Data)
			}
			h.More = h.More || scanned > heldScan
		}
	}
	return h
}

// untilStored runs f until it succeeds or ctx is done.
func (d *Dispatcher) untilStored(ctx context.Context, f func() error) error {
	retry := backoff.NewExponentialBackOff()
	retry.MaxElapsedTime, retry.InitialInterval, retry.MaxInterval = 0, 50*time.Millisecond, 2*time.Second
	for {
		err := f()
		if err == nil {
			return nil
		}
		d.cfg.Logger.Error("endpoints cannot be changed yet", "err", err)
		if !pause(ctx, retry.NextBackOff()) {
			return ErrNotRunning
		}
	}
}
