package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// exprFunc is a function of the rule language. There is none that reads a
// clock, draws a random number or looks outside the change, because a replay
// must agree with the first time.
type exprFunc struct {
	name     string
	params   []param
	optional int   // how many of the last params may be left out
	rest     kinds // what more arguments may be; 0 is none
	result   kinds
	// typ returns the type of the result for arguments of the given types; nil
	// where result says all.
	typ func(args []contract.Type) contract.Type
	doc string
	// pattern says that the first argument is a literal regular expression.
	pattern bool
	// validate judges the first argument, where it is a literal string, when the
	// rule is loaded.
	validate func(string) error
	// secret says that the first argument may be env() or file().
	secret bool
	// lazy functions (try, can, merge, pick, omit) evaluate their arguments
	// themselves.
	lazy bool
	run  func(f *frame, call *callNode, args []value) value
}

type param struct {
	name  string
	kinds kinds
}

func (fn *exprFunc) param(i int) param {
	if i < len(fn.params) {
		return fn.params[i]
	}
	name := "value"
	if len(fn.params) > 0 {
		name = fn.params[len(fn.params)-1].name
	}
	return param{name, fn.rest}
}

// usage prints the function with its parameters: substr(s, offset, length).
func (fn *exprFunc) usage() string {
	var b strings.Builder
	b.WriteString(fn.name + "(")
	for i, p := range fn.params {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.name)
		if i >= len(fn.params)-fn.optional {
			b.WriteString("?")
		}
	}
	if fn.rest != 0 {
		b.WriteString(", ...")
	}
	return b.String() + ")"
}

