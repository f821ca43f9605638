package webhook

import (
	"bytes"
	"compress/gzip"
	"context"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

// hostileTimeout is the timeout of a sink whose receiver is not expected to let
// it end otherwise.
const hostileTimeout = time.Second

// drip writes s again and again, a byte every few milliseconds, until the other
// side has had enough.
func drip(p *peer, s string) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		<-tick.C
		if _, err := p.Write([]byte{s[i%len(s)]}); err != nil {
			return
		}
	}
}

// flood writes s until the other side has had enough, or a gigabyte is written.
func flood(p *peer, s string) {
	block := []byte(strings.Repeat(s, 1+64<<10/len(s)))
	for n := 0; n < 1<<30; n += len(block) {
		if _, err := p.Write(block); err != nil {
			return
		}
	}
}

// reset closes the connection with a TCP reset.
func reset(p *peer) {
	p.Conn.(*net.TCPConn).SetLinger(0) //nolint:errcheck // without it the test fails
	p.Close()
}

// bomb is some kilobytes that gunzip to many megabytes.
var bomb = sync.OnceValue(func() string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(make([]byte, 16<<20)) //nolint:errcheck // a buffer does not fail
	z.Close()                     //nolint:errcheck // likewise
	return b.String()
})

// Whatever a receiver does, the attempt ends within its deadline, in bounded
// memory, with the right class, and the next attempt is none the worse.
func TestSend_HostileReceivers(t *testing.T) {
	zipped := bomb()
	hang := func(p *peer) { p.request() }
	for _, tt := range []struct {
		name   string
		answer func(p *peer) // after the request was read
		result relay.Result
		class  relay.ErrorClass
		status int
		slow   bool // the deadline ends it
	}{
		{"silent", hang, relay.Failed, relay.ErrTimeout, 0, true},
		{"head drip", func(p *peer) { p.say("HTTP/1.1 200 OK\r\n"); drip(p, "X-A: b\r\n") }, relay.Failed, relay.ErrTimeout, 0, true},
		{"status drip", func(p *peer) {
			drip(p, "HTTP/1.1 200 OKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKK")
		},
			relay.Failed, relay.ErrTimeout, 0, true},
		{"body drip after success", func(p *peer) { p.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"); drip(p, "x") },
			relay.Delivered, relay.ErrNone, 200, true},
		{"body drip after failure", func(p *peer) { p.say("HTTP/1.1 500 Oh\r\nContent-Length: 1000\r\n\r\n"); drip(p, "x") },
			relay.Failed, relay.ErrStatus5, 500, true},
		{"chunk drip", func(p *peer) { p.say("HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n"); drip(p, "1\r\nx\r\n") },
			relay.Failed, relay.ErrStatus5, 500, true},
		{"interim drip", func(p *peer) { drip(p, "HTTP/1.1 100 Continue\r\n\r\n") }, relay.Failed, relay.ErrTimeout, 0, true},
		{"cut head", func(p *peer) { p.say("HTTP/1.1 200 OK\r\nContent-Le") }, relay.Failed, relay.ErrReset, 0, false},
		{"closed", func(*peer) {}, relay.Failed, relay.ErrReset, 0, false},
		{"reset", reset, relay.Failed, relay.ErrReset, 0, false},
		{"endless body", func(p *peer) { p.say("HTTP/1.1 200 OK\r\n\r\n"); flood(p, "x") }, relay.Delivered, relay.ErrNone, 200, false},
		{"endless chunks", func(p *peer) {
			p.say("HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n")
			flood(p, "10\r\n0123456789abcdef\r\n")
		}, relay.Failed, relay.ErrStatus5, 500, false},
		{"endless trailer", func(p *peer) {
			p.say("HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
			flood(p, "A: b\r\n")
		}, relay.Failed, relay.ErrStatus5, 500, false},
		{"1 GB body", func(p *peer) { p.say("HTTP/1.1 500 Oh\r\nContent-Length: 1073741824\r\n\r\n"); flood(p, "x") },
			relay.Failed, relay.ErrStatus5, 500, false},
		{"gzip bomb", func(p *peer) {
			p.say("HTTP/1.1 500 Oh\r\nContent-Encoding: gzip\r\nContent-Length: " + strconv.Itoa(len(zipped)) + "\r\n\r\n" + zipped)
			p.request()
		}, relay.Failed, relay.ErrStatus5, 500, false},
		{"huge header", func(p *peer) { p.say("HTTP/1.1 200 OK\r\nX-A: "); flood(p, "x") }, relay.Failed, relay.ErrProtocol, 0, false},
		{"many headers", func(p *peer) { p.say("HTTP/1.1 200 OK\r\n"); flood(p, "A: b\r\n") }, relay.Failed, relay.ErrProtocol, 0, false},
		{"not HTTP", func(p *peer) { p.say("220 mail.example.com ESMTP\r\n"); p.request() }, relay.Failed, relay.ErrProtocol, 0, false},
		{"invalid status line", func(p *peer) { p.say("HTTP/1.1 OK\r\n\r\n"); p.request() }, relay.Failed, relay.ErrProtocol, 0, false},
		{"interim flood", func(p *peer) { flood(p, "HTTP/1.1 100 Continue\r\n\r\n") }, relay.Failed, relay.ErrProtocol, 0, false},
		{"204 with body", func(p *peer) { p.say("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"); p.request() },
			relay.Delivered, relay.ErrNone, 204, false},
		{"pipelined garbage", func(p *peer) { p.say(noContent + "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"); p.request() },
			relay.Delivered, relay.ErrNone, 204, false},
		{"chunked nonsense", func(p *peer) { p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"); p.request() },
			relay.Delivered, relay.ErrNone, 200, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.slow {
				t.Parallel()
			}
			var hostile atomic.Bool
			s := newSink(t, receive(t, listen(t), func(p *peer) {
				for r, _ := p.request(); r != nil; r, _ = p.request() {
					if hostile.Load() {
						tt.answer(p)
						return
					}
					p.say(noContent)
				}
			}), func(c *Config) {
				if tt.slow {
					c.Timeout = hostileTimeout
				}
			})
			// Once on a connection of its own, once on a kept one.
			for round := range 2 {
				hostile.Store(true)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				start := time.Now()
				out := send(s)
				took := time.Since(start)
				runtime.ReadMemStats(&after)
				if out.Result != tt.result || out.Class != tt.class || out.Status != tt.status {
					t.Errorf("round %d: got %+v", round, out)
				}
				if (out.Err == "") != (out.Result == relay.Delivered) {
					t.Errorf("round %d: error is %q", round, out.Err)
				}
				if len(out.Response) > maxKept || out.Result == relay.Delivered && out.Response != nil {
					t.Errorf("round %d: %d bytes of the body", round, len(out.Response))
				}
				if tt.slow && took < hostileTimeout {
					t.Errorf("round %d: it took %s, so the deadline did not end it", round, took)
				}
				if took > 5*time.Second {
					t.Errorf("round %d: it took %s", round, took)
				}
				// What drips is not much; and those tests run side by side.
				if grown := after.TotalAlloc - before.TotalAlloc; !tt.slow && grown > 4<<20 {
					t.Errorf("round %d: %d bytes were allocated", round, grown)
				}
				hostile.Store(false)
				mustDeliver(t, s)
			}
		})
	}
}

func TestSend_KeepsBeginningOfFailure(t *testing.T) {
	zipped := bomb()
	for encoding, body := range map[string]string{"identity": `{"error":"no"}`, "gzip": zipped} {
		s := newSink(t, receive(t, listen(t), func(p *peer) {
			p.request()
			p.say("HTTP/1.1 422 No\r\nContent-Encoding: " + encoding + "\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
			p.request()
		}))
		out := send(s)
		if out.Status != 422 || out.Err != "answered 422 Unprocessable Entity" || string(out.Response) != body[:min(len(body), maxKept)] {
			t.Errorf("%s: got %d %q and %d bytes", encoding, out.Status, out.Err, len(out.Response))
		}
	}
}

// A redirect is a failure, wherever it leads: following it would send the event
// and its signature to someone else.
func TestSend_DoesNotFollowRedirects(t *testing.T) {
	followed := make(chan bool, 10)
	elsewhere := receive(t, listen(t), func(p *peer) { followed <- true; polite(p) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := newSink(t, receive(t, listen(t), func(p *peer) {
			for r, _ := p.request(); r != nil; r, _ = p.request() {
				p.say("HTTP/1.1 " + strconv.Itoa(status) + " Moved\r\nLocation: " + elsewhere + "\r\nContent-Length: 0\r\n\r\n")
			}
		}))
		for range 2 {
			out := send(s)
			if out.Result != relay.Failed || out.Class != relay.ErrRedirect || out.Status != status || !strings.Contains(out.Err, "final URL") {
				t.Errorf("%d: got %+v", status, out)
			}
		}
	}
	if len(followed) > 0 {
		t.Error("a redirect was followed")
	}
}

func TestSend_RetryAfterAndGone(t *testing.T) {
	var answer atomic.Value
	s := newSink(t, receive(t, listen(t), func(p *peer) {
		for r, _ := p.request(); r != nil; r, _ = p.request() {
			p.say("HTTP/1.1 " + answer.Load().(string) + "\r\nContent-Length: 0\r\n\r\n")
		}
	}))
	date := time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat)
	for _, tt := range []struct {
		answer     string
		result     relay.Result
		class      relay.ErrorClass
		least, max time.Duration
	}{
		{"429 Slow\r\nRetry-After: 30", relay.Failed, relay.ErrThrottle, 30 * time.Second, 30 * time.Second},
		{"503 Busy\r\nretry-after:  " + date + " ", relay.Failed, relay.ErrStatus5, 9 * time.Minute, 10 * time.Minute},
		{"429 Slow", relay.Failed, relay.ErrThrottle, 0, 0},
		{"500 Oh\r\nRetry-After: 30", relay.Failed, relay.ErrStatus5, 0, 0},
		{"410 Gone", relay.Gone, relay.ErrGone, 0, 0},
	} {
		answer.Store(tt.answer)
		out := send(s)
		if out.Result != tt.result || out.Class != tt.class || out.RetryAfter < tt.least || out.RetryAfter > tt.max {
			t.Errorf("%q: got %+v", tt.answer, out)
		}
	}
}

// The race with the receiver's idle timeout: the request goes out again, the
// same to the byte, on a new connection, and only once.
func TestSend_RepeatsOnceWhenKeptConnectionEnds(t *testing.T) {
	for name, end := range map[string]func(*peer){"closed": func(*peer) {}, "reset": reset} {
		t.Run(name, func(t *testing.T) {
			bodies := make(chan string, 10)
			var refuse atomic.Bool
			s := newSink(t, receive(t, listen(t), func(p *peer) {
				for n := 0; ; n++ {
					r, body := p.request()
					if r == nil {
						return
					}
					bodies <- r.Header.Get(HeaderID) + r.Header.Get(HeaderSignature) + string(body)
					if n > 0 || refuse.Load() {
						end(p)
						return
					}
					p.say(noContent)
				}
			}))
			mustDeliver(t, s)
			<-bodies
			mustDeliver(t, s)
			if first, second := <-bodies, <-bodies; first != second {
				t.Errorf("two requests:\n%s\n%s", first, second)
			}
			// The new connection is kept in its turn; what ends without an answer on
			// the one after it is a failure.
			refuse.Store(true)
			if out := send(s); out.Class != relay.ErrReset {
				t.Errorf("got %+v", out)
			}
			if n := len(bodies); n != 2 {
				t.Errorf("%d requests, want 2", n)
			}
			// A new connection alone: no repetition.
			if out := send(s); out.Class != relay.ErrReset {
				t.Errorf("got %+v", out)
			}
			if n := len(bodies); n != 3 {
				t.Errorf("%d requests, want 3", n)
			}
		})
	}
}

// Once a byte of the answer has come, a request is not repeated.
func TestSend_DoesNotRepeatAfterFirstByte(t *testing.T) {
	var requests atomic.Int32
	s := newSink(t, receive(t, listen(t), func(p *peer) {
		for r, _ := p.request(); r != nil; r, _ = p.request() {
			if requests.Add(1) == 2 {
				p.say("H")
				return
			}
			p.say(noContent)
		}
	}))
	mustDeliver(t, s)
	if out := send(s); out.Class != relay.ErrReset || requests.Load() != 2 {
		t.Errorf("got %+v after %d requests", out, requests.Load())
	}
}

// Kept connections that were closed, or have bytes on them that nobody asked
// for, are found before anything is written to them. An unasked 204 is never
// taken for the answer to the next event.
func TestSend_FindsStaleConnections(t *testing.T) {
	for name, spoil := range map[string]func(*peer){
		"closed":     func(p *peer) { p.Close() },
		"reset":      reset,
		"half-close": func(p *peer) { p.Conn.(*net.TCPConn).CloseWrite() }, //nolint:errcheck // without it the test fails
		"unasked":    func(p *peer) { p.say(noContent) },
		"408":        func(p *peer) { p.say("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			const conns = 3
			var arrived sync.WaitGroup
			arrived.Add(conns)
			now, spoiled := make(chan bool), make(chan bool)
			s := newSink(t, receive(t, listen(t), func(p *peer) {
				p.request()
				if p.n > conns {
					p.say("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
					return
				}
				arrived.Done()
				arrived.Wait()
				p.say(noContent)
				<-now
				spoil(p)
				spoiled <- true
				if r, _ := p.request(); r != nil {
					t.Error("a request came over a stale connection")
				}
			}))
			var wg sync.WaitGroup
			for range conns {
				wg.Go(func() { mustDeliver(t, s) })
			}
			wg.Wait()
			close(now)
			for range conns {
				<-spoiled
			}
			if out := send(s); out.Status != 500 {
				t.Errorf("got %+v, want the answer of a new connection", out)
			}
			if n := len(s.pool.idle); n > 1 {
				t.Errorf("%d stale connections are still kept", n-1)
			}
		})
	}
}

// A receiver that refuses a large body without reading it is heard.
func TestSend_HearsEarlyAnswer(t *testing.T) {
	e := testEvent()
	e.Data = []byte(`"` + strings.Repeat("x", 12<<20) + `"`)
	for name, after := range map[string]func(*peer, chan bool){
		"and closes":          func(*peer, chan bool) {},
		"and does not read":   func(_ *peer, done chan bool) { <-done },
		"and says it is fine": func(_ *peer, done chan bool) { <-done },
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan bool)
			answer := "HTTP/1.1 413 Too Large\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
			if name == "and says it is fine" {
				answer = noContent
			}
			s := newSink(t, receive(t, listen(t), func(p *peer) {
				p.br.Peek(100) //nolint:errcheck // the sender sees it
				p.say(answer)
				after(p, done)
			}), func(c *Config) { c.Timeout = hostileTimeout })
			out := s.Send(context.Background(), &relay.Delivery{Event: e, Attempt: 1})
			close(done)
			if name == "and says it is fine" {
				if out.Result != relay.Failed || out.Class != relay.ErrTimeout {
					t.Errorf("got %+v", out)
				}
			} else if out.Status != 413 || out.RetryAfter != 7*time.Second {
				t.Errorf("got %+v", out)
			}
		})
	}
}

// The kernel takes the connection, and nobody ever does.
func TestSend_NeverAccepts(t *testing.T) {
	l := listen(t)
	defer l.Close()
	s := newSink(t, "http://"+l.Addr().String(), func(c *Config) { c.Timeout = hostileTimeout })
	if out := send(s); out.Class != relay.ErrTimeout || out.Duration > 5*time.Second {
		t.Errorf("got %+v", out)
	}
}

func TestSend_PrivateAddressesAreBlocked(t *testing.T) {
	var requests atomic.Int32
	url := receive(t, listen(t), func(p *peer) { requests.Add(1); polite(p) })
	for _, u := range []string{url, strings.Replace(url, "127.0.0.1", "localhost", 1), strings.Replace(url, "127.0.0.1", "[::ffff:127.0.0.1]", 1),
		"http://169.254.169.254/latest/meta-data"} {
		s := newSink(t, u, func(c *Config) { c.AllowPrivate = false })
		out := send(s)
		if out.Class != relay.ErrBlocked || out.Err != "connect: the address is not allowed" {
			t.Errorf("%s: got %+v", u, out)
		}
		if err := s.Probe(context.Background()); err == nil {
			t.Errorf("%s: the probe connects", u)
		}
	}
	// Forms of an address that only some resolvers understand never connect.
	for _, host := range []string{"2130706433", "0x7f000001", "0177.0.0.1", "127.1"} {
		s := newSink(t, strings.Replace(url, "127.0.0.1", host, 1), func(c *Config) { c.AllowPrivate, c.ConnectTimeout = false, 2*time.Second })
		if out := send(s); !out.Class.Unreachable() {
			t.Errorf("%s: got %+v", host, out)
		}
	}
	if n := requests.Load(); n > 0 {
		t.Errorf("%d requests came", n)
	}
}

func TestSend_UnknownHost(t *testing.T) {
	s := newSink(t, "http://nowhere.invalid/x", func(c *Config) { c.ConnectTimeout = 2 * time.Second })
	out := send(s)
	if out.Result != relay.Failed || out.Class != relay.ErrDNS || !strings.HasPrefix(out.Err, "look up nowhere.invalid: ") {
		t.Errorf("got %+v", out)
	}
}

// Proxies that the environment names are not for webhooks: the guard would see
// the proxy's address only.
func TestSend_IgnoresProxies(t *testing.T) {
	var proxied atomic.Int32
	proxy := receive(t, listen(t), func(p *peer) { proxied.Add(1); polite(p) })
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"} {
		t.Setenv(name, proxy)
	}
	os.Unsetenv("NO_PROXY") //nolint:errcheck // it was not set by us
	s := newSink(t, "http://nowhere.invalid/x", func(c *Config) { c.ConnectTimeout = 2 * time.Second })
	if out := send(s); out.Class != relay.ErrDNS || proxied.Load() > 0 {
		t.Errorf("got %+v and %d proxied requests", out, proxied.Load())
	}
}

