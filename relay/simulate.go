package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Simulation judges changes by two rule sets of one source and says where they
// differ. It is used by one goroutine.
type Simulation struct {
	systemID      uint64
	before, after *programs
	draft         Draft
}

// NewSimulation returns one of the rules before and after an edit.
func NewSimulation(before, after *RuleSet, systemID uint64) *Simulation {
	return &Simulation{systemID: systemID, before: newPrograms(before), after: newPrograms(after)}
}

// Difference is what two rule sets make of one change differently. Events have
// no place in a stream, and those of notifications no id.
type Difference struct {
	// Removed are events that only the rules before make, Added those that only
	// the rules after make.
	Removed, Added []Event
	Changed        []ChangedEvent
	// Failures are rules that fail in another way than before.
	Failures []ChangedFailure
	// Unjudged are rules that cannot be judged by what was kept, with the reason.
	Unjudged []UnjudgedRule
	// Before and After count the events.
	Before, After int
}

// Any reports whether there is a difference.
func (d *Difference) Any() bool {
	return len(d.Removed)+len(d.Added)+len(d.Changed)+len(d.Failures) > 0
}

// ChangedEvent is an event that both make, of one type and version.
type ChangedEvent struct {
	Before, After Event
	Fields        []FieldChange
}

// FieldChange is a part of an event that differs: key, old_key, tenant, barrier,
// unchanged, or a part of the data, as data.total. The values are JSON, nil for
// none.
type FieldChange struct {
	Field         string
	Before, After json.RawMessage
}

// ChangedFailure is how a rule fails, "" where it does not.
type ChangedFailure struct {
	Rule, Before, After string
}

// UnjudgedRule is a rule that needs what was not kept of a change.
type UnjudgedRule struct {
	Rule string
	// After says that it is one of the rules after the edit.
	After bool
	// Missing are the columns that were not sent, or whose value was too long to
	// be kept.
	Missing []string
}

// Compare judges a change. cut are the columns whose value was too long to be
// kept: rules that read one are not judged.
func (s *Simulation) Compare(c *Change, cut []string) Difference {
	var d Difference
	before, failedBefore := s.judge(s.before, c, cut, false, &d)
	after, failedAfter := s.judge(s.after, c, cut, true, &d)
	if len(d.Unjudged) > 0 {
		// What a rule of the same name made, or of the same type, has nothing to be
		// compared with.
		keep := func(e Event) bool {
			return slices.ContainsFunc(d.Unjudged, func(u UnjudgedRule) bool { return u.Rule == e.Rule })
		}
		before, after = slices.DeleteFunc(before, keep), slices.DeleteFunc(after, keep)
		for _, u := range d.Unjudged {
			delete(failedBefore, u.Rule)
			delete(failedAfter, u.Rule)
		}
	}
	d.Before, d.After = len(before), len(after)
	d.pair(before, after)
	names := slices.Collect(maps.Keys(failedBefore))
	names = slices.AppendSeq(names, maps.Keys(failedAfter))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if failedBefore[name] != failedAfter[name] {
			d.Failures = append(d.Failures, ChangedFailure{name, failedBefore[name], failedAfter[name]})
		}
	}
	return d
}

// judge returns what the rules make of the change, and why those fail that do.
func (s *Simulation) judge(p *programs, c *Change, cut []string, after bool, d *Difference) (events []Event, failed map[string]string) {
	f := IDFacts{SystemID: s.systemID, Kind: c.Op, ChangeLSN: c.LSN, Ordinal: c.Ordinal}
	at := c.Time
	switch {
	case c.Tx != nil:
		f.CommitLSN, f.XID, f.CommitTime, at = c.Tx.CommitLSN, c.Tx.XID, c.Tx.CommitTime, c.Tx.CommitTime
	case c.Op == Message:
		f.CommitLSN = c.LSN
	}
	for _, b := range p.of(c) {
		rule := b.rule
		if c.Relation != nil && !b.ops.Has(c.Op) || c.Op == Message && c.Tx == nil && !rule.NonTransactional {
			continue
		}
		if missing := lackedBy(&b, cut); len(missing) > 0 {
			d.Unjudged = append(d.Unjudged, UnjudgedRule{rule.Name, after, missing})
			continue
		}
		ok, err := false, b.err
		if err == nil {
			s.draft.Reset()
			ok, err = b.prog.Eval(c, &s.draft)
		}
		if err != nil {
			if failed == nil {
				failed = map[string]string{}
			}
			failed[rule.Name] = failureText(err)
			continue
		}
		if !ok {
			continue
		}
		for i := range s.draft.Len() {
			f.Item = uint32(i)
			e := makeEvent(c, rule, s.draft.At(i), &f, at)
			if c.Op == Notify {
				e.ID = EventID{}
			}
			events = append(events, ownedEvent(e))
		}
	}
	return events, failed
}

