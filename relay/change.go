package relay

import "strings"

// Op is what happened to a row, or that something else than a row change
// happened. Its letter is part of every event id, so a letter is never reused.
type Op byte

// The operations. Read is a row that a backfill found.
const (
	Insert   Op = 'I'
	Update   Op = 'U'
	Delete   Op = 'D'
	Truncate Op = 'T'
	Read     Op = 'R'
	Notify   Op = 'N'
	Message  Op = 'M'
	System   Op = 'S'
)

// String returns the word the rule language uses for the operation.
func (o Op) String() string {
	switch o {
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Truncate:
		return "truncate"
	case Read:
		return "read"
	case Notify:
		return "notify"
	case Message:
		return "message"
	case System:
		return "system"
	}
	return "unknown"
}

// Ops is a set of row operations.
type Ops uint8

// OpsOf returns the set of the given operations. Operations that do not happen
// to rows are ignored.
func OpsOf(ops ...Op) Ops {
	var s Ops
	for _, o := range ops {
		s |= o.bit()
	}
	return s
}

func (o Op) bit() Ops {
	if i := strings.IndexByte("IUDTR", byte(o)); i >= 0 {
		return 1 << i
	}
	return 0
}

// Has reports whether o is in the set.
func (s Ops) Has(o Op) bool { return s&o.bit() != 0 }

// ValueState says what is known of a column's value.
type ValueState uint8

const (
	// Unknown is a value the server did not send: an unchanged TOAST column, or
	// a column of an old row outside the replica identity. It is not null.
	Unknown ValueState = iota
	// Null is the SQL null.
	Null
	// Known is a value; its text is in Value.Text.
	Known
)

// Value is one column of a row in PostgreSQL's text output format, as the
// server printed it and not yet interpreted.
type Value struct {
	State ValueState
	// Text is the value when State is Known. It points into a buffer of the
	// source and is valid only until the call that carried it returns.
	Text []byte
}

// Row is the values of a row in the order of Relation.Columns. A nil Row is an
// absent one: the old row of an insert, the new row of a delete.
type Row []Value

// Column describes one column of a relation as the change stream knows it.
type Column struct {
	Name string
	// TypeOID is the OID of the column's type, the domain's own for a domain.
	TypeOID uint32
	// TypeMod is the type modifier, -1 when there is none.
	TypeMod int32
	// Identity says that the column is part of the replica identity.
	Identity bool
}

// Replica identities, as in pg_class.relreplident.
const (
	IdentityDefault = 'd'
	IdentityNothing = 'n'
	IdentityFull    = 'f'
	IdentityIndex   = 'i'
)

// Relation is a table as it was at one point of the change stream. A relation
// is immutable; a table that changes gets a new one, so code may keep what it
// derived from a relation by its pointer.
type Relation struct {
	OID      uint32
	Schema   string
	Name     string
	Identity byte // one of the Identity constants
	Columns  []Column
	// PrimaryKey holds positions in Columns in the order of the key. It is empty
	// for a table without one.
	PrimaryKey []int
	// Types resolves the TypeOID of the columns that are not built-in types. It
	// may be nil. A type it does not know is treated as text.
	Types TypeResolver
}

// TypeResolver tells the shape of a type by its OID.
type TypeResolver interface {
	ResolveType(oid uint32) (Type, bool)
}

// Type is what is known of a PostgreSQL type.
type Type struct {
	OID    uint32
	Schema string
	Name   string
	// Kind is pg_type.typtype: b base, c composite, d domain, e enum, r range,
	// m multirange.
	Kind byte
	// Elem is the element type of an array, otherwise 0.
	Elem uint32
	// Delim separates the elements of an array of this type, ',' for nearly all.
	Delim byte
	// Base is the base type of a domain, otherwise 0. NotNull says that the domain
	// has no null.
	Base    uint32
	NotNull bool
	// Labels are the values of an enum in their order.
	Labels []string
	// Fields are the attributes of a composite.
	Fields []Column
}

// Table returns the relation's qualified name.
func (r *Relation) Table() TableName { return TableName{r.Schema, r.Name} }

// Column returns the position of the named column, or -1.
func (r *Relation) Column(name string) int {
	for i := range r.Columns {
		if r.Columns[i].Name == name {
			return i
		}
	}
	return -1
}

// TableName is the name of a table, literal, case and all.
type TableName struct{ Schema, Name string }

// String returns schema and name joined by a dot, unquoted.
func (t TableName) String() string { return t.Schema + "." + t.Name }

// Tx is the transaction a change belongs to.
type Tx struct {
	XID uint32
	// CommitLSN is the start of the commit record (Begin.final_lsn), which is
	// known from the first change on and orders transactions.
	CommitLSN LSN
	// CommitTime is in microseconds since the Unix epoch.
	CommitTime int64
	// Context is a JSON object merged from the transaction's earlier logical
	// messages with the prefix rowhook.context, or nil.
	Context []byte
}

// Change is one row change, notification or logical message, as the source
// produced it. The change, its rows and its payload are valid only until the
// call that carried them returns.
type Change struct {
	Op Op
	// Relation is nil for notifications and messages.
	Relation *Relation
	// New is nil on delete and truncate, Old on insert and truncate. The values
	// of Old that the replica identity supplies are known also where the server
	// sent no old row because none of them changed.
	New, Old Row
	// LSN is the position of the change itself. It is neither unique (COPY) nor
	// rising; see Ordinal.
	LSN LSN
	// Ordinal counts from 0 the changes of one transaction that have the same Op
	// and LSN.
	Ordinal uint32
	// Tx is nil for notifications and for messages outside a transaction.
	Tx *Tx
	// Name is the channel of a notification or the prefix of a message.
	Name string
	// Payload is the content of a notification or message.
	Payload []byte
	// Time is when the change was received, in microseconds since the Unix
	// epoch, for changes without a Tx.
	Time int64
	// PID is the backend that sent a notification.
	PID uint32
}
