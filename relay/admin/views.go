package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// Store is what the views read.
type Store interface {
	relay.Queries
	Endpoints(ctx context.Context) ([]relay.EndpointRow, error)
	Cursors(ctx context.Context) (rows []relay.CursorState, routed map[string]int64, err error)
	Streams(ctx context.Context) (map[string]relay.StreamState, error)
	Backfills(ctx context.Context) ([]relay.Backfill, error)
	RulesRecords(ctx context.Context, source string) ([]relay.RulesRecord, error)
}

// Views are the [Reads] of a store: everything that needs no running daemon.
// A daemon embeds it and has a Status of its own.
type Views struct {
	Store Store
	// Version, DataDir and the log's bounds are for Status.
	Version string
	DataDir string
	Log     relay.RetentionLimits
	// Pending returns the reset that waits to be applied to a source, or "". Nil is
	// none.
	Pending func(ctx context.Context, source string) (string, error)
}

const (
	defaultLimit = 50
	maxLimit     = 1000
	// maxFailures is more than a log holds.
	maxFailures = 1 << 20
)

func limit(n int) (int, error) {
	switch {
	case n < 0 || n > maxLimit:
		return 0, api.Errorf(api.CodeInvalid, "a limit is a number from 1 to %d", maxLimit)
	case n == 0:
		return defaultLimit, nil
	}
	return n, nil
}

// Events implements [Reads].
func (v *Views) Events(ctx context.Context, req *api.EventsRequest) (*api.Events, error) {
	n, err := limit(req.Limit)
	if err != nil {
		return nil, err
	}
	q := relay.EventQuery{
		Stream: req.Stream, Source: req.Source, Key: req.Key, Tenant: req.Tenant, Limit: n,
		After: micros(req.After), Before: micros(req.Before),
	}
	if len(req.Types) > 0 {
		p, err := relay.ParsePatterns(req.Types)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "event types: %v", err)
		}
		q.Types = &p
	}
	if req.Source != "" {
		if err := v.knowsSource(ctx, req.Source); err != nil {
			return nil, err
		}
	}
	events, err := v.Store.Events(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	res := &api.Events{Events: make([]api.Event, len(events))}
	for i := range events {
		res.Events[i] = Event(&events[i])
	}
	return res, nil
}

// Event implements [Reads].
func (v *Views) Event(ctx context.Context, req *api.EventRequest) (*api.EventDetail, error) {
	id, err := eventID(req.ID)
	if err != nil {
		return nil, err
	}
	e, err := v.Store.Event(ctx, id)
	if err != nil {
		return nil, eventError(id, err)
	}
	res := &api.EventDetail{Event: Event(e)}
	res.Deliveries, err = v.deliveries(ctx, id)
	return res, err
}

func eventID(s string) (relay.EventID, error) {
	id, err := relay.ParseEventID(s)
	if err != nil {
		return id, &api.Error{Code: api.CodeInvalid, Detail: err.Error()}
	}
	return id, nil
}

func eventError(id relay.EventID, err error) error {
	if errors.Is(err, relay.ErrNotFound) {
		return api.Errorf(api.CodeNotFound, "the log has no event %s (any more)", id)
	}
	return fmt.Errorf("read event %s: %w", id, err)
}

// deliveries returns what became of an event at each endpoint.
func (v *Views) deliveries(ctx context.Context, id relay.EventID) ([]api.DeliveryDetail, error) {
	rows, err := v.Store.Deliveries(ctx, relay.DeliveryQuery{Event: &id, Limit: maxLimit})
	if err != nil {
		return nil, fmt.Errorf("read deliveries of %s: %w", id, err)
	}
	attempts, err := v.Store.Attempts(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read attempts of %s: %w", id, err)
	}
	res := make([]api.DeliveryDetail, len(rows))
	for i := range rows {
		res[i] = api.DeliveryDetail{Delivery: delivery(&rows[i]), Log: []api.Attempt{}}
		for j := range attempts {
			if attempts[j].CursorID == rows[i].CursorID && attempts[j].Seq == rows[i].Seq {
				res[i].Log = append(res[i].Log, attempt(&attempts[j]))
			}
		}
	}
	return res, nil
}

// position returns the place of an endpoint's live cursor in a stream.
func position(endpoint, stream string, rows []relay.CursorState, routed map[string]int64) int64 {
	for i := range rows {
		if rows[i].CursorID == (relay.CursorID{Endpoint: endpoint, Stream: stream}) {
			return rows[i].Position
		}
	}
	return routed[stream]
}

