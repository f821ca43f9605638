package config

import (
	"math/big"
	"slices"
	"strconv"
	"time"
)

// convert turns a value into what the argument's type is in Go: settingText for
// strings and secrets, bool, int, float64, time.Duration, int64 for sizes,
// []settingText and []pair.
func (e *evaluator) convert(arg *Argument, v constant) (any, bool) {
	switch arg.Type {
	case TypeString, TypeSecret:
		return e.toText(arg, v)
	case TypeBool:
		return e.toBool(arg, v)
	case TypeInteger:
		f, ok := e.toNumber(arg, v)
		if ok && f != float64(int(f)) {
			e.errorf(v.at, "Not a whole number", "%s is a whole number, not %s.", arg.Name, v.show())
			return nil, false
		}
		return int(f), ok
	case TypeNumber:
		return e.toNumber(arg, v)
	case TypeDuration:
		return e.toDuration(arg, v)
	case TypeSize:
		return e.toSize(arg, v)
	case TypeStrings, TypeSecrets:
		return e.toTexts(arg, v)
	case TypeSecretMap:
		return e.toPairs(arg, v)
	case TypeValue:
		return v, true
	case TypeObject:
		if v.kind != objectConst {
			e.wrongType(arg, v, arg.Name+" = { ... }")
			return nil, false
		}
		return v, true
	}
	panic("config: no value has the type " + string(arg.Type))
}

// wrongType reports a value of another type than the argument's.
func (e *evaluator) wrongType(arg *Argument, v constant, form string) {
	shown := v.show()
	if arg.Type.secret() {
		switch v.kind {
		case textConst:
			shown = "a string"
		case numberConst:
			shown = "a number"
		}
	}
	e.errorf(v.at, "Wrong type of value", "%s is %s, not %s. Write %s", arg.Name, article(string(arg.Type)), shown, form)
}

func (e *evaluator) toText(arg *Argument, v constant) (settingText, bool) {
	t := settingText{s: v.text, secret: v.secret, unknown: v.kind == unknownConst, at: v.at}
	if t.unknown {
		t.s = ""
		return t, true
	}
	if v.kind != textConst {
		e.wrongType(arg, v, arg.Name+` = "..."`)
		return t, false
	}
	if t.s == "" {
		e.errorf(v.at, "Empty value", "%s must not be empty. To have the default, leave the argument out.", arg.Name)
		return t, false
	}
	return t, e.allowed(arg, t)
}

// allowed reports a string that is not one of those the argument accepts.
func (e *evaluator) allowed(arg *Argument, t settingText) bool {
	if len(arg.OneOf) == 0 || t.unknown || slices.Contains(arg.OneOf, t.s) {
		return true
	}
	hint := ""
	if !t.secret {
		hint = didYouMean(t.s, arg.OneOf)
	}
	if len(arg.OneOf) == 1 {
		e.errorf(t.at, "Value not allowed", "%s is always \"%s\", not %s.", arg.Name, arg.OneOf[0], t.show())
		return false
	}
	e.errorf(t.at, "Value not allowed", "%s is %s, not %s.%s", arg.Name, list(quoteAll(arg.OneOf), "or"), t.show(), hint)
	return false
}

func (e *evaluator) toBool(arg *Argument, v constant) (bool, bool) {
	if v.kind == unknownConst {
		return false, false
	}
	if v.kind == boolConst {
		return v.bool, true
	}
	if v.kind == textConst && v.secret { // an environment variable has no other type
		if b, err := strconv.ParseBool(v.text); err == nil {
			return b, true
		}
	}
	e.wrongType(arg, v, arg.Name+" = true or "+arg.Name+" = false, without quotes.")
	return false, false
}

func (e *evaluator) toNumber(arg *Argument, v constant) (float64, bool) {
	n := v.number
	if v.kind == unknownConst {
		return 0, false
	}
	if v.kind == textConst && v.secret {
		if f, _, err := big.ParseFloat(v.text, 10, 64, big.ToNearestEven); err == nil && !f.IsInf() {
			n = f
		}
	}
	if n == nil {
		e.wrongType(arg, v, "a number without quotes, such as "+arg.Name+" = "+numberExample(arg)+".")
		return 0, false
	}
	f, _ := n.Float64()
	return f, e.inBounds(arg, v, f, func(b float64) string { return strconv.FormatFloat(b, 'g', -1, 64) })
}

func numberExample(arg *Argument) string {
	if arg.Default != "" {
		return arg.Default
	}
	return "1"
}

