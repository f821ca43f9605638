package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// Actions is what the API needs from the daemon, one method a call. An
// *api.Client is one too, so that a command is written once for a running
// daemon and for a stopped one.
//
// An error that is, or wraps, an *api.Error reaches the caller as it is;
// relay.ErrNotFound, relay.ErrStoreFull and relay.ErrStoreLocked have codes of
// their own, and everything else is an internal error.
type Actions interface {
	Reads
	Changes
}

// Reads are the calls that change nothing.
type Reads interface {
	// Status must answer from memory, also when a disk or a database hangs:
	// readiness and metrics are computed from it.
	Status(context.Context, *api.StatusRequest) (*api.Status, error)
	Events(context.Context, *api.EventsRequest) (*api.Events, error)
	Event(context.Context, *api.EventRequest) (*api.EventDetail, error)
	Failures(context.Context, *api.FailuresRequest) (*api.Failures, error)
	Deliveries(context.Context, *api.DeliveriesRequest) (*api.Deliveries, error)
	Delivery(context.Context, *api.DeliveryRequest) (*api.DeliveryDetails, error)
	Endpoints(context.Context, *api.EndpointsRequest) (*api.Endpoints, error)
	Checkpoints(context.Context, *api.CheckpointsRequest) (*api.Checkpoints, error)
	Explain(context.Context, *api.ExplainRequest) (*api.Explanation, error)
	Backfills(context.Context, *api.BackfillsRequest) (*api.Backfills, error)
	Kept(context.Context, *api.KeptRequest) (*api.KeptChanges, error)
}

// Changes are the calls that change something. Each is logged.
type Changes interface {
	Retry(context.Context, *api.RetryRequest) (*api.RetryResponse, error)
	RetryFailures(context.Context, *api.RetryFailuresRequest) (*api.RetryFailuresResponse, error)
	RemoveEndpoint(context.Context, *api.EndpointRequest) (*api.RemoveResponse, error)
	EnableEndpoint(context.Context, *api.EndpointRequest) (*api.Endpoint, error)
	DisableEndpoint(context.Context, *api.EndpointRequest) (*api.Endpoint, error)
	ResetCheckpoint(context.Context, *api.ResetRequest) (*api.ResetResponse, error)
	DropSource(context.Context, *api.DropRequest) (*api.DropResponse, error)
	StartBackfill(context.Context, *api.BackfillRequest) (*api.Backfill, error)
	CancelBackfill(context.Context, *api.CancelBackfillRequest) (*api.Backfill, error)
	Reload(context.Context, *api.ReloadRequest) (*api.ReloadResponse, error)
	Backup(context.Context, *api.BackupRequest) (*api.BackupResponse, error)
}

var _ Actions = (*api.Client)(nil)

// routeCalls adds every call of the API to mux.
func (s *Server) routeCalls(mux *http.ServeMux) {
	a := s.Actions
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("POST /v1/events/list", read(s, a.Events))
	mux.HandleFunc("POST /v1/events/show", read(s, a.Event))
	mux.HandleFunc("POST /v1/events/failures", read(s, a.Failures))
	mux.HandleFunc("POST /v1/deliveries/list", read(s, a.Deliveries))
	mux.HandleFunc("POST /v1/deliveries/show", read(s, a.Delivery))
	mux.HandleFunc("POST /v1/endpoints/list", read(s, a.Endpoints))
	mux.HandleFunc("POST /v1/checkpoints/list", read(s, a.Checkpoints))
	mux.HandleFunc("POST /v1/explain", read(s, a.Explain))
	mux.HandleFunc("POST /v1/backfills/list", read(s, a.Backfills))
	mux.HandleFunc("POST /v1/changes/list", read(s, a.Kept))
	mux.HandleFunc("POST /v1/backfills/start", change(s, "start backfill", a.StartBackfill))
	mux.HandleFunc("POST /v1/backfills/cancel", change(s, "cancel backfill", a.CancelBackfill))
	mux.HandleFunc("POST /v1/events/retry-failures", change(s, "retry failed changes", a.RetryFailures))
	mux.HandleFunc("POST /v1/deliveries/retry", change(s, "retry deliveries", a.Retry))
	mux.HandleFunc("POST /v1/endpoints/remove", change(s, "remove endpoint", a.RemoveEndpoint))
	mux.HandleFunc("POST /v1/endpoints/enable", change(s, "enable endpoint", a.EnableEndpoint))
	mux.HandleFunc("POST /v1/endpoints/disable", change(s, "disable endpoint", a.DisableEndpoint))
	mux.HandleFunc("POST /v1/checkpoints/reset", change(s, "reset checkpoint", a.ResetCheckpoint))
	mux.HandleFunc("POST /v1/sources/drop", change(s, "drop source", a.DropSource))
	mux.HandleFunc("POST /v1/reload", change(s, "reload", a.Reload))
	mux.HandleFunc("POST /v1/backup", change(s, "back up", a.Backup))
}

type action[Req, Resp any] func(context.Context, *Req) (*Resp, error)

// read serves one call that changes nothing.
func read[Req, Resp any](s *Server, f action[Req, Resp]) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		req := new(Req)
		if err := decode(w, r, req); err != nil {
			s.writeError(w, r, err)
			return
		}
		res, err := f(r.Context(), req)
		if err != nil {
			s.writeError(w, r, err)
			return
		}
		s.writeJSON(w, r, http.StatusOK, res)
	}
}

// change serves one call that changes something, and logs who asked for what.
func change[Req, Resp any](s *Server, what string, f action[Req, Resp]) http.HandlerFunc {
	logged := func(ctx context.Context, req *Req) (*Resp, error) {
		res, err := f(ctx, req)
		if err != nil {
			s.logger().Warn("admin action refused", "action", what, "request", requestText(req), "err", err)
		} else {
			s.logger().Info("admin action", "action", what, "request", requestText(req))
		}
		return res, err
	}
	return read(s, logged)
}

// requestText prints a request for the log. None holds a secret.
func requestText(req any) json.RawMessage {
	text, err := json.Marshal(req)
	if err != nil {
		return nil
	}
	return text
}

// apiError returns the error that a caller of the API gets for err.
func apiError(err error) *api.Error {
	var e *api.Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &tooLarge):
		return api.Errorf(api.CodeInvalid, "the request is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, relay.ErrNotFound):
		return &api.Error{Code: api.CodeNotFound, Detail: err.Error()}
	case errors.Is(err, relay.ErrStoreFull):
		return &api.Error{Code: api.CodeStoreFull, Detail: err.Error()}
	case errors.Is(err, relay.ErrStoreLocked):
		return &api.Error{Code: api.CodeConflict, Detail: err.Error()}
	case errors.Is(err, context.DeadlineExceeded):
		return &api.Error{Code: api.CodeTimeout, Detail: err.Error()}
	case errors.Is(err, context.Canceled):
		return &api.Error{Code: api.CodeUnavailable, Detail: "the daemon is stopping, or the caller has gone"}
	}
	return &api.Error{Code: api.CodeInternal, Detail: err.Error()}
}

var discard = slog.New(slog.DiscardHandler)

func (s *Server) logger() *slog.Logger {
	if s.Logger == nil {
		return discard
	}
	return s.Logger
}
