package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
)

// ErrNotRunning says that no daemon listens where the client was told to call.
var ErrNotRunning = errors.New("rowhook is not running")

// Client calls a daemon. It is safe for concurrent use. There is no deadline
// but that of the context.
type Client struct {
	base string
	http *http.Client
}

// NewSocketClient returns a client of the daemon with the socket at path.
func NewSocketClient(path string) *Client {
	return &Client{
		base: "http://rowhook",
		http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialSocket(ctx, path) },
		}},
	}
}

// NewClient returns a client of the daemon that listens at the URL
// ("http://127.0.0.1:8090"), where only Status is served. Proxies from the
// environment are ignored.
func NewClient(url string) *Client {
	return &Client{base: strings.TrimSuffix(url, "/"), http: &http.Client{Transport: &http.Transport{}}}
}

// Close closes idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// maxResponse bounds what is read of an answer: the largest is a thousand
// events of which each may have some megabytes.
const maxResponse = 1 << 30

// call makes one call; a request is sent with a POST only.
func call[Resp, Req any](ctx context.Context, c *Client, method, path string, req *Req) (*Resp, error) {
	var body io.Reader
	if method == http.MethodPost {
		b, err := json.Marshal(req)
		if err != nil {
			return nil, fmt.Errorf("call %s: %w", path, err)
		}
		body = bytes.NewReader(b)
	}
	hreq, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", path, err)
	}
	if body != nil {
		hreq.Header.Set("Content-Type", "application/json")
	}
	hres, err := c.http.Do(hreq)
	if err != nil {
		// The kernel says "refused" for a socket whose process is gone.
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
		}
		return nil, fmt.Errorf("call %s: %w", path, err)
	}
	defer hres.Body.Close()
	b, err := io.ReadAll(io.LimitReader(hres.Body, maxResponse))
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", path, err)
	}
	if hres.StatusCode != http.StatusOK {
		return nil, responseError(hres, b)
	}
	res := new(Resp)
	if err := json.Unmarshal(b, res); err != nil {
		return nil, fmt.Errorf("call %s: %w", path, err)
	}
	return res, nil
}

func responseError(res *http.Response, body []byte) error {
	if t, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); t == ProblemType {
		var p Problem
		if err := json.Unmarshal(body, &p); err == nil && p.Code != "" {
			return &Error{Code: p.Code, Detail: p.Detail}
		}
	}
	return fmt.Errorf("call %s: unexpected answer %s", res.Request.URL.Path, res.Status)
}

// Status returns how the daemon is doing.
func (c *Client) Status(ctx context.Context, req *StatusRequest) (*Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", req)
}

// Events lists events.
func (c *Client) Events(ctx context.Context, req *EventsRequest) (*Events, error) {
	return call[Events](ctx, c, http.MethodPost, "/v1/events/list", req)
}

// Event returns an event and its deliveries.
func (c *Client) Event(ctx context.Context, req *EventRequest) (*EventDetail, error) {
	return call[EventDetail](ctx, c, http.MethodPost, "/v1/events/show", req)
}

// Failures lists changes on which a rule failed.
func (c *Client) Failures(ctx context.Context, req *FailuresRequest) (*Failures, error) {
	return call[Failures](ctx, c, http.MethodPost, "/v1/events/failures", req)
}

// RetryFailures has failed changes judged again.
func (c *Client) RetryFailures(ctx context.Context, req *RetryFailuresRequest) (*RetryFailuresResponse, error) {
	return call[RetryFailuresResponse](ctx, c, http.MethodPost, "/v1/events/retry-failures", req)
}

// Deliveries lists deliveries.
func (c *Client) Deliveries(ctx context.Context, req *DeliveriesRequest) (*Deliveries, error) {
	return call[Deliveries](ctx, c, http.MethodPost, "/v1/deliveries/list", req)
}

// Delivery returns the deliveries of an event at an endpoint with their
// attempts.
func (c *Client) Delivery(ctx context.Context, req *DeliveryRequest) (*DeliveryDetails, error) {
	return call[DeliveryDetails](ctx, c, http.MethodPost, "/v1/deliveries/show", req)
}

// Retry has dead deliveries tried again.
func (c *Client) Retry(ctx context.Context, req *RetryRequest) (*RetryResponse, error) {
	return call[RetryResponse](ctx, c, http.MethodPost, "/v1/deliveries/retry", req)
}

// Endpoints lists endpoints.
func (c *Client) Endpoints(ctx context.Context, req *EndpointsRequest) (*Endpoints, error) {
	return call[Endpoints](ctx, c, http.MethodPost, "/v1/endpoints/list", req)
}

// RemoveEndpoint gives up what is held for an endpoint that has vanished.
func (c *Client) RemoveEndpoint(ctx context.Context, req *EndpointRequest) (*RemoveResponse, error) {
	return call[RemoveResponse](ctx, c, http.MethodPost, "/v1/endpoints/remove", req)
}

// EnableEndpoint makes a disabled endpoint active; held deliveries go first.
func (c *Client) EnableEndpoint(ctx context.Context, req *EndpointRequest) (*Endpoint, error) {
	return call[Endpoint](ctx, c, http.MethodPost, "/v1/endpoints/enable", req)
}

// DisableEndpoint stops sending to an endpoint and keeps what it wants.
func (c *Client) DisableEndpoint(ctx context.Context, req *EndpointRequest) (*Endpoint, error) {
	return call[Endpoint](ctx, c, http.MethodPost, "/v1/endpoints/disable", req)
}

// Checkpoints returns the checkpoints of sources.
func (c *Client) Checkpoints(ctx context.Context, req *CheckpointsRequest) (*Checkpoints, error) {
	return call[Checkpoints](ctx, c, http.MethodPost, "/v1/checkpoints/list", req)
}

// ResetCheckpoint moves the checkpoint of a source.
func (c *Client) ResetCheckpoint(ctx context.Context, req *ResetRequest) (*ResetResponse, error) {
	return call[ResetResponse](ctx, c, http.MethodPost, "/v1/checkpoints/reset", req)
}

// DropSource removes slot and publication of a source.
func (c *Client) DropSource(ctx context.Context, req *DropRequest) (*DropResponse, error) {
	return call[DropResponse](ctx, c, http.MethodPost, "/v1/sources/drop", req)
}

// Backfills lists backfills.
func (c *Client) Backfills(ctx context.Context, req *BackfillsRequest) (*Backfills, error) {
	return call[Backfills](ctx, c, http.MethodPost, "/v1/backfills/list", req)
}

// StartBackfill makes events of the rows that exist.
func (c *Client) StartBackfill(ctx context.Context, req *BackfillRequest) (*Backfill, error) {
	return call[Backfill](ctx, c, http.MethodPost, "/v1/backfills/start", req)
}

// CancelBackfill ends a backfill.
func (c *Client) CancelBackfill(ctx context.Context, req *CancelBackfillRequest) (*Backfill, error) {
	return call[Backfill](ctx, c, http.MethodPost, "/v1/backfills/cancel", req)
}

// Backup writes a consistent copy of the store.
func (c *Client) Backup(ctx context.Context, req *BackupRequest) (*BackupResponse, error) {
	return call[BackupResponse](ctx, c, http.MethodPost, "/v1/backup", req)
}
