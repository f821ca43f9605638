package config

import (
	"strings"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func evalData(t *testing.T, scope exprScope, expr string) (string, error) {
	t.Helper()
	var d relay.Draft
	_, err := exprs{data: expr}.bind(t, scope, orders).Eval(updated(), &d)
	return string(d.Data), err
}

// What the reference shows of each function is so.
func TestFunctions_ExamplesHold(t *testing.T) {
	for name := range functionExamples {
		if functions[name] == nil {
			t.Errorf("there is an example of %s, and no such function", name)
		}
	}
	for name, fn := range functions {
		if len(functionExamples[name]) == 0 {
			t.Errorf("%s has no example", name)
		}
		if fn.doc == "" || !strings.HasSuffix(fn.doc, ".") || fn.result == 0 {
			t.Errorf("%s has no doc, or no result", name)
		}
		for _, x := range functionExamples[name] {
			if got, err := evalData(t, tableScope(), x.call); err != nil || got != x.result {
				t.Errorf("%s\n got %s, %v\nwant %s", x.call, got, err, x.result)
			}
		}
	}
}

func TestFunctions_AtTheirEdges(t *testing.T) {
	for _, x := range []struct{ expr, want string }{ // the result, or a part of the error
		{`[round(2.4), round(-2.5), round(0.05, 1), round(12.50, 4), round(new.total), round(99.995, 2)]`, `[2,-3,0.1,12.5,13,100]`},
		{`round(1, 1.5)`, "whole number of digits"},
		{`[sort(["b", "a", "á"]), sort([]), sort([10, 9.5, 1e1])]`, `[["a","b","á"],[],[9.5,10,10]]`},
		{`sort([1, "a"])`, "strings alone or of numbers alone, and there is a string"},
		{`distinct([1, 1.0, "1", true, null, null])`, `[1,"1",true,null]`},
		{`distinct([[1]])`, "there is a list"},
		{`[slice([1, 2], 5), slice([1, 2], 1, 9), slice([1, 2], 1, 1)]`, `[[],[2],[]]`},
		{`slice([1], 2, 1)`, "not below from"},
		{`[flatten([]), sum([]), alltrue([]), anytrue([]), reverse([])]`, `[[],0,true,false,[]]`},
		{`sum([1, "2"])`, "there is a string in it"},
		{`alltrue([null])`, "there is null in it"},
		{`[formatdate("hh:mm", "2026-01-31 09:30:00"), formatdate("ZZZZ", "2026-01-31T09:30:00+02:00"), formatdate("EEE", new.at), formatdate("YYYY", tx.commit_time)]`, `["09:30","+0200","Tue","2024"]`},
		{`formatdate("YYYY", new.status)`, "new.status is none"},
		{`timeadd("x", "1h")`, "is none"}, {`timeadd("2026-01-31", "1 day")`, "needs a duration"},
		{`[unixtime("1970-01-02"), unixtime("1969-12-31T23:59:59.5Z"), fromunixtime(-0.5), fromunixtime(0)]`, `[86400,-0.5,"1969-12-31T23:59:59.5Z","1970-01-01T00:00:00Z"]`},
		{`fromunixtime(1e12)`, "0 to 9999"},
		{`base64decode("/w==")`, "not base64 of a text"}, {`base64decode("!")`, "not base64"},
		{`hmacsha256("", "x")`, "a key that is not empty"},
		{`[format("%d%%", 5), format("%5.1f|%-6d|%06.2f", 1.25, 3, -1.5), format("%f", 1), format("a")]`, `["5%","  1.3|3     |-01.50","1.000000","a"]`},
		{`format("%d", 1.5)`, "%d needs a whole number, and 1.5 is a number"},
		{`format("%d", new.status)`, "needs a whole number, and new.status is a string"},
		{`format("%s")`, "1 places for values in it and 0 values"},
		{`format("${new.status}%")`, "a percent sign is %%"},
		{`regexall("(a)(b)?", "aab")`, `[["a",null],["a","b"]]`},
		{`regexreplace("", "ab", "-")`, `"-a-b-"`},
		{`[pick(new, "id", "paid"), omit({ a = 1, b = 2 }, "a", "c")]`, `[{"id":7,"paid":true},{"b":2}]`},
		{`pick(new.status, "x")`, "pick() needs an object, and new.status is a string"},
		{`omit(new.doc, new.tax)`, "new.tax is null, and omit() needs a string"},
		{`[pick(new, "id", "body")]`, "column body of public.orders was not sent"},
		{`{ a = pick(new.body, "x") }`, "which is not known in this change"},
	} {
		got, err := evalData(t, tableScope(), x.expr)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, x.want) {
			t.Errorf("%s\n got %s\nwant %s", x.expr, got, x.want)
		}
	}
}

