package config

import (
	"bytes"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/rowhook/rowhook/relay"
)

// ruleKind is what a rule is about.
type ruleKind uint8

const (
	ruleTable ruleKind = iota
	ruleChannel
	ruleMessage
)

// exprScope says which names a rule's expressions may use.
type exprScope struct {
	kind   ruleKind
	source string // the name of the rule's source
	ops    relay.Ops
	tables []relay.TableName
	// locals are the expressions of the locals blocks. A local is compiled where
	// it is used and may use every name that is known there.
	locals map[string]hcl.Expression
	// files has the text of the files, without secrets, to show parts of it; nil
	// is none.
	files *Files
	// forEach is the expression of for_each, nil when there is none. It stands
	// here because it gives key, tenant and data the name each.
	forEach hcl.Expression
	// secret evaluates env() and file(). It returns false when it has reported a
	// mistake.
	secret          func(hclsyntax.Expression) (string, bool)
	payloadText     bool // payload_format = "text"
	numbersAsString bool // numbers = "string"
	schema          *schemaDecl
	listed          bool // the source has columns = "rules", which rules FULL out
}

// ruleExprs is the compiled expressions of one event block. It is immutable.
type ruleExprs struct {
	scope                   exprScope
	when, key, tenant, data *compiledExpr // nil when absent
	forEach                 *compiledExpr
	uses                    []exprUse
	// reported are the diagnostics that needed no catalogue.
	reported map[string]bool
}

// compiledExpr is one argument of an event.
type compiledExpr struct {
	name string // of the argument
	rng  hcl.Range
	node node
}

// The slots of each.key and each.value, before those of for expressions.
const (
	eachKeySlot = iota
	eachValueSlot
	eachSlots
)

// text returns what stands at a place, "" when that is not known.
func (s *exprScope) text(at hcl.Range) string {
	if src := s.files.shown(at.Filename); at.CanSliceBytes(src) {
		return string(at.SliceBytes(src))
	}
	return ""
}

// line returns the line a place begins in, "" when that is not known.
func (s *exprScope) line(at hcl.Range) string {
	src := s.files.shown(at.Filename)
	if at.Start.Byte > len(src) || src == nil {
		return ""
	}
	from := bytes.LastIndexByte(src[:at.Start.Byte], '\n') + 1
	line, _, _ := bytes.Cut(src[from:], []byte("\n"))
	return strings.TrimRight(string(line), "\r")
}

// columnUse is a column that a rule reads, and where.
type columnUse struct {
	name string
	// old says that the value before the change is read.
	old bool
	rng hcl.Range
	// whole is a row passed as a whole; name is empty.
	whole bool
}

// exprUse is a use of new, old, row or changed in an expression.
type exprUse struct {
	side  side
	name  string // empty: the whole row
	rng   hcl.Range
	outer hcl.Range
	// named says that the column is only named, by pick or omit: where its value
	// is not known it is left out.
	named bool
}

// compileExprs compiles the expressions of an event, any of which may be nil,
// and reports everything that can be known to be wrong without a catalogue.
// What it returns is not nil, and is for use only when there are no errors.
func compileExprs(scope exprScope, when, key, tenant, data hcl.Expression) (*ruleExprs, hcl.Diagnostics) {
	e := &ruleExprs{scope: scope}
	c := &compiler{scope: &e.scope, localNodes: map[string]node{}}
	if scope.forEach != nil {
		c.slots = eachSlots
	}
	for _, a := range []struct {
		name string
		expr hcl.Expression
		into **compiledExpr
	}{{"when", when, &e.when}, {"for_each", scope.forEach, &e.forEach}, {"key", key, &e.key}, {"tenant", tenant, &e.tenant}, {"data", data, &e.data}} {
		if a.expr == nil {
			continue
		}
		c.outer, c.argument = a.expr.Range(), a.name
		*a.into = &compiledExpr{name: a.name, rng: a.expr.Range(), node: c.compile(a.expr)}
	}
	if data == nil && scope.kind == ruleTable {
		e.data = &compiledExpr{name: "data", node: rowNode{side: sideRow}}
		c.uses = append(c.uses, exprUse{side: sideRow})
	} else if data == nil {
		e.data = &compiledExpr{name: "data", node: factNode{fact: factPayload}}
	}
	e.uses = c.uses
	e.reported = map[string]bool{}
	for _, d := range e.infer(nil).diags {
		e.reported[placeOf(d)] = true
		c.diags = append(c.diags, d)
	}
	return e, c.diags
}

// reads returns the columns the rule reads. All says that it reads every one.
func (e *ruleExprs) reads() (cols []columnUse, all bool) {
	for _, u := range e.uses {
		use := columnUse{name: u.name, rng: u.rng, whole: u.name == ""}
		all = all || use.whole
		if u.side != sideOld {
			cols = append(cols, use)
		}
		if u.side == sideOld || u.side == sideChanged || u.side == sideRow && e.scope.ops.Has(relay.Delete) {
			use.old = true
			cols = append(cols, use)
		}
	}
	return cols, all
}
