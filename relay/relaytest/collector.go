package relaytest

import (
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what should happen. It is long, since
// it passes only when the test fails (in a synctest bubble it costs nothing).
const patience = 20 * time.Second

// Collector gathers values in the order in which they come and lets a test
// wait for them. The zero value is ready.
type Collector[T any] struct {
	mu     sync.Mutex
	values []T
	more   chan struct{} // closed by the next Add
}

// Add appends v and wakes all who wait.
func (c *Collector[T]) Add(v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values = append(c.values, v)
	if c.more != nil {
		close(c.more)
		c.more = nil
	}
}

// All returns what has come so far.
func (c *Collector[T]) All() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]T(nil), c.values...)
}

// Len returns how many values have come.
func (c *Collector[T]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.values)
}

// Wait returns the first n values or more, as soon as there are so many. It
// ends the test when they do not come.
func (c *Collector[T]) Wait(t testing.TB, n int) []T {
	t.Helper()
	return c.Until(t, func(got []T) bool { return len(got) >= n })
}

// Until returns the values as soon as ok holds for them. It ends the test when
// that does not happen.
func (c *Collector[T]) Until(t testing.TB, ok func([]T) bool) []T {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		c.mu.Lock()
		got := append([]T(nil), c.values...)
		if c.more == nil {
			c.more = make(chan struct{})
		}
		more := c.more
		c.mu.Unlock()
		if ok(got) {
			return got
		}
		select {
		case <-more:
		case <-late.C:
			t.Fatalf("waited %v in vain; %d values came: %v", patience, len(got), got)
		}
	}
}
