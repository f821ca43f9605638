package relaytest

import (
	"fmt"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func run(at int64, text string) *relay.KeptChanges {
	return &relay.KeptChanges{At: at, Data: []byte(text)}
}

// testKeepsChanges stores runs of changes as transactions come, are half stored,
// end and are given up.
func testKeepsChanges(t *testing.T, s Store) {
	table := relay.KeptTable{ID: "ab12", Definition: []byte(`{"OID":1}`)}
	half := source(40)
	half.Partial = &relay.PartialTx{CommitLSN: 99, XID: 7, RulesHash: "abc"}
	other := source(50)
	other.Partial = &relay.PartialTx{CommitLSN: 199, XID: 8, RulesHash: "abc"}
	visible := func(want ...string) {
		t.Helper()
		var have []string
		for q := (relay.KeptQuery{Stream: shop, MaxBytes: 1}); ; {
			runs := got[[]relay.KeptChanges](t)(s.Kept(ctx(t), q))
			if len(runs) == 0 {
				break
			}
			for _, r := range runs {
				have = append(have, fmt.Sprintf("%d:%d:%s", r.Seq, r.At, r.Data))
				q.After = r.Seq
			}
		}
		same(t, "kept", fmt.Sprint(have), fmt.Sprint(want))
	}
	keep := func(src *relay.SourceState, k *relay.Kept) {
		t.Helper()
		must(t, s.Append(ctx(t), &relay.Append{Stream: shop, Source: src, Kept: k}))
		s.Reopen(t)
	}
	visible()
	keep(source(30), &relay.Kept{Whole: run(10, "a"), Ended: true, Tables: []relay.KeptTable{table}})
	keep(half, &relay.Kept{Whole: run(20, "b"), Open: run(21, "c1"), Ended: true, Tables: []relay.KeptTable{table}})
	visible("1:10:a", "2:20:b")
	same(t, "stream", got[relay.StreamState](t)(s.Stream(ctx(t), shop)), relay.StreamState{KeptHead: 2, KeptTail: 3})
	keep(half, &relay.Kept{Open: run(22, "c2")})
	keep(half, nil)
	visible("1:10:a", "2:20:b")
	// The transaction ended with what is there, and the next one is half stored.
	keep(other, &relay.Kept{Open: run(30, "d1"), Ended: true})
	visible("1:10:a", "2:20:b", "3:21:c1", "4:22:c2")
	// That one is given up, and comes anew.
	must(t, s.Append(ctx(t), &relay.Append{Stream: shop, Source: other, DiscardTail: true, Kept: &relay.Kept{Open: run(31, "e1")}}))
	keep(source(60), nil)
	visible("1:10:a", "2:20:b", "3:21:c1", "4:22:c2", "5:31:e1")
	runs := got[[]relay.KeptChanges](t)(s.Kept(ctx(t), relay.KeptQuery{Stream: shop, Since: 22, MaxBytes: 1 << 20}))
	if len(runs) != 2 || runs[0].Seq != 4 {
		t.Errorf("since a time: %+v", runs)
	}
	if runs := got[[]relay.KeptChanges](t)(s.Kept(ctx(t), relay.KeptQuery{Stream: "unknown", MaxBytes: 1})); len(runs) != 0 {
		t.Errorf("of no stream: %+v", runs)
	}
	tables := got[[]relay.KeptTable](t)(s.KeptTables(ctx(t)))
	if len(tables) != 1 || tables[0].ID != table.ID || string(tables[0].Definition) != string(table.Definition) {
		t.Errorf("tables: %+v", tables)
	}
}
