package config

import (
	"bytes"
	"slices"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

var numberFunctions = []*exprFunc{
	{name: "abs", params: one("n", isNumber), result: isNumber, doc: "The number without its sign.", run: func(_ *frame, _ *callNode, a []value) value {
		if compareNumber(a[0], intValue(0)) < 0 {
			return negate(a[0])
		}
		return a[0]
	}},
	{name: "ceil", params: one("n", isNumber), result: isNumber, typ: typeOfInteger, doc: "The least whole number that is not below the number.", run: func(f *frame, c *callNode, a []value) value { return f.rounded(c, a[0], true) }},
	{name: "floor", params: one("n", isNumber), result: isNumber, typ: typeOfInteger, doc: "The greatest whole number that is not above the number.", run: func(f *frame, c *callNode, a []value) value { return f.rounded(c, a[0], false) }},
	{name: "max", params: one("n", isNumber), rest: isNumber, result: isNumber, typ: typeOfNumbers, doc: "The greatest of the numbers.", run: func(_ *frame, _ *callNode, a []value) value { return slices.MaxFunc(a, compareNumber) }},
	{name: "min", params: one("n", isNumber), rest: isNumber, result: isNumber, typ: typeOfNumbers, doc: "The least of the numbers.", run: func(_ *frame, _ *callNode, a []value) value { return slices.MinFunc(a, compareNumber) }},
	{name: "tonumber", params: one("value", isString|isNumber|isNull), result: isNumber | isNull, typ: sameNull(contract.Of(isNumber)), doc: "The number a string stands for.", run: func(f *frame, c *callNode, a []value) value {
		if a[0].kind != kindString {
			return a[0]
		}
		if !pgvalue.IsNumber(a[0].text) {
			return f.fail(c.rng, "the string given to tonumber() is not a number; guard it with try()")
		}
		return numberValue(a[0].text)
	}},
	{name: "tobool", params: one("value", isString|isBool|isNull), result: isBool | isNull, typ: sameNull(contract.Of(isBool)), doc: "The bool that \"true\" or \"false\" stands for.", run: func(f *frame, c *callNode, a []value) value {
		switch {
		case a[0].kind != kindString:
			return a[0]
		case string(a[0].text) == "true":
			return boolValue(true)
		case string(a[0].text) == "false":
			return boolValue(false)
		}
		return f.fail(c.rng, "the string given to tobool() is neither \"true\" nor \"false\"")
	}},
}

func (f *frame) rounded(c *callNode, v value, up bool) value {
	if v = round(v, up); v.kind == kindFailed {
		return f.fail(c.rng, "the number is too large to be rounded")
	}
	return v
}

var collectionFunctions = []*exprFunc{
	{name: "length", params: one("value", isString|isList|isObject), result: isNumber, typ: typeOfInteger, doc: "The number of elements, attributes or characters.", run: runLength},
	{name: "contains", params: []param{{"in", isList | isString}, {"value", isAny}}, result: isBool, doc: "Whether a list has the element, or a string the part.", run: runContains},
	{name: "coalesce", params: one("value", isAny), rest: isAny, result: isAny, typ: typeOfCoalesce, doc: "The first value that is not null; null when there is none.", run: func(_ *frame, _ *callNode, a []value) value {
		for _, v := range a {
			if v.kind != kindNull {
				return v
			}
		}
		return value{}
	}},
	{name: "concat", params: one("list", isList), rest: isList, result: isList, typ: typeOfConcat, doc: "One list of the elements of all.", run: func(f *frame, _ *callNode, a []value) value {
		buf := append(f.take(), '[')
		for _, list := range a {
			for r := readJSON(list.text); r.next(); {
				if len(buf) > 1 {
					buf = append(buf, ',')
				}
				buf = append(buf, r.val...)
			}
		}
		return f.madeJSON(append(buf, ']'))
	}},
	{name: "keys", params: one("object", isObject), result: isList, typ: listOfStrings, doc: "The names of the attributes, sorted.", run: func(f *frame, _ *callNode, a []value) value {
		return f.members(a[0].text, func(r jsonReader) []byte { return r.key })
	}},
	{name: "values", params: one("object", isObject), result: isList, typ: typeOfValues, doc: "The values of the attributes, sorted by their names.", run: func(f *frame, _ *callNode, a []value) value {
		return f.members(a[0].text, func(r jsonReader) []byte { return r.val })
	}},
	{name: "lookup", params: []param{{"object", isObject}, {"name", isString}, {"default", isAny}}, optional: 1, result: isAny, doc: "The attribute of that name; the default (null) when there is none.", run: func(f *frame, _ *callNode, a []value) value {
		if tok := member(a[0].text, string(a[1].text)); tok != nil {
			return f.fromToken(tok)
		}
		if len(a) > 2 {
			return a[2]
		}
		return value{}
	}},
	{name: "merge", params: one("object", isObject|isNull), rest: isObject | isNull, lazy: true, result: isObject, typ: typeOfMerge, doc: "One object of the attributes of all; of several with one name the last counts."},
	{name: "try", params: one("value", isAny), rest: isAny, lazy: true, result: isAny, typ: typeOfUnion, doc: "The first value that is made without an error. Deciding on an unknown column stays an error."},
	{name: "can", params: one("value", isAny), lazy: true, result: isBool, doc: "Whether the value is made without an error. Deciding on an unknown column stays an error."},
}

func runContains(f *frame, c *callNode, a []value) value {
	if a[0].kind == kindString {
		if a[1].kind != kindString {
			return f.fail(c.rng, "contains() looks for a string in a string, and the second argument is "+a[1].kinds().String())
		}
		return boolValue(bytes.Contains(a[0].text, a[1].text))
	}
	for r := readJSON(a[0].text); r.next(); {
		if v := f.fromToken(r.val); v.kind == a[1].kind && f.same(v, a[1]) {
			return boolValue(true)
		}
	}
	return boolValue(false)
}

// members makes a list of what pick takes of each member, in the order of the
// names.
func (f *frame) members(object []byte, pick func(jsonReader) []byte) value {
	var all []jsonReader
	for r := readJSON(object); r.next(); {
		if !r.again() {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b jsonReader) int {
		return bytes.Compare(pgvalue.AppendUnquoted(nil, a.key), pgvalue.AppendUnquoted(nil, b.key))
	})
	buf := append(f.take(), '[')
	for i, r := range all {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = append(buf, pick(r)...)
	}
	return f.madeJSON(append(buf, ']'))
}
