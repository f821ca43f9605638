package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
)

// episode is a part of a README: statements, and the events that come of them,
// each as far as it is written.
type episode struct {
	sql    string
	events []map[string]any
}

// episodes reads the ```sql blocks of a README, and the ```json block after
// each, with one event a line.
func episodes(t *testing.T, readme string) []episode {
	t.Helper()
	var out []episode
	for i, block := range strings.Split(readme, "```") {
		kind, text, _ := strings.Cut(block, "\n")
		switch {
		case i%2 == 0:
		case kind == "sql":
			out = append(out, episode{sql: text})
		case kind == "json" && len(out) > 0:
			for line := range strings.Lines(text) {
				out[len(out)-1].events = append(out[len(out)-1].events, readEvent(t, []byte(line)))
			}
		}
	}
	return out
}

// statements divides SQL at its semicolons, as somebody types it: sent as one,
// several statements would be one transaction.
func statements(sql string) []string {
	var out []string
	start, quoted := 0, false
	for i, c := range sql {
		if c == '\'' {
			quoted = !quoted
		}
		if c == ';' && !quoted {
			out = append(out, sql[start:i])
			start = i + 1
		}
	}
	return out
}

func readEvent(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var event map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&event); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return event
}

// includes reports whether got has everything that want has: objects inside
// may have more, lists not.
func includes(want, got any) bool {
	w, ok := want.(map[string]any)
	g, both := got.(map[string]any)
	if !ok || !both {
		a, _ := json.Marshal(want)
		b, _ := json.Marshal(got)
		return string(a) == string(b)
	}
	for k, v := range w {
		if in, ok := g[k]; !ok || !includes(v, in) {
			return false
		}
	}
	return true
}

// TestExamples does with each example what its README says: the tables, the
// checks, the tests, and then the statements, with rowhook and a receiver, whose
// events are those of the README.
func TestExamples(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	folders, err := filepath.Glob("../examples/*/schema.sql")
	if err != nil || len(folders) < 6 {
		t.Fatalf("there are %d examples, %v", len(folders), err)
	}
	for _, schema := range folders {
		name := filepath.Base(filepath.Dir(schema))
		t.Run(name, func(t *testing.T) { example(t, cluster, name) })
	}
}

func example(t *testing.T, cluster *postgres.Cluster, name string) {
	database := strings.ReplaceAll(name, "-", "_")
	url := cluster.Database(t, database)
	hook := harness.NewReceiver(t)
	// Not t.TempDir: the data folder holds a Unix socket, whose path has 107 bytes at most.
	dir, err := os.MkdirTemp("", "rowhook-example-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("../examples", name))); err != nil {
		t.Fatal(err)
	}
	w := &workbench{t: t, dir: dir}
	if err := cluster.Exec(t.Context(), database, w.file("schema.sql")); err != nil {
		t.Fatal(err)
	}
	// What needs no server and no secret.
	w.run(0, "fmt", "-check", "-diff")
	w.run(0, "test", "--min-coverage", "100")
	w.env = []string{"DATABASE_URL=" + url, "WEBHOOK_URL=" + hook.URL, "WEBHOOK_SECRET=" + harness.Secret}
	if said := w.run(0, "check", "--database", "--save-catalog", "new.json"); strings.Contains(said, "Warning") {
		t.Errorf("check --database warns:\n%s", said)
	}
	if name == "quickstart" {
		return // run.sh runs it
	}
	rules := w.file("rowhook.hcl")
	if strings.Contains(rules, "catalog.json") && w.file("new.json") != w.file("catalog.json") {
		t.Errorf("the catalogue beside the rules is not that of schema.sql, which is\n%s", w.file("new.json"))
	}
	story := episodes(t, w.file("README.md"))
	if len(story) < 2 {
		t.Fatalf("README.md has %d blocks of statements", len(story))
	}

	// The address is the machine's affair; a configuration has one rowhook block.
	listen := fmt.Sprintf("rowhook {\n  listen = \"127.0.0.1:%d\"\n", freePort(t))
	if strings.Contains(rules, "rowhook {") {
		rules = strings.Replace(rules, "rowhook {", listen, 1)
	} else {
		rules += listen + "}\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "rowhook.hcl"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := cluster.Conn(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	daemon, output := w.background("run")
	waitFor(t, output, "streaming")
	total := 0
	for _, e := range story {
		for _, statement := range statements(e.sql) {
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Fatalf("%v:\n%s", err, statement)
			}
		}
		total += len(e.events)
		hook.WaitCount(total)
		missing := slices.Clone(e.events)
		for _, q := range hook.Events()[total-len(e.events):] {
			got := readEvent(t, q.Body)
			i := slices.IndexFunc(missing, func(want map[string]any) bool { return includes(want, got) })
			if i < 0 {
				t.Errorf("after\n%scame what README.md does not say:\n%s", e.sql, q.Body)
				continue
			}
			missing = slices.Delete(missing, i, i+1)
		}
		for _, m := range missing {
			text, _ := json.Marshal(m)
			t.Errorf("after\n%sdid not come:\n%s", e.sql, text)
		}
	}
	if err := daemon.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("run: %v\n%s", err, output())
	}
	if n := len(hook.Events()); n != total {
		t.Errorf("%d events came, README.md says %d", n, total)
	}
}
