package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/rowhook/rowhook/relay"
)

// The plain evaluator of HCL is the reference: an expression that both can
// judge gives the same value in both, or an error in both. The generator keeps
// to what they share. On purpose they differ where the language says so: a
// comparison of different kinds is an error, strings are not numbers, both
// sides of a conditional keep their kinds, columns may be unknown, JSON keeps
// its bytes, null is neither true nor false for && and ||, dividing by zero is
// an error and not infinity, there is no minus zero, and fractions are decimal
// (the generator's are binary too).

// gen makes an expression of random bytes.
type gen struct{ src []byte }

func (g *gen) n(limit int) int {
	if len(g.src) == 0 {
		return 0
	}
	b := g.src[0]
	g.src = g.src[1:]
	return int(b) % limit
}

func (g *gen) pick(s ...string) string { return s[g.n(len(s))] }

func (g *gen) bool(depth int) string {
	if depth <= 0 {
		return g.pick("new.paid", "true", "coalesce(old.paid, false)", "false", "changed.status", "changed.total")
	}
	d := depth - 1
	switch g.n(10) {
	case 0:
		return fmt.Sprintf("(%s && %s)", g.bool(d), g.bool(d))
	case 1:
		return fmt.Sprintf("(%s || %s)", g.bool(d), g.bool(d))
	case 2:
		return "!" + g.bool(d)
	case 3:
		return fmt.Sprintf("(%s %s %s)", g.number(d), g.pick("<", "<=", ">", ">=", "==", "!="), g.number(d))
	case 4:
		return fmt.Sprintf("(%s %s %s)", g.text(d), g.pick("==", "!="), g.text(d))
	case 5:
		return fmt.Sprintf("(%s %s null)", g.pick(g.text(d), g.number(d), g.bool(d)), g.pick("==", "!="))
	case 6:
		return fmt.Sprintf("(%s ? %s : %s)", g.bool(d), g.bool(d), g.bool(d))
	case 7:
		return fmt.Sprintf("can(%s)", g.pick(g.text(d), g.number(d), g.bool(d)))
	case 8:
		return fmt.Sprintf("contains(split(\",\", %s), coalesce(%s, \"a\"))", g.text(d), g.text(d))
	}
	return g.bool(0)
}

func (g *gen) number(depth int) string {
	if depth <= 0 {
		return g.pick("new.id", "new.total", "new.tax", "old.total", "0", "7", "-3", "1.5", "0.125", "1000000007", "9223372036854775807", "null")
	}
	d := depth - 1
	switch g.n(13) {
	case 11:
		return fmt.Sprintf("length(%s)", g.list(d))
	case 12:
		return fmt.Sprintf("lookup({ a = (%s + 0), b = 2 }, %s, 3)", g.number(d), g.pick("\"a\"", "\"b\"", "\"c\""))
	case 0, 1:
		return fmt.Sprintf("(%s %s %s)", g.number(d), g.pick("+", "-", "*"), g.number(d))
	case 2:
		return fmt.Sprintf("(%s %s %s)", g.number(d), "/", g.pick("2", "8", "0.25"))
	case 3:
		return "(-" + g.number(d) + ")"
	case 4:
		return fmt.Sprintf("%s(%s)", g.pick("abs", "ceil", "floor"), g.number(d))
	case 5:
		return fmt.Sprintf("%s(%s, %s)", g.pick("max", "min"), g.number(d), g.number(d))
	case 6:
		return fmt.Sprintf("coalesce(%s, %s, 5)", g.number(d), g.number(d))
	case 7:
		return fmt.Sprintf("tonumber(%s)", g.pick("\"12\"", "\"x\"", "\"-0.5\"", g.number(d)))
	case 8:
		return fmt.Sprintf("strlen(%s)", g.text(d))
	case 9:
		return fmt.Sprintf("(%s ? %s : %s)", g.bool(d), g.number(d), g.number(d))
	case 10:
		return fmt.Sprintf("try(%s, %s)", g.number(d), g.number(d))
	}
	return g.number(0)
}

