package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// The calls that change something implement admin.Changes.
var _ admin.Actions = (*Daemon)(nil)

// deadDeliveries returns the dead deliveries a retry asks for.
func deadDeliveries(ctx context.Context, store *sqlitestore.Store, req *api.RetryRequest) ([]relay.DeliveryRef, error) {
	q := relay.DeliveryQuery{Endpoint: req.Endpoint, State: relay.StateDead, Limit: 1 << 20}
	if req.Event != "" {
		id, err := relay.ParseEventID(req.Event)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "%v", err)
		}
		q.Event, q.State = &id, ""
	}
	rows, err := store.Deliveries(ctx, q)
	if err != nil {
		return nil, err
	}
	var refs []relay.DeliveryRef
	other := relay.State("")
	for _, r := range rows {
		if req.Endpoint != "" && r.Endpoint != req.Endpoint {
			continue
		}
		if r.State != relay.StateDead {
			other = r.State
			continue
		}
		refs = append(refs, relay.DeliveryRef{CursorID: r.CursorID, Seq: r.Seq})
	}
	if len(refs) == 0 {
		if _, err := endpointRow(ctx, store, req.Endpoint); err != nil {
			return nil, err
		}
	}
	if len(refs) > 0 || req.AllDead {
		return refs, nil
	}
	if other != "" {
		return nil, api.Errorf(api.CodeConflict, "the delivery is %s: only a dead one can be retried", other)
	}
	return nil, fmt.Errorf("a delivery of %s at %s: %w", req.Event, req.Endpoint, relay.ErrNotFound)
}

// Retry implements admin.Changes.
func (d *Daemon) Retry(ctx context.Context, req *api.RetryRequest) (*api.RetryResponse, error) {
	refs, err := deadDeliveries(ctx, d.store, req)
	if err != nil {
		return nil, err
	}
	res := &api.RetryResponse{}
	for _, ref := range refs {
		if !d.dispatcher.Serves(ref.Endpoint) {
			return nil, api.Errorf(api.CodeConflict, "endpoint %s is no longer in the configuration: its deliveries are held", ref.Endpoint)
		}
		row, err := d.store.RetryDead(ctx, ref, time.Now())
		if errors.Is(err, relay.ErrNotFound) && req.AllDead {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := d.dispatcher.Retry(&row); err != nil {
			return nil, err
		}
		res.Retried++
	}
	return res, nil
}

func (d *Daemon) setEnabled(ctx context.Context, req *api.EndpointRequest, enabled bool) (*api.Endpoint, error) {
	reason := req.Reason
	if reason == "" && !enabled {
		reason = "disabled by a person"
	}
	if err := d.dispatcher.SetEnabled(ctx, req.Name, enabled, reason); err != nil {
		return nil, err
	}
	return endpointRow(ctx, d.store, req.Name)
}

func endpointRow(ctx context.Context, store *sqlitestore.Store, name string) (*api.Endpoint, error) {
	rows, err := store.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if rows[i].ID == name {
			e := admin.Endpoint(&rows[i])
			return &e, nil
		}
	}
	return nil, noEndpoint(rows, name)
}

func noEndpoint(rows []relay.EndpointRow, name string) error {
	names := make([]string, len(rows))
	for i := range rows {
		names[i] = rows[i].ID
	}
	return api.Errorf(api.CodeNotFound, "there is no endpoint %s; there are %s", name, strings.Join(names, ", "))
}

// EnableEndpoint implements admin.Changes.
func (d *Daemon) EnableEndpoint(ctx context.Context, req *api.EndpointRequest) (*api.Endpoint, error) {
	return d.setEnabled(ctx, req, true)
}

// DisableEndpoint implements admin.Changes.
func (d *Daemon) DisableEndpoint(ctx context.Context, req *api.EndpointRequest) (*api.Endpoint, error) {
	return d.setEnabled(ctx, req, false)
}

