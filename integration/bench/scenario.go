package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rowhook/rowhook/integration/postgres"
)

// sizes are the dimensions of the scenarios.
type sizes struct {
	drain   int           // rows of the backlog
	slow    int           // rows for the receiver that takes its time
	large   int           // rows of the one large transaction, one in twenty of which matches
	huge    int           // rows of one that is larger yet, one in a hundred of which matches
	live    time.Duration // how long the paced writer writes
	idle    time.Duration // how long a relay is left alone before its memory is read
	perSec  int           // transactions a second of the paced writer
	delay   time.Duration // of the slow receiver
	backlog int           // rows a transaction of the backlog
}

var (
	full  = sizes{drain: 200_000, slow: 20_000, large: 2_000_000, huge: 10_000_000, live: 20 * time.Second, idle: 10 * time.Second, perSec: 500, delay: 10 * time.Millisecond, backlog: 100}
	short = sizes{drain: 100_000, slow: 10_000, large: 200_000, huge: 1_000_000, live: 8 * time.Second, idle: 5 * time.Second, perSec: 500, delay: 10 * time.Millisecond, backlog: 100}
)

// scenario is a workload and what is read off a relay that has it.
type scenario struct {
	name  string
	kind  string                                             // of the rows that become events; "" is all
	read  bool                                               // rows that are there before any relay has a slot, for a backfill
	write func(ctx context.Context, b *bench, p place) error // the backlog, before any relay starts; nil: none
	run   func(ctx context.Context, b *bench, r relay, p place) (values, error)
}

// values are measurements by metric name.
type values map[string]float64

// results are the values of all rounds, by metric and relay.
type results map[string]map[string][]float64

var scenarios = []scenario{
	{"drain", "", false, func(ctx context.Context, b *bench, p place) error {
		return writeBacklog(ctx, p, b.drain, b.sizes.backlog)
	}, drain},
	{"slow", "", false, func(ctx context.Context, b *bench, p place) error {
		return writeBacklog(ctx, p, b.slow, b.sizes.backlog)
	}, slow},
	{"live", "", false, nil, live},
	{"large", "hit", false, func(ctx context.Context, b *bench, p place) error { return writeBacklog(ctx, p, b.large, b.large) }, large},
	{"huge", "rare", false, func(ctx context.Context, b *bench, p place) error { return writeBacklog(ctx, p, b.huge, b.huge) }, huge},
	{"backfill", "", true, func(ctx context.Context, b *bench, p place) error { return writeBacklog(ctx, p, b.drain, b.drain) }, backfill},
}

// schema has rows of about 170 bytes of text.
const schema = `
CREATE TABLE items (
  id          bigint PRIMARY KEY,
  customer_id bigint NOT NULL,
  kind        text NOT NULL,
  status      text NOT NULL,
  total_cents integer NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  note        text NOT NULL
)`

// insert writes the rows of a range of ids; one in twenty is a hit, one in a hundred rare.
const insert = `
INSERT INTO items (id, customer_id, kind, status, total_cents, note)
SELECT i, i % 1000, CASE WHEN i % 20 = 0 THEN 'hit' WHEN i % 100 = 50 THEN 'rare' ELSE 'miss' END, 'pending', i % 100000, repeat(md5(i::text), 3)
FROM generate_series($1::bigint, $2::bigint) AS i`

// matching is how many of rows are hits.
func matching(rows int) int { return rows / 20 }

// writeBacklog commits rows in transactions of perTx, then a checkpoint, so that none is due
// while a relay is measured.
func writeBacklog(ctx context.Context, p place, rows, perTx int) error {
	conn, err := p.cluster.Conn(ctx, p.db)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for from := 1; from <= rows; from += perTx {
		if _, err := conn.Exec(ctx, insert, from, min(from+perTx-1, rows)); err != nil {
			return fmt.Errorf("write the backlog: %w", err)
		}
	}
	_, err = conn.Exec(ctx, `CHECKPOINT`)
	return err
}

// deliver runs a relay on what is waiting for it until all of want has arrived. The process still
// runs when it returns.
func deliver(ctx context.Context, b *bench, r relay, p place, rows, want int, delay time.Duration) (*process, counts, error) {
	if err := b.receiver.reset(ctx, rows, want, delay); err != nil {
		return nil, counts{}, err
	}
	proc, err := r.start(p)
	if err != nil {
		return nil, counts{}, err
	}
	c, err := waitAll(ctx, b, proc, want)
	if err != nil {
		proc.kill()
		return nil, c, err
	}
	return proc, c, nil
}

