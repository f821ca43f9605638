package relay

import (
	"encoding/json"
	"errors"
	"fmt"
)

// storedChange is the JSON form of a change in a dead letter: enough for a
// person to see what happened and for a corrected rule to judge it again.
type storedChange struct {
	Op         string             `json:"op"`
	Table      string             `json:"table,omitempty"`
	Name       string             `json:"name,omitempty"`
	LSN        LSN                `json:"lsn"`
	Ordinal    uint32             `json:"ordinal,omitempty"`
	XID        uint32             `json:"xid,omitempty"`
	CommitLSN  LSN                `json:"commit_lsn,omitempty"`
	CommitTime int64              `json:"commit_time,omitempty"`
	New        map[string]*string `json:"new,omitempty"`
	Old        map[string]*string `json:"old,omitempty"`
	Payload    string             `json:"payload,omitempty"`
	Context    json.RawMessage    `json:"context,omitempty"`
	// Diagnosis says what the rule failed on, where the rule can tell.
	Diagnosis *RuleError `json:"diagnosis,omitempty"`
	// Cut says that a value was too long to be kept whole.
	Cut bool `json:"cut,omitempty"`
}

// maxStoredValue bounds each value kept in a dead letter, in bytes.
const maxStoredValue = 64 << 10

// encodeChange returns the change as JSON: rows as objects of the values' text,
// null for null, without the columns whose value is unknown. A value longer
// than 64 KiB is cut, and the change can then not be judged again.
func encodeChange(c *Change, f *IDFacts, why error) []byte {
	s := storedChange{
		Op: c.Op.String(), Name: c.Name, LSN: c.LSN, Ordinal: c.Ordinal,
		XID: f.XID, CommitLSN: f.CommitLSN, CommitTime: f.CommitTime,
	}
	errors.As(why, &s.Diagnosis)
	s.Payload = s.keep(c.Payload)
	if c.Relation != nil {
		s.Table = c.Relation.Table().String()
		s.New = s.row(c.Relation, c.New)
		s.Old = s.row(c.Relation, c.Old)
	}
	if c.Tx != nil && json.Valid(c.Tx.Context) {
		s.Context = c.Tx.Context
	}
	out, err := json.Marshal(&s)
	if err != nil {
		panic(err) // strings, numbers and valid JSON always marshal
	}
	return out
}

func (s *storedChange) row(rel *Relation, row Row) map[string]*string {
	if row == nil {
		return nil
	}
	m := make(map[string]*string, len(row))
	for i := range row {
		switch row[i].State {
		case Null:
			m[rel.Columns[i].Name] = nil
		case Known:
			v := s.keep(row[i].Text)
			m[rel.Columns[i].Name] = &v
		}
	}
	return m
}

func (s *storedChange) keep(b []byte) string {
	if len(b) > maxStoredValue {
		s.Cut = true
		return string(b[:maxStoredValue]) + "..."
	}
	return string(b)
}

// ErrStillFails says that a rule failed again on the change of a dead letter.
var ErrStillFails = errors.New("the rule still fails")

// Rejudge passes the change of a dead letter through its rule again and returns
// the events the rule now makes of it, with the ids they would have had at
// first; none when the rule does not match. rel is the table as it is now, nil
// for notifications and messages. The events have no place in a stream yet.
func Rejudge(set *RuleSet, f *Failure, src *SourceState, rel *Relation) ([]Event, error) {
	var s storedChange
	if err := json.Unmarshal(f.Change, &s); err != nil {
		return nil, fmt.Errorf("the change cannot be read: %w", err)
	}
	if s.Cut {
		return nil, errors.New("the change has a value that was too long to be kept")
	}
	var rule *Rule
	for _, r := range set.Rules() {
		if r.Name == f.Rule {
			rule = r
		}
	}
	if rule == nil {
		return nil, fmt.Errorf("rule %q: %w", f.Rule, ErrNotFound)
	}
	c := Change{Op: opOf(s.Op), Relation: rel, LSN: s.LSN, Ordinal: s.Ordinal, Name: s.Name, Payload: []byte(s.Payload)}
	if c.Op != Notify && c.Op != Read && (c.Op != Message || s.XID != 0) {
		c.Tx = &Tx{XID: s.XID, CommitLSN: s.CommitLSN, CommitTime: s.CommitTime, Context: s.Context}
	}
	if rel != nil {
		c.New, c.Old = restoreRow(rel, s.New), restoreRow(rel, s.Old)
	}
	prog, err := rule.Bind(rel)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStillFails, err)
	}
	var d Draft
	ok, err := prog.Eval(&c, &d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStillFails, err)
	}
	if !ok {
		return nil, nil
	}
	facts := IDFacts{
		SystemID: src.SystemID, CommitLSN: s.CommitLSN, XID: s.XID, CommitTime: s.CommitTime, Kind: c.Op, ChangeLSN: s.LSN, Ordinal: s.Ordinal,
	}
	if c.Op == Notify {
		facts.ChangeLSN = 0
	}
	events := make([]Event, d.Len())
	for i := range events {
		facts.Item = uint32(i)
		e := makeEvent(&c, rule, d.At(i), &facts, f.At)
		e.Source, e.Generation, e.Index = src.Source, src.Generation, uint32(f.Seq)+facts.Item
		events[i] = e
	}
	return events, nil
}

func opOf(word string) Op {
	for _, o := range []Op{Insert, Update, Delete, Truncate, Read, Notify, Message, System} {
		if o.String() == word {
			return o
		}
	}
	return 0
}

func restoreRow(rel *Relation, m map[string]*string) Row {
	if m == nil {
		return nil
	}
	row := make(Row, len(rel.Columns))
	for i := range rel.Columns {
		switch v, ok := m[rel.Columns[i].Name]; {
		case !ok:
		case v == nil:
			row[i].State = Null
		default:
			row[i] = Value{State: Known, Text: []byte(*v)}
		}
	}
	return row
}
