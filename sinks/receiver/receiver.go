// Package receiver is a webhook receiver for demonstrations and tests: it
// verifies signatures, marks events that come again, and prints a line for each
// request.
//
// # Words
//
// A request is verified when one of the secrets signed it. An event is accepted
// when a verified request that carries it was answered with a status of 2xx; a
// duplicate is a verified request whose event was accepted before. What the
// receiver refuses on purpose (see Server.Status and Server.FailRate) is not
// accepted, so that its next attempt is not a duplicate.
package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/sinks/webhook"
)

const (
	defaultMaxBody = 32 << 20
	// minRemembered bounds, together with Expect, the ids that are remembered to
	// find duplicates; the oldest is forgotten first.
	minRemembered = 1 << 16
	maxID         = 256
)

// Server is a receiver. Its fields must not change while it runs.
type Server struct {
	// Addr is the TCP address to listen at, unless Listener is set.
	Addr string
	// Listener takes the place of Addr; Run closes it.
	Listener net.Listener
	// Secrets verify; any one of them may have signed. Without any, signatures
	// are not looked at, and every event counts as accepted.
	Secrets []relay.Secret
	// Out is where lines go; nil is nowhere.
	Out io.Writer
	// Verbose prints the data of each event too.
	Verbose bool
	// Expect makes Run return as soon as so many distinct events were accepted; 0
	// is never.
	Expect int
	// Status answers verified requests; 0 is 204. Anything but 2xx refuses.
	Status int
	// FailRate is the fraction of verified requests, from 0 to 1, that are
	// answered with 500.
	FailRate float64
	// Delay is waited before each answer.
	Delay time.Duration

	mu      sync.Mutex
	keys    []webhook.Key
	seen    map[string]struct{}
	order   []string // the ids in seen, a ring
	next    int
	summary Summary
	reached chan struct{} // closed when Expect is reached
}

// Summary counts requests.
type Summary struct {
	// Accepted counts distinct events.
	Accepted int
	// Duplicates counts verified requests of events accepted before.
	Duplicates int
	// Bad counts requests without a valid signature, or that are no webhook.
	Bad int
	// Refused counts verified requests that were refused on purpose.
	Refused int
}

// Summary returns what was counted so far.
func (s *Server) Summary() Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.summary
}

// Run serves until ctx is done or as many events as expected were accepted, and
// prints a summary. Its error is that of the configuration or of the listener,
// or says how many of the expected events did not come.
func (s *Server) Run(ctx context.Context) error {
	keys, err := webhook.ParseKeys(s.Secrets)
	if err != nil {
		return err
	}
	if s.FailRate < 0 || s.FailRate > 1 {
		return fmt.Errorf("fail rate %g is not between 0 and 1", s.FailRate)
	}
	if s.Status != 0 && (s.Status < 200 || s.Status > 599) {
		return fmt.Errorf("status %d is not between 200 and 599", s.Status)
	}
	s.keys = keys
	s.seen = map[string]struct{}{}
	s.order = make([]string, 0, 64)
	s.reached = make(chan struct{})
	l := s.Listener
	if l == nil {
		var lc net.ListenConfig
		if l, err = lc.Listen(ctx, "tcp", s.Addr); err != nil {
			return err
		}
	}
	srv := &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	s.printf("listening on http://%s\n", l.Addr())
	if len(keys) == 0 {
		s.printf("no secret is given: signatures are not verified\n")
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err = <-served:
		return err
	case <-ctx.Done():
	case <-s.reached:
	}
	// Answers under way are finished: their senders would send again.
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Delay+2*time.Second)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		srv.Close() //nolint:errcheck // what it closes is not needed any more
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	sum := s.Summary()
	s.printf("%d accepted, %d duplicates, %d refused, %d bad\n", sum.Accepted, sum.Duplicates, sum.Refused, sum.Bad)
	if sum.Accepted < s.Expect {
		return fmt.Errorf("received %d of %d expected events", sum.Accepted, s.Expect)
	}
	return nil
}

// envelope is what is printed of a body.
type envelope struct {
	Type string          `json:"type"`
	Key  *string         `json:"key"`
	Data json.RawMessage `json:"data"`
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, defaultMaxBody))
	if err != nil {
		s.bad(w, now, http.StatusBadRequest, "UNREADABLE", err)
		return
	}
	id := r.Header.Get(webhook.HeaderID)
	if len(s.keys) > 0 {
		if err := webhook.Verify(r.Header, body, s.keys, now, webhook.Tolerance); err != nil {
			s.bad(w, now, http.StatusUnauthorized, "BAD SIGNATURE", err)
			return
		}
	}
	var e envelope
	err = json.Unmarshal(body, &e)
	if err == nil && (r.Method != http.MethodPost || id == "" || len(id) > maxID) {
		err = errors.New("not a POST with a webhook-id")
	}
	if err != nil {
		s.bad(w, now, http.StatusBadRequest, "NOT A WEBHOOK", err)
		return
	}
	if s.Delay > 0 {
		wait := time.NewTimer(s.Delay)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-r.Context().Done():
			return // the sender has given up, and will send again
		}
	}
	status := s.Status
	if status == 0 {
		status = http.StatusNoContent
	}
	if s.FailRate > 0 && rand.Float64() < s.FailRate {
		status = http.StatusInternalServerError
	}
	word := s.count(id, status)
	s.line(now, &e, id, r.Header, word)
	w.WriteHeader(status)
	s.finish() // Run lets this answer go out before it returns
}

// count books a verified request that will be answered with the status, and
// returns the word for it.
func (s *Server) count(id string, status int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	word := "verified"
	if len(s.keys) == 0 {
		word = "unverified"
	}
	if status > 299 {
		s.summary.Refused++
		return word + ", refused with " + strconv.Itoa(status)
	}
	if _, ok := s.seen[id]; ok {
		s.summary.Duplicates++
		return word + ", DUPLICATE"
	}
	s.summary.Accepted++
	s.seen[id] = struct{}{}
	if len(s.order) < max(minRemembered, 2*s.Expect) {
		s.order = append(s.order, id)
		return word
	}
	delete(s.seen, s.order[s.next])
	s.order[s.next] = id
	s.next = (s.next + 1) % len(s.order)
	return word
}

// finish ends Run once enough events were accepted.
func (s *Server) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Expect > 0 && s.summary.Accepted >= s.Expect {
		select {
		case <-s.reached:
		default:
			close(s.reached)
		}
	}
}

func (s *Server) bad(w http.ResponseWriter, now time.Time, status int, word string, err error) {
	s.mu.Lock()
	s.summary.Bad++
	s.mu.Unlock()
	s.printf("%s  %s: %s\n", now.Format("15:04:05.000"), word, printable(err.Error()))
	http.Error(w, "not accepted", status)
}

// line prints a verified request.
func (s *Server) line(now time.Time, e *envelope, id string, h http.Header, word string) {
	key := "-"
	if e.Key != nil {
		key = printable(*e.Key)
	}
	if h.Get(webhook.HeaderReplay) == "true" {
		word += ", replay"
	}
	if n := h.Get(webhook.HeaderAttempt); n != "" && n != "1" {
		word += ", attempt " + printable(n)
	}
	// As wide as a terminal.
	text := fmt.Sprintf("%s  %-18s  %-18s  %s  %s\n", now.Format("15:04:05.000"), printable(e.Type), key, short(id), word)
	if s.Verbose && len(e.Data) > 0 {
		text += "    " + indent(e.Data) + "\n"
	}
	s.printf("%s", text)
}

func (s *Server) printf(format string, args ...any) {
	if s.Out == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.Out, format, args...)
}
