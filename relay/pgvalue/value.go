package pgvalue

import (
	"bytes"

	"github.com/rowhook/rowhook/relay"
)

// Printer prints values as JSON. The zero Printer prints what to_jsonb does.
type Printer struct {
	// NumbersAsString prints numbers as strings, also those in arrays and
	// composites, for readers whose numbers are doubles. The numbers of a json
	// or jsonb document stay as they are.
	NumbersAsString bool
}

// AppendJSON appends a value of the type as JSON. The types may be nil.
func AppendJSON(dst []byte, typ uint32, text []byte, types relay.TypeResolver) []byte {
	return Printer{}.AppendJSON(dst, typ, text, types)
}

// AppendJSON appends a value of the type as JSON. The types may be nil.
func (p Printer) AppendJSON(dst []byte, typ uint32, text []byte, types relay.TypeResolver) []byte {
	return p.append(dst, typ, text, types, 0)
}

// AppendKind appends a value of which only the kind is needed: any but Array,
// Vector and Composite, which are printed as strings here.
func (p Printer) AppendKind(dst []byte, kind Kind, text []byte) []byte {
	switch kind {
	case Bool:
		if len(text) == 1 && text[0] == 't' {
			return append(dst, "true"...)
		}
		if len(text) == 1 && text[0] == 'f' {
			return append(dst, "false"...)
		}
	case Number:
		return p.AppendNumber(dst, text)
	case JSON:
		if ValidJSON(text) {
			return append(dst, text...)
		}
	case Timestamp, TimestampTZ:
		return appendTimestamp(dst, text, kind == TimestampTZ)
	case Hstore:
		if out, ok := appendHstore(dst, text); ok {
			return out
		}
	}
	return AppendString(dst, text)
}

// AppendNumber appends a number, or a string when it is one that JSON does not
// have.
func (p Printer) AppendNumber(dst, text []byte) []byte {
	if !p.NumbersAsString {
		if out, ok := AppendNumber(dst, text); ok {
			return out
		}
		return AppendString(dst, text)
	}
	out, ok := AppendNumber(append(dst, '"'), text)
	if !ok {
		return AppendString(dst, text)
	}
	return append(out, '"')
}

// maxNesting bounds composites and arrays within each other, against a
// resolver whose types contain themselves.
const maxNesting = 64

func (p Printer) append(dst []byte, typ uint32, text []byte, types relay.TypeResolver, depth int) []byte {
	s := shapeOf(typ, types)
	if depth > maxNesting {
		return AppendString(dst, text)
	}
	var out []byte
	var ok bool
	switch s.kind {
	case Array:
		out, ok = p.appendArray(dst, s, text, types, depth)
	case Vector:
		out, ok = p.appendVector(dst, s, text)
	case Composite:
		out, ok = p.appendComposite(dst, s, text, types, depth)
	default:
		return p.AppendKind(dst, s.kind, text)
	}
	if !ok {
		return AppendString(dst, text)
	}
	return out
}

// appendTimestamp turns the ISO style into the XSD style that JSON gets: a T
// between date and time, and minutes in the offset.
func appendTimestamp(dst, text []byte, zoned bool) []byte {
	sp := bytes.IndexByte(text, ' ')
	if sp < 8 || sp+1 >= len(text) || text[sp+1] < '0' || text[sp+1] > '9' {
		return AppendString(dst, text) // infinity
	}
	for _, c := range text {
		if !jsonSafe[c] {
			return AppendString(dst, text)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text[:sp]...)
	dst = append(dst, 'T')
	clock := text[sp+1:]
	if era := bytes.IndexByte(clock, ' '); zoned {
		end := len(clock)
		if era >= 0 {
			end = era
		}
		dst = append(dst, clock[:end]...)
		if sign := bytes.LastIndexAny(clock[:end], "+-"); sign >= 0 && end-sign == 3 {
			dst = append(dst, ":00"...)
		}
		clock = clock[end:]
	}
	dst = append(dst, clock...)
	return append(dst, '"')
}
