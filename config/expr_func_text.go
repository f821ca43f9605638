package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"unicode/utf8"

	"github.com/rowhook/rowhook/relay/pgvalue"
)

// appendName appends "name": of an object.
func appendName(dst []byte, name string) []byte {
	return append(pgvalue.AppendString(dst, name), ':')
}

// madeJSON keeps an object or list that was made in a taken buffer, and gives
// the buffer back.
func (f *frame) madeJSON(buf []byte) value {
	v := value{kind: kindJSON, text: f.keep(buf)}
	f.give(buf)
	return v
}

func runLength(_ *frame, _ *callNode, a []value) value {
	if a[0].kind == kindJSON {
		return intValue(int64(count(a[0].text)))
	}
	return intValue(int64(utf8.RuneCount(a[0].text)))
}

func runSplit(f *frame, _ *callNode, a []value) value {
	buf := append(f.take(), '[')
	for i, part := range bytes.Split(a[1].text, a[0].text) {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = pgvalue.AppendString(buf, part)
	}
	return f.madeJSON(append(buf, ']'))
}

func runJoin(f *frame, c *callNode, a []value) value {
	buf := f.take()
	first := true
	for r := readJSON(a[1].text); r.next(); first = false {
		if !first {
			buf = append(buf, a[0].text...)
		}
		v := f.fromToken(r.val)
		if v.kinds()&isScalar == 0 {
			f.give(buf)
			return f.fail(c.rng, "join() needs a list of strings, numbers or bools, and there is "+v.kinds().String()+" in it")
		}
		buf = v.appendText(buf)
	}
	v := stringValue(f.keep(buf))
	f.give(buf)
	return v
}

func runSHA256(f *frame, _ *callNode, a []value) value {
	buf := a[0].appendText(f.take())
	sum := sha256.Sum256(buf)
	buf = hex.AppendEncode(buf[:0], sum[:])
	v := stringValue(f.keep(buf))
	f.give(buf)
	return v
}

func runMask(f *frame, c *callNode, a []value) value {
	keep := int64(0)
	if len(a) > 1 {
		var ok bool
		if keep, ok = a[1].int(); !ok || keep < 0 {
			return f.fail(c.rng, "mask() needs a whole number, not below zero, of characters to keep")
		}
	}
	plain := a[0].appendText(f.take())
	buf := f.take()
	left := int64(utf8.RuneCount(plain))
	for i := 0; i < len(plain); {
		_, size := utf8.DecodeRune(plain[i:])
		if left > keep {
			buf = append(buf, '*')
		} else {
			buf = append(buf, plain[i:i+size]...)
		}
		i += size
		left--
	}
	v := stringValue(f.keep(buf))
	f.give(plain)
	f.give(buf)
	return v
}

func runJSONEncode(f *frame, _ *callNode, a []value) value {
	buf := pgvalue.AppendCompact(f.take(), f.appendValue(nil, a[0], pgvalue.Printer{}))
	v := stringValue(f.keep(buf))
	f.give(buf)
	return v
}

func runJSONDecode(f *frame, c *callNode, a []value) value {
	if !pgvalue.ValidJSON(a[0].text) {
		return f.fail(c.rng, "the string given to jsondecode() is not JSON; guard it with try()")
	}
	return f.fromJSON(a[0].text)
}

func runToString(f *frame, _ *callNode, a []value) value {
	if a[0].kind == kindNull || a[0].kind == kindString {
		return a[0]
	}
	buf := a[0].appendText(f.take())
	v := stringValue(f.keep(buf))
	f.give(buf)
	return v
}
