package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
)

var update = flag.Bool("update", false, "write golden files")

// actions answers with what a test sets; every other call panics.
type actions struct {
	admin.Actions
	status func(context.Context) (*api.Status, error)
	retry  func(*api.RetryRequest) (*api.RetryResponse, error)
	events func(*api.EventsRequest) (*api.Events, error)
}

func (a *actions) Status(ctx context.Context, _ *api.StatusRequest) (*api.Status, error) {
	return a.status(ctx)
}

func (a *actions) RemoveEndpoint(context.Context, *api.EndpointRequest) (*api.RemoveResponse, error) {
	return &api.RemoveResponse{}, nil
}

func (a *actions) RetryFailures(context.Context, *api.RetryFailuresRequest) (*api.RetryFailuresResponse, error) {
	return &api.RetryFailuresResponse{Events: []string{}}, nil
}

func (a *actions) Retry(_ context.Context, req *api.RetryRequest) (*api.RetryResponse, error) {
	return a.retry(req)
}

func (a *actions) Events(_ context.Context, req *api.EventsRequest) (*api.Events, error) {
	return a.events(req)
}

func streaming() *actions {
	return &actions{status: func(context.Context) (*api.Status, error) { return sample(), nil }}
}

// ask sends a request; head is lines of "Name: value".
func ask(h http.Handler, method, target, body string, head ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:8090"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, line := range head {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			r.Host = value
		} else {
			r.Header.Set(name, value)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func problemOf(t *testing.T, w *httptest.ResponseRecorder) api.Problem {
	t.Helper()
	if ct := w.Header().Get("Content-Type"); ct != api.ProblemType {
		t.Fatalf("content type %q, body %s", ct, w.Body)
	}
	var p api.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != w.Code || p.Type != "about:blank" || p.Title == "" {
		t.Errorf("problem %+v with status %d", p, w.Code)
	}
	return p
}

func TestPublicServesNothingThatShowsOrChangesAnything(t *testing.T) {
	s := &admin.Server{Actions: streaming()}
	for _, call := range []string{
		"events/list", "events/show", "events/failures", "events/retry-failures", "deliveries/list", "deliveries/show", "deliveries/retry", "endpoints/list",
		"endpoints/remove", "endpoints/enable", "endpoints/disable", "checkpoints/list", "checkpoints/reset", "sources/drop", "backup",
	} {
		w := ask(s.Public(), "POST", "/v1/"+call, "{}")
		if p := problemOf(t, w); p.Code != api.CodeNotFound {
			t.Errorf("%s: %+v", call, p)
		}
		// The same call is there on the socket: not even its name is wrong.
		if w := ask(s.Local(), "GET", "/v1/"+call, ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "POST" {
			t.Errorf("%s on the socket: %d, allow %q", call, w.Code, w.Header().Get("Allow"))
		}
	}
	for _, path := range []string{"/v1/status", "/healthz", "/readyz", "/metrics"} {
		w := ask(s.Public(), "GET", path, "", "Origin: https://evil.example")
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		if v := w.Header().Get("Access-Control-Allow-Origin"); v != "" {
			t.Errorf("%s: pages of others may read it: %q", path, v)
		}
	}
}

func TestRequestsThatMakeNoSenseAreRefused(t *testing.T) {
	a := streaming()
	a.events = func(*api.EventsRequest) (*api.Events, error) { return &api.Events{}, nil }
	h := (&admin.Server{Actions: a}).Local()
	const path = "/v1/events/list"
	for name, c := range map[string]struct {
		method, path, body, head string
		code                     api.Code
		detail                   string
	}{
		"unknown path":     {"POST", "/v1/nothing", "{}", "", api.CodeNotFound, "/v1/nothing"},
		"wrong method":     {"DELETE", path, "", "", api.CodeMethod, "POST"},
		"unknown field":    {"POST", path, `{"typ":["x"]}`, "", api.CodeInvalid, `unknown field "typ"`},
		"not JSON":         {"POST", path, `{"types":`, "", api.CodeInvalid, "unexpected EOF"},
		"two values":       {"POST", path, `{} {}`, "", api.CodeInvalid, "more than one"},
		"wrong type":       {"POST", path, `{"limit":"many"}`, "", api.CodeInvalid, "limit"},
		"a form":           {"POST", path, "a=b", "Content-Type: application/x-www-form-urlencoded", api.CodeInvalid, "application/json"},
		"far too large":    {"POST", path, `{"key":"` + strings.Repeat("x", 2<<20) + `"}`, "", api.CodeInvalid, "larger"},
		"no type of media": {"POST", path, "{}", "Content-Type: ", api.CodeInvalid, "application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			var head []string
			if c.head != "" {
				head = append(head, c.head)
			}
			p := problemOf(t, ask(h, c.method, c.path, c.body, head...))
			if p.Code != c.code || !strings.Contains(p.Detail, c.detail) {
				t.Errorf("got %+v, want %s and %q", p, c.code, c.detail)
			}
		})
	}
}

func TestErrorsOfActionsHaveCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code api.Code
	}{
		{fmt.Errorf("endpoint x: %w", relay.ErrNotFound), api.CodeNotFound},
		{fmt.Errorf("append: %w", relay.ErrStoreFull), api.CodeStoreFull},
		{relay.ErrStoreLocked, api.CodeConflict},
		{fmt.Errorf("do: %w", api.Errorf(api.CodeUnsupported, "not %s", "here")), api.CodeUnsupported},
		{context.DeadlineExceeded, api.CodeTimeout},
		{context.Canceled, api.CodeUnavailable},
		{errors.New("disk I/O error"), api.CodeInternal},
	} {
		a := streaming()
		a.retry = func(*api.RetryRequest) (*api.RetryResponse, error) { return nil, c.err }
		p := problemOf(t, ask((&admin.Server{Actions: a}).Local(), "POST", "/v1/deliveries/retry", "{}"))
		if p.Code != c.code || p.Status != c.code.Status() {
			t.Errorf("%v: got %+v, want %s", c.err, p, c.code)
		}
	}
}

