package webhook

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/rowhook/rowhook/relay"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// listen returns a listener on loopback.
func listen(t testing.TB) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		if t == nil {
			panic(err)
		}
		t.Fatal(err)
	}
	return l
}

// peer is one connection as the receiver sees it.
type peer struct {
	net.Conn
	br *bufio.Reader
	// n counts the connections from 1.
	n int
}

// request reads one whole request, or returns nil when there is none.
func (p *peer) request() (*http.Request, []byte) {
	r, err := http.ReadRequest(p.br)
	if err != nil {
		return nil, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, nil
	}
	return r, body
}

func (p *peer) say(s string) { io.WriteString(p, s) } //nolint:errcheck // the sender sees it

// receive serves each connection by handle, which owns it until it returns, and
// returns the URL. All have ended when the test does.
func receive(t testing.TB, l net.Listener, handle func(*peer)) string {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				handle(&peer{c, bufio.NewReader(c), n})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + l.Addr().String() + "/hooks"
}

const noContent = "HTTP/1.1 204 No Content\r\n\r\n"

// polite answers every request with 204.
func polite(p *peer) {
	for r, _ := p.request(); r != nil; r, _ = p.request() {
		p.say(noContent)
	}
}

func newSink(t testing.TB, url string, edit ...func(*Config)) *Sink {
	t.Helper()
	cfg := Config{URL: relay.NewSecret(url), Secrets: []relay.Secret{relay.NewSecret(testSecret)}, AllowPrivate: true, Timeout: 10 * time.Second}
	for _, e := range edit {
		e(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func send(s *Sink) relay.Outcome {
	return s.Send(context.Background(), &relay.Delivery{Event: testEvent(), Attempt: 1})
}

func mustDeliver(t testing.TB, s *Sink) {
	t.Helper()
	if out := send(s); out.Result != relay.Delivered {
		t.Fatalf("got %+v, want it delivered", out)
	}
}

// What a receiver with the standard HTTP server and the official library sees.
func TestSend_Request(t *testing.T) {
	type got struct {
		*http.Request
		body []byte
	}
	requests := make(chan got, 10)
	url := receive(t, listen(t), func(p *peer) {
		for r, body := p.request(); r != nil; r, body = p.request() {
			requests <- got{r, body}
			p.say("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	url = strings.Replace(url, "http://", "http://me:pass%20word@", 1) + "/a%20b?token=1"
	other := NewSecret()
	s := newSink(t, url, func(c *Config) {
		c.Secrets = append(c.Secrets, other)
		c.Headers = map[string]relay.Secret{"X-Team": relay.NewSecret("orders"), "x-a": relay.NewSecret("b")}
		c.UserAgent = "Rowhook/1.2.3"
	})
	e := testEvent()
	before := time.Now().Unix()
	for attempt := 1; attempt <= 2; attempt++ {
		out := s.Send(context.Background(), &relay.Delivery{Event: e, Attempt: attempt, Replay: attempt == 2})
		if out.Result != relay.Delivered || out.Status != 202 || out.Duration <= 0 || out.Err != "" || out.Response != nil {
			t.Fatalf("got %+v", out)
		}
		r := <-requests
		if r.Method != http.MethodPost || r.RequestURI != "/hooks/a%20b?token=1" || !strings.HasPrefix(r.Host, "127.0.0.1:") {
			t.Errorf("got %s %s of %s", r.Method, r.RequestURI, r.Host)
		}
		if user, password, _ := r.BasicAuth(); user != "me" || password != "pass word" {
			t.Errorf("authorization is %s", r.Header.Get("Authorization"))
		}
		want := map[string]string{
			"Content-Type": "application/json", "User-Agent": "Rowhook/1.2.3", "X-Team": "orders", "X-A": "b",
			HeaderID: e.ID.String(), HeaderAttempt: strconv.Itoa(attempt), HeaderReplay: map[int]string{2: "true"}[attempt],
			"Content-Length": strconv.Itoa(len(r.body)), "Accept-Encoding": "", "Transfer-Encoding": "",
		}
		for name, value := range want {
			if got := r.Header.Get(name); got != value {
				t.Errorf("%s is %q, want %q", name, got, value)
			}
		}
		if stamp, _ := strconv.ParseInt(r.Header.Get(HeaderTimestamp), 10, 64); stamp < before || stamp > time.Now().Unix() {
			t.Errorf("timestamp is %d", stamp)
		}
		if !bytes.Equal(r.body, AppendBody(nil, e)) {
			t.Errorf("body is %s", r.body)
		}
		for _, secret := range []string{testSecret, other.Reveal()} {
			official, err := standard.NewWebhook(secret)
			if err != nil {
				t.Fatal(err)
			}
			if err := official.Verify(r.body, r.Header); err != nil {
				t.Error(err)
			}
		}
		if err := Verify(r.Header, r.body, mustKeys(t, testSecret), time.Now(), Tolerance); err != nil {
			t.Error(err)
		}
	}
}

func TestSend_Unsigned(t *testing.T) {
	signatures := make(chan []string, 1)
	s := newSink(t, receive(t, listen(t), func(p *peer) {
		r, _ := p.request()
		signatures <- r.Header.Values(HeaderSignature)
		p.say(noContent)
	}), func(c *Config) { c.Secrets, c.Unsigned = nil, true })
	mustDeliver(t, s)
	if got := <-signatures; got != nil {
		t.Errorf("signed: %s", got)
	}
}

// Sizes around those of the buffers, over kept connections, from several
// goroutines.
func TestSend_ManySizes(t *testing.T) {
	l := listen(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = Verify(r.Header, body, mustKeys(t, testSecret), time.Now(), Tolerance)
		}
		if err != nil || !json.Valid(body) {
			t.Errorf("%d bytes: %v", len(body), err)
		}
		w.Write(bytes.Repeat([]byte("y"), len(body)%9000))
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l) //nolint:errcheck // it ends by Close
	}()
	defer func() { l.Close(); <-done }()
	s := newSink(t, "http://"+l.Addr().String())
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				e := testEvent()
				e.Data = []byte(`"` + strings.Repeat("x", (g*40+i)*241) + `"`)
				if out := s.Send(context.Background(), &relay.Delivery{Event: e, Attempt: 1}); out.Result != relay.Delivered {
					t.Errorf("got %+v", out)
				}
			}
		})
	}
	wg.Wait()
}

func TestSend_KeepsConnections(t *testing.T) {
	conns := make(chan int, 100)
	s := newSink(t, receive(t, listen(t), func(p *peer) {
		conns <- p.n
		polite(p)
	}))
	if err := s.Probe(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		mustDeliver(t, s)
	}
	if n := len(conns); n != 1 {
		t.Errorf("%d connections for a probe and ten attempts", n)
	}
	// One that has waited too long is closed, and the next attempt makes another.
	s.pool.mu.Lock()
	s.pool.idle[0].idleSince = time.Now().Add(-idleTimeout)
	s.pool.mu.Unlock()
	s.pool.reap()
	mustDeliver(t, s)
	if n := len(conns); n != 2 {
		t.Errorf("%d connections after one was too old to keep", n)
	}
	s.pool.mu.Lock()
	s.pool.idle[0].born = time.Now().Add(-2 * maxAge)
	s.pool.mu.Unlock()
	mustDeliver(t, s)
	mustDeliver(t, s)
	if n := len(conns); n != 3 {
		t.Errorf("%d connections after one has come of age", n)
	}
	s.Close()
	mustDeliver(t, s)
	if len(s.pool.idle) != 0 || len(s.pool.busy) != 0 {
		t.Errorf("a closed sink holds %d and %d connections", len(s.pool.idle), len(s.pool.busy))
	}
}

func TestSend_KeepsNoMoreThanInFlight(t *testing.T) {
	var arrived sync.WaitGroup
	arrived.Add(3)
	s := newSink(t, receive(t, listen(t), func(p *peer) {
		if r, _ := p.request(); r != nil {
			arrived.Done()
			arrived.Wait() // all three are under way at once
			p.say(noContent)
			p.request()
		}
	}), func(c *Config) { c.MaxInFlight = 2 })
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if out := send(s); out.Result != relay.Delivered {
				t.Errorf("got %+v", out)
			}
		})
	}
	wg.Wait()
	if n := len(s.pool.idle); n != 2 {
		t.Errorf("%d connections are kept, want 2", n)
	}
}

