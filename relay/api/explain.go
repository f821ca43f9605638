package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// ExplainRequest asks why the changes of a row made the events they made, or
// none.
type ExplainRequest struct {
	// Table is "schema.table", or the name alone where that is clear.
	Table string `json:"table"`
	// Key is the row's primary key: the value of the one column, or those of
	// several joined by commas.
	Key string `json:"key"`
	// Since bounds the commit time of changes and events.
	Since time.Time `json:"since,omitzero"`
	// From asks for changes from that number on, which Next of an earlier answer
	// was: to wait for more. Then there is nothing but changes in the answer.
	From int64 `json:"from,omitempty"`
}

// Explanation is what is known of a row.
type Explanation struct {
	Table string `json:"table"`
	Key   string `json:"key"`
	// Rows has one entry for each source with rules about the table.
	Rows []ExplainedRow `json:"rows"`
}

// ExplainedRow is a row of the table in one source.
type ExplainedRow struct {
	Source string `json:"source"`
	// Rules are those about the table.
	Rules []RuleSubject `json:"rules"`
	// Changes are those that the daemon remembers, oldest first. Remembered is
	// the commit time of the oldest change of any row that it does; it is absent
	// when there is none. Forgotten says that there were older ones.
	Changes    []ExplainedChange `json:"changes"`
	Remembered time.Time         `json:"remembered_since,omitzero"`
	Forgotten  bool              `json:"forgotten,omitempty"`
	Next       int64             `json:"next"`
	// Events are those of the log with the row's default key that none of Changes
	// made, newest first.
	Events []MadeEvent `json:"events,omitempty"`
	// Failures are changes of the row on which a rule failed, newest first.
	Failures []Failure `json:"failures,omitempty"`
	// Now is how the rules judge the row as it is now in the database, where no
	// change of it is remembered.
	Now *ExplainedChange `json:"now,omitempty"`
	// Notes say what could not be looked at.
	Notes []string `json:"notes,omitempty"`
}

// RuleSubject is a rule and the operations it is about.
type RuleSubject struct {
	Rule string   `json:"rule"`
	Type string   `json:"type"`
	On   []string `json:"on"`
}

// ExplainedChange is one change of the row and how the rules judge it, as they
// are now.
type ExplainedChange struct {
	N    int64     `json:"n,omitempty"`
	Time time.Time `json:"time,omitzero"`
	LSN  string    `json:"lsn,omitempty"`
	XID  uint32    `json:"xid,omitempty"`
	Op   string    `json:"op"`
	// Changed are the columns with another value than before, as far as that is
	// known.
	Changed []string `json:"changed,omitempty"`
	// Cut are columns with values too long to be remembered; a rule that reads
	// one is judged as if it had not been sent.
	Cut   []string        `json:"cut,omitempty"`
	Rules []ExplainedRule `json:"rules"`
}

// The outcomes of a rule.
const (
	RuleMatched    = "matched"
	RuleNotMatched = "not matched"
	RuleNotAbout   = "not about this operation"
	RuleFailed     = "failed"
)

// ExplainedRule is how one rule judges a change.
type ExplainedRule struct {
	Rule    string `json:"rule"`
	Outcome string `json:"outcome"`
	// When is the condition part by part, absent when the rule has none.
	When *Clause `json:"when,omitempty"`
	// Error is why the rule failed.
	Error string `json:"error,omitempty"`
	// Events are what the rule makes of the change.
	Events []MadeEvent `json:"events,omitempty"`
}

// MadeEvent is an event and where it went.
type MadeEvent struct {
	ID   string    `json:"id"`
	Type string    `json:"type"`
	Time time.Time `json:"timestamp,omitzero"`
	// Logged is false for one that the log does not have: not yet, or not any
	// more, or the rule was another one then.
	Logged bool `json:"logged"`
	// Deliveries are those of endpoints that want it; with none, Unwanted says
	// why.
	Deliveries []Delivery `json:"deliveries,omitempty"`
	Unwanted   string     `json:"unwanted,omitempty"`
}

// Clause is a condition, or a part of one, as it was judged.
type Clause struct {
	Text    string `json:"text"`
	Outcome string `json:"outcome"` // true, false or error
	Error   string `json:"error,omitempty"`
	// Values are what the clause reads, when it has no parts.
	Values []NamedValue `json:"values,omitempty"`
	// Operator joins the parts: && or ||, ! before the one, ?: for a condition
	// and the branch it chose.
	Operator string   `json:"operator,omitempty"`
	Parts    []Clause `json:"parts,omitempty"`
}

// NamedValue is what a name stood for.
type NamedValue struct {
	Name    string          `json:"name"`
	Value   json.RawMessage `json:"value,omitempty"`
	Unknown string          `json:"unknown,omitempty"` // why there is no value
}

// Explain says how the rules judge the changes of a row.
func (c *Client) Explain(ctx context.Context, req *ExplainRequest) (*Explanation, error) {
	return call[Explanation](ctx, c, http.MethodPost, "/v1/explain", req)
}
