package contract

import (
	"cmp"
	"math/big"
	"slices"
	"strings"
)

// Kinds is a set of the kinds of JSON values.
type Kinds uint8

// The kinds.
const (
	Null Kinds = 1 << iota
	Bool
	Number
	String
	List
	Object

	Scalar   = Bool | Number | String
	AnyKinds = Null | Scalar | List | Object
)

// String names the kinds with an article: "a number or a string".
func (k Kinds) String() string {
	names := [...]string{"null", "a bool", "a number", "a string", "a list", "an object"}
	var words []string
	for i, n := range names {
		if k&(1<<i) != 0 {
			words = append(words, n)
		}
	}
	return strings.Join(words, " or ")
}

// Type is a set of JSON values. The zero Type is empty.
type Type struct {
	Kinds Kinds

	// Of numbers: whether they are whole, and their bounds, nil without one. A
	// number of which NaN or Infinite is set may also be sent as the string "NaN",
	// or "Infinity" and "-Infinity", as PostgreSQL has them and JSON does not.
	Integer       bool
	Min, Max      *big.Rat
	NaN, Infinite bool

	// Of strings: the values there are, nil for any; a form they all have; their
	// least and greatest number of characters, 0 without a bound.
	Values               []string
	Format               Format
	MinLength, MaxLength int

	// Elem is the type of a list's elements, nil for any.
	Elem *Type

	// Of objects: the attributes that are known, and the type of others, nil when
	// there are none.
	Fields []Field
	Rest   *Type

	// Unsent are columns whose value the server may leave out of an update (an
	// unchanged TOAST value). In an object such an attribute is optional.
	Unsent []string
}

// Field is an attribute of an object.
type Field struct {
	Name     string
	Type     Type
	Optional bool
	Doc      string
}

// Any returns the type of all values. It stands for what is not known until
// an event is made.
func Any() Type { return Type{Kinds: AnyKinds, Rest: &anyType} }

var anyType = Type{Kinds: AnyKinds}

// Of returns the type of all values of the kinds.
func Of(k Kinds) Type {
	t := Type{Kinds: k}
	if k&Object != 0 {
		t.Rest = &anyType
	}
	return t
}

// OneOf returns the type of the given strings.
func OneOf(values ...string) Type { return Type{Kinds: String, Values: values} }

// Formatted returns the type of the strings of a form.
func Formatted(f Format) Type { return Type{Kinds: String, Format: f} }

// Whole returns the type of the whole numbers from min to max.
func Whole(min, max int64) Type {
	return Type{Kinds: Number, Integer: true, Min: new(big.Rat).SetInt64(min), Max: new(big.Rat).SetInt64(max)}
}

// ListOf returns the type of lists.
func ListOf(elem Type) Type { return Type{Kinds: List, Elem: &elem} }

// ObjectOf returns the type of objects that have the fields and no others.
func ObjectOf(fields ...Field) Type { return Type{Kinds: Object, Fields: fields} }

// MapOf returns the type of objects whose attributes all have the type: of the
// empty type there are none.
func MapOf(elem Type) Type {
	if elem.Kinds == 0 {
		return ObjectOf()
	}
	return Type{Kinds: Object, Rest: &elem}
}

// Dynamic reports whether nothing is known of the type, except perhaps that it
// is not null.
func (t Type) Dynamic() bool { return t.Kinds|Null == AnyKinds }

// Nullable returns the type with null.
func (t Type) Nullable() Type {
	t.Kinds |= Null
	return t
}

// NotNull returns the type without null.
func (t Type) NotNull() Type {
	t.Kinds &^= Null
	return t
}

// Only returns those values of the type that are of the kinds.
func (t Type) Only(k Kinds) Type {
	t.Kinds &= k
	return t
}

// Field returns the named field, or nil.
func (t Type) Field(name string) *Field {
	for i := range t.Fields {
		if t.Fields[i].Name == name {
			return &t.Fields[i]
		}
	}
	return nil
}

// AllUnsent returns the columns that may be left out anywhere in the value.
func (t Type) AllUnsent() []string {
	all := t.Unsent
	for _, f := range t.Fields {
		all = union(all, f.Type.AllUnsent())
	}
	return all
}

// Element returns the type of a list's elements.
func (t Type) Element() Type {
	if t.Elem == nil {
		return Any()
	}
	return *t.Elem
}

