package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/rowhook/rowhook/relay/pgvalue"
)

// Data of tests is a constant, also the data of events. The text of a number
// that came from JSON is kept, so that 12.50 is written as it is.

// numberText returns the decimal digits of a number.
func numberText(v constant) string {
	if v.text != "" {
		return v.text
	}
	return v.number.Text('f', -1)
}

// parseJSON reads JSON. Objects keep the order of their attributes.
func parseJSON(data []byte) (constant, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := decodeJSON(d)
	if err != nil {
		return v, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return v, errors.New("more than one JSON value")
	}
	return v, nil
}

func decodeJSON(d *json.Decoder) (constant, error) {
	token, err := d.Token()
	if err != nil {
		return constant{}, err
	}
	switch t := token.(type) {
	case bool:
		return constant{kind: boolConst, bool: t}, nil
	case string:
		return constant{kind: textConst, text: t}, nil
	case json.Number:
		f, _, err := big.ParseFloat(t.String(), 10, 512, big.ToNearestEven)
		return constant{kind: numberConst, number: f, text: t.String()}, err
	case json.Delim:
		v := constant{kind: listConst}
		if t == '{' {
			v.kind = objectConst
		}
		for d.More() {
			if v.kind == objectConst {
				key, err := decodeJSON(d)
				if err != nil {
					return v, err
				}
				v.keys = append(v.keys, key)
			}
			item, err := decodeJSON(d)
			if err != nil {
				return v, err
			}
			v.items = append(v.items, item)
		}
		_, err := d.Token() // the closing bracket
		return v, err
	}
	return constant{}, nil
}

// attribute returns the named attribute of an object.
func (v constant) attribute(name string) (constant, bool) {
	i := slices.IndexFunc(v.keys, func(k constant) bool { return k.text == name })
	if v.kind != objectConst || i < 0 {
		return constant{}, false
	}
	return v.items[i], true
}

// sameValue reports whether two values are the same: numbers by value, objects
// whatever the order. With partly set, got may have attributes more.
func sameValue(want, got constant, partly bool) bool {
	if want.kind != got.kind {
		return false
	}
	switch want.kind {
	case boolConst:
		return want.bool == got.bool
	case numberConst:
		return pgvalue.CompareNumbers([]byte(numberText(want)), []byte(numberText(got))) == 0
	case textConst:
		return want.text == got.text
	case listConst:
		return slices.EqualFunc(want.items, got.items, func(a, b constant) bool { return sameValue(a, b, false) })
	case objectConst:
		if !partly && len(want.items) != len(got.items) {
			return false
		}
		for i, key := range want.keys {
			item, ok := got.attribute(key.text)
			if !ok || !sameValue(want.items[i], item, partly) {
				return false
			}
		}
	}
	return true
}

// prune leaves of an object only what want names, also inside.
func prune(want, got constant) constant {
	if want.kind != objectConst || got.kind != objectConst {
		return got
	}
	out := constant{kind: objectConst}
	for i, key := range got.keys {
		if w, ok := want.attribute(key.text); ok {
			out.keys, out.items = append(out.keys, key), append(out.items, prune(w, got.items[i]))
		}
	}
	return out
}

// like writes want as got is written, where the two are the same: in its order
// and with its digits, so that a comparison of their texts shows what differs.
func like(want, got constant) constant {
	if sameValue(want, got, false) {
		return got
	}
	if want.kind != objectConst || got.kind != objectConst {
		return want
	}
	out := constant{kind: objectConst}
	add := func(key, item constant) { out.keys, out.items = append(out.keys, key), append(out.items, item) }
	for i, key := range got.keys {
		if w, ok := want.attribute(key.text); ok {
			add(key, like(w, got.items[i]))
		}
	}
	for i, key := range want.keys {
		if _, ok := got.attribute(key.text); !ok {
			add(key, want.items[i])
		}
	}
	return out
}

// hclText writes a value as HCL, objects over several lines.
func hclText(v constant, indent string) string {
	switch v.kind {
	case boolConst:
		return v.show()
	case numberConst:
		return numberText(v)
	case textConst:
		return quoteHCL(v.text)
	case listConst:
		return hclList(v, indent)
	case objectConst:
		if len(v.items) == 0 {
			return "{}"
		}
		var b strings.Builder
		b.WriteString("{\n")
		for i, key := range v.keys {
			b.WriteString(indent + "  " + hclKey(key.text) + " = " + hclText(v.items[i], indent+"  ") + "\n")
		}
		return b.String() + indent + "}"
	}
	return "null"
}

func hclList(v constant, indent string) string {
	wide := slices.ContainsFunc(v.items, func(i constant) bool { return len(i.items) > 0 })
	var parts []string
	for _, item := range v.items {
		if wide {
			parts = append(parts, indent+"  "+hclText(item, indent+"  ")+",\n")
		} else {
			parts = append(parts, hclText(item, indent))
		}
	}
	if wide {
		return "[\n" + strings.Join(parts, "") + indent + "]"
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// quoteHCL writes a string so that HCL reads it again (in Unicode's composed
// form, as it reads every string).
func quoteHCL(s string) string {
	return string(hclwrite.TokensForValue(cty.StringVal(s)).Bytes())
}

// hclKey writes the name of an attribute.
func hclKey(name string) string {
	if hclsyntax.ValidIdentifier(name) && !slices.Contains([]string{"true", "false", "null", "for"}, name) {
		return name
	}
	return quoteHCL(name)
}

// appendJSON appends a value as compact JSON, objects in the order in which
// they were written.
func appendJSON(dst []byte, v constant) []byte {
	switch v.kind {
	case boolConst:
		return append(dst, v.show()...)
	case numberConst:
		return append(dst, numberText(v)...)
	case textConst:
		return pgvalue.AppendString(dst, v.text)
	case listConst, objectConst:
		open, closing := byte('['), byte(']')
		if v.kind == objectConst {
			open, closing = '{', '}'
		}
		dst = append(dst, open)
		for i, item := range v.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			if v.kind == objectConst {
				dst = append(pgvalue.AppendString(dst, v.keys[i].text), ':')
			}
			dst = appendJSON(dst, item)
		}
		return append(dst, closing)
	}
	return append(dst, "null"...)
}
