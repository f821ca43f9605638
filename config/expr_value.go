package config

import (
	"strconv"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// valueKind is what a value is at run time.
type valueKind uint8

const (
	kindNull valueKind = iota
	// kindUnknown is the new value of a TOAST column that did not change and
	// that the server therefore did not send; n is its column.
	kindUnknown
	// kindFailed is no value: the error is in the frame.
	kindFailed
	kindBool
	kindNumber
	kindString
	kindJSON // an object or a list, as JSON text
)

// value is a value at run time. It is small enough to be passed in registers,
// and text points into the change, into a literal, or into memory of the
// frame, and is valid until the next change.
type value struct {
	kind valueKind
	n    int64  // the number when text is nil, 1 for true, the column when unknown
	text []byte // the string, the number in decimal, or the JSON
}

var failed = value{kind: kindFailed}

func boolValue(b bool) value {
	if b {
		return value{kind: kindBool, n: 1}
	}
	return value{kind: kindBool}
}

func stringValue(text []byte) value { return value{kind: kindString, text: text} }

func intValue(n int64) value { return value{kind: kindNumber, n: n} }

// number returns the decimal text of a number.
func (v value) number(buf *[20]byte) []byte {
	if v.text != nil {
		return v.text
	}
	return strconv.AppendInt(buf[:0], v.n, 10)
}

// int returns a number that is a plain integer.
func (v value) int() (int64, bool) {
	if v.text == nil {
		return v.n, true
	}
	return pgvalue.ParseInt(v.text)
}

// appendText appends a value as a template or tostring gives it. An object or
// list is compact JSON.
func (v value) appendText(dst []byte) []byte {
	switch v.kind {
	case kindBool:
		return strconv.AppendBool(dst, v.n != 0)
	case kindNumber:
		if v.text == nil {
			return strconv.AppendInt(dst, v.n, 10)
		}
		if out, ok := pgvalue.AppendNumber(dst, v.text); ok {
			return out
		}
		return append(dst, v.text...)
	case kindString:
		return append(dst, v.text...)
	case kindJSON:
		return pgvalue.AppendCompact(dst, v.text)
	}
	return dst
}

// kinds returns the set that holds the kind of the value.
func (v value) kinds() kinds {
	switch v.kind {
	case kindNull:
		return isNull
	case kindBool:
		return isBool
	case kindNumber:
		return isNumber
	case kindString:
		return isString
	case kindJSON:
		if v.text[0] == '[' {
			return isList
		}
		return isObject
	}
	return 0
}

// kinds is a set of the kinds a value can have: what a function accepts, or
// all that is known of an expression without running it.
type kinds = contract.Kinds

const (
	isNull   = contract.Null
	isBool   = contract.Bool
	isNumber = contract.Number
	isString = contract.String
	isList   = contract.List
	isObject = contract.Object
	isScalar = contract.Scalar
	isAny    = contract.AnyKinds
)

// evalError is an error of one expression about one change. It holds no value
// of the row, because rows hold personal data and errors are logged.
type evalError struct {
	rng     hcl.Range
	msg     string
	unknown bool // decided on an unknown value: try and can do not catch it
}

func (e *evalError) Error() string {
	if e.rng.Filename == "" {
		return e.msg
	}
	return e.rng.String() + ": " + e.msg
}

// frame is what closures work on: the change, and memory that is reused from
// change to change.
type frame struct {
	change *relay.Change
	// rows is indexed by side. An absent row is one of nulls.
	rows     [3]relay.Row
	rowIsOld bool
	err      *evalError

	payload     value
	payloadRead bool

	scratch []byte   // texts that live until the next change
	free    [][]byte // buffers for texts that are being made
	stack   []value  // arguments of calls
	vars    []value  // of for expressions, by slot

	// unchanged collects the columns a passed-through row lacks. In strict mode
	// an unknown column is an error: the text is being decided on.
	unchanged []string
	strict    int
	// omit is set by an emit closure that found an unknown value and printed
	// nothing; the object around it drops the attribute.
	omit bool
	// printer prints numbers as the rule wants them.
	printer pgvalue.Printer

	prog *program
}

func (f *frame) fail(rng hcl.Range, msg string) value {
	f.err = &evalError{rng: rng, msg: msg}
	return failed
}

// keep copies a text into memory that lives until the next change.
func (f *frame) keep(text []byte) []byte {
	start := len(f.scratch)
	f.scratch = append(f.scratch, text...)
	return f.scratch[start:len(f.scratch):len(f.scratch)]
}

// take returns an empty buffer, to be given back.
func (f *frame) take() []byte {
	if n := len(f.free); n > 0 {
		b := f.free[n-1]
		f.free = f.free[:n-1]
		return b[:0]
	}
	return make([]byte, 0, 256)
}

func (f *frame) give(b []byte) {
	if cap(b) <= keptMemory {
		f.free = append(f.free, b)
	}
}

// keptMemory bounds a buffer that is kept from change to change: there is a
// frame for every rule and relation, and one large row must not stay in all.
const keptMemory = 64 << 10

// load returns the value of a column. One that the server did not send because
// it did not change is taken from the old row where that has it (REPLICA
// IDENTITY FULL, or a key column).
func (f *frame) load(s side, i int) *relay.Value {
	v := &f.rows[s][i]
	if v.State == relay.Unknown && (s == sideNew || s == sideRow && !f.rowIsOld) && f.change.Op == relay.Update {
		if o := &f.rows[sideOld][i]; o.State == relay.Known {
			return o
		}
	}
	return v
}

// absent returns the value of a column that is null or unknown. The old value
// of a column outside the replica identity is an error wherever it is used;
// the new value of an unchanged TOAST column can still be left out.
func (f *frame) absent(v *relay.Value, s side, i int) value {
	if v.State == relay.Null {
		return value{}
	}
	if s == sideOld || s == sideRow && f.rowIsOld {
		f.err = f.prog.oldUnknown[i]
		return failed
	}
	return value{kind: kindUnknown, n: int64(i)}
}

// known turns an unknown value into the error of deciding on it.
func (f *frame) known(v value) value {
	if v.kind == kindUnknown {
		f.err = f.prog.newUnknown[v.n]
		return failed
	}
	return v
}
