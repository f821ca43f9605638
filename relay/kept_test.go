package relay_test

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// kept returns what the store keeps of a stream.
func kept(t testing.TB, store relay.KeptStore, stream string, f func(c *relay.Change, cut []string)) {
	t.Helper()
	tables, err := store.KeptTables(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	r := &relay.KeptReader{}
	if err := r.Learn(tables); err != nil {
		t.Fatal(err)
	}
	for q := (relay.KeptQuery{Stream: stream, MaxBytes: 1 << 20}); ; {
		runs, err := store.Kept(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(runs) == 0 {
			return
		}
		for i := range runs {
			q.After = runs[i].Seq
			if err := r.Open(&runs[i]); err != nil {
				t.Fatal(err)
			}
			for {
				var c relay.Change
				cut, ok := r.Next(&c)
				if !ok {
					break
				}
				f(&c, cut)
			}
			if err := r.Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func keptRows(t testing.TB, store relay.KeptStore) (rows []string) {
	kept(t, store, "shop", func(c *relay.Change, _ []string) {
		rows = append(rows, fmt.Sprintf("%d %d %d %s", c.Tx.XID, c.Tx.CommitLSN, c.Ordinal, c.New[0].Text))
	})
	return rows
}

type someTypes map[uint32]relay.Type

func (s someTypes) ResolveType(oid uint32) (relay.Type, bool) {
	t, ok := s[oid]
	return t, ok
}

func cell(s string) relay.Value { return relay.Value{State: relay.Known, Text: []byte(s)} }

// What is kept is all that came, and enough to judge it without a database.
func TestIngest_KeepsChangesAsTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		types := someTypes{
			900: {OID: 900, Schema: "public", Name: "mood", Kind: 'e', Labels: []string{"good", "bad"}},
			901: {OID: 901, Schema: "public", Name: "_mood", Kind: 'b', Elem: 900, Delim: ','},
			902: {OID: 902, Name: "unused"},
		}
		orders := &relay.Relation{
			OID: 7, Schema: "public", Name: "orders", Identity: relay.IdentityFull, PrimaryKey: []int{1, 0}, Types: types,
			Columns: []relay.Column{{Name: "id", TypeOID: 20, TypeMod: -1, Identity: true}, {Name: "shop", TypeOID: 25, TypeMod: -1}, {Name: "moods", TypeOID: 901, TypeMod: 4}},
		}
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{rule("a")}, keep: true}
		in := s.open(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()

		long := strings.Repeat("x", relay.MaxKeptValue+1)
		first := &relay.Tx{XID: 1, CommitLSN: 100, CommitTime: 1_000}
		told := &relay.Tx{XID: 1, CommitLSN: 100, CommitTime: 1_000, Context: []byte(`{"user":1}`)}
		second := &relay.Tx{XID: 2, CommitLSN: 200, CommitTime: 2_000}
		changes := []relay.Change{
			{Op: relay.Insert, Relation: orders, LSN: 90, New: relay.Row{cell("1"), cell("north"), cell("{good,bad}")}, Tx: first},
			{Op: relay.Message, LSN: 91, Name: "note", Payload: []byte("hello"), Tx: first},
			{Op: relay.Update, Relation: orders, LSN: 92, Ordinal: 3, Old: relay.Row{cell("1"), cell("north"), {}}, New: relay.Row{cell("1"), {State: relay.Null}, cell("")}, Tx: told},
			{Op: relay.Insert, Relation: tableT, LSN: 93, New: value("skip"), Tx: told},
			{Op: relay.Truncate, Relation: tableT, LSN: 150, Tx: second},
			{Op: relay.Delete, Relation: orders, LSN: 151, Old: relay.Row{cell("1"), {}, {}}, Tx: second},
			{Op: relay.Message, LSN: 300, Name: "loose", Payload: []byte{}, Time: 5},
			{Op: relay.Message, LSN: 400, Name: "long", Payload: []byte(long), Time: 6},
		}
		for i := range changes {
			c := &changes[i]
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			if i == 0 || c.Tx == second && changes[i-1].Tx != second {
				must(in.Begin(c.Tx))
			}
			must(in.Change(c))
			if c.Tx != nil && (changes[i+1].Tx == nil || changes[i+1].Tx.XID != c.Tx.XID) {
				must(in.Commit(c.Tx, c.Tx.CommitLSN+10))
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		var got []relay.Change
		kept(t, s.store, "shop", func(c *relay.Change, cut []string) {
			if (c.Name == "long") != (len(cut) == 1) {
				t.Errorf("%s %s: cut %v", c.Op, c.LSN, cut)
			}
			got = append(got, *c)
		})
		changes[7].Payload = []byte{}
		if len(got) != len(changes) {
			t.Fatalf("%d changes are kept, want %d", len(got), len(changes))
		}
		for i := range changes {
			want, have := changes[i], got[i]
			if want.Relation != nil {
				a, b := *want.Relation, *have.Relation
				if a.Types != nil {
					for _, oid := range []uint32{900, 901} {
						x, _ := a.Types.ResolveType(oid)
						y, ok := b.Types.ResolveType(oid)
						if !ok || !reflect.DeepEqual(x, y) {
							t.Errorf("type %d is %+v, want %+v", oid, y, x)
						}
					}
					if _, ok := b.Types.ResolveType(902); ok {
						t.Error("a type that no column has is kept")
					}
				}
				a.Types, b.Types = nil, nil
				if !reflect.DeepEqual(a, b) {
					t.Errorf("table is %+v, want %+v", b, a)
				}
				want.Relation, have.Relation = nil, nil
			}
			if !reflect.DeepEqual(want, have) {
				t.Errorf("change %d is %+v, want %+v", i, have, want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// A notification has no checkpoint, and most make no event: what is kept of them
// is stored all the same, once, also when a store fails.
func TestIngest_KeepsNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &relaytest.Memory{}
		in, err := relay.NewIngest(context.Background(), relay.IngestConfig{
			Stream: "shop/notify", Source: "shop", SystemID: 7, Rules: relay.NewRuleSet("shop", nil), Log: store, Feed: relay.NewFeed(), Logger: quiet(), Keep: true,
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		fail := 0
		store.Inject(func(step string) error {
			if step != "commit" && step != "committed" {
				return nil
			}
			if fail++; fail == 1 || fail == 4 { // the first before, the second after it is stored
				return fmt.Errorf("the disk has a bad day")
			}
			return nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()
		for n := range 3 {
			if err := in.Change(&relay.Change{Op: relay.Notify, Name: "exports", Payload: fmt.Append(nil, n), Time: int64(n + 1), PID: 9}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		var got []string
		kept(t, store, "shop/notify", func(c *relay.Change, _ []string) {
			got = append(got, fmt.Sprintf("%s %s %s %d %d", c.Op, c.Name, c.Payload, c.Time, c.PID))
		})
		if want := []string{"notify exports 0 1 9", "notify exports 1 2 9", "notify exports 2 3 9"}; !reflect.DeepEqual(got, want) {
			t.Errorf("kept %q, want %q", got, want)
		}
	})
}

// Gathering changes costs no memory of its own for each, and nothing when none
// are kept.
func TestIngest_ChangesThatMatchNothingCostNoAllocation(t *testing.T) {
	for _, keep := range []bool{false, true} {
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{rule("a")}, keep: keep}
		in := s.open(t)
		tx := &relay.Tx{XID: 1, CommitLSN: 100, Context: []byte(`{"user":1}`)}
		if err := in.Begin(tx); err != nil {
			t.Fatal(err)
		}
		c := &relay.Change{Op: relay.Insert, Relation: tableT, New: value("skip"), Tx: tx}
		if n := testing.AllocsPerRun(2000, func() {
			if err := in.Change(c); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("keep %v: a change that matches nothing allocates %v times", keep, n)
		}
	}
}

func TestKeptReader_RefusesWhatIsDamaged(t *testing.T) {
	r := &relay.KeptReader{}
	for _, data := range []string{"", "\x02", "\x01\x01", "\x01\x01" + strings.Repeat("x", 16)} {
		if err := r.Open(&relay.KeptChanges{Data: []byte(data)}); err == nil {
			t.Errorf("%q was opened", data)
		}
	}
	if err := r.Open(&relay.KeptChanges{Data: []byte("\x01\x00I\x00\x01\x00\x00\x00\x07")}); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Next(&relay.Change{}); ok || r.Err() == nil {
		t.Error("a change of no table was read")
	}
}
