package config

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/rowhook/rowhook/relay"
)

//go:generate go test -run TestReference_IsWhatTheDecoderObeys -update

var update = flag.Bool("update", false, "write REFERENCE.md anew")

// operatorExamples and differences are shown in the reference, and hold.
var operatorExamples = []functionExample{
	{`1 / 4 + 7 % 4`, `3.25`}, {`0.1 + 0.2`, `0.3`}, {`9223372036854775807 + 1`, `9223372036854775808`},
	{`new.status == "paid" && !(new.total < 10)`, `true`}, {`new.paid ? "yes" : "no"`, `"yes"`},
	{`"order ${new.id} of ${new.total}"`, `"order 7 of 12.50"`},
	{`[for x in new.tags : upper(x) if x != "a"]`, `["B C"]`}, {`{for i, x in new.tags : x => i}`, `{"a":0,"b c":1}`},
	{`new.doc.a.b[0]`, `1.0`}, {`new.doc["n"]`, `12345678901234567890`}, {`new.doc.not.there`, `null`}, {`jsondecode("[{\"a\":1},{\"a\":2}]")[*].a`, `[1,2]`},
}

// difference is where the language is not HCL's, on purpose. An empty result is
// an error.
type difference struct{ why, expr, ours, plain string }

var differences = []difference{
	{"Values of different kinds are not compared: that hides a mistake.", `new.total == "12.5"`, ``, `false`},
	{"A string is not a number unless it is made one,", `"5" + 1`, ``, `6`},
	{"and not a bool,", `"true" && true`, ``, `true`},
	{"and a number or a bool is not a string.", `upper(true)`, ``, `"TRUE"`},
	{"Both sides of a conditional keep their kinds.", `new.paid ? 1 : "x"`, `1`, `"1"`},
	{"So do the arguments of coalesce and the elements of lists.", `coalesce(null, 1, "x")`, `1`, `"1"`},
	{"null is neither true nor false for && and ||.", `null || true`, ``, `true`},
	{"What is not in a document is null, as with -> in PostgreSQL.", `jsondecode("{}").x`, `null`, ``},
	{"A division by zero is an error.", `1 / (new.id - 7)`, ``, `infinity`},
	{"Halves are rounded away from zero, as PostgreSQL does it.", `format("%.2f", 0.125)`, `"0.13"`, `"0.12"`},
	{"There is no minus zero.", `0 * -1`, `0`, `-0`},
	{"Fractions are decimal, as in PostgreSQL, and not binary.", `1.1 * 1.1 == 1.21`, `true`, `false`},
	{"A document keeps its digits and its text.", `jsondecode("1.50")`, `1.50`, `1.5`},
}

// judged is the JSON that an expression makes, "" for an error, here and in
// HCL's own evaluator.
func judged(t *testing.T, expr string) (ours, plain string) {
	t.Helper()
	e, diags := exprs{data: expr}.compile(t, tableScope())
	if !diags.HasErrors() {
		p, err := e.bind(orders)
		if err != nil {
			t.Fatal(err)
		}
		var d relay.Draft
		if _, err := p.Eval(updated(), &d); err == nil {
			ours = string(d.Data)
		}
	}
	if v, err := reference(parse(t, expr), updated()); err == nil {
		if v.RawEquals(cty.PositiveInfinity) {
			return ours, "infinity"
		}
		text, err := ctyjson.Marshal(v, v.Type())
		if err != nil {
			t.Fatal(err)
		}
		plain = string(text)
	}
	return ours, plain
}

