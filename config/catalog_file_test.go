package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

// savedShop is the table of the tests, read back from a file.
func savedShop(t *testing.T, change func(*relay.Table)) *relay.Catalog {
	t.Helper()
	table := *shopTable
	table.Columns, table.NotNull, table.TypeNames = slices.Clone(table.Columns), slices.Clone(table.NotNull), slices.Clone(table.TypeNames)
	table.Storage, table.Generated, table.Dims = slices.Clone(table.Storage), slices.Clone(table.Generated), slices.Clone(table.Dims)
	if change != nil {
		change(&table)
	}
	types := shopTable.Types.(*relay.Catalog)
	got, err := ReadCatalog(WriteCatalog(map[string]*relay.Catalog{"main": {Tables: []*relay.Table{&table}, Types: types.Types}}))
	if err != nil {
		t.Fatal(err)
	}
	return got["main"]
}

func TestCatalogFile_KeepsWhatChecksNeed(t *testing.T) {
	c := savedShop(t, nil)
	table := c.Table(shopTable.Table())
	if table == nil || !reflect.DeepEqual(table.PrimaryKey, shopTable.PrimaryKey) || table.Identity != shopTable.Identity || table.Kind != 'r' || table.Persistence != 'p' {
		t.Fatalf("got %+v", table)
	}
	for i, col := range shopTable.Columns {
		got := table.Columns[i]
		if got.Name != col.Name || got.TypeMod != col.TypeMod || got.Identity != col.Identity || table.NotNull[i] != shopTable.NotNull[i] || table.Generated[i] != shopTable.Generated[i] ||
			columnType(table, i).String() != columnType(shopTable, i).String() || table.Unsent(i) != shopTable.Unsent(i) {
			t.Errorf("%s: got %+v, %s", col.Name, got, columnType(table, i))
		}
	}
}

// The OIDs of a user's types differ from one copy of a database to another, and
// the order in which they are read may too.
func TestCatalogFile_IsTheSameForTheSameSchema(t *testing.T) {
	write := func(enum uint32, tables ...*relay.Table) []byte {
		c := &relay.Catalog{Types: map[uint32]relay.Type{enum: {OID: enum, Schema: "s.x", Name: "mood", Kind: 'e', Labels: []string{"b", "a"}}}}
		for _, t := range tables {
			t := *t
			t.OID, t.Owner = enum, "owner"
			t.Columns = []relay.Column{{Name: "m", TypeOID: enum, TypeMod: -1}}
			t.NotNull, t.Generated, t.TypeNames, t.Storage, t.Dims, t.PrimaryKey = []bool{true}, []byte{0}, []string{`"s.x".mood`}, []byte{'p'}, []int{0}, nil
			c.Tables = append(c.Tables, &t)
		}
		return WriteCatalog(map[string]*relay.Catalog{"main": c, "other": {}})
	}
	a, b := write(20000, table("public", "a"), table("public", "b")), write(30000, table("public", "b"), table("public", "a"))
	if !bytes.Equal(a, b) {
		t.Errorf("%s\nand\n%s", a, b)
	}
	if !bytes.Contains(a, []byte(`"ref": "\"s.x\".mood"`)) || !bytes.Contains(a, []byte(`"rowhook_catalog": 1`)) || !bytes.Contains(a, []byte(`"language": 1`)) {
		t.Errorf("got %s", a)
	}
}

