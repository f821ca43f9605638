package config

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/rowhook/rowhook/relay/pgvalue"
)

var encodingFunctions = []*exprFunc{
	{name: "hmacsha256", params: []param{{"key", isString}, {"value", isScalar}}, secret: true, result: isString, doc: "The HMAC-SHA-256 of the value's text, in hexadecimal: a pseudonym that nobody without the key can try values against, as they can with sha256. The key may be env(\"NAME\") or file(\"path\"), directly or through a local, and is printed nowhere.", run: runHMAC},
	{name: "base64encode", params: one("s", isString), result: isString, doc: "The string in base64.", run: func(f *frame, _ *callNode, a []value) value {
		return stringValue(f.keep(base64.StdEncoding.AppendEncode(nil, a[0].text)))
	}},
	{name: "base64decode", params: one("s", isString), result: isString, doc: "The string that is in base64; anything but UTF-8 is an error.", run: func(f *frame, c *callNode, a []value) value {
		b, err := base64.StdEncoding.AppendDecode(nil, a[0].text)
		if err != nil || !utf8.Valid(b) {
			return f.fail(c.rng, "the string given to base64decode() is not base64 of a text; guard it with try()")
		}
		return stringValue(f.keep(b))
	}},
	{name: "urlencode", params: one("s", isString), result: isString, doc: "The string as it may stand in the query of a URL.", run: mapText(url.QueryEscape)},
	{name: "regexall", params: []param{{"pattern", isString}, {"s", isString}}, pattern: true, result: isList, doc: "All matches of the regular expression (RE2), each as regex gives it.", run: func(f *frame, c *callNode, a []value) value {
		var items [][]byte
		for _, m := range c.re.FindAllSubmatch(a[1].text, -1) {
			items = append(items, f.appendValue(nil, f.match(c, m), pgvalue.Printer{}))
		}
		return f.list(items)
	}},
	{name: "regexreplace", params: []param{{"pattern", isString}, {"s", isString}, {"replacement", isString}}, pattern: true, result: isString, doc: "The string with every match of the regular expression (RE2) replaced; $1 is the first group.", run: func(f *frame, c *callNode, a []value) value {
		if n := len(c.re.FindAllIndex(a[1].text, -1)); n*(len(a[1].text)+len(a[2].text)) > maxText {
			return f.fail(c.rng, "regexreplace() might make a string of more than 64 MiB")
		}
		return stringValue(f.keep(c.re.ReplaceAll(a[1].text, a[2].text)))
	}},
	{name: "format", params: one("format", isString), rest: isScalar, validate: validFormat, result: isString, doc: "The values put into a text: %s any value, %d a whole number, %.2f a number with that many digits after the point, %% a percent sign. %5s fills up with spaces to the left, %-5s to the right, %05d with zeros.", run: runFormat},
	{name: "round", params: []param{{"n", isNumber}, {"digits", isNumber}}, optional: 1, result: isNumber, doc: "The number rounded to so many digits after the point (default 0), halves away from zero, as PostgreSQL does it.", run: func(f *frame, c *callNode, a []value) value {
		digits := int64(0)
		if len(a) > 1 {
			var ok bool
			if digits, ok = a[1].int(); !ok || digits < 0 || digits > 1000 {
				return f.fail(c.rng, "round() needs a whole number of digits, from 0 to 1000")
			}
		}
		v, err := roundTo(a[0], int(digits))
		if err != nil {
			return f.fail(c.rng, "round() "+err.Error())
		}
		return f.kept(v)
	}},
}

func runHMAC(f *frame, c *callNode, a []value) value {
	if len(a[0].text) == 0 {
		return f.fail(c.rng, "hmacsha256() needs a key that is not empty")
	}
	mac := hmac.New(sha256.New, a[0].text)
	buf := a[1].appendText(f.take())
	mac.Write(buf)
	buf = hex.AppendEncode(buf[:0], mac.Sum(nil))
	v := stringValue(f.keep(buf))
	f.give(buf)
	return v
}

// roundTo rounds half away from zero.
func roundTo(v value, digits int) (value, error) {
	if _, ok := v.int(); ok {
		return v, nil
	}
	n, scale, ok := parseScaled(v.text)
	switch {
	case !ok && pgvalue.IsSpecial(v.text):
		return v, nil
	case !ok:
		return v, errors.New("is given a number that is too large")
	case scale <= digits:
		return v, nil
	}
	unit := new(big.Int).Exp(ten, big.NewInt(int64(scale-digits)), nil)
	q, r := new(big.Int).QuoRem(n, unit, new(big.Int))
	if r.Abs(r).Lsh(r, 1).Cmp(unit) >= 0 {
		q.Add(q, big.NewInt(int64(n.Sign())))
	}
	return scaledValue(q, digits), nil
}

