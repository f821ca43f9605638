package relay

import "slices"

// NextRules is a rule set that follows the one in force.
type NextRules struct {
	// ID is that of its record.
	ID    string
	Rules *RuleSet
	// Gap, when not nil, is what the log lacks of the time before the set's
	// place; it is recorded there, and a new generation begins.
	Gap *Gap
}

// SetRules puts a rule set in force that reads nothing the one in force does
// not read. It judges what follows the transaction under way, or the last one
// that has ended, so every transaction is judged by one set as a whole. Sets
// that waited for their place are given up.
func (in *Ingest) SetRules(n NextRules) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.waiting = nil
	if in.tx.open && !in.tx.skip {
		in.following = &n
		return
	}
	if in.state != nil && in.state.Partial != nil {
		in.discardTail() // its transaction comes again and is judged by this set
	}
	in.putInForce(n, in.position())
	in.kick()
}

// AwaitRules puts a rule set in force after the transaction that has the
// message with its ID. Call it before the message is written.
func (in *Ingest) AwaitRules(n NextRules) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.waiting = append(in.waiting, n)
}

// Rules returns the rule set in force.
func (in *Ingest) Rules() *RuleSet {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.cfg.Rules
}

// Awaits reports whether a set that waits for its place has the rule.
func (in *Ingest) Awaits(rule string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.ContainsFunc(in.waiting, func(n NextRules) bool {
		return slices.ContainsFunc(n.Rules.rules, func(r *Rule) bool { return r.Name == rule && r.Ops.Has(Read) })
	})
}

// marked notes that the transaction under way has the message of a set that
// waits for it.
func (in *Ingest) marked(id string) {
	if slices.ContainsFunc(in.waiting, func(n NextRules) bool { return n.ID == id }) {
		in.tx.marked = id
	}
}

// switchRules puts the set in force whose place is the end of the transaction.
func (in *Ingest) switchRules(marked string, end LSN) {
	if n := in.following; n != nil {
		in.following = nil
		in.putInForce(*n, end)
	}
	if i := slices.IndexFunc(in.waiting, func(n NextRules) bool { return n.ID == marked }); marked != "" && i >= 0 {
		n := in.waiting[i]
		in.waiting = in.waiting[i+1:]
		in.putInForce(n, end)
	}
}

func (in *Ingest) putInForce(n NextRules, at LSN) {
	for i, r := range n.Rules.rules {
		if !in.cfg.Rules.has(r) {
			n.Rules.stats[i].inRow = 0
		}
	}
	in.cfg.Rules, in.programs = n.Rules, newPrograms(n.Rules)
	if in.state == nil {
		return
	}
	in.next.rules = append(in.next.rules, RulesPlace{ID: n.ID, From: at})
	if n.Gap != nil {
		in.state.Generation++
		g := *n.Gap
		g.Generation, g.To = in.state.Generation, at
		in.next.gaps = append(in.next.gaps, &g)
	}
	in.cfg.Logger.Info("rules in force", "source", in.cfg.Source, "rules", n.Rules.Hash(), "lsn", at.String())
}

// has reports whether the set has the very rule.
func (s *RuleSet) has(r *Rule) bool {
	return slices.ContainsFunc(s.rules, func(o *Rule) bool { return o.Name == r.Name && o.Hash == r.Hash })
}

// leaving reports whether the rule goes with the next set. Its failures no
// longer stop the source: they would keep it from reaching the place where the
// corrected rule takes over, which then can judge them again.
func (in *Ingest) leaving(r *Rule) bool {
	n := in.following
	if len(in.waiting) > 0 {
		n = &in.waiting[len(in.waiting)-1]
	}
	return n != nil && !n.Rules.has(r)
}