// inBounds reports a number outside the argument's bounds.
func (e *evaluator) inBounds(arg *Argument, v constant, f float64, format func(float64) string) bool {
	switch {
	case f >= arg.Min && (arg.Max == 0 || f <= arg.Max):
		return true
	case arg.Max == 0:
		e.errorf(v.at, "Value out of range", "%s is at least %s, not %s.", arg.Name, format(arg.Min), v.show())
	default:
		e.errorf(v.at, "Value out of range", "%s is between %s and %s, not %s.", arg.Name, format(arg.Min), format(arg.Max), v.show())
	}
	return false
}

func (e *evaluator) toDuration(arg *Argument, v constant) (time.Duration, bool) {
	if v.kind == unknownConst {
		return 0, false
	}
	const form = `A duration is a number with a unit, such as "500ms", "90s", "15m" or "168h".`
	s := v.text
	if v.kind == numberConst {
		s = v.number.Text('f', 0)
	} else if v.kind != textConst {
		e.errorf(v.at, "Invalid duration", "%s is a duration, not %s. %s", arg.Name, v.show(), form)
		return 0, false
	}
	d, hint, ok := parseDuration(s)
	if !ok || v.kind == numberConst {
		if hint != "" && !v.secret {
			hint = ` Write "` + hint + `".`
		} else {
			hint = ""
		}
		e.errorf(v.at, "Invalid duration", "%s is a duration, not %s. %s%s", arg.Name, v.show(), form, hint)
		return 0, false
	}
	return d, e.inBounds(arg, v, d.Seconds(), func(b float64) string { return `"` + shortDuration(b) + `"` })
}

// shortDuration writes seconds without the zero units of time.Duration.String.
func shortDuration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	case d >= time.Minute && d%time.Minute == 0:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	}
	return d.String()
}

func (e *evaluator) toSize(arg *Argument, v constant) (int64, bool) {
	if v.kind == unknownConst {
		return 0, false
	}
	const form = `A size is a number with a unit, such as "512MiB" or "10GiB"; the units are B, KiB, MiB, GiB and TiB.`
	s := v.text
	if v.kind == numberConst {
		s = v.number.Text('f', 0)
	}
	n, hint, ok := parseSize(s)
	if (v.kind != textConst && v.kind != numberConst) || !ok || (v.kind == numberConst && n != 0) {
		if hint != "" && !v.secret {
			hint = ` Write "` + hint + `".`
		} else {
			hint = ""
		}
		e.errorf(v.at, "Invalid size", "%s is a size, not %s. %s%s", arg.Name, v.show(), form, hint)
		return 0, false
	}
	if n == 0 {
		return 0, true // no limit
	}
	return n, e.inBounds(arg, v, float64(n), func(b float64) string { return `"` + formatSize(b) + `"` })
}

func (e *evaluator) toTexts(arg *Argument, v constant) ([]settingText, bool) {
	if v.kind == unknownConst {
		return []settingText{{unknown: true, secret: true, at: v.at}}, true
	}
	if v.kind != listConst {
		form := `a list: ` + arg.Name + ` = ["..."]`
		if v.kind == textConst && !v.secret && arg.Type != TypeSecrets {
			form = `a list: ` + arg.Name + ` = ["` + v.text + `"]`
		}
		e.wrongType(arg, v, form)
		return nil, false
	}
	if len(v.items) == 0 && !v.partial {
		e.errorf(v.at, "Empty list", "%s needs at least one entry.", arg.Name)
		return nil, false
	}
	one := *arg
	one.Type = TypeString
	if arg.Type.secret() {
		one.Type = TypeSecret
	}
	var out []settingText
	for _, item := range v.items {
		t, tok := e.toText(&one, item)
		if tok && !t.unknown && slices.ContainsFunc(out, func(o settingText) bool { return !o.unknown && o.s == t.s }) {
			e.errorf(t.at, "Duplicate entry", "%s already has this entry. Remove one of the two.", arg.Name)
			tok = false
		}
		if tok {
			out = append(out, t)
		}
	}
	return out, true
}

func (e *evaluator) toPairs(arg *Argument, v constant) ([]pair, bool) {
	if v.kind == unknownConst {
		return nil, true
	}
	if v.kind != objectConst {
		e.wrongType(arg, v, `a map: `+arg.Name+` = { name = "..." }`)
		return nil, false
	}
	one := *arg
	one.Type = TypeString
	if arg.Type.secret() {
		one.Type = TypeSecret
	}
	var out []pair
	for i, item := range v.items {
		if t, ok := e.toText(&one, item); ok {
			out = append(out, pair{settingText{s: v.keys[i].text, secret: v.keys[i].secret, at: v.keys[i].at}, t})
		}
	}
	return out, true
}
