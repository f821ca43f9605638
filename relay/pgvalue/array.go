package pgvalue

import (
	"bytes"

	"github.com/rowhook/rowhook/relay"
)

// appendArray prints an array in PostgreSQL's text form: [lower:upper]= when a
// lower bound is not one, then braces, quotes where needed, backslashes within
// quotes, and NULL without quotes for null. As in to_jsonb, the bounds are
// dropped and dimensions nest.
func (p Printer) appendArray(dst []byte, s shape, text []byte, types relay.TypeResolver, depth int) ([]byte, bool) {
	if len(text) > 0 && text[0] == '[' {
		eq := bytes.IndexByte(text, '=')
		if eq < 0 {
			return dst, false
		}
		text = text[eq+1:]
	}
	a := arrayReader{p: p, s: s, text: text, types: types, depth: depth}
	out, ok := a.level(dst, 0)
	return out, ok && a.i == len(text)
}

type arrayReader struct {
	p       Printer
	s       shape
	text    []byte
	i       int
	types   relay.TypeResolver
	depth   int
	scratch []byte
}

// maxDimensions is PostgreSQL's MAXDIM.
const maxDimensions = 6

func (a *arrayReader) level(dst []byte, dim int) ([]byte, bool) {
	if dim >= maxDimensions || a.peek() != '{' {
		return dst, false
	}
	a.i++
	dst = append(dst, '[')
	if a.peek() == '}' {
		a.i++
		return append(dst, ']'), true
	}
	for {
		var ok bool
		if a.peek() == '{' {
			dst, ok = a.level(dst, dim+1)
		} else {
			dst, ok = a.element(dst)
		}
		if !ok {
			return dst, false
		}
		switch c := a.peek(); {
		case c == '}':
			a.i++
			return append(dst, ']'), true
		case c != 0 && c == a.s.delim:
			a.i++
			dst = append(dst, ',', ' ')
		default:
			return dst, false
		}
	}
}

func (a *arrayReader) peek() byte {
	if a.i < len(a.text) {
		return a.text[a.i]
	}
	return 0
}

func (a *arrayReader) element(dst []byte) ([]byte, bool) {
	if a.peek() != '"' {
		start := a.i
		for a.i < len(a.text) && a.text[a.i] != a.s.delim && a.text[a.i] != '}' {
			if c := a.text[a.i]; c == '"' || c == '{' || c == '\\' {
				return dst, false
			}
			a.i++
		}
		item := a.text[start:a.i]
		if len(item) == 0 {
			return dst, false
		}
		if string(item) == "NULL" {
			return append(dst, "null"...), true
		}
		return a.p.append(dst, a.s.elem, item, a.types, a.depth+1), true
	}
	a.i++
	a.scratch = a.scratch[:0]
	for a.i < len(a.text) {
		c := a.text[a.i]
		a.i++
		switch c {
		case '"':
			return a.p.append(dst, a.s.elem, a.scratch, a.types, a.depth+1), true
		case '\\':
			if a.i >= len(a.text) {
				return dst, false
			}
			c = a.text[a.i]
			a.i++
		}
		a.scratch = append(a.scratch, c)
	}
	return dst, false
}

// appendVector prints int2vector and oidvector, whose text is numbers with
// spaces between them.
func (p Printer) appendVector(dst []byte, s shape, text []byte) ([]byte, bool) {
	dst = append(dst, '[')
	for i := 0; len(text) > 0; i++ {
		item := text
		if sp := bytes.IndexByte(text, ' '); sp >= 0 {
			item, text = text[:sp], text[sp+1:]
		} else {
			text = nil
		}
		if i > 0 {
			dst = append(dst, ',', ' ')
		}
		dst = p.append(dst, s.elem, item, nil, 1)
	}
	return append(dst, ']'), true
}
