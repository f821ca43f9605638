package relay

import "context"

// EventQuery chooses events of the log, newest first. Zero fields choose
// everything.
type EventQuery struct {
	Stream string
	Source string
	Types  *Patterns
	Key    string
	Tenant string
	// After and Before bound the event's time, in microseconds since the Unix
	// epoch; 0 is no bound.
	After, Before int64
	// Limit is how many to return; 0 is 50.
	Limit int
}

// DeliveryQuery chooses deliveries, newest first. Zero fields choose
// everything.
type DeliveryQuery struct {
	Endpoint string
	State    State
	Event    *EventID
	Limit    int // 0 is 50
}

// DeliveryRow is a delivery as a person sees it.
type DeliveryRow struct {
	OpenDelivery
	// Time is when the delivery was settled or last tried, in microseconds since
	// the Unix epoch.
	Time int64
	// Status is the last HTTP status.
	Status int
}

// Queries is what commands and the API read of the store. None of them holds a
// read transaction open between calls.
type Queries interface {
	KeptStore
	// Events never returns events that are not visible.
	Events(ctx context.Context, q EventQuery) ([]Event, error)
	// Event returns ErrNotFound when the log does not have it (any more).
	Event(ctx context.Context, id EventID) (*Event, error)
	Deliveries(ctx context.Context, q DeliveryQuery) ([]DeliveryRow, error)
	// Attempts returns every known attempt of an event's deliveries, oldest
	// first.
	Attempts(ctx context.Context, id EventID) ([]Attempt, error)
	Failures(ctx context.Context, limit int) ([]Failure, error)
	Gaps(ctx context.Context, source string) ([]Gap, error)
	Sources(ctx context.Context) ([]SourceState, error)
	// DeliveryCounts returns how many deliveries of each endpoint are in each
	// open state.
	DeliveryCounts(ctx context.Context) (map[string]map[State]int64, error)
	// Size returns the bytes of the log.
	Size(ctx context.Context) (int64, error)
}
