package config

import (
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

// table returns a table with an id that is its primary key and replica
// identity, and a status.
func table(schema, name string) *relay.Table {
	return &relay.Table{
		Kind: 'r', Persistence: 'p', NotNull: []bool{true, false}, Generated: []byte{0, 0}, TypeNames: []string{"bigint", "text"},
		Relation: relay.Relation{Schema: schema, Name: name, Identity: relay.IdentityDefault, PrimaryKey: []int{0},
			Columns: []relay.Column{{Name: "id", TypeOID: 20, TypeMod: -1, Identity: true}, {Name: "status", TypeOID: 25, TypeMod: -1}}},
	}
}

func TestCheck(t *testing.T) {
	const inserts = `on = ["insert"]`
	const updates = `on = ["insert", "update"]`
	for _, c := range []struct {
		name, on string
		change   func(*relay.Table)
		want     string // part of the only diagnostic; "" is none
	}{
		{name: "fine", on: updates},
		{name: "view", on: inserts, change: func(t *relay.Table) { t.Kind = 'v' }, want: "is a view"},
		{name: "materialized view", on: inserts, change: func(t *relay.Table) { t.Kind = 'm' }, want: "is a materialized view"},
		{name: "foreign table", on: inserts, change: func(t *relay.Table) { t.Kind = 'f' }, want: "is a foreign table"},
		{name: "unheard of", on: inserts, change: func(t *relay.Table) { t.Kind = 'z' }, want: "kind 'z'"},
		{name: "unlogged", on: inserts, change: func(t *relay.Table) { t.Persistence = 'u' }, want: `ALTER TABLE "public"."orders" SET LOGGED`},
		{name: "temporary", on: inserts, change: func(t *relay.Table) { t.Persistence = 't' }, want: "is a temporary table"},
		{name: "partitioned", on: updates, change: func(t *relay.Table) { t.Kind = 'p' }},
		{name: "without key, only inserts", on: inserts, change: withoutKey},
		{name: "without key", on: updates, change: withoutKey, want: "Add a primary key"},
		{name: "identity nothing", on: updates, change: func(t *relay.Table) {
			t.Identity, t.Columns[0].Identity = relay.IdentityNothing, false
		}, want: "REPLICA IDENTITY DEFAULT"},
		{name: "identity full", on: updates, change: func(t *relay.Table) { withoutKey(t); t.Identity = relay.IdentityFull }},
	} {
		cfg := mustLoadText(t, sourceText+"event \"a\" {\n  table = \"public.orders\"\n  "+c.on+"\n  data = { id = row.id }\n}\n")
		tbl := table("public", "orders")
		if c.change != nil {
			c.change(tbl)
		}
		diags := Check(cfg, map[string]Known{"main": {Catalog: &relay.Catalog{Tables: []*relay.Table{tbl}}}})
		switch {
		case c.want == "" && len(diags) == 0:
		case c.want != "" && len(diags) == 1 && strings.Contains(diags[0].Detail, c.want) && diags[0].Subject.Start.Line == 5:
		default:
			t.Errorf("%s: %v", c.name, diags.Errs())
		}
	}
}

// columns = "rules" goes with no REPLICA IDENTITY FULL: no cure may name it.
func TestCheck_CuresOfListedColumns(t *testing.T) {
	rule := func(on, data string) string {
		return "event \"a\" {\n  table = \"public.orders\"\n  on = [\"" + on + "\"]\n  data = " + data + "\n}\n"
	}
	withSchema := strings.TrimSuffix(rule("update", "{ s = new.status }"), "}\n") + "  schema {\n    s = nullable(string)\n  }\n}\n"
	for _, c := range []struct {
		name, rule, want string
		change           func(*relay.Table)
	}{
		{"a value that may be out of line", rule("update", "{ s = upper(coalesce(new.status, \"\")) }"), "SET STORAGE MAIN", nil},
		{"one that is passed on", rule("update", "{ s = new.status }"), "SET STORAGE MAIN", nil},
		{"one that a schema promises", withSchema, "Declare it optional(...).", nil},
		{"an old value", rule("update", "{ s = old.status }"), "USING INDEX", nil},
		{"the whole old row", rule("update", "old"), "Name the columns", nil},
		{"no identity", rule("update", "{ id = new.id }"), "Add a primary key.", withoutKey},
	} {
		for _, columns := range []string{"all", "rules"} {
			cfg := mustLoadText(t, "source \"postgres\" \"main\" {\n  url = \"postgres:///x\"\n  columns = \""+columns+"\"\n}\n"+c.rule)
			tbl := table("public", "orders")
			tbl.Storage = []byte{'p', 'x'}
			if c.change != nil {
				c.change(tbl)
			}
			diags := Check(cfg, map[string]Known{"main": {Catalog: &relay.Catalog{Tables: []*relay.Table{tbl}}}})
			text := ""
			for _, d := range diags {
				text += d.Detail + "\n"
			}
			recommends := strings.Contains(text, "ALTER TABLE \"public\".\"orders\" REPLICA IDENTITY FULL") || strings.Contains(text, "with REPLICA IDENTITY FULL")
			if recommends != (columns == "all") || columns == "rules" && !strings.Contains(text, c.want) {
				t.Errorf("%s, columns = %s:\n%s", c.name, columns, text)
			}
		}
	}
}

func withoutKey(t *relay.Table) {
	t.PrimaryKey, t.Columns[0].Identity = nil, false
}

func TestCheck_ReplicaIdentityCountsForAllRulesOfASource(t *testing.T) {
	cfg := mustLoadText(t, sourceText+`
		event "a" {
		  table = "public.log"
		  on    = ["insert"]
		  data  = { id = row.id }
		}
		event "b" {
		  table = "public.orders"
		  on    = ["delete"]
		  data  = { id = row.id }
		}`)
	log := table("public", "log")
	withoutKey(log)
	diags := Check(cfg, map[string]Known{"main": {Catalog: &relay.Catalog{Tables: []*relay.Table{log, table("public", "orders")}}}})
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, "one set of operations") {
		t.Error(diags.Errs())
	}
}

