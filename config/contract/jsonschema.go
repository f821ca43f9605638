package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// schema is an object of a JSON Schema. Its members are printed in the order
// of their names, and so the text is the same every time.
type schema = map[string]any

const dialect = "https://json-schema.org/draft/2020-12/schema"

// schemaFormat is the version of the form that WriteJSONSchema prints.
const schemaFormat = 1

// JSONSchema returns a JSON Schema (2020-12) of the bodies of all events: each
// event is a definition named TYPE@VERSION, and the schema is one of them. It
// is also the form that [ReadJSONSchema] reads back.
func JSONSchema(events []Event) []byte {
	defs, all := schema{}, []any{}
	for i := range events {
		e := &events[i]
		s := schemaOf(e.Envelope())
		s["title"] = e.Name()
		if e.Description != "" {
			s["description"] = e.Description
		}
		defs[e.Name()] = s
		all = append(all, schema{"$ref": "#/$defs/" + e.Name()})
	}
	doc := schema{"$schema": dialect, "$comment": comment(), "x-rowhook-format": schemaFormat, "title": "Events", "$defs": defs, "oneOf": all}
	if len(all) == 0 {
		delete(doc, "oneOf") // must not be empty
		doc["not"] = schema{}
	}
	return indent(doc)
}

func comment() string {
	return "Made by rowhook types. Receivers ignore attributes they do not know."
}

func indent(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic("contract: a document of plain values: " + err.Error())
	}
	return b.Bytes()
}

// schemaOf returns the JSON Schema of a type.
func schemaOf(t Type) schema {
	if t.Kinds == AnyKinds {
		return schema{}
	}
	if t.Dynamic() {
		return schema{"type": []any{"boolean", "number", "string", "array", "object"}}
	}
	var forms []schema
	for _, k := range []Kinds{Bool, Number, String, List, Object} {
		if t.Kinds&k != 0 {
			forms = append(forms, schemaOfKind(t, k)...)
		}
	}
	if t.Kinds&Null != 0 {
		if len(forms) == 1 && nullable(forms[0]) {
			return forms[0]
		}
		forms = append(forms, schema{"type": "null"})
	}
	if len(forms) == 1 {
		return forms[0]
	}
	any := make([]any, len(forms))
	for i, f := range forms {
		any[i] = f
	}
	return schema{"anyOf": any}
}

// nullable adds null to a schema, where that is as plain as a list of types.
func nullable(s schema) bool {
	if s["anyOf"] != nil || s["const"] != nil || s["enum"] != nil || s["type"] == nil {
		return false
	}
	s["type"] = []any{s["type"], "null"}
	return true
}

func schemaOfKind(t Type, k Kinds) []schema {
	switch k {
	case Bool:
		return []schema{{"type": "boolean"}}
	case Number:
		return schemaOfNumber(t)
	case String:
		s := schema{"type": "string"}
		switch {
		case len(t.Values) == 1:
			return []schema{{"const": t.Values[0]}}
		case t.Values != nil:
			s["enum"] = anys(t.Values)
		}
		for name, v := range forms[t.Format].schema {
			s[name] = v
		}
		return []schema{s}
	case List:
		s := schema{"type": "array"}
		if t.Elem != nil {
			s["items"] = schemaOf(*t.Elem)
		}
		return []schema{s}
	}
	s := schema{"type": "object"}
	if len(t.Fields) > 0 {
		properties, required := schema{}, []any{}
		for _, f := range t.Fields {
			p := schemaOf(f.Type)
			if f.Doc != "" {
				p["description"] = f.Doc
			}
			properties[f.Name] = p
			if !f.Optional {
				required = append(required, f.Name)
			}
		}
		s["properties"] = properties
		if len(required) > 0 {
			s["required"] = required
		}
	}
	if t.Rest != nil {
		s["additionalProperties"] = schemaOf(*t.Rest)
	}
	return []schema{s}
}

func schemaOfNumber(t Type) []schema {
	s := schema{"type": "number"}
	if t.Integer {
		s["type"] = "integer"
	}
	switch {
	case t.Min != nil && t.Max != nil && t.Min.Cmp(t.Max) == 0:
		s = schema{"const": json.Number(decimal(t.Min))}
	case t.Min != nil || t.Max != nil:
		for name, bound := range map[string]*big.Rat{"minimum": t.Min, "maximum": t.Max} {
			if bound != nil {
				s[name] = json.Number(decimal(bound))
			}
		}
	}
	var special []any
	if t.NaN {
		special = append(special, "NaN")
	}
	if t.Infinite {
		special = append(special, "Infinity", "-Infinity")
	}
	if special == nil {
		return []schema{s}
	}
	return []schema{s, {"type": "string", "enum": special}}
}

func decimal(r *big.Rat) string {
	if r.IsInt() {
		return r.Num().String()
	}
	return strings.TrimRight(r.FloatString(64), "0")
}

func anys(s []string) []any {
	out := make([]any, len(s))
	for i := range s {
		out[i] = s[i]
	}
	return out
}