// A column that was not sent is left out and listed, unless it is not wanted.
func TestFunctions_PickAndOmitLeaveOutWhatIsUnknown(t *testing.T) {
	for _, x := range []struct{ expr, want, unchanged string }{
		{`omit(row, "body", "doc", "tags", "at", "tax")`, `{"id":7,"status":"paid","total":12.50,"paid":true}`, ""},
		{`omit(row, "doc", "tags", "at", "tax")`, `{"id":7,"status":"paid","total":12.50,"paid":true}`, "body"},
		{`pick(row, "id", "body")`, `{"id":7}`, "body"},
		{`merge(pick(new, "id", "body"), { a = 1 })`, `{"id":7,"a":1}`, "body"},
		{`pick(row, "id")`, `{"id":7}`, ""},
	} {
		var d relay.Draft
		if _, err := (exprs{data: x.expr}).bind(t, tableScope(), orders).Eval(updated(), &d); err != nil || string(d.Data) != x.want || strings.Join(d.Unchanged, ",") != x.unchanged {
			t.Errorf("%s\n got %s unchanged %v, %v\nwant %s unchanged %s", x.expr, d.Data, d.Unchanged, err, x.want, x.unchanged)
		}
	}
}

// A misspelt column in omit() would let through what is to be kept back.
func TestFunctions_PickAndOmitNeedColumns(t *testing.T) {
	e, diags := exprs{data: `omit(row, "boddy")`}.compile(t, tableScope())
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if _, err := e.bind(orders); err == nil || !strings.Contains(err.Error(), "no column boddy") {
		t.Errorf("bind: %v", err)
	}
	diags = e.check(ordersTable)
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, "Did you mean body?") {
		t.Errorf("check: %v", diags)
	}
}

func TestFunctions_FormatsAreJudgedWhenTheyAreLoaded(t *testing.T) {
	for _, m := range []mistake{
		{`format("%x", 1) == ""`, `"%x"`, sumCall, "%x is not known"},
		{`format("100%") == ""`, `"100%"`, sumCall, "a percent sign is %%"},
		{`formatdate("YYYYY", "2026-01-31") == ""`, `"YYYYY"`, sumCall, "formatdate cannot use this format"},
		{`hmacsha256(new.status, env("X")) == ""`, `env`, sumNotHere, "only as the key"},
	} {
		_, diags := exprs{when: m.expr, data: `1`}.compile(t, tableScope())
		m.verify(t, diags)
	}
}

// The key of hmacsha256 may be a secret, directly or through a local, and no
// error and no diagnostic has it.
func TestFunctions_TheKeyOfAnHMACIsASecret(t *testing.T) {
	const src = sourceText + `
locals {
  pii_key = env("PII_KEY")
}
event "user.created" {
  table = "public.orders"
  on    = ["insert", "update"]
  when  = KEYED != "x"
  data  = { who = hmacsha256(local.pii_key, new.status), same = hmacsha256(env("PII_KEY"), new.status) }
}
sink "stdout" "out" { events = ["**"] }
`
	opts := testOptions()
	opts.Getenv = func(name string) (string, bool) { return map[string]string{"PII_KEY": "a key"}[name], true }
	good := strings.ReplaceAll(src, "KEYED", "new.status")
	cfg, files, diags := loadText("rules.hcl", []byte(good), opts)
	mustBeClean(t, files, diags)
	prog, err := cfg.Rules[0].Bind(orders)
	if err != nil {
		t.Fatal(err)
	}
	c := updated()
	c.New[1].Text = []byte("ada@example.com")
	var d relay.Draft
	if _, err := prog.Eval(c, &d); err != nil {
		t.Fatal(err)
	}
	hash := strings.Trim(functionExamples["hmacsha256"][0].result, `"`)
	if want := `{"who":"` + hash + `","same":"` + hash + `"}`; string(d.Data) != want {
		t.Errorf("data %s, want %s", d.Data, want)
	}
	for _, bad := range []string{`local.pii_key`, `env("PII_KEY")`} {
		_, files, diags := loadText("rules.hcl", []byte(strings.ReplaceAll(src, "KEYED", bad)), opts)
		var b strings.Builder
		_ = files.Write(&b, diags, 100, false)
		if !diags.HasErrors() || strings.Contains(b.String(), "a key") {
			t.Errorf("%s: %s", bad, b.String())
		}
	}
	opts.Getenv = func(string) (string, bool) { return "", false }
	if _, _, diags := loadText("rules.hcl", []byte(good), opts); !diags.HasErrors() {
		t.Error("a key that is not set is no mistake")
	}
	opts.WithoutSecrets = true
	if cfg, _, diags := loadText("rules.hcl", []byte(good), opts); diags.HasErrors() || cfg == nil {
		t.Errorf("a check without secrets: %v", diags)
	}
}
