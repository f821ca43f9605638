package webhook

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// errStale says that a kept connection could not be used, and that nothing of
// the request has been written.
var errStale = errors.New("the kept connection is stale")

// maxRequestBuf is the largest request buffer that a kept connection holds on
// to, so that one large event does not cost its size for every connection.
const maxRequestBuf = 16 << 10

// conn is a connection with the buffers of the attempts on it.
type conn struct {
	nc  net.Conn
	rd  reader
	req *request

	// raw is the TCP socket below, nil where it cannot be had.
	raw syscall.RawConn
	// plain says that requests go to the socket as they are, without TLS.
	plain bool
	wait  exchange

	born      time.Time
	idleSince time.Time
	// done and slot belong to the pool.
	done <-chan struct{}
	slot int
}

func newConn(nc net.Conn, tcp *net.TCPConn, now time.Time) *conn {
	c := &conn{nc: nc, born: now}
	c.rd.src = nc
	if tcp != nil {
		if raw, err := tcp.SyscallConn(); err == nil {
			c.raw = raw
			c.plain = nc == net.Conn(tcp)
		}
	}
	c.wait.init(c)
	return c
}

// drained reports whether a kept connection has nothing decrypted, or read and
// not yet decrypted, in its TLS layer, where the socket does not show it. It
// spoils the read deadline.
func (c *conn) drained() bool {
	if c.plain {
		return true
	}
	// With its deadline in the past a read returns what is there and nothing else.
	c.nc.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // on a closed connection the read says so
	var b [1]byte
	n, err := c.nc.Read(b[:])
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// trim lets go of buffers that one large message made large.
func (c *conn) trim() {
	if len(c.rd.buf) > smallBuf {
		c.rd.buf = nil
	}
	c.rd.r, c.rd.w = 0, 0
	if c.req != nil && cap(c.req.buf) > maxRequestBuf {
		c.req.buf = nil
	}
}

// roundTrip writes a request and reads its answer. The error of a kept
// connection is errStale when it was found closed, or with bytes on it that
// nobody asked for, before the request was written.
func (c *conn) roundTrip(out []byte, kept bool) (response, error) {
	c.rd.r, c.rd.w, c.rd.any = 0, 0, false
	if err := c.send(out, kept); err != nil {
		if errors.Is(err, errStale) {
			return response{}, errStale
		}
		return c.earlyAnswer(err)
	}
	return readResponse(&c.rd)
}

// send writes the request. Where it can, it returns with the first bytes of the
// answer in the buffer.
func (c *conn) send(out []byte, kept bool) error {
	if c.raw != nil && c.plain && canExchange {
		return c.wait.run(out, kept)
	}
	if kept && c.raw != nil && canExchange && !c.wait.quiet() {
		return errStale
	}
	_, err := c.nc.Write(out)
	if err != nil {
		return &writeError{err}
	}
	return nil
}

// writeError is an error of writing a request, not of reading its answer.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// earlyAnswer looks for an answer after a request could not be written whole: a
// receiver may refuse a body without reading it, and what it said is worth more
// than a broken pipe. A success is not believed, since the receiver cannot have
// seen the event.
func (c *conn) earlyAnswer(cause error) (response, error) {
	var w *writeError
	if !errors.As(cause, &w) {
		return response{}, cause
	}
	c.nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) //nolint:errcheck // a closed connection has nothing to read
	res, err := readResponse(&c.rd)
	if err != nil || res.status < 300 {
		return response{}, w.err
	}
	res.reusable = false
	return res, nil
}
