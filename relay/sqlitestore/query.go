package sqlitestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rowhook/rowhook/relay"
)

// Deliveries returns deliveries newest first: by the time at which they were
// settled or last tried, and those that nobody has tried at the end. Those that
// wait in the log for their cursor are among them only when the query names an
// event; otherwise they are as many as the log is long.
func (s *Store) Deliveries(ctx context.Context, q relay.DeliveryQuery) ([]relay.DeliveryRow, error) {
	if q.Limit <= 0 {
		q.Limit = defaultLimit
	}
	var rows []relay.DeliveryRow
	var err error
	if q.Event != nil {
		rows, err = s.eventDeliveries(ctx, *q.Event)
	} else {
		rows, err = s.recentDeliveries(ctx, &q)
	}
	if err != nil {
		return nil, err
	}
	rows = slices.DeleteFunc(rows, func(r relay.DeliveryRow) bool {
		return (q.Endpoint != "" && r.Endpoint != q.Endpoint) || (q.State != "" && r.State != q.State)
	})
	return newest(rows, q.Limit), nil
}

func openRow(d relay.OpenDelivery) relay.DeliveryRow {
	return relay.DeliveryRow{OpenDelivery: d, Time: d.UpdatedAt, Status: d.LastStatus}
}

func successDelivery(c relay.CursorID, ok relay.Success) relay.DeliveryRow {
	return relay.DeliveryRow{
		OpenDelivery: relay.OpenDelivery{
			CursorID: c, Seq: ok.Seq, State: relay.StateDelivered, Attempts: ok.Attempts, LastStatus: ok.Status, UpdatedAt: ok.At,
		},
		Time: ok.At, Status: ok.Status,
	}
}

func describe(d *relay.OpenDelivery, e *relay.Event) {
	d.EventID, d.Type, d.Table, d.Barrier = e.ID, e.Type, e.Table, e.Barrier
}

// cursorRow is a cursor and its number.
type cursorRow struct {
	relay.CursorID
	id int64
}

const sqlCursorsOf = `
SELECT c.id, c.endpoint, s.name, c.replay
FROM cursors c JOIN streams s ON s.id = c.stream_id
WHERE ?1 = '' OR c.endpoint = ?1`

const (
	sqlRecentRows = `SELECT` + deliveryColumns + `
FROM deliveries d JOIN cursors c ON c.id = d.cursor_id JOIN streams s ON s.id = c.stream_id
WHERE d.cursor_id = ?1 AND d.state = ?2
ORDER BY d.updated_at DESC
LIMIT ?3`
	sqlRecentSuccesses = `
SELECT id, first_seq, last_at, data FROM successes
WHERE cursor_id = ?1 AND (last_at, id) < (?2, ?3)
ORDER BY last_at DESC, id DESC
LIMIT 16`
)

// recentDeliveries returns the newest of every cursor and state that the query
// chooses, as many as its limit of each.
func (s *Store) recentDeliveries(ctx context.Context, q *relay.DeliveryQuery) ([]relay.DeliveryRow, error) {
	cursors, err := collect(ctx, s.read, "read cursors", func(r scanner) (c cursorRow, err error) {
		err = r.Scan(&c.id, &c.Endpoint, &c.Stream, &c.Replay)
		return c, err
	}, sqlCursorsOf, q.Endpoint)
	if err != nil {
		return nil, err
	}
	states := []relay.State{relay.StatePending, relay.StateRetrying, relay.StateDead, relay.StateHeld, relay.StateCancelled}
	var rows []relay.DeliveryRow
	for _, c := range cursors {
		for _, state := range states {
			if q.State != "" && q.State != state {
				continue
			}
			open, err := collect(ctx, s.read, "read deliveries", scanDelivery, sqlRecentRows, c.id, string(state), q.Limit)
			if err != nil {
				return nil, err
			}
			for _, d := range open {
				rows = append(rows, openRow(d))
			}
		}
		if q.State == "" || q.State == relay.StateDelivered {
			more, err := s.recentSuccesses(ctx, c, q.Limit)
			if err != nil {
				return nil, err
			}
			rows = append(rows, more...)
		}
	}
	rows = newest(rows, q.Limit)
	at := places{store: s}
	for i := range rows {
		d := &rows[i].OpenDelivery
		if d.State != relay.StateDelivered {
			continue
		}
		e, err := at.event(ctx, d.Stream, d.Seq)
		if err != nil {
			return nil, err
		}
		if e != nil {
			describe(d, e)
		}
	}
	return rows, nil
}

