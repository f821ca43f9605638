package config

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"

	"github.com/rowhook/rowhook/relay"
)

// TestRecording_WritesTestsThatPass records changes of every kind, and runs
// what was written.
func TestRecording_WritesTestsThatPass(t *testing.T) {
	catalog := shopCatalog()
	orders, users := &catalog.Tables[0].Relation, sent(&catalog.Tables[1].Relation, catalog.Tables[1])
	known := func(texts ...string) relay.Row {
		row := make(relay.Row, len(texts))
		for i, s := range texts {
			switch s {
			case "NULL":
				row[i].State = relay.Null
			case "?":
			default:
				row[i] = relay.Value{State: relay.Known, Text: []byte(s)}
			}
		}
		return row
	}
	const at = 1769851800_123456
	first := &relay.Tx{XID: 7, CommitLSN: 0x100, CommitTime: at}
	later := *first
	later.Context = []byte(`{"user":"ada"}`)
	r := &Recording{Source: "shop", Mask: map[relay.TableName][]string{orders.Table(): {"account_id", "status"}}}
	for _, c := range []relay.Change{
		{Op: relay.Insert, Relation: orders, Tx: first, New: known("1", "9001", "paid in ${x} \"q\"", "12.50", "t", `{"a": [1.0, null], "b c": "é"}`, `{a,"b,c",NULL}`, "2026-01-31 09:30:00.5+00")},
		{Op: relay.Insert, Relation: orders, Tx: first, New: known("2", "9001", "NULL", "NaN", "f", `"text"`, "NULL", "infinity")},
		{Op: relay.Update, Relation: orders, Tx: &later, Old: known("2", "9001", "NULL", "NaN", "f", `7`, "{}", "NULL"), New: known("3", "9002", "NULL", "NaN", "f", `7`, "{}", "NULL")},
		{Op: relay.Update, Relation: users, Tx: &later, Old: known("1", "?", "?"), New: known("1", "Ada", "?")},
		{Op: relay.Delete, Relation: users, Tx: &later, Old: known("1", "?", "?")},
		{Op: relay.Truncate, Relation: orders, Tx: &later},
		{Op: relay.Message, Name: "signup", Tx: &later, Payload: []byte(`{"n": 1.50}`)},
		{Op: relay.Message, Name: "signup", LSN: 0x200, Time: at, Payload: []byte(`"text"`)},
		{Op: relay.Notify, Name: "exports", Time: at, Payload: []byte(`{"format":"csv"}`)},
	} {
		r.Add(&c)
	}
	if tests, changes := r.Tests(); tests != 4 || changes != 9 {
		t.Errorf("%d tests of %d changes", tests, changes)
	}
	if got := strings.Join(r.Masked(), " "); got != "public.orders.account_id public.orders.status" {
		t.Errorf("masked: %s", got)
	}
	cfg, catalogs := testRules(t), map[string]*relay.Catalog{"shop": catalog}
	text, err := r.Text(t.Context(), cfg, catalogs)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, hclwrite.Format(text)) {
		t.Errorf("not as fmt has it:\n%s", text)
	}
	for _, lacks := range []string{"9001", "9002", "paid in"} {
		if strings.Contains(string(text), lacks) {
			t.Errorf("%s is not masked", lacks)
		}
	}
	for _, has := range []string{`"masked-1"`, "total      = 12.50", "[1.0, null]", `1.50`, `truncate "public.orders" {}`, `user = "ada"`, "transactional = false", `unchanged = ["bio"]`, `expect "export.asked"`} {
		if !strings.Contains(string(text), has) {
			t.Errorf("%s is not there", has)
		}
	}
	path := writeTests(t, string(text))
	tests, files, diags := LoadTests(cfg, catalogs, []string{path})
	mustBeClean(t, files, diags)
	for _, result := range runTests(t, tests) {
		for _, p := range result.Problems {
			if p.Summary[:12] != "rule user.bi" { // it decides on what was not sent, and fails
				t.Errorf("%s: %s", result.Test.Name, p.Summary)
			}
		}
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
}

// TestStarter_IsAConfiguration loads first files, also of tables with names that
// nobody should give them.
func TestStarter_IsAConfiguration(t *testing.T) {
	odd := func(schema, name string, columns ...string) *relay.Table {
		tab := &relay.Table{Kind: 'r', Persistence: 'p', Relation: relay.Relation{Schema: schema, Name: name, Identity: relay.IdentityDefault, PrimaryKey: []int{0}}}
		for i, c := range columns {
			tab.Columns = append(tab.Columns, relay.Column{Name: c, TypeOID: 25, Identity: i == 0})
			tab.NotNull, tab.Generated, tab.TypeNames = append(tab.NotNull, true), append(tab.Generated, 0), append(tab.TypeNames, "text")
		}
		return tab
	}
	catalog := shopCatalog()
	catalog.Tables = append(catalog.Tables,
		odd("public", "Orders", "id"), odd("we.ird", `qu"ote`, "id", "pass word", "a-b"), odd("public", "${x}", "id", "${token}"),
		odd("public", "rowhook", "id"), odd("public", "日本", "id", "status"), odd("public", "alembic_version", "id"))
	for _, s := range []Starter{{}, {Webhook: "https://example.com/${x}"}, {Source: "My Shop!", Catalog: catalog}, {Catalog: &relay.Catalog{}}} {
		text := s.Text()
		if !bytes.Equal(text, hclwrite.Format(text)) {
			t.Errorf("not as fmt has it:\n%s", text)
		}
		opts := testOptions()
		opts.WithoutSecrets = true
		cfg, files, diags := loadText("first.hcl", text, opts)
		for _, d := range diags {
			if d.Severity == hcl.DiagError || d.Summary != "Environment variable is not set" {
				_ = files.Write(os.Stderr, hcl.Diagnostics{d}, 0, false)
				t.Errorf("a mistake in\n%s", text)
			}
		}
		if cfg != nil && s.Catalog != nil && len(catalog.Tables) > 0 && len(s.Catalog.Tables) > 0 {
			known := map[string]Known{"my_shop": {Catalog: catalog}}
			if diags := Check(cfg, known); diags.HasErrors() || len(cfg.rules) != 7 {
				t.Errorf("%d rules, %v:\n%s", len(cfg.rules), diags, text)
			}
		}
	}
}
