package main

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTest_Script(t *testing.T) {
	dir := copyFolder(t, "test")
	play(t, "testdata/test.txt", dir, ruleProgram(""), &fake{})
	// The report that the script has written.
	text, err := os.ReadFile(filepath.Join(dir, "report.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var report junitSuites
	if err := xml.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	if report.Tests != 2 || report.Failures != 2 || len(report.Suites) != 1 || len(report.Suites[0].Cases) != 2 || report.Suites[0].Cases[1].Failure == nil {
		t.Errorf("the report is\n%s", text)
	}
}

// TestTest_MeansTheSameOnEveryMachine: the key of a pseudonym is a secret of the
// daemon, and no test may depend on it.
func TestTest_MeansTheSameOnEveryMachine(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"rowhook.hcl": `source "postgres" "shop" {
  url = env("DATABASE_URL")
}
event "a.b" {
  message = "m"
  data    = { p = hmacsha256(env("KEY"), payload.x) }
}
`,
		"a.test.hcl": `test "a pseudonym" {
  message "m" {
    payload = { x = "ada" }
  }
}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("KEY", "one") // what the process has must not matter either
	for i, key := range []string{"", "two"} {
		p := ruleProgram("")
		var out strings.Builder
		p.stdout, p.stderr = &out, &out
		p.getenv = func(string) string { return key }
		args := []string{"test", "-c", dir}
		if i == 0 {
			args = append(args, "--update")
		}
		if code := p.run(t.Context(), args); code != exitOK {
			t.Errorf("with the key %q: exit code %d\n%s", key, code, out.String())
		}
	}
}
