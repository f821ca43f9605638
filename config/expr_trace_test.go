package config

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

// outline prints a clause as a person would read it.
func outline(c *relay.Clause, indent string) string {
	var b strings.Builder
	b.WriteString(indent + c.Outcome + " " + c.Operator + " " + c.Text)
	for _, v := range c.Values {
		b.WriteString(" (" + v.Name + " = " + string(v.Value) + v.Unknown + ")")
	}
	if c.Error != "" {
		b.WriteString(" ERROR " + c.Error)
	}
	b.WriteString("\n")
	for i := range c.Parts {
		b.WriteString(outline(&c.Parts[i], indent+"  "))
	}
	return b.String()
}

func explained(t *testing.T, when string) (string, bool) {
	t.Helper()
	cfg := mustLoadText(t, sourceText+"locals {\n  settled = new.status == \"paid\"\n}\nevent \"a\" {\n  table = \"public.orders\"\n  on = [\"update\"]\n  when = "+when+" && (local.settled || true)\n  data = {}\n}\nsink \"stdout\" \"out\" { events = [\"**\"] }\n")
	prog, err := cfg.Rules[0].Bind(orders)
	if err != nil {
		t.Fatal(err)
	}
	clause := prog.(relay.Explainer).Explain(updated())
	ok, err := prog.Eval(updated(), &relay.Draft{})
	if got := clause.Outcome; (got == relay.OutcomeTrue) != ok || (got == relay.OutcomeError) != (err != nil) {
		t.Errorf("%s: explained as %s, judged %v, %v", when, got, ok, err)
	}
	return outline(clause, ""), ok
}

func TestExplain_SaysWhichPartDecidedAndOnWhat(t *testing.T) {
	const tail = "  true || local.settled || true\n    true  new.status == \"paid\" (new.status = \"paid\")\n    true  true\n"
	for _, x := range []struct{ when, want string }{
		{`new.status == "paid" && old.status == "paid"`, "false && new.status == \"paid\" && old.status == \"paid\" && (local.settled || true)\n" +
			"  true  new.status == \"paid\" (new.status = \"paid\")\n  false  old.status == \"paid\" (old.status = \"open\")\n" + tail},
		{`!(new.total > 20)`, "true && !(new.total > 20) && (local.settled || true)\n  true ! !(new.total > 20)\n    false  new.total > 20 (new.total = 12.50)\n" + tail},
		{`new.body == "x"`, "error && new.body == \"x\" && (local.settled || true) ERROR the value of column body of public.orders was not sent, because it is stored out of line (TOAST) and did not change: a rule that decides on it needs REPLICA IDENTITY FULL\n" +
			"  error  new.body == \"x\" (new.body = not sent: stored out of line (TOAST), and not changed) ERROR the value of column body of public.orders was not sent, because it is stored out of line (TOAST) and did not change: a rule that decides on it needs REPLICA IDENTITY FULL\n" + tail},
		{`(new.paid ? new.doc.n > 5 : changed.at)`, "true && (new.paid ? new.doc.n > 5 : changed.at) && (local.settled || true)\n  true ?: new.paid ? new.doc.n > 5 : changed.at\n    true  new.paid (new.paid = true)\n    true  new.doc.n > 5 (new.doc.n = 12345678901234567890)\n" + tail},
		{`contains([for x in new.tags : upper(x)], "A")`, "true && contains([for x in new.tags : upper(x)], \"A\") && (local.settled || true)\n  true  contains([for x in new.tags : upper(x)], \"A\") (new.tags = [\"a\", \"b c\"])\n" + tail},
	} {
		if got, _ := explained(t, x.when); got != x.want {
			t.Errorf("%s\n got %s\nwant %s", x.when, got, x.want)
		}
	}
}

// With REPLICA IDENTITY FULL a change has its old row: where there is none it is
// no change, and the identity is not to blame.
func TestExplain_BlamesNoFullIdentity(t *testing.T) {
	full := *orders
	full.Identity = relay.IdentityFull
	cfg := mustLoadText(t, sourceText+"event \"a\" {\n  table = \"public.orders\"\n  on = [\"update\"]\n  when = old.status == \"open\"\n  data = {}\n}\nsink \"stdout\" \"out\" { events = [\"**\"] }\n")
	prog, err := cfg.Rules[0].Bind(&full)
	if err != nil {
		t.Fatal(err)
	}
	got := outline(prog.(relay.Explainer).Explain(&relay.Change{Op: relay.Update, Relation: &full, New: updated().New}), "")
	if want := "error  old.status == \"open\" (old.status = known only of a change) ERROR the old value of column status of public.orders is known only of a change\n"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestRuleError_HasThePlaceAndTheValues(t *testing.T) {
	src := sourceText + `
event "order.shipped" {
  table = "public.orders"
  on    = ["update"]
  data = {
    id  = new.id
    net = new.total - new.tax
    who = hmacsha256("pepper", new.doc.nothing)
  }
}
sink "stdout" "out" { events = ["**"] }
`
	prog, err := mustLoadText(t, src).Rules[0].Bind(orders)
	if err != nil {
		t.Fatal(err)
	}
	_, err = prog.Eval(updated(), &relay.Draft{})
	var re *relay.RuleError
	if !errors.As(err, &re) {
		t.Fatalf("the error is %v", err)
	}
	got, _ := json.Marshal(re)
	const want = `{"argument":"data","message":"new.tax is null, and - needs a number; guard it, as in new.tax != null \u0026\u0026 ..., or give a value with coalesce(new.tax, ...)","file":"rules.hcl","line":10,"column":11,"snippet":"    net = new.total - new.tax","values":[{"name":"new.total","value":12.50},{"name":"new.tax","value":null}]}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if strings.Contains(err.Error(), "12.50") {
		t.Error("the text of the error has a value of the row")
	}
	broken := strings.Replace(src, "new.total - new.tax", "1", 1)
	prog, err = mustLoadText(t, broken).Rules[0].Bind(orders)
	if err != nil {
		t.Fatal(err)
	}
	_, err = prog.Eval(updated(), &relay.Draft{})
	if !errors.As(err, &re) || re.Line != 11 || strings.Contains(re.Snippet+err.Error(), "pepper") || !strings.Contains(re.Snippet, "******") {
		t.Errorf("a literal key is shown, or the place is wrong: %+v", re)
	}
}
