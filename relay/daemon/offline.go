package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// Offline acts on the store of a daemon that does not run. It holds the lock
// of the data folder until it is closed.
type Offline struct {
	*admin.Views
	store *sqlitestore.Store
	cfg   *config.Config
}

var _ admin.Actions = (*Offline)(nil)

// OpenOffline takes the lock of the data folder. cfg may be nil; then what
// needs a database is refused.
func OpenOffline(ctx context.Context, dataDir, version string, cfg *config.Config, logger *slog.Logger) (*Offline, error) {
	store, err := sqlitestore.Open(ctx, sqlitestore.Options{Dir: dataDir, Logger: logger})
	if err != nil {
		return nil, err
	}
	o := &Offline{Views: &admin.Views{Store: store, Version: version, DataDir: dataDir, Pending: pendingIn(store)}, store: store, cfg: cfg}
	if cfg != nil {
		o.Log = cfg.Settings.Retention
	}
	return o, nil
}

// Close lets go of the data folder.
func (o *Offline) Close() error { return o.store.Close() }

// Retry implements admin.Changes: the deliveries are tried when the daemon
// runs.
func (o *Offline) Retry(ctx context.Context, req *api.RetryRequest) (*api.RetryResponse, error) {
	refs, err := deadDeliveries(ctx, o.store, req)
	if err != nil {
		return nil, err
	}
	res := &api.RetryResponse{}
	for _, ref := range refs {
		if _, err := o.store.RetryDead(ctx, ref, time.Now()); err != nil {
			return nil, err
		}
		res.Retried++
	}
	return res, nil
}

// RetryFailures implements admin.Changes.
func (o *Offline) RetryFailures(context.Context, *api.RetryFailuresRequest) (*api.RetryFailuresResponse, error) {
	return nil, api.Errorf(api.CodeUnsupported, "changes are judged again by a running daemon: start it with the corrected rules")
}

func (o *Offline) setEnabled(ctx context.Context, req *api.EndpointRequest, status, reason string) (*api.Endpoint, error) {
	rows, err := o.store.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(rows, func(r relay.EndpointRow) bool { return r.ID == req.Name })
	if i < 0 {
		return nil, noEndpoint(rows, req.Name)
	}
	if rows[i].Status == relay.EndpointVanished {
		return nil, api.Errorf(api.CodeConflict, "endpoint %s is no longer in the configuration", req.Name)
	}
	rows[i].Status, rows[i].Reason = status, reason
	if err := o.store.PutEndpoint(ctx, &rows[i]); err != nil {
		return nil, err
	}
	if status == relay.EndpointActive {
		if _, err := o.store.ReleaseEndpoint(ctx, req.Name); err != nil {
			return nil, err
		}
	}
	return endpointRow(ctx, o.store, req.Name)
}

// EnableEndpoint implements admin.Changes.
func (o *Offline) EnableEndpoint(ctx context.Context, req *api.EndpointRequest) (*api.Endpoint, error) {
	return o.setEnabled(ctx, req, relay.EndpointActive, "")
}

// DisableEndpoint implements admin.Changes.
func (o *Offline) DisableEndpoint(ctx context.Context, req *api.EndpointRequest) (*api.Endpoint, error) {
	reason := req.Reason
	if reason == "" {
		reason = "disabled by a person"
	}
	return o.setEnabled(ctx, req, relay.EndpointDisabled, reason)
}

// RemoveEndpoint implements admin.Changes. Only a daemon that has read the
// configuration knows which endpoints have vanished.
func (o *Offline) RemoveEndpoint(ctx context.Context, req *api.EndpointRequest) (*api.RemoveResponse, error) {
	rows, err := o.store.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(rows, func(r relay.EndpointRow) bool { return r.ID == req.Name })
	if i < 0 {
		return nil, noEndpoint(rows, req.Name)
	}
	if rows[i].Status != relay.EndpointVanished {
		return nil, errConfigured(req.Name)
	}
	n, err := o.store.CancelEndpoint(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	cursors, _, err := o.store.Cursors(ctx)
	if err != nil {
		return nil, err
	}
	s := &relay.Settlement{}
	for _, c := range cursors {
		if c.Endpoint == req.Name {
			s.Current = append(s.Current, c.CursorID)
		}
	}
	return &api.RemoveResponse{Name: req.Name, Cancelled: n}, o.store.Settle(ctx, s)
}

// ResetCheckpoint implements admin.Changes: the reset is decided and applied at
// the next start, when server and slot can be seen.
func (o *Offline) ResetCheckpoint(ctx context.Context, req *api.ResetRequest) (*api.ResetResponse, error) {
	if req.Cancel {
		was, err := o.Pending(ctx, req.Source)
		if err != nil {
			return nil, err
		}
		if was == "" {
			return nil, nothingPending(req.Source)
		}
		return cancelled(req.Source, was), o.store.PutSetting(ctx, pendingKey(req.Source), "")
	}
	r, err := parseReset(req)
	if err != nil {
		return nil, err
	}
	st, err := o.store.SourceState(ctx, req.Source)
	if err != nil {
		return nil, err
	}
	if st == nil && (o.cfg == nil || o.cfg.Source(req.Source) == nil) {
		return nil, fmt.Errorf("source %s: %w", req.Source, relay.ErrNotFound)
	}
	res := &api.ResetResponse{Source: req.Source, To: req.To}
	if st != nil {
		res.From, res.Generation = st.LSN.String(), st.Generation
		if r.From != 0 && r.From != st.LSN {
			return nil, api.Errorf(api.CodeConflict, "the checkpoint is %s, not %s as the reset expects", st.LSN, r.From)
		}
	}
	if err := o.store.PutSetting(ctx, pendingKey(req.Source), r.String()); err != nil {
		return nil, err
	}
	res.Note = "the reset is applied when the daemon starts, which says what it did"
	return res, nil
}

// DropSource implements admin.Changes.
func (o *Offline) DropSource(ctx context.Context, req *api.DropRequest) (*api.DropResponse, error) {
	var s *config.Source
	if o.cfg != nil {
		s = o.cfg.Source(req.Source)
	}
	switch {
	case s == nil:
		return nil, api.Errorf(api.CodeInvalid, "source %s is not in the configuration, which has the address of its database: name the configuration with -c", req.Source)
	case s.URL.IsZero():
		return nil, api.Errorf(api.CodeInvalid, "the URL of source %s is not known here: set the environment variable that the configuration reads", req.Source)
	}
	return dropSource(ctx, o.store, s.URL, s.Name, s.Slot, s.Publication, s.Manage)
}

// Reload implements admin.Changes.
func (o *Offline) Reload(context.Context, *api.ReloadRequest) (*api.ReloadResponse, error) {
	return nil, api.Errorf(api.CodeUnavailable, "no daemon runs in this data folder; it reads its configuration when it starts")
}

// Backup implements admin.Changes.
func (o *Offline) Backup(ctx context.Context, req *api.BackupRequest) (*api.BackupResponse, error) {
	return backup(ctx, o.store, req)
}
