package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const typesRules = `
source "postgres" "shop" {
  url = env("DATABASE_URL")
}
event "user.signed_up" {
  message = "signup"
  data    = payload
  schema {
    id   = integer
    plan = enum("free", "pro")
  }
}
`

func TestTypesPrintsEveryFormat(t *testing.T) {
	file := writeConfig(t, typesRules)
	for format, want := range map[string]string{
		"jsonschema": `"$schema": "https://json-schema.org/draft/2020-12/schema"`, "typescript": `plan: "free" | "pro";`,
		"go": "package hooks", "asyncapi": `"title": "Shop"`,
	} {
		stdout, stderr, code := runWith(t, nil, "types", "-c", file, "--format", format, "--package", "hooks", "--title", "Shop")
		if code != exitOK || stderr != "" || !strings.Contains(stdout, want) {
			t.Errorf("%s: exit code %d: %s%s", format, code, stdout, stderr)
		}
	}
}

func TestTypesComparesContracts(t *testing.T) {
	file := writeConfig(t, typesRules)
	saved := filepath.Join(filepath.Dir(file), "events.schema.json")
	if _, stderr, code := runWith(t, nil, "types", "-c", file, "-o", saved); code != exitOK {
		t.Fatal(stderr)
	}
	if stdout, stderr, code := runWith(t, nil, "types", "-c", file, "--compat", saved); code != exitOK || stdout != "nothing breaks receivers: 1 event before, 1 event now\n" {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	changed := writeConfig(t, strings.NewReplacer(`id   = integer`, `id   = nullable(integer)`, `"pro"`, `"pro", "team"`).Replace(typesRules))
	stdout, stderr, code := runWith(t, nil, "types", "-c", changed, "--compat", saved)
	if code != exitBreaks || stdout != "user.signed_up@1: data.id may be null\nuser.signed_up@1: data.plan may be \"team\"\n" || !strings.Contains(stderr, "2 changes") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	stdout, _, code = runWith(t, nil, "types", "-c", changed, "--compat", saved, "--json")
	if code != exitBreaks || !strings.Contains(stdout, `"compatible": false`) || !strings.Contains(stdout, `"path": "data.plan"`) {
		t.Errorf("exit code %d: %s", code, stdout)
	}
	// A new version beside the old one breaks nobody.
	beside := writeConfig(t, typesRules+"event \"user.signed_up_v2\" {\n  type = \"user.signed_up\"\n  version = 2\n  message = \"signup2\"\n  data = payload\n}\n")
	if stdout, stderr, code := runWith(t, nil, "types", "-c", beside, "--compat", saved); code != exitOK {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}

func TestTypesSaysWhatIsWrong(t *testing.T) {
	file := writeConfig(t, typesRules)
	bad := filepath.Join(filepath.Dir(file), "bad.json")
	if err := os.WriteFile(bad, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"--format yaml", "--format is jsonschema, typescript, go, asyncapi"},
		{"--package a-b", "no name of a Go package"},
		{"--catalog no.json", "does not exist"},
		{"--compat no.json", "no such file"},
		{"--compat " + bad, "x-rowhook-format is missing"},
	} {
		if _, stderr, code := runWith(t, nil, append([]string{"types", "-c", file}, strings.Fields(c.args)...)...); code != exitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit code %d: %s", c.args, code, stderr)
		}
	}
	// Without a catalogue it says that the columns are not known.
	if stdout, stderr, code := runWith(t, nil, "types", "-c", writeConfig(t, goodConfig)); code != exitOK || !strings.Contains(stderr, "--save-catalog") && !strings.Contains(stderr, "--catalog") || !strings.Contains(stdout, "order.paid@1") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}
