package contract

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// TypeScript returns a module with an interface of each event's body, and the
// union RowhookEvent of all, which type and version tell apart.
func TypeScript(events []Event) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "// %s\n", madeBy)
	taken := names{"RowhookEvent": true}
	var all []string
	for i := range events {
		e := &events[i]
		name := taken.typeName(e)
		all = append(all, name)
		b.WriteString("\n")
		writeJSDoc(&b, "", e.Description)
		fmt.Fprintf(&b, "export interface %s %s\n", name, tsObject(e.Envelope(), ""))
	}
	if all == nil {
		all = []string{"never"}
	}
	fmt.Fprintf(&b, "\n/** Any of the events. */\nexport type RowhookEvent = %s;\n", strings.Join(all, " | "))
	return []byte(b.String())
}

func writeJSDoc(b *strings.Builder, indent, doc string) {
	if doc != "" {
		fmt.Fprintf(b, "%s/** %s */\n", indent, strings.NewReplacer("*/", "* /", "\n", " ").Replace(doc))
	}
}

var tsIdentifier = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$]*$`)

func tsObject(t Type, indent string) string {
	var b strings.Builder
	b.WriteString("{\n")
	inner := indent + "  "
	for _, f := range t.Fields {
		doc := docOf(f)
		if f.Type.Kinds&Number != 0 && !f.Type.Dynamic() && (!f.Type.Integer || f.Type.Max == nil || f.Type.Max.Cmp(int32Type.Max) > 0) {
			doc = strings.TrimSpace(doc + ` It may have more digits than a number of JavaScript; with numbers = "string" the rule sends all of them.`)
		}
		writeJSDoc(&b, inner, doc)
		name := f.Name
		if !tsIdentifier.MatchString(name) {
			name = quoteJSON(name)
		}
		if f.Optional {
			name += "?"
		}
		fmt.Fprintf(&b, "%s%s: %s;\n", inner, name, tsType(f.Type, inner))
	}
	if t.Rest != nil {
		rest := tsType(*t.Rest, inner)
		if len(t.Fields) > 0 {
			rest = "unknown" // the type of every attribute, also of those above
		}
		fmt.Fprintf(&b, "%s[name: string]: %s;\n", inner, rest)
	}
	b.WriteString(indent + "}")
	return b.String()
}

func quoteJSON(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic("contract: " + err.Error()) // a string is always printed
	}
	return string(text)
}

func tsType(t Type, indent string) string {
	if t.Kinds == AnyKinds {
		return "unknown"
	}
	var words []string
	if t.Kinds&Bool != 0 {
		words = append(words, "boolean")
	}
	if t.Kinds&Number != 0 {
		words = append(words, tsNumber(t)...)
	}
	if t.Kinds&String != 0 {
		if t.Values == nil {
			words = append(words, "string")
		}
		for _, v := range t.Values {
			words = append(words, quoteJSON(v))
		}
	}
	if t.Kinds&List != 0 {
		words = append(words, "Array<"+tsType(t.Element(), indent)+">")
	}
	if t.Kinds&Object != 0 {
		words = append(words, tsObject(t, indent))
	}
	if t.Kinds&Null != 0 {
		words = append(words, "null")
	}
	return strings.Join(words, " | ")
}

func tsNumber(t Type) []string {
	words := []string{"number"}
	if t.Min != nil && t.Max != nil && t.Min.Cmp(t.Max) == 0 {
		words[0] = decimal(t.Min)
	}
	if t.NaN {
		words = append(words, `"NaN"`)
	}
	if t.Infinite {
		words = append(words, `"Infinity"`, `"-Infinity"`)
	}
	return words
}
