package api

import (
	"math"
	"time"
)

// Status says how the daemon is doing. It holds no secret.
type Status struct {
	Version string `json:"version"`
	// Running is false when the status was read from the store of a stopped
	// daemon: then it has only what is durable.
	Running bool      `json:"running"`
	PID     int       `json:"pid,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// Now is the daemon's clock, which the other times are by.
	Now       time.Time        `json:"now"`
	DataDir   string           `json:"data_dir"`
	Log       LogStatus        `json:"log"`
	Sources   []SourceStatus   `json:"sources"`
	Rules     []RuleStatus     `json:"rules"`
	Endpoints []EndpointStatus `json:"endpoints"`
	// Warnings are what makes no difference to readiness and is probably a
	// mistake.
	Warnings []Warning `json:"warnings,omitempty"`
}

// The kinds of a warning.
const (
	// WarnNeverMatched is a rule that has never made an event, since the store
	// was made.
	WarnNeverMatched = "never_matched"
	// WarnUnwanted is a rule whose events no endpoint wants.
	WarnUnwanted = "unwanted"
)

// Warning is about a rule.
type Warning struct {
	Kind string `json:"kind"`
	Rule string `json:"rule"`
	Text string `json:"text"` // for a person
}

// LogStatus is the durable log.
type LogStatus struct {
	Bytes int64 `json:"bytes"`
	// MaxBytes and RetentionSeconds are the bounds; 0 is none.
	MaxBytes         int64  `json:"max_bytes,omitempty"`
	RetentionSeconds int64  `json:"retention_seconds,omitempty"`
	OnFull           string `json:"on_full,omitempty"`
	// Full says that a bound or the disk is reached and reading has stopped.
	Full bool `json:"full,omitempty"`
	// Error is why the last append failed, empty when it did not.
	Error string `json:"error,omitempty"`
	// Errors counts appends and settlements that failed.
	Errors int64 `json:"errors"`
	// Append is how long store transactions of the ingest side took.
	Append Histogram `json:"append,omitzero"`
}

// The states of a source. Only a source that is streaming makes progress.
const (
	SourceStarting  = "starting"
	SourceWaiting   = "waiting"   // for the database; it is tried again
	SourceStreaming = "streaming" // and hearing from the server
	SourcePaused    = "paused"    // the log takes nothing at the moment
	SourceStopped   = "stopped"   // until a person does something
)

// SourceStatus is one source.
type SourceStatus struct {
	Name  string `json:"name"`
	State string `json:"state"`
	// Reason says why the state is not streaming, for a person.
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since,omitzero"` // of the state
	// Address is host and port, Database the name of the database.
	Address     string `json:"address,omitempty"`
	Database    string `json:"database,omitempty"`
	Slot        string `json:"slot,omitempty"`
	Publication string `json:"publication,omitempty"`
	// SystemID is decimal: it does not fit a JSON number.
	SystemID   string `json:"system_id,omitempty"`
	Timeline   uint32 `json:"timeline,omitempty"`
	Generation uint32 `json:"generation,omitempty"`
	// Checkpoint is the LSN up to which everything is durably in the log,
	// Confirmed what PostgreSQL was told of it, Server the end of its WAL.
	Checkpoint string `json:"checkpoint,omitempty"`
	Confirmed  string `json:"confirmed,omitempty"`
	Server     string `json:"server,omitempty"`
	// LagBytes is the WAL between checkpoint and server, RetainedBytes the WAL
	// that the slot makes the server keep. Both are absent when unknown.
	LagBytes      *int64 `json:"lag_bytes,omitempty"`
	RetainedBytes *int64 `json:"retained_bytes,omitempty"`
	// RetainedLimitBytes is what the slot makes the server keep at worst
	// (max_slot_wal_keep_size): it is lost beyond. Where RetainedBytes is known and
	// this is absent, nothing bounds it but the disk of the database. SafeBytes may
	// be written before the slot is in danger. WALStatus is wal_status of
	// pg_replication_slots: reserved, extended, unreserved or lost.
	RetainedLimitBytes *int64    `json:"retained_limit_bytes,omitempty"`
	SafeBytes          *int64    `json:"safe_bytes,omitempty"`
	WALStatus          string    `json:"wal_status,omitempty"`
	LastChange         time.Time `json:"last_change,omitzero"`

	Transactions int64 `json:"transactions"`
	Changes      int64 `json:"changes"`
	Events       int64 `json:"events"`
	Reconnects   int64 `json:"reconnects"`
	// Gaps counts the recorded holes in the history since the store was made.
	Gaps     int64           `json:"gaps"`
	LastGap  *Gap            `json:"last_gap,omitempty"`
	Channels []ChannelStatus `json:"channels,omitempty"`
	// NotifyGaps counts the times in which notifications may have been lost since
	// the daemon started, NotifyGapSeconds sums their lengths.
	NotifyGaps       int64   `json:"notify_gaps,omitempty"`
	NotifyGapSeconds float64 `json:"notify_gap_seconds,omitempty"`
	// Rules says which rules judge the source's changes.
	Rules SourceRules `json:"rules,omitzero"`
	// Backfill is the one under way; absent when there is none.
	Backfill *Backfill `json:"backfill,omitempty"`
}

