package relay

import (
	"context"
	"errors"
	"time"
)

// Errors of the store that callers branch on.
var (
	// ErrStoreFull: no space is left where the store lives, or a limit of the
	// store is reached. Nothing of the call was stored.
	ErrStoreFull = errors.New("store is full")
	// ErrStoreLocked: another process holds the data folder.
	ErrStoreLocked = errors.New("data folder is in use")
	// ErrStoreVersion: the store was made by a newer version.
	ErrStoreVersion = errors.New("store has another version")
	// ErrNotFound: what was asked for is not in the store.
	ErrNotFound = errors.New("not found")
)

// SourceState is the durable row of a source: which history it reads and how
// far everything is in the log.
type SourceState struct {
	Source string
	// Generation is the period of unbroken history, from 1.
	Generation uint32
	SystemID   uint64
	Timeline   uint32
	Database   string
	// Address is host and port as configured, to notice a copied store.
	Address     string
	Slot        string
	Publication string
	Phase       Phase
	// LSN is the checkpoint P: everything before it is durably in the log.
	LSN LSN
	// Partial is the half-stored transaction at the end of the stream, if any.
	Partial *PartialTx
	// ReadLSN is the commit LSN of the last transaction that was read, with events
	// or without, and ReadAt when the checkpoint was moved last by what was read: a
	// transaction between ReadLSN and LSN that is younger is of another history. 0
	// is unknown, as in a generation that has read nothing yet.
	ReadLSN LSN
	ReadAt  int64
	// UpdatedAt is in microseconds since the Unix epoch, as ReadAt is.
	UpdatedAt int64
}

// Phase is how far the making of a source's slot has come.
type Phase string

const (
	// PhaseCreating: the store has said that it is about to create the slot.
	PhaseCreating Phase = "creating"
	// PhaseStreaming: the slot exists and LSN is valid.
	PhaseStreaming Phase = "streaming"
)

// PartialTx is a transaction of which the first part is in the log and not
// visible.
type PartialTx struct {
	CommitLSN  LSN
	XID        uint32
	CommitTime int64
	// Changes is how many row changes and transactional messages of it were
	// processed, Events how many events they made.
	Changes uint64
	Events  uint32
	// RulesHash is of the rule set that made the events.
	RulesHash  string
	Generation uint32
	Timeline   uint32
}

// Gap is a hole in the history that a person accepted or that cannot be avoided.
type Gap struct {
	Source     string
	Generation uint32 // the one that begins after the gap
	At         int64
	// From and To bound what may be missing; 0 is unknown.
	From, To LSN
	Reason   string
}

// StreamState is how far a stream has come.
type StreamState struct {
	// Head is the last visible place, Tail the last stored one.
	Head, Tail int64
	// First is the first place still in the log; 0 when the log is empty.
	First int64
	// KeptHead and KeptTail are the same of kept changes, by [KeptChanges.Seq].
	KeptHead, KeptTail int64
}

// Append is one store transaction of the ingest side: all of it becomes
// durable, or nothing.
type Append struct {
	Stream string
	// DiscardTail removes everything after the head before anything is added.
	DiscardTail bool
	// Blocks continue the stream in order.
	Blocks []*Block
	// Failures are changes on which a rule failed. Each has a place of its own.
	Failures []Failure
	// Tail is the last place used; Head the last visible one afterwards.
	Head, Tail int64
	// Source is the new state of the source; nil leaves it.
	Source *SourceState
	// Gap is recorded when set.
	Gap *Gap
	// Backfill is recorded when set.
	Backfill *BackfillUpdate
	// Rules are those of the source's rule sets that came into force, in order.
	Rules []RulesPlace
	// Kept is stored when set. What is kept becomes visible with the end of its
	// transaction, that is with an append whose source has none half stored.
	Kept *Kept
}

// Failure is a change on which a rule failed: a dead letter that needs a
// person.
type Failure struct {
	ID     int64 // set by the store
	Stream string
	Seq    int64
	Rule   string
	At     int64
	// LSN, XID and Table say where the change was.
	LSN   LSN
	XID   uint32
	Table string
	// Change is the change as JSON, enough to judge it again.
	Change []byte
	Err    string
}

// Log is what the ingest side needs of the store.
type Log interface {
	// SourceState returns the state, or nil when the store does not know the
	// source.
	SourceState(ctx context.Context, source string) (*SourceState, error)
	// PutSource writes the state (and the gap, when not nil) durably.
	PutSource(ctx context.Context, st *SourceState, gap *Gap) error
	// RulesRecords returns the records of a source's rule sets, in the order in
	// which they were written first.
	RulesRecords(ctx context.Context, source string) ([]RulesRecord, error)
	// PutRules writes a record durably, a new one or that of the same ID. When it
	// has a place, as when an Append names it, it is the one in force: earlier
	// records that wait for their place go, and earlier ones in force lose their
	// text. Of these the last [PastRules] are kept.
	PutRules(ctx context.Context, r *RulesRecord) error
	// Stream returns the state of a stream; an unknown stream is empty.
	Stream(ctx context.Context, stream string) (StreamState, error)
	// Append stores a durably. After an error nothing of it may be assumed
	// stored or not stored: the caller reads the state again.
	Append(ctx context.Context, a *Append) error
}