func TestSend_Cut(t *testing.T) {
	arrived := make(chan bool, 10)
	s := newSink(t, receive(t, listen(t), func(p *peer) {
		if r, _ := p.request(); r != nil && r.Header.Get(HeaderAttempt) == "1" {
			p.say(noContent)
			r, _ = p.request()
			if r == nil {
				return
			}
		}
		arrived <- true
		p.request() // hang until it closes
	}))
	mustDeliver(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	other, cancelOther := context.WithCancel(context.Background())
	outcome := make(chan relay.Outcome, 2)
	hang := func(ctx context.Context) {
		outcome <- s.Send(ctx, &relay.Delivery{Event: testEvent(), Attempt: 2})
	}
	// Two of one context, on a kept and on a new connection, and one of another.
	go hang(ctx)
	<-arrived
	go hang(ctx)
	<-arrived
	rest := make(chan relay.Outcome, 1)
	go func() { rest <- s.Send(other, &relay.Delivery{Event: testEvent(), Attempt: 2}) }()
	<-arrived
	start := time.Now()
	cancel()
	for range 2 {
		if out := <-outcome; out.Result != relay.Cut || out.Class != relay.ErrShutdown {
			t.Errorf("got %+v, want it cut", out)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the cut took %s", took)
	}
	s.pool.mu.Lock()
	if n := len(s.pool.busy); n != 1 {
		t.Errorf("%d attempts are under way, want that of the other context", n)
	}
	s.pool.mu.Unlock()
	cancelOther()
	if out := <-rest; out.Result != relay.Cut {
		t.Errorf("got %+v, want it cut", out)
	}
	hang(ctx)
	if out := <-outcome; out.Result != relay.Cut {
		t.Errorf("after the end of its context: %+v", out)
	}
	if len(arrived) != 0 {
		t.Error("an attempt was made after the end of its context")
	}
	mustDeliver(t, s)
}

// Contexts of single attempts are forgotten, whether they end or not.
func TestSend_ForgetsContexts(t *testing.T) {
	s := newSink(t, receive(t, listen(t), polite))
	for range 10 * maxWatches {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if out := s.Send(ctx, &relay.Delivery{Event: testEvent(), Attempt: 1}); out.Result != relay.Delivered {
			t.Fatalf("got %+v", out)
		}
		if n := len(s.pool.watches); n > maxWatches {
			t.Fatalf("%d contexts are watched", n)
		}
	}
}

func TestSend_RejectsLargeEvent(t *testing.T) {
	s := newSink(t, "http://127.0.0.1:1", func(c *Config) { c.MaxBody = 10 })
	if out := send(s); out.Result != relay.Rejected || out.Class != relay.ErrPayload || !strings.Contains(out.Err, "limit is 10") {
		t.Errorf("got %+v", out)
	}
}

// A URL is a secret, and so are its parts.
func TestSend_ShowsNoSecret(t *testing.T) {
	l := listen(t)
	l.Close()
	url := "http://user-x:hunter2@" + l.Addr().String() + "/path-x/y?token=query-x"
	s := newSink(t, url)
	out := send(s)
	if out.Result != relay.Failed || out.Class != relay.ErrConnect || out.Err != "connect: connection refused" {
		t.Fatalf("got %+v", out)
	}
	err := s.Probe(context.Background())
	if err == nil {
		t.Fatal("the probe connects")
	}
	if want := "http://" + l.Addr().String() + "/..."; s.Target() != want {
		t.Errorf("target is %s, want %s", s.Target(), want)
	}
	text := fmt.Sprint(out, err) + fmt.Sprintf("%v %+v %#v %s", s, s, s, s)
	for _, secret := range []string{"user-x", "hunter2", "path-x", "query-x", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is shown in %s", secret, text)
		}
	}
}

func TestNew_ReportsEveryMistake(t *testing.T) {
	for _, tt := range []struct {
		edit func(*Config)
		want []string
	}{
		{func(c *Config) { c.URL = relay.Secret{} }, []string{"url is empty"}},
		{func(c *Config) { c.URL = relay.NewSecret("https://token-x\x7f/") }, []string{"url is malformed"}},
		{func(c *Config) { c.URL = relay.NewSecret("ftp://token-x/") }, []string{"url does not begin with http"}},
		{func(c *Config) { c.URL = relay.NewSecret("https:///token-x") }, []string{"url has no host"}},
		{func(c *Config) { c.URL = relay.NewSecret("https://h/#token-x") }, []string{"fragment"}},
		{func(c *Config) { c.URL = relay.NewSecret("https://h:0/token-x") }, []string{"port"}},
		{func(c *Config) { c.URL = relay.NewSecret("https://h:65536/token-x") }, []string{"port"}},
		{func(c *Config) { c.URL = relay.NewSecret("https://hé/token-x") }, []string{"xn--"}},
		{func(c *Config) { c.URL = relay.NewSecret("https://h/?token-x HTTP/1.1") }, []string{"percent-encode"}},
		{func(c *Config) { c.Secrets = nil }, []string{"unsigned = true"}},
		{func(c *Config) { c.Unsigned = true }, []string{"together with secrets"}},
		{func(c *Config) { c.Secrets = append(c.Secrets, relay.NewSecret("token-x!")) }, []string{"secret 2: "}},
		{func(c *Config) { c.Format = "xml" }, []string{`"xml" is unknown`}},
		{func(c *Config) { c.Timeout = -1 }, []string{"negative"}},
		{func(c *Config) { c.CAFile = "/nowhere.pem" }, []string{"read CA file"}},
		{func(c *Config) { c.UserAgent = "a\r\nb" }, []string{"user agent"}},
		{func(c *Config) {
			c.Headers = map[string]relay.Secret{"Webhook-Signature": {}, "rowhook-x": {}, "HOST": {}, "Content-length": {}, "a b": {}, "": {},
				"x-crlf": relay.NewSecret("token-x\r\nhost: y"), "X-Two": {}, "x-two": {}, "authorization": {}}
			c.URL = relay.NewSecret("https://a:b@h")
		}, []string{`"Webhook-Signature" cannot`, `"rowhook-x" cannot`, `"HOST" cannot`, `"Content-length" cannot`, `"a b" is not`, `"" is not`,
			`"x-crlf" has a value`, `"x-two" is set twice`, `"authorization" is set`}},
		{func(c *Config) { c.URL, c.Secrets = relay.Secret{}, nil }, []string{"url is empty", "no secret"}},
	} {
		cfg := Config{URL: relay.NewSecret("https://h/"), Secrets: []relay.Secret{relay.NewSecret(testSecret)}}
		tt.edit(&cfg)
		_, err := New(cfg)
		if err == nil {
			t.Errorf("accepted; want %q", tt.want)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q in it", err, want)
			}
		}
		if strings.Contains(err.Error(), "token-x") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

func TestTarget_HostForms(t *testing.T) {
	for url, want := range map[string][3]string{
		"https://example.com":            {"https://example.com", "example.com", "example.com:443"},
		"http://example.com/":            {"http://example.com", "example.com", "example.com:80"},
		"https://example.com:8443/x?y=z": {"https://example.com:8443/...", "example.com:8443", "example.com:8443"},
		"http://[::1]:8080/":             {"http://[::1]:8080", "[::1]:8080", "[::1]:8080"},
		"http://[fe80::1%25eth0]/":       {"http://[fe80::1]", "[fe80::1]", "[fe80::1%eth0]:80"},
	} {
		got, err := parseTarget(relay.NewSecret(url))
		if err != nil || got.printable != want[0] || got.field != want[1] || net.JoinHostPort(got.host, got.port) != want[2] {
			t.Errorf("%s: got %+v, %v", url, got, err)
		}
	}
}
