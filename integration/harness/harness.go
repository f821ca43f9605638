// Package harness is what the integration tests share: the rowhook program, a daemon that they may
// kill and start again, a receiver that checks every signature and misbehaves on request, and
// waiting with a deadline.
//
// A test has a database of its own (package postgres), writes rules, starts a [Daemon], makes
// changes over SQL, and asks the [Receiver] what arrived. Nothing here knows how the daemon works
// inside: it sees what a user sees.
package harness

import (
	"testing"
	"time"
)

// Eventually calls check until it returns nil, and fails the test with its last error when it
// does not within the given time.
func Eventually(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	pause := 5 * time.Millisecond
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().Add(pause).After(deadline) {
			t.Fatalf("not within %s: %v", within, err)
		}
		time.Sleep(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}