// Union returns the type of the values of both.
func Union(a, b Type) Type {
	switch {
	case a.Kinds == 0:
		b.Unsent = union(a.Unsent, b.Unsent)
		return b
	case b.Kinds == 0:
		a.Unsent = union(a.Unsent, b.Unsent)
		return a
	}
	u := Type{Kinds: a.Kinds | b.Kinds, Unsent: union(a.Unsent, b.Unsent)}
	of := func(k Kinds) (x, y Type, both bool) { // the one that has the kind first
		switch {
		case a.Kinds&b.Kinds&k != 0:
			return a, b, true
		case b.Kinds&k != 0:
			return b, Type{}, false
		}
		return a, Type{}, false
	}
	if x, y, both := of(Number); u.Kinds&Number != 0 {
		u.Integer, u.Min, u.Max, u.NaN, u.Infinite = x.Integer, x.Min, x.Max, x.NaN, x.Infinite
		if both {
			u.Integer = x.Integer && y.Integer
			u.Min, u.Max = least(x.Min, y.Min, -1), least(x.Max, y.Max, 1)
			u.NaN, u.Infinite = x.NaN || y.NaN, x.Infinite || y.Infinite
		}
	}
	if x, y, both := of(String); u.Kinds&String != 0 {
		u.Values, u.Format, u.MinLength, u.MaxLength = x.Values, x.Format, x.MinLength, x.MaxLength
		if both {
			u.unionStrings(x, y)
		}
	}
	if x, y, both := of(List); u.Kinds&List != 0 {
		u.Elem = x.Elem
		switch {
		case both && (x.Elem == nil || y.Elem == nil):
			u.Elem = nil
		case both:
			e := Union(*x.Elem, *y.Elem)
			u.Elem = &e
		}
	}
	if x, y, both := of(Object); u.Kinds&Object != 0 {
		u.Fields, u.Rest = x.Fields, x.Rest
		if both {
			u.unionObjects(x, y)
		}
	}
	return u
}

func (t *Type) unionStrings(x, y Type) {
	t.Values, t.Format, t.MinLength, t.MaxLength = nil, "", 0, 0
	switch {
	case x.Values != nil && y.Values != nil:
		t.Values = union(x.Values, y.Values)
		return
	case x.Values == nil && y.Values == nil && x.Format == y.Format:
		t.Format = x.Format
	}
	t.MinLength = min(x.minLength(), y.minLength())
	if m, n := x.maxLength(), y.maxLength(); m > 0 && n > 0 {
		t.MaxLength = max(m, n)
	}
}

func (t *Type) unionObjects(x, y Type) {
	t.Fields, t.Rest = nil, nil
	for _, f := range x.Fields {
		switch o := y.Field(f.Name); {
		case o != nil:
			f.Type, f.Optional, f.Doc = Union(f.Type, o.Type), f.Optional || o.Optional, cmp.Or(f.Doc, o.Doc)
		case y.Rest != nil:
			f.Type, f.Optional = Union(f.Type, *y.Rest), true
		default:
			f.Optional = true
		}
		t.Fields = append(t.Fields, f)
	}
	for _, f := range y.Fields {
		if x.Field(f.Name) == nil {
			f.Optional = true
			if x.Rest != nil {
				f.Type = Union(f.Type, *x.Rest)
			}
			t.Fields = append(t.Fields, f)
		}
	}
	switch {
	case x.Rest != nil && y.Rest != nil:
		r := Union(*x.Rest, *y.Rest)
		t.Rest = &r
	case x.Rest != nil:
		t.Rest = x.Rest
	default:
		t.Rest = y.Rest
	}
}

func (t Type) minLength() int {
	if t.Values == nil {
		return t.MinLength
	}
	n := length(t.Values[0])
	for _, v := range t.Values {
		n = min(n, length(v))
	}
	return n
}

func (t Type) maxLength() int {
	n := t.MaxLength
	for _, v := range t.Values {
		n = max(n, length(v))
	}
	return n
}

func length(s string) int { return len([]rune(s)) }

// least returns the lesser bound, or with sign 1 the greater; nil is no bound.
func least(a, b *big.Rat, sign int) *big.Rat {
	switch {
	case a == nil || b == nil:
		return nil
	case a.Cmp(b) == sign:
		return a
	}
	return b
}

// union returns the strings of both, in their order and each once.
func union(a, b []string) []string {
	for i, s := range b {
		if !slices.Contains(a, s) {
			a = append(slices.Clip(a), b[i])
		}
	}
	return a
}