func TestCatalogFile_SaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                     "no catalogue",
		`{}`:                    "rowhook_catalog is missing",
		`{"rowhook_catalog":9}`: "newer rowhook",
		`{"rowhook_catalog":1,"sources":{"s":{"tables":{"x":{}}}}}`:                                                                                                         "schema",
		`{"rowhook_catalog":1,"sources":{"s":{"tables":{"a.b":{"kind":"","persistence":"p","replica_identity":"d"}}}}}`:                                                     "one letter",
		`{"rowhook_catalog":1,"sources":{"s":{"tables":{"a.b":{"kind":"r","persistence":"p","replica_identity":"d","columns":[{"name":"c","ref":"x.y","storage":"p"}]}}}}}`: "there is no type x.y",
		`{"rowhook_catalog":1,"sources":{"s":{"tables":{"a.b":{"kind":"r","persistence":"p","replica_identity":"d","primary_key":["c"]}}}}}`:                                "no column c",
		`{"rowhook_catalog":1,"sources":{"s":{"tables":{},"types":{"x.y":{"kind":"c","fields":[{"name":"f","ref":99999}]}}}}}`:                                              "not built in",
	} {
		if _, err := ReadCatalog([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if _, _, err := LoadCatalog(filepath.Join(t.TempDir(), "no.json"), &Config{}); err == nil || !strings.Contains(err.Error(), "--save-catalog") {
		t.Error(err)
	}
}

func FuzzReadCatalog(f *testing.F) {
	f.Add(WriteCatalog(map[string]*relay.Catalog{"main": {Tables: []*relay.Table{shopTable}, Types: shopTable.Types.(*relay.Catalog).Types}}))
	f.Add([]byte(`{"rowhook_catalog":1,"sources":{"s":{"tables":{"a.b":{"kind":"r","persistence":"p","replica_identity":"d","columns":[{"name":"c","ref":"x.y","storage":"x"}]}},"types":{"x.y":{"kind":"c","fields":[{"name":"f","ref":"x.y"}]}}}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := ReadCatalog(text)
		if err != nil {
			return
		}
		again, err := ReadCatalog(WriteCatalog(got))
		if err != nil || !bytes.Equal(WriteCatalog(again), WriteCatalog(got)) {
			t.Fatalf("%v: what was written is read as something else", err)
		}
		for _, c := range got {
			for _, table := range c.Tables {
				for i := range table.Columns {
					_ = columnType(table, i).String()
				}
			}
		}
	})
}

const driftRules = sourceText + `
event "a" {
  table = "public.shop"
  on    = ["update"]
  when  = new.small > 5 && old.id == 7
  data  = { status = new.status, name = new.name }
}
event "b" {
  table = "public.shop"
  on    = ["insert"]
  key   = new.uid
  data  = new
}
`

func TestDrift_SaysOnlyWhatTouchesARule(t *testing.T) {
	cfg, _, diags := loadText("rules.hcl", []byte(driftRules), testOptions())
	if cfg == nil {
		t.Fatal(diags)
	}
	set := func(name string, f func(t *relay.Table, i int)) func(*relay.Table) {
		return func(t *relay.Table) { f(t, t.Column(name)) }
	}
	for _, c := range []struct {
		name   string
		change func(*relay.Table)
		want   []string // by rule
	}{
		{name: "nothing"},
		{name: "owner", change: func(t *relay.Table) { t.Owner = "x" }},
		{name: "not null", change: set("small", func(t *relay.Table, i int) { t.NotNull[i] = false }), want: []string{"Rule a: public.shop.small was not nullable, and is.", "Rule b: public.shop.small was not nullable, and is."}},
		{name: "only in the whole row", change: set("day", func(t *relay.Table, i int) { t.TypeNames[i] = "text" }), want: []string{"Rule b: public.shop.day was date, and is text."}},
		{name: "storage", change: set("name", func(t *relay.Table, i int) { t.Storage[i] = 'm' }), want: []string{"Rule a: public.shop.name is always sent with updates now."}},
		{name: "identity", change: set("id", func(t *relay.Table, i int) { t.Columns[i].Identity = false }), want: []string{"Rule a: public.shop.id is not part of the replica identity any more."}},
		{name: "key", change: func(t *relay.Table) { t.PrimaryKey = []int{0, 3} }, want: []string{"Rule a: the primary key of public.shop was (id), and is (id, small)."}},
		{name: "gone", change: set("status", func(t *relay.Table, i int) { t.Columns[i].Name = "state" }), want: []string{"Rule a: public.shop.status is gone (public.status).", "Rule b: public.shop.status is gone (public.status).", "Rule b: public.shop.state is new (public.status)."}},
	} {
		saved := map[string]*relay.Catalog{"main": savedShop(t, nil)}
		diags := Drift(cfg, saved, map[string]Known{"main": {Catalog: savedShop(t, c.change)}})
		var got []string
		for _, d := range diags {
			text, _, _ := strings.Cut(d.Detail, " Save the")
			got = append(got, text)
			if d.Severity != hcl.DiagWarning || d.Subject.Filename != "rules.hcl" {
				t.Errorf("%s: %v", c.name, d)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
	// A label more is a change of the type.
	live := savedShop(t, nil)
	for oid, typ := range live.Types {
		if typ.Name == "status" {
			typ.Labels = append(typ.Labels, "lost")
			live.Types[oid] = typ
		}
	}
	if diags := Drift(cfg, map[string]*relay.Catalog{"main": savedShop(t, nil)}, map[string]Known{"main": {Catalog: live}}); len(diags) != 4 || !strings.Contains(diags[0].Detail, `"lost"`) {
		t.Errorf("got %v", diags)
	}
	if diags := Drift(cfg, nil, map[string]Known{"main": {Catalog: live}}); len(diags) != 2 || !strings.Contains(diags[0].Detail, "has no table public.shop") {
		t.Errorf("got %v", diags)
	}
}

// TestCheck_ReportsEveryMistakeAgainstACatalogue holds the rules of the bad
// files against the saved catalogue that stands beside them.
func TestCheck_ReportsEveryMistakeAgainstACatalogue(t *testing.T) {
	names, err := filepath.Glob("testdata/badcatalog/*.hcl")
	if err != nil || len(names) == 0 {
		t.Fatal("no test files", err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			cfg, files, diags := Load([]string{name}, testOptions())
			if cfg == nil {
				t.Fatal(diags)
			}
			known, _, err := LoadCatalog(cfg.Settings.Catalog, cfg)
			if err != nil {
				t.Fatal(err)
			}
			compareExpectations(t, expectations(string(src)), files, append(diags, Check(cfg, known)...))
		})
	}
}
