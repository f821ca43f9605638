package relay_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func recentChange(rel *relay.Relation, n int, text string) *relay.Change {
	return &relay.Change{
		Op: relay.Update, Relation: rel, LSN: relay.LSN(n), Ordinal: uint32(n % 3), New: value(text), Old: relay.Row{{State: relay.Null}},
		Tx: &relay.Tx{XID: uint32(n), CommitLSN: relay.LSN(n + 1), CommitTime: int64(n), Context: []byte(`{"user":1}`)},
	}
}

func TestRecent_ReturnsWhatWasAdded(t *testing.T) {
	other := *tableT
	other.Name = "other"
	r := &relay.Recent{}
	var want []relay.RecentChange
	for i := 1; i <= 20; i++ {
		rel := tableT
		if i%3 == 0 {
			rel = &other
		}
		c := recentChange(rel, i, fmt.Sprint("row ", i))
		switch i {
		case 4:
			c.Op, c.New = relay.Delete, nil
		case 5:
			c.Old, c.Tx.Context = relay.Row{{State: relay.Unknown}}, nil
		}
		r.Add(c)
		if rel == tableT && i >= 2 {
			want = append(want, relay.RecentChange{N: int64(i), Change: *c})
		}
	}
	got, since, forgotten, next := r.Of(tableT.Table(), 2)
	if !reflect.DeepEqual(got, want) || since != 1 || forgotten || next != 21 {
		t.Errorf("got %d changes since %d, forgotten %v, next %d\n%+v\nwant\n%+v", len(got), since, forgotten, next, got, want)
	}
}

func TestRecent_ForgetsTheOldestAndKeepsItsBound(t *testing.T) {
	r := &relay.Recent{}
	const size = 1000
	n := 10 * relay.RecentBytes / size
	text := strings.Repeat("x", size)
	for i := 1; i <= n; i++ {
		r.Add(recentChange(tableT, i, text))
	}
	got, since, forgotten, _ := r.Of(tableT.Table(), 0)
	if first := got[0].N; !forgotten || since != first || len(got) < relay.RecentBytes/size/2 || len(got) > 3*relay.RecentBytes/size {
		t.Errorf("%d changes from %d on (since %d), forgotten %v", len(got), first, since, forgotten)
	}
	for i := range got {
		if c := &got[i]; c.N != got[0].N+int64(i) || c.Change.LSN != relay.LSN(c.N) || string(c.Change.New[0].Text) != text {
			t.Fatalf("change %d is number %d at %s", i, c.N, c.Change.LSN)
		}
	}
	c := recentChange(tableT, n+1, text)
	if allocs := testing.AllocsPerRun(100, func() { r.Add(c) }); allocs > 0 {
		t.Errorf("adding allocates %v times", allocs)
	}
	r.Add(recentChange(tableT, 1, strings.Repeat("y", 5000)))
	got, _, _, _ = r.Of(tableT.Table(), 0)
	if last := got[len(got)-1]; len(last.Cut) != 1 || last.Cut[0] != "id" || last.Change.New[0].State != relay.Unknown {
		t.Errorf("a long value is remembered as %+v, cut %v", last.Change.New, last.Cut)
	}
}
