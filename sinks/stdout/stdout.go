// Package stdout is the sink that prints events, one JSON object a line, in the
// form a webhook would have as its body. It is for demonstrations and dry runs:
// what is printed is delivered, and nobody has confirmed anything.
package stdout

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/sinks/webhook"
)

// Sink prints to one writer. It is safe for concurrent use.
type Sink struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

var _ relay.Sink = (*Sink)(nil)

// New returns a sink that prints to w, one call of Write an event.
func New(w io.Writer) *Sink { return &Sink{w: w} }

// Send prints the event. A writer that fails is a failure of the class reset,
// and the event comes again.
func (s *Sink) Send(ctx context.Context, d *relay.Delivery) relay.Outcome {
	start := time.Now()
	if ctx.Err() != nil {
		return relay.Outcome{Result: relay.Cut, Class: relay.ErrShutdown, Err: "cut by shutdown"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(webhook.AppendBody(s.buf[:0], d.Event), '\n')
	if _, err := s.w.Write(s.buf); err != nil {
		return relay.Outcome{Result: relay.Failed, Class: relay.ErrReset, Err: "print: " + err.Error(), Duration: time.Since(start)}
	}
	return relay.Outcome{Result: relay.Delivered, Duration: time.Since(start)}
}
