package relaytest

import (
	"context"
	"sync"

	"github.com/rowhook/rowhook/relay"
)

// Sent is one attempt as the sink saw it.
type Sent struct {
	ID      relay.EventID
	Stream  string
	Seq     int64
	Type    string
	Key     string
	HasKey  bool
	Data    string
	Attempt int
	Replay  bool
}

// Sink is a relay.Sink whose outcomes a test decides. The zero value delivers
// everything.
type Sink struct {
	// Name stands in the trace.
	Name string
	// Script decides the outcome of an attempt; nil delivers. It may block: an
	// attempt is under way until Script returns.
	Script func(ctx context.Context, s Sent) relay.Outcome
	// Trace records "send NAME STREAM#SEQ attempt N"; nil records nothing.
	Trace *Trace
	// Started has every attempt when it begins, Ended when its outcome is known.
	Started, Ended Collector[Sent]

	mu       sync.Mutex
	gate     chan struct{}
	inFlight int
	peak     int
}

// Send records the attempt, waits while the sink is blocked, and returns what
// the script says. An attempt whose context ends while the sink is blocked is
// cut.
func (s *Sink) Send(ctx context.Context, d *relay.Delivery) relay.Outcome {
	e := d.Event
	sent := Sent{
		ID: e.ID, Stream: e.Stream, Seq: e.Seq, Type: e.Type, Key: string(e.Key), HasKey: e.HasKey,
		Data: string(e.Data), Attempt: d.Attempt, Replay: d.Replay,
	}
	s.mu.Lock()
	gate := s.gate
	s.inFlight++
	s.peak = max(s.peak, s.inFlight)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.inFlight--
		s.mu.Unlock()
	}()
	s.Trace.Step("send %s %s#%d attempt %d", s.Name, sent.Stream, sent.Seq, sent.Attempt)
	s.Started.Add(sent)
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return relay.Outcome{Result: relay.Cut, Class: relay.ErrShutdown, Err: ctx.Err().Error()}
		}
	}
	out := relay.Outcome{Result: relay.Delivered, Status: 200}
	if s.Script != nil {
		out = s.Script(ctx, sent)
	}
	if out.Result != relay.Cut {
		s.Ended.Add(sent)
	}
	return out
}

// Block makes attempts that begin from now on wait for Release.
func (s *Sink) Block() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate == nil {
		s.gate = make(chan struct{})
	}
}

// Release lets go all attempts that wait, and those to come.
func (s *Sink) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate != nil {
		close(s.gate)
		s.gate = nil
	}
}

// Peak returns the most attempts that were under way at once.
func (s *Sink) Peak() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}