func (g *gen) text(depth int) string {
	if depth <= 0 {
		return g.pick("new.status", "old.status", "new.body", "\"paid\"", "\"\"", "\"a,b\"", "\" x \"", "null")
	}
	d := depth - 1
	switch g.n(15) {
	case 10:
		return fmt.Sprintf("regex(%s, %s)", g.pick("\"[a-z]+\"", "\"^.\"", "\"x*\""), g.text(d))
	case 11:
		return fmt.Sprintf("regexreplace(%s, %s, %s)", g.pick("\"[a-z]\"", "\"^\"", "\"(a)(b)?\""), g.text(d), g.pick("\"-\"", "\"<$1>\"", "new.status"))
	case 12:
		return fmt.Sprintf("format(\"%s\", %s, (%s + 0))", g.pick("%s|%s", "%5s|%d", "%-4s|%.12f", "%s%%|%020.11f"), g.text(d), g.number(d))
	case 13:
		return fmt.Sprintf("formatdate(%s, %s)", g.pick("\"YYYY-MM-DD\"", "\"EEE hh:mm 'o'\"", "\"D.M.YY\""), g.pick("\"2026-01-31T09:30:00Z\"", "\"1999-12-01T23:59:59+02:00\"", "timeadd(\"2026-01-31T09:30:00Z\", \"36h\")"))
	case 14:
		return fmt.Sprintf("concat([%s], %s)[0]", g.text(d), g.list(d))
	case 0:
		return fmt.Sprintf("\"a${%s}b%s\"", g.pick(g.text(d), "("+g.number(d)+" + 0)", g.bool(d)), g.pick("", "${new.id}", "${new.status}"))
	case 1:
		return fmt.Sprintf("%s(%s)", g.pick("upper", "lower", "trimspace"), g.text(d))
	case 2:
		return fmt.Sprintf("%s(%s, %s)", g.pick("trim", "trimprefix", "trimsuffix"), g.text(d), g.text(d))
	case 3:
		return fmt.Sprintf("replace(%s, %s, %s)", g.text(d), g.pick("\"a\"", "new.status"), g.text(d))
	case 4:
		return fmt.Sprintf("substr(%s, %s, %s)", g.text(d), g.pick("0", "1", "9"), g.pick("0", "1", "2", "-1"))
	case 5:
		return fmt.Sprintf("coalesce(%s, %s, \"z\")", g.text(d), g.text(d))
	case 6:
		return fmt.Sprintf("tostring(%s)", g.pick(g.text(d), "("+g.number(d)+" + 0)", g.bool(d)))
	case 7:
		return fmt.Sprintf("join(\"-\", split(\",\", %s))", g.text(d))
	case 8:
		return fmt.Sprintf("(%s ? %s : %s)", g.bool(d), g.text(d), g.text(d))
	case 9:
		return fmt.Sprintf("try(%s, %s)", g.text(d), g.text(d))
	}
	return g.text(0)
}

// list makes a list of texts.
func (g *gen) list(depth int) string {
	if depth <= 0 {
		return g.pick("split(\",\", coalesce(new.body, \"b,a,b\"))", "[\"b\", \"a\", \"b\"]", "[]", "split(\" \", new.status)", "keys({ z = 1, a = 2 })")
	}
	d := depth - 1
	switch g.n(8) {
	case 0:
		return fmt.Sprintf("concat(%s, %s)", g.list(d), g.list(d))
	case 1:
		return fmt.Sprintf("distinct(split(\",\", %s))", g.text(d))
	case 2:
		return fmt.Sprintf("reverse(%s)", g.list(d))
	case 3:
		return fmt.Sprintf("sort(split(%s, %s))", g.pick("\",\"", "\"\""), g.text(d))
	case 4:
		return fmt.Sprintf("flatten([%s, [%s]])", g.list(d), g.list(d))
	case 5:
		return fmt.Sprintf("[for i, x in %s : \"${i}${x}\" if x != %s]", g.list(d), g.pick("\"a\"", "new.status"))
	case 6:
		return fmt.Sprintf("regexall(\"[a-z]+\", %s)", g.text(d))
	}
	return fmt.Sprintf("slice(%s, 0, 0)", g.list(d))
}

