package api

import (
	"encoding/json"
	"time"
)

// StatusRequest asks for the [Status].
type StatusRequest struct{}

// EventsRequest chooses events of the log, newest first. Zero fields choose
// everything.
type EventsRequest struct {
	Source string `json:"source,omitempty"`
	Stream string `json:"stream,omitempty"`
	// Types are patterns over event types, as in a sink's events.
	Types  []string `json:"types,omitempty"`
	Key    string   `json:"key,omitempty"`
	Tenant string   `json:"tenant,omitempty"`
	// After and Before bound the event's time.
	After  time.Time `json:"after,omitzero"`
	Before time.Time `json:"before,omitzero"`
	Limit  int       `json:"limit,omitempty"` // 0 is 50, at most 1000
}

// Events is a list of events.
type Events struct {
	Events []Event `json:"events"`
}

// Event is an event of the log.
type Event struct {
	ID         string    `json:"id"`
	Type       string    `json:"type"`
	Version    int       `json:"version"`
	Time       time.Time `json:"timestamp"` // of the commit
	Source     string    `json:"source"`
	Rule       string    `json:"rule"`
	Table      string    `json:"table,omitempty"`
	Op         string    `json:"op"`
	Key        *string   `json:"key"`
	OldKey     *string   `json:"old_key,omitempty"`
	Tenant     *string   `json:"tenant,omitempty"`
	Sequence   string    `json:"sequence"`
	Stream     string    `json:"stream"`
	Seq        int64     `json:"seq"`
	Generation uint32    `json:"generation"`
	LSN        string    `json:"lsn,omitempty"` // of the commit
	Barrier    bool      `json:"barrier,omitempty"`
	Unchanged  []string  `json:"unchanged,omitempty"`
	// Data is the event's data; its numbers and strings are as they were made.
	Data json.RawMessage `json:"data"`
}

// EventRequest names an event.
type EventRequest struct {
	ID string `json:"id"`
}

// EventDetail is an event with what became of it at each endpoint.
type EventDetail struct {
	Event      Event            `json:"event"`
	Deliveries []DeliveryDetail `json:"deliveries"`
}

// FailuresRequest asks for changes on which a rule failed, newest first.
type FailuresRequest struct {
	// ID, when it is not 0, asks for that one alone.
	ID    int64 `json:"id,omitempty"`
	Limit int   `json:"limit,omitempty"` // 0 is 50, at most 1000
}

// Failures is a list of failures.
type Failures struct {
	Failures []Failure `json:"failures"`
}

// Failure is a change on which a rule failed.
type Failure struct {
	ID     int64     `json:"id"`
	Rule   string    `json:"rule"`
	At     time.Time `json:"at"`
	Error  string    `json:"error"`
	Stream string    `json:"stream"`
	Seq    int64     `json:"seq"`
	Table  string    `json:"table,omitempty"`
	LSN    string    `json:"lsn,omitempty"`
	XID    uint32    `json:"xid,omitempty"`
	// Change is the change itself, enough to judge it again; its diagnosis says
	// what the rule failed on.
	Change json.RawMessage `json:"change,omitempty"`
}

// RetryFailuresRequest asks for failed changes to be judged again by their rule,
// which was corrected meanwhile: the one with the ID, or, with ID 0, all of Rule.
type RetryFailuresRequest struct {
	ID   int64  `json:"id,omitempty"`
	Rule string `json:"rule,omitempty"`
}

// RetryFailuresResponse says what came of it. What fails still stays a failure.
type RetryFailuresResponse struct {
	// Events are the ids of the events that were made.
	Events []string `json:"events"`
	// Unmatched counts changes that the rule does not want any more.
	Unmatched int64 `json:"unmatched"`
	// Failing counts those on which it still fails, and Error is the last reason.
	Failing int64  `json:"failing"`
	Error   string `json:"error,omitempty"`
}

// DeliveriesRequest chooses deliveries, newest first. Zero fields choose
// everything that has a record of its own. A delivery that waits for its first
// attempt has none; it is found with Event only.
type DeliveriesRequest struct {
	Endpoint string `json:"endpoint,omitempty"`
	State    string `json:"state,omitempty"`
	Event    string `json:"event,omitempty"`
	Limit    int    `json:"limit,omitempty"` // 0 is 50, at most 1000
}

