package contract

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the files in testdata anew")

// shopEvents are two versions of an event, with everything in them once.
func shopEvents() []Event {
	special := Of(Number)
	special.NaN, special.Infinite = true, true
	unsent := Of(String)
	unsent.Unsent = []string{"note"}
	const32, list := Whole(5, 5), ListOf(ObjectOf(Field{Name: "sku", Type: Of(String)}, Field{Name: "qty", Type: Whole(0, 10).Nullable()}))
	v1 := Event{
		Type: "order.paid", Version: 1, Description: "An order was paid in full.", Tables: []string{"public.orders"}, Ops: []string{"insert", "update"},
		Key: Of(String), Tenant: Of(Number | Null),
		Data: ObjectOf(
			Field{Name: "id", Type: int64Type}, Field{Name: "five", Type: const32}, Field{Name: "status", Type: OneOf("paid", "re funded").Nullable()}, Field{Name: "kind", Type: OneOf("order")},
			Field{Name: "at", Type: Formatted(Timestamp)}, Field{Name: "uid", Type: Formatted(UUID).Nullable()}, Field{Name: "ratio", Type: special}, Field{Name: "ok", Type: Of(Bool)},
			Field{Name: "items", Type: list}, Field{Name: "odd \"name\"", Type: Of(String | Number), Optional: true}, Field{Name: "doc", Type: Any()}, Field{Name: "some", Type: Any().NotNull()},
			Field{Name: "map", Type: MapOf(Of(Bool | Null))}, Field{Name: "note", Type: unsent, Optional: true}, Field{Name: "void", Type: Of(Null)}, Field{Name: "total", Type: Of(Number), Doc: "In cents. */"},
		),
	}
	v2 := Event{Type: "order.paid", Version: 2, Key: Of(String | Null), Data: Any()}
	for i, e := range []*Event{&v1, &v2} {
		e.Data = Published(e.Data, i == 1)
	}
	return Join([]Event{v2, v1})
}

// TestFormats holds what is printed against files, which the integration tests
// hold against compilers and parsers.
func TestFormats(t *testing.T) {
	events := shopEvents()
	source, err := Go(events, "events")
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{
		"events.schema.json": JSONSchema(events), "events.ts": TypeScript(events), "events.go.txt": source, "asyncapi.json": AsyncAPI(events, "Shop"),
		"none.schema.json": JSONSchema(nil), "none.ts": TypeScript(nil),
	} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs (-update writes it): %v\n%s", name, err, got)
		}
	}
}

func TestUnion(t *testing.T) {
	for _, c := range []struct {
		a, b Type
		want string
	}{
		{Whole(0, 5), Whole(9, 10), "a whole number from 0 to 10"},
		{Whole(0, 5), Of(Number), "a number"},
		{OneOf("a"), OneOf("b", "a"), `one of "a", "b"`},
		{OneOf("a"), Of(String), "a string"},
		{OneOf("a"), Formatted(UUID), "a string"},
		{Formatted(UUID), Formatted(UUID), "a string (uuid)"},
		{OneOf("a"), Of(Null), `"a" or null`},
		{ListOf(OneOf("a")), ListOf(Of(Number)), `a list of a number or "a"`},
		{ListOf(OneOf("a")), Of(List), "a list"},
		{Type{}, OneOf("a"), `"a"`},
		{Any(), OneOf("a"), "any value"},
	} {
		if got := Union(c.a, c.b).String(); got != c.want {
			t.Errorf("%s and %s are %s, want %s", c.a, c.b, got, c.want)
		}
	}
}

