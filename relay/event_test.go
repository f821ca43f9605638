package relay_test

import (
	"bytes"
	"reflect"
	"sort"
	"testing"

	"pgregory.net/rapid"

	"github.com/rowhook/rowhook/relay"
)

// The golden ids of this test are in receivers' databases: they never change.
// Commit times do not rise, and the clock may be set back.
func TestBlock_TimesLieWithinItsBounds(t *testing.T) {
	var b relay.BlockBuilder
	times := []int64{50, 70, 30}
	for i, at := range times {
		b.Add(&relay.Event{Seq: int64(i + 1), Stream: "s", Time: at})
	}
	k := b.Finish()
	if k.FirstTime != 30 || k.LastTime != 70 {
		t.Errorf("the bounds are %d and %d", k.FirstTime, k.LastTime)
	}
	r := k.Reader()
	for e := (relay.Event{}); r.Next(&e); {
		if want := times[e.Seq-1]; e.Time != want {
			t.Errorf("event %d is of %d, want %d", e.Seq, e.Time, want)
		}
	}
}

func TestEventID_NeverChanges(t *testing.T) {
	f := relay.IDFacts{
		SystemID: 7340000000000000001, CommitLSN: 0x16B3748, XID: 731, CommitTime: 1700000000123456,
		Kind: relay.Update, ChangeLSN: 0x16B3700, Ordinal: 2, Rule: "order.paid", Item: 0,
	}
	const want = "evt_00000001dcrkg6lc6ta8haj3aenv5tr8"
	got := f.ID().String()
	if got != want {
		t.Errorf("the id is %s, and receivers know it as %s", got, want)
	}
	base := f.ID()
	back, err := relay.ParseEventID(got)
	if err != nil || back != base {
		t.Fatalf("%q parses as %v, %v", got, back, err)
	}
	seen := map[relay.EventID]string{base: "base"}
	for name, change := range map[string]func(*relay.IDFacts){
		"system": func(f *relay.IDFacts) { f.SystemID++ }, "commit": func(f *relay.IDFacts) { f.CommitLSN++ },
		"xid": func(f *relay.IDFacts) { f.XID++ }, "time": func(f *relay.IDFacts) { f.CommitTime++ },
		"kind": func(f *relay.IDFacts) { f.Kind = relay.Insert }, "lsn": func(f *relay.IDFacts) { f.ChangeLSN++ },
		"ordinal": func(f *relay.IDFacts) { f.Ordinal++ }, "rule": func(f *relay.IDFacts) { f.Rule += "x" },
		"item": func(f *relay.IDFacts) { f.Item++ },
	} {
		g := f
		change(&g)
		if other, ok := seen[g.ID()]; ok {
			t.Errorf("changing %s gives the id of %s", name, other)
		}
		seen[g.ID()] = name
	}
}

func TestEvent_SequenceOrdersAsTheStreamDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gen := func(name string) relay.Event {
			return relay.Event{
				Generation: rapid.Uint32Range(0, 0xffff).Draw(t, name+".generation"),
				Place:      rapid.Uint64().Draw(t, name+".place"),
				Index:      rapid.Uint32().Draw(t, name+".index"),
			}
		}
		a, b := gen("a"), gen("b")
		less := a.Generation < b.Generation || a.Generation == b.Generation &&
			(a.Place < b.Place || a.Place == b.Place && a.Index < b.Index)
		if got := a.Sequence() < b.Sequence(); got != less {
			t.Fatalf("%q < %q is %v", a.Sequence(), b.Sequence(), got)
		}
	})
}

func drawEvents(t *rapid.T) []relay.Event {
	words := rapid.SampledFrom([]string{"", "a", "order.paid", "public.orders"})
	optional := func(name string) []byte {
		if !rapid.Bool().Draw(t, name+"?") {
			return nil
		}
		return append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, name)...)
	}
	n := rapid.IntRange(1, 40).Draw(t, "n")
	out := make([]relay.Event, n)
	seq := rapid.Int64Range(0, 1<<40).Draw(t, "first")
	for i := range out {
		seq += rapid.Int64Range(1, 3).Draw(t, "step")
		f := relay.IDFacts{CommitLSN: relay.LSN(rapid.Uint64().Draw(t, "lsn")), Item: uint32(i)}
		e := relay.Event{
			ID: f.ID(), Seq: seq, Stream: "shop", Source: words.Draw(t, "source"), Type: words.Draw(t, "type"),
			Rule: words.Draw(t, "rule"), Table: words.Draw(t, "table"), Version: rapid.IntRange(0, 3).Draw(t, "version"),
			Op: relay.Insert, Time: rapid.Int64Range(0, 1<<52).Draw(t, "time"), Generation: rapid.Uint32().Draw(t, "gen"),
			Index: rapid.Uint32().Draw(t, "index"), Key: optional("key"), OldKey: optional("old"), Tenant: optional("tenant"),
			Barrier: rapid.Bool().Draw(t, "barrier"), Data: append([]byte{}, rapid.SliceOf(rapid.Byte()).Draw(t, "data")...),
		}
		e.HasKey = e.Key != nil
		e.Place = e.ID.Place()
		if rapid.Bool().Draw(t, "unchanged?") {
			e.Unchanged = []string{"body", "ü"}
		}
		out[i] = e
	}
	return out
}

