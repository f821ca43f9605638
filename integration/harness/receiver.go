package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Secret is the one that receivers expect when a test names no other: the example of the
// Standard Webhooks specification.
const Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// AttemptHeader says which attempt a request is, from 1.
const AttemptHeader = "rowhook-attempt"

// Request is a webhook as it arrived.
type Request struct {
	N         int // place in the order of arrival, from 0
	At        time.Time
	ID        string // webhook-id
	Attempt   int    // 0 when the request did not say
	Type      string
	Source    string
	Key       string // JSON as sent, or the string if it is one
	Sequence  string // likewise
	Timestamp time.Time
	Data      json.RawMessage
	Header    http.Header
	Body      []byte
	Status    int // what the head of the answer said; 0: there was none, see Fault
}

// Accepted reports whether the request was answered with 2xx.
func (r *Request) Accepted() bool { return r.Status/100 == 2 }

// Fault is a way of not answering properly.
type Fault int

// The faults.
const (
	None        Fault = iota
	Hang              // read the request and say nothing
	Reset             // break the connection with an RST
	DripHeaders       // send the head of the answer a byte at a time, for ever
	DripBody          // send the body of the answer a byte at a time, for ever
	HugeBody          // answer, with a body of 1 GB
)

// Reply is what a receiver does with a request. The zero value answers 204.
type Reply struct {
	Status int // 0: 204
	Header http.Header
	Body   []byte
	Delay  time.Duration // before the answer
	Fault  Fault
	Every  time.Duration // between the bytes of a drip; 0: 50 ms
}

// OK accepts.
func OK(*Request) Reply { return Reply{} }

// Redirect answers 307 to a location.
func Redirect(location string) Reply {
	return Reply{Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {location}}}
}

// Receiver is an HTTP server that takes webhooks, checks each signature with the official library,
// and remembers them in order. It outlives any daemon, and may go down and come back at the same
// address.
type Receiver struct {
	URL string

	t       testing.TB
	secrets []string
	check   []*standardwebhooks.Webhook
	addr    string
	closing chan struct{} // of the present server
	served  chan struct{} // closed when it has stopped listening
	server  *http.Server

	mu       sync.Mutex
	reply    func(*Request) Reply
	requests []*Request
	first    map[string]*Request // first accepted, by id
	changed  chan struct{}       // closed and replaced when a request has come
	wrong    []string            // what was not as it should be
}

// NewReceiver serves until the end of the test. Every request must be signed with every one of the
// secrets (none given: Secret); one that is not fails the test, and is answered 401.
func NewReceiver(t testing.TB, secrets ...string) *Receiver {
	t.Helper()
	if len(secrets) == 0 {
		secrets = []string{Secret}
	}
	r := &Receiver{t: t, secrets: secrets, reply: OK, first: map[string]*Request{}, changed: make(chan struct{}), addr: "127.0.0.1:0"}
	for _, secret := range secrets {
		check, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatalf("secret: %v", err)
		}
		r.check = append(r.check, check)
	}
	r.Up()
	t.Cleanup(func() {
		r.Down()
		if err := r.TakeWrong(); err != nil {
			t.Errorf("receiver: %v", err)
		}
	})
	return r
}

// Up makes the receiver listen, at the address it had before.
func (r *Receiver) Up() {
	r.t.Helper()
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		r.t.Fatalf("receiver: %v", err)
	}
	r.addr = l.Addr().String()
	r.URL = "http://" + r.addr + "/hooks"
	closing := make(chan struct{})
	r.closing = closing
	r.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.serve(w, req, closing) })}
	served := make(chan struct{})
	r.served = served
	go func(s *http.Server) {
		_ = s.Serve(l) // ErrServerClosed, after Down
		close(served)
	}(r.server)
}

// Down refuses connections and breaks those that are open.
func (r *Receiver) Down() {
	if r.server == nil {
		return
	}
	close(r.closing)
	_ = r.server.Close()
	<-r.served
	r.server = nil
}

// Handle decides from now on what happens to requests. It is called for one request at a time, in
// the order of their arrival, and only for those with a good signature.
func (r *Receiver) Handle(reply func(*Request) Reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reply = reply
}

func (r *Receiver) serve(w http.ResponseWriter, req *http.Request, closing chan struct{}) {
	at := time.Now()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender was killed while it sent
	}
	q := &Request{At: at, Header: req.Header, Body: body, ID: req.Header.Get("webhook-id")}
	reply := r.record(q, r.read(q, req))
	if reply.Delay > 0 {
		timer := time.NewTimer(reply.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-req.Context().Done():
		case <-closing:
		}
	}
	reply.send(w, req, q.Status, closing)
}

