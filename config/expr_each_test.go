package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func eachScope(t *testing.T, forEach string) exprScope {
	scope := tableScope()
	scope.forEach = parse(t, forEach)
	return scope
}

// made returns the events of a draft, as key and data.
func made(d *relay.Draft) []string {
	var out []string
	for i := range d.Len() {
		e := d.At(i)
		out = append(out, string(e.Key)+" "+string(e.Data))
	}
	return out
}

func TestForEach_MakesAnEventOfEachElement(t *testing.T) {
	const data = `[each.key, each.value]`
	for _, x := range []struct {
		forEach, key, data, want string // "" is no event; an error is a part of it
	}{
		{`new.tags`, ``, data, ` [0,"a"]| [1,"b c"]`},
		{`new.tags`, `"${row.id}/${each.value}"`, data, `7/a [0,"a"]|7/b c [1,"b c"]`},
		{`{ x = 1, y = { z = [2] } }`, `each.key`, `{ v = try(each.value.z[0], each.value) }`, `x {"v":1}|y {"v":2}`},
		{`jsondecode("{\"a\":1,\"a\":2}")`, ``, data, ` ["a",2]`},
		{`[for x in new.tags : x if x != "a"]`, ``, data, ` [0,"b c"]`},
		{`[1, 2]`, ``, `[for i in [10] : i + each.value]`, ` [11]| [12]`},
		{`[]`, ``, data, ``}, {`{}`, ``, data, ``}, {`null`, ``, data, ``}, {`new.doc.nothing`, ``, data, ``}, {`old.tax`, ``, data, "replica identity"},
		{`new.doc.s`, ``, data, "for_each: rules.hcl:1,1-10: for_each needs a list or an object, and this is a string"},
		{`[1, 0]`, ``, `1 / each.value`, "element 1 of for_each: data:"},
	} {
		p := exprs{key: x.key, data: x.data}.bind(t, eachScope(t, x.forEach), orders)
		for range 2 { // the draft is used again
			d := relay.Draft{More: make([]relay.Draft, 0, 8)}
			ok, err := p.Eval(updated(), &d)
			got := strings.Join(made(&d), "|")
			if err != nil {
				got = err.Error()
			}
			if x.want == "" && (ok || err != nil) || x.want != "" && (ok != (err == nil) || err == nil && got != x.want || !strings.Contains(got, x.want)) {
				t.Errorf("for_each %s data %s\n got %s, %v\nwant %s", x.forEach, x.data, got, ok, x.want)
			}
		}
	}
}

func TestForEach_IsBounded(t *testing.T) {
	list := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]" }
	var d relay.Draft
	p := exprs{data: `each.value`}.bind(t, eachScope(t, list(maxEvents)), orders)
	if ok, err := p.Eval(updated(), &d); !ok || err != nil || d.Len() != maxEvents {
		t.Errorf("%d events, %v", d.Len(), err)
	}
	d = relay.Draft{}
	p = exprs{data: `each.value`}.bind(t, eachScope(t, list(maxEvents+1)), orders)
	if ok, err := p.Eval(updated(), &d); ok || err == nil || !strings.Contains(err.Error(), "more than 1000 elements") {
		t.Errorf("beyond the bound: %v, %v", ok, err)
	}
	c := updated()
	c.New[1].Text = []byte(strings.Repeat("x", maxEventData/10))
	d = relay.Draft{}
	p = exprs{data: `new.status`}.bind(t, eachScope(t, list(11)), orders)
	if ok, err := p.Eval(c, &d); ok || err == nil || !strings.Contains(err.Error(), "more than 64 MiB") {
		t.Errorf("beyond the bound of bytes: %v, %v", ok, err)
	}
}

func TestForEach_MistakesInTheUseOfEach(t *testing.T) {
	for _, x := range []struct {
		exprs
		forEach, want string
	}{
		{exprs{when: `each.value == 1`, data: `1`}, `new.tags`, "To choose among these, filter"},
		{exprs{data: `each`}, `new.tags`, "each has two attributes"},
		{exprs{data: `each.valeu`}, `new.tags`, "each has two attributes"},
		{exprs{data: `1`}, `[each.value]`, "for_each is what each is made of"},
		{exprs{data: `1`}, `"x"`, `for_each needs a list or an object, and "x" is a string`},
		{exprs{data: `1`}, `op`, "for_each needs a list or an object"},
		{exprs{data: `each.value`}, ``, "this event has none"},
		{exprs{data: `eech.value`}, `new.tags`, "Did you mean each?"},
		{exprs{data: `each.key && true`}, `new.tags`, "&& needs a bool"},
	} {
		_, diags := x.compile(t, eachScope(t, x.forEach))
		if len(diags) != 1 || !strings.Contains(diags[0].Detail, x.want) {
			t.Errorf("%+v: %v", x, diags)
		}
	}
}

func TestForEach_IsPartOfTheRule(t *testing.T) {
	src := func(forEach, more string) string {
		return sourceText + fmt.Sprintf(`
event "item.ordered" {
  table    = "public.orders"
  on       = ["insert"]
  for_each = %s
  data     = each.value
  %s
}
sink "stdout" "out" { events = ["**"] }
`, forEach, more)
	}
	one := mustLoadText(t, src("new.items", "")).Rules[0]
	if two := mustLoadText(t, src("new.others", "")).Rules[0]; one.Hash == two.Hash {
		t.Error("another for_each has the same hash")
	}
	if len(one.Reads) != 1 || one.Reads[0].Name != "items" {
		t.Errorf("the rule reads %v", one.Reads)
	}
	if one.OnError != relay.OnErrorContinue {
		t.Error("on_error is not continue by default")
	}
	if r := mustLoadText(t, src("new.items", `on_error = "halt"`)).Rules[0]; r.OnError != relay.OnErrorHalt || r.Hash == one.Hash {
		t.Error("on_error is not read, or a reload that changes it would change nothing")
	}
}
