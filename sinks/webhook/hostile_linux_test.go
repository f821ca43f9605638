package webhook

import (
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

// A receiver whose queue of connections is full does not answer the dial at all.
func TestSend_QueueFull(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd) //nolint:errcheck // the test is over
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + strconv.Itoa(name.(*syscall.SockaddrInet4).Port)
	for full := false; !full; {
		c, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			full = true
			continue
		}
		defer c.Close()
	}
	s := newSink(t, "http://"+address, func(c *Config) { c.ConnectTimeout = hostileTimeout })
	out := send(s)
	if out.Class != relay.ErrConnect || out.Err != "connect: timed out" || out.Duration < hostileTimeout || out.Duration > 5*time.Second {
		t.Errorf("got %+v", out)
	}
}