func (g *gen) data(depth int) string {
	value := func() string { return g.pick(g.text(depth), g.number(depth), g.bool(depth)) }
	switch g.n(9) {
	case 5:
		return g.list(depth)
	case 6:
		return fmt.Sprintf("values({ b = %s, a = %s })", value(), value())
	case 7:
		return fmt.Sprintf("{for i, x in %s : \"k${i}\" => { v = x, n = %s }}", g.list(depth), value())
	case 8:
		return fmt.Sprintf("jsondecode(jsonencode([%s, { \"é\" = [%s, {}] }]))[*]", value(), value())
	case 0:
		return value()
	case 1:
		return fmt.Sprintf("{ a = %s, b = { c = %s }, \"d e\" = [%s, %s] }", value(), value(), value(), value())
	case 2:
		return fmt.Sprintf("merge({ a = %s, b = 1 }, { b = %s })", value(), value())
	case 3:
		return fmt.Sprintf("[for x in [%s, %s] : x if x != null]", g.text(depth), g.text(depth))
	}
	return fmt.Sprintf("{ a = %s, b = jsondecode(jsonencode({ x = %s })).x }", value(), value())
}

// The columns the generator uses, in both worlds.
var fuzzRows = []struct{ new, old []string }{
	{[]string{"id=7", "status=paid", "total=12.5", "paid=t", "body=a,b,c"}, []string{"id=7", "status=open", "total=10.125", "paid=f"}},
	{[]string{"id=7", "status=paid", "total=0", "tax=-3", "paid=t", "body="}, []string{"id=7", "status=paid", "total=0", "paid=t"}},
	{[]string{"id=-9007199254740993", "status=Paid x", "total=123456789012345678901234567890.5", "paid=f", "body= x "}, nil},
}

func ctyRow(r relay.Row) cty.Value {
	attrs := map[string]cty.Value{}
	for i, c := range orders.Columns {
		null, text := r == nil || r[i].State != relay.Known, ""
		if !null {
			text = string(r[i].Text)
		}
		switch c.TypeOID {
		case 20, 1700:
			attrs[c.Name] = cty.NullVal(cty.Number)
			if !null {
				attrs[c.Name] = cty.MustParseNumberVal(text)
			}
		case 16:
			attrs[c.Name] = cty.NullVal(cty.Bool)
			if !null {
				attrs[c.Name] = cty.BoolVal(text == "t")
			}
		default:
			attrs[c.Name] = cty.NullVal(cty.String)
			if !null {
				attrs[c.Name] = cty.StringVal(text)
			}
		}
	}
	return cty.ObjectVal(attrs)
}

