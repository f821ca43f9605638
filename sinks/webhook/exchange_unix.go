//go:build unix

package webhook

import (
	"io"
	"syscall"
)

// canExchange says that a socket can be asked whether it is quiet.
const canExchange = true

// exchange writes a request to a plain socket and waits for the first bytes of
// the answer.
//
// A Write and a Read would do, but the Read comes before the answer nearly
// always, and costs a system call that says so. This spends that call before
// the write instead, where its answer is worth something: a kept connection
// that was closed, or has bytes on it that nobody asked for, is found before
// the request is written. Both happen within one wait for readability, which
// begins before the write, so that no answer can be missed.
type exchange struct {
	c    *conn
	step func(fd uintptr) bool // bound once, so that it need not be allocated

	out  []byte
	kept bool
	sent bool
	err  error
}

func (x *exchange) init(c *conn) {
	x.c = c
	x.step = x.next
}

func (x *exchange) run(out []byte, kept bool) error {
	x.out, x.kept, x.sent, x.err = out, kept, false, nil
	err := x.c.raw.Read(x.step)
	x.out = nil
	if x.err != nil {
		return x.err
	}
	return err
}

// next is called first before anything is written, and then each time the
// socket may have become readable, until it returns true.
func (x *exchange) next(fd uintptr) bool {
	rd := &x.c.rd
	if !x.sent {
		if x.kept && !quiet(fd) {
			x.err = errStale
			return true
		}
		if _, err := x.c.nc.Write(x.out); err != nil {
			x.err = &writeError{err}
			return true
		}
		x.sent = true
		return false
	}
	var space []byte
	if space, x.err = rd.room(); x.err != nil {
		return true
	}
	n, nothing, err := readNow(fd, space)
	switch {
	case nothing:
		return false
	case err != nil:
		x.err = err
	case n == 0:
		x.err = io.EOF
	default:
		rd.w += n
		rd.any = true
	}
	return true
}

// quiet reports whether the socket is open and has nothing to read. For a TLS
// connection too: a record that comes while nobody is asked is as good a reason
// to make a new one.
func (x *exchange) quiet() bool {
	calm := false
	err := x.c.raw.Read(func(fd uintptr) bool {
		calm = quiet(fd)
		return true
	})
	return err == nil && calm
}

func quiet(fd uintptr) bool {
	var b [1]byte
	_, nothing, _ := readNow(fd, b[:])
	return nothing
}

// readNow reads what is there without waiting, since sockets of package net do
// not block, or says that there is nothing yet.
func readNow(fd uintptr, b []byte) (n int, nothing bool, err error) {
	for {
		n, err := syscall.Read(int(fd), b)
		if err != syscall.EINTR {
			return n, err == syscall.EAGAIN, err
		}
	}
}
