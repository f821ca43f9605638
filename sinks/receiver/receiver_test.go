package receiver

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/sinks/webhook"
)

// running is a server under test.
type running struct {
	*Server
	url    string
	cancel context.CancelFunc
	done   chan error
	out    *bytes.Buffer // read it after done
	sink   *webhook.Sink
}

func start(t *testing.T, s *Server) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secret := webhook.NewSecret()
	out := &bytes.Buffer{}
	s.Listener, s.Out, s.Secrets = l, out, []relay.Secret{webhook.NewSecret(), secret}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Server: s, url: "http://" + l.Addr().String() + "/", cancel: cancel, done: make(chan error, 1), out: out}
	go func() { r.done <- s.Run(ctx) }()
	t.Cleanup(cancel)
	if r.sink, err = webhook.New(webhook.Config{URL: relay.NewSecret(r.url), Secrets: []relay.Secret{secret}, AllowPrivate: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.sink.Close)
	return r
}

func event(n int) *relay.Event {
	return &relay.Event{ID: relay.EventID{19: byte(n), 18: byte(n >> 8)}, Type: "order.paid", Version: 1, Source: "shop",
		HasKey: true, Key: []byte("orders/" + strconv.Itoa(n)), Data: []byte(`{"total":1250.00}`)}
}

func (r *running) send(n, attempt int) relay.Outcome {
	return r.sink.Send(context.Background(), &relay.Delivery{Event: event(n), Attempt: attempt, Replay: attempt > 8})
}

func (r *running) mustSend(t *testing.T, n, attempt int) {
	t.Helper()
	if out := r.send(n, attempt); out.Result != relay.Delivered || out.Status != 204 {
		t.Fatalf("event %d: %+v", n, out)
	}
}

func TestServer_EndsWithTheExpectedEvents(t *testing.T) {
	r := start(t, &Server{Expect: 3, Verbose: true})
	r.mustSend(t, 1, 1)
	r.mustSend(t, 1, 2)
	r.mustSend(t, 2, 9)
	select {
	case err := <-r.done:
		t.Fatalf("it ended early: %v", err)
	default:
	}
	// Someone without the secret, and someone who sends nonsense.
	for _, h := range []http.Header{{}, {"Webhook-Id": {"evt_\x9b31m"}, "Webhook-Timestamp": {strconv.FormatInt(time.Now().Unix(), 10)}, "Webhook-Signature": {"v1,AAAA"}}} {
		req, err := http.NewRequest(http.MethodPost, r.url, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = h
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("answered %d", res.StatusCode)
		}
	}
	r.mustSend(t, 3, 1)
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
	out := r.out.String()
	for _, want := range []string{
		"listening on http://127.0.0.1:", "order.paid", "  orders/1 ", "verified\n", "verified, DUPLICATE, attempt 2\n", "verified, replay, attempt 9\n",
		"BAD SIGNATURE: webhook-id", "BAD SIGNATURE: no signature matches", "\"total\": 1250.00\n", "3 accepted, 1 duplicates, 0 refused, 2 bad\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not printed in\n%s", want, out)
		}
	}
	if got := r.Summary(); got != (Summary{Accepted: 3, Duplicates: 1, Bad: 2}) {
		t.Errorf("summary is %+v", got)
	}
}

func TestServer_SaysWhatDidNotCome(t *testing.T) {
	r := start(t, &Server{Expect: 2})
	r.mustSend(t, 1, 1)
	r.cancel()
	if err := <-r.done; err == nil || err.Error() != "received 1 of 2 expected events" {
		t.Errorf("got %v", err)
	}
}

func TestServer_RefusesOnPurpose(t *testing.T) {
	for name, s := range map[string]*Server{"status": {Status: 500}, "fail rate": {FailRate: 1}} {
		r := start(t, s)
		if out := r.send(1, 1); out.Status != 500 {
			t.Errorf("%s: %+v", name, out)
		}
		r.send(1, 2)
		r.cancel()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		if got := r.Summary(); got != (Summary{Refused: 2}) {
			t.Errorf("%s: summary is %+v", name, got)
		}
	}
}

// Refused attempts are neither accepted nor duplicates: of many events each is
// accepted once in the end.
func TestServer_FailRate(t *testing.T) {
	const events = 50
	r := start(t, &Server{FailRate: 0.5, Expect: events, Delay: time.Millisecond})
	var wg sync.WaitGroup
	for n := range events {
		wg.Go(func() {
			for attempt := 1; r.send(n, attempt).Result != relay.Delivered; attempt++ {
				if attempt == 100 {
					t.Error("refused a hundred times")
					return
				}
			}
		})
	}
	wg.Wait()
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
	if got := r.Summary(); got.Accepted != events || got.Duplicates != 0 || got.Refused == 0 {
		t.Errorf("summary is %+v", got)
	}
}

func TestServer_RemembersBounded(t *testing.T) {
	s := &Server{seen: map[string]struct{}{}}
	for n := range 3 * minRemembered {
		s.count(strconv.Itoa(n), 204)
	}
	if len(s.seen) != minRemembered || len(s.order) != minRemembered {
		t.Errorf("%d and %d ids are remembered", len(s.seen), len(s.order))
	}
	s.count(strconv.Itoa(3*minRemembered-1), 204)
	s.count("0", 204)
	if s.summary.Duplicates != 1 {
		t.Errorf("%d duplicates, want that of the last id and not of the first", s.summary.Duplicates)
	}
}

func TestServer_RefusesConfiguration(t *testing.T) {
	for _, s := range []*Server{
		{Secrets: []relay.Secret{relay.NewSecret("x")}}, {FailRate: 2}, {Status: 99}, {Addr: "nowhere.invalid:1"},
	} {
		if err := s.Run(context.Background()); err == nil {
			t.Errorf("%+v runs", s.Addr)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"order.paid": "order.paid", "é 1": "é 1", "\x1b[31mred": `"\x1b[31mred"`, "a\nb": `"a\nb"`,
		strings.Repeat("x", 200): strings.Repeat("x", 99) + "…",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := indent([]byte("{\"a\":\"\u009b31m\"}")); strings.Contains(got, "\u009b") {
		t.Errorf("a control character is printed: %q", got)
	}
	if got := short("evt_000000g1d6t4g2883g0000000000000g"); got != "…00000000000g" {
		t.Errorf("got %s", fmt.Sprint(got))
	}
}