// ReadJSONSchema reads what [JSONSchema] printed: the type of each event's
// body by the event's name.
func ReadJSONSchema(text []byte) (map[string]Type, error) {
	var doc struct {
		Format int               `json:"x-rowhook-format"`
		Defs   map[string]schema `json:"$defs"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("this is no JSON Schema: %w", err)
	}
	switch {
	case doc.Format == 0:
		return nil, fmt.Errorf("this is no JSON Schema of rowhook types: x-rowhook-format is missing")
	case doc.Format > schemaFormat:
		return nil, fmt.Errorf("this JSON Schema was made by a newer rowhook: x-rowhook-format is %d, and this one reads %d", doc.Format, schemaFormat)
	}
	events := map[string]Type{}
	for name, s := range doc.Defs {
		t, err := readSchema(s)
		if err != nil {
			return nil, fmt.Errorf("event %s: %w", name, err)
		}
		events[name] = t
	}
	return events, nil
}

func readSchema(s schema) (Type, error) {
	// A format may have an anyOf of its own, and then has a type beside it.
	if list, ok := s["anyOf"].([]any); ok && s["type"] == nil {
		var t Type
		for _, one := range list {
			m, ok := one.(schema)
			if !ok {
				return t, fmt.Errorf("anyOf has something that is no object")
			}
			u, err := readSchema(m)
			if err != nil {
				return t, err
			}
			t = unionSchemas(t, u)
		}
		return t, nil
	}
	if c, ok := s["const"]; ok {
		switch c := c.(type) {
		case string:
			return OneOf(c), nil
		case json.Number:
			n, err := readNumber(c)
			if err != nil {
				return Type{}, err
			}
			return Type{Kinds: Number, Integer: n.IsInt(), Min: n, Max: n}, nil
		}
		return Type{}, fmt.Errorf("const is neither a string nor a number")
	}
	var types []any
	switch v := s["type"].(type) {
	case nil:
		return Any(), nil
	case string:
		types = []any{v}
	case []any:
		types = v
	}
	var t Type
	for _, name := range types {
		u, err := readKind(s, name)
		if err != nil {
			return t, err
		}
		t = Union(t, u)
	}
	if t.Dynamic() {
		return Any().NotNull(), nil
	}
	return t, nil
}

// readNumber reads a bound as it is printed: without an exponent, which might
// stand for more digits than there is memory.
func readNumber(n json.Number) (*big.Rat, error) {
	if len(n) < 100 && !strings.ContainsAny(n.String(), "eE") {
		if r, ok := new(big.Rat).SetString(n.String()); ok {
			return r, nil
		}
	}
	return nil, fmt.Errorf("%.20s is no number of rowhook types", n)
}

// unionSchemas is Union for the alternatives of one type: the names of special
// numbers beside numbers are no strings of their own.
func unionSchemas(t, u Type) Type {
	if t.Kinds&Number != 0 && u.Kinds == String && len(u.Values) > 0 && !slices.ContainsFunc(u.Values, func(v string) bool { return v != "NaN" && v != "Infinity" && v != "-Infinity" }) {
		t.NaN = t.NaN || slices.Contains(u.Values, "NaN")
		t.Infinite = t.Infinite || slices.Contains(u.Values, "Infinity")
		return t
	}
	return Union(t, u)
}

func readKind(s schema, name any) (Type, error) {
	switch name {
	case "null":
		return Of(Null), nil
	case "boolean":
		return Of(Bool), nil
	case "number", "integer":
		t := Type{Kinds: Number, Integer: name == "integer"}
		for member, into := range map[string]**big.Rat{"minimum": &t.Min, "maximum": &t.Max} {
			if n, ok := s[member].(json.Number); ok {
				var err error
				if *into, err = readNumber(n); err != nil {
					return t, err
				}
			}
		}
		return t, nil
	case "string":
		t := Type{Kinds: String, Format: formatOf(s)}
		if enum, ok := s["enum"].([]any); ok {
			for _, v := range enum {
				if v, ok := v.(string); ok {
					t.Values = append(t.Values, v)
				}
			}
		}
		return t, nil
	case "array":
		t := Type{Kinds: List}
		if items, ok := s["items"].(schema); ok {
			e, err := readSchema(items)
			if err != nil {
				return t, err
			}
			t.Elem = &e
		}
		return t, nil
	case "object":
		return readObject(s)
	}
	return Type{}, fmt.Errorf("type %v is not known", name)
}

func readObject(s schema) (Type, error) {
	t := Type{Kinds: Object}
	properties, _ := s["properties"].(schema)
	required, _ := s["required"].([]any)
	for name, v := range properties {
		p, ok := v.(schema)
		if !ok {
			return t, fmt.Errorf("the property %s is no object", name)
		}
		u, err := readSchema(p)
		if err != nil {
			return t, fmt.Errorf("%s: %w", name, err)
		}
		t.Fields = append(t.Fields, Field{Name: name, Type: u, Optional: !slices.Contains(required, any(name))})
	}
	slices.SortFunc(t.Fields, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	if rest, ok := s["additionalProperties"].(schema); ok {
		r, err := readSchema(rest)
		if err != nil {
			return t, err
		}
		t.Rest = &r
	}
	return t, nil
}

// formatOf finds the format that has the members of a schema.
func formatOf(s schema) Format {
	for f, known := range forms {
		same := true
		for _, member := range []string{"format", "pattern", "anyOf"} {
			a, _ := json.Marshal(s[member])
			b, _ := json.Marshal(known.schema[member])
			same = same && bytes.Equal(a, b)
		}
		if same {
			return f
		}
	}
	return ""
}

// Signature returns a text that is the same for the same types, whatever is
// said of their attributes.
func Signature(t Type) string { return string(indent(schemaOf(t.undocumented()))) }

func (t Type) undocumented() Type {
	t.Fields = slices.Clone(t.Fields)
	for i := range t.Fields {
		t.Fields[i].Type, t.Fields[i].Doc = t.Fields[i].Type.undocumented(), ""
	}
	for _, of := range []**Type{&t.Elem, &t.Rest} {
		if *of != nil {
			u := (*of).undocumented()
			*of = &u
		}
	}
	return t
}