// Deliveries is a list of deliveries.
type Deliveries struct {
	Deliveries []Delivery `json:"deliveries"`
}

// Delivery is one event for one endpoint.
type Delivery struct {
	Event    string `json:"event"`
	Endpoint string `json:"endpoint"`
	Type     string `json:"type"`
	Stream   string `json:"stream"`
	Seq      int64  `json:"seq"`
	// Replay is the replay it belongs to, 0 for the live delivery.
	Replay int64 `json:"replay,omitempty"`
	// State is pending, retrying, delivered, dead, held or cancelled.
	State    string `json:"state"`
	Attempts int    `json:"attempts"`
	// Again says that a person asked for it to be tried again.
	Again bool `json:"again,omitempty"`
	// Time is when it was settled or last tried.
	Time time.Time `json:"time,omitzero"`
	// Next is when the next attempt is due; while retrying it is absent when the
	// delivery waits behind another of its key.
	Next time.Time `json:"next,omitzero"`
	// Status, Class and Error are of the last attempt.
	Status int    `json:"status,omitempty"`
	Class  string `json:"class,omitempty"`
	Error  string `json:"error,omitempty"`
}

// DeliveryRequest names the deliveries of one event at one endpoint: the live
// one, and one for each replay.
type DeliveryRequest struct {
	Event    string `json:"event"`
	Endpoint string `json:"endpoint"`
}

// DeliveryDetails is a list of deliveries with their attempts.
type DeliveryDetails struct {
	Deliveries []DeliveryDetail `json:"deliveries"`
}

// DeliveryDetail is a delivery with its attempts, oldest first.
type DeliveryDetail struct {
	Delivery
	Log []Attempt `json:"log"`
}

// Attempt is one try of a delivery.
type Attempt struct {
	N          int       `json:"n"` // from 1
	At         time.Time `json:"at"`
	DurationMS float64   `json:"duration_ms"`
	Status     int       `json:"status,omitempty"`
	Class      string    `json:"class,omitempty"`
	Error      string    `json:"error,omitempty"`
	// Response is the beginning of the body of a response that was a failure.
	Response string `json:"response,omitempty"`
}

// RetryRequest asks for dead deliveries to be tried again: that of Event at
// Endpoint, or, with AllDead and no Event, all of Endpoint's.
type RetryRequest struct {
	Event    string `json:"event,omitempty"`
	Endpoint string `json:"endpoint"`
	AllDead  bool   `json:"all_dead,omitempty"`
}

// RetryResponse says how many deliveries will be tried again.
type RetryResponse struct {
	Retried int64 `json:"retried"`
}

// EndpointsRequest asks for all endpoints.
type EndpointsRequest struct{}

// Endpoints is a list of endpoints.
type Endpoints struct {
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is a receiver as the store knows it.
type Endpoint struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	// Target is where it sends, without secrets.
	Target string `json:"target"`
	Status string `json:"status"`
	// Reason says why it is disabled.
	Reason  string    `json:"reason,omitempty"`
	Events  []string  `json:"events"`
	Created time.Time `json:"created,omitzero"`
}

// EndpointRequest names an endpoint. Reason is for disabling.
type EndpointRequest struct {
	Name   string `json:"name"`
	Reason string `json:"reason,omitempty"`
}

// RemoveResponse says how many open deliveries of the endpoint were cancelled.
type RemoveResponse struct {
	Name      string `json:"name"`
	Cancelled int64  `json:"cancelled"`
}

// CheckpointsRequest asks for the checkpoint of a source, or of all.
type CheckpointsRequest struct {
	Source string `json:"source,omitempty"`
}

// Checkpoints is a list of checkpoints.
type Checkpoints struct {
	Checkpoints []Checkpoint `json:"checkpoints"`
}

// Checkpoint is how far a source is durably in the log.
type Checkpoint struct {
	Source      string    `json:"source"`
	LSN         string    `json:"lsn,omitempty"`
	Generation  uint32    `json:"generation"`
	Timeline    uint32    `json:"timeline"`
	SystemID    string    `json:"system_id"`
	Address     string    `json:"address"`
	Database    string    `json:"database"`
	Slot        string    `json:"slot"`
	Publication string    `json:"publication"`
	Phase       string    `json:"phase"` // creating, or streaming
	Updated     time.Time `json:"updated,omitzero"`
	// Pending is a reset that was asked for and is not applied yet: the daemon
	// does not run, or the source does not reach its database. SOURCE=POSITION.
	Pending string `json:"pending,omitempty"`
	// Partial is a transaction of which only the first part is stored.
	Partial *Partial `json:"partial,omitempty"`
	Gaps    []Gap    `json:"gaps,omitempty"`
}

