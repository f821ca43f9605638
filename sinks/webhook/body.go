package webhook

import (
	"strconv"
	"unicode/utf8"

	"github.com/rowhook/rowhook/relay"
)

// AppendBody appends the event in the standard form: one JSON object with the
// members
//
//	id, type, version, timestamp, source, key, tenant, sequence, table, op, unchanged, data
//
// in this order, which does not change. The timestamp is the commit time; the
// key is null when the event has none. The tenant, the table, the operation
// (of an event made of a row or of a truncate) and the unchanged columns stand
// there only when there are any. The data is the event's own bytes.
func AppendBody(dst []byte, e *relay.Event) []byte {
	dst = append(dst, `{"id":"`...)
	dst = e.ID.Append(dst)
	dst = append(dst, `","type":`...)
	dst = appendString(dst, e.Type)
	dst = append(dst, `,"version":`...)
	dst = strconv.AppendInt(dst, int64(e.Version), 10)
	dst = append(dst, `,"timestamp":"`...)
	dst = relay.AppendTime(dst, e.Time)
	dst = append(dst, `","source":`...)
	dst = appendString(dst, e.Source)
	dst = append(dst, `,"key":`...)
	if e.HasKey {
		dst = appendString(dst, e.Key)
	} else {
		dst = append(dst, "null"...)
	}
	if e.Tenant != nil {
		dst = append(dst, `,"tenant":`...)
		dst = appendString(dst, e.Tenant)
	}
	dst = append(dst, `,"sequence":"`...)
	dst = e.AppendSequence(dst)
	dst = append(dst, '"')
	if e.Table != "" {
		dst = append(dst, `,"table":`...)
		dst = appendString(dst, e.Table)
	}
	switch e.Op {
	case relay.Insert, relay.Update, relay.Delete, relay.Truncate, relay.Read:
		dst = append(dst, `,"op":"`...)
		dst = append(dst, e.Op.String()...)
		dst = append(dst, '"')
	}
	if len(e.Unchanged) > 0 {
		dst = append(dst, `,"unchanged":`...)
		for i, column := range e.Unchanged {
			dst = append(dst, "[,"[min(i, 1)])
			dst = appendString(dst, column)
		}
		dst = append(dst, ']')
	}
	dst = append(dst, `,"data":`...)
	if len(e.Data) == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, e.Data...)
	}
	return append(dst, '}')
}

// plain are the ASCII bytes that stand for themselves in a JSON string.
var plain = func() (t [utf8.RuneSelf]bool) {
	for b := ' '; b < utf8.RuneSelf; b++ {
		t[b] = b != '"' && b != '\\'
	}
	return t
}()

// appendString appends s as a JSON string, byte for byte as encoding/json does
// without HTML escaping: invalid UTF-8 becomes the replacement character, and
// the two line separators that JavaScript once choked on are escaped.
func appendString[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	done := 0
	for i := 0; i < len(s); {
		b := s[i]
		if b < utf8.RuneSelf {
			if plain[b] {
				i++
				continue
			}
			dst = append(dst, s[done:i]...)
			switch b {
			case '"', '\\':
				dst = append(dst, '\\', b)
			case '\b':
				dst = append(dst, `\b`...)
			case '\f':
				dst = append(dst, `\f`...)
			case '\n':
				dst = append(dst, `\n`...)
			case '\r':
				dst = append(dst, `\r`...)
			case '\t':
				dst = append(dst, `\t`...)
			default:
				dst = append(dst, `\u00`...)
				dst = append(dst, hex[b>>4], hex[b&15])
			}
			i++
			done = i
			continue
		}
		// A rune has at most four bytes; the conversion of so few does not allocate.
		r, size := utf8.DecodeRuneInString(string(s[i:min(len(s), i+utf8.UTFMax)]))
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(dst, s[done:i]...)
			dst = append(dst, `\ufffd`...)
			done = i + size
		case r == '\u2028' || r == '\u2029':
			dst = append(dst, s[done:i]...)
			dst = append(dst, `\u202`...)
			dst = append(dst, hex[r&15])
			done = i + size
		}
		i += size
	}
	dst = append(dst, s[done:]...)
	return append(dst, '"')
}