var referenceFunctions = map[string]function.Function{
	"upper": stdlib.UpperFunc, "lower": stdlib.LowerFunc, "trimspace": stdlib.TrimSpaceFunc, "trim": stdlib.TrimFunc,
	"trimprefix": stdlib.TrimPrefixFunc, "trimsuffix": stdlib.TrimSuffixFunc, "replace": stdlib.ReplaceFunc, "substr": stdlib.SubstrFunc,
	"strlen": stdlib.StrlenFunc, "coalesce": stdlib.CoalesceFunc, "abs": stdlib.AbsoluteFunc, "ceil": stdlib.CeilFunc, "floor": stdlib.FloorFunc,
	"max": stdlib.MaxFunc, "min": stdlib.MinFunc, "tostring": stdlib.MakeToFunc(cty.String), "tonumber": stdlib.MakeToFunc(cty.Number),
	"join": stdlib.JoinFunc, "split": stdlib.SplitFunc, "contains": stdlib.ContainsFunc, "merge": stdlib.MergeFunc,
	"regex": stdlib.RegexFunc, "regexall": stdlib.RegexAllFunc, "regexreplace": regexReplace, "format": stdlib.FormatFunc,
	"formatdate": stdlib.FormatDateFunc, "timeadd": stdlib.TimeAddFunc, "length": stdlib.LengthFunc, "lookup": stdlib.LookupFunc, "concat": stdlib.ConcatFunc,
	"distinct": stdlib.DistinctFunc, "reverse": stdlib.ReverseListFunc, "sort": stdlib.SortFunc, "flatten": stdlib.FlattenFunc, "keys": stdlib.KeysFunc,
	"values": stdlib.ValuesFunc, "slice": stdlib.SliceFunc,
	"jsonencode": stdlib.JSONEncodeFunc, "jsondecode": stdlib.JSONDecodeFunc, "try": tryfunc.TryFunc, "can": tryfunc.CanFunc,
}

// regexReplace has the arguments of the other functions of patterns.
var regexReplace = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "pattern", Type: cty.String}, {Name: "s", Type: cty.String}, {Name: "replacement", Type: cty.String}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(a []cty.Value, _ cty.Type) (cty.Value, error) {
		return stdlib.RegexReplace(a[1], a[0], a[2])
	},
})

func reference(expr hcl.Expression, c *relay.Change) (v cty.Value, err error) {
	changed := map[string]cty.Value{}
	newRow, oldRow := ctyRow(c.New), ctyRow(c.Old)
	for _, name := range []string{"status", "total"} {
		changed[name] = newRow.GetAttr(name).Equals(oldRow.GetAttr(name)).Not()
		if a, b := newRow.GetAttr(name), oldRow.GetAttr(name); a.IsNull() || b.IsNull() {
			changed[name] = cty.BoolVal(a.IsNull() != b.IsNull())
		}
	}
	defer func() { // HCL's conditional and short circuit panic on some nulls
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	v, diags := expr.Value(&hcl.EvalContext{
		Variables: map[string]cty.Value{"new": newRow, "old": oldRow, "changed": cty.ObjectVal(changed)},
		Functions: referenceFunctions,
	})
	if diags.HasErrors() {
		return v, diags
	}
	return v, nil
}

// differential judges one expression both ways and says what differs.
func differential(src string, c *relay.Change) (problem string, judged bool) {
	expr, diags := hclsyntax.ParseExpression([]byte(src), "fuzz.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		return "the generator made no HCL: " + diags.Error(), false
	}
	e, diags := compileExprs(tableScope(), nil, nil, nil, expr)
	if diags.HasErrors() {
		// A mistake that is certain: the reference fails too, or would if the
		// branch were taken.
		return "", false
	}
	p, err := e.bind(orders)
	if err != nil {
		return err.Error(), false
	}
	var d relay.Draft
	_, ours := p.Eval(c, &d)
	want, theirs := reference(expr, c)
	switch {
	case theirs != nil && strings.HasPrefix(theirs.Error(), "panic"):
		return "", false
	case (ours == nil) != (theirs == nil):
		return fmt.Sprintf("ours: %s %v\nreference: %#v %v", d.Data, ours, want, theirs), true
	case ours != nil:
		return "", true
	}
	text, err := ctyjson.Marshal(want, want.Type())
	if err != nil {
		return err.Error(), false
	}
	if a, b := decode(d.Data), decode(text); !reflect.DeepEqual(a, b) {
		return fmt.Sprintf("ours: %s\nreference: %s", d.Data, text), true
	}
	return "", true
}

// decode reads JSON with its numbers as fractions.
func decode(b []byte) any {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return err.Error()
	}
	var exact func(any) any
	exact = func(v any) any {
		switch v := v.(type) {
		case json.Number:
			r, _ := new(big.Rat).SetString(v.String())
			return r.RatString()
		case []any:
			for i := range v {
				v[i] = exact(v[i])
			}
		case map[string]any:
			for k := range v {
				v[k] = exact(v[k])
			}
		}
		return v
	}
	return exact(v)
}