func TestCheck_UnknownTableSuggests(t *testing.T) {
	cfg := mustLoadText(t, sourceText+"event \"a\" {\n  table = \"public.orders\"\n  on = [\"insert\"]\n  data = { id = row.id }\n}\n")
	name := func(schema, name string) relay.TableName { return relay.TableName{Schema: schema, Name: name} }
	for _, c := range []struct {
		tables []relay.TableName
		want   string
	}{
		{nil, "may not see it."},
		{[]relay.TableName{name("public", "order"), name("public", "Orders")}, `Did you mean "public.Orders"? Names are literal`},
		{[]relay.TableName{name("public", "order"), name("shop", "orders")}, `Did you mean "shop.orders"?`},
		{[]relay.TableName{name("public", "customers"), name("public", "order")}, `Did you mean "public.order"?`},
		{[]relay.TableName{name("we.ird", "orders")}, `Did you mean "\"we.ird\".orders"?`},
	} {
		diags := Check(cfg, map[string]Known{"main": {Catalog: &relay.Catalog{}, Tables: c.tables}})
		if len(diags) != 1 || diags[0].Summary != "Unknown table" || !strings.HasSuffix(strings.TrimSpace(diags[0].Detail), c.want) && !strings.Contains(diags[0].Detail, c.want) {
			t.Errorf("want %s: %v", c.want, diags.Errs())
		}
	}
	if diags := Check(cfg, nil); len(diags) != 0 {
		t.Errorf("without a catalogue: %v", diags)
	}
}

func TestCheck_RefusesAPartitionBesideItsRoot(t *testing.T) {
	cfg := mustLoadText(t, sourceText+"event \"a\" {\n  tables = [\"public.orders\", \"public.orders_2026\"]\n  on = [\"insert\"]\n  data = { id = row.id }\n}\n")
	root, leaf := table("public", "orders"), table("public", "orders_2026")
	root.Kind, leaf.Ancestors = 'p', []relay.TableName{root.Table()}
	diags := Check(cfg, map[string]Known{"main": {Catalog: &relay.Catalog{Tables: []*relay.Table{root, leaf}}}})
	if len(diags) != 1 || diags[0].Severity != hcl.DiagError || diags[0].Summary != "Rule never matches" {
		t.Error(diags)
	}
}

func TestCheck_JudgesColumnsOnEveryTable(t *testing.T) {
	cfg := mustLoadText(t, sourceText+"event \"a\" {\n  tables = [\"public.orders\", \"public.items\"]\n  on = [\"insert\"]\n  data = { s = new.status }\n}\n")
	items := table("public", "items")
	items.Columns = items.Columns[:1]
	items.NotNull, items.Generated, items.TypeNames = items.NotNull[:1], items.Generated[:1], items.TypeNames[:1]
	diags := Check(cfg, map[string]Known{"main": {Catalog: &relay.Catalog{Tables: []*relay.Table{table("public", "orders"), items}}}})
	if !diags.HasErrors() || !strings.Contains(diags.Error(), "status") {
		t.Errorf("a column that one table lacks is not reported: %v", diags)
	}
}
