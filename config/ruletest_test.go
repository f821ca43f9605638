package config

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

// shopCatalog has the tables of testdata/tests/rules.hcl: orders with the whole
// old row, users with its key alone.
func shopCatalog() *relay.Catalog {
	columns := func(identity bool, cols ...relay.Column) *relay.Table {
		t := &relay.Table{Kind: 'r', Persistence: 'p'}
		for i, c := range cols {
			c.Identity = identity || i == 0
			t.Columns, t.NotNull, t.Generated, t.TypeNames = append(t.Columns, c), append(t.NotNull, false), append(t.Generated, 0), append(t.TypeNames, "")
		}
		t.PrimaryKey, t.Schema, t.Identity = []int{0}, "public", relay.IdentityDefault
		if identity {
			t.Identity = relay.IdentityFull
		}
		return t
	}
	col := func(name string, oid uint32) relay.Column { return relay.Column{Name: name, TypeOID: oid, TypeMod: -1} }
	orders := columns(true, col("id", 20), col("account_id", 20), col("status", 25), col("total", 1700), col("paid", 16), col("doc", 3802), col("tags", 1009), col("at", 1184))
	orders.Name, orders.OID = "orders", 1
	users := columns(false, col("id", 20), col("name", 25), col("bio", 25))
	users.Name, users.OID = "users", 2
	// A generated column is not in the stream.
	users.Columns, users.Generated = append(users.Columns, col("name_upper", 25)), append(users.Generated, 's')
	return &relay.Catalog{Source: "shop", Tables: []*relay.Table{orders, users}}
}

func testRules(t *testing.T) *Config {
	t.Helper()
	return mustLoad(t, "testdata/tests/rules.hcl")
}

func TestLoadTests_ReportsEveryMistake(t *testing.T) {
	kinds := 0
	for name, catalogs := range map[string]map[string]*relay.Catalog{"bad": {"shop": shopCatalog()}, "inferred": nil} {
		path := filepath.Join("testdata", "tests", name+".test.hcl")
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		tests, files, diags := LoadTests(testRules(t), catalogs, []string{path})
		if tests != nil {
			t.Error("tests beside errors")
		}
		want := expectations(string(src))
		for _, d := range diags {
			i := slices.IndexFunc(want, func(x expectation) bool { return x.matches(d) })
			if i < 0 {
				var b bytes.Buffer
				_ = files.Write(&b, hcl.Diagnostics{d}, 0, false)
				t.Errorf("not expected: %s", b.String())
				continue
			}
			want, kinds = slices.Delete(want, i, i+1), kinds+1
		}
		for _, x := range want {
			t.Errorf("%s: missing: %s", name, x)
		}
	}
	if kinds < 40 {
		t.Errorf("the test files show %d mistakes, want at least 40", kinds)
	}
}

// runTests runs the tests of a file.
func runTests(t *testing.T, tests *Tests) []*TestResult {
	t.Helper()
	var results []*TestResult
	for _, test := range tests.List {
		r, err := tests.Run(t.Context(), test)
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, r)
	}
	return results
}

func loadTestFile(t *testing.T, path string) *Tests {
	t.Helper()
	tests, files, diags := LoadTests(testRules(t), map[string]*relay.Catalog{"shop": shopCatalog()}, []string{path})
	mustBeClean(t, files, diags)
	return tests
}

