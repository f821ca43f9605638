package contract

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// Event is one version of one type of event.
type Event struct {
	Type        string
	Version     int
	Description string
	// Tables are the tables it may be about and Ops what may have happened to
	// them; both are empty for events that are not about rows.
	Tables, Ops []string
	// Key and Tenant are the types of both. A tenant that may be null may be left
	// out; its zero Type is no tenant.
	Key, Tenant Type
	Data        Type
}

// Name returns the event's name with its version: order.paid@1.
func (e *Event) Name() string { return fmt.Sprintf("%s@%d", e.Type, e.Version) }

// Envelope returns the type of the body of a webhook, in the order in which
// its attributes are sent.
func (e *Event) Envelope() Type {
	version := Whole(int64(e.Version), int64(e.Version))
	fields := []Field{
		{Name: "id", Type: Formatted(EventID), Doc: forms[EventID].doc},
		{Name: "type", Type: OneOf(e.Type)},
		{Name: "version", Type: version, Doc: "The version of the data."},
		{Name: "timestamp", Type: Formatted(Instant), Doc: "When the change was committed."},
		{Name: "source", Type: Of(String), Doc: "The database the change is of."},
		{Name: "key", Type: Of(String | e.Key.Kinds&Null), Doc: "Events of one key arrive in order; null promises none."},
	}
	if e.Tenant.Kinds&^Null != 0 {
		fields = append(fields, Field{Name: "tenant", Type: Of(String), Optional: e.Tenant.Kinds&Null != 0, Doc: "The customer the event is about."})
	}
	fields = append(fields, Field{Name: "sequence", Type: Formatted(Sequence), Doc: forms[Sequence].doc})
	if len(e.Tables) > 0 {
		fields = append(fields,
			Field{Name: "table", Type: OneOf(e.Tables...), Doc: "The table the change is of."},
			Field{Name: "op", Type: OneOf(e.Ops...), Doc: "What happened to the row."})
	}
	if len(e.Data.AllUnsent()) > 0 {
		fields = append(fields, Field{Name: "unchanged", Type: ListOf(Of(String)), Optional: true, Doc: "Columns that did not change and that the server therefore did not send: what is made of them is left out of data."})
	}
	return ObjectOf(append(fields, Field{Name: "data", Type: e.Data})...)
}

// Join makes one event of those that have a type and a version in common, and
// sorts them by name and version.
func Join(events []Event) []Event {
	var joined []Event
	for _, e := range events {
		i := slices.IndexFunc(joined, func(o Event) bool { return o.Type == e.Type && o.Version == e.Version })
		if i < 0 {
			joined = append(joined, e)
			continue
		}
		o := &joined[i]
		if o.Description == "" {
			o.Description = e.Description
		}
		o.Tables, o.Ops = union(o.Tables, e.Tables), union(o.Ops, e.Ops)
		o.Key, o.Tenant, o.Data = Union(o.Key, e.Key), Union(o.Tenant, e.Tenant), Union(o.Data, e.Data)
	}
	slices.SortFunc(joined, func(a, b Event) int {
		if c := strings.Compare(a.Type, b.Type); c != 0 {
			return c
		}
		return a.Version - b.Version
	})
	return joined
}

// Published returns the type as it is promised to receivers: without what
// they cannot make use of and what may well change, the lengths of strings and
// the bounds of numbers that are not those of a machine's integers. With
// numbersAsString the numbers are strings.
func Published(t Type, numbersAsString bool) Type {
	t.MinLength, t.MaxLength = 0, 0
	if t.Dynamic() {
		return t
	}
	if t.Kinds&Number != 0 {
		t.Min, t.Max = machineBounds(t)
		if numbersAsString {
			s := Union(t.Only(String), Formatted(Numeric))
			t.Values, t.Format = s.Values, s.Format
			t.Kinds = t.Kinds&^Number | String
		}
	}
	if t.Elem != nil {
		e := Published(*t.Elem, numbersAsString)
		t.Elem = &e
	}
	t.Fields = slices.Clone(t.Fields)
	for i := range t.Fields {
		t.Fields[i].Type = Published(t.Fields[i].Type, numbersAsString)
	}
	if t.Rest != nil && !t.Rest.Dynamic() {
		r := Published(*t.Rest, numbersAsString)
		t.Rest = &r
	}
	return t
}

var int32Type, int64Type = Whole(-1<<31, 1<<31-1), Whole(-1<<63, 1<<63-1)

// machineBounds returns the bounds of the 32 or 64 bit integer that holds all
// numbers of the type, or none.
func machineBounds(t Type) (lo, hi *big.Rat) {
	if !t.Integer || t.Min == nil || t.Max == nil {
		return nil, nil
	}
	for _, m := range []Type{int32Type, int64Type} {
		if t.Min.Cmp(m.Min) >= 0 && t.Max.Cmp(m.Max) <= 0 {
			return m.Min, m.Max
		}
	}
	return nil, nil
}