// newest sorts the rows newest first and cuts them off at the limit.
func newest(rows []relay.DeliveryRow, limit int) []relay.DeliveryRow {
	slices.SortFunc(rows, func(a, b relay.DeliveryRow) int {
		return cmp.Or(cmp.Compare(b.Time, a.Time), strings.Compare(a.Endpoint, b.Endpoint), strings.Compare(a.Stream, b.Stream),
			cmp.Compare(a.Replay, b.Replay), cmp.Compare(b.Seq, a.Seq))
	})
	return rows[:min(len(rows), limit)]
}

// recentSuccesses returns the newest successes of a cursor: as many as the
// limit, and what lies in the same records.
func (s *Store) recentSuccesses(ctx context.Context, c cursorRow, limit int) ([]relay.DeliveryRow, error) {
	found := map[int64]relay.Success{}
	for before, id := int64(maxPlace), int64(maxPlace); ; {
		records, err := collect(ctx, s.read, "read successes", func(r scanner) (successRow, error) {
			return scanSuccesses(prefixed{r, &id})
		}, sqlRecentSuccesses, c.id, before, id)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			before = r.lastAt
			err := unpackSuccesses(r.data, r.first, r.lastAt, func(ok relay.Success) {
				if old, known := found[ok.Seq]; !known || ok.At > old.At {
					found[ok.Seq] = ok
				}
			})
			if err != nil {
				return nil, fmt.Errorf("read successes of %s at %d: %w", c.Endpoint, r.first, err)
			}
		}
		// What is not read yet is not newer than before.
		newer := 0
		for _, ok := range found {
			if ok.At >= before {
				newer++
			}
		}
		if len(records) == 0 || newer >= limit {
			break
		}
	}
	rows := make([]relay.DeliveryRow, 0, len(found))
	for _, ok := range found {
		rows = append(rows, successDelivery(c.CursorID, ok))
	}
	return rows, nil
}

const sqlRowsOfEvent = `SELECT` + deliveryColumns + `
FROM deliveries d JOIN cursors c ON c.id = d.cursor_id JOIN streams s ON s.id = c.stream_id
WHERE d.event_id = ?`

// sqlSuccessesOfPlace finds the records that can have the place by the width
// of their cursor.
const sqlSuccessesOfPlace = `
SELECT c.endpoint, c.replay, p.first_seq, p.last_at, p.data
FROM streams s
CROSS JOIN cursors c ON c.stream_id = s.id
CROSS JOIN successes p ON p.cursor_id = c.id AND p.last_seq BETWEEN ?2 AND ?2 + c.width AND p.first_seq <= ?2
WHERE s.name = ?1`

// successesAt calls f with each success of the place, whoever has it.
func (s *Store) successesAt(ctx context.Context, stream string, seq int64, f func(relay.CursorID, relay.Success)) error {
	type record struct {
		c relay.CursorID
		successRow
	}
	records, err := collect(ctx, s.read, "read successes", func(r scanner) (record, error) {
		rec := record{c: relay.CursorID{Stream: stream}}
		err := r.Scan(&rec.c.Endpoint, &rec.c.Replay, &rec.first, &rec.lastAt, &rec.data)
		return rec, err
	}, sqlSuccessesOfPlace, stream, seq)
	if err != nil {
		return err
	}
	for _, r := range records {
		err := unpackSuccesses(r.data, r.first, r.lastAt, func(ok relay.Success) {
			if ok.Seq == seq {
				f(r.c, ok)
			}
		})
		if err != nil {
			return fmt.Errorf("read successes of %s at %d: %w", r.c.Endpoint, r.first, err)
		}
	}
	return nil
}

