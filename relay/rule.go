package relay

import "fmt"

// Rule says which changes it matches and makes events of each. It is
// immutable once made. A rule is about tables, a channel or messages: exactly
// one of Tables, Channel and Message is set.
type Rule struct {
	// Name is the label of the rule, unique in a rule set.
	Name        string
	Type        string
	Version     int // 0 is read as 1
	Description string
	// Source is the name of the source whose changes the rule sees.
	Source string

	Tables []TableName
	Ops    Ops
	// Channel is the NOTIFY channel.
	Channel string
	// Message is the prefix of the logical message. NonTransactional says that
	// messages emitted outside a transaction match as well.
	Message          string
	NonTransactional bool

	// OnError says what happens when the rule fails on a change.
	OnError OnError

	// Barrier orders the rule's events with every event of their table.
	// Truncate events are barriers without it.
	Barrier bool

	// Hash is a digest of everything that decides what events the rule makes,
	// so that a half-stored transaction is continued only under the same rules.
	Hash string

	// Reads are the columns the rule reads. All says that it reads every column.
	Reads []ColumnRef
	All   bool

	// Bind compiles the rule for one relation (nil for channels and messages).
	// It fails with a *MissingColumnError when the relation lacks a column the
	// rule reads.
	Bind func(*Relation) (Program, error)
}

// OnError says what happens when a rule fails on a change. In every case the
// failure is counted, logged and shown in the status.
type OnError uint8

const (
	// OnErrorContinue makes a dead letter of the change and goes on, until the
	// rule has failed too often in a row.
	OnErrorContinue OnError = iota
	// OnErrorHalt stops the source before the change, which is judged again when
	// the source starts again: nothing is lost, and the order holds.
	OnErrorHalt
	// OnErrorSkip goes on without a dead letter: the change makes no event of
	// this rule, ever.
	OnErrorSkip
)

// MissingColumnError says that a relation lacks a column that a rule reads: it
// was dropped or renamed, or the publication does not send it.
type MissingColumnError struct {
	Table  TableName
	Column string
	At     string // the place in the rule
}

func (e *MissingColumnError) Error() string {
	return fmt.Sprintf("%s: table %s has no column %s in the change stream", e.At, e.Table, e.Column)
}

// ColumnRef is a column a rule reads.
type ColumnRef struct {
	Name string
	// Old says that the rule reads the column's value before the change.
	Old bool
}

// Program is a rule bound to one relation. It is used by one goroutine at a
// time.
type Program interface {
	// Eval judges the change. It returns false when the rule makes no event of
	// it, and then it has not touched the draft. Otherwise it has set what the
	// draft needs, and More when there are
	// several events. An error is about this change only, and then there is no
	// event at all; its text is for the person who owns the rule and holds no
	// secret.
	Eval(c *Change, d *Draft) (bool, error)
}

// KeyKind says where the key of an event comes from.
type KeyKind uint8

const (
	// KeyDefault is the table and primary key of the row; an event that has no
	// row has no key.
	KeyDefault KeyKind = iota
	// KeyNone is no key: the rule's key was null.
	KeyNone
	// KeySet is the key in Draft.Key.
	KeySet
)

// Draft is what a rule decides of an event. The slices are reused from change
// to change: Eval appends to what it finds, cut to length zero.
type Draft struct {
	KeyKind KeyKind
	Key     []byte
	// OldKey is the rule's key for the row before an update, when it can be
	// known; it may equal Key. HasOldKey says that it is set.
	OldKey    []byte
	HasOldKey bool
	Tenant    []byte
	HasTenant bool
	// Data is the event's data, one JSON value.
	Data []byte
	// Unchanged are columns of a passed-through row whose value is unknown.
	Unchanged []string
	// More are the events after the first, in their order, of a rule that makes
	// several of one change. The place of an event among them is part of its id.
	// The drafts in it have no More of their own.
	More []Draft
}

// Reset empties the draft and keeps its memory.
func (d *Draft) Reset() {
	*d = Draft{Key: d.Key[:0], OldKey: d.OldKey[:0], Tenant: d.Tenant[:0], Data: d.Data[:0], Unchanged: d.Unchanged[:0], More: d.More[:0]}
	if cap(d.More) > keptDrafts {
		d.More = nil
	}
}

// keptDrafts bounds the memory for further events that is kept from change to
// change.
const keptDrafts = 64

// Add adds a further event and returns its draft, which is empty.
func (d *Draft) Add() *Draft {
	n := len(d.More)
	if n < cap(d.More) {
		d.More = d.More[:n+1]
		d.More[n].Reset()
	} else {
		d.More = append(d.More, Draft{})
	}
	return &d.More[n]
}

// Len returns how many events there are, and At the one with an index below it.
func (d *Draft) Len() int { return 1 + len(d.More) }

// At returns the event with the index.
func (d *Draft) At(i int) *Draft {
	if i == 0 {
		return d
	}
	return &d.More[i-1]
}