// verb is one %... of a format, after the text before it.
type verb struct {
	before    string
	letter    byte // 0 at the end
	left      bool // aligned
	zeros     bool
	width     int
	precision int // -1 is none
}

// parseFormat splits a format into its verbs; the last has no letter.
func parseFormat(s string) ([]verb, error) {
	var verbs []verb
	var text strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			text.WriteByte(s[i])
			continue
		}
		if i++; i < len(s) && s[i] == '%' {
			text.WriteByte('%')
			continue
		}
		v := verb{before: text.String(), precision: -1}
		text.Reset()
		for ; i < len(s) && (s[i] == '-' || s[i] == '0'); i++ {
			v.left, v.zeros = v.left || s[i] == '-', v.zeros || s[i] == '0'
		}
		v.width, i = digitsAt(s, i)
		if i < len(s) && s[i] == '.' {
			v.precision, i = digitsAt(s, i+1)
		}
		switch {
		case i >= len(s):
			return nil, errors.New("it ends within a %; a percent sign is %%")
		case s[i] != 's' && s[i] != 'd' && s[i] != 'f' || v.precision >= 0 && s[i] != 'f':
			return nil, fmt.Errorf("%%%c is not known; there are %%s, %%d and %%.2f, and a percent sign is %%%%", s[i])
		case v.width > 1000 || v.precision > 1000:
			return nil, errors.New("a width or precision is at most 1000")
		}
		v.letter = s[i]
		verbs = append(verbs, v)
	}
	return append(verbs, verb{before: text.String()}), nil
}

func digitsAt(s string, i int) (n, end int) {
	for ; i < len(s) && '0' <= s[i] && s[i] <= '9'; i++ {
		n = min(n*10+int(s[i]-'0'), 10_000)
	}
	return n, i
}

func validFormat(s string) error {
	_, err := parseFormat(s)
	return err
}

func runFormat(f *frame, c *callNode, a []value) value {
	verbs, err := parseFormat(string(a[0].text))
	if err == nil && len(verbs)-1 != len(a)-1 {
		err = fmt.Errorf("there are %d places for values in it and %d values", len(verbs)-1, len(a)-1)
	}
	if err != nil {
		return f.fail(c.rng, "the format given to format() is wrong: "+err.Error())
	}
	buf := f.take()
	defer func() { f.give(buf) }()
	for i, v := range verbs {
		buf = append(buf, v.before...)
		if v.letter == 0 {
			break
		}
		text, ok := v.text(a[i+1])
		if !ok {
			return f.fail(c.rng, fmt.Sprintf("format(): %%%c needs a %snumber, and %s is %s", v.letter, map[bool]string{true: "whole "}[v.letter == 'd'], describe(c.args[i+1]), a[i+1].kinds()))
		}
		buf = v.pad(buf, text)
	}
	return stringValue(f.keep(buf))
}

// text prints a value as the verb wants it. It returns false for one that is
// not such a number.
func (v *verb) text(x value) (string, bool) {
	switch {
	case v.letter == 's':
		return string(x.appendText(nil)), true
	case x.kind != kindNumber || pgvalue.IsSpecial(x.text):
		return "", false
	}
	digits := max(v.precision, 0)
	if v.letter == 'f' && v.precision < 0 {
		digits = 6
	}
	rounded, err := roundTo(x, digits)
	if err != nil || v.letter == 'd' && compareNumber(rounded, x) != 0 {
		return "", false
	}
	whole, frac, _ := strings.Cut(string(rounded.appendText(nil)), ".")
	if v.letter == 'd' || digits == 0 {
		return whole, true
	}
	return whole + "." + frac + strings.Repeat("0", max(0, digits-len(frac))), true
}

func (v *verb) pad(dst []byte, text string) []byte {
	fill := strings.Repeat(" ", max(0, v.width-utf8.RuneCountInString(text)))
	switch {
	case v.left:
		return append(append(dst, text...), fill...)
	case v.zeros && v.letter != 's':
		sign := ""
		if strings.HasPrefix(text, "-") {
			sign, text = "-", text[1:]
		}
		return append(append(append(dst, sign...), strings.ReplaceAll(fill, " ", "0")...), text...)
	}
	return append(append(dst, fill...), text...)
}