// patience is how long nothing may arrive: the server decodes all of a transaction before it sends
// the first row.
const patience = 5 * time.Minute

// waitAll waits for want events, for as long as some arrive.
func waitAll(ctx context.Context, b *bench, proc *process, want int) (counts, error) {
	var before int64 = -1
	quiet := time.Now()
	for {
		c, err := b.receiver.wait(ctx, time.Second)
		switch {
		case err != nil:
			return c, err
		case c.Last != 0:
			return c, nil
		case c.Distinct != before:
			before, quiet = c.Distinct, time.Now()
		case time.Since(quiet) > patience:
			return c, proc.trouble(fmt.Errorf("%d of %d events arrived, and none for %s", c.Distinct, want, patience))
		}
		if err := proc.alive(); err != nil {
			return c, fmt.Errorf("%d of %d events arrived: %w", c.Distinct, want, err)
		}
	}
}

// drain measures a backlog of small transactions. The time begins with the start of the process
// and the CPU time covers its whole life, so that nothing can be put off until it is not counted.
func drain(ctx context.Context, b *bench, r relay, p place) (values, error) {
	proc, c, err := deliver(ctx, b, r, p, b.drain, b.drain, 0)
	if err != nil {
		return nil, err
	}
	defer proc.kill()
	peak, err := proc.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	idle, err := b.idleMemory(ctx, proc)
	if err != nil {
		return nil, err
	}
	cpu, err := proc.stop()
	if err != nil {
		return nil, err
	}
	return values{
		"drain_rate":           rate(b.drain, proc.started, c),
		"drain_cpu":            cpu.Seconds() / float64(b.drain) * 1e6,
		"drain_peak_rss":       peak,
		"drain_idle_after_rss": idle,
		"repeated":             float64(c.Repeated),
	}, nil
}

// slow measures how much a relay has in flight at a receiver that takes its time.
func slow(ctx context.Context, b *bench, r relay, p place) (values, error) {
	proc, c, err := deliver(ctx, b, r, p, b.slow, b.slow, b.delay)
	if err != nil {
		return nil, err
	}
	defer proc.kill()
	if _, err := proc.stop(); err != nil {
		return nil, err
	}
	return values{"slow_rate": rate(b.slow, proc.started, c), "repeated": float64(c.Repeated)}, nil
}

// large measures one transaction that is much larger than memory ought to be.
func large(ctx context.Context, b *bench, r relay, p place) (values, error) {
	proc, c, err := deliver(ctx, b, r, p, b.large, matching(b.large), 0)
	if err != nil {
		return nil, err
	}
	defer proc.kill()
	peak, err := proc.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	if _, err := proc.stop(); err != nil {
		return nil, err
	}
	return values{
		"large_peak_rss":    peak,
		"large_first_event": time.Unix(0, c.First).Sub(proc.started).Seconds(),
		"large_all_events":  time.Unix(0, c.Last).Sub(proc.started).Seconds(),
		"repeated":          float64(c.Repeated),
	}, nil
}

// huge measures the memory of a transaction that no memory holds.
func huge(ctx context.Context, b *bench, r relay, p place) (values, error) {
	proc, c, err := deliver(ctx, b, r, p, b.huge, b.huge/100, 0)
	if err != nil {
		return nil, err
	}
	defer proc.kill()
	peak, err := proc.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	if _, err := proc.stop(); err != nil {
		return nil, err
	}
	return values{
		"huge_peak_rss":   peak,
		"huge_all_events": time.Unix(0, c.Last).Sub(proc.started).Seconds(),
		"repeated":        float64(c.Repeated),
	}, nil
}