// Failures implements [Reads].
func (v *Views) Failures(ctx context.Context, req *api.FailuresRequest) (*api.Failures, error) {
	n, err := limit(req.Limit)
	if err != nil {
		return nil, err
	}
	if req.ID != 0 {
		n = maxFailures
	}
	rows, err := v.Store.Failures(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("read failures: %w", err)
	}
	if req.ID != 0 {
		i := slices.IndexFunc(rows, func(f relay.Failure) bool { return f.ID == req.ID })
		if i < 0 {
			return nil, api.Errorf(api.CodeNotFound, "there is no failure %d (any more): it may have been judged again, or be older than the log", req.ID)
		}
		rows = rows[i : i+1]
	}
	res := &api.Failures{Failures: make([]api.Failure, len(rows))}
	for i := range rows {
		res.Failures[i] = Failure(&rows[i])
	}
	return res, nil
}

// Deliveries implements [Reads].
func (v *Views) Deliveries(ctx context.Context, req *api.DeliveriesRequest) (*api.Deliveries, error) {
	n, err := limit(req.Limit)
	if err != nil {
		return nil, err
	}
	q := relay.DeliveryQuery{Endpoint: req.Endpoint, State: relay.State(req.State), Limit: n}
	switch q.State {
	case "", relay.StatePending, relay.StateRetrying, relay.StateDelivered, relay.StateDead, relay.StateHeld, relay.StateCancelled:
	default:
		return nil, api.Errorf(api.CodeInvalid, "%q is not the state of a delivery: pending, retrying, delivered, dead, held or cancelled", req.State)
	}
	if req.Endpoint != "" {
		if err := v.knowsEndpoint(ctx, req.Endpoint); err != nil {
			return nil, err
		}
	}
	if req.Event != "" {
		id, err := eventID(req.Event)
		if err != nil {
			return nil, err
		}
		q.Event = &id
	}
	rows, err := v.Store.Deliveries(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("read deliveries: %w", err)
	}
	res := &api.Deliveries{Deliveries: make([]api.Delivery, len(rows))}
	for i := range rows {
		res.Deliveries[i] = delivery(&rows[i])
	}
	return res, nil
}

// Delivery implements [Reads].
func (v *Views) Delivery(ctx context.Context, req *api.DeliveryRequest) (*api.DeliveryDetails, error) {
	id, err := eventID(req.Event)
	if err != nil {
		return nil, err
	}
	if err := v.knowsEndpoint(ctx, req.Endpoint); err != nil {
		return nil, err
	}
	if _, err := v.Store.Event(ctx, id); err != nil {
		return nil, eventError(id, err)
	}
	all, err := v.deliveries(ctx, id)
	if err != nil {
		return nil, err
	}
	res := &api.DeliveryDetails{Deliveries: []api.DeliveryDetail{}}
	for _, d := range all {
		if d.Endpoint == req.Endpoint {
			res.Deliveries = append(res.Deliveries, d)
		}
	}
	if len(res.Deliveries) == 0 {
		return nil, api.Errorf(api.CodeNotFound, "event %s has no delivery at endpoint %q", id, req.Endpoint)
	}
	return res, nil
}

// Endpoints implements [Reads].
func (v *Views) Endpoints(ctx context.Context, _ *api.EndpointsRequest) (*api.Endpoints, error) {
	rows, err := v.Store.Endpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	res := &api.Endpoints{Endpoints: make([]api.Endpoint, len(rows))}
	for i := range rows {
		res.Endpoints[i] = Endpoint(&rows[i])
	}
	return res, nil
}

// knowsEndpoint returns an error that lists what names there are when there is
// no endpoint with the name.
func (v *Views) knowsEndpoint(ctx context.Context, name string) error {
	rows, err := v.Store.Endpoints(ctx)
	if err != nil {
		return fmt.Errorf("read endpoints: %w", err)
	}
	names := make([]string, len(rows))
	for i := range rows {
		if rows[i].ID == name {
			return nil
		}
		names[i] = rows[i].ID
	}
	return unknown("endpoint", name, names)
}

