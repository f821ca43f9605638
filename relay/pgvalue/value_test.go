package pgvalue_test

import (
	"encoding/json"
	"math/big"
	"testing"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// types is a catalogue with one type of every kind that a user can make.
type types map[uint32]relay.Type

func (m types) ResolveType(oid uint32) (relay.Type, bool) {
	t, ok := m[oid]
	return t, ok
}

const (
	moodOID = 20000 + iota
	moodsOID
	centsOID
	priceOID
	tagsOID
	pointOID
	lineOID
	linesOID
	hstoreOID
	semiOID
	semisOID
	loopOID
)

var userTypes = types{
	moodOID:   {OID: moodOID, Name: "mood", Kind: 'e'},
	moodsOID:  {OID: moodsOID, Name: "_mood", Kind: 'b', Elem: moodOID, Delim: ','},
	centsOID:  {OID: centsOID, Name: "cents", Kind: 'd', Base: 23},
	priceOID:  {OID: priceOID, Name: "price", Kind: 'd', Base: centsOID},
	tagsOID:   {OID: tagsOID, Name: "tags", Kind: 'd', Base: 1009},
	pointOID:  {OID: pointOID, Name: "pt", Kind: 'c', Fields: []relay.Column{{Name: "y", TypeOID: 23}, {Name: "x", TypeOID: 23}}},
	lineOID:   {OID: lineOID, Name: "ln", Kind: 'c', Fields: []relay.Column{{Name: "name", TypeOID: 25}, {Name: "to", TypeOID: pointOID}, {Name: "at", TypeOID: 1114}}},
	linesOID:  {OID: linesOID, Name: "_ln", Kind: 'b', Elem: lineOID, Delim: ','},
	hstoreOID: {OID: hstoreOID, Name: "hstore", Kind: 'b'},
	semiOID:   {OID: semiOID, Name: "semi", Kind: 'b', Delim: '|'},
	semisOID:  {OID: semisOID, Name: "_semi", Kind: 'b', Elem: semiOID, Delim: ','},
	loopOID:   {OID: loopOID, Name: "loop", Kind: 'd', Base: loopOID},
}

// The texts and their JSON; integration/values_test.go holds the same forms
// against to_jsonb of a server.
var values = []struct {
	name string
	typ  uint32
	text string
	want string
}{
	{"bool true", 16, "t", `true`},
	{"bool false", 16, "f", `false`},
	{"int8 beyond a double", 20, "9223372036854775807", `9223372036854775807`},
	{"numeric keeps its digits", 1700, "12345678901234567890.1200", `12345678901234567890.1200`},
	{"numeric NaN", 1700, "NaN", `"NaN"`},
	{"numeric infinity", 1700, "-Infinity", `"-Infinity"`},
	{"float8 with exponent", 701, "1e+20", `100000000000000000000`},
	{"float8 small", 701, "1.5e-07", `0.00000015`},
	{"float8 point within", 701, "1.2345678e+3", `1234.5678`},
	{"float8 minus zero", 701, "-0", `0`},
	{"float8 infinity", 701, "Infinity", `"Infinity"`},
	{"number that is none", 23, "12a", `"12a"`},
	{"text", 25, "a\"b\\c\n\t\x01é€😀", `"a\"b\\c\n\t\u0001é€😀"`},
	{"text not UTF-8", 25, "a\xff\xc3(", "\"a\uFFFD\uFFFD(\""},
	{"jsonb verbatim", 3802, `{"a": 1.0, "b": [1e400]}`, `{"a": 1.0, "b": [1e400]}`},
	{"json keeps spaces and duplicates", 114, ` {"a":1,"a":2} `, ` {"a":1,"a":2} `},
	{"json with an escaped NUL", 114, `"\u0000"`, `"\u0000"`},
	{"json that is none", 114, `{"a":`, `"{\"a\":"`},
	{"timestamp", 1114, "2024-01-02 03:04:05", `"2024-01-02T03:04:05"`},
	{"timestamp BC", 1114, "0044-03-15 01:02:03.000004 BC", `"0044-03-15T01:02:03.000004 BC"`},
	{"timestamp far", 1114, "294276-12-31 23:59:59", `"294276-12-31T23:59:59"`},
	{"timestamptz", 1184, "2024-01-02 03:04:05.123456+00", `"2024-01-02T03:04:05.123456+00:00"`},
	{"timestamptz BC", 1184, "0044-03-15 01:02:03+00 BC", `"0044-03-15T01:02:03+00:00 BC"`},
	{"timestamptz infinity", 1184, "infinity", `"infinity"`},
	{"date BC", 1082, "0044-03-15 BC", `"0044-03-15 BC"`},
	{"time 24:00", 1083, "24:00:00", `"24:00:00"`},
	{"bytea", 17, `\x00ff`, `"\\x00ff"`},
	{"money", 790, "$1,234.50", `"$1,234.50"`},
	{"range", 3904, "[1,5)", `"[1,5)"`},
	{"array", 1007, "{1,NULL,3}", `[1, null, 3]`},
	{"array empty", 1007, "{}", `[]`},
	{"array of arrays", 1007, "{{1,2},{3,4}}", `[[1, 2], [3, 4]]`},
	{"array lower bounds", 1007, "[0:1]={1,2}", `[1, 2]`},
	{"array of text", 1009, `{a,"b,c","d\"e\\f","NULL",NULL,""}`, `["a", "b,c", "d\"e\\f", "NULL", null, ""]`},
	{"array of bool", 1000, "{t,f}", `[true, false]`},
	{"array of jsonb", 3807, `{"{\"a\": 1}"}`, `[{"a": 1}]`},
	{"array of timestamptz", 1185, `{"2024-01-02 03:04:05+00"}`, `["2024-01-02T03:04:05+00:00"]`},
	{"array of box", 1020, "{(3,4),(1,2);(7,8),(5,6)}", `["(3,4),(1,2)", "(7,8),(5,6)"]`},
	{"array broken", 1007, "{1,2", `"{1,2"`},
	{"array with a tail", 1007, "{1}x", `"{1}x"`},
	{"int2vector", 22, "1 2 3", `[1, 2, 3]`},
	{"int2vector empty", 22, "", `[]`},
	{"oidvector", 30, "1 2", `["1", "2"]`},
	{"oid", 26, "5", `"5"`},
	{"enum", moodOID, "happy", `"happy"`},
	{"array of enum", moodsOID, "{happy,\"so so\"}", `["happy", "so so"]`},
	{"domain over domain", priceOID, "12", `12`},
	{"domain over array", tagsOID, "{a}", `["a"]`},
	{"domain over itself", loopOID, "12", `"12"`},
	{"composite in jsonb's order", pointOID, "(1,2)", `{"x": 2, "y": 1}`},
	{"composite with nulls", pointOID, "(,2)", `{"x": 2, "y": null}`},
	{"composite nested", lineOID, `("a ""b"" \\ c","(1,)","2024-01-02 03:04:05")`, `{"at": "2024-01-02T03:04:05", "to": {"x": null, "y": 1}, "name": "a \"b\" \\ c"}`},
	{"composite empty string and null", lineOID, `("",,)`, `{"at": null, "to": null, "name": ""}`},
	{"composite with other fields", pointOID, "(1,2,3)", `"(1,2,3)"`},
	{"array of composite", linesOID, `{"(a,\"(1,2)\",)"}`, `[{"at": null, "to": {"x": 2, "y": 1}, "name": "a"}]`},
	{"array with the element's delimiter", semisOID, "{a|b}", `["a", "b"]`},
	{"hstore", hstoreOID, `"a"=>"1", "b\"c"=>NULL`, `{"a": "1", "b\"c": null}`},
	{"unknown type", 99999, "{1}", `"{1}"`},
}

func TestAppendJSON_PrintsWhatToJSONBPrints(t *testing.T) {
	for _, v := range values {
		got := string(pgvalue.AppendJSON([]byte("x"), v.typ, []byte(v.text), userTypes))
		if got != "x"+v.want {
			t.Errorf("%s: %s\n got %s\nwant x%s", v.name, v.text, got, v.want)
		}
	}
}

func TestPrinter_NumbersAsString(t *testing.T) {
	p := pgvalue.Printer{NumbersAsString: true}
	for _, v := range []struct {
		typ        uint32
		text, want string
	}{
		{20, "9223372036854775807", `"9223372036854775807"`},
		{701, "1e+20", `"100000000000000000000"`},
		{1700, "NaN", `"NaN"`},
		{23, "12\"", `"12\""`},
		{1007, "{1,NULL}", `["1", null]`},
		{pointOID, "(1,2)", `{"x": "2", "y": "1"}`},
		{3802, `{"a": 1}`, `{"a": 1}`},
	} {
		if got := string(p.AppendJSON(nil, v.typ, []byte(v.text), userTypes)); got != v.want {
			t.Errorf("%s: got %s, want %s", v.text, got, v.want)
		}
	}
}

func TestAppendJSON_ScalarsDoNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 4096)
	for _, v := range values {
		switch pgvalue.KindOf(v.typ, userTypes) {
		case pgvalue.Array, pgvalue.Vector, pgvalue.Composite, pgvalue.Hstore:
			continue
		}
		text := []byte(v.text)
		if n := testing.AllocsPerRun(10, func() { buf = pgvalue.AppendJSON(buf[:0], v.typ, text, userTypes) }); n > 0 {
			t.Errorf("%s: %v allocations", v.name, n)
		}
	}
}

