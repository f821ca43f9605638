package relay

import "encoding/json"

// Explainer is a [Program] that can say how it judges a change, slowly and for
// a person.
type Explainer interface {
	Program
	// Explain judges the condition of the rule part by part. It returns nil when
	// the rule has none.
	Explain(c *Change) *Clause
}

// The outcomes of a clause.
const (
	OutcomeTrue  = "true"
	OutcomeFalse = "false"
	OutcomeError = "error"
)

// Clause is a condition, or a part of one, as it was judged on a change.
type Clause struct {
	// Text is the clause as it is written, on one line.
	Text    string `json:"text"`
	Outcome string `json:"outcome"`
	Error   string `json:"error,omitempty"`
	// Values are what the clause reads, when it has no parts.
	Values []NamedValue `json:"values,omitempty"`
	// Operator joins the parts: && or ||, ! before the one, ?: for a condition
	// and the branch it chose.
	Operator string   `json:"operator,omitempty"`
	Parts    []Clause `json:"parts,omitempty"`
}

// NamedValue is what a name stood for when a change was judged.
type NamedValue struct {
	Name string `json:"name"`
	// Value is JSON; a long one is a string of its beginning.
	Value json.RawMessage `json:"value,omitempty"`
	// Unknown says why there is no value.
	Unknown string `json:"unknown,omitempty"`
}

// RuleError is why a rule failed on a change, as an error of Program.Eval. Its
// text holds no value of the change, because it is logged; Values do, for the
// dead letter that holds the change anyway.
type RuleError struct {
	// Argument is the argument of the rule that failed.
	Argument string `json:"argument"`
	Message  string `json:"message"`
	// File, Line and Column say where in it, Snippet has the line.
	File    string       `json:"file,omitempty"`
	Line    int          `json:"line,omitempty"`
	Column  int          `json:"column,omitempty"`
	Snippet string       `json:"snippet,omitempty"`
	Values  []NamedValue `json:"values,omitempty"`

	err error
}

// NewRuleError returns a RuleError with the text of err.
func NewRuleError(err error) *RuleError { return &RuleError{err: err} }

func (e *RuleError) Error() string { return e.err.Error() }

func (e *RuleError) Unwrap() error { return e.err }

// Judgement is how one rule judges a change, for a person.
type Judgement struct {
	Rule *Rule
	// About is false when the rule is not about the operation.
	About, Matched bool
	When           *Clause
	Err            error
	// Events are what the rule makes of the change. They have no place in a
	// stream.
	Events []Event
}

// Judge says how a rule judges a row change, as the daemon does when the change
// comes. The rule is bound anew: this is for a person, not for a stream.
func Judge(r *Rule, c *Change, systemID uint64) Judgement {
	j := Judgement{Rule: r, About: r.Ops.Has(c.Op)}
	if !j.About {
		return j
	}
	prog, err := r.Bind(c.Relation)
	if err != nil {
		j.Err = err
		return j
	}
	if x, ok := prog.(Explainer); ok {
		j.When = x.Explain(c)
	}
	var d Draft
	j.Matched, j.Err = prog.Eval(c, &d)
	if j.Err != nil || !j.Matched || c.Tx == nil {
		return j
	}
	f := IDFacts{SystemID: systemID, CommitLSN: c.Tx.CommitLSN, XID: c.Tx.XID, CommitTime: c.Tx.CommitTime, Kind: c.Op, ChangeLSN: c.LSN, Ordinal: c.Ordinal}
	for i := range d.Len() {
		f.Item = uint32(i)
		j.Events = append(j.Events, makeEvent(c, r, d.At(i), &f, c.Tx.CommitTime))
	}
	return j
}

// FailedRow reports whether the change of a dead letter is about the row of the
// relation with the primary key that is written as text.
func FailedRow(f *Failure, rel *Relation, text string) bool {
	var s storedChange
	if f.Table != rel.Table().String() || json.Unmarshal(f.Change, &s) != nil {
		return false
	}
	return HasRowKey(rel, restoreRow(rel, s.New), text) || HasRowKey(rel, restoreRow(rel, s.Old), text)
}

// DefaultKey returns the key of the events of a row without a key of the
// rule's, "" when the table has no primary key.
func DefaultKey(rel *Relation, row Row) string { return string(appendRowKey(nil, rel, row)) }
