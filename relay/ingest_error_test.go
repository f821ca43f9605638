package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// A rule that halts stops its source before the change: nothing of the
// transaction is visible, whatever of it was gathered or half stored, and the
// corrected rule judges all of it. One of these halts at the change that fills
// a chunk.
func TestIngest_ARuleThatHaltsLosesNothing(t *testing.T) {
	for at := range 25 {
		haltAt(t, at)
	}
}

func haltAt(t *testing.T, at int) {
	halting := rule("b")
	halting.OnError = relay.OnErrorHalt
	halting.Bind = func(*relay.Relation) (relay.Program, error) {
		return progFunc(func(c *relay.Change, d *relay.Draft) (bool, error) {
			if string(c.New[0].Text[:4]) == fmt.Sprintf("%04d", at) {
				return false, errors.New("no")
			}
			d.Data = append(d.Data, '1')
			return true, nil
		}), nil
	}
	s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{rule("a"), halting}}
	before := &tx{Tx: relay.Tx{XID: 1, CommitLSN: 100, CommitTime: 1}, end: 101, rows: []string{"first"}}
	x := &tx{Tx: relay.Tx{XID: 2, CommitLSN: 200, CommitTime: 2}, end: 201}
	for i := range 30 {
		x.rows = append(x.rows, fmt.Sprintf("%04d%s", i, strings.Repeat("x", 60_000)))
	}
	run := func() error {
		in := s.open(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()
		var err error
		for _, x := range []*tx{before, x} {
			stop := forever
			if err == nil && in.Checkpoint() <= x.CommitLSN {
				err = send(in, x, &stop)
			}
		}
		cancel()
		return errors.Join(err, <-done)
	}
	for range 2 { // and again, when it is started as it was
		err := run()
		var halted *relay.RuleFailedError
		if !errors.As(err, &halted) || halted.Times != 0 || !strings.Contains(err.Error(), "judged again") {
			t.Fatalf("at %d: got %v, want the source to halt", at, err)
		}
	}
	st, _ := s.store.Stream(context.Background(), "shop")
	if src, _ := s.store.SourceState(context.Background(), "shop"); st.Head != 2 || src.LSN != before.end {
		t.Fatalf("at %d: before the rule is corrected head is %d and the checkpoint %s", at, st.Head, src.LSN)
	}
	// Allowed to skip the change, which does not change the rules, it goes on
	// where a half-stored transaction ended.
	halting.OnError = relay.OnErrorSkip
	if err := run(); err != nil {
		t.Fatal(err)
	}
	if got, want := len(logged(t, s.store)), 2*(1+len(x.rows))-1; got != want {
		t.Errorf("at %d: %d events in the end, want %d", at, got, want)
	}
	if fs, _ := s.store.Failures(context.Background(), 10); len(fs) > 0 {
		t.Errorf("at %d: a rule that halts left %d dead letters", at, len(fs))
	}
}

func TestIngest_ARuleThatSkipsGoesOnWithoutDeadLetters(t *testing.T) {
	skipping := rule("a")
	skipping.OnError = relay.OnErrorSkip
	s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{skipping}}
	set := relay.NewRuleSet("shop", s.rules)
	s.open(t)
	st, _ := s.store.SourceState(context.Background(), "shop")
	in, err := relay.NewIngest(context.Background(), relay.IngestConfig{
		Stream: "shop", Source: "shop", SystemID: 7, Rules: set, Log: s.store, Feed: s.feed, Logger: quiet(), MaxFailures: 3,
	}, st)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- in.Run(ctx) }()
	stop := forever
	x := &tx{Tx: relay.Tx{XID: 9, CommitLSN: 100}, end: 150, rows: []string{"fail", "fail", "fail", "fail", "good"}}
	err = send(in, x, &stop)
	cancel()
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	if got := logged(t, s.store); len(got) != 1 || !strings.Contains(got[0], "good") {
		t.Errorf("the log has %q", got)
	}
	if fs, _ := s.store.Failures(context.Background(), 10); len(fs) > 0 {
		t.Errorf("%d dead letters", len(fs))
	}
	stats := set.Stats(0)
	if last := stats.LastFailure.Load(); stats.Failed.Load() != 4 || last == nil || last.Err != "the rule fails" {
		t.Errorf("%d failures are counted, the last is %+v", stats.Failed.Load(), last)
	}
}

// A message outside a transaction survives a rollback: only a rule that says so
// sees it.
func TestIngest_AMessageOutsideATransactionIsForRulesThatWantIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all, durable := rule("all"), rule("durable")
		all.NonTransactional = true
		for _, r := range []*relay.Rule{all, durable} {
			r.Tables, r.Ops, r.Message = nil, 0, "m"
			r.Bind = func(*relay.Relation) (relay.Program, error) {
				return progFunc(func(c *relay.Change, d *relay.Draft) (bool, error) {
					d.Data = append(append(append(d.Data, '"'), r.Name...), '"')
					return true, nil
				}), nil
			}
		}
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{all, durable}}
		in := s.open(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- in.Run(ctx) }()
		tx := &relay.Tx{XID: 1, CommitLSN: 200}
		for _, err := range []error{
			in.Change(&relay.Change{Op: relay.Message, Name: "m", LSN: 100}),
			in.Begin(tx), in.Change(&relay.Change{Op: relay.Message, Name: "m", LSN: 150, Tx: tx}), in.Commit(tx, 210),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range logged(t, s.store) {
			_, data, _ := strings.Cut(e, " ")
			got = append(got, data)
		}
		if want := []string{`"all"`, `"all"`, `"durable"`}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
	})
}
