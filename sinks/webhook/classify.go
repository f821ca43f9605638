package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"github.com/rowhook/rowhook/relay"
)

// maxRetryAfter bounds what an endpoint may ask for.
const maxRetryAfter = 24 * time.Hour

// classify says what a status means.
func classify(status int) (relay.Result, relay.ErrorClass) {
	switch {
	case status >= 200 && status < 300:
		return relay.Delivered, relay.ErrNone
	case status < 400:
		return relay.Failed, relay.ErrRedirect
	case status == http.StatusGone:
		return relay.Gone, relay.ErrGone
	case status == http.StatusTooManyRequests:
		return relay.Failed, relay.ErrThrottle
	case status < 500:
		return relay.Failed, relay.ErrStatus4
	default:
		return relay.Failed, relay.ErrStatus5
	}
}

// retryAfter parses a Retry-After field, seconds or a date, of an answer with
// the given status. It is 0 where the field says nothing: with statuses that do
// not ask to wait, in the past, or malformed.
func retryAfter(status int, value string, now time.Time) time.Duration {
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusRequestEntityTooLarge:
	default:
		return 0
	}
	if value == "" {
		return 0
	}
	var wait time.Duration
	if length, ok := parseLength([]byte(value)); ok {
		wait = time.Duration(min(length, int64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// failure is a connection that was not made, or that broke. Its text holds no
// address, path or secret: it is shown to whoever owns the endpoint.
type failure struct {
	class relay.ErrorClass
	text  string
}

func (f *failure) Error() string { return f.text }

// dialFailure says why no connection was made to the host.
func dialFailure(host string, err error) *failure {
	var dns *net.DNSError
	switch {
	case errors.Is(err, ssrf.ErrProhibitedIP) || errors.Is(err, ssrf.ErrProhibitedNetwork) || errors.Is(err, ssrf.ErrInvalidHostPort):
		return &failure{relay.ErrBlocked, "connect: the address is not allowed"}
	case errors.As(err, &dns):
		// DNSError.Error names the resolver, which is nobody's business.
		text := dns.Err
		if dns.IsTimeout {
			text = "timed out"
		}
		return &failure{relay.ErrDNS, "look up " + host + ": " + text}
	default:
		return &failure{relay.ErrConnect, "connect: " + reason(err)}
	}
}

// tlsFailure says why a TLS handshake failed.
func tlsFailure(err error) *failure {
	return &failure{relay.ErrTLS, "tls: " + reason(err)}
}

// brokenFailure says why a connection that was made did not bring an answer.
func brokenFailure(err error) *failure {
	var bad protocolError
	var op *net.OpError
	switch {
	case errors.As(err, &bad):
		return &failure{relay.ErrProtocol, bad.Error()}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &failure{relay.ErrTimeout, "no whole answer before the timeout"}
	case errors.Is(err, io.EOF):
		return &failure{relay.ErrReset, "the connection was closed without an answer"}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &failure{relay.ErrReset, "the connection was closed within the answer"}
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		// An alert: with TLS 1.3 a receiver that wants a client certificate says
		// so only after the handshake.
		return tlsFailure(err)
	default:
		return &failure{relay.ErrReset, "the connection broke: " + reason(err)}
	}
}

// reason is the text of an error without the addresses that package net puts
// before it.
func reason(err error) string {
	var errno syscall.Errno
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return "timed out"
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return "closed by the other side"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &record):
		return "the other side does not speak TLS"
	case errors.As(err, &op):
		if op.Timeout() {
			return "timed out"
		}
		return op.Err.Error()
	default:
		return err.Error()
	}
}

// statusText says what the endpoint answered.
func statusText(status int) string {
	text := "answered " + strconv.Itoa(status)
	if name := http.StatusText(status); name != "" {
		text += " " + name
	}
	if status >= 300 && status < 400 {
		text += "; redirects are not followed: configure the final URL"
	}
	return text
}

// closedByPeer reports whether the error says that the other side has ended the
// connection.
func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
