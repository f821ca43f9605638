package relay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// versioned is a rule set whose events say which version of it made them.
func versioned(version string) *relay.RuleSet {
	r := rule("r")
	r.Hash = version
	r.Bind = func(*relay.Relation) (relay.Program, error) {
		return progFunc(func(c *relay.Change, d *relay.Draft) (bool, error) {
			if strings.HasPrefix(string(c.New[0].Text), "fail") && version == "0" {
				return false, errors.New("the rule fails")
			}
			d.Data = append(d.Data, version+" "+string(c.New[0].Text)...)
			return true, nil
		}), nil
	}
	return relay.NewRuleSet("shop", []*relay.Rule{r})
}

// place is a transaction that holds the message of a rule set.
func place(in *relay.Ingest, lsn relay.LSN, id string) error {
	x := relay.Tx{XID: 1, CommitLSN: lsn}
	if err := in.Begin(&x); err != nil {
		return err
	}
	if err := in.Change(&relay.Change{Op: relay.Message, Name: relay.RulesPrefix, Payload: []byte(id), LSN: lsn - 1, Tx: &x}); err != nil {
		return err
	}
	return in.Commit(&x, lsn+5)
}

// versions returns the data of the events of the log.
func versions(t testing.TB, store *relaytest.Memory) []string {
	var out []string
	for _, e := range logged(t, store) {
		_, data, _ := strings.Cut(e, " ")
		out = append(out, data)
	}
	return out
}

// rulesWorld is a daemon that reads a WAL and is told other rules meanwhile.
type rulesWorld struct {
	t     *testing.T
	store *relaytest.Memory
	in    *relay.Ingest
	stop  func()
}

// open starts a session as the records say: what has a place is in force, what
// follows waits for its own. Rules that need none are in force where it begins.
func (w *rulesWorld) open() {
	ctx := context.Background()
	st, err := w.store.SourceState(ctx, "shop")
	if err != nil {
		w.t.Fatal(err)
	}
	if st == nil {
		st = &relay.SourceState{Source: "shop", Generation: 1, SystemID: 7, Phase: relay.PhaseStreaming, LSN: 1}
		if err := w.store.PutSource(ctx, st, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	c := relay.IngestConfig{Stream: "shop", Source: "shop", SystemID: 7, Log: w.store, Feed: relay.NewFeed(), Logger: quiet()}
	records, err := w.store.RulesRecords(ctx, "shop")
	if last := records[len(records)-1]; err == nil && last.ID[0] == 'b' && last.From == 0 {
		w.put(last.ID, st.LSN)
		records, err = w.store.RulesRecords(ctx, "shop")
	}
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range records {
		if r.From > 0 {
			c.Rules, c.Waiting = versioned(r.ID), nil
		} else {
			c.Waiting = append(c.Waiting, relay.NextRules{ID: r.ID, Rules: versioned(r.ID), Gap: r.Gap})
		}
	}
	if w.in, err = relay.NewIngest(ctx, c, st); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- w.in.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, errCrash) {
			w.t.Fatal(err)
		}
	}
}

func (w *rulesWorld) put(id string, from relay.LSN) {
	r := &relay.RulesRecord{Source: "shop", ID: id, Hash: id, From: from}
	if err := w.store.PutRules(context.Background(), r); err != nil {
		w.t.Fatal(err)
	}
}

var errCrash = errors.New("crashed")

// crash ends the session without storing anything more.
func (w *rulesWorld) crash() {
	w.store.Inject(func(string) error { return errCrash })
	w.stop()
	w.store.Inject(nil)
}

// TestIngest_EveryTransactionIsJudgedByOneSetInRandomWorlds lets rule sets come
// while transactions are read, some at a place that is marked in the WAL and
// some at the next boundary, with crashes at any point. The log ends with every
// event once, made by the set whose place is the last one before its commit.
func TestIngest_EveryTransactionIsJudgedByOneSetInRandomWorlds(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomRules(t, seed) })
		})
	}
}