// RemoveEndpoint implements admin.Changes.
func (d *Daemon) RemoveEndpoint(ctx context.Context, req *api.EndpointRequest) (*api.RemoveResponse, error) {
	if slices.ContainsFunc(d.config().Sinks, func(s config.Sink) bool { return s.Endpoint.ID == req.Name }) {
		return nil, errConfigured(req.Name)
	}
	n, err := d.store.CancelEndpoint(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	return &api.RemoveResponse{Name: req.Name, Cancelled: n}, d.dispatcher.RemoveVanished(ctx, req.Name)
}

func errConfigured(name string) error {
	return api.Errorf(api.CodeConflict, "endpoint %s is in the configuration: take its sink block out and run 'rowhook reload', or disable it", name)
}

func parseReset(req *api.ResetRequest) (relay.Reset, error) {
	text := req.Source + "="
	if req.From != "" {
		text += req.From + ".."
	}
	r, err := relay.ParseReset(text + req.To)
	if err != nil {
		return r, api.Errorf(api.CodeInvalid, "%v", err)
	}
	return r, nil
}

// pendingIn returns what reads the reset that was asked for while no daemon ran.
func pendingIn(store *sqlitestore.Store) func(context.Context, string) (string, error) {
	return func(ctx context.Context, source string) (string, error) {
		text, _, err := store.Setting(ctx, pendingKey(source))
		return text, err
	}
}

func nothingPending(source string) error {
	return api.Errorf(api.CodeConflict, "no reset of source %s waits to be applied", source)
}

func cancelled(source, reset string) *api.ResetResponse {
	return &api.ResetResponse{Source: source, Note: "the reset " + reset + " is not applied"}
}

// pending returns the reset that waits to be applied, or "".
func (d *Daemon) pending(_ context.Context, source string) (string, error) {
	s := d.source(source)
	if s == nil {
		return "", nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reset == nil {
		return "", nil
	}
	return s.reset.String(), nil
}

// beginReset says that the reset is being applied, unless it was cancelled since
// the start was planned with it; endReset that it is over.
func (s *source) beginReset(r *relay.Reset) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r != nil && s.reset != r {
		return stored(errors.New("the reset was cancelled"))
	}
	s.applying = r != nil
	return nil
}

func (s *source) endReset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applying = false
}

// cancelReset forgets a reset that is not applied yet, and tells who waits for
// it.
func (s *source) cancelReset(ctx context.Context) (*api.ResetResponse, error) {
	s.mu.Lock()
	if s.applying {
		s.mu.Unlock()
		return nil, api.Errorf(api.CodeConflict, "the reset is being applied")
	}
	reset, answer := s.reset, s.answer
	s.reset, s.answer = nil, nil
	s.mu.Unlock()
	if answer != nil {
		answer <- resetAnswer{err: api.Errorf(api.CodeConflict, "the reset was cancelled")}
	}
	if reset == nil {
		return nil, nothingPending(s.cfg.Name)
	}
	return cancelled(s.cfg.Name, reset.String()), s.d.store.PutSetting(ctx, pendingKey(s.cfg.Name), "")
}

// ResetCheckpoint implements admin.Changes: the source starts anew with the
// reset, and the call returns when that has been decided.
func (d *Daemon) ResetCheckpoint(ctx context.Context, req *api.ResetRequest) (*api.ResetResponse, error) {
	s := d.source(req.Source)
	if s == nil {
		return nil, fmt.Errorf("source %s: %w", req.Source, relay.ErrNotFound)
	}
	if req.Cancel {
		return s.cancelReset(ctx)
	}
	r, err := parseReset(req)
	if err != nil {
		return nil, err
	}
	if err := s.tryReset(ctx, &r); err != nil {
		return nil, err
	}
	// FROM held just now. The end of the session stores positions at which
	// nothing happened, and must not make it fail.
	r.From = 0
	answer := make(chan resetAnswer, 1)
	s.mu.Lock()
	if s.answer != nil {
		s.mu.Unlock()
		return nil, api.Errorf(api.CodeConflict, "another reset of source %s is under way", req.Source)
	}
	s.reset, s.answer = &r, answer
	restart := s.restart
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	if restart != nil {
		restart()
	}
	select {
	case a := <-answer:
		return a.res, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("the reset is not decided yet: the source does not reach its database: %w", ctx.Err())
	}
}

