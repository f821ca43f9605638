package relay

import "time"

// Order is what order an endpoint gets its events in.
type Order string

// The orders. Strict sends one event at a time; none sends as it can.
const (
	OrderKey    Order = "key"
	OrderStrict Order = "strict"
	OrderNone   Order = "none"
)

// OnFailure is what a failed delivery holds up until it is delivered or dead.
type OnFailure string

// The failure policies. Park holds up nothing.
const (
	BlockKey      OnFailure = "block_key"
	BlockEndpoint OnFailure = "block_endpoint"
	Park          OnFailure = "park"
)

// Endpoint is one receiver as it is configured now.
type Endpoint struct {
	// ID is the name of the HCL sink block; it is the endpoint's identity in the
	// store.
	ID   string
	Kind string // "webhook", "stdout"
	// Target is where it sends, without secrets, for people.
	Target string
	// Events chooses event types; see [ParsePatterns].
	Events Patterns
	// FromEarliest makes a new endpoint want also the events already in the log.
	FromEarliest bool
	Order        Order     // "" is OrderKey
	OnFailure    OnFailure // "" is BlockKey
	// MaxInFlight bounds the attempts under way at once; 0 is 64.
	MaxInFlight int
	Retry       RetryPolicy
	Sink        Sink
}

// RetryPolicy says how often and when a failed delivery is tried again. The
// zero value is ten attempts over some three days.
type RetryPolicy struct {
	// MaxAttempts counts the first one too; 0 is 10.
	MaxAttempts int
	// Initial is the delay after the first failure; 0 is 5 s. Each further delay
	// is Multiplier (0 is 5) times the one before, at most Max (0 is 24 h).
	Initial    time.Duration
	Multiplier float64
	Max        time.Duration
	// Jitter spreads each delay by up to this fraction either way; 0 is 0.2 and
	// a negative number is none.
	Jitter float64
}