func TestChangesAreLogged(t *testing.T) {
	a := streaming()
	a.retry = func(*api.RetryRequest) (*api.RetryResponse, error) { return &api.RetryResponse{Retried: 2}, nil }
	var log strings.Builder
	s := &admin.Server{Actions: a, Logger: slog.New(slog.NewJSONHandler(&log, nil))}
	w := ask(s.Local(), "POST", "/v1/deliveries/retry", `{"endpoint":"billing","all_dead":true}`)
	if w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != `{"retried":2}` {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), `"action":"retry deliveries"`) || !strings.Contains(log.String(), `"endpoint":"billing"`) {
		t.Errorf("log: %s", log.String())
	}
}

func TestHostsThatMayBeSomebodyElsesAreRefused(t *testing.T) {
	h := (&admin.Server{Actions: streaming(), Hosts: []string{"Rowhook.Example.com"}}).Public()
	for host, ok := range map[string]bool{
		"127.0.0.1:8090": true, "[::1]:8090": true, "10.0.0.7": true, "localhost:8090": true, "rowhook:8090": true, "": true,
		"rowhook.example.com": true, "rowhook.example.com.:8090": true,
		"evil.example:8090": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false,
	} {
		w := ask(h, "GET", "/v1/status", "", "Host: "+host)
		if got := w.Code == http.StatusOK; got != ok {
			t.Errorf("host %q: %d", host, w.Code)
		}
		if !ok && w.Code != http.StatusMisdirectedRequest {
			t.Errorf("host %q: %d", host, w.Code)
		}
	}
}

func TestReadyMeansMoving(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*api.Status)
		code   int
		want   string
	}{
		{"streaming", func(*api.Status) {}, 200, `"ok":true`},
		{"waiting", func(st *api.Status) {
			st.Sources[0].State, st.Sources[0].Reason = api.SourceWaiting, "connection refused"
		}, 503, `"source shop is waiting: connection refused"`},
		{"log full", func(st *api.Status) { st.Sources[0].State = api.SourcePaused }, 503, `"source shop is paused"`},
		{"a dead endpoint", func(st *api.Status) {
			st.Endpoints[0].Breaker.State, st.Endpoints[0].Behind = api.BreakerOpen, 7000
		}, 200, `"breaker":"open","behind":7000`},
	} {
		st := sample()
		c.change(st)
		a := &actions{status: func(context.Context) (*api.Status, error) { return st, nil }}
		w := ask((&admin.Server{Actions: a}).Public(), "GET", "/readyz", "")
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
}

func TestReadyDoesNotHangWithTheStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &actions{status: func(ctx context.Context) (*api.Status, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		began := time.Now()
		w := ask((&admin.Server{Actions: a}).Public(), "GET", "/readyz", "")
		if w.Code != 503 || !strings.Contains(w.Body.String(), "no status") || time.Since(began) > 10*time.Second {
			t.Errorf("%d %s after %s", w.Code, w.Body, time.Since(began))
		}
	})
}

func TestHealthIsWhatAliveSays(t *testing.T) {
	var err error
	h := (&admin.Server{Actions: streaming(), Alive: func() error { return err }}).Public()
	if w := ask(h, "GET", "/healthz", ""); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	err = errors.New("the dispatcher has not turned for 2m0s")
	if w := ask(h, "GET", "/healthz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "not turned") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestMetrics(t *testing.T) {
	s := &admin.Server{Actions: streaming(), Registry: prometheus.NewRegistry()}
	w := ask(s.Public(), "GET", "/metrics", "")
	var got strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "rowhook_build_info") { // has Go's version
			got.WriteString(line)
		}
	}
	golden(t, "testdata/metrics.golden", got.String())
	// Both handlers show the same, and a second scrape is no second registration.
	if w := ask(s.Local(), "GET", "/metrics", ""); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestMetricsSayThatThereIsNoStatus(t *testing.T) {
	a := &actions{status: func(context.Context) (*api.Status, error) { return nil, errors.New("no") }}
	w := ask((&admin.Server{Actions: a, Registry: prometheus.NewRegistry()}).Public(), "GET", "/metrics", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), "\nrowhook_up 0\n") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update writes it); got:\n%s", name, got)
	}
}

func TestRunServesBothListenersUntilItsContextEnds(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	path := api.SocketPath(t.TempDir())
	socket, err := api.ListenSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := &admin.Server{Actions: streaming()}
	go func() { done <- s.Run(ctx, tcp, socket) }()
	for _, c := range []*api.Client{api.NewSocketClient(path), api.NewClient("http://" + tcp.Addr().String())} {
		if st, err := c.Status(t.Context(), &api.StatusRequest{}); err != nil || st.PID != 4711 {
			t.Errorf("got %+v, %v", st, err)
		}
		_ = c.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}