func TestCompareNumbers_ComparesByValue(t *testing.T) {
	// In rising order; each is compared with each.
	rising := []string{"-Infinity", "-1e20", "-9223372036854775809", "-1.01", "-1", "-1e-400", "0", "1e-400", "0.001", "0.01",
		"0.99999999999999999999", "1", "1.00000000000000000001", "9.99", "10", "1e2", "100.5", "9223372036854775807", "9223372036854775808", "1e400", "Infinity", "NaN"}
	for i, a := range rising {
		for j, b := range rising {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := pgvalue.CompareNumbers([]byte(a), []byte(b)); got != want {
				t.Errorf("compare(%s, %s) = %d, want %d", a, b, got, want)
			}
		}
	}
	for _, same := range [][2]string{{"0", "-0"}, {"1", "1.000"}, {"100", "1e2"}, {"0.5", "5e-1"}, {"-0.0", "0e9"}} {
		if pgvalue.CompareNumbers([]byte(same[0]), []byte(same[1])) != 0 {
			t.Errorf("%s and %s are not equal", same[0], same[1])
		}
	}
}

func TestAppendUnquoted_IsTheInverseOfAppendString(t *testing.T) {
	for _, s := range []string{"", "a", "\x00\x1f\"\\/\b\f\n\r\t", "é€😀", "\u2028"} {
		q := pgvalue.AppendString(nil, s)
		if got := string(pgvalue.AppendUnquoted(nil, q)); got != s {
			t.Errorf("%q: %s: %q", s, q, got)
		}
	}
	if got := string(pgvalue.AppendUnquoted(nil, []byte(`"\ud83d\ude00\ud83d\/\ude00A"`))); got != "😀\uFFFD/\uFFFDA" {
		t.Errorf("surrogates: %q", got)
	}
}

