package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// Explain implements relay.Explainer.
func (p *program) Explain(c *relay.Change) *relay.Clause {
	if p.exprs.when == nil {
		return nil
	}
	if err := p.begin(c); err != nil {
		return &relay.Clause{Outcome: relay.OutcomeError, Error: err.Error()}
	}
	clause := p.clause(p.exprs.when.node, "when")
	return &clause
}

// binder returns one that makes closures for parts of the rule's expressions.
func (p *program) binder() *binder { return &binder{rel: p.rel, src: p.exprs.scope.source} }

// clause judges a part of a condition and, where it is made of conditions, its
// parts, also those that the daemon does not look at because another decides.
func (p *program) clause(n node, who string) relay.Clause {
	f := &p.frame
	f.err = nil
	cl := relay.Clause{Text: p.text(n), Outcome: relay.OutcomeError}
	switch p.binder().cond(n, who)(f) {
	case yes:
		cl.Outcome = relay.OutcomeTrue
	case no:
		cl.Outcome = relay.OutcomeFalse
	default:
		cl.Error = f.err.msg
	}
	f.err = nil
	switch n := n.(type) {
	case binaryNode:
		if n.op == opAnd || n.op == opOr {
			cl.Operator = n.op.String()
			for _, x := range operands(nil, n, n.op) {
				cl.Parts = append(cl.Parts, p.clause(x, n.op.String()))
			}
			return cl
		}
	case notNode:
		cl.Operator, cl.Parts = "!", []relay.Clause{p.clause(n.x, "!")}
		return cl
	case conditionalNode:
		cond := p.clause(n.cond, "The condition before ?")
		cl.Operator, cl.Parts = "?:", []relay.Clause{cond}
		switch cond.Outcome {
		case relay.OutcomeTrue:
			cl.Parts = append(cl.Parts, p.clause(n.yes, who))
		case relay.OutcomeFalse:
			cl.Parts = append(cl.Parts, p.clause(n.no, who))
		}
		return cl
	}
	cl.Values = p.values(n)
	return cl
}

// operands are those of a chain of one operator.
func operands(list []node, n node, op binaryOp) []node {
	if b, ok := n.(binaryNode); ok && b.op == op {
		return operands(operands(list, b.l, op), b.r, op)
	}
	return append(list, n)
}

// text is an expression as it is written, on one line.
func (p *program) text(n node) string {
	if src := p.exprs.scope.text(n.where()); src != "" {
		return strings.Join(strings.Fields(src), " ")
	}
	return describe(n)
}

// maxTracedValue bounds a value that is shown or kept in a dead letter, in
// bytes.
const maxTracedValue = 256

// values are what an expression reads, each name once.
func (p *program) values(n node) []relay.NamedValue {
	var found []relay.NamedValue
	for _, x := range names(nil, n) {
		name := describe(x)
		if slices.ContainsFunc(found, func(v relay.NamedValue) bool { return v.Name == name }) {
			continue
		}
		v := relay.NamedValue{Name: name}
		f := &p.frame
		f.err = nil
		switch got := p.binder().eval(x)(f); {
		case got.kind == kindUnknown:
			v.Unknown = "not sent: stored out of line (TOAST), and not changed"
		case got.kind == kindFailed && f.err.unknown:
			v.Unknown = p.oldWhy
		case got.kind == kindFailed:
			v.Unknown = f.err.msg
		default:
			v.Value = shortJSON(f.appendValue(nil, got, pgvalue.Printer{}))
		}
		f.err = nil
		found = append(found, v)
	}
	return found
}

// shortJSON returns JSON that is not long: of a long one the beginning, as a
// string.
func shortJSON(b []byte) []byte {
	if len(b) <= maxTracedValue {
		return b
	}
	b = b[:maxTracedValue]
	for len(b) > 0 && !utf8.Valid(b) {
		b = b[:len(b)-1]
	}
	return pgvalue.AppendString(nil, append(slices.Clip(b), "…"...))
}

// names lists the columns, facts and paths of an expression. Those inside a for
// expression, whose variables have no value outside it, are left out, and so is
// a row as a whole.
func names(list []node, n node) []node {
	switch n := n.(type) {
	case columnNode, changedNode, factNode:
		return append(list, n)
	case varNode:
		if n.slot < eachSlots && strings.HasPrefix(n.name, "each.") {
			return append(list, n)
		}
		return list
	case pathNode:
		if inner := names(nil, n.base); len(inner) == 1 {
			return append(list, n)
		}
		return names(list, n.base)
	case forNode:
		return names(list, n.coll)
	}
	for _, x := range children(n) {
		list = names(list, x)
	}
	return list
}

// at finds the expression with a range in another one.
func nodeAt(n node, rng hcl.Range) node {
	if n == nil || n.where() == rng {
		return n
	}
	for _, x := range children(n) {
		if found := nodeAt(x, rng); found != nil {
			return found
		}
	}
	return nil
}

// failure returns the frame's error as that of an argument.
func (p *program) failure(x *compiledExpr) error {
	f := &p.frame
	err := f.err
	f.err = nil
	f.free = nil // a buffer that an error left behind
	re := relay.NewRuleError(fmt.Errorf("%s: %w", x.name, err))
	re.Argument, re.Message = x.name, err.msg
	where := err.rng
	if where.Filename == "" {
		where = x.rng
	}
	re.File, re.Line, re.Column = where.Filename, where.Start.Line, where.Start.Column
	re.Snippet = p.exprs.scope.line(where)
	n := nodeAt(x.node, where)
	if n == nil || len(names(nil, n)) == 0 {
		n = x.node
	}
	// What evaluates on the way must not be part of what the change made.
	unchanged, strict := f.unchanged, f.strict
	f.strict = 0
	re.Values = p.values(n)
	f.unchanged, f.strict = unchanged, strict
	return re
}