func TestReference_IsWhatTheDecoderObeys(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# The language of Rowhook's rules\n\n" +
		"This page is written by `go generate ./config` from the definitions that the decoder obeys, and a test holds it to them: do not edit it.\n\n" +
		"Files are [HCL 2](https://github.com/hashicorp/hcl), one or a folder of `*.hcl` that are merged. `rowhook check` explains every mistake,\n`rowhook fmt` lays files out. `env(\"NAME\")`, `env(\"NAME\", \"default\")` and `file(\"path\")` work in every setting; what they give is never printed.\n")
	writeExamples(t, &b)
	b.WriteString("\n# Blocks\n")
	for _, block := range Language() {
		writeBlock(&b, block, 2)
	}
	writeExpressions(t, &b)
	b.WriteString("\n# Tests of rules\n\nFiles `*.test.hcl` beside the rules, run by `rowhook test`. In them values are literals.\n")
	writeBlock(&b, testBlock, 2)

	want, err := os.ReadFile("REFERENCE.md")
	if *update {
		if err := os.WriteFile("REFERENCE.md", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil || !bytes.Equal(want, b.Bytes()) {
		t.Errorf("REFERENCE.md is not what the definitions say (%v): run go generate ./config", err)
	}
}

// writeExamples shows the example files. Each is loaded, and laid out as fmt
// does it.
func writeExamples(t *testing.T, b *bytes.Buffer) {
	names, err := filepath.Glob("testdata/reference/*.hcl")
	if err != nil || len(names) < 5 {
		t.Fatal("the examples are not there", err)
	}
	b.WriteString("\n# By example\n")
	for _, name := range names {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		opts := testOptions()
		opts.Getenv = func(string) (string, bool) { return "whsec_" + signingKey, true }
		_, files, diags := loadText(name, []byte(sourceText+string(src)+"sink \"stdout\" \"out\" {\n  events = [\"**\"]\n}\n"), opts)
		mustBeClean(t, files, diags)
		title, body, _ := strings.Cut(strings.TrimPrefix(string(src), "# "), "\n")
		fmt.Fprintf(b, "\n%s\n\n```hcl\n%s\n```\n", title, strings.TrimSpace(body))
	}
}

func writeBlock(b *bytes.Buffer, block *Block, level int) {
	title := block.title()
	for _, l := range block.Labels {
		if len(l.OneOf) != 1 {
			title += " " + strings.ToUpper(l.Name)
		}
	}
	fmt.Fprintf(b, "\n%s `%s`\n\n%s\n", strings.Repeat("#", min(level, 6)), title, block.Doc)
	for _, l := range block.Labels {
		if len(l.OneOf) != 1 {
			fmt.Fprintf(b, "\n%s\n", l.Doc)
		}
	}
	if len(block.Arguments) > 0 {
		b.WriteString("\n| argument | type | default | |\n|---|---|---|---|\n")
	}
	for i := range block.Arguments {
		a := &block.Arguments[i]
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", a.Name, a.Type, defaultText(a), cell(a.Doc+allowed(a)))
	}
	for _, inner := range block.Blocks {
		writeBlock(b, inner, level+1)
	}
}

// cell writes a text into a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

func defaultText(a *Argument) string {
	switch {
	case a.Required:
		return "required"
	case a.Default != "":
		return "`" + a.Default + "`"
	}
	return ""
}

// allowed says which values an argument accepts, and where it may stand.
func allowed(a *Argument) string {
	s := ""
	if len(a.OneOf) > 0 {
		s += " One of " + list(quoteAll(a.OneOf), "and") + "."
	}
	bound := func(v float64) string {
		switch a.Type {
		case TypeDuration:
			return strconv.FormatFloat(v, 'f', -1, 64) + " s"
		case TypeSize:
			return strconv.FormatFloat(v, 'f', -1, 64) + " bytes"
		}
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	if a.Min != 0 {
		s += " At least " + bound(a.Min) + "."
	}
	if a.Max != 0 {
		s += " At most " + bound(a.Max) + "."
	}
	if len(a.In) > 0 {
		s += " For events on " + formsText(a.In) + "."
	}
	return s
}

func writeExpressions(t *testing.T, b *bytes.Buffer) {
	b.WriteString("\n# Expressions\n\n## Names\n\n| name | in events on | |\n|---|---|---|\n")
	for _, r := range rootDocs {
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", r.name, r.in, cell(r.doc))
	}
	b.WriteString("\n## Operators and forms\n\n" +
		"`==` and `!=` are safe with null; `<`, `+` and templates on null are errors, and so is comparing a number with a string. A value that PostgreSQL did not\n" +
		"send, an unchanged TOAST column, is neither null nor anything else: it is left out of a row that is passed through and listed in `unchanged`, and a rule that\n" +
		"decides on it makes a dead letter. Numbers are exact: sums, differences, products and remainders have all digits, quotients 512 bits.\n\n")
	for _, x := range operatorExamples {
		writeExample(t, b, x)
	}
	for _, g := range functionGroups() {
		fmt.Fprintf(b, "\n## Functions: %s\n", strings.ToLower(g.title[:1])+g.title[1:])
		for _, fn := range g.functions {
			fmt.Fprintf(b, "\n**`%s`** → %s. %s\n\n", fn.usage(), fn.result, fn.doc)
			for _, x := range functionExamples[fn.name] {
				writeExample(t, b, x)
			}
		}
	}
	b.WriteString("\nThere is no clock and no chance, because a replay must make the same events again; the time of a change is `tx.commit_time`.\n" +
		"\n## Where this is not plain HCL\n\nThe compiled rules are held to HCL's own evaluator by a differential fuzz test, in value and in error, but for what is listed here.\n\n| | expression | here | plain HCL |\n|---|---|---|---|\n")
	for _, d := range differences {
		if ours, plain := judged(t, d.expr); ours != d.ours || plain != d.plain {
			t.Errorf("%s is %q here and %q in plain HCL; the reference says %q and %q", d.expr, ours, plain, d.ours, d.plain)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", d.why, code(d.expr), resultText(d.ours), resultText(d.plain))
	}
}

func resultText(s string) string {
	if s == "" {
		return "error"
	}
	return code(s)
}

func code(s string) string { return "`" + cell(s) + "`" }

func writeExample(t *testing.T, b *bytes.Buffer, x functionExample) {
	if got, err := evalData(t, tableScope(), x.call); err != nil || got != x.result {
		t.Errorf("%s\n got %s, %v\nwant %s", x.call, got, err, x.result)
	}
	fmt.Fprintf(b, "    %s  =>  %s\n", x.call, x.result)
}
