package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/postgres"
)

const catalogSchema = `
CREATE TYPE status AS ENUM ('pending', 'paid');
CREATE TABLE items (id int PRIMARY KEY, status status NOT NULL, total int NOT NULL, other text);
ALTER TABLE items REPLICA IDENTITY FULL;`

const catalogRules = `
event "item.paid" {
  table = "public.items"
  on    = ["insert", "update"]
  when  = new.status == "paid" && new.total > 5
  data  = { id = new.id }
}
event "item.deleted" {
  table = "public.items"
  on    = ["delete"]
  data  = { id = old.id }
}
`

// TestCatalog_IsSavedAndDriftIsSaid saves the catalogue of a database, checks without the database,
// checks a migration on a copy before it is deployed, and lets the daemon meet it.
func TestCatalog_IsSavedAndDriftIsSaid(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "catalog", shopOptions{schema: catalogSchema, rules: catalogRules, settings: `catalog = "catalog.json"`})
	saved := filepath.Join(s.d.Dir, "config", "catalog.json")
	if res := s.command("check"); res.Code != 2 || !strings.Contains(res.Stderr, "make it with rowhook check --database --save-catalog") {
		t.Errorf("check without the file: %d %s", res.Code, res.Stderr)
	}
	s.must("check", "--database", "--save-catalog", saved)
	first, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}

	// A copy of the database has other OIDs, and the same catalogue.
	copied := cluster.Database(t, "catalog_copy")
	if err := cluster.Exec(t.Context(), "catalog_copy", "CREATE TYPE unrelated AS ENUM ('x'); CREATE TABLE t (m unrelated);"+catalogSchema); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(s.d.Dir, "again.json")
	s.must("check", "--database", "shop="+copied, "--save-catalog", again)
	if second, err := os.ReadFile(again); err != nil || string(second) != string(first) {
		t.Errorf("the catalogue of the same schema differs: %v\n%s\n%s", err, first, second)
	}

	// Without the server it is known all the same.
	s.d.SetRules(strings.Replace(s.rules, `"paid"`, `"piad"`, 1))
	if res := s.command("check"); res.Code != 2 || !strings.Contains(res.Stderr, "Did you mean paid?") {
		t.Errorf("check with the file: %d %s", res.Code, res.Stderr)
	}
	s.d.SetRules(s.rules)
	s.must("check")

	// A migration is checked before it is deployed.
	const migration = "ALTER TABLE items ALTER total DROP NOT NULL; ALTER TABLE items DROP other; ALTER TABLE items ADD more int"
	if err := cluster.Exec(t.Context(), "catalog_copy", migration); err != nil {
		t.Fatal(err)
	}
	const drift = "item.paid: public.items.total was not nullable, and is"
	res := s.command("check", "--database", copied)
	if res.Code != 2 || !strings.Contains(res.Stderr, "new.total may be null") || !strings.Contains(res.Stderr, drift) {
		t.Errorf("check of a migrated copy: %d %s", res.Code, res.Stderr)
	}
	if n := strings.Count(res.Stderr, "Catalogue has drifted"); n != 1 {
		t.Errorf("%d columns drifted, and one that a rule reads: %s", n, res.Stderr)
	}

	// The daemon says nothing as long as nothing touches a rule.
	s.exec("ALTER TABLE items ADD extra int")
	s.d.StartReady()
	s.d.Term()
	if log := s.d.Log(); strings.Contains(log, "drifted") {
		t.Errorf("the daemon speaks of a column that no rule reads: %s", log)
	}
	s.exec(migration)
	s.d.StartReady()
	s.d.WaitLog("the catalogue has drifted from the saved one")
	if log := s.d.Log(); !strings.Contains(log, drift) || !strings.Contains(log, "a rule fails on some rows") || !strings.Contains(log, "new.total may be null") {
		t.Errorf("got %s", log)
	}
	// It goes on: a row that meets the null is a dead letter, the others are events.
	s.exec("INSERT INTO items (id, status) VALUES (1, 'paid')")
	s.exec("INSERT INTO items (id, status, total) VALUES (2, 'paid', 9)")
	s.expect(2)
	if out := s.must("events", "failures"); !strings.Contains(out, "item.paid") || !strings.Contains(out, "new.total is null") {
		t.Errorf("failures: %s", out)
	}
}

// A schema is a promise: data that does not keep it is a dead letter, and no event.
func TestSchema_WhatDoesNotFitIsADeadLetter(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "schema", shopOptions{rules: `
event "signup" {
  message = "signup"
  data    = payload
  schema {
    id   = integer
    plan = enum("free", "pro")
  }
}
`})
	s.d.StartReady()
	s.exec(`SELECT pg_logical_emit_message(true, 'signup', '{"id": 1, "plan": "team"}')`)
	s.exec(`SELECT pg_logical_emit_message(true, 'signup', '{"id": 2, "plan": "pro"}')`)
	s.expect(2)
	if out := s.must("events", "failures"); !strings.Contains(out, `data.plan is not one of "free", "pro", as the schema says`) {
		t.Errorf("failures: %s", out)
	}
}
