package relay

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// RuleSet is the rules of one source, ready to judge its changes. It is
// immutable but for its counters.
type RuleSet struct {
	rules     []*Rule // by name: events of one change leave in rule-name order
	stats     []*RuleStats
	byTable   map[TableName][]int
	byChannel map[string][]int
	byMessage map[string][]int
	hash      string
}

// RuleStats counts what a rule did since the process began.
type RuleStats struct {
	Seen, Matched, Failed atomic.Int64
	// LastMatch is in microseconds since the Unix epoch.
	LastMatch atomic.Int64
	// LastFailure is the last failure, nil when there was none.
	LastFailure atomic.Pointer[RuleFailure]
	// inRow counts failures in a row; it is used by one goroutine.
	inRow int
	told  time.Time // when a failure was last logged
}

// RuleFailure is a rule's failure on a change.
type RuleFailure struct {
	// At is when the rule failed, in microseconds since the Unix epoch.
	At  int64
	Err string
}

// NewRuleSet returns the set of those rules that are about the source.
func NewRuleSet(source string, rules []*Rule) *RuleSet {
	s := &RuleSet{
		byTable:   map[TableName][]int{},
		byChannel: map[string][]int{},
		byMessage: map[string][]int{},
	}
	for _, r := range rules {
		if r.Source == source {
			s.rules = append(s.rules, r)
		}
	}
	slices.SortFunc(s.rules, func(a, b *Rule) int { return cmp.Compare(a.Name, b.Name) })
	s.stats = make([]*RuleStats, len(s.rules))
	sum := sha256.New()
	for i, r := range s.rules {
		s.stats[i] = new(RuleStats)
		fmt.Fprintf(sum, "%q %q\n", r.Name, r.Hash)
		for _, t := range r.Tables {
			s.byTable[t] = append(s.byTable[t], i)
		}
		if r.Channel != "" {
			s.byChannel[r.Channel] = append(s.byChannel[r.Channel], i)
		}
		if r.Message != "" {
			s.byMessage[r.Message] = append(s.byMessage[r.Message], i)
		}
	}
	s.hash = hex.EncodeToString(sum.Sum(nil)[:16])
	return s
}

// Rules returns the rules by name, and Stats the counters at the same index.
func (s *RuleSet) Rules() []*Rule { return s.rules }

// Stats returns the counters of the rule at index i of Rules.
func (s *RuleSet) Stats(i int) *RuleStats { return s.stats[i] }

// Inherit makes the rules of the set count on where those of the same name in
// the other set are. Call it before the set judges.
func (s *RuleSet) Inherit(from *RuleSet) {
	for i, r := range s.rules {
		for j, o := range from.rules {
			if o.Name == r.Name {
				s.stats[i] = from.stats[j]
			}
		}
	}
}

// Hash is a digest of the rules.
func (s *RuleSet) Hash() string { return s.hash }

// Channels returns the NOTIFY channels the rules name, sorted.
func (s *RuleSet) Channels() []string {
	var out []string
	for c := range s.byChannel {
		out = append(out, c)
	}
	slices.Sort(out)
	return out
}

// Tables returns the tables the rules name, sorted, and what must be published
// of them.
func (s *RuleSet) Tables() (tables []TableName, ops Ops) {
	for t, is := range s.byTable {
		tables = append(tables, t)
		for _, i := range is {
			ops |= s.rules[i].Ops
		}
	}
	slices.SortFunc(tables, func(a, b TableName) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	return tables, ops
}

// TableColumns are the columns of a table that rules read.
type TableColumns struct {
	TableName
	// Columns are sorted by name. All says that some rule reads every column.
	Columns []string
	All     bool
}

// bound is a rule compiled for one relation. A rule that does not fit the
// relation has err, and fails on every change of it.
type bound struct {
	rule  *Rule
	ops   Ops // the rule's, so that a change it is not about does not touch the rule
	stats *RuleStats
	prog  Program
	err   error
}

// bind compiles the rules with the given indexes.
func (s *RuleSet) bind(rel *Relation, rules []int) []bound {
	out := make([]bound, 0, len(rules))
	for _, i := range rules {
		p, err := s.rules[i].Bind(rel)
		out = append(out, bound{rule: s.rules[i], ops: s.rules[i].Ops, stats: s.stats[i], prog: p, err: err})
	}
	return out
}

// programs keeps the rules bound to the relations of one stream.
type programs struct {
	set       *RuleSet
	relations map[uint32]relationPrograms
	messages  map[string][]bound
	channels  map[string][]bound
}

type relationPrograms struct {
	rel   *Relation
	bound []bound
}

func newPrograms(set *RuleSet) *programs {
	return &programs{
		set:       set,
		relations: map[uint32]relationPrograms{},
		messages:  map[string][]bound{},
		channels:  map[string][]bound{},
	}
}

// of returns the programs that judge changes such as c.
func (p *programs) of(c *Change) []bound {
	switch c.Op {
	case Message:
		return named(p.set, p.messages, p.set.byMessage, c.Name)
	case Notify:
		return named(p.set, p.channels, p.set.byChannel, c.Name)
	}
	rel := c.Relation
	if b, ok := p.relations[rel.OID]; ok && b.rel == rel {
		return b.bound
	}
	b := p.set.bind(rel, p.set.byTable[rel.Table()])
	p.relations[rel.OID] = relationPrograms{rel, b}
	return b
}

func named(set *RuleSet, cache map[string][]bound, index map[string][]int, name string) []bound {
	rules := index[name]
	if rules == nil {
		return nil
	}
	b, ok := cache[name]
	if !ok {
		b = set.bind(nil, rules)
		cache[name] = b
	}
	return b
}