// tryReset says whether the reset would be refused as things are, so that one
// that is leaves a healthy source alone.
func (s *source) tryReset(ctx context.Context, r *relay.Reset) error {
	sv, err := cdc.Inspect(ctx, s.cfg.URL, s.cfg.Slot, s.cfg.Publication)
	if err != nil {
		return api.Errorf(api.CodeConflict, "the reset cannot be judged: %v", err)
	}
	known, err := s.d.store.SourceState(ctx, s.cfg.Name)
	if err != nil {
		return err
	}
	o, err := s.startOptions(ctx, known, r)
	if err != nil {
		return err
	}
	if _, err := relay.PlanStart(known, relayState(sv), o); err != nil {
		return api.Errorf(api.CodeConflict, "%v", err)
	}
	return nil
}

// refuseReset tells who asked for a reset that it was refused, and forgets it:
// a refused reset must not be applied to another situation later.
func (s *source) refuseReset(err error) {
	var refused *relay.StartRefusal
	s.mu.Lock()
	answer := s.answer
	s.answer = nil
	if !errors.As(err, &refused) {
		s.mu.Unlock()
		if answer != nil {
			answer <- resetAnswer{err: api.Errorf(api.CodeConflict, "the reset is not applied yet, and waits until the source can start: %v", err)}
		}
		return
	}
	if answer != nil || s.reset != nil && refused.Reason == relay.RefuseReset {
		s.reset = nil
	}
	s.mu.Unlock()
	if answer != nil {
		answer <- resetAnswer{err: api.Errorf(api.CodeConflict, "%v", err)}
	}
	_ = s.d.store.PutSetting(context.Background(), pendingKey(s.cfg.Name), "")
}

// applied notes that the reset was applied, starts the replay it asks for, and
// tells who asked for it.
func (s *source) applied(ctx context.Context, r *relay.Reset, before *relay.SourceState, plan *relay.StartPlan, now *relay.SourceState) error {
	res := &api.ResetResponse{Source: s.cfg.Name, To: now.LSN.String(), Generation: now.Generation}
	if before != nil {
		res.From = before.LSN.String()
	}
	res.Note = fmt.Sprintf("generation %d begins at %s", now.Generation, now.LSN)
	if len(plan.Notes) > 0 {
		res.Note = plan.Notes[len(plan.Notes)-1]
	}
	if plan.Replay {
		n, note, err := s.replayFrom(ctx, plan.ReplayFrom)
		if err != nil {
			return err
		}
		res.Replayed, res.Note = n, note
	}
	mark := ""
	for _, flag := range s.d.o.Resets {
		if flag.String() == r.String() {
			mark = r.String() + " " + time.Now().UTC().Format(time.RFC3339)
		}
	}
	if mark != "" {
		if err := s.d.store.PutSetting(ctx, appliedKey(s.cfg.Name), mark); err != nil {
			return stored(err)
		}
	}
	if err := s.d.store.PutSetting(ctx, pendingKey(s.cfg.Name), ""); err != nil {
		return stored(err)
	}
	s.log.Warn("checkpoint reset applied", "reset", r.String(), "lsn", now.LSN.String(), "note", res.Note)
	s.mu.Lock()
	s.reset = nil
	answer := s.answer
	s.answer = nil
	s.mu.Unlock()
	if answer != nil {
		answer <- resetAnswer{res: res}
	}
	return nil
}

// replayFrom delivers the events of the log from the LSN on again.
func (s *source) replayFrom(ctx context.Context, lsn relay.LSN) (int64, string, error) {
	stream := walStream(s.cfg.Name)
	states, err := s.d.store.Streams(ctx)
	if err != nil {
		return 0, "", stored(err)
	}
	head := states[stream].Head
	from, begin, err := s.d.firstFrom(ctx, stream, lsn)
	if err != nil {
		return 0, "", err
	}
	if from == 0 || from > head {
		return 0, fmt.Sprintf("the log holds no event from %s on; nothing is delivered again", lsn), nil
	}
	_, err = s.d.dispatcher.Replay(ctx, relay.Replay{Stream: stream, From: from, To: head, Reason: "checkpoint reset to " + lsn.String()})
	if errors.Is(err, relay.ErrNotFound) {
		return 0, "there is no endpoint to deliver to", nil
	}
	if err != nil {
		return 0, "", stored(err)
	}
	note := fmt.Sprintf("the checkpoint stays; %d places of the log from %s on are delivered again", head-from+1, begin)
	if begin > lsn && lsn != 0 {
		note += fmt.Sprintf("; the log begins at %s, what came before is not there any more", begin)
	}
	return head - from + 1, note, nil
}