// A receiver may answer with the request that it got, as pages about errors do.
// What is kept of the answer must not show the secrets in there.
func TestSend_KeepsNoSecretThatAReceiverEchoes(t *testing.T) {
	l := listen(t)
	receive(t, l, func(p *peer) {
		r, _ := p.request()
		if r == nil {
			return
		}
		var head strings.Builder
		if err := r.Header.Write(&head); err != nil {
			t.Error(err)
		}
		body := "Cannot POST " + r.URL.Path + " token query-secret\n" + r.RequestURI + "\n" + head.String()
		p.say("HTTP/1.1 404 Not Found\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	})
	s := newSink(t, "http://user-x:hunter2@"+l.Addr().String()+"/hooks/path-secret?token=query-secret&a=1", func(c *Config) {
		c.Headers = map[string]relay.Secret{"X-Api-Key": relay.NewSecret("header-secret"), "X-Env": relay.NewSecret("t")}
	})
	out := send(s)
	if out.Status != 404 || !strings.Contains(string(out.Response), "Cannot POST ") || !strings.Contains(string(out.Response), "X-Api-Key: [hidden]") {
		t.Fatalf("got %+v: %s", out, out.Response)
	}
	for _, secret := range []string{"path-secret", "query-secret", "header-secret", "dXNlci14Omh1bnRlcjI="} {
		if strings.Contains(string(out.Response), secret) {
			t.Errorf("%s is in the answer: %s", secret, out.Response)
		}
	}
}