// Partial is a half-stored transaction. None of its events is visible.
type Partial struct {
	LSN     string `json:"lsn"` // of its commit
	XID     uint32 `json:"xid"`
	Changes uint64 `json:"changes"`
	Events  uint32 `json:"events"`
}

// ResetRequest moves the checkpoint of a source.
type ResetRequest struct {
	Source string `json:"source"`
	// To is an LSN, "now" or "earliest".
	To string `json:"to"`
	// From, when set, is the checkpoint that must be in force.
	From string `json:"from,omitempty"`
	// Cancel takes back a reset that is not applied yet; To and From are empty.
	Cancel bool `json:"cancel,omitempty"`
}

// ResetResponse says what a reset did.
type ResetResponse struct {
	Source     string `json:"source"`
	From       string `json:"from"`
	To         string `json:"to"`
	Generation uint32 `json:"generation"` // the one in force now
	// Replayed is how many places of the log a backward reset delivers again.
	Replayed int64 `json:"replayed,omitempty"`
	// Note says in words what happened.
	Note string `json:"note"`
}

// DropRequest removes slot and publication of a source, so that nothing pins
// WAL. What is in the log is still delivered.
type DropRequest struct {
	Source string `json:"source"`
}

// DropResponse says what was removed; a name is empty when there was nothing to
// remove.
type DropResponse struct {
	Source      string `json:"source"`
	Slot        string `json:"slot,omitempty"`
	Publication string `json:"publication,omitempty"`
	Note        string `json:"note,omitempty"`
}

// BackfillRequest asks for the rows that exist to be made events of a rule.
type BackfillRequest struct {
	// Event is the rule's label.
	Event string `json:"event"`
	// Where is an SQL condition on the rows.
	Where string `json:"where,omitempty"`
	// Rate bounds the rows read each second; 0 is no bound.
	Rate int `json:"rate,omitempty"`
}

// BackfillsRequest asks for backfills: the one with the ID, or, with ID 0, all.
type BackfillsRequest struct {
	ID int64 `json:"id,omitempty"`
}

// Backfills is a list of backfills, newest first.
type Backfills struct {
	Backfills []Backfill `json:"backfills"`
}

// The states of a backfill.
const (
	BackfillWaiting   = "waiting" // for its turn, its source, or the daemon
	BackfillRunning   = "running"
	BackfillDone      = "done"
	BackfillCancelled = "cancelled"
	BackfillFailed    = "failed"
)

// Backfill makes events of the rows that exist.
type Backfill struct {
	ID     int64  `json:"id"`
	Event  string `json:"event"`
	Source string `json:"source"`
	Where  string `json:"where,omitempty"`
	Rate   int    `json:"rate,omitempty"`
	// Initial says that the configuration asked for it at the first start.
	Initial bool   `json:"initial,omitempty"`
	State   string `json:"state"`
	// Reason says why it failed, or what it waits for.
	Reason string `json:"reason,omitempty"`
	// Rows were read and made so many Events; Estimate is about how many rows there
	// were when it began, 0 while that is not known.
	Rows     int64 `json:"rows"`
	Events   int64 `json:"events"`
	Estimate int64 `json:"estimate,omitempty"`
	// RowsPerSecond is how fast it reads.
	RowsPerSecond float64   `json:"rows_per_second,omitempty"`
	Created       time.Time `json:"created"`
	Ended         time.Time `json:"ended,omitzero"`
}

// HasEnded reports whether the backfill does not change any more.
func (b *Backfill) HasEnded() bool {
	return b.State != BackfillWaiting && b.State != BackfillRunning
}

// CancelBackfillRequest ends a backfill. The events it has made stay.
type CancelBackfillRequest struct {
	ID int64 `json:"id"`
}

// BackupRequest asks for a consistent copy of the store.
type BackupRequest struct {
	// Path is the absolute path of a file that does not exist yet.
	Path string `json:"path"`
}

// BackupResponse says what was written.
type BackupResponse struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}
