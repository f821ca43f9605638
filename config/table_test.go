package config

import (
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func TestParseTable(t *testing.T) {
	for _, c := range []struct{ in, schema, table string }{
		{"public.orders", "public", "orders"},
		{"Public.Orders", "Public", "Orders"},
		{"public.a.b", "public", "a.b"},
		{"my schema.my table", "my schema", "my table"},
		{`"we.ird".t`, "we.ird", "t"},
		{`"we.ird"."t.u"`, "we.ird", "t.u"},
		{`"say ""hi""".t`, `say "hi"`, "t"},
		{`public."t"`, "public", "t"},
		{`public.a"b`, "public", `a"b`},
	} {
		got, problem := parseTable(c.in)
		if problem != "" || got != (relay.TableName{Schema: c.schema, Name: c.table}) {
			t.Errorf("%s: %+v %s", c.in, got, problem)
		}
	}
	for _, in := range []string{"", "orders", ".orders", "public.", `"public`, `"public"orders`, `"public"."t"x`, `""."t"`, `public.""`, "public.a\x00b", "public.a\xff"} {
		if got, problem := parseTable(in); problem == "" {
			t.Errorf("%q is the table %+v", in, got)
		}
	}
}

// FuzzParseTable: a name that is written by writeTable is read as the same.
func FuzzParseTable(f *testing.F) {
	for _, s := range []string{"public.orders", `"we.ird".t`, `a."b""c"`, `a."`, "..", `"".""`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, problem := parseTable(s)
		if problem != "" {
			return
		}
		again, problem := parseTable(writeTable(name))
		if problem != "" || again != name {
			t.Fatalf("%q is %+v, written %q, which is %+v %s", s, name, writeTable(name), again, problem)
		}
	})
}
