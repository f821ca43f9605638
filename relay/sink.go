package relay

import (
	"context"
	"time"
)

// Sink sends one delivery. It says whether a failure is worth another attempt;
// when that attempt happens is the dispatcher's business.
type Sink interface {
	// Send makes one attempt. It returns within the sink's own deadline, or soon
	// after ctx is done. It must not keep the delivery.
	Send(ctx context.Context, d *Delivery) Outcome
}

// Prober is a Sink that can tell, without sending anything, whether its
// receiver accepts connections again.
type Prober interface {
	Probe(ctx context.Context) error
}

// Delivery is one event for one endpoint, as a sink sees it.
type Delivery struct {
	Event *Event
	// Attempt counts from 1.
	Attempt int
	// Replay marks a delivery outside the order promise: a replay, or the retry
	// of a dead delivery.
	Replay bool
}

// Result is what the dispatcher does with an attempt's outcome.
type Result uint8

const (
	// Delivered: the endpoint has the event.
	Delivered Result = iota
	// Failed: try again as the retry policy says.
	Failed
	// Rejected: no attempt can succeed; the delivery is dead.
	Rejected
	// Gone: the endpoint asked to be left alone (410). It is disabled and the
	// delivery is held.
	Gone
	// Cut: the attempt was ended by our own shutdown. It does not count.
	Cut
)

// ErrorClass is why an attempt failed, a closed set for metrics and the log.
type ErrorClass string

// The error classes.
const (
	ErrNone     ErrorClass = ""
	ErrDNS      ErrorClass = "dns"
	ErrConnect  ErrorClass = "connect"
	ErrTLS      ErrorClass = "tls"
	ErrTimeout  ErrorClass = "timeout"
	ErrReset    ErrorClass = "reset"    // the connection broke after it was made
	ErrProtocol ErrorClass = "protocol" // the answer is not HTTP
	ErrBlocked  ErrorClass = "blocked"  // the address is not allowed
	ErrRedirect ErrorClass = "redirect" // 3xx, never followed
	ErrStatus4  ErrorClass = "status_4xx"
	ErrStatus5  ErrorClass = "status_5xx"
	ErrThrottle ErrorClass = "throttled" // 429
	ErrGone     ErrorClass = "gone"      // 410
	ErrPayload  ErrorClass = "payload"   // the event cannot be sent in this form
	ErrExpired  ErrorClass = "expired"   // the log was full
	ErrShutdown ErrorClass = "shutdown"
)

// Unreachable reports whether the class says that no connection to the
// endpoint could be made, so that the event did not cause the failure.
func (c ErrorClass) Unreachable() bool {
	return c == ErrDNS || c == ErrConnect || c == ErrTLS || c == ErrBlocked
}

// Outcome is what came of one attempt.
type Outcome struct {
	Result Result
	Class  ErrorClass
	// Status is the HTTP status, 0 when there was none.
	Status int
	// RetryAfter is what the endpoint asked for, 0 when it asked nothing.
	RetryAfter time.Duration
	Duration   time.Duration
	// Err says what happened, for a person; it holds no secret.
	Err string
	// Response is the beginning of the response body of a failed attempt.
	Response []byte
}