func (fn *exprFunc) arity() string {
	n := len(fn.params)
	switch {
	case fn.rest != 0:
		return fmt.Sprintf("at least %d arguments", n-fn.optional)
	case fn.optional > 0:
		return fmt.Sprintf("%d to %d arguments", n-fn.optional, n)
	case n == 1:
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

// functions is the library. It is filled by init because merge and try call
// back into what uses it.
var functions = map[string]*exprFunc{}

func init() {
	for _, group := range functionGroups() {
		for _, fn := range group.functions {
			functions[fn.name] = fn
		}
	}
}

// functionGroup is a section of the reference.
type functionGroup struct {
	title     string
	functions []*exprFunc
}

func functionGroups() []functionGroup {
	return []functionGroup{
		{"Texts", textFunctions},
		{"Numbers", numberFunctions},
		{"Lists and objects", slices.Concat(collectionFunctions, listFunctions)},
		{"Times", timeFunctions},
		{"Encoding, hashing, patterns", encodingFunctions},
	}
}

func functionNames() []string { return slices.Sorted(maps.Keys(functions)) }

// refusedFunctions are functions that people expect and that are left out.
var refusedFunctions = map[string]string{
	"timestamp":     "a replay must make the same event again, so there is no clock. The time of the change is tx.commit_time.",
	"now":           "a replay must make the same event again, so there is no clock. The time of the change is tx.commit_time.",
	"plantimestamp": "a replay must make the same event again, so there is no clock. The time of the change is tx.commit_time.",
	"uuid":          "a replay must make the same event again, so there is no randomness. Every event has an id.",
	"random":        "a replay must make the same event again, so there is no randomness. Every event has an id.",
}

func one(name string, k kinds) []param { return []param{{name, k}} }

var textFunctions = []*exprFunc{
	{name: "upper", params: one("s", isString), result: isString, doc: "The string in upper case.", run: mapText(strings.ToUpper)},
	{name: "lower", params: one("s", isString), result: isString, doc: "The string in lower case.", run: mapText(strings.ToLower)},
	{name: "trimspace", params: one("s", isString), result: isString, doc: "The string without white space at its ends.", run: mapText(strings.TrimSpace)},
	{name: "trim", params: []param{{"s", isString}, {"characters", isString}}, result: isString, doc: "The string without the characters at its ends.", run: mapText2(strings.Trim)},
	{name: "trimprefix", params: []param{{"s", isString}, {"prefix", isString}}, result: isString, doc: "The string without the prefix, if it has it.", run: mapText2(strings.TrimPrefix)},
	{name: "trimsuffix", params: []param{{"s", isString}, {"suffix", isString}}, result: isString, doc: "The string without the suffix, if it has it.", run: mapText2(strings.TrimSuffix)},
	{name: "startswith", params: []param{{"s", isString}, {"prefix", isString}}, result: isBool, doc: "Whether the string begins with the prefix.", run: testText(strings.HasPrefix)},
	{name: "endswith", params: []param{{"s", isString}, {"suffix", isString}}, result: isBool, doc: "Whether the string ends with the suffix.", run: testText(strings.HasSuffix)},
	{name: "replace", params: []param{{"s", isString}, {"old", isString}, {"new", isString}}, result: isString, doc: "The string with every old replaced by new.", run: runReplace},
	{name: "substr", params: []param{{"s", isString}, {"offset", isNumber}, {"length", isNumber}}, result: isString, doc: "The characters from an offset on; a negative offset counts from the end, and length -1 is all that follow.", run: runSubstr},
	{name: "strlen", params: one("s", isString), result: isNumber, typ: typeOfInteger, doc: "The number of characters (Unicode code points).", run: runLength},
	{name: "split", params: []param{{"separator", isString}, {"s", isString}}, result: isList, typ: listOfStrings, doc: "The parts of the string between the separators.", run: runSplit},
	{name: "join", params: []param{{"separator", isString}, {"list", isList}}, result: isString, doc: "The elements of a list as one string.", run: runJoin},
	{name: "matches", params: []param{{"pattern", isString}, {"s", isString}}, pattern: true, result: isBool, doc: "Whether a part of the string matches the regular expression (RE2).", run: runMatches},
	{name: "regex", params: []param{{"pattern", isString}, {"s", isString}}, pattern: true, result: isString | isList | isObject, doc: "The first match of the regular expression (RE2): a string, a list of the groups, or an object of the named groups. No match is an error.", run: runRegex},
	{name: "sha256", params: one("s", isScalar), result: isString, doc: "The SHA-256 of the value's text, in hexadecimal.", run: runSHA256},
	{name: "mask", params: []param{{"s", isScalar}, {"keep", isNumber}}, optional: 1, result: isString, doc: "The value's text with every character but the last keep (default 0) replaced by *.", run: runMask},
	{name: "jsonencode", params: one("value", isAny), result: isString, doc: "The value as JSON text.", run: runJSONEncode},
	{name: "jsondecode", params: one("s", isString), result: isAny, doc: "The value a JSON text stands for.", run: runJSONDecode},
	{name: "tostring", params: one("value", isScalar|isNull), result: isString | isNull, typ: sameNull(contract.Of(isString)), doc: "The value as a string.", run: runToString},
}

func text(f *frame, s string) value { return stringValue(f.keepString(s)) }

func (f *frame) keepString(s string) []byte {
	start := len(f.scratch)
	f.scratch = append(f.scratch, s...)
	return f.scratch[start:len(f.scratch):len(f.scratch)]
}

func mapText(fn func(string) string) func(*frame, *callNode, []value) value {
	return func(f *frame, _ *callNode, a []value) value { return text(f, fn(string(a[0].text))) }
}

func mapText2(fn func(s, t string) string) func(*frame, *callNode, []value) value {
	return func(f *frame, _ *callNode, a []value) value {
		return text(f, fn(string(a[0].text), string(a[1].text)))
	}
}

func testText(fn func(s, t string) bool) func(*frame, *callNode, []value) value {
	return func(_ *frame, _ *callNode, a []value) value {
		return boolValue(fn(string(a[0].text), string(a[1].text)))
	}
}

// maxText bounds what a rule can make of a change's text, so that replace with
// an empty pattern does not fill the memory.
const maxText = 64 << 20

func runReplace(f *frame, c *callNode, a []value) value {
	s, from, to := string(a[0].text), string(a[1].text), string(a[2].text)
	if n := strings.Count(s, from); len(s)+n*(len(to)-len(from)) > maxText {
		return f.fail(c.rng, "replace() would make a string of more than 64 MiB")
	}
	return text(f, strings.ReplaceAll(s, from, to))
}

func runSubstr(f *frame, c *callNode, a []value) value {
	offset, ok := a[1].int()
	length, ok2 := a[2].int()
	if !ok || !ok2 {
		return f.fail(c.rng, "substr() needs whole numbers as offset and length")
	}
	r := []rune(string(a[0].text))
	size := int64(len(r))
	if offset < 0 {
		offset = max(0, offset+size)
	}
	offset = min(offset, size)
	end := size
	if length >= 0 && length < size-offset {
		end = offset + length
	}
	return text(f, string(r[offset:end]))
}

func runMatches(_ *frame, c *callNode, a []value) value { return boolValue(c.re.Match(a[1].text)) }

func runRegex(f *frame, c *callNode, a []value) value {
	m := c.re.FindSubmatch(a[1].text)
	if m == nil {
		return f.fail(c.rng, "the string does not match the pattern; test it with matches(), or guard it with try()")
	}
	return f.match(c, m)
}

// match is what a regular expression found: the text, or its groups.
func (f *frame) match(c *callNode, m [][]byte) value {
	if len(m) == 1 {
		return stringValue(m[0])
	}
	buf := f.take()
	named := c.re.SubexpNames()[1] != ""
	buf = append(buf, map[bool]byte{true: '{', false: '['}[named])
	for i, group := range m[1:] {
		if i > 0 {
			buf = append(buf, ',')
		}
		if named {
			buf = appendName(buf, c.re.SubexpNames()[i+1])
		}
		if group == nil {
			buf = append(buf, "null"...)
		} else {
			buf = pgvalue.AppendString(buf, group)
		}
	}
	buf = append(buf, map[bool]byte{true: '}', false: ']'}[named])
	return f.madeJSON(buf)
}

// mixedGroups reports a pattern of which only some groups have names.
func mixedGroups(re *regexp.Regexp) bool {
	names := re.SubexpNames()[1:]
	for _, n := range names {
		if (n == "") != (names[0] == "") {
			return true
		}
	}
	return false
}
