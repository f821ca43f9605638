package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"code.dny.dev/ssrf"
)

// azureWireServer is a metadata service with a public address.
var azureWireServer = netip.MustParsePrefix("168.63.129.16/32")

// guard refuses addresses with a special purpose: loopback, private, link-local
// with the metadata services in it, shared, documentation, multicast, and the
// ranges of IPv6 that carry an IPv4 address (mapped, NAT64, 6to4, Teredo).
var guard = ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(azureWireServer))

// dialer makes connections to one host.
type dialer struct {
	net     net.Dialer
	host    string // for messages
	address string // host:port
	tls     *tls.Config
	timeout time.Duration // for the dial with its lookup, and again for the handshake
}

// newDialer returns a dialer. Unless private addresses are allowed, every
// address is judged when it is about to be connected to, after the name was
// resolved, so that a name that changes its address between two looks gains
// nothing; of several addresses those that are allowed are tried.
func newDialer(host, port string, secure, private bool, roots *x509.CertPool, timeout time.Duration, conns int) *dialer {
	d := &dialer{host: host, address: net.JoinHostPort(host, port), timeout: timeout}
	if !private {
		d.net.Control = guard.Safe
	}
	if secure {
		d.tls = &tls.Config{
			ServerName:         host,
			RootCAs:            roots,
			MinVersion:         tls.VersionTLS12,
			NextProtos:         []string{"http/1.1"},
			ClientSessionCache: tls.NewLRUClientSessionCache(conns),
		}
	}
	return d
}

// dial connects before the deadline. Its error is a *failure, or that of ctx.
func (d *dialer) dial(ctx context.Context, deadline time.Time) (net.Conn, *net.TCPConn, error) {
	dialCtx, cancel := context.WithDeadline(ctx, earlier(deadline, time.Now().Add(d.timeout)))
	defer cancel()
	nc, err := d.net.DialContext(dialCtx, "tcp", d.address)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		return nil, nil, dialFailure(d.host, err)
	}
	tcp, _ := nc.(*net.TCPConn)
	if d.tls == nil {
		return nc, tcp, nil
	}
	tlsCtx, cancel := context.WithDeadline(ctx, earlier(deadline, time.Now().Add(d.timeout)))
	defer cancel()
	secure := tls.Client(nc, d.tls)
	if err := secure.HandshakeContext(tlsCtx); err != nil {
		nc.Close()
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		return nil, nil, tlsFailure(err)
	}
	return secure, tcp, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// readRoots reads the certificates of a PEM file.
func readRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read CA file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s holds no PEM certificate", file)
	}
	return roots, nil
}