// read fills the request in from its body, and says what is wrong with it.
func (r *Receiver) read(q *Request, req *http.Request) error {
	q.Attempt, _ = strconv.Atoi(q.Header.Get(AttemptHeader))
	if req.Method != http.MethodPost {
		return fmt.Errorf("method %s", req.Method)
	}
	for i, check := range r.check {
		if err := check.Verify(q.Body, q.Header); err != nil {
			return fmt.Errorf("signature of secret %d: %w", i, err)
		}
	}
	var body struct {
		ID        string          `json:"id"`
		Type      string          `json:"type"`
		Source    string          `json:"source"`
		Key       json.RawMessage `json:"key"`
		Sequence  json.RawMessage `json:"sequence"`
		Timestamp time.Time       `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(q.Body, &body); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if body.ID != q.ID {
		return fmt.Errorf("the id in the body, %q, is not the webhook-id", body.ID)
	}
	q.Type, q.Source, q.Timestamp, q.Data = body.Type, body.Source, body.Timestamp, body.Data
	q.Key, q.Sequence = text(body.Key), text(body.Sequence)
	return nil
}

// text unquotes a JSON string, and leaves other values as they are.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// record puts the request in its place and decides what is done with it.
func (r *Receiver) record(q *Request, wrong error) Reply {
	r.mu.Lock()
	defer r.mu.Unlock()
	var reply Reply
	if wrong != nil {
		r.wrong = append(r.wrong, fmt.Sprintf("%s: %v", q.ID, wrong))
		reply = Reply{Status: http.StatusUnauthorized}
	} else {
		q.N = len(r.requests)
		reply = r.reply(q)
		r.requests = append(r.requests, q)
	}
	q.Status = reply.status()
	if q.Accepted() && r.first[q.ID] == nil {
		r.first[q.ID] = q
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return reply
}

// status is what the head of the answer says; 0: there is none.
func (p Reply) status() int {
	switch {
	case p.Fault == Hang || p.Fault == Reset || p.Fault == DripHeaders:
		return 0
	case p.Status != 0:
		return p.Status
	case p.Fault == None:
		return http.StatusNoContent
	default:
		return http.StatusOK // 204 has no body to drip
	}
}

func (p Reply) send(w http.ResponseWriter, req *http.Request, status int, closing chan struct{}) {
	gone := req.Context().Done()
	every := p.Every
	if every == 0 {
		every = 50 * time.Millisecond
	}
	pause := func() bool {
		timer := time.NewTimer(every)
		defer timer.Stop()
		select {
		case <-timer.C:
			return true
		case <-gone:
		case <-closing:
		}
		return false
	}
	switch p.Fault {
	case Hang:
		select {
		case <-gone:
		case <-closing:
		}
		panic(http.ErrAbortHandler)
	case Reset:
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		conn.Close()
	case DripHeaders:
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		gone = nil // a hijacked connection tells by failing
		_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Drip: ")
		for err == nil && pause() {
			_, err = io.WriteString(conn, "x")
		}
	case DripBody:
		w.WriteHeader(status)
		for flush(w) && pause() {
			_, _ = w.Write([]byte("x"))
		}
	case HugeBody:
		w.WriteHeader(status)
		chunk := bytes.Repeat([]byte("x"), 1<<20)
		for range 1000 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	default:
		for name, values := range p.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		_, _ = w.Write(p.Body)
	}
}

func flush(w http.ResponseWriter) bool { return http.NewResponseController(w).Flush() == nil }

// Requests are all that came with a good signature, in order of arrival.
func (r *Receiver) Requests() []*Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Events are the first accepted request of each event, in order of arrival.
func (r *Receiver) Events() []*Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := make([]*Request, 0, len(r.first))
	for _, q := range r.requests {
		if r.first[q.ID] == q {
			events = append(events, q)
		}
	}
	return events
}

// Count is the number of events that were accepted.
func (r *Receiver) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.first)
}

// Forget drops what came so far.
func (r *Receiver) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests, r.first = nil, map[string]*Request{}
}

// Wait waits until done, called with what the receiver knows each time a request has come, returns
// nil. done may call the receiver's methods.
func (r *Receiver) Wait(within time.Duration, done func() error) {
	r.t.Helper()
	late := time.NewTimer(within)
	defer late.Stop()
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		err := done()
		if err == nil {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			r.t.Fatalf("receiver: not within %s: %v%s", within, err, r.trouble())
		}
	}
}

// WaitCount waits until n events were accepted, and fails at once when there are more.
func (r *Receiver) WaitCount(n int) {
	r.t.Helper()
	r.Wait(Patience, func() error {
		if got := r.Count(); got != n {
			if got > n {
				r.t.Fatalf("receiver: %d events, want %d", got, n)
			}
			return fmt.Errorf("%d events of %d", got, n)
		}
		return nil
	})
}

// WaitRequests waits until n requests have come, accepted or not.
func (r *Receiver) WaitRequests(n int) {
	r.t.Helper()
	r.Wait(Patience, func() error {
		if got := len(r.Requests()); got < n {
			return fmt.Errorf("%d requests of %d", got, n)
		}
		return nil
	})
}

func (r *Receiver) trouble() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) == 0 {
		return ""
	}
	return "\n" + strings.Join(r.wrong, "\n")
}

// TakeWrong returns what was wrong with requests, and no longer fails the test for it: for tests
// that send what is wrong.
func (r *Receiver) TakeWrong() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	wrong := r.wrong
	r.wrong = nil
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(wrong, "\n"))
}
