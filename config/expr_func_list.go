package config

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/rowhook/rowhook/relay/pgvalue"
)

var listFunctions = []*exprFunc{
	{name: "sort", params: one("list", isList), result: isList, typ: sameList, doc: "The strings or numbers of the list in rising order: strings by their bytes, numbers by value.", run: runSort},
	{name: "distinct", params: one("list", isList), result: isList, typ: sameList, doc: "The strings, numbers, bools and nulls of the list, each once, where it comes first.", run: runDistinct},
	{name: "reverse", params: one("list", isList), result: isList, typ: sameList, doc: "The elements in the other order.", run: func(f *frame, _ *callNode, a []value) value {
		items := elements(a[0].text)
		slices.Reverse(items)
		return f.list(items)
	}},
	{name: "slice", params: []param{{"list", isList}, {"from", isNumber}, {"to", isNumber}}, optional: 1, result: isList, typ: sameList, doc: "The elements from an index on, up to and without another; what is beyond the end is not there.", run: runSlice},
	{name: "flatten", params: one("list", isList), result: isList, doc: "The elements of the list, with those of lists in it in their place, however deep.", run: func(f *frame, _ *callNode, a []value) value {
		return f.list(flatten(nil, a[0].text))
	}},
	{name: "sum", params: one("list", isList), result: isNumber, doc: "The sum of the numbers, exactly; 0 when there is none.", run: runSum},
	{name: "alltrue", params: one("list", isList), result: isBool, doc: "Whether every element is true, as they are of an empty list.", run: func(f *frame, c *callNode, a []value) value { return f.anyBool(c, a[0], false) }},
	{name: "anytrue", params: one("list", isList), result: isBool, doc: "Whether an element is true.", run: func(f *frame, c *callNode, a []value) value { return f.anyBool(c, a[0], true) }},
	{name: "pick", params: []param{{"object", isObject}, {"name", isString}}, rest: isString, lazy: true, result: isObject, typ: typeOfPick, doc: "The object with these attributes only, as far as it has them."},
	{name: "omit", params: []param{{"object", isObject}, {"name", isString}}, rest: isString, lazy: true, result: isObject, typ: typeOfOmit, doc: "The object without these attributes. Of a row each must be a column, so that a misspelt name does not let through what is to be kept back."},
}

// elements returns the texts of a list's elements.
func elements(list []byte) [][]byte {
	var items [][]byte
	for r := readJSON(list); r.next(); {
		items = append(items, r.val)
	}
	return items
}

// list makes a list of texts.
func (f *frame) list(items [][]byte) value {
	buf := append(f.take(), '[')
	buf = append(buf, bytes.Join(items, []byte{','})...)
	return f.madeJSON(append(buf, ']'))
}

func flatten(items [][]byte, list []byte) [][]byte {
	for r := readJSON(list); r.next(); {
		if r.val[0] == '[' {
			items = flatten(items, r.val)
		} else {
			items = append(items, r.val)
		}
	}
	return items
}

func runSort(f *frame, c *callNode, a []value) value {
	items := elements(a[0].text)
	values := make([]value, len(items))
	for i, tok := range items {
		values[i] = f.fromToken(tok)
		if k := values[i].kinds(); k&(isNumber|isString) == 0 || k != values[0].kinds() {
			return f.fail(c.rng, "sort() needs a list of strings alone or of numbers alone, and there is "+k.String()+" in it")
		}
	}
	slices.SortStableFunc(values, func(x, y value) int {
		if x.kind == kindNumber {
			return compareNumber(x, y)
		}
		return bytes.Compare(x.text, y.text)
	})
	for i, v := range values {
		items[i] = f.appendValue(nil, v, pgvalue.Printer{})
	}
	return f.list(items)
}

func runDistinct(f *frame, c *callNode, a []value) value {
	seen := map[string]bool{}
	var items [][]byte
	for _, tok := range elements(a[0].text) {
		v := f.fromToken(tok)
		if v.kind == kindJSON {
			return f.fail(c.rng, "distinct() needs a list of strings, numbers, bools and nulls, and there is "+v.kinds().String()+" in it")
		}
		key := strconv.Itoa(int(v.kind)) + string(plainNumber(v))
		if !seen[key] {
			seen[key] = true
			items = append(items, tok)
		}
	}
	return f.list(items)
}