// knowsSource is knowsEndpoint for sources. A store that no source has used yet
// knows of none, and then every name will do.
func (v *Views) knowsSource(ctx context.Context, name string) error {
	rows, err := v.Store.Sources(ctx)
	if err != nil {
		return fmt.Errorf("read sources: %w", err)
	}
	names := make([]string, len(rows))
	for i := range rows {
		if names[i] = rows[i].Source; names[i] == name {
			return nil
		}
	}
	if len(names) == 0 {
		return nil
	}
	return unknown("source", name, names)
}

func unknown(what, name string, names []string) error {
	if len(names) == 0 {
		return api.Errorf(api.CodeNotFound, "there is no %s %q, nor any other yet", what, name)
	}
	return api.Errorf(api.CodeNotFound, "there is no %s %q; there is %s", what, name, strings.Join(names, ", "))
}

// Checkpoints implements [Reads].
func (v *Views) Checkpoints(ctx context.Context, req *api.CheckpointsRequest) (*api.Checkpoints, error) {
	states, err := v.Store.Sources(ctx)
	if err != nil {
		return nil, fmt.Errorf("read sources: %w", err)
	}
	res := &api.Checkpoints{Checkpoints: []api.Checkpoint{}}
	var names []string
	for i := range states {
		names = append(names, states[i].Source)
		if req.Source != "" && req.Source != states[i].Source {
			continue
		}
		c := checkpoint(&states[i])
		if v.Pending != nil {
			if c.Pending, err = v.Pending(ctx, c.Source); err != nil {
				return nil, fmt.Errorf("read pending reset of %s: %w", c.Source, err)
			}
		}
		gaps, err := v.Store.Gaps(ctx, states[i].Source)
		if err != nil {
			return nil, fmt.Errorf("read gaps of %s: %w", states[i].Source, err)
		}
		for j := range gaps {
			c.Gaps = append(c.Gaps, Gap(&gaps[j]))
		}
		res.Checkpoints = append(res.Checkpoints, c)
	}
	if req.Source != "" && len(res.Checkpoints) == 0 {
		return nil, unknown("source", req.Source, names)
	}
	return res, nil
}

// Status returns what the store tells of a stopped daemon.
func (v *Views) Status(ctx context.Context, _ *api.StatusRequest) (*api.Status, error) {
	size, err := v.Store.Size(ctx)
	if err != nil {
		return nil, fmt.Errorf("read size of log: %w", err)
	}
	st := &api.Status{
		Version: v.Version, Now: time.Now().UTC(), DataDir: v.DataDir,
		Log:     api.LogStatus{Bytes: size, MaxBytes: v.Log.MaxBytes, RetentionSeconds: int64(v.Log.Age / time.Second)},
		Sources: []api.SourceStatus{}, Rules: []api.RuleStatus{}, Endpoints: []api.EndpointStatus{},
	}
	cps, err := v.Checkpoints(ctx, &api.CheckpointsRequest{})
	if err != nil {
		return nil, err
	}
	for i := range cps.Checkpoints {
		c := &cps.Checkpoints[i]
		s := api.SourceStatus{
			Name: c.Source, State: api.SourceStopped, Reason: "the daemon is not running", Address: c.Address, Database: c.Database,
			Slot: c.Slot, Publication: c.Publication, SystemID: c.SystemID, Timeline: c.Timeline, Generation: c.Generation,
			Checkpoint: c.LSN, Gaps: int64(len(c.Gaps)),
		}
		if n := len(c.Gaps); n > 0 {
			s.LastGap = &c.Gaps[n-1]
		}
		st.Sources = append(st.Sources, s)
	}
	counts, err := v.Store.DeliveryCounts(ctx)
	if err != nil {
		return nil, fmt.Errorf("count deliveries: %w", err)
	}
	rows, err := v.Store.Endpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	cursors, routed, err := v.Store.Cursors(ctx)
	if err != nil {
		return nil, fmt.Errorf("read cursors: %w", err)
	}
	streams, err := v.Store.Streams(ctx)
	if err != nil {
		return nil, fmt.Errorf("read streams: %w", err)
	}
	for i := range rows {
		e := api.EndpointStatus{
			Endpoint: Endpoint(&rows[i]),
			Retrying: counts[rows[i].ID][relay.StateRetrying],
			Dead:     counts[rows[i].ID][relay.StateDead],
			Held:     counts[rows[i].ID][relay.StateHeld],
		}
		for name, s := range streams {
			e.Behind += max(0, s.Head-max(position(rows[i].ID, name, cursors, routed), s.First-1))
		}
		st.Endpoints = append(st.Endpoints, e)
	}
	return st, nil
}