func randomRules(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	type commit struct {
		tx
		marker string // the message it holds, or ""
	}
	var wal []*commit
	n := 0
	grow := func() {
		lsn := relay.LSN(100 * (len(wal) + 1))
		c := &commit{tx: tx{Tx: relay.Tx{XID: uint32(len(wal)), CommitLSN: lsn}, end: lsn + 5}}
		for range rnd.IntN(4) * rnd.IntN(4) {
			n++
			c.rows = append(c.rows, fmt.Sprint(n, strings.Repeat("x", rnd.IntN(8)*20000)))
		}
		wal = append(wal, c)
	}
	w := &rulesWorld{t: t, store: &relaytest.Memory{}}
	w.put("0", 1)
	w.open()
	for round := range 3 + rnd.IntN(6) {
		for range rnd.IntN(4) {
			grow()
		}
		switch id := fmt.Sprint("m", round); rnd.IntN(4) {
		case 0: // a place in the WAL; now and then the process ends before the message is written
			w.put(id, 0)
			w.in.AwaitRules(relay.NextRules{ID: id, Rules: versioned(id)})
			if rnd.IntN(4) > 0 {
				grow()
				wal[len(wal)-1].rows, wal[len(wal)-1].marker = nil, id
			}
		case 1: // the next boundary
			id = fmt.Sprint("b", round)
			w.put(id, 0)
			w.in.SetRules(relay.NextRules{ID: id, Rules: versioned(id)})
		}
		// Read on from the checkpoint of this session, and stop anywhere.
		stop := rnd.IntN(40)
		for _, c := range wal {
			var err error
			if c.marker != "" {
				err = place(w.in, c.CommitLSN, c.marker)
			} else {
				err = send(w.in, &c.tx, &stop)
			}
			if err != nil {
				break
			}
			if rnd.IntN(4) == 0 {
				synctest.Wait()
			}
		}
		if rnd.IntN(2) == 0 {
			w.crash()
		} else {
			w.stop()
		}
		w.open()
	}
	for _, c := range wal {
		if c.marker != "" {
			if err := place(w.in, c.CommitLSN, c.marker); err != nil {
				t.Fatal(err)
			}
			continue
		}
		stop := forever
		if err := send(w.in, &c.tx, &stop); err != nil {
			t.Fatal(err)
		}
	}
	w.stop()

	got := versions(t, w.store)
	i, last := 0, ""
	seen := map[string]bool{}
	for _, c := range wal {
		for k, r := range c.rows {
			if i == len(got) {
				t.Fatalf("%d events in the log, and that of row %.10s is not among them", len(got), r)
			}
			version, data, _ := strings.Cut(got[i], " ")
			if data != r {
				t.Fatalf("event %d is of row %.10s, want %.10s", i, data, r)
			}
			if version != last {
				if k > 0 || seen[version] {
					t.Fatalf("row %.10s, number %d of its transaction, is judged by %s after %s", r, k, version, last)
				}
				last, seen[version] = version, true
			}
			i++
		}
	}
	if i != len(got) {
		t.Fatalf("%d events more than rows", len(got)-i)
	}
	// The records say which set judged what.
	records, err := w.store.RulesRecords(context.Background(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	i = 0
	for _, c := range wal {
		want := ""
		for _, r := range records {
			if r.From > 0 && r.From <= c.CommitLSN {
				want = r.ID
			}
		}
		for range c.rows {
			if version, _, _ := strings.Cut(got[i], " "); version != want {
				t.Fatalf("the transaction at %s was judged by %s, and the records say %s: %+v", c.CommitLSN, version, want, records)
			}
			i++
		}
	}
	// A set whose message was read is in force from the end of its transaction,
	// unless one without a place came before it.
	for _, c := range wal {
		for _, r := range records {
			if r.ID == c.marker && r.From != 0 && r.From != c.end {
				t.Errorf("the place of %s is %s, its message was in the transaction that ends at %s", r.ID, r.From, c.end)
			}
		}
	}
}

// Failures of a rule that goes with the next set do not keep the source from
// reaching the place of that set.
func TestIngest_ARuleThatIsCorrectedNoLongerStopsItsSource(t *testing.T) {
	s := &relaytest.Memory{}
	w := &rulesWorld{t: t, store: s}
	w.put("0", 1)
	w.open()
	defer w.stop()
	w.put("m1", 0)
	w.in.AwaitRules(relay.NextRules{ID: "m1", Rules: versioned("m1")})
	stop := forever
	if err := send(w.in, &tx{Tx: relay.Tx{CommitLSN: 100}, end: 105, rows: slices.Repeat([]string{"fail"}, 1001)}, &stop); err != nil {
		t.Fatalf("the source stops although the rule is being replaced: %v", err)
	}
	if err := place(w.in, 200, "m1"); err != nil {
		t.Fatal(err)
	}
	if got := w.in.Rules().Hash(); got != versioned("m1").Hash() {
		t.Errorf("the rules in force are %s after the place of m1", got)
	}
}

// What the log lacks before the place of a set is recorded there, with a new
// generation.
func TestIngest_RecordsTheGapThatEndsAtThePlace(t *testing.T) {
	s := &relaytest.Memory{}
	w := &rulesWorld{t: t, store: s}
	w.put("0", 1)
	w.open()
	w.put("m1", 0)
	w.in.AwaitRules(relay.NextRules{ID: "m1", Rules: versioned("0"), Gap: &relay.Gap{Source: "shop", At: 5, From: 50, Reason: "a table had left the publication"}})
	if err := place(w.in, 200, "m1"); err != nil {
		t.Fatal(err)
	}
	w.stop()
	gaps, err := s.Gaps(context.Background(), "shop")
	if want := (relay.Gap{Source: "shop", Generation: 2, At: 5, From: 50, To: 205, Reason: "a table had left the publication"}); err != nil || len(gaps) != 1 || gaps[0] != want {
		t.Errorf("the gaps are %+v (%v), want %+v", gaps, err, want)
	}
	if st, err := s.SourceState(context.Background(), "shop"); err != nil || st.Generation != 2 || st.LSN != 205 {
		t.Errorf("the source is at %+v (%v)", st, err)
	}
}

func TestNeeds_Cover(t *testing.T) {
	table := relay.TableName{Schema: "public", Name: "t"}
	needs := func(ops relay.Ops, all bool, columns, old []string) relay.Needs {
		return relay.Needs{{Table: table, Ops: ops, All: all, Columns: columns, Old: old}}
	}
	ins, upd := relay.OpsOf(relay.Insert), relay.OpsOf(relay.Insert, relay.Update)
	for _, c := range []struct {
		name   string
		n, m   relay.Needs
		covers bool
	}{
		{"the same", needs(ins, false, []string{"a"}, nil), needs(ins, false, []string{"a"}, nil), true},
		{"nothing", needs(ins, false, nil, nil), nil, true},
		{"a table", nil, needs(ins, false, nil, nil), false},
		{"an operation less", needs(upd, false, nil, nil), needs(ins, false, nil, nil), true},
		{"an operation more", needs(ins, false, nil, nil), needs(upd, false, nil, nil), false},
		{"a column more", needs(ins, false, []string{"a"}, nil), needs(ins, false, []string{"a", "b"}, nil), false},
		{"a column of all", needs(ins, true, nil, nil), needs(ins, false, []string{"a", "b"}, nil), true},
		{"all columns", needs(ins, false, []string{"a"}, nil), needs(ins, true, nil, nil), false},
		{"an old value", needs(upd, true, nil, nil), needs(upd, true, nil, []string{"a"}), false},
		{"no old value", needs(upd, true, nil, []string{"a"}), needs(upd, true, nil, nil), true},
	} {
		if got := c.n.Cover(c.m); got != c.covers {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
