package relay

// Rule says which changes it matches and makes an event of each. It is
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
	// It fails when the relation lacks a column the rule reads.
	Bind func(*Relation) (Program, error)
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
	// Eval judges the change. It returns false when the rule's condition does
	// not hold. Otherwise it has set what the draft needs. An error is about
	// this change only; its text is for the person who owns the rule and holds
	// no secret.
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
}

// Reset empties the draft and keeps its memory.
func (d *Draft) Reset() {
	*d = Draft{Key: d.Key[:0], OldKey: d.OldKey[:0], Tenant: d.Tenant[:0], Data: d.Data[:0], Unchanged: d.Unchanged[:0]}
}