// CursorState is the durable place of a cursor.
type CursorState struct {
	CursorID
	// Position: everything at or below it is settled or has an open row.
	Position int64
}

// Settlement is one store transaction of the dispatch side.
type Settlement struct {
	// Routed is, per stream, a place that every cursor without a row of its own
	// has reached.
	Routed map[string]int64
	// Cursors are rows to write, Current cursors whose row goes: they are at
	// Routed.
	Cursors []CursorState
	Current []CursorID
	// Put writes open rows, Remove deletes those of deliveries that are settled
	// by success.
	Put    []OpenDelivery
	Remove []DeliveryRef
	// Attempts are recorded in full.
	Attempts []Attempt
	// Successes are recorded in compact form, by cursor, in the order in which
	// they happened.
	Successes []SuccessBatch
	// Disable are endpoints to mark disabled, with the reason.
	Disable map[string]string
	// FinishedReplays are done.
	FinishedReplays []int64
}

// DeliveryRef names a delivery.
type DeliveryRef struct {
	CursorID
	Seq int64
}

// SuccessBatch is successes of one cursor.
type SuccessBatch struct {
	CursorID
	Successes []Success
}

// EndpointRow is an endpoint as the store knows it.
type EndpointRow struct {
	ID     string
	Kind   string
	Target string
	// Status is active, disabled (with Reason), or vanished: no longer in the
	// configuration.
	Status    string
	Reason    string
	CreatedAt int64
	Versions  []EndpointVersion // oldest first
}

// The endpoint statuses.
const (
	EndpointActive   = "active"
	EndpointDisabled = "disabled"
	EndpointVanished = "vanished"
)

// EndpointVersion is what an endpoint wants from given places on. Patterns is
// empty while the endpoint was vanished.
type EndpointVersion struct {
	Version  int
	Patterns string
	// After is, per stream, the last place before the version is in force. A
	// stream that is not named is in force from its beginning.
	After map[string]int64
	At    int64
}

// Replay delivers logged events again.
type Replay struct {
	ID       int64
	Endpoint string // "" is every endpoint
	Stream   string
	// From and To are the first and last place.
	From, To  int64
	CreatedAt int64
	Reason    string
	Done      bool
}

// Ledger is what the dispatch side needs of the store.
type Ledger interface {
	// Blocks returns visible blocks of the stream that end after the place,
	// oldest first, at least one when there is one, and no more than about
	// maxBytes of them.
	Blocks(ctx context.Context, stream string, after int64, maxBytes int) ([]*Block, error)
	// Streams returns the state of all streams.
	Streams(ctx context.Context) (map[string]StreamState, error)
	// Settle stores s durably.
	Settle(ctx context.Context, s *Settlement) error
	// Cursors returns the rows and the routed place of every stream.
	Cursors(ctx context.Context) (rows []CursorState, routed map[string]int64, err error)
	// OpenDeliveries returns the rows of a cursor that are pending, retrying or
	// held, by place.
	OpenDeliveries(ctx context.Context, c CursorID) ([]OpenDelivery, error)
	// SettledAfter returns the places after the given one that are settled: those
	// that have a success record of the cursor, or a row that is dead or
	// cancelled.
	SettledAfter(ctx context.Context, c CursorID, after int64) ([]int64, error)
	// Endpoints returns all endpoints; PutEndpoint writes one durably.
	Endpoints(ctx context.Context) ([]EndpointRow, error)
	PutEndpoint(ctx context.Context, e *EndpointRow) error
	// Replays returns those that are not done (a retry of a dead delivery of one
	// that was done makes it one that is not); StartReplay adds one for the
	// endpoint and sets its ID.
	Replays(ctx context.Context) ([]Replay, error)
	StartReplay(ctx context.Context, r *Replay) error
}

// RetentionLimits bound the log.
type RetentionLimits struct {
	// Age of blocks that are deleted when every delivery of them is settled; 0
	// is no limit.
	Age time.Duration
	// MaxBytes of the log; 0 is no limit.
	MaxBytes int64
}

// Backfills is what the side that reads rows needs of the store. The progress
// of one comes with the appends of its events.
type Backfills interface {
	// AddBackfill adds an open one and sets its ID.
	AddBackfill(ctx context.Context, b *Backfill) error
	// EndBackfill gives an open one its last state. It reports false when it is
	// not open (any more), and ErrNotFound when there is none.
	EndBackfill(ctx context.Context, id int64, state BackfillState, reason string, at int64) (bool, error)
	// Backfills returns all, in the order in which they were added.
	Backfills(ctx context.Context) ([]Backfill, error)
}
