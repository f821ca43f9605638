package relaytest

import (
	"errors"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func testKeepsBackfills(t *testing.T, s Store) {
	a := relay.Backfill{Source: "shop", Rule: "order.paid", Where: "id > 5", Rate: 10, Initial: true, CreatedAt: 7}
	b := relay.Backfill{Source: "shop", Rule: "item.made", CreatedAt: 8}
	must(t, s.AddBackfill(ctx(t), &a))
	must(t, s.AddBackfill(ctx(t), &b))
	if a.ID == 0 || b.ID <= a.ID || a.ID > 1<<32-1 {
		t.Fatalf("the backfills have the numbers %d and %d", a.ID, b.ID)
	}
	a.State, b.State = relay.BackfillOpen, relay.BackfillOpen
	same(t, "backfills", got[[]relay.Backfill](t)(s.Backfills(ctx(t))), []relay.Backfill{a, b})

	a.Progress = relay.BackfillProgress{
		Done: []relay.TableName{{Schema: "public", Name: "orders"}}, Table: relay.TableName{Schema: "s", Name: "t"}, Key: []string{"a", "b"}, After: [][]byte{[]byte("1"), {0xff, 0}}, Moved: [][][]byte{{[]byte("k"), {}}}, Lost: "why", Rows: 3, Events: 2, Estimate: 9, Point: 99, Row: 3, Index: 2, At: 11,
	}
	must(t, s.Append(ctx(t), &relay.Append{
		Stream: shop, Blocks: []*relay.Block{block(shop, 1, 2)}, Head: 2, Tail: 2, Backfill: &relay.BackfillUpdate{ID: a.ID, Progress: a.Progress},
	}))
	same(t, "backfills", got[[]relay.Backfill](t)(s.Backfills(ctx(t))), []relay.Backfill{a, b})

	// Nothing of an append that is refused is recorded.
	err := s.Append(ctx(t), &relay.Append{
		Stream: shop, Blocks: []*relay.Block{block(shop, 2, 3)}, Head: 3, Tail: 3, Backfill: &relay.BackfillUpdate{ID: b.ID, Done: true},
	})
	if err == nil {
		t.Fatal("an append that does not continue the stream was stored")
	}
	// The last append ends a backfill.
	b.Progress = relay.BackfillProgress{Rows: 1, Events: 1, At: 12}
	b.State, b.EndedAt = relay.BackfillDone, 12
	must(t, s.Append(ctx(t), &relay.Append{
		Stream: shop, Blocks: []*relay.Block{block(shop, 3, 3)}, Head: 3, Tail: 3, Backfill: &relay.BackfillUpdate{ID: b.ID, Progress: b.Progress, Done: true},
	}))
	same(t, "backfills", got[[]relay.Backfill](t)(s.Backfills(ctx(t))), []relay.Backfill{a, b})

	// One that has ended stays as it is.
	if !got[bool](t)(s.EndBackfill(ctx(t), a.ID, relay.BackfillCancelled, "", 13)) {
		t.Error("an open backfill was not cancelled")
	}
	a.State, a.EndedAt = relay.BackfillCancelled, 13
	if got[bool](t)(s.EndBackfill(ctx(t), a.ID, relay.BackfillFailed, "no", 14)) {
		t.Error("a cancelled backfill failed")
	}
	must(t, s.Append(ctx(t), &relay.Append{
		Stream: shop, Blocks: []*relay.Block{block(shop, 4, 4)}, Head: 4, Tail: 4, Backfill: &relay.BackfillUpdate{ID: a.ID, Done: true},
	}))
	same(t, "backfills", got[[]relay.Backfill](t)(s.Backfills(ctx(t))), []relay.Backfill{a, b})
	if _, err := s.EndBackfill(ctx(t), b.ID+1, relay.BackfillCancelled, "", 15); !errors.Is(err, relay.ErrNotFound) {
		t.Errorf("the end of a backfill that does not exist: %v", err)
	}
}