// writeTests puts tests into a file of their own.
func writeTests(t *testing.T, src string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.test.hcl")
	if err := os.WriteFile(path, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTests_EveryKindOfChangeAndExpectation(t *testing.T) {
	tests := loadTestFile(t, "testdata/tests/good.test.hcl")
	results := runTests(t, tests)
	for _, r := range results {
		for _, p := range r.Problems {
			t.Errorf("%s, line %d: %s\n- %s\n+ %s", r.Test.Name, p.Line, p.Summary, strings.Join(p.Want, "\n- "), strings.Join(p.Got, "\n+ "))
		}
	}
	if changed := tests.Update(results); len(changed) > 0 {
		t.Errorf("there is nothing to update, and it wrote\n%s", changed["testdata/tests/good.test.hcl"])
	}
	for _, c := range tests.Coverage() {
		want := Coverage{Rule: c.Rule, Source: c.Source, File: c.File, Line: c.Line, Matched: c.Rule != "user.bio", Missed: c.Conditional, Conditional: c.Conditional}
		if c != want {
			t.Errorf("coverage of %s: %+v, want %+v", c.Rule, c, want)
		}
	}
}

// TestTests_SayWhatDiffers holds every way to differ to what is said of it, and
// to what an update makes of it.
func TestTests_SayWhatDiffers(t *testing.T) {
	const before = `# The first.
test "wrong" {
  update "public.orders" {
    old = { id = 42, account_id = 7, status = "pending", total = "12.50" }
    new = { status = "paid" } # at last
  }

  # Who gets it.
  expect "order.paid" {
    key    = "public.orders/43" # the key
    tenant = null
    data = {
      id    = 42 # right
      total = 99 # wrong
      by    = null
    }
  }

  # Never made.
  expect "order.created" {}
}

test "more" {
  insert "public.orders" {
    new = { id = 1, total = 5000 }
  }
  expect "order.large" {
    data = { id = 1, total = 5000 }
  }
}

test "new" {
  message "signup" {
    payload = { "a-b" = "x\ny", c = [{ d = 1e3 }, {}] }
  }
}

test "fails" {
  notify "exports" {
    payload = "no JSON"
  }
  fails "export.asked" {
    message = "something else"
  }
  fails "export.asked" {}
}

test "fails unexpectedly" {
  notify "exports" {
    payload = "no JSON"
  }
}
`
	const after = `# The first.
test "wrong" {
  update "public.orders" {
    old = { id = 42, account_id = 7, status = "pending", total = "12.50" }
    new = { status = "paid" } # at last
  }

  # Who gets it.
  expect "order.paid" {
    key    = "public.orders/42" # the key
    tenant = "7"
    data = {
      id    = 42    # right
      total = 12.50 # wrong
      by    = null
    }
  }

  # Never made.
}

test "more" {
  insert "public.orders" {
    new = { id = 1, total = 5000 }
  }
  expect "order.created" {
    key = "public.orders/1"
    data = {
      id         = 1
      account_id = null
      status     = null
      total      = 5000
      paid       = null
      doc        = null
      tags       = null
      at         = null
    }
  }

  expect "order.large" {
    data = {
      id = 1
    }
  }
}

test "new" {
  message "signup" {
    payload = { "a-b" = "x\ny", c = [{ d = 1e3 }, {}] }
  }

  expect "signed.up" {
    data = {
      a-b = "x\ny"
      c = [
        {
          d = 1000
        },
        {},
      ]
    }
  }
}

test "fails" {
  notify "exports" {
    payload = "no JSON"
  }
  fails "export.asked" {
    message = "something else"
  }
  fails "export.asked" {}
}

test "fails unexpectedly" {
  notify "exports" {
    payload = "no JSON"
  }
}
`
	path := writeTests(t, before)
	tests := loadTestFile(t, path)
	results := runTests(t, tests)
	var said []string
	for _, r := range results {
		for _, p := range r.Problems {
			said = append(said, p.Summary)
		}
	}
	want := []string{
		`event order.paid: key is "public.orders/42", not "public.orders/43"`, `event order.paid: tenant is "7", not null`, `event order.paid: data differs`,
		`event order.created is not made`, `event order.created, made by rule order.created, is not expected`, `event order.large: data differs`,
		`event signed.up, made by rule signed.up, is not expected`,
		`rule export.asked fails with another error: when:`, `rule export.asked does not fail`, `rule export.asked fails: when:`,
	}
	if !slices.EqualFunc(said, want, strings.HasPrefix) {
		t.Errorf("said\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
	if got := string(tests.Update(results)[path]); got != after {
		t.Fatalf("updated to\n%s\nwant\n%s", got, after)
	}
	if err := os.WriteFile(path, []byte(after), 0o600); err != nil {
		t.Fatal(err)
	}
	tests = loadTestFile(t, path)
	for _, r := range runTests(t, tests) {
		for _, p := range r.Problems {
			if !strings.HasPrefix(r.Test.Name, "fails") {
				t.Errorf("after the update: %s: %s", r.Test.Name, p.Summary)
			}
		}
	}
}

// FuzzTests holds a test file to this: it is refused with diagnostics, or it
// runs; and what an update makes of it expects the very events that are made.
func FuzzTests(f *testing.F) {
	for _, name := range []string{"good", "bad", "inferred"} {
		src, err := os.ReadFile(filepath.Join("testdata", "tests", name+".test.hcl"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	rules, err := os.ReadFile("testdata/tests/rules.hcl")
	if err != nil {
		f.Fatal(err)
	}
	cfg, _, diags := loadText("rules.hcl", rules, testOptions())
	if cfg == nil {
		f.Fatal(diags)
	}
	load := func(t *testing.T, src []byte) (*Tests, hcl.Diagnostics) {
		tests, _, diags := LoadTests(cfg, map[string]*relay.Catalog{"shop": shopCatalog()}, []string{writeTests(t, string(src))})
		return tests, diags
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		tests, diags := load(t, src)
		if (tests == nil) != diags.HasErrors() {
			t.Fatal("tests beside errors, or neither")
		}
		if tests == nil {
			return
		}
		for _, text := range tests.Update(runTests(t, tests)) {
			updated, diags := load(t, text)
			if updated == nil {
				t.Fatalf("%s\nwas updated to\n%s\nwhich is wrong: %v", src, text, diags)
			}
			for _, r := range runTests(t, updated) {
				for _, p := range r.Problems {
					if !strings.HasPrefix(p.Summary, "rule ") {
						t.Errorf("%s\nwas updated to\n%s\nand: %s", src, text, p.Summary)
					}
				}
			}
		}
	})
}
