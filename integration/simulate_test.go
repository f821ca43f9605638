package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
)

func TestSimulate(t *testing.T) {
	runPromises(t, postgres.Options{}, "simulate", []promise{
		{"an edited rule differs precisely where it should, also over kills", simulateEdit},
		{"the window has a length and a size, and can be turned off", simulateWindow},
	})
}

// keeping is shopSource that keeps changes.
func keeping(more string) string { return strings.Replace(shopSource, "\n}", "\n"+more+"\n}", 1) }

// simulated is what the test reads of simulate --json.
type simulated struct {
	Sources []struct {
		Changes                           int
		Removed, Added, Changed, Failures int
		EventsBefore                      int `json:"events_before"`
		EventsAfter                       int `json:"events_after"`
		Differences                       []json.RawMessage
		Unjudged                          []json.RawMessage
	}
}

// simulate runs the command with other rules, and returns what it says and its
// exit code.
func (s *shop) simulate(rules string, args ...string) (simulated, harness.Result) {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "edited.hcl")
	text := strings.ReplaceAll(shopSource, "SLOT", "rowhook_"+s.name) + rules
	if err := os.WriteFile(dir, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	res := s.d.Command(append([]string{"simulate", "--json", "-c", dir, "--data-dir", "DATA"}, args...)...)
	var out simulated
	if res.Code == 0 || res.Code == 2 {
		if err := json.Unmarshal([]byte(res.Stdout), &out); err != nil || len(out.Sources) != 1 {
			s.t.Fatalf("simulate: %v: %+v", err, res)
		}
	}
	return out, res
}

func compact(t *testing.T, text []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// keeps waits until so many changes are kept.
func (s *shop) keeps(n int) {
	s.t.Helper()
	s.eventually(func() error {
		out, res := s.simulate(itemRule)
		if len(out.Sources) != 1 {
			return fmt.Errorf("simulate: %+v", res)
		}
		if have := out.Sources[0].Changes; have != n {
			return fmt.Errorf("%d changes are kept, want %d", have, n)
		}
		return nil
	})
}

func simulateEdit(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{
		schema: itemsSchema + "; CREATE TYPE mood AS ENUM ('good', 'bad'); ALTER TABLE items ADD moods mood[], ADD n numeric",
		source: keeping(`keep_changes = "1h"`),
	})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, 'a', '{good,bad}', 1.50), (2, 'b', NULL, 12345678901234567890.1)")
	s.exec("UPDATE items SET v = 'c' WHERE id = 1")
	s.exec("DELETE FROM items WHERE id = 2")
	s.keeps(4)

	// The rules in force make what they made; written otherwise they do as well.
	if out, res := s.simulate(strings.Replace(itemRule, "data  = row", "data  = merge(row, {})", 1)); res.Code != 0 || out.Sources[0].EventsBefore != 4 || out.Sources[0].EventsAfter != 4 {
		t.Errorf("rules that do the same: %+v", res)
	}
	const edited = `
event "item" {
  table = "public.items"
  on    = ["insert", "update"]
  when  = new.v != "b"
  data  = merge(row, { n = coalesce(new.n, 0) + 1 })
}
event "item.sad" {
  table = "public.items"
  on    = ["insert"]
  when  = contains(coalesce(new.moods, []), "bad")
  data  = { id = new.id, moods = new.moods }
}
`
	precisely := func(when string) {
		t.Helper()
		out, res := s.simulate(edited)
		x := out.Sources[0]
		if res.Code != 2 || x.Changes != 4 || x.Removed != 2 || x.Added != 1 || x.Changed != 2 || x.Failures != 0 || len(x.Unjudged) != 0 || len(x.Differences) != 4 {
			t.Fatalf("%s: %+v", when, res)
		}
		for i, want := range [][]string{
			{`"key":"1"`, `"op":"insert"`, `"type":"item.sad"`, `{"id":1,"moods":["good","bad"]}`, `{"field":"data.n","before":1.50,"after":2.5}`},
			{`"key":"2"`, `"op":"insert"`, `"removed":[{"id":"evt_`, `12345678901234567890.1`},
			{`"key":"1"`, `"op":"update"`, `"fields":[{"field":"data.n","before":1.50,"after":2.5}]`},
			{`"key":"2"`, `"op":"delete"`, `"removed":[{"id":"evt_`},
		} {
			contains(t, when, compact(t, x.Differences[i]), want...)
		}
	}
	precisely("beside the daemon")
	removed := struct{ Removed []struct{ ID string } }{}
	out, _ := s.simulate(edited)
	if err := json.Unmarshal(out.Sources[0].Differences[1], &removed); err != nil {
		t.Fatal(err)
	}
	contains(t, "the event that would be gone", s.must("events", "show", removed.Removed[0].ID), removed.Removed[0].ID)
	s.d.Kill9()
	precisely("after a kill, without a daemon")

	// Kills in the middle of a transaction that is larger than what is gathered:
	// nothing is missing, nothing is there twice. Its rows make no event.
	s.d.SetRules(strings.ReplaceAll(keeping(`keep_changes = "1h"`), "SLOT", "rowhook_"+s.name) + strings.Replace(itemRule, "data ", "when = row.id < 10\n  data ", 1) + sinkTo("hook", s.hook.URL))
	s.d.StartReady()
	const rows = 200_000
	s.exec(fmt.Sprintf("INSERT INTO items SELECT i, repeat('x', 100), NULL, i FROM generate_series(11, %d) i", rows+10))
	for range 3 {
		s.eventually(func() error {
			n, err := s.d.Metric("rowhook_source_changes_total")
			if err == nil && n < rows/10 {
				err = errors.New("not in the middle yet")
			}
			return err
		})
		s.d.Kill9()
		s.d.StartReady()
	}
	s.keeps(4 + rows)
	out, res := s.simulate(strings.Replace(itemRule, "data ", "when = row.id < 10 || row.n % 1000 == 0\n  data ", 1))
	if x := out.Sources[0]; res.Code != 2 || x.Added != rows/1000 || x.Removed+x.Changed+x.Failures != 0 {
		t.Errorf("over the large transaction: %+v", x)
	}
}

func simulateWindow(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{source: keeping("keep_changes = \"10m\"\n  keep_changes_size = \"1MiB\"")})
	s.d.StartReady()
	s.put(1)
	s.keeps(1)
	// More than the size: the oldest go.
	s.exec("INSERT INTO items SELECT i, repeat('x', 1000) FROM generate_series(2, 5000) i")
	s.put(5001)
	s.eventually(func() error {
		out, res := s.simulate(itemRule)
		if len(out.Sources) == 0 || out.Sources[0].Changes >= 2500 || out.Sources[0].Changes == 0 {
			return fmt.Errorf("the window keeps %v, %s", out.Sources, res.Stderr)
		}
		return nil
	})
	restart := func(more string) {
		s.d.Term()
		s.d.SetRules(strings.ReplaceAll(keeping(more), "SLOT", "rowhook_"+s.name) + itemRule + sinkTo("hook", s.hook.URL))
		s.d.StartReady()
	}
	none := func() {
		t.Helper()
		s.eventually(func() error {
			if _, res := s.simulate(itemRule); res.Code != 1 || !strings.Contains(res.Stderr, "keeps no changes") {
				return fmt.Errorf("simulate: %+v", res)
			}
			return nil
		})
	}
	restart(`keep_changes = "1s"`)
	none() // they have expired
	restart(`keep_changes = "10m"`)
	s.put(5002)
	s.keeps(1)
	restart("")
	none() // nothing is to be kept any more
}
