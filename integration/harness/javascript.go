package harness

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

//go:embed verify.mjs
var verifier string

// VerifyInJavaScript checks the signatures of requests with the JavaScript library of Standard
// Webhooks, a second opinion on what the Go library lets through.
func VerifyInJavaScript(t testing.TB, secret string, requests []*Request) error {
	t.Helper()
	modules := JavaScript(t, "standardwebhooks")
	var in bytes.Buffer
	lines := json.NewEncoder(&in)
	for _, q := range requests {
		headers := map[string]string{}
		for name, values := range q.Header {
			headers[strings.ToLower(name)] = values[0]
		}
		if err := lines.Encode(map[string]any{"secret": secret, "headers": headers, "body": string(q.Body)}); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	// The program comes by file, because its standard input has the webhooks.
	program := filepath.Join(t.TempDir(), "verify.mjs")
	if err := os.WriteFile(program, []byte(verifier), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", program, modules)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if got := strings.TrimSpace(stdout.String()); got != strconv.Itoa(len(requests)) {
		t.Fatalf("%s of %d webhooks were looked at", got, len(requests))
	}
	return nil
}

// JavaScript returns the folder in whose node_modules the packages are: the one that ROWHOOK_JS
// names, or .cache/js, where run.sh puts them.
func JavaScript(t testing.TB, packages ...string) string {
	t.Helper()
	modules := os.Getenv("ROWHOOK_JS")
	if modules == "" {
		root, err := repoRoot()
		if err != nil {
			t.Fatal(err)
		}
		modules = filepath.Join(root, ".cache", "js")
	}
	for _, name := range packages {
		if _, err := os.Stat(filepath.Join(modules, "node_modules", name)); err != nil {
			t.Fatalf("the JavaScript package %s is not there; run integration/run.sh once, or npm install --prefix %s %s: %v", name, modules, name, err)
		}
	}
	return modules
}
