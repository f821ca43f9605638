package relay

import "time"

// State is where a delivery stands.
//
//	            attempt fails          attempts used up, or rejected
//	pending ───────────────▶ retrying ───────────────▶ dead
//	   │  ▲                     │ │                      │
//	   │  └── endpoint enabled ─┼─┼── held ◀─ 410, gone  │ retry by a person
//	   │                        │ │                      ▼
//	   └──────── 2xx ───────────┴─┴──────────────▶ delivered
//
// The dispatcher moves deliveries between pending, retrying, delivered and
// dead; the endpoint's state moves them to held and back; the removal of an
// endpoint makes them cancelled. Delivered, dead and cancelled are settled.
type State string

// The states.
const (
	StatePending   State = "pending"
	StateRetrying  State = "retrying"
	StateDelivered State = "delivered"
	StateDead      State = "dead"
	StateHeld      State = "held"
	StateCancelled State = "cancelled"
)

// Settled reports whether nothing more happens to the delivery by itself.
func (s State) Settled() bool {
	return s == StateDelivered || s == StateDead || s == StateCancelled
}

// CursorID names one pass of an endpoint over a stream: the live one (Replay
// 0), or a replay.
type CursorID struct {
	Endpoint string
	Stream   string
	Replay   int64
}

// OpenDelivery is the row of a delivery that did not succeed at once. All
// deliveries at or below a cursor's position without such a row are settled.
type OpenDelivery struct {
	CursorID
	Seq     int64
	EventID EventID
	Type    string
	State   State
	// Attempts made so far.
	Attempts int
	// NextAt is when the next attempt is due, in microseconds since the Unix
	// epoch, while the state is retrying; a row that waits behind another of its
	// lane has 0.
	NextAt int64
	// Lane and OldLane are hashes of the event's keys; 0 is none.
	Lane, OldLane uint64
	Table         string
	Barrier       bool
	// Again says that a person asked for a dead delivery to be tried again; it
	// is outside the order promise.
	Again bool
	// LastClass, LastStatus and LastError are of the last attempt.
	LastClass  ErrorClass
	LastStatus int
	LastError  string
	UpdatedAt  int64 // microseconds since the Unix epoch
}

// Attempt is one try of a delivery. Attempts of deliveries that succeeded at
// once are kept in a compact form and carry no Class, Err or Response.
type Attempt struct {
	CursorID
	Seq      int64
	N        int
	At       int64 // start, microseconds since the Unix epoch
	Duration time.Duration
	Status   int
	Class    ErrorClass
	Err      string
	Response []byte
}

// Success is the compact record of a delivery that succeeded.
type Success struct {
	Seq      int64
	Attempts int
	At       int64 // end of the attempt, microseconds since the Unix epoch
	Duration time.Duration
	Status   int
}