func fuzzChange(i int) *relay.Change {
	r := fuzzRows[i%len(fuzzRows)]
	if r.old == nil {
		return &relay.Change{Op: relay.Insert, Relation: orders, New: row(r.new...)}
	}
	return &relay.Change{Op: relay.Update, Relation: orders, New: row(r.new...), Old: row(r.old...)}
}

func TestExpr_AgreesWithTheReferenceEvaluator(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	judged, failures := 0, 0
	for i := range 6000 {
		seed := make([]byte, 120)
		for j := range seed {
			seed[j] = byte(rng.Uint32())
		}
		src := (&gen{seed}).data(1 + i%3)
		problem, ok := differential(src, fuzzChange(i))
		if problem != "" {
			t.Errorf("%s\nof row %d\n%s", src, i%len(fuzzRows), problem)
			if failures++; failures > 10 {
				t.Fatal("and so on")
			}
		}
		if ok {
			judged++
		}
	}
	if judged < 3000 {
		t.Errorf("only %d expressions were judged by both", judged)
	}
}

func FuzzExpr_AgreesWithTheReferenceEvaluator(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, byte(0))
	f.Add([]byte{0, 9, 3, 1, 0, 7, 200, 13, 77, 42, 5}, byte(1))
	f.Add([]byte{4, 7, 1, 9, 255, 30, 2, 2, 0, 3}, byte(2))
	f.Fuzz(func(t *testing.T, seed []byte, change byte) {
		src := (&gen{seed}).data(3)
		if len(src) > 4000 {
			return
		}
		if problem, _ := differential(src, fuzzChange(int(change))); problem != "" {
			t.Fatalf("%s\n%s", src, problem)
		}
	})
}

// FuzzExpr_NeverPanics evaluates a fixed rule on documents and texts of any
// kind: no change may take the daemon down, and data is always JSON.
func FuzzExpr_NeverPanics(f *testing.F) {
	e, diags := compileExprs(tableScope(), nil, nil, nil, func() hcl.Expression {
		x, diags := hclsyntax.ParseExpression([]byte(`{
			a = try(new.doc.a.b[0], null), b = try(new.doc["x"] == new.doc.y, false), c = merge(row, try(new.doc.o, null)),
			d = try([for k, v in new.doc : "${k}${v}"], []), e = try(keys(new.doc), null), f = try(new.total + 1, null), g = try(new.total > 5, null),
			h = try(new.doc[*].id, 1), i = new.tags, j = try(contains(new.tags, new.status), null), k = try(jsondecode(new.status), new.status), l = jsonencode(new.doc)
		}`), "rules.hcl", hcl.InitialPos)
		if diags.HasErrors() {
			panic(diags)
		}
		return x
	}())
	if diags.HasErrors() {
		f.Fatal(diags)
	}
	f.Add(`{"a":{"b":[1]},"x":"\u00e9","y":"é","o":{"id":5}}`, "paid", "12.50", "{a,b}")
	f.Add(`[{"id":1},{"id":2}]`, `{"k":[]}`, "NaN", "{}")
	f.Add(`{"a":`, "\xff", "1e", "{")
	f.Fuzz(func(t *testing.T, doc, status, total, tags string) {
		p, err := e.bind(orders)
		if err != nil {
			t.Fatal(err)
		}
		c := &relay.Change{Op: relay.Insert, Relation: orders, New: row("id=1", "doc="+doc, "status="+status, "total="+total, "tags="+tags)}
		var d relay.Draft
		if ok, err := p.Eval(c, &d); ok && !json.Valid(d.Data) {
			t.Fatalf("not JSON: %q", d.Data)
		} else if ok != (err == nil) {
			t.Fatal(ok, err)
		}
	})
}