// SourceRules is the rule set that judges a source.
type SourceRules struct {
	// Fingerprint names the set in force, which judges the transactions that
	// commit at From or later; Loaded is when it was loaded.
	Fingerprint string    `json:"fingerprint,omitempty"`
	From        string    `json:"from,omitempty"`
	Loaded      time.Time `json:"loaded,omitzero"`
	// Waiting is the set that was loaded last and whose place in the stream has
	// not been reached; empty when there is none.
	Waiting      string    `json:"waiting,omitempty"`
	WaitingSince time.Time `json:"waiting_since,omitzero"`
}

// ChannelStatus is one NOTIFY channel of a source.
type ChannelStatus struct {
	Name          string    `json:"name"`
	Listening     bool      `json:"listening"`
	Notifications int64     `json:"notifications"`
	Last          time.Time `json:"last,omitzero"`
}

// Gap is a hole in the history of a source.
type Gap struct {
	Generation uint32    `json:"generation"` // the one that begins after it
	At         time.Time `json:"at"`
	From       string    `json:"from,omitempty"`
	To         string    `json:"to,omitempty"`
	Reason     string    `json:"reason"`
}

// RuleStatus is one rule.
type RuleStatus struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Version int    `json:"version"`
	Source  string `json:"source"`
	Seen    int64  `json:"seen"`
	Matched int64  `json:"matched"`
	Failed  int64  `json:"failed"`
	// LastMatch is absent when the rule has not matched since the daemon began.
	LastMatch time.Time `json:"last_match,omitzero"`
	// LastFailure and LastError are of the last change the rule failed on.
	LastFailure time.Time `json:"last_failure,omitzero"`
	LastError   string    `json:"last_error,omitempty"`
}

// The statuses of an endpoint.
const (
	EndpointActive   = "active"
	EndpointDisabled = "disabled"
	EndpointVanished = "vanished" // no longer in the configuration
)

// EndpointStatus is one endpoint.
type EndpointStatus struct {
	Endpoint
	// Behind is how many places of the log are after the endpoint's, whose events
	// it may or may not want. OldestPending is the commit time of the oldest
	// event it still waits for.
	Behind        int64     `json:"behind"`
	OldestPending time.Time `json:"oldest_pending,omitzero"`
	InFlight      int64     `json:"in_flight"`
	// Retrying, Dead and Held are counts of deliveries in the store.
	Retrying    int64     `json:"retrying"`
	Dead        int64     `json:"dead"`
	Held        int64     `json:"held"`
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastFailure time.Time `json:"last_failure,omitzero"`
	LastError   string    `json:"last_error,omitempty"`
	Breaker     Breaker   `json:"breaker,omitzero"`
	// Deliveries counts deliveries by the state they ended in, Attempts counts
	// attempts by error class, "ok" for those without error.
	Deliveries map[string]int64 `json:"deliveries,omitempty"`
	Attempts   map[string]int64 `json:"attempts,omitempty"`
	// Latency is from commit to delivery.
	Latency Histogram `json:"latency,omitzero"`
}

// The states of a breaker.
const (
	BreakerClosed   = "closed"
	BreakerOpen     = "open"
	BreakerHalfOpen = "half_open"
)

// Breaker keeps attempts from an endpoint that cannot be reached.
type Breaker struct {
	State    string    `json:"state,omitempty"`
	Failures int64     `json:"failures,omitempty"` // in a row
	Until    time.Time `json:"until,omitzero"`     // the next probe
}

// Histogram is a distribution of durations in seconds.
type Histogram struct {
	// Bounds are the inclusive upper bounds of the buckets, rising. Counts has
	// one entry more, for what is above the last bound; entries do not include
	// each other.
	Bounds []float64 `json:"bounds"`
	Counts []uint64  `json:"counts"`
	Sum    float64   `json:"sum"`
}

// Count returns how many durations there were.
func (h *Histogram) Count() uint64 {
	var n uint64
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Quantile returns a duration that the fraction q of all do not exceed, as well
// as the buckets tell: an upper bound, +Inf above the last one, NaN when there
// is nothing or no bound is known.
func (h *Histogram) Quantile(q float64) float64 {
	n := h.Count()
	if n == 0 || len(h.Bounds) == 0 {
		return math.NaN()
	}
	rank := max(1, uint64(math.Ceil(q*float64(n))))
	for i, c := range h.Counts {
		if c >= rank {
			if i < len(h.Bounds) {
				return h.Bounds[i]
			}
			break
		}
		rank -= c
	}
	return math.Inf(1)
}

// Ready reports whether every source makes progress.
func (s *Status) Ready() bool {
	for i := range s.Sources {
		if s.Sources[i].State != SourceStreaming {
			return false
		}
	}
	return s.Running
}
