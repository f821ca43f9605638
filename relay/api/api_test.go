package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay/api"
)

func TestErrorKeepsItsCodeAcrossTheWire(t *testing.T) {
	for _, want := range []*api.Error{
		{Code: api.CodeNotFound, Detail: "there is no endpoint x"},
		{Code: api.CodeInvalid, Detail: "bad"},
		{Code: api.CodeStoreFull, Detail: "disk full"},
		{Code: api.CodeInternal},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", api.ProblemType+"; charset=utf-8")
			w.WriteHeader(want.Code.Status())
			b, _ := json.Marshal(want.Problem())
			w.Write(b)
		}))
		_, err := api.NewClient(srv.URL).Status(t.Context(), &api.StatusRequest{})
		srv.Close()
		var got *api.Error
		if !errors.As(err, &got) || *got != *want {
			t.Errorf("got %v, want %v", err, want)
		}
		if !errors.Is(err, &api.Error{Code: want.Code}) || errors.Is(err, api.ErrConflict) {
			t.Errorf("%v is not of its code alone", err)
		}
	}
}

func TestClientTellsAnAnswerThatIsNotOurs(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	_, err := api.NewClient(srv.URL).Endpoints(t.Context(), &api.EndpointsRequest{})
	var e *api.Error
	if err == nil || errors.As(err, &e) || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v, want an error that is no api.Error and says 404", err)
	}
}

func TestClientSaysThatNothingRuns(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, api.SocketName)
	c := api.NewSocketClient(path)
	if _, err := c.Status(t.Context(), &api.StatusRequest{}); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("without a socket: %v", err)
	}
	// What a killed daemon leaves behind: a socket that nobody listens on.
	ln, err := api.ListenSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	stale := path + ".stale"
	if err := os.Link(path, stale); err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := os.Rename(stale, path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context(), &api.StatusRequest{}); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("with a stale socket: %v", err)
	}
	if ln, err = api.ListenSocket(t.Context(), path); err != nil {
		t.Errorf("a stale socket is not replaced: %v", err)
	} else {
		ln.Close()
	}
}

func TestSocketIsForItsOwnerAlone(t *testing.T) {
	path := api.SocketPath(t.TempDir())
	ln, err := api.ListenSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
	ln.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestSocketWorksBelowALongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := api.SocketPath(dir)
	ln, err := api.ListenSocket(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"version":"1"}`))
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	st, err := api.NewSocketClient(path).Status(t.Context(), &api.StatusRequest{})
	if err != nil || st.Version != "1" {
		t.Errorf("got %v, %v", st, err)
	}
	_ = srv.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestSocketDoesNotReplaceAFile(t *testing.T) {
	path := api.SocketPath(t.TempDir())
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ln, err := api.ListenSocket(t.Context(), path); err == nil {
		ln.Close()
		t.Error("a file was replaced by the socket")
	}
}

func TestClientStopsWithItsContext(t *testing.T) {
	arrived := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := api.NewClient(srv.URL).Status(ctx, &api.StatusRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestHistogramQuantile(t *testing.T) {
	h := &api.Histogram{Bounds: []float64{0.01, 0.1, 1}, Counts: []uint64{50, 45, 4, 1}}
	for _, c := range []struct{ q, want float64 }{
		{0, 0.01}, {0.5, 0.01}, {0.51, 0.1}, {0.95, 0.1}, {0.99, 1}, {1, math.Inf(1)},
	} {
		if got := h.Quantile(c.q); got != c.want {
			t.Errorf("quantile %v is %v, want %v", c.q, got, c.want)
		}
	}
	if got := new(api.Histogram).Quantile(0.5); !math.IsNaN(got) {
		t.Errorf("quantile of nothing is %v", got)
	}
}

func TestReadyMeansThatEverySourceStreams(t *testing.T) {
	source := func(state string) api.SourceStatus { return api.SourceStatus{State: state} }
	for _, c := range []struct {
		st   api.Status
		want bool
	}{
		{api.Status{Running: true, Sources: []api.SourceStatus{source(api.SourceStreaming), source(api.SourceStreaming)}}, true},
		{api.Status{Running: true, Sources: []api.SourceStatus{source(api.SourceStreaming), source(api.SourceWaiting)}}, false},
		{api.Status{Running: true, Sources: []api.SourceStatus{source(api.SourcePaused)}}, false},
		{api.Status{Running: false, Sources: []api.SourceStatus{source(api.SourceStreaming)}}, false},
	} {
		if got := c.st.Ready(); got != c.want {
			t.Errorf("%+v is ready: %v", c.st, got)
		}
	}
}

func TestAbsentTimesAreLeftOut(t *testing.T) {
	b, err := json.Marshal(api.Delivery{State: "dead", Time: time.Unix(0, 0).UTC()})
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); strings.Contains(s, `"next"`) || !strings.Contains(s, `"time":"1970-01-01T00:00:00Z"`) {
		t.Errorf("got %s", s)
	}
}