// Event returns the wire form of an event, which does not share its memory.
func Event(e *relay.Event) api.Event {
	res := api.Event{
		ID: e.ID.String(), Type: e.Type, Version: max(e.Version, 1), Time: fromMicros(e.Time), Source: e.Source, Rule: e.Rule,
		Table: e.Table, Op: e.Op.String(), Sequence: e.Sequence(), Stream: e.Stream, Seq: e.Seq, Generation: e.Generation,
		Barrier: e.Barrier, Unchanged: e.Unchanged, Data: raw(e.Data),
	}
	if e.HasKey {
		res.Key = text(e.Key)
	}
	if e.OldKey != nil {
		res.OldKey = text(e.OldKey)
	}
	if e.Tenant != nil {
		res.Tenant = text(e.Tenant)
	}
	switch e.Op {
	case relay.Notify, relay.System: // their place is a time
	default:
		res.LSN = lsn(relay.LSN(e.ID.Place()))
	}
	return res
}

// Endpoint returns the wire form of an endpoint.
func Endpoint(r *relay.EndpointRow) api.Endpoint {
	res := api.Endpoint{
		Name: r.ID, Kind: r.Kind, Target: r.Target, Status: r.Status, Reason: r.Reason, Events: []string{}, Created: fromMicros(r.CreatedAt),
	}
	if n := len(r.Versions); n > 0 && r.Versions[n-1].Patterns != "" {
		res.Events = strings.Split(r.Versions[n-1].Patterns, ",")
	}
	return res
}

// Failure returns the wire form of a failure.
func Failure(f *relay.Failure) api.Failure {
	return api.Failure{
		ID: f.ID, Rule: f.Rule, At: fromMicros(f.At), Error: f.Err, Stream: f.Stream, Seq: f.Seq,
		Table: f.Table, LSN: lsn(f.LSN), XID: f.XID, Change: raw(f.Change),
	}
}

// Gap returns the wire form of a gap.
func Gap(g *relay.Gap) api.Gap {
	return api.Gap{Generation: g.Generation, At: fromMicros(g.At), From: lsn(g.From), To: lsn(g.To), Reason: g.Reason}
}

func checkpoint(s *relay.SourceState) api.Checkpoint {
	c := api.Checkpoint{
		Source: s.Source, LSN: lsn(s.LSN), Generation: s.Generation, Timeline: s.Timeline, SystemID: strconv.FormatUint(s.SystemID, 10),
		Address: s.Address, Database: s.Database, Slot: s.Slot, Publication: s.Publication, Phase: string(s.Phase), Updated: fromMicros(s.UpdatedAt),
	}
	if p := s.Partial; p != nil {
		c.Partial = &api.Partial{LSN: lsn(p.CommitLSN), XID: p.XID, Changes: p.Changes, Events: p.Events}
	}
	return c
}

func delivery(r *relay.DeliveryRow) api.Delivery {
	d := api.Delivery{
		Event: r.EventID.String(), Endpoint: r.Endpoint, Type: r.Type, Stream: r.Stream, Seq: r.Seq, Replay: r.Replay,
		State: string(r.State), Attempts: r.Attempts, Again: r.Again, Time: fromMicros(r.Time),
		Status: r.Status, Class: string(r.LastClass), Error: r.LastError,
	}
	if r.State == relay.StateRetrying {
		d.Next = fromMicros(r.NextAt)
	}
	return d
}

func attempt(a *relay.Attempt) api.Attempt {
	return api.Attempt{
		N: a.N, At: fromMicros(a.At), DurationMS: float64(a.Duration.Microseconds()) / 1e3, Status: a.Status,
		Class: string(a.Class), Error: a.Err, Response: string(a.Response),
	}
}

func text(b []byte) *string {
	s := string(b)
	return &s
}

// raw returns JSON as it is. What is not JSON (it never should be) becomes a
// string, so that one damaged value does not make a whole list unreadable.
func raw(b []byte) json.RawMessage {
	if json.Valid(b) {
		return append(json.RawMessage(nil), b...)
	}
	if len(b) == 0 {
		return json.RawMessage("null")
	}
	s, _ := json.Marshal(string(b))
	return s
}

func lsn(l relay.LSN) string {
	if l == 0 {
		return ""
	}
	return l.String()
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(m int64) time.Time {
	if m == 0 {
		return time.Time{}
	}
	return time.UnixMicro(m).UTC()
}
