package relaytest

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func rulesRecord(source, id string) *relay.RulesRecord {
	return &relay.RulesRecord{
		Source: source, ID: id, Hash: "hash of " + id, Text: "event " + id, At: 7,
		Needs: relay.Needs{{
			Table: relay.TableName{Schema: "public", Name: "orders"}, Ops: relay.OpsOf(relay.Insert, relay.Update), All: true,
			Columns: []string{"id"}, Old: []string{"status"},
		}},
		Gap: &relay.Gap{Source: source, At: 3, From: 4, Reason: "a table was missing"},
	}
}

func testKeepsRules(t *testing.T, s Store) {
	records := func(source string) []relay.RulesRecord {
		return got[[]relay.RulesRecord](t)(s.RulesRecords(ctx(t), source))
	}
	are := func(source string, want ...*relay.RulesRecord) {
		t.Helper()
		a, err := json.Marshal(records(source))
		must(t, err)
		b, err := json.Marshal(want)
		must(t, err)
		same(t, "records", string(a), string(b))
	}
	first, a, b, other := rulesRecord("shop", "1"), rulesRecord("shop", "a"), rulesRecord("shop", "b"), rulesRecord("other", "x")
	first.From = 10
	for _, r := range []*relay.RulesRecord{first, other, a, b} {
		must(t, s.PutRules(ctx(t), r))
	}
	for range 2 {
		are("shop", first, a, b)
		s.Reopen(t)
	}
	// b comes into force: a, which waited before it, never will.
	must(t, s.Append(ctx(t), &relay.Append{Stream: "shop", Source: source(50), Rules: []relay.RulesPlace{{ID: "b", From: 40}}}))
	first.Text, b.From = "", 40
	for range 2 {
		are("shop", first, b)
		are("other", other)
		s.Reopen(t)
	}
	// A record that waits after the one that comes into force goes on waiting.
	c, d := rulesRecord("shop", "c"), rulesRecord("shop", "d")
	must(t, s.PutRules(ctx(t), c))
	must(t, s.PutRules(ctx(t), d))
	c.From = 60
	must(t, s.PutRules(ctx(t), c))
	b.Text = ""
	are("shop", first, b, c, d)
	for i := range 2 * relay.PastRules {
		r := rulesRecord("shop", fmt.Sprint(i+100))
		r.From = relay.LSN(i + 100)
		must(t, s.PutRules(ctx(t), r))
	}
	if all := records("shop"); len(all) != relay.PastRules+1 || all[0].Text != "" || all[relay.PastRules].Text == "" {
		t.Fatalf("%d records are kept, the last of them %+v", len(all), all[len(all)-1])
	}
}
