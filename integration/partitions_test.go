package integration_test

import (
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/postgres"
)

// A partition is attached after rows were written to it, and another is detached. The walsender of
// PostgreSQL 14 goes on as it has begun with each table, until the publication is altered: plan and
// README say so.
func TestCapture_PartitionsAttachedAndDetachedInMidStream(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "partitions", shopOptions{rules: strings.ReplaceAll(itemRule, "row\n", "{ id = row.id }\n")})
	s.exec(`DROP TABLE items; CREATE TABLE items (id int PRIMARY KEY) PARTITION BY RANGE (id);
		CREATE TABLE a PARTITION OF items FOR VALUES FROM (0) TO (10); CREATE TABLE b (id int PRIMARY KEY)`)
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1); INSERT INTO b VALUES (11)")
	s.expect(1)
	alter, warned := "", ""
	for _, w := range s.plan(0).Sources[0].Warnings {
		if strings.Contains(w.Summary, "PostgreSQL 14") {
			alter, warned = strings.Join(w.SQL, "\n"), w.Summary
		}
	}
	if old := cluster.Major() < 15; old != (alter != "") {
		t.Fatalf("on %d, plan warns: %q", cluster.Major(), warned)
	}
	s.exec("BEGIN; ALTER TABLE items ATTACH PARTITION b FOR VALUES FROM (10) TO (20); INSERT INTO items VALUES (10); " + alter + " INSERT INTO items VALUES (12); COMMIT")
	s.exec("BEGIN; ALTER TABLE items DETACH PARTITION a; " + alter + " INSERT INTO a VALUES (2); COMMIT; INSERT INTO a VALUES (3); INSERT INTO items VALUES (13)")
	s.expect(1, 10, 12, 13)
}

// A partition whose columns stand elsewhere than the root's, with columns = "rules": the server
// announces wrong columns of it.
func TestCapture_ListedColumnsOfPartitionsInAnotherOrder(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	if cluster.Major() < 15 {
		return // refused: TestCapture_OnlyWhatRulesReadLeavesTheDatabase
	}
	rule := strings.ReplaceAll(itemRule, "row\n", "{ id = new.id, was = old.id }\n")
	s := newShop(t, cluster, "order", shopOptions{source: leastSource("rules"), rules: rule})
	s.exec(`DROP TABLE items; CREATE TABLE items (id int PRIMARY KEY, v text, w text) PARTITION BY RANGE (id);
		CREATE TABLE a (v text, w text, id int PRIMARY KEY); ALTER TABLE items ATTACH PARTITION a DEFAULT`)
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1); UPDATE items SET id = 2")
	s.expect(1, 2)
	contains(t, "the update", string(s.hook.Events()[1].Body), `"key":"public.items/2"`, `{"id":2,"was":1}`)
}
