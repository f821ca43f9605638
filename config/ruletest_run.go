package config

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/rowhook/rowhook/relay"
)

// TestResult is what came of a test.
type TestResult struct {
	Test *RuleTest
	// Problems is empty when the test passed.
	Problems []TestProblem

	events   []madeEvent
	failures []ruleFailure
	pairs    []pairing // of events
}

// TestProblem is one way in which a test differs from what it expects.
type TestProblem struct {
	Line    int // in the test's file
	Summary string
	// Want and Got are the lines of data that differ, written as HCL; both are nil
	// where the summary says all.
	Want, Got []string
}

// madeEvent is an event that the rules made, with its data read.
type madeEvent struct {
	relay.Event
	data constant
}

// pairing says which expectation is about which event; one of the two may be
// missing, which is -1.
type pairing struct{ want, got int }

// Run runs a test. An error is not about the test: the rules could not be run.
func (t *Tests) Run(ctx context.Context, test *RuleTest) (*TestResult, error) {
	passed, err := t.run(ctx, test)
	if err != nil {
		return nil, fmt.Errorf("test %q: %w", test.Name, err)
	}
	r := &TestResult{Test: test, failures: passed.failures}
	for _, b := range passed.log.blocks {
		reader := b.Reader()
		for e := (relay.Event{}); reader.Next(&e); {
			data, err := parseJSON(e.Data)
			if err != nil {
				return nil, fmt.Errorf("test %q: the data of an event of rule %s: %w", test.Name, e.Rule, err)
			}
			r.events = append(r.events, madeEvent{e, data})
		}
	}
	r.compareEvents()
	r.compareFailures()
	return r, nil
}

// ruleFailure is a rule that failed on a change, whatever its on_error says.
type ruleFailure struct{ rule, err string }

// pass is the changes of a test on their way through the rules.
type pass struct {
	*relay.Ingest
	set      *relay.RuleSet
	tx       relay.Tx
	open     bool
	lsn      relay.LSN // the last that was given out
	log      testLog
	failures []ruleFailure
}

// run passes the changes of a test through the rules, as the daemon does.
func (t *Tests) run(ctx context.Context, test *RuleTest) (*pass, error) {
	p := &pass{set: t.sets[test.source], tx: test.tx, lsn: test.tx.CommitLSN}
	in, err := relay.NewIngest(ctx, relay.IngestConfig{
		Stream: test.source, Source: test.source, SystemID: 1, Rules: p.set, Log: &p.log, Feed: relay.NewFeed(),
		Logger: slog.New(slog.DiscardHandler), MaxFailures: -1,
	}, &relay.SourceState{Source: test.source, Generation: 1})
	if err != nil {
		return nil, err
	}
	p.Ingest = in
	storing, stop := context.WithCancel(ctx)
	defer stop()
	stored := make(chan error, 1)
	go func() { stored <- in.Run(storing) }()
	for _, change := range test.changes {
		halted, err := p.next(ctx, *change)
		if err != nil {
			return nil, err
		}
		if halted {
			break
		}
	}
	err = p.commit()
	stop() // stores what there is, and ends
	return p, errors.Join(err, <-stored)
}

// next passes one change. It reports whether a rule with on_error = "halt" has
// stopped the source.
func (p *pass) next(ctx context.Context, c relay.Change) (halted bool, err error) {
	if c.Op == relay.Read || c.Tx == nil {
		err = p.commit() // what is outside of the transaction comes between two
	} else if !p.open {
		p.open = true
		p.tx.CommitLSN = p.lsn
		err = p.Begin(&p.tx)
	}
	if err != nil {
		return false, err
	}
	before := p.failed()
	p.lsn++
	c.LSN, c.Time = p.lsn, p.tx.CommitTime
	switch {
	case c.Op == relay.Read:
		err = p.read(ctx, &c)
	case c.Tx != nil:
		c.Tx = &p.tx
		fallthrough
	default:
		err = p.Change(&c)
	}
	for i, n := range p.failed() {
		if n > before[i] {
			p.failures = append(p.failures, ruleFailure{p.set.Rules()[i].Name, p.set.Stats(i).LastFailure.Load().Err})
		}
	}
	if _, ok := errors.AsType[*relay.RuleFailedError](err); ok {
		p.open = false // nothing of the transaction is kept
		return true, nil
	}
	return false, err
}