// plainNumber is the text of a value, of equal numbers the same one.
func plainNumber(v value) []byte {
	text := v.appendText(nil)
	if v.kind == kindNumber && bytes.IndexByte(text, '.') >= 0 {
		text = bytes.TrimRight(bytes.TrimRight(text, "0"), ".")
	}
	if v.kind == kindNumber && string(text) == "-0" {
		return text[1:]
	}
	return text
}

func runSlice(f *frame, c *callNode, a []value) value {
	items := elements(a[0].text)
	from, ok := a[1].int()
	to, ok2 := int64(len(items)), true
	if len(a) > 2 {
		to, ok2 = a[2].int()
	}
	if !ok || !ok2 || from < 0 || to < from && len(a) > 2 {
		return f.fail(c.rng, "slice() needs whole numbers, from at least 0 and to not below from")
	}
	to = min(to, int64(len(items)))
	return f.list(items[min(from, to):to])
}

func runSum(f *frame, c *callNode, a []value) value {
	sum := intValue(0)
	for _, tok := range elements(a[0].text) {
		v := f.fromToken(tok)
		if v.kind != kindNumber {
			return f.fail(c.rng, "sum() needs a list of numbers, and there is "+v.kinds().String()+" in it")
		}
		if sum = arithmetic(opAdd, sum, v); sum.kind == kindFailed {
			return f.fail(c.rng, "sum() cannot compute with NaN, an infinity or a number of that size")
		}
	}
	return sum
}

// anyBool reports whether the list has an element that is as wanted; alltrue is
// that none is false.
func (f *frame) anyBool(c *callNode, list value, want bool) value {
	found := false
	for _, tok := range elements(list.text) {
		v := f.fromToken(tok)
		if v.kind != kindBool {
			return f.fail(c.rng, c.fn.name+"() needs a list of bools, and there is "+v.kinds().String()+" in it")
		}
		found = found || (v.n != 0) == want
	}
	return boolValue(found == want)
}

// emitChosen prints the argument of pick or omit without what is not chosen. As
// with merge nothing is decided on: an unknown column of a row stays left out.
func (b *binder) emitChosen(n callNode) emitFn {
	object := b.emit(n.args[0])
	names := make([]evalFn, len(n.args)-1)
	for i, a := range n.args[1:] {
		names[i] = b.eval(a)
	}
	row, ofRow := n.args[0].(rowNode)
	if ofRow {
		for _, a := range n.args[1:] {
			if lit, ok := a.(litNode); ok {
				b.column(columnNode{lit.at, row.side, string(lit.v.text)})
			}
		}
	}
	picks := n.fn.name == "pick"
	return func(f *frame, dst []byte) []byte {
		chosen := map[string]bool{}
		for i, name := range names {
			v := name(f)
			if v.kind != kindString {
				f.wrong(n.fn.name+"()", n.args[i+1], n.rng, v, isString)
				return dst
			}
			chosen[string(v.text)] = true
		}
		mark, strict := len(f.unchanged), f.strict
		if ofRow {
			f.strict = 0 // what is not chosen is not decided on
		}
		buf := object(f, f.take())
		f.strict = strict
		defer func() { f.give(buf) }()
		switch {
		case f.err != nil:
			return dst
		case f.omit:
			f.omit = false
			f.fail(n.rng, n.fn.name+"() is given "+describe(n.args[0])+", which is not known in this change")
			f.err.unknown = true
			return dst
		case buf[0] != '{':
			f.wrong(n.fn.name+"()", n.args[0], n.rng, f.fromJSON(buf), isObject)
			return dst
		}
		dst = append(dst, '{')
		start := len(dst)
		for r := readJSON(buf); r.next(); {
			if chosen[string(pgvalue.AppendUnquoted(nil, r.key))] != picks || r.again() {
				continue
			}
			if len(dst) > start {
				dst = append(dst, ',')
			}
			dst = append(append(append(dst, r.key...), ':'), r.val...)
		}
		kept := f.unchanged[:mark]
		for _, name := range f.unchanged[mark:] {
			if ofRow && chosen[name] != picks {
				continue
			}
			if kept = append(kept, name); strict > 0 {
				f.known(value{kind: kindUnknown, n: int64(f.prog.rel.Column(name))})
			}
		}
		f.unchanged = kept
		return append(dst, '}')
	}
}
