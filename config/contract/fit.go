package contract

import (
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// Overlap reports whether a value may be of both types. At lists and objects
// it looks no further.
func Overlap(a, b Type) bool {
	both := a.Kinds & b.Kinds
	if both&(Null|Bool|List|Object) != 0 {
		return true
	}
	return both&Number != 0 && overlapNumbers(a, b) || both&String != 0 && overlapStrings(a, b)
}

func overlapNumbers(a, b Type) bool {
	if a.NaN && b.NaN || a.Infinite && b.Infinite {
		return true
	}
	lo, hi := tighter(a.Min, b.Min, 1), tighter(a.Max, b.Max, -1)
	if lo == nil || hi == nil {
		return true
	}
	c := lo.Cmp(hi)
	return c < 0 || c == 0 && (lo.IsInt() || !a.Integer && !b.Integer)
}

// tighter returns the bound that leaves less: the greater one with sign 1, the
// lesser one with sign -1.
func tighter(a, b *big.Rat, sign int) *big.Rat {
	switch {
	case a == nil:
		return b
	case b == nil || a.Cmp(b) == sign:
		return a
	}
	return b
}

func overlapStrings(a, b Type) bool {
	if a.Values == nil {
		a, b = b, a
	}
	if a.Values == nil {
		return a.Format == "" || b.Format == "" || a.Format == b.Format
	}
	return slices.ContainsFunc(a.Values, func(v string) bool { return Has(b, v) })
}

// Has reports whether a string is of the type.
func Has(t Type, s string) bool {
	if t.Values != nil {
		return slices.Contains(t.Values, s)
	}
	if f := forms[t.Format]; f.pattern != nil && !f.pattern.MatchString(s) {
		return false
	}
	n := length(s)
	return n >= t.MinLength && (t.MaxLength == 0 || n <= t.MaxLength)
}

// Misfit is a way in which values of one type are not of another.
type Misfit struct {
	// Path is the place in the value: "", "total", "items[].sku".
	Path string
	// Why is what the new values are and the wanted ones are not, in the words of
	// a sentence about the place.
	Why string
	// Narrow says that the kinds agree and only some values do not.
	Narrow bool
}

// Fit says in which ways values of have may not be of want; none when they
// always are. What is not known of have until an event is made (see
// [Type.Dynamic], NaN) is given the benefit of the doubt when lenient is set.
// An attribute that want does not name is no misfit.
func Fit(have, want Type, lenient bool) []Misfit {
	f := fitter{lenient: lenient}
	f.fit("", have, want)
	return f.found
}

type fitter struct {
	lenient bool
	found   []Misfit
}

func (f *fitter) add(path, why string) {
	f.found = append(f.found, Misfit{Path: path, Why: why})
}

// narrow adds a misfit of values of a kind; where none fits it is no narrow one.
func (f *fitter) narrow(path, why string, have, want Type, k Kinds) {
	f.found = append(f.found, Misfit{Path: path, Why: why, Narrow: Overlap(have.Only(k), want.Only(k))})
}

func (f *fitter) fit(path string, have, want Type) {
	if want.Dynamic() {
		if want.Kinds&Null == 0 && have.Kinds&Null != 0 && !(f.lenient && have.Dynamic()) {
			f.add(path, "may be null")
		}
		return
	}
	if have.Dynamic() {
		if !f.lenient {
			f.add(path, "may be anything, and was "+want.describe())
		}
		return
	}
	if extra := have.Kinds &^ want.Kinds; extra == Null {
		f.add(path, "may be null")
	} else if extra != 0 {
		f.add(path, "may be "+have.Only(extra).describe()+", and not only "+want.describe())
		return
	}
	both := have.Kinds & want.Kinds
	if both&Number != 0 {
		f.fitNumbers(path, have, want)
	}
	if both&String != 0 {
		f.fitStrings(path, have, want)
	}
	if both&List != 0 && want.Elem != nil {
		f.fit(path+"[]", have.Element(), *want.Elem)
	}
	if both&Object != 0 {
		f.fitObjects(path, have, want)
	}
}

func (f *fitter) fitNumbers(path string, have, want Type) {
	switch {
	case want.Integer && !have.Integer:
		f.narrow(path, "may have a fraction", have, want, Number)
	case want.Min != nil && (have.Min == nil || have.Min.Cmp(want.Min) < 0), want.Max != nil && (have.Max == nil || have.Max.Cmp(want.Max) > 0):
		f.narrow(path, "may be "+have.Only(Number).describe()+", and not only "+want.Only(Number).describe(), have, want, Number)
	}
	if !f.lenient && (have.NaN && !want.NaN || have.Infinite && !want.Infinite) {
		f.narrow(path, "may be NaN or an infinity, sent as a string", have, want, Number)
	}
}

func (f *fitter) fitStrings(path string, have, want Type) {
	switch {
	case want.Values != nil && have.Values == nil:
		f.narrow(path, "may be any string, and not only "+want.Only(String).describe(), have, want, String)
	case want.Values != nil:
		var more []string
		for _, v := range have.Values {
			if !slices.Contains(want.Values, v) {
				more = append(more, strconv.Quote(v))
			}
		}
		if len(more) > 0 {
			f.add(path, "may be "+strings.Join(more, " or "))
		}
	case have.Values != nil:
		for _, v := range have.Values {
			if !Has(want.Only(String), v) {
				f.add(path, "may be "+strconv.Quote(v)+", which is not "+want.Only(String).describe())
				return
			}
		}
	case want.Format != "" && have.Format != want.Format:
		f.narrow(path, "may be "+have.Only(String).describe()+", and not only "+want.Only(String).describe(), have, want, String)
	}
}

func (f *fitter) fitObjects(path string, have, want Type) {
	for i := range want.Fields {
		w := &want.Fields[i]
		at := join(path, w.Name)
		switch h := have.Field(w.Name); {
		case h != nil:
			if h.Optional && !w.Optional {
				f.add(at, "may be left out")
			}
			f.fit(at, h.Type, w.Type)
		case have.Rest != nil && f.lenient:
			f.fit(at, *have.Rest, w.Type)
		case !w.Optional:
			f.add(at, "is not there")
		}
	}
	if want.Rest != nil && !want.Rest.Dynamic() {
		for _, h := range have.Fields {
			if want.Field(h.Name) == nil {
				f.fit(join(path, h.Name), h.Type, *want.Rest)
			}
		}
		if have.Rest != nil {
			f.fit(join(path, "*"), *have.Rest, *want.Rest)
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// describe names the type for people: "a whole number", "one of "a" and "b"".
func (t Type) describe() string {
	if t.Dynamic() {
		return "any value"
	}
	var words []string
	for _, k := range []Kinds{Bool, Number, String, List, Object, Null} {
		if t.Kinds&k != 0 {
			words = append(words, t.describeKind(k))
		}
	}
	return strings.Join(words, " or ")
}

func (t Type) describeKind(k Kinds) string {
	switch {
	case k == Number && t.Min != nil && t.Max != nil && t.Min.Cmp(t.Max) == 0:
		return t.Min.RatString()
	case k == Number && t.Integer && t.Min != nil && t.Max != nil:
		return "a whole number from " + t.Min.RatString() + " to " + t.Max.RatString()
	case k == Number && t.Integer:
		return "a whole number"
	case k == String && len(t.Values) == 1:
		return strconv.Quote(t.Values[0])
	case k == String && t.Values != nil:
		var quoted []string
		for _, v := range t.Values {
			quoted = append(quoted, strconv.Quote(v))
		}
		return "one of " + strings.Join(quoted, ", ")
	case k == String && t.Format != "":
		return "a string (" + strings.ReplaceAll(string(t.Format), "_", " ") + ")"
	case k == String && t.MaxLength > 0:
		return "a string of at most " + strconv.Itoa(t.MaxLength) + " characters"
	case k == List && t.Elem != nil && !t.Elem.Dynamic():
		return "a list of " + t.Elem.describe()
	}
	return k.String()
}

// String names the type for people.
func (t Type) String() string { return t.describe() }