// eventDeliveries returns every delivery of an event, those included for which
// the event still waits in the log.
func (s *Store) eventDeliveries(ctx context.Context, id relay.EventID) ([]relay.DeliveryRow, error) {
	open, err := collect(ctx, s.read, "read deliveries", scanDelivery, sqlRowsOfEvent, id[:])
	if err != nil {
		return nil, err
	}
	rows := map[relay.CursorID]relay.DeliveryRow{}
	for _, d := range open {
		rows[d.CursorID] = openRow(d)
	}
	e, err := s.Event(ctx, id)
	if err != nil && !errors.Is(err, relay.ErrNotFound) {
		return nil, err
	}
	if e != nil {
		if err := s.addSettled(ctx, e, rows); err != nil {
			return nil, err
		}
		if err := s.addWaiting(ctx, e, rows); err != nil {
			return nil, err
		}
	}
	return slices.Collect(maps.Values(rows)), nil
}

// addSettled adds the successes of e; a row says more than a success before it.
func (s *Store) addSettled(ctx context.Context, e *relay.Event, rows map[relay.CursorID]relay.DeliveryRow) error {
	return s.successesAt(ctx, e.Stream, e.Seq, func(c relay.CursorID, ok relay.Success) {
		if old, known := rows[c]; known && (old.State != relay.StateDelivered || old.Time >= ok.At) {
			return
		}
		r := successDelivery(c, ok)
		describe(&r.OpenDelivery, e)
		rows[c] = r
	})
}

// addWaiting adds the deliveries of e to cursors that have not come to it.
func (s *Store) addWaiting(ctx context.Context, e *relay.Event, rows map[relay.CursorID]relay.DeliveryRow) error {
	endpoints, err := s.Endpoints(ctx)
	if err != nil {
		return err
	}
	replays, err := s.Replays(ctx)
	if err != nil {
		return err
	}
	cursors, routed, err := s.Cursors(ctx)
	if err != nil {
		return err
	}
	position := make(map[relay.CursorID]int64, len(cursors))
	for _, c := range cursors {
		position[c.CursorID] = c.Position
	}
	for i := range endpoints {
		ep := &endpoints[i]
		if !wants(ep, e) {
			continue
		}
		live := relay.CursorID{Endpoint: ep.ID, Stream: e.Stream}
		at, own := position[live]
		if !own {
			at = routed[e.Stream]
		}
		if e.Seq > at {
			addWaitingRow(ep, live, e, rows)
		}
		for _, r := range replays {
			c := relay.CursorID{Endpoint: ep.ID, Stream: e.Stream, Replay: r.ID}
			if at, own := position[c]; own && e.Seq > at && r.Stream == e.Stream && r.From <= e.Seq && e.Seq <= r.To {
				addWaitingRow(ep, c, e, rows)
			}
		}
	}
	return nil
}

func addWaitingRow(ep *relay.EndpointRow, c relay.CursorID, e *relay.Event, rows map[relay.CursorID]relay.DeliveryRow) {
	if _, known := rows[c]; known {
		return
	}
	d := relay.OpenDelivery{CursorID: c, Seq: e.Seq, State: relay.StatePending}
	if ep.Status != relay.EndpointActive {
		d.State = relay.StateHeld
	}
	describe(&d, e)
	rows[c] = relay.DeliveryRow{OpenDelivery: d}
}

// wants reports whether the version of the endpoint that is in force at the
// event's place wants the event.
func wants(ep *relay.EndpointRow, e *relay.Event) bool {
	for _, v := range slices.Backward(ep.Versions) {
		if e.Seq <= v.After[e.Stream] {
			continue
		}
		p, err := relay.ParsePatterns(strings.Split(v.Patterns, ","))
		return err == nil && p.Match(e.Type, e.Version)
	}
	return false
}
