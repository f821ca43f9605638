package config

import (
	"bytes"

	"github.com/rowhook/rowhook/relay/pgvalue"
)

// Objects and lists stay JSON text at run time. What an expression reads of
// them is found by skipping over the rest.

// fromJSON reads a JSON value. Strings without escapes are not copied, and what
// is in an object or list is not looked at: its readers stop at what is no
// JSON, and appendValue prints none.
func (f *frame) fromJSON(raw []byte) value {
	i := pgvalue.SkipSpace(raw, 0)
	if i < len(raw) && (raw[i] == '{' || raw[i] == '[') {
		return value{kind: kindJSON, text: bytes.TrimRight(raw[i:], " \t\r\n")}
	}
	end, ok := pgvalue.SkipJSON(raw, i)
	if !ok {
		return stringValue(raw)
	}
	return f.fromToken(raw[i:end])
}

// fromToken reads a JSON value that is one already, without space around it.
func (f *frame) fromToken(tok []byte) value {
	switch tok[0] {
	case '{', '[':
		return value{kind: kindJSON, text: tok}
	case '"':
		if bytes.IndexByte(tok, '\\') < 0 {
			return stringValue(tok[1 : len(tok)-1])
		}
		start := len(f.scratch)
		f.scratch = pgvalue.AppendUnquoted(f.scratch, tok)
		return stringValue(f.scratch[start:len(f.scratch):len(f.scratch)])
	case 't':
		return boolValue(true)
	case 'f':
		return boolValue(false)
	case 'n':
		return value{}
	}
	return value{kind: kindNumber, text: tok}
}

// jsonReader goes through the members of an object or the elements of a list.
type jsonReader struct {
	b   []byte
	i   int
	key []byte // with its quotes; nil in a list
	val []byte
}

func readJSON(container []byte) jsonReader { return jsonReader{b: container, i: 1} }

// next moves to the next member. It returns false at the end, and where the
// text is no JSON.
func (r *jsonReader) next() bool {
	i := pgvalue.SkipSpace(r.b, r.i)
	if i < len(r.b) && r.b[i] == ',' {
		i = pgvalue.SkipSpace(r.b, i+1)
	}
	if i >= len(r.b) || r.b[i] == '}' || r.b[i] == ']' {
		return false
	}
	r.key = nil
	if r.b[0] == '{' {
		end, ok := pgvalue.SkipJSON(r.b, i)
		if !ok || r.b[i] != '"' {
			return false
		}
		r.key = r.b[i:end]
		if i = pgvalue.SkipSpace(r.b, end); i >= len(r.b) || r.b[i] != ':' {
			return false
		}
		i = pgvalue.SkipSpace(r.b, i+1)
	}
	end, ok := pgvalue.SkipJSON(r.b, i)
	if !ok {
		return false
	}
	r.val, r.i = r.b[i:end], end
	return true
}

// is reports whether the member has the name.
func (r *jsonReader) is(name string) bool {
	if bytes.IndexByte(r.key, '\\') < 0 {
		return string(r.key[1:len(r.key)-1]) == name
	}
	return string(pgvalue.AppendUnquoted(nil, r.key)) == name
}

// member returns the value of a member, nil when there is none. Of several
// with the name the last one counts, as in jsonb.
func member(object []byte, name string) []byte {
	var found []byte
	for r := readJSON(object); r.next(); {
		if r.is(name) {
			found = r.val
		}
	}
	return found
}

// element returns an element of a list, nil when there is none.
func element(list []byte, index int) []byte {
	for r, n := readJSON(list), 0; r.next(); n++ {
		if n == index {
			return r.val
		}
	}
	return nil
}

func count(container []byte) int {
	n := 0
	for r := readJSON(container); r.next(); {
		n++
	}
	return n
}

// walk follows a path and returns the text it ends at, nil for null. As with
// -> in PostgreSQL, what is not there is null, and so is what is in null. A
// scalar on the way is an error, for it means that the author thinks of another
// document; ok is false and f.err is set then.
func (f *frame) walk(n pathNode, raw []byte) (tok []byte, ok bool) {
	for _, s := range n.steps {
		if raw == nil || raw[0] == 'n' {
			return nil, true
		}
		switch {
		case raw[0] == '{' && !s.isIndex:
			raw = member(raw, s.name)
		case raw[0] == '[' && s.isIndex:
			raw = element(raw, s.index)
		case raw[0] == '[':
			f.fail(n.rng, describe(n)+": a list has no attribute "+s.name+"; take an element, as in [0], or all with a for expression")
			return nil, false
		default:
			f.fail(n.rng, describe(n)+": there is "+f.fromToken(raw).kinds().String()+" on the way, which has no attributes; guard it with try()")
			return nil, false
		}
	}
	return raw, true
}

// equalJSON compares two JSON values by what they mean: members in any order,
// numbers by value.
func (f *frame) equalJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	switch {
	case a[0] != b[0] && (a[0] == '{' || a[0] == '[' || b[0] == '{' || b[0] == '['):
		return false
	case a[0] == '{':
		if count(a) != count(b) {
			return false
		}
		for r := readJSON(a); r.next(); {
			other := member(b, string(pgvalue.AppendUnquoted(nil, r.key)))
			if other == nil || !f.equalJSON(r.val, other) {
				return false
			}
		}
		return true
	case a[0] == '[':
		x, y := readJSON(a), readJSON(b)
		for x.next() {
			if !y.next() || !f.equalJSON(x.val, y.val) {
				return false
			}
		}
		return !y.next()
	}
	x, y := f.fromToken(a), f.fromToken(b)
	return x.kind == y.kind && f.same(x, y)
}

// hasMember reports whether one of the objects has the member r is at.
func hasMember(objects [][]byte, key []byte) bool {
	for _, o := range objects {
		for r := readJSON(o); r.next(); {
			if bytes.Equal(r.key, key) {
				return true
			}
			if bytes.IndexByte(r.key, '\\') >= 0 || bytes.IndexByte(key, '\\') >= 0 {
				if bytes.Equal(pgvalue.AppendUnquoted(nil, r.key), pgvalue.AppendUnquoted(nil, key)) {
					return true
				}
			}
		}
	}
	return false
}

// appendMerged appends one object of the members of all. Of several with one
// name the last one counts.
func appendMerged(dst []byte, objects [][]byte) []byte {
	dst = append(dst, '{')
	first := true
	for i, o := range objects {
		for r := readJSON(o); r.next(); {
			if hasMember(objects[i+1:], r.key) || r.again() {
				continue
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = append(dst, r.key...)
			dst = append(dst, ':')
			dst = append(dst, r.val...)
		}
	}
	return append(dst, '}')
}

// again reports whether the rest of the object has the member once more.
func (r *jsonReader) again() bool {
	for next := *r; next.next(); {
		if bytes.Equal(next.key, r.key) {
			return true
		}
	}
	return false
}
