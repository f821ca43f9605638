package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goodConfig = `
rowhook {
  data_dir = "data"
}
source "postgres" "shop" {
  url = env("DATABASE_URL")
}
event "order.paid" {
  table = "public.orders"
  on    = ["update"]
  data  = { id = new.id }
}
sink "webhook" "billing" {
  url     = "https://billing.example.com/hooks"
  events  = ["order.**"]
  secrets = [env("SECRET")]
}
`

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rowhook.hcl")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func runWith(t *testing.T, env map[string]string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs, func(name string) string { return env[name] })
	return out.String(), errs.String(), code
}

var secrets = map[string]string{
	"DATABASE_URL": "postgres://app:hunter2@127.0.0.1:1/shop", "SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}

func TestCheck(t *testing.T) {
	file := writeConfig(t, goodConfig)
	if stdout, stderr, code := runWith(t, secrets, "check", "-c", file); code != exitOK || stdout != "no mistake found: 1 source, 1 rule, 1 sink\n" {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	// Without the daemon's environment it is a mistake, unless one says so.
	if _, stderr, code := runWith(t, nil, "check", "-c", file); code != exitUsage || !strings.Contains(stderr, "DATABASE_URL") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, stderr, code := runWith(t, nil, "check", "-c", file, "--without-secrets"); code != exitOK {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestCheckPrintsEveryMistakeAndNoSecret(t *testing.T) {
	file := writeConfig(t, strings.NewReplacer(`"update"`, `"updated"`, `["order.**"]`, `["Order"]`).Replace(goodConfig))
	stdout, stderr, code := runWith(t, secrets, "check", "-c", file)
	if code != exitUsage || stdout != "" || strings.Count(stderr, "Error: ") != 2 || !strings.Contains(stderr, `"updated"`) {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if strings.Contains(stderr, "hunter2") || strings.Contains(stderr, "rowhook: ") {
		t.Errorf("got %s", stderr)
	}
	stdout, stderr, code = runWith(t, secrets, "check", "-c", file, "--json")
	var got struct {
		Valid  bool `json:"valid"`
		Errors int  `json:"errors"`
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitUsage || stderr != "" || got.Valid || got.Errors != 2 {
		t.Errorf("exit code %d, %v: %s%s", code, err, stdout, stderr)
	}
}

func TestCheckOfADatabaseThatIsDownIsNoMistakeOfTheFile(t *testing.T) {
	_, stderr, code := runWith(t, secrets, "check", "-c", writeConfig(t, goodConfig), "--database")
	if code != exitFailure || !strings.Contains(stderr, "check source shop") || strings.Contains(stderr, "hunter2") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestRunRefusesABadConfiguration(t *testing.T) {
	file := writeConfig(t, "event {")
	if _, stderr, code := runWith(t, secrets, "run", "-c", file); code != exitUsage || !strings.Contains(stderr, "rowhook.hcl line 1") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	file = writeConfig(t, goodConfig)
	for _, flag := range []string{"--reset-checkpoint=shoop=now", "--accept-address=shoop"} {
		if _, stderr, code := runWith(t, secrets, "run", "-c", file, flag); code != exitUsage || !strings.Contains(stderr, `no source "shoop"`) {
			t.Errorf("%s: exit code %d: %s", flag, code, stderr)
		}
	}
}

// The shell of who asks for the status does not have the daemon's secrets.
func TestDataFolderIsFoundWithoutSecrets(t *testing.T) {
	file := writeConfig(t, goodConfig)
	_, stderr, code := runWith(t, nil, "status", "-c", file)
	want := "rowhook: no data folder: " + filepath.Join(filepath.Dir(file), "data") + " does not exist; 'rowhook run' makes it\n"
	if code != exitNotReady || stderr != want {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, stderr, code := runWith(t, nil, "status", "-c", writeConfig(t, "rowhook {")); code != exitUsage || stderr == "" {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestReceiveEndsWithItsTimeout(t *testing.T) {
	stdout, stderr, code := runWith(t, nil, "receive", "--listen", "127.0.0.1:0", "--secret", secrets["SECRET"], "--expect", "1", "--timeout", "1ms")
	if code != exitFailure || !strings.Contains(stdout, "listening on") || !strings.Contains(stderr, "received 0 of 1 expected events") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if _, stderr, code := runWith(t, nil, "receive", "--listen", "127.0.0.1:0", "--secret", "hunter2"); code != exitUsage || strings.Contains(stderr, "hunter2") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// A saved catalogue stands for the server, named by a flag or by the
// configuration.
func TestCheckAgainstASavedCatalogue(t *testing.T) {
	const catalog = `{"rowhook_catalog": 1, "language": 1, "sources": {"shop": {"tables": {"public.orders": {"kind": "r", "persistence": "p", "replica_identity": "d",
	  "primary_key": ["id"], "columns": [{"name": "id", "type": "bigint", "ref": 20, "not_null": true, "identity": true, "storage": "p"}]}}}}}`
	file := writeConfig(t, goodConfig)
	saved := filepath.Join(filepath.Dir(file), "catalog.json")
	if err := os.WriteFile(saved, []byte(catalog), 0o600); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, code := runWith(t, nil, "check", "-c", file, "--without-secrets", "--catalog", saved); code != exitOK {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	wrong := strings.Replace(strings.Replace(goodConfig, "new.id", "new.di", 1), `data_dir = "data"`, `catalog = "catalog.json"`, 1)
	if err := os.WriteFile(file, []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := runWith(t, nil, "check", "-c", file, "--without-secrets"); code != exitUsage || !strings.Contains(stderr, "Did you mean id?") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if err := os.Remove(saved); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := runWith(t, nil, "check", "-c", file, "--without-secrets"); code != exitUsage || !strings.Contains(stderr, "make it with rowhook check --database --save-catalog") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestCheckOfAnotherDatabaseNamesTheSource(t *testing.T) {
	file := writeConfig(t, strings.Replace(goodConfig+"source \"postgres\" \"stock\" {\n  url = env(\"STOCK_URL\")\n}\n", `table = "public.orders"`, "source = source.shop\n  table = \"public.orders\"", 1))
	if _, stderr, code := runWith(t, nil, "check", "-c", file, "--database", "postgres://app:hunter2@127.0.0.1:1/copy"); code != exitUsage || !strings.Contains(stderr, "shop=postgres://...") || strings.Contains(stderr, "hunter2") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, stderr, code := runWith(t, nil, "check", "-c", file, "--database", "shop=postgres://app:hunter2@127.0.0.1:1/copy"); code != exitFailure || !strings.Contains(stderr, "check source shop") || strings.Contains(stderr, "hunter2") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