func TestBlock_GivesBackWhatWasPutIn(t *testing.T) {
	var b relay.BlockBuilder // reused, as ingest does
	rapid.Check(t, func(t *rapid.T) {
		events := drawEvents(t)
		for i := range events {
			b.Add(&events[i])
		}
		k := b.Finish()
		if k.First != events[0].Seq || k.Last != events[len(events)-1].Seq || k.Count != len(events) {
			t.Fatalf("block says %d..%d, %d events", k.First, k.Last, k.Count)
		}
		r := k.Reader()
		var e relay.Event
		for i := range events {
			if !r.Next(&e) {
				t.Fatalf("event %d of %d: %v", i, len(events), r.Err())
			}
			if !reflect.DeepEqual(e, events[i]) {
				t.Fatalf("got  %+v\nwant %+v", e, events[i])
			}
			if e.Time < k.FirstTime && events[0].Time == k.FirstTime && e.Time >= events[0].Time {
				t.Fatalf("time %d outside %d..%d", e.Time, k.FirstTime, k.LastTime)
			}
			if e.Place < k.FirstPlace || e.Place > k.LastPlace {
				t.Fatalf("place %d outside %d..%d", e.Place, k.FirstPlace, k.LastPlace)
			}
		}
		if r.Next(&e) || r.Err() != nil {
			t.Fatalf("more than was put in, or %v", r.Err())
		}
	})
}

func FuzzBlockReader(f *testing.F) {
	var b relay.BlockBuilder
	b.Add(&relay.Event{Seq: 1, Type: "a", HasKey: true, Key: []byte("k"), Unchanged: []string{"c"}, Data: []byte("{}")})
	b.Add(&relay.Event{Seq: 2, Type: "a", Tenant: []byte{}, Data: []byte("{}")})
	seed := b.Finish().Data
	f.Add(seed)
	for i := range seed {
		f.Add(seed[:i])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		k := relay.Block{Data: bytes.Clone(data)}
		r := k.Reader()
		var e relay.Event
		for n := 0; r.Next(&e); n++ {
			if n > len(data) {
				t.Fatal("more events than bytes")
			}
		}
		_ = r.Err()
	})
}

func TestPatterns_Match(t *testing.T) {
	cases := []struct {
		patterns []string
		yes, no  []string
	}{
		{[]string{"**"}, []string{"a", "order.paid", "a.b.c"}, []string{"rowhook.gap"}},
		{[]string{"order.*"}, []string{"order.paid"}, []string{"order", "order.paid.late", "user.paid"}},
		{[]string{"order.**"}, []string{"order", "order.paid", "order.paid.late"}, []string{"orders.paid"}},
		{[]string{"**.paid"}, []string{"paid", "order.paid", "a.b.paid"}, []string{"paid.order"}},
		{[]string{"**", "!order.**"}, []string{"user.new"}, []string{"order.paid"}},
		{[]string{"rowhook.**"}, []string{"rowhook.gap"}, []string{"order.paid"}},
		{[]string{"order.paid@2"}, nil, []string{"order.paid"}},
	}
	for _, c := range cases {
		p, err := relay.ParsePatterns(c.patterns)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.yes {
			if !p.Match(s, 1) {
				t.Errorf("%v does not choose %s", c.patterns, s)
			}
		}
		for _, s := range c.no {
			if p.Match(s, 1) {
				t.Errorf("%v chooses %s", c.patterns, s)
			}
		}
	}
	p, _ := relay.ParsePatterns([]string{"order.paid@2"})
	if !p.Match("order.paid", 2) {
		t.Error("order.paid@2 does not choose version 2")
	}
	for _, bad := range [][]string{nil, {"!a"}, {"Order"}, {"a..b"}, {"a@0"}, {"a@x"}, {""}, {"a.***"}} {
		if _, err := relay.ParsePatterns(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestLSN_ParsesOnlyWhatItPrints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := relay.LSN(rapid.Uint64().Draw(t, "lsn"))
		if got, err := relay.ParseLSN(l.String()); err != nil || got != l {
			t.Fatalf("%s parses as %s, %v", l, got, err)
		}
	})
	for _, bad := range []string{"", "/", "0/", "/0", "0/1x", "0/1 ", " 0/1", "+0/1", "0x0/1", "1/123456789", "123456789/1", "0-1", "0/1/2"} {
		if l, err := relay.ParseLSN(bad); err == nil {
			t.Errorf("%q parses as %s", bad, l)
		}
	}
}

func TestRetryPolicy_Schedule(t *testing.T) {
	p := relay.RetryPolicy{Jitter: -1}
	var total float64
	var delays []float64
	for n := 1; ; n++ {
		d, again := p.Delay(n, 0)
		if !again {
			if n != 10 {
				t.Errorf("gave up after %d attempts, want 10", n)
			}
			break
		}
		delays = append(delays, d.Seconds())
		total += d.Hours()
	}
	if !sort.Float64sAreSorted(delays) || delays[0] != 5 || delays[1] != 25 || total < 70 || total > 80 {
		t.Errorf("delays %v, %.1f hours in all", delays, total)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "attempts")
		d, _ := relay.RetryPolicy{}.Delay(n, 0)
		if want := delays[n-1]; d.Seconds() < want*0.799 || d.Seconds() > want*1.201 {
			t.Fatalf("delay %v after %d attempts, want %v give or take a fifth", d, n, want)
		}
	})
}
