package admin

import (
	"net"
	"testing"
	"testing/synctest"
)

// pipes is a listener with an endless queue of connections.
type pipes struct {
	net.Listener
	accepted int
}

func (p *pipes) Accept() (net.Conn, error) {
	p.accepted++
	c, _ := net.Pipe()
	return c, nil
}

func (p *pipes) Close() error { return nil }

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &pipes{}
		ln := limitConns(in, 2)
		conns := make(chan net.Conn)
		go func() {
			defer close(conns)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				conns <- c
			}
		}()
		first, second := <-conns, <-conns
		synctest.Wait()
		if in.accepted != 2 {
			t.Fatalf("%d connections accepted, want 2", in.accepted)
		}
		first.Close()
		first.Close() // makes room once only
		third := <-conns
		synctest.Wait()
		if in.accepted != 3 {
			t.Errorf("%d connections accepted, want 3", in.accepted)
		}
		ln.Close()
		if c, ok := <-conns; ok {
			t.Errorf("accepted %v after the listener was closed", c)
		}
		second.Close()
		third.Close()
	})
}
