package integration_test

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/postgres"
)

// TestCapture_ABackfillReadsOnlyWhatRulesRead reads rows with columns = "rules", at the
// first start and later, while they change, and looks at all that leaves the database.
func TestCapture_ABackfillReadsOnlyWhatRulesRead(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	if cluster.Major() < 15 {
		return // it is refused: TestCapture_OnlyWhatRulesReadLeavesTheDatabase
	}
	w := newWire(t, withPassword(t, cluster.URL("least")))
	stays := strings.Repeat("STAYS", 2000) // out of line
	s := newShop(t, cluster, "least", shopOptions{
		schema: peopleSchema + `; CREATE UNIQUE INDEX by_tag ON people (tag); ALTER TABLE people ALTER tag SET NOT NULL, REPLICA IDENTITY USING INDEX by_tag;
			INSERT INTO people SELECT i, 'LEAVES-' || i, 'tag' || i, 'STAYS', '` + stays + `' FROM generate_series(1, 300) i`,
		source: strings.ReplaceAll(leastSource("rules"), "slot", "backfill = [\"person\"]\n  slot"),
		rules: `
event "person" {
  table = "public.people"
  on    = ["insert", "update", "read"]
  data  = { id = row.id, name = row.name }
}
`, url: w.URL})
	s.d.StartReady()
	s.hook.WaitCount(300)
	s.exec("INSERT INTO people VALUES (400, 'LEAVES-new', 'new', 'STAYS', 'STAYS'); UPDATE people SET name = 'LEAVES-b', ssn = 'STAYS-2' WHERE id = 7; UPDATE people SET tag = 'a' WHERE id = 300")
	s.hook.WaitCount(303)
	r := s.d.Command("backfill", "person", "--data-dir", "DATA", "--where", "id % 2 = 0", "--wait", "--json")
	var b backfill
	if err := json.Unmarshal([]byte(r.Stdout), &b); err != nil || r.Code != 0 || b.Rows != 151 || b.Events != 151 {
		t.Fatalf("the backfill: %+v, %v", r, err)
	}
	s.hook.WaitCount(303 + 151)
	if w.saw("STAYS") || !w.saw("LEAVES-299") || !w.saw("LEAVES-b") {
		t.Errorf("STAYS left %v, LEAVES left %v", w.saw("STAYS"), w.saw("LEAVES"))
	}
	want, got := map[string]string{"400": "LEAVES-new"}, map[string]string{}
	for i := 1; i <= 300; i++ {
		want[strconv.Itoa(i)] = "LEAVES-" + strconv.Itoa(i)
	}
	want["7"] = "LEAVES-b"
	for _, q := range s.hook.Events() {
		var d struct {
			ID   json.Number
			Name string
		}
		if err := json.Unmarshal(q.Data, &d); err != nil {
			t.Fatal(err)
		}
		got[d.ID.String()] = d.Name
	}
	if !maps.Equal(got, want) {
		t.Errorf("the mirror has %d rows, want %d: %v", len(got), len(want), got)
	}
}
