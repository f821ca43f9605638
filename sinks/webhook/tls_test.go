package webhook

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

// authority signs the certificates of a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	var der []byte
	der, a.key = a.sign(&template, &template, nil)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert = cert
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

func (a *authority) leaf(edit func(*x509.Certificate)) tls.Certificate {
	template := x509.Certificate{
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	edit(&template)
	der, key := a.sign(&template, a.cert, a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestSend_TLS(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	good := ca.leaf(func(*x509.Certificate) {})
	for _, tt := range []struct {
		name string
		tls  *tls.Config
		want string // in the error; "" delivers
	}{
		{"good", &tls.Config{Certificates: []tls.Certificate{good}}, ""},
		{"1.2", &tls.Config{Certificates: []tls.Certificate{good}, MaxVersion: tls.VersionTLS12}, ""},
		{"h2 and h1", &tls.Config{Certificates: []tls.Certificate{good}, NextProtos: []string{"h2", "http/1.1"}}, ""},
		{"1.1", &tls.Config{Certificates: []tls.Certificate{good}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "version"},
		{"expired", &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}}, "expired"},
		{"wrong name", &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(c *x509.Certificate) {
			c.IPAddresses, c.DNSNames = nil, []string{"other.example.com"}
		})}}, "doesn't contain any IP SANs"},
		{"stranger", &tls.Config{Certificates: []tls.Certificate{stranger.leaf(func(*x509.Certificate) {})}}, "unknown authority"},
		{"client certificate", &tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAnyClientCert}, "certificate required"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int32
			url := receive(t, tls.NewListener(listen(t), tt.tls), func(p *peer) {
				for r, _ := p.request(); r != nil; r, _ = p.request() {
					requests.Add(1)
					p.say(noContent)
				}
			})
			s := newSink(t, strings.Replace(url, "http:", "https:", 1), func(c *Config) { c.CAFile = ca.file })
			if tt.want == "" {
				for range 3 {
					mustDeliver(t, s)
				}
				if n := len(s.pool.idle); n != 1 || requests.Load() != 3 {
					t.Errorf("%d connections are kept after %d requests", n, requests.Load())
				}
				return
			}
			for range 2 {
				out := send(s)
				if out.Result != relay.Failed || out.Class != relay.ErrTLS || !strings.HasPrefix(out.Err, "tls: ") || !strings.Contains(out.Err, tt.want) {
					t.Errorf("got %+v, want %q", out, tt.want)
				}
				if strings.Contains(out.Err, "->") {
					t.Errorf("the error shows addresses: %s", out.Err)
				}
			}
			if requests.Load() > 0 {
				t.Error("a request was read")
			}
		})
	}
}

func TestSend_TLSStallsAndNonsense(t *testing.T) {
	for _, tt := range []struct {
		name   string
		handle func(*peer)
		want   string
	}{
		{"stall", func(p *peer) { p.br.Peek(1 << 12) }, "tls: timed out"},                                                                         //nolint:errcheck // it blocks, that is all
		{"plain HTTP", func(p *peer) { p.say("HTTP/1.1 400 Bad Request\r\n\r\n"); p.br.Peek(1 << 12) }, "tls: the other side does not speak TLS"}, //nolint:errcheck // likewise
		{"closes", func(*peer) {}, "tls: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url := receive(t, listen(t), tt.handle)
			s := newSink(t, strings.Replace(url, "http:", "https:", 1), func(c *Config) { c.ConnectTimeout = hostileTimeout })
			out := send(s)
			if out.Class != relay.ErrTLS || !strings.HasPrefix(out.Err, tt.want) || out.Duration > 5*time.Second {
				t.Errorf("got %+v, want %q", out, tt.want)
			}
		})
	}
}

// corked holds back what is written until it is told not to, so that several
// TLS records arrive at once.
type corked struct {
	net.Conn
	mu   sync.Mutex
	held []byte
	cork bool
}

func (c *corked) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cork {
		c.held = append(c.held, b...)
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *corked) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cork = false
	c.Conn.Write(c.held) //nolint:errcheck // the sender sees it
}

// What nobody asked for can lie in the TLS layer, where the socket looks quiet.
func TestSend_TLSUnaskedAnswerIsNotTaken(t *testing.T) {
	ca := newAuthority(t)
	cfg := &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(*x509.Certificate) {})}}
	url := receive(t, listen(t), func(p *peer) {
		below := &corked{Conn: p.Conn}
		p.Conn = tls.Server(below, cfg)
		p.br.Reset(p.Conn)
		p.request()
		if p.n > 1 {
			p.say("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
			return
		}
		below.mu.Lock()
		below.cork = true
		below.mu.Unlock()
		p.say(noContent)
		p.say(noContent)
		below.release()
		if r, _ := p.request(); r != nil {
			t.Error("a request came over a stale connection")
		}
	})
	s := newSink(t, strings.Replace(url, "http:", "https:", 1), func(c *Config) { c.CAFile = ca.file })
	mustDeliver(t, s)
	if out := send(s); out.Status != 500 {
		t.Errorf("got %+v, want the answer of a new connection", out)
	}
}

// A connection that went stale under TLS is found too, and an attempt that
// hangs is cut.
func TestSend_TLSStaleAndCut(t *testing.T) {
	ca := newAuthority(t)
	closed := make(chan bool)
	arrived := make(chan bool)
	url := receive(t, tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(*x509.Certificate) {})}}), func(p *peer) {
		r, _ := p.request()
		if p.n == 1 {
			p.say(noContent)
			p.Close()
			close(closed)
			return
		}
		arrived <- r != nil
		p.request()
	})
	s := newSink(t, strings.Replace(url, "http:", "https:", 1), func(c *Config) { c.CAFile = ca.file })
	mustDeliver(t, s)
	<-closed
	ctx, cancel := context.WithCancel(context.Background())
	outcome := make(chan relay.Outcome)
	go func() { outcome <- s.Send(ctx, &relay.Delivery{Event: testEvent(), Attempt: 1}) }()
	if !<-arrived {
		t.Error("no request came")
	}
	cancel()
	if out := <-outcome; out.Result != relay.Cut {
		t.Errorf("got %+v, want it cut", out)
	}
}