func TestCompare(t *testing.T) {
	base := func() Event {
		return Event{Type: "a.b", Version: 1, Key: Of(String), Tables: []string{"public.t"}, Ops: []string{"insert"}, Data: ObjectOf(
			Field{Name: "id", Type: int32Type}, Field{Name: "status", Type: OneOf("x", "y")}, Field{Name: "name", Type: Of(String)}, Field{Name: "at", Type: Formatted(Timestamp)},
			Field{Name: "maybe", Type: Of(Number | Null)}, Field{Name: "opt", Type: Of(Bool), Optional: true}, Field{Name: "list", Type: ListOf(ObjectOf(Field{Name: "sku", Type: Of(String)}))}, Field{Name: "any", Type: Any()})}
	}
	old := map[string]Type{"a.b@1": base().envelopeOf()}
	set := func(name string, t Type) func(*Event) { return func(e *Event) { e.Data.Field(name).Type = t } }
	for _, c := range []struct {
		name   string
		change func(*Event)
		want   []string
	}{
		{name: "nothing"},
		{name: "a new attribute", change: func(e *Event) { e.Data.Fields = append(e.Data.Fields, Field{Name: "new", Type: Any()}) }},
		{name: "fewer values", change: set("status", OneOf("x"))},
		{name: "never null", change: set("maybe", Of(Number))},
		{name: "always there", change: func(e *Event) { e.Data.Field("opt").Optional = false }},
		{name: "another description", change: func(e *Event) { e.Description = "x" }},
		{name: "anything becomes something", change: set("any", Of(String))},
		{name: "gone", change: func(e *Event) { e.Data.Fields = e.Data.Fields[1:] }, want: []string{"data.id is not there"}},
		{name: "null", change: set("name", Of(String|Null)), want: []string{"data.name may be null"}},
		{name: "left out", change: func(e *Event) { e.Data.Field("name").Optional = true }, want: []string{"data.name may be left out"}},
		{name: "another type", change: set("name", Of(Number)), want: []string{"data.name may be a number, and not only a string"}},
		{name: "one of two types", change: set("name", Of(Number|String)), want: []string{"data.name may be a number, and not only a string"}},
		{name: "a wider number", change: set("id", int64Type), want: []string{"data.id may be a whole number from -9223372036854775808"}},
		{name: "a fraction", change: set("id", Of(Number)), want: []string{"data.id may have a fraction"}},
		{name: "a value more", change: set("status", OneOf("x", "y", "z")), want: []string{`data.status may be "z"`}},
		{name: "any string", change: set("status", Of(String)), want: []string{"data.status may be any string"}},
		{name: "another form", change: set("at", Formatted(Date)), want: []string{"data.at may be a string (date)"}},
		{name: "anything", change: set("name", Any()), want: []string{"data.name may be anything, and was a string"}},
		{name: "deep", change: set("list", ListOf(ObjectOf())), want: []string{"data.list[].sku is not there"}},
		{name: "no key", change: func(e *Event) { e.Key = Of(String | Null) }, want: []string{"key may be null"}},
		{name: "another operation", change: func(e *Event) { e.Ops = []string{"insert", "delete"} }, want: []string{`op may be "delete"`}},
		{name: "another version", change: func(e *Event) { e.Version = 2 }, want: []string{"is not made any more; there is a.b@2. Keep the old version"}},
		{name: "another name", change: func(e *Event) { e.Type = "a.c" }, want: []string{"is not made any more"}},
	} {
		e := base()
		e.Data.Fields = slices.Clone(e.Data.Fields)
		if c.change != nil {
			c.change(&e)
		}
		var got []string
		for _, b := range Compare(old, []Event{e}) {
			got = append(got, strings.TrimPrefix(strings.TrimPrefix(b.String(), "a.b@1: "), "a.b@1"))
		}
		same := len(got) == len(c.want)
		for i := range c.want {
			same = same && strings.HasPrefix(got[i], c.want[i])
		}
		if !same {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func (e Event) envelopeOf() Type { return e.Envelope() }

// randomType returns a type as it is published.
func randomType(r *rand.Rand, depth int) Type {
	t := Type{}
	for t.Kinds == 0 {
		t.Kinds = Kinds(r.UintN(uint(AnyKinds) + 1))
		if depth > 3 {
			t.Kinds &^= List | Object
		}
	}
	if t.Dynamic() {
		return Union(Any().NotNull(), Of(t.Kinds))
	}
	if t.Kinds&Number != 0 {
		t.Integer = r.IntN(2) == 0
		if n := int64(r.IntN(100)); t.Integer && r.IntN(2) == 0 {
			t.Min, t.Max = big.NewRat(-n, 1), big.NewRat(n, 1)
		}
		t.NaN = r.IntN(3) == 0
		t.Infinite = t.NaN && r.IntN(2) == 0
	}
	if t.Kinds&String != 0 && !t.NaN {
		switch r.IntN(3) {
		case 0:
			t.Values = []string{"a", "b", "é"}[:1+r.IntN(3)]
		case 1:
			t.Format = []Format{UUID, Date, Timestamp, LocalTimestamp, Numeric, EventID}[r.IntN(6)]
		}
	}
	if t.Kinds&List != 0 && r.IntN(4) > 0 {
		e := randomType(r, depth+1)
		t.Elem = &e
	}
	if t.Kinds&Object != 0 {
		for i := range r.IntN(4) {
			t.Fields = append(t.Fields, Field{Name: fmt.Sprint("f", i), Type: randomType(r, depth+1), Optional: r.IntN(2) == 0})
		}
		if r.IntN(4) == 0 || len(t.Fields) == 0 {
			e := randomType(r, depth+1)
			t.Rest = &e
		}
	}
	return t
}

// What is read of a schema is the type it was printed of.
func TestReadJSONSchema_ReadsWhatWasPrinted(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		typ := randomType(r, 0)
		e := Event{Type: "a", Version: 1, Key: Of(String), Data: typ}
		text := JSONSchema([]Event{e})
		read, err := ReadJSONSchema(text)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		data := read["a@1"].Field("data")
		if got, want := Signature(data.Type), Signature(typ); got != want {
			t.Fatalf("seed %d:\n%s\nis read as\n%s", seed, want, got)
		}
		if breaks := Compare(read, []Event{e}); len(breaks) > 0 {
			t.Fatalf("seed %d: %v\n%s", seed, breaks, text)
		}
	}
}

// A union has the values of both, so that both fit it.
func TestUnion_HasBoth(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		a, b := randomType(r, 0), randomType(r, 0)
		u := Union(a, b)
		for _, x := range []Type{a, b} {
			if misfits := Fit(x, u, false); len(misfits) > 0 {
				t.Fatalf("seed %d: %s\n+ %s\n= %s\n%s does not fit: %v", seed, Signature(a), Signature(b), Signature(u), Signature(x), misfits)
			}
		}
	}
}

func TestReadJSONSchema_SaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		`x`:                        "no JSON Schema",
		`{}`:                       "x-rowhook-format is missing",
		`{"x-rowhook-format": 99}`: "newer rowhook",
		`{"x-rowhook-format": 1, "$defs": {"a@1": {"type": "tuple"}}}`:                      "event a@1: type tuple is not known",
		`{"x-rowhook-format": 1, "$defs": {"a@1": {"const": true}}}`:                        "neither a string nor a number",
		`{"x-rowhook-format": 1, "$defs": {"a@1": {"anyOf": [1]}}}`:                         "no object",
		`{"x-rowhook-format": 1, "$defs": {"a@1": {"type":"object","properties":{"x":1}}}}`: "property x",
	} {
		if _, err := ReadJSONSchema([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func FuzzReadJSONSchema(f *testing.F) {
	f.Add(JSONSchema(shopEvents()))
	f.Add([]byte(`{"x-rowhook-format": 1, "$defs": {"a@1": {"type": ["integer", "null"], "minimum": 1e9, "const": 1e999999}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		events, err := ReadJSONSchema(text)
		if err != nil {
			return
		}
		for name, typ := range events {
			var v any
			if err := json.Unmarshal([]byte(Signature(typ)), &v); err != nil {
				t.Fatal(name, err)
			}
		}
	})
}

func TestJoin_MakesOneOfTwoRules(t *testing.T) {
	a := Event{Type: "a", Version: 1, Tables: []string{"t"}, Ops: []string{"insert"}, Key: Of(String), Data: ObjectOf(Field{Name: "x", Type: Of(String)})}
	b := Event{Type: "a", Version: 1, Description: "d", Tables: []string{"u"}, Ops: []string{"insert", "delete"}, Key: Of(Null), Data: ObjectOf(Field{Name: "y", Type: Of(Number)})}
	got := Join([]Event{a, b})
	if len(got) != 1 || !reflect.DeepEqual(got[0].Tables, []string{"t", "u"}) || len(got[0].Ops) != 2 || got[0].Description != "d" || !got[0].Data.Field("x").Optional || got[0].Key.Kinds != String|Null {
		t.Errorf("got %+v", got)
	}
}
