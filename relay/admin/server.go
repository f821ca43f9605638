package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rowhook/rowhook/relay/api"
)

// Server serves the API, health and metrics. Its fields are set before its
// first use and not changed afterwards.
type Server struct {
	// Actions does what is asked for. Required.
	Actions Actions
	// Alive returns why the process should be restarted: one of its loops no
	// longer turns. It must not block. Nil is always alive.
	Alive func() error
	// Registry is what /metrics gathers besides what it makes of the status. Nil
	// is one with the collectors of the Go runtime and of the process.
	Registry *prometheus.Registry
	// Hosts are names, without port, that a Host header on the TCP listener may
	// have besides IP addresses, names without a dot and the machine's own.
	Hosts []string
	// Logger takes changes made through the API and errors; nil is none.
	Logger *slog.Logger
	// MaxConns bounds the open connections of each listener, so that visitors
	// cannot use up the file descriptors that deliveries need. 0 is 128.
	MaxConns int

	metrics struct {
		once    sync.Once
		handler http.Handler
	}
}

const (
	maxBody        = 1 << 20
	statusDeadline = 5 * time.Second
	// shutdownGrace is how long requests under way may take when the server
	// stops.
	shutdownGrace = 2 * time.Second
)

// Run serves the public handler on tcp and the local one on socket, either of
// which may be nil, until ctx is done. It closes the listeners.
func (s *Server) Run(ctx context.Context, tcp, socket net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	serve := func(ln net.Listener, h http.Handler) {
		if ln == nil {
			return
		}
		wg.Go(func() {
			if err := s.serve(ctx, ln, h); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("serve on %s: %w", ln.Addr(), err))
				mu.Unlock()
				cancel()
			}
		})
	}
	serve(tcp, s.Public())
	serve(socket, s.Local())
	<-ctx.Done()
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Server) serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	// No WriteTimeout: a backup takes as long as it takes. Slow readers of an
	// answer are bounded by MaxConns.
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.logger().Handler(), slog.LevelError),
		// Requests end when the daemon does.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	n := s.MaxConns
	if n == 0 {
		n = 128
	}
	err := srv.Serve(limitConns(ln, n))
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Public returns the handler for a TCP listener.
func (s *Server) Public() http.Handler {
	mux := http.NewServeMux()
	s.routeHealth(mux)
	mux.HandleFunc("GET /v1/status", s.status)
	return s.checkHost(s.problems(mux))
}

// Local returns the handler for the Unix socket.
func (s *Server) Local() http.Handler {
	mux := http.NewServeMux()
	s.routeHealth(mux)
	s.routeCalls(mux)
	return s.problems(mux)
}

// checkHost refuses requests whose Host is a name that somebody else may have
// pointed at us (DNS rebinding), by which a web page could read what it serves.
// There are no CORS headers, so pages of other origins cannot read it either.
func (s *Server) checkHost(next http.Handler) http.Handler {
	own, _ := os.Hostname()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := hostname(r.Host); !hostAllowed(h, own, s.Hosts) {
			s.writeError(w, r, api.Errorf(api.CodeMisdirected, "the Host header names %q, which is not known to be this daemon; use its IP address", h))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func hostname(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		hostport = h
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(hostport, "[]"), "."))
}

// hostAllowed reports whether host is an address, a name without a dot (which
// no public DNS answers: localhost, a container's name), our own or a given
// one. An empty one is of an HTTP/1.0 client, which is no browser.
func hostAllowed(host, own string, more []string) bool {
	if !strings.Contains(host, ".") || strings.EqualFold(host, own) {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return slices.ContainsFunc(more, func(m string) bool { return strings.EqualFold(m, host) })
}

// problems gives the answers that mux makes itself (no such path, not that
// method) the form that all errors have.
func (s *Server) problems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		// The mux's own answer tells 404 from 405 and knows the allowed methods.
		probe := &discardWriter{header: make(http.Header)}
		mux.ServeHTTP(probe, r)
		if allow := probe.header.Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
			s.writeError(w, r, api.Errorf(api.CodeMethod, "%s takes %s", r.URL.Path, allow))
			return
		}
		s.writeError(w, r, api.Errorf(api.CodeNotFound, "there is no %s here", r.URL.Path))
	})
}

type discardWriter struct{ header http.Header }

// Header implements http.ResponseWriter.
func (w *discardWriter) Header() http.Header { return w.header }

// Write implements http.ResponseWriter.
func (w *discardWriter) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader implements http.ResponseWriter.
func (w *discardWriter) WriteHeader(int) {}

// status serves GET /v1/status.
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	st, err := s.snapshot(r.Context())
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	s.writeJSON(w, r, http.StatusOK, st)
}

// snapshot returns the status, or an error when it is not there in time.
func (s *Server) snapshot(ctx context.Context) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusDeadline)
	defer cancel()
	return s.Actions.Status(ctx, &api.StatusRequest{})
}

// decode reads the one JSON object that a request's body is. An empty body is
// an empty object.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	// A web page can send other types across origins without asking first.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return api.Errorf(api.CodeInvalid, "the Content-Type of a request is application/json")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return api.Errorf(api.CodeInvalid, "read request: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return api.Errorf(api.CodeInvalid, "read request: more than one JSON value")
	}
	return nil
}

func (s *Server) writeJSON(w http.ResponseWriter, r *http.Request, code int, v any) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		s.writeError(w, r, fmt.Errorf("write answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(buf.Bytes())
}

func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	e := apiError(err)
	if e.Code == api.CodeInternal {
		s.logger().Error("admin request failed", "path", r.URL.Path, "err", err)
	}
	b, _ := json.Marshal(e.Problem())
	w.Header().Set("Content-Type", api.ProblemType)
	w.WriteHeader(e.Code.Status())
	w.Write(append(b, '\n'))
}
