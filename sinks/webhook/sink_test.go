package webhook

import (
	"net"
	"testing"
)

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
