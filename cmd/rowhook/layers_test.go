package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/rowhook/rowhook/"

// layers says how high each package stands. A package imports only packages of
// this module that stand lower, or that stand beside it where siblings says so.
// The longest prefix that fits counts.
var layers = []struct {
	prefix string
	layer  int
}{
	{"relay", 0},
	{"relay/pgvalue", 1},
	{"relay/relaytest", 2},
	{"relay/sqlitestore", 2},
	{"relay/api", 2},
	{"cdc", 2},
	{"sinks", 2},
	{"config/contract", 1},
	{"config", 3},
	{"relay/admin", 3},
	{"relay/daemon", 4},
	{"cmd", 5},
	{"integration", 5},
	{"examples", 5},
}

// siblings are the folders whose packages may import each other: stdout prints,
// and receiver verifies, what webhook sends.
var siblings = []string{"integration", "sinks"}

// alone are packages that import nothing of this module.
var alone = []string{"relay", "relay/api", "config/contract", "integration/bench/bare"}

// owners are imports that belong to few packages. A path that ends with a slash
// stands for everything below it, and so does an owner.
var owners = []struct {
	imports []string
	owners  []string
}{
	{[]string{"github.com/hashicorp/hcl/", "github.com/zclconf/"}, []string{"config"}},
	{[]string{"database/sql", "modernc.org/"}, []string{"relay/sqlitestore", "integration/"}},
	{[]string{"github.com/jackc/"}, []string{"cdc", "integration/"}},
	{[]string{"github.com/prometheus/"}, []string{"relay/admin", "relay/daemon"}},
	{[]string{"github.com/spf13/"}, []string{"cmd/"}},
}

// plain are the packages of the domain. Of the standard library they import
// neither HTTP nor SQL, and beside it only the arithmetic of retries.
var plain = []string{"relay", "relay/pgvalue"}

const backoff = "github.com/cenkalti/backoff/v4"

// folders are the folders of the module.
var folders = []string{"cdc", "cmd", "config", "examples", "integration", "relay", "sinks"}

func layerOf(pkg string) (int, bool) {
	best, layer := -1, 0
	for _, l := range layers {
		if (pkg == l.prefix || strings.HasPrefix(pkg, l.prefix+"/") && l.prefix != "relay") && len(l.prefix) > best {
			best, layer = len(l.prefix), l.layer
		}
	}
	return layer, best >= 0
}

// below reports whether name is pattern, or below it where the pattern ends
// with a slash.
func below(name, pattern string) bool {
	return name == strings.TrimSuffix(pattern, "/") || strings.HasSuffix(pattern, "/") && strings.HasPrefix(name, pattern)
}

// violations returns what is wrong with the imports of a package.
func violations(pkg string, imports []string) []string {
	var wrong []string
	layer, ok := layerOf(pkg)
	if !ok {
		return []string{pkg + " has no layer: give it one in this test and in the design"}
	}
	for _, imp := range imports {
		if own, ours := strings.CutPrefix(imp, module); ours {
			to, _ := layerOf(own)
			beside := slices.ContainsFunc(siblings, func(s string) bool { return below(pkg, s+"/") && below(own, s+"/") })
			if to >= layer && !beside {
				wrong = append(wrong, pkg+" imports "+own+", which does not stand lower")
			}
			if slices.Contains(alone, pkg) {
				wrong = append(wrong, pkg+" imports "+own+", and should import nothing of this module")
			}
			continue
		}
		if slices.Contains(plain, pkg) && (strings.Contains(imp, ".") && imp != backoff || imp == "net/http" || imp == "database/sql") {
			wrong = append(wrong, pkg+" imports "+imp+", and should know nothing of it")
		}
		if pkg == "relay/api" && strings.Contains(imp, ".") {
			wrong = append(wrong, pkg+" imports "+imp+", and should need the standard library only")
		}
		for _, o := range owners {
			has := slices.ContainsFunc(o.imports, func(p string) bool { return below(imp, p) })
			if has && !slices.ContainsFunc(o.owners, func(p string) bool { return below(pkg, p) }) {
				wrong = append(wrong, pkg+" imports "+imp+", which belongs to "+strings.Join(o.owners, ", "))
			}
		}
	}
	return wrong
}

func TestImportsGoDown(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports", module+"...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for d := json.NewDecoder(out); ; n++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, v := range violations(strings.TrimPrefix(p.ImportPath, module), p.Imports) {
			t.Error(v)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if n < 10 {
		t.Errorf("go list knows %d packages only", n)
	}
}

func TestTopLevelFoldersAreFixed(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && e.Name() != "dist" && !slices.Contains(folders, e.Name()) {
			t.Errorf("%s is no folder of the design", e.Name())
		}
	}
}

// The rules themselves: each of these is wrong.
func TestLayersRefuse(t *testing.T) {
	for _, c := range []struct{ pkg, imp string }{
		{"relay", module + "relay/api"},
		{"relay", module + "relay/pgvalue"},
		{"relay", "net/http"},
		{"relay", "github.com/google/uuid"},
		{"relay/api", module + "relay"},
		{"relay/api", "github.com/spf13/cobra"},
		{"cdc", module + "config"},
		{"cdc", module + "relay/sqlitestore"},
		{"cdc", "database/sql"},
		{"config", module + "relay/admin"},
		{"config/contract", module + "relay"},
		{"relay/admin", module + "relay/daemon"},
		{"relay/daemon", "github.com/hashicorp/hcl/v2"},
		{"relay/daemon", "github.com/jackc/pgx/v5"},
		{"relay/sqlitestore", "github.com/prometheus/client_golang/prometheus"},
		{"cmd/rowhook", "modernc.org/sqlite"},
		{"cmd/rowhook", module + "integration/harness"},
		{"integration/bench/bare", module + "relay"},
		{"web", "fmt"},
		{"relay/new", "fmt"},
	} {
		if len(violations(c.pkg, []string{c.imp})) == 0 {
			t.Errorf("%s may import %s", c.pkg, c.imp)
		}
	}
	for _, c := range []struct{ pkg, imp string }{
		{"relay/daemon", module + "config"},
		{"cmd/rowhook", module + "relay/daemon"},
		{"config", "github.com/hashicorp/hcl/v2/hclsyntax"},
		{"cdc", "github.com/jackc/pglogrepl"},
		{"sinks/receiver", module + "sinks/webhook"},
		{"integration", module + "integration/postgres"},
	} {
		if v := violations(c.pkg, []string{c.imp}); len(v) > 0 {
			t.Error(v)
		}
	}
}