func FuzzAppendJSON_AlwaysPrintsJSON(f *testing.F) {
	for _, v := range values {
		f.Add(v.typ, []byte(v.text))
	}
	f.Fuzz(func(t *testing.T, typ uint32, text []byte) {
		for _, p := range []pgvalue.Printer{{}, {NumbersAsString: true}} {
			got := p.AppendJSON(nil, typ, text, userTypes)
			if !json.Valid(got) || !pgvalue.ValidJSON(got) {
				t.Fatalf("type %d, text %q: not JSON: %s", typ, text, got)
			}
		}
	})
}

func FuzzValidJSON_AgreesWithTheStandardLibrary(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0.5e+3,"\u00e9\n"],"b":{}}`, ` [ ] `, `tru`, `01`, `1.`, `"\ud800"`, "\"\x01\"", `[1,]`, `{"a" : null , "b":true}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := pgvalue.ValidJSON(b); got && !json.Valid(b) {
			t.Fatalf("%q is taken for JSON", b)
		} else if !got && json.Valid(b) && json.Valid([]byte(string([]rune(string(b))))) && string([]rune(string(b))) == string(b) {
			t.Fatalf("%q is not taken for JSON", b)
		}
		if pgvalue.ValidJSON(b) {
			c := pgvalue.AppendCompact(nil, b)
			var x, y any
			if json.Unmarshal(b, &x) == nil && json.Unmarshal(c, &y) != nil {
				t.Fatalf("%q: compact form %q is not JSON", b, c)
			}
		}
	})
}

func FuzzNumbers_AgreeWithBig(f *testing.F) {
	f.Add([]byte("1.50"), []byte("15e-1"))
	f.Add([]byte("-0.0012e5"), []byte("120"))
	f.Add([]byte("0.00e7"), []byte("-9223372036854775808"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, y := rat(a), rat(b)
		if x == nil || y == nil || len(a) > 40 || len(b) > 40 {
			return
		}
		if got, want := pgvalue.CompareNumbers(a, b), x.Cmp(y); got != want {
			t.Fatalf("compare(%s, %s) = %d, want %d", a, b, got, want)
		}
		if out, ok := pgvalue.AppendNumber(nil, a); ok {
			if back := rat(out); back == nil || back.Cmp(x) != 0 {
				t.Fatalf("%s is printed as %s", a, out)
			}
		}
	})
}

// rat returns the number, nil when it is none or too large to hold.
func rat(b []byte) *big.Rat {
	if !pgvalue.IsNumber(b) {
		return nil
	}
	var e int
	var exp bool
	for _, c := range b {
		if c|0x20 == 'e' {
			exp = true
		} else if exp && c >= '0' && c <= '9' {
			if e = e*10 + int(c-'0'); e > 1000 {
				return nil
			}
		}
	}
	r, _ := new(big.Rat).SetString(string(b))
	return r
}

func BenchmarkAppendJSON(b *testing.B) {
	for _, v := range []struct {
		name string
		typ  uint32
		text string
	}{
		{"int8", 20, "1234567890"},
		{"text", 25, "a short text of a common length"},
		{"timestamptz", 1184, "2024-01-02 03:04:05.123456+00"},
		{"jsonb", 3802, `{"name": "a thing", "tags": ["x", "y"], "price": 12.50, "stock": {"a": 1, "b": 2}}`},
		{"array", 1007, "{1,2,3,4}"},
	} {
		b.Run(v.name, func(b *testing.B) {
			b.ReportAllocs()
			buf, text := make([]byte, 0, 512), []byte(v.text)
			for b.Loop() {
				buf = pgvalue.AppendJSON(buf[:0], v.typ, text, nil)
			}
		})
	}
}