// firstFrom returns the first place of the stream whose transaction committed
// at or after the LSN, and where it did; 0 when there is none.
func (d *Daemon) firstFrom(ctx context.Context, stream string, lsn relay.LSN) (int64, relay.LSN, error) {
	for after := int64(0); ; {
		blocks, err := d.store.Blocks(ctx, stream, after, 4<<20)
		if err != nil {
			return 0, 0, stored(err)
		}
		if len(blocks) == 0 {
			return 0, 0, nil
		}
		for _, b := range blocks {
			after = b.Last
			if relay.LSN(b.LastPlace) < lsn {
				continue
			}
			r := b.Reader()
			for e := (relay.Event{}); r.Next(&e); {
				if relay.LSN(e.Place) >= lsn {
					return e.Seq, relay.LSN(e.Place), nil
				}
			}
		}
	}
}

// DropSource implements admin.Changes: the source stops, and its slot and
// publication go.
func (d *Daemon) DropSource(ctx context.Context, req *api.DropRequest) (*api.DropResponse, error) {
	s := d.source(req.Source)
	if s == nil {
		return nil, fmt.Errorf("source %s: %w", req.Source, relay.ErrNotFound)
	}
	s.mu.Lock()
	s.dropped = true
	restart := s.restart
	s.mu.Unlock()
	if restart != nil {
		restart()
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	select {
	case <-s.ended: // nothing of the session is written after this
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	res, err := dropSource(ctx, d.store, s.cfg.URL, s.cfg.Name, s.cfg.Slot, s.cfg.Publication, s.cfg.Manage)
	if err == nil {
		res.Note = "the source stays stopped until the daemon starts again, which would make slot and publication anew while the configuration has it"
	}
	return res, err
}

// dropSource removes slot and publication. The store remembers that the next
// start begins a new generation.
func dropSource(ctx context.Context, store *sqlitestore.Store, url relay.Secret, name, slot, publication string, manage bool) (*api.DropResponse, error) {
	res := &api.DropResponse{Source: name}
	sv, err := cdc.Inspect(ctx, url, slot, publication)
	if err != nil {
		return nil, err
	}
	st, err := store.SourceState(ctx, name)
	if err != nil {
		return nil, err
	}
	if st != nil {
		n := *st
		n.Phase, n.Partial, n.Generation, n.UpdatedAt = relay.PhaseCreating, nil, st.Generation+1, time.Now().UnixMicro()
		gap := &relay.Gap{Source: name, Generation: n.Generation, At: n.UpdatedAt, From: st.LSN, Reason: "source dropped"}
		if err := store.PutSource(ctx, &n, gap); err != nil {
			return nil, err
		}
	}
	if sv.Slot != nil {
		if err := cdc.DropSlot(ctx, url, slot); err != nil {
			return nil, err
		}
		res.Slot = slot
	}
	if sv.Publication != nil && manage {
		if err := cdc.DropPublication(ctx, url, publication); err != nil {
			return nil, err
		}
		res.Publication = publication
	}
	return res, nil
}

// Backup implements admin.Changes.
func (d *Daemon) Backup(ctx context.Context, req *api.BackupRequest) (*api.BackupResponse, error) {
	return backup(ctx, d.store, req)
}

func backup(ctx context.Context, store *sqlitestore.Store, req *api.BackupRequest) (*api.BackupResponse, error) {
	if err := store.Backup(ctx, req.Path); err != nil {
		return nil, err
	}
	fi, err := os.Stat(req.Path)
	if err != nil {
		return nil, err
	}
	return &api.BackupResponse{Path: req.Path, Bytes: fi.Size()}, nil
}