// lackedBy returns the columns that the rule reads and that were not kept.
func lackedBy(b *bound, cut []string) (missing []string) {
	if e, ok := errors.AsType[*MissingColumnError](b.err); ok {
		return []string{e.Column}
	}
	for _, name := range cut {
		if b.rule.All || name == "payload" || slices.ContainsFunc(b.rule.Reads, func(r ColumnRef) bool { return r.Name == name }) {
			missing = append(missing, name)
		}
	}
	return missing
}

// failureText says why a rule failed without the place in a file, which is
// another one after every edit.
func failureText(err error) string {
	if e, ok := errors.AsType[*RuleError](err); ok && e.Message != "" {
		return e.Argument + ": " + e.Message
	}
	return err.Error()
}

// ownedEvent returns the event with bytes of its own.
func ownedEvent(e Event) Event {
	e.Key, e.OldKey, e.Tenant = bytes.Clone(e.Key), bytes.Clone(e.OldKey), bytes.Clone(e.Tenant)
	e.Data, e.Unchanged = bytes.Clone(e.Data), slices.Clone(e.Unchanged)
	return e
}

// pair finds out which events are the same. Of one type and version those that
// are equal are one, the others in their order: an element less of a for_each
// does not make all after it differ.
func (d *Difference) pair(before, after []Event) {
	type kind struct {
		typ     string
		version int
	}
	left := map[kind][]int{}
	for i := range after {
		k := kind{after[i].Type, after[i].Version}
		left[k] = append(left[k], i)
	}
	taken := make([]bool, len(after))
	next := func(e *Event, fits func(*Event) bool) int {
		for _, i := range left[kind{e.Type, e.Version}] {
			if !taken[i] && fits(&after[i]) {
				taken[i] = true
				return i
			}
		}
		return -1
	}
	var differ []int
	for i := range before {
		if next(&before[i], func(e *Event) bool { return sameEvent(&before[i], e) }) < 0 {
			differ = append(differ, i)
		}
	}
	for _, i := range differ {
		j := next(&before[i], func(*Event) bool { return true })
		if j < 0 {
			d.Removed = append(d.Removed, before[i])
		} else if fields := eventChanges(&before[i], &after[j]); len(fields) > 0 {
			d.Changed = append(d.Changed, ChangedEvent{before[i], after[j], fields})
		}
	}
	for j := range after {
		if !taken[j] {
			d.Added = append(d.Added, after[j])
		}
	}
}

func sameEvent(a, b *Event) bool {
	return a.HasKey == b.HasKey && a.Barrier == b.Barrier && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.OldKey, b.OldKey) &&
		(a.Tenant == nil) == (b.Tenant == nil) && bytes.Equal(a.Tenant, b.Tenant) &&
		slices.Equal(a.Unchanged, b.Unchanged) && bytes.Equal(a.Data, b.Data)
}

// eventChanges returns the parts of two events that differ.
func eventChanges(a, b *Event) (out []FieldChange) {
	add := func(field string, before, after any) {
		x, _ := json.Marshal(before) // text, flags and lists of text always marshal
		y, _ := json.Marshal(after)
		if !bytes.Equal(x, y) {
			out = append(out, FieldChange{field, x, y})
		}
	}
	text := func(is bool, b []byte) *string {
		if !is {
			return nil
		}
		s := string(b)
		return &s
	}
	add("key", text(a.HasKey, a.Key), text(b.HasKey, b.Key))
	add("old_key", text(a.OldKey != nil, a.OldKey), text(b.OldKey != nil, b.OldKey))
	add("tenant", text(a.Tenant != nil, a.Tenant), text(b.Tenant != nil, b.Tenant))
	add("barrier", a.Barrier, b.Barrier)
	add("unchanged", append([]string{}, a.Unchanged...), append([]string{}, b.Unchanged...))
	return appendDataChanges(out, "data", a.Data, b.Data)
}

// appendDataChanges appends where two JSON values differ: objects attribute by
// attribute, whatever their order, all else as a whole.
func appendDataChanges(out []FieldChange, path string, a, b json.RawMessage) []FieldChange {
	if bytes.Equal(a, b) {
		return out
	}
	var x, y map[string]json.RawMessage
	if a != nil && b != nil && json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && x != nil && y != nil {
		names := slices.AppendSeq(slices.Collect(maps.Keys(x)), maps.Keys(y))
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			out = appendDataChanges(out, path+"."+attribute(name), x[name], y[name])
		}
		return out
	}
	if a != nil && b != nil && bytes.Equal(compactJSON(a), compactJSON(b)) {
		return out
	}
	return append(out, FieldChange{path, a, b})
}

func compactJSON(v []byte) []byte {
	var b bytes.Buffer
	if json.Compact(&b, v) != nil {
		return v
	}
	return b.Bytes()
}

// attribute writes a name in a path, quoted where it could be taken for more.
func attribute(name string) string {
	if name == "" || strings.ContainsAny(name, ". \"\\\n") {
		return fmt.Sprintf("%q", name)
	}
	return name
}
