package contract

import (
	"fmt"
	"strings"
	"unicode"
)

// names gives every thing of a generated program a name of its own.
type names map[string]bool

// pascal returns a name as TypeScript and Go write types: OrderPaid.
func pascal(s string) string {
	var b strings.Builder
	up := true
	for _, r := range s {
		if r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			up = true
			continue
		}
		if b.Len() == 0 && unicode.IsDigit(r) {
			b.WriteByte('X')
		}
		if up {
			r = unicode.ToUpper(r)
		}
		up = false
		b.WriteRune(r)
	}
	if b.Len() == 0 {
		return "X"
	}
	return b.String()
}

// take returns the name, with a number when it is taken already.
func (n names) take(name string) string {
	free := name
	for i := 2; n[free]; i++ {
		free = fmt.Sprintf("%s_%d", name, i)
	}
	n[free] = true
	return free
}

// typeName is the name of an event's type: OrderPaidV1.
func (n names) typeName(e *Event) string {
	return n.take(fmt.Sprintf("%sV%d", pascal(e.Type), e.Version))
}

const madeBy = "Made by rowhook types; do not edit. Receivers ignore attributes they do not know."

// docOf says what a field is, for a comment.
func docOf(f Field) string {
	doc := f.Doc
	if f.Type.Kinds&String != 0 && f.Type.Values == nil && doc == "" {
		doc = forms[f.Type.Format].doc
	}
	if len(f.Type.Unsent) > 0 {
		doc = strings.TrimSpace(doc + " Left out where it did not change and was not sent.")
	}
	return doc
}
