package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/rowhook/rowhook/relay"
)

const (
	defaultLimit = 50
	// A search for events reads at most this many blocks and bytes; it may then
	// return fewer events than there are. Times narrow it down.
	maxScanBlocks = 100_000
	maxScanBytes  = 512 << 20
	// scanPage is how many blocks of a stream are read at once.
	scanPage = 16
)

// blockColumns are what scanBlock reads.
const blockColumns = ` b.first, b.last, b.count, b.first_time, b.last_time, b.first_place, b.last_place, b.data `

// sqlBlocksBack reads backwards from a place. The bounds on time are of whole
// blocks.
const sqlBlocksBack = `SELECT` + blockColumns + `
FROM streams s JOIN blocks b ON b.stream_id = s.id AND b.last < ?2 AND b.last <= s.head
WHERE s.name = ?1 AND b.last_time >= ?3 AND b.first_time <= ?4
ORDER BY b.last DESC
LIMIT ?5`

// Events returns events newest first. Streams are merged by the events' times,
// and within a stream the order is that of the places. A search that chooses
// few events of a large log ends after some hundred thousand blocks.
func (s *Store) Events(ctx context.Context, q relay.EventQuery) ([]relay.Event, error) {
	names := []string{q.Stream}
	if q.Stream == "" {
		states, err := s.Streams(ctx)
		if err != nil {
			return nil, err
		}
		names = names[:0]
		for name := range states {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	if q.Limit <= 0 {
		q.Limit = defaultLimit
	}
	var budget budget
	scans := make([]*eventScan, 0, len(names))
	for _, name := range names {
		scans = append(scans, &eventScan{store: s, stream: name, before: maxPlace, query: &q, budget: &budget})
	}
	var out []relay.Event
	for len(out) < q.Limit {
		var newest *eventScan
		for _, sc := range scans {
			if err := sc.fill(ctx); err != nil {
				return nil, err
			}
			if len(sc.events) > 0 && (newest == nil || sc.last().Time > newest.last().Time) {
				newest = sc
			}
		}
		if newest == nil {
			break
		}
		out = append(out, *newest.last())
		newest.events = newest.events[:len(newest.events)-1]
	}
	return out, nil
}

const maxPlace = 1<<63 - 1

// budget is what a search may still read.
type budget struct{ blocks, bytes int }

func (b *budget) spent() bool { return b.blocks >= maxScanBlocks || b.bytes >= maxScanBytes }

// eventScan walks a stream backwards.
type eventScan struct {
	store  *Store
	stream string
	before int64
	query  *relay.EventQuery
	budget *budget
	blocks []*relay.Block // read and not yet unpacked, newest first
	events []relay.Event  // of one block, those that are chosen, oldest first
	done   bool
}

func (sc *eventScan) last() *relay.Event { return &sc.events[len(sc.events)-1] }

// fill makes sure that there is an event unless the stream is at its end.
func (sc *eventScan) fill(ctx context.Context) error {
	for len(sc.events) == 0 && !sc.done {
		if len(sc.blocks) == 0 {
			if sc.budget.spent() {
				sc.done = true
				return nil
			}
			before := sc.query.Before
			if before == 0 {
				before = maxPlace
			}
			after := sc.query.After
			if after == 0 {
				after = -maxPlace
			}
			var err error
			sc.blocks, err = collect(ctx, sc.store.read, "read stream "+sc.stream, newBlock(sc.stream),
				sqlBlocksBack, sc.stream, sc.before, after, before, scanPage)
			if err != nil {
				return err
			}
			if len(sc.blocks) == 0 {
				sc.done = true
				return nil
			}
		}
		b := sc.blocks[0]
		sc.blocks = sc.blocks[1:]
		sc.before = b.Last
		sc.budget.blocks++
		sc.budget.bytes += len(b.Data)
		r := b.Reader()
		var e relay.Event
		for r.Next(&e) {
			if chosen(sc.query, &e) {
				sc.events = append(sc.events, e)
			}
		}
		if err := r.Err(); err != nil {
			return fmt.Errorf("block %d to %d of stream %s: %w", b.First, b.Last, sc.stream, err)
		}
	}
	return nil
}

func newBlock(stream string) func(scanner) (*relay.Block, error) {
	return func(r scanner) (*relay.Block, error) {
		b := &relay.Block{Stream: stream}
		return b, scanBlock(r, b)
	}
}

func chosen(q *relay.EventQuery, e *relay.Event) bool {
	return (q.Source == "" || q.Source == e.Source) &&
		(q.After == 0 || e.Time >= q.After) && (q.Before == 0 || e.Time <= q.Before) &&
		(q.Types == nil || q.Types.Match(e.Type, e.Version)) &&
		(q.Key == "" || (e.HasKey && string(e.Key) == q.Key)) &&
		(q.Tenant == "" || string(e.Tenant) == q.Tenant)
}

// sqlBlocksAround finds the blocks that can hold an event by its place (the
// first bytes of its id). No block of a stream spans more places than its
// width, which keeps the search to a short piece of the index. Places may come
// again in another generation, hence more than one block, the newest first.
const sqlBlocksAround = `SELECT s.name,` + blockColumns + `
FROM streams s CROSS JOIN blocks b INDEXED BY blocks_by_place ON b.stream_id = s.id
	AND b.first_place BETWEEN ?1 - s.width AND ?1 AND b.last_place >= ?1 AND b.last <= s.head
ORDER BY b.last DESC
LIMIT ?2 OFFSET ?3`

// Event returns the event, or relay.ErrNotFound when the log does not have it
// (any more).
func (s *Store) Event(ctx context.Context, id relay.EventID) (*relay.Event, error) {
	for page := 0; ; page++ {
		blocks, err := collect(ctx, s.read, "find event", func(r scanner) (*relay.Block, error) {
			b := &relay.Block{}
			return b, scanBlock(prefixed{r, &b.Stream}, b)
		}, sqlBlocksAround, int64(id.Place()), scanPage, page*scanPage)
		if err != nil {
			return nil, err
		}
		for _, b := range blocks {
			e, err := findEvent(b, func(e *relay.Event) bool { return e.ID == id })
			if e != nil || err != nil {
				return e, err
			}
		}
		if len(blocks) < scanPage {
			return nil, fmt.Errorf("event %s: %w", id, relay.ErrNotFound)
		}
	}
}

// prefixed is a row with one column before those that a scan function knows.
type prefixed struct {
	scanner
	first any
}

// Scan scans the first column and those that are asked for.
func (p prefixed) Scan(dest ...any) error {
	return p.scanner.Scan(append([]any{p.first}, dest...)...)
}

// findEvent returns the event of the block that is the one, or nil.
func findEvent(b *relay.Block, is func(*relay.Event) bool) (*relay.Event, error) {
	r := b.Reader()
	e := new(relay.Event)
	for r.Next(e) {
		if is(e) {
			return e, nil
		}
	}
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("block %d to %d of stream %s: %w", b.First, b.Last, b.Stream, err)
	}
	return nil, nil
}

const sqlBlockAt = `SELECT` + blockColumns + `
FROM streams s JOIN blocks b ON b.stream_id = s.id AND b.last >= ?2 AND b.last <= s.head
WHERE s.name = ?1
ORDER BY b.last
LIMIT 1`

// places finds events by place and remembers the last block, since neighbours
// are asked for together.
type places struct {
	store *Store
	block map[string]*relay.Block
}

// event returns the event at the place, or nil when the log does not have it.
func (p *places) event(ctx context.Context, stream string, seq int64) (*relay.Event, error) {
	b := p.block[stream]
	if b == nil || seq < b.First || seq > b.Last {
		b = &relay.Block{Stream: stream}
		err := scanBlock(p.store.read.QueryRowContext(ctx, sqlBlockAt, stream, seq), b)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read place %d of stream %s: %w", seq, stream, err)
		}
		if p.block == nil {
			p.block = make(map[string]*relay.Block)
		}
		p.block[stream] = b
	}
	return findEvent(b, func(e *relay.Event) bool { return e.Seq == seq })
}

const sqlFailures = `
SELECT f.id, s.name, f.seq, f.rule, f.at, f.lsn, f.xid, f.relation, f.change, f.error
FROM failures f JOIN streams s ON s.id = f.stream_id
WHERE f.seq <= s.head
ORDER BY f.id DESC
LIMIT ?`

// Failures returns the newest changes on which a rule failed.
func (s *Store) Failures(ctx context.Context, limit int) ([]relay.Failure, error) {
	if limit <= 0 {
		limit = defaultLimit
	}
	return collect(ctx, s.read, "read failures", func(r scanner) (relay.Failure, error) {
		var f relay.Failure
		var lsn int64
		err := r.Scan(&f.ID, &f.Stream, &f.Seq, &f.Rule, &f.At, &lsn, &f.XID, &f.Table, &f.Change, &f.Err)
		f.LSN = relay.LSN(lsn)
		return f, err
	}, sqlFailures, limit)
}

const sqlDropFailure = `DELETE FROM failures WHERE id = ?`

// DropFailure removes a failure that was dealt with.
func (s *Store) DropFailure(ctx context.Context, id int64) error {
	return s.do(ctx, "drop failure", func(w *writer) error {
		_, err := w.conn.exec(sqlDropFailure, id)
		return err
	})
}
