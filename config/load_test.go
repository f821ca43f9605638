package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
)

// testEnv is the environment of the tests. Every secret in it, and every one
// written into a test file, contains s3cr3t or is the signing key.
var testEnv = map[string]string{
	"DATABASE_URL": "postgres://app:s3cr3t-env@db/shop",
	"OTHER_URL":    "postgres://app:s3cr3t-env@db/other",
	"OTHER_URL2":   "postgres://app:s3cr3t-env@db/other2",
	"THIRD_URL":    "postgres://app:s3cr3t-env@db/third",
	"HOOK_URL":     "https://hooks.example.com/s3cr3t-path?s3cr3t-query",
	"SIGNING":      "whsec_" + signingKey,
	"WORD":         "s3cr3t-word",
	"NUMBER":       "8",
	"EMPTY":        "",
}

const signingKey = "c2lnbmluZy1rZXktb2YtdGhlLXRlc3RzLTMyLWJ5dGU="

// leaks are texts that no diagnostic may contain.
var leaks = []string{"s3cr3t", signingKey, "MDEyMzQ1Njc4OWFi", "c2hvcnQ"}

func testOptions() Options {
	return Options{Getenv: func(name string) (string, bool) {
		s, ok := testEnv[name]
		return s, ok
	}}
}

// expectation is a diagnostic that a test file asks for.
type expectation struct {
	line              int // 0 is none
	severity          hcl.DiagnosticSeverity
	summary, fragment string
}

func (x expectation) String() string {
	return fmt.Sprintf("line %d: %v %s | %s", x.line, x.severity, x.summary, x.fragment)
}

func (x expectation) matches(d *hcl.Diagnostic) bool {
	line := 0
	if d.Subject != nil {
		line = d.Subject.Start.Line
	}
	return line == x.line && d.Severity == x.severity && d.Summary == x.summary && strings.Contains(d.Detail, x.fragment)
}

var expectForm = regexp.MustCompile(`# (ERROR|WARNING)( nowhere)?: ([^|#]*)(?:\| ([^#]*))?`)

// expectations reads the comments "# ERROR: summary | part of the detail" of a
// test file. They are about the line they stand on or, on a line of their own,
// about the next line that is not a comment.
func expectations(src string) []expectation {
	var found []expectation
	lines := strings.Split(src, "\n")
	for i, text := range lines {
		line := i + 1
		if strings.HasPrefix(strings.TrimSpace(text), "#") {
			for line <= len(lines) && strings.HasPrefix(strings.TrimSpace(lines[line-1]), "#") {
				line++
			}
		}
		for _, m := range expectForm.FindAllStringSubmatch(text, -1) {
			x := expectation{line: line, severity: hcl.DiagError, summary: strings.TrimSpace(m[3]), fragment: strings.TrimSpace(m[4])}
			if m[1] == "WARNING" {
				x.severity = hcl.DiagWarning
			}
			if m[2] != "" {
				x.line = 0
			}
			found = append(found, x)
		}
	}
	return found
}

// TestLoad_ReportsEveryMistake holds the diagnostics of the bad files against
// the comments in them, both ways.
func TestLoad_ReportsEveryMistake(t *testing.T) {
	names, err := filepath.Glob("testdata/bad/*.hcl")
	if err != nil || len(names) == 0 {
		t.Fatal("no test files", err)
	}
	kinds := map[string]bool{}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			cfg, files, diags := Load([]string{name}, testOptions())
			if cfg != nil && diags.HasErrors() {
				t.Error("Load returned a configuration beside errors")
			}
			want := expectations(string(src))
			if len(want) == 0 {
				t.Error("the file expects nothing")
			}
			for k := range compareExpectations(t, want, files, diags) {
				kinds[k] = true
			}
		})
	}
	if len(kinds) < 100 {
		t.Errorf("the bad files show %d different mistakes, want at least 100", len(kinds))
	}
}

// compareExpectations holds diagnostics against what a file expects, and returns
// the kinds of mistakes it found.
func compareExpectations(t *testing.T, want []expectation, files *Files, diags hcl.Diagnostics) map[string]bool {
	t.Helper()
	kinds := map[string]bool{}
	for _, d := range diags {
		i := slices.IndexFunc(want, func(x expectation) bool { return x.matches(d) })
		if i < 0 {
			var b bytes.Buffer
			_ = files.Write(&b, hcl.Diagnostics{d}, 0, false)
			t.Errorf("not expected: %s", b.String())
			continue
		}
		kinds[want[i].summary+want[i].fragment] = true
		want = slices.Delete(want, i, i+1)
	}
	for _, x := range want {
		t.Errorf("missing: %s", x)
	}
	return kinds
}

// TestFiles_NeverPrintsSecrets prints every diagnostic of the bad files with
// its lines, and those of a file of which every line is one.
func TestFiles_NeverPrintsSecrets(t *testing.T) {
	names, err := filepath.Glob("testdata/bad/*.hcl")
	if err != nil {
		t.Fatal(err)
	}
	printed, stars := 0, 0
	for _, name := range names {
		_, files, diags := Load([]string{name}, testOptions())
		// Besides the real diagnostics, one that shows the whole file.
		src := files.files[name].Bytes
		whole := hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.Pos{Line: bytes.Count(src, []byte("\n")) + 1, Column: 1, Byte: len(src)}}
		diags = append(diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Whole file", Subject: &whole})
		var text bytes.Buffer
		if err := files.Write(&text, diags, 78, true); err != nil {
			t.Fatal(err)
		}
		text.Write(files.DiagsJSON(diags))
		for _, leak := range leaks {
			if i := strings.Index(text.String(), leak); i >= 0 {
				t.Errorf("%s: a diagnostic prints a secret: %s", name, text.String()[max(0, i-200):i+len(leak)])
			}
		}
		printed += text.Len()
		stars += strings.Count(text.String(), "****")
	}
	if printed == 0 || stars == 0 {
		t.Error("nothing was printed, or nothing blotted out")
	}
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.hcl", "testdata/good/*.hcl", "testdata/good/*/*.hcl"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			src, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	f.Add([]byte("source{url=A(")) // the parser makes a range that ends before it begins
	f.Add([]byte(`event "a" { data = ` + strings.Repeat("(", 200) + `1` + strings.Repeat(")", 200) + "\n}"))
	opts := testOptions()
	opts.ReadFile = func(string) ([]byte, error) { return []byte("content\n"), nil }
	f.Fuzz(func(t *testing.T, src []byte) {
		cfg, files, diags := loadText("fuzz.hcl", src, opts)
		if (cfg == nil) != diags.HasErrors() {
			t.Fatal("a configuration beside errors, or neither")
		}
		var b bytes.Buffer
		if err := files.Write(&b, diags, 78, false); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b.Bytes(), []byte(signingKey)) && !bytes.Contains(src, []byte(signingKey)) {
			t.Fatal("a diagnostic prints a secret")
		}
	})
}
