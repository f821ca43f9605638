package pgvalue

import (
	"cmp"
	"slices"

	"github.com/rowhook/rowhook/relay"
)

// appendComposite prints a row value as an object. The text form is
// parentheses, commas, quotes where needed, doubled quotes and backslashes
// within them, and nothing at all for null. The fields come in the order of
// jsonb: shorter names first, then by bytes.
func (p Printer) appendComposite(dst []byte, s shape, text []byte, types relay.TypeResolver, depth int) ([]byte, bool) {
	fields, ok := splitComposite(text, len(s.fields))
	if !ok {
		return dst, false
	}
	order := make([]int, len(fields))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := s.fields[a].Name, s.fields[b].Name
		return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y))
	})
	dst = append(dst, '{')
	for n, i := range order {
		if n > 0 {
			dst = append(dst, ',', ' ')
		}
		dst = AppendString(dst, s.fields[i].Name)
		dst = append(dst, ':', ' ')
		if fields[i] == nil {
			dst = append(dst, "null"...)
			continue
		}
		dst = p.append(dst, s.fields[i].TypeOID, fields[i], types, depth+1)
	}
	return append(dst, '}'), true
}

// splitComposite returns the texts of the n fields of a row value, nil for
// null.
func splitComposite(text []byte, n int) ([][]byte, bool) {
	if len(text) < 2 || text[0] != '(' || text[len(text)-1] != ')' {
		return nil, false
	}
	body := text[1 : len(text)-1]
	fields := make([][]byte, 0, n)
	if n == 0 {
		return fields, len(body) == 0
	}
	for i := 0; ; i++ {
		var field []byte
		quoted := false
		for ; i < len(body) && (quoted || body[i] != ','); i++ {
			switch c := body[i]; {
			case c == '\\':
				if i++; i >= len(body) {
					return nil, false
				}
				field = append(field, body[i])
			case c == '"' && quoted && i+1 < len(body) && body[i+1] == '"':
				i++
				field = append(field, '"')
			case c == '"':
				quoted = !quoted
				if field == nil {
					field = []byte{} // "" is the empty string, nothing is null
				}
			case !quoted && (c == '(' || c == ')'):
				return nil, false
			default:
				field = append(field, c)
			}
		}
		if quoted || len(fields) == n {
			return nil, false
		}
		fields = append(fields, field)
		if i >= len(body) {
			return fields, len(fields) == n
		}
	}
}

// appendHstore prints "k"=>"v", "n"=>NULL as an object of strings.
func appendHstore(dst, text []byte) ([]byte, bool) {
	i := 0
	quoted := func() ([]byte, bool) {
		if i >= len(text) || text[i] != '"' {
			return nil, false
		}
		var s []byte
		for i++; i < len(text); i++ {
			switch text[i] {
			case '"':
				i++
				return s, true
			case '\\':
				if i++; i >= len(text) {
					return nil, false
				}
			}
			s = append(s, text[i])
		}
		return nil, false
	}
	word := func(w string) bool {
		if len(text)-i < len(w) || string(text[i:i+len(w)]) != w {
			return false
		}
		i += len(w)
		return true
	}
	dst = append(dst, '{')
	for i < len(text) {
		if i > 0 {
			if !word(", ") {
				return dst, false
			}
			dst = append(dst, ',', ' ')
		}
		k, ok := quoted()
		if !ok || !word("=>") {
			return dst, false
		}
		dst = AppendString(dst, k)
		dst = append(dst, ':', ' ')
		if word("NULL") {
			dst = append(dst, "null"...)
			continue
		}
		v, ok := quoted()
		if !ok {
			return dst, false
		}
		dst = AppendString(dst, v)
	}
	return append(dst, '}'), true
}