// read passes a row that a backfill of each rule that asks for it would find.
func (p *pass) read(ctx context.Context, c *relay.Change) error {
	for i, rule := range p.set.Rules() {
		if !rule.Ops.Has(relay.Read) || !slices.Contains(rule.Tables, c.Relation.Table()) {
			continue
		}
		p.lsn++
		chunk, err := p.NewChunk(&relay.Backfill{ID: int64(i + 1), Rule: rule.Name, CreatedAt: c.Time}, rule, p.lsn, c.Time)
		if err != nil {
			return err
		}
		if err := chunk.Read(ctx, c.Relation, c.New, nil); err != nil {
			return err
		}
		if _, err := chunk.Close(ctx, false); err != nil {
			return err
		}
	}
	return nil
}

func (p *pass) commit() error {
	if !p.open {
		return nil
	}
	p.open = false
	p.lsn++
	return p.Commit(&p.tx, p.lsn)
}

// failed returns how often each rule has failed.
func (p *pass) failed() []int64 {
	out := make([]int64, len(p.set.Rules()))
	for i := range out {
		out[i] = p.set.Stats(i).Failed.Load()
	}
	return out
}

// testLog is a relay.Log in memory, for one stream from its beginning. Of an
// Ingest whose appends succeed it implements what is called.
type testLog struct {
	relay.Log
	state  relay.StreamState
	blocks []*relay.Block
}

// Stream implements relay.Log.
func (l *testLog) Stream(context.Context, string) (relay.StreamState, error) { return l.state, nil }

// Append implements relay.Log.
func (l *testLog) Append(_ context.Context, a *relay.Append) error {
	l.blocks = append(l.blocks, a.Blocks...)
	l.state.Head, l.state.Tail = a.Head, a.Tail
	return nil
}

// Coverage is what the tests that ran have shown of a rule.
type Coverage struct {
	Rule, Source string
	File         string
	Line         int
	// Matched: it made an event. Missed: its condition did not hold for a change.
	// A rule without a condition cannot miss.
	Matched, Missed bool
	Conditional     bool
}

// Coverage returns that of all rules, in the order of the files.
func (t *Tests) Coverage() []Coverage {
	var out []Coverage
	for _, r := range t.rules {
		c := Coverage{Rule: r.Name, Source: r.Source, File: r.at.Filename, Line: r.at.Start.Line, Conditional: r.exprs != nil && r.exprs.when != nil}
		set := t.sets[r.Source]
		for i, known := range set.Rules() {
			if known.Name == r.Name {
				s := set.Stats(i)
				c.Matched = s.Matched.Load() > 0
				c.Missed = s.Seen.Load() > s.Matched.Load()+s.Failed.Load()
			}
		}
		out = append(out, c)
	}
	return out
}

func (r *TestResult) problemf(line int, format string, args ...any) *TestProblem {
	r.Problems = append(r.Problems, TestProblem{Line: line, Summary: fmt.Sprintf(format, args...)})
	return &r.Problems[len(r.Problems)-1]
}

// compareFailures holds the failures of rules against the fails blocks, in
// their order.
func (r *TestResult) compareFailures() {
	want := r.Test.fails
	for _, f := range r.failures {
		if len(want) > 0 && want[0].rule == f.rule && strings.Contains(f.err, want[0].message) {
			want = want[1:]
			continue
		}
		if len(want) > 0 && want[0].rule == f.rule {
			r.problemf(want[0].at.Start.Line, "rule %s fails with another error: %s", f.rule, f.err)
			want = want[1:]
			continue
		}
		r.problemf(r.Test.Line, "rule %s fails: %s", f.rule, f.err)
	}
	for _, x := range want {
		r.problemf(x.at.Start.Line, "rule %s does not fail", x.rule)
	}
}
