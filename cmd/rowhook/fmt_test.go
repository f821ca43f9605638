package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ruleProgram is a program for scripts of the commands that read rule files.
func ruleProgram(stdin string) *program {
	return &program{
		now: func() time.Time { return noon }, zone: time.UTC, stdin: strings.NewReader(stdin), getenv: func(string) string { return "" },
		newSecret: func() string { return "whsec_SECRET" },
	}
}

// copyFolder copies the files of a folder of testdata to where a script may
// change them.
func copyFolder(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", from))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFormat_Script(t *testing.T) {
	p := ruleProgram("a  {\nb=1\n}\n")
	play(t, "testdata/fmt.txt", copyFolder(t, "fmt"), p, &fake{})
}

func TestFormat_KeepsModeAndLinks(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "rules.hcl"), filepath.Join(dir, "link.hcl")
	if err := os.WriteFile(file, []byte("locals {\na=1\n}\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("rules.hcl", link); err != nil {
		t.Fatal(err)
	}
	p := ruleProgram("")
	var out strings.Builder
	p.stdout, p.stderr = &out, &out
	if code := p.run(t.Context(), []string{"fmt", link}); code != exitOK {
		t.Fatalf("exit code %d: %s", code, out.String())
	}
	info, err := os.Lstat(file)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	if l, err := os.Readlink(link); err != nil || l != "rules.hcl" {
		t.Errorf("the link is %q, %v", l, err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "locals {\n  a = 1\n}\n" {
		t.Errorf("the file has %q, %v", b, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".rowhook-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDiffLines(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"a b c", "a b c", " a b c"},
		{"a b c", "a x c", " a -b +x c"},
		{"", "a", "+a"},
		{"a b c d", "b d e", "-a b -c d +e"},
		{"a a b", "a b b", " a -a +b b"},
	} {
		var got []string
		for _, l := range diffLines(strings.Fields(c.a), strings.Fields(c.b)) {
			got = append(got, strings.TrimLeft(string(l.kind)+l.text, " "))
		}
		if strings.Join(got, " ") != strings.TrimLeft(c.want, " ") {
			t.Errorf("%s and %s: %s, want %s", c.a, c.b, strings.Join(got, " "), c.want)
		}
	}
}