// live measures a relay with nothing to do, and then from the return of each COMMIT to the
// arrival of its event, at a steady rate. The writer, like the receiver, is on this machine, so
// both read one clock.
func live(ctx context.Context, b *bench, r relay, p place) (values, error) {
	rows := int(b.live.Seconds() * float64(b.perSec))
	conn, err := p.cluster.Conn(ctx, p.db)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	if err := b.receiver.reset(ctx, rows, rows, 0); err != nil {
		return nil, err
	}
	proc, err := r.start(p)
	if err != nil {
		return nil, err
	}
	defer proc.kill()
	if err := r.ready(ctx, p, proc); err != nil {
		return nil, err
	}
	idle, err := b.idleMemory(ctx, proc)
	if err != nil {
		return nil, err
	}

	committed := make([]int64, rows+1)
	begin := time.Now()
	for id := 1; id <= rows; id++ {
		time.Sleep(time.Until(begin.Add(time.Duration(id) * time.Second / time.Duration(b.perSec)))) // the pace is the workload
		if _, err := conn.Exec(ctx, insert, id, id); err != nil {
			return nil, err
		}
		committed[id] = time.Now().UnixNano()
	}
	if late := time.Since(begin) - b.live; late > b.live/20 {
		return nil, fmt.Errorf("the writer fell %s behind: the machine is too busy to measure latency", late)
	}
	c, err := waitAll(ctx, b, proc, rows)
	if err != nil {
		return nil, err
	}
	arrived, err := b.receiver.arrivals(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := proc.stop(); err != nil {
		return nil, err
	}
	var took []float64
	for id := b.perSec; id <= rows; id++ { // the first second warms connections and caches up
		took = append(took, float64(arrived[id]-committed[id])/1e6)
	}
	slices.Sort(took)
	return values{
		"live_p50": took[len(took)/2], "live_p99": took[len(took)*99/100],
		"idle_rss": idle, "repeated": float64(c.Repeated),
	}, nil
}

func rate(n int, start time.Time, c counts) float64 {
	return float64(n) / time.Unix(0, c.Last).Sub(start).Seconds()
}

// bench holds what the scenarios share.
type bench struct {
	sizes
	cluster  *postgres.Cluster
	receiver *receiverProcess
	dir      string
}

// idleMemory leaves the process alone for a while and reads what it holds.
func (b *bench) idleMemory(ctx context.Context, proc *process) (float64, error) {
	timer := time.NewTimer(b.idle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-proc.exited:
		return 0, proc.alive()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return proc.memory("VmRSS")
}

// measure runs one scenario for every relay: on one backlog in one database, or, where the rows
// are written while the relay runs, in a database for each.
func (b *bench) measure(ctx context.Context, s scenario, relays []relay, into results) error {
	if s.write != nil {
		return b.measureIn(ctx, s.name, s, relays, into)
	}
	for _, r := range relays {
		if err := b.measureIn(ctx, s.name+"_"+r.name(), s, []relay{r}, into); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) measureIn(ctx context.Context, db string, s scenario, relays []relay, into results) (err error) {
	p := place{cluster: b.cluster, db: db, url: b.receiver.url, kind: s.kind, read: s.read}
	if err := b.cluster.CreateDatabase(ctx, p.db); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cluster.DropDatabase(context.WithoutCancel(ctx), p.db)) }()
	if err := b.cluster.Exec(ctx, p.db, schema); err != nil {
		return err
	}
	if s.read {
		if err := s.write(ctx, b, p); err != nil {
			return err
		}
	}
	places := map[relay]place{}
	for _, r := range relays {
		p.dir = filepath.Join(b.dir, p.db, r.name())
		if err := os.MkdirAll(p.dir, 0o700); err != nil {
			return err
		}
		defer os.RemoveAll(p.dir)
		if err := b.receiver.reset(ctx, 0, 0, 0); err != nil {
			return err
		}
		if err := r.prepare(ctx, p); err != nil {
			return fmt.Errorf("prepare %s: %w", r.name(), err)
		}
		places[r] = p
	}
	if s.write != nil && !s.read {
		if err := s.write(ctx, b, p); err != nil {
			return err
		}
	}
	for _, r := range relays {
		v, err := s.run(ctx, b, r, places[r])
		if err != nil {
			return fmt.Errorf("%s, %s: %w", s.name, r.name(), err)
		}
		if n := v["repeated"]; n > 0 {
			fmt.Fprintf(os.Stderr, "%s, %s: %.0f events came again\n", s.name, r.name(), n)
		}
		for metric, value := range v {
			if into[metric] == nil {
				into[metric] = map[string][]float64{}
			}
			into[metric][r.name()] = append(into[metric][r.name()], value)
		}
	}
	return nil
}
