package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// compiler turns HCL expressions into nodes: it resolves names, functions and
// locals, and reports what is not part of the language.
type compiler struct {
	scope *exprScope
	outer hcl.Range // of the argument the expression stands in
	// argument is its name.
	argument string
	diags    hcl.Diagnostics
	uses     []exprUse

	vars  []exprVar // variables of the for expressions around, innermost last
	slots int

	localNodes map[string]node
	localStack []string // the locals being compiled, against a circle
}

type exprVar struct {
	name string
	anon *hclsyntax.AnonSymbolExpr // of a splat
	slot int
}

// The summaries of the diagnostics about expressions.
const (
	sumUnknownName     = "Unknown name"
	sumUnknownFunction = "Unknown function"
	sumNotHere         = "Not available here"
	sumMinus           = "Minus inside a name"
	sumUnsupported     = "Unsupported expression"
	sumCall            = "Wrong function call"
	sumObject          = "Wrong object"
	sumLocalCircle     = "Local refers to itself"
	sumTypes           = "Wrong type"
	sumMixed           = "Comparison of different types"
	sumNull            = "Null where a value is needed"
	sumUnknownColumn   = "Unknown column"
	sumOldMissing      = "Old value not available"
	sumChanged         = "Change of a row that is not updated"

	sumMayBeNull        = "Null is possible"
	sumNever            = "Comparison can never hold"
	sumAlways           = "Comparison always holds"
	sumUnsent           = "Value may not be sent"
	sumNoRow            = "Row that is never there"
	sumUnknownAttribute = "Unknown attribute"
	sumGenerated        = "Generated column"
)

func (c *compiler) report(rng hcl.Range, summary, format string, args ...any) node {
	c.diags = append(c.diags, exprDiag(rng, c.outer, summary, format, args...))
	return badNode{at{rng}}
}

func exprDiag(rng, outer hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	if !within(rng, outer) { // in a local
		outer = rng
	}
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &rng, Context: &outer}
}

var binaryOps = map[*hclsyntax.Operation]binaryOp{
	hclsyntax.OpLogicalAnd: opAnd, hclsyntax.OpLogicalOr: opOr, hclsyntax.OpEqual: opEqual, hclsyntax.OpNotEqual: opNotEqual,
	hclsyntax.OpLessThan: opLess, hclsyntax.OpLessThanOrEqual: opLessEqual, hclsyntax.OpGreaterThan: opGreater, hclsyntax.OpGreaterThanOrEqual: opGreaterEqual,
	hclsyntax.OpAdd: opAdd, hclsyntax.OpSubtract: opSubtract, hclsyntax.OpMultiply: opMultiply, hclsyntax.OpDivide: opDivide, hclsyntax.OpModulo: opModulo,
}

func (c *compiler) compile(expr hcl.Expression) node {
	rng := expr.Range()
	switch e := expr.(type) {
	case *hclsyntax.LiteralValueExpr:
		return c.literal(e)
	case *hclsyntax.ParenthesesExpr:
		return c.compile(e.Expression)
	case *hclsyntax.TemplateWrapExpr:
		return c.compile(e.Wrapped)
	case *hclsyntax.TemplateExpr:
		return c.template(e)
	case *hclsyntax.ScopeTraversalExpr:
		return c.traversal(e.Traversal, rng)
	case *hclsyntax.RelativeTraversalExpr:
		return c.path(c.compile(e.Source), e.Traversal, rng)
	case *hclsyntax.IndexExpr:
		return c.index(e)
	case *hclsyntax.BinaryOpExpr:
		op, ok := binaryOps[e.Op]
		if !ok {
			return c.report(rng, sumUnsupported, "This operator is not part of the language.")
		}
		return binaryNode{at{rng}, op, c.compile(e.LHS), c.compile(e.RHS)}
	case *hclsyntax.UnaryOpExpr:
		x := c.compile(e.Val)
		if e.Op == hclsyntax.OpLogicalNot {
			return notNode{at{rng}, x}
		}
		if lit, ok := x.(litNode); ok && lit.v.kind == kindNumber {
			return litNode{at: at{rng}, v: negate(lit.v)}
		}
		return negateNode{at{rng}, x}
	case *hclsyntax.ConditionalExpr:
		return conditionalNode{at{rng}, c.compile(e.Condition), c.compile(e.TrueResult), c.compile(e.FalseResult)}
	case *hclsyntax.FunctionCallExpr:
		return c.call(e)
	case *hclsyntax.ObjectConsExpr:
		return c.object(e)
	case *hclsyntax.TupleConsExpr:
		t := tupleNode{at: at{rng}}
		for _, x := range e.Exprs {
			t.items = append(t.items, c.compile(x))
		}
		return t
	case *hclsyntax.ForExpr:
		return c.forExpr(e)
	case *hclsyntax.SplatExpr:
		f := forNode{at: at{rng}, coll: c.compile(e.Source), keySlot: -1, splat: true}
		f.valSlot = c.push("", e.Item)
		f.val = c.compile(e.Each)
		c.vars = c.vars[:len(c.vars)-1]
		return f
	case *hclsyntax.AnonSymbolExpr:
		for i := len(c.vars) - 1; i >= 0; i-- {
			if c.vars[i].anon == e {
				return varNode{at{rng}, c.vars[i].slot, "the element"}
			}
		}
	case *hclsyntax.ObjectConsKeyExpr:
		return c.compile(e.Wrapped)
	}
	return c.report(rng, sumUnsupported, "This form of expression is not part of the rule language.")
}

func (c *compiler) literal(e *hclsyntax.LiteralValueExpr) node {
	v := e.Val
	lit := litNode{at: at{e.SrcRange}}
	switch {
	case v.IsNull():
	case v.Type() == cty.Bool:
		lit.v = boolValue(v.True())
	case v.Type() == cty.String:
		lit.v = stringValue([]byte(v.AsString()))
	case v.Type() == cty.Number:
		f := v.AsBigFloat()
		if e := f.MantExp(nil); e > 2000 || e < -2000 {
			return c.report(lit.rng, sumUnsupported, "This number is too large or too small.")
		}
		lit.v = numberValue([]byte(f.Text('f', -1)))
	default:
		return c.report(e.SrcRange, sumUnsupported, "This literal is not part of the rule language.")
	}
	return lit
}

// template joins its literal parts where it can: a template of literals alone
// is a string.
func (c *compiler) template(e *hclsyntax.TemplateExpr) node {
	t := templateNode{at: at{e.SrcRange}}
	for _, p := range e.Parts {
		n := c.compile(p)
		if lit, ok := n.(litNode); ok && lit.v.kind == kindString && len(t.parts) > 0 {
			if last, ok := t.parts[len(t.parts)-1].(litNode); ok && last.v.kind == kindString {
				last.v.text = slices.Concat(last.v.text, lit.v.text)
				t.parts[len(t.parts)-1] = last
				continue
			}
		}
		t.parts = append(t.parts, n)
	}
	if len(t.parts) == 0 {
		return litNode{at: at{e.SrcRange}, v: stringValue(nil)}
	}
	if lit, ok := t.parts[0].(litNode); ok && len(t.parts) == 1 && lit.v.kind == kindString {
		return litNode{at: at{e.SrcRange}, v: lit.v}
	}
	return t
}

func (c *compiler) index(e *hclsyntax.IndexExpr) node {
	base, key := c.compile(e.Collection), c.compile(e.Key)
	if lit, ok := key.(litNode); ok {
		if step, ok := literalStep(lit.v); ok {
			return c.step(base, step, e.SrcRange)
		}
	}
	if row, ok := base.(rowNode); ok {
		return c.report(e.SrcRange, sumUnsupported, "The column of %s must be a name that is known when the rule is loaded, because the daemon asks the server for the columns that rules read.", row.side)
	}
	return indexNode{at{e.SrcRange}, base, key}
}

func literalStep(v value) (pathStep, bool) {
	switch v.kind {
	case kindString:
		return pathStep{name: string(v.text)}, true
	case kindNumber:
		if n, ok := v.int(); ok {
			return pathStep{index: int(n), isIndex: true}, true
		}
	}
	return pathStep{}, false
}

// path goes from a node along the steps of a traversal.
func (c *compiler) path(base node, t hcl.Traversal, rng hcl.Range) node {
	for _, tr := range t {
		var step pathStep
		switch tr := tr.(type) {
		case hcl.TraverseAttr:
			step.name = tr.Name
		case hcl.TraverseIndex:
			var ok bool
			switch {
			case tr.Key.IsKnown() && !tr.Key.IsNull() && tr.Key.Type() == cty.String:
				step, ok = pathStep{name: tr.Key.AsString()}, true
			case tr.Key.IsKnown() && !tr.Key.IsNull() && tr.Key.Type() == cty.Number:
				step, ok = literalStep(numberValue([]byte(tr.Key.AsBigFloat().Text('f', -1))))
			}
			if !ok {
				return c.report(tr.SrcRange, sumUnsupported, "An index is a name or a whole number.")
			}
		default:
			return c.report(rng, sumUnsupported, "This form of access is not part of the rule language.")
		}
		base = c.step(base, step, rng)
	}
	return base
}

func (c *compiler) step(base node, step pathStep, rng hcl.Range) node {
	switch b := base.(type) {
	case badNode:
		return b
	case rowNode:
		if step.isIndex {
			return c.report(rng, sumUnsupported, "The columns of %s have names, not numbers.", b.side)
		}
		return c.column(b.side, step.name, rng)
	case pathNode:
		return pathNode{at{rng}, b.base, append(slices.Clip(b.steps), step)}
	case factNode:
		if b.fact == factPayload && c.scope.payloadText {
			return c.report(rng, sumNotHere, "The payload is text, because of payload_format = \"text\", and has no attributes. Use jsondecode(payload) for one that sometimes is JSON, or remove payload_format.")
		}
	}
	return pathNode{at{rng}, base, []pathStep{step}}
}

func (c *compiler) column(s side, name string, rng hcl.Range) node {
	c.uses = append(c.uses, exprUse{side: s, name: name, rng: rng, outer: c.outer})
	if s == sideChanged {
		return changedNode{at{rng}, name}
	}
	return columnNode{at{rng}, s, name}
}

func (c *compiler) call(e *hclsyntax.FunctionCallExpr) node {
	fn := functions[e.Name]
	if fn == nil {
		if e.Name == "env" || e.Name == "file" {
			return c.report(e.NameRange, sumNotHere, "%s() gives secrets and settings, and in an event it may stand only as the key of hmacsha256(): what an event holds must not depend on the machine that makes it. Write the value here.", e.Name)
		}
		if why := refusedFunctions[e.Name]; why != "" {
			return c.report(e.NameRange, sumUnknownFunction, "There is no %s(): %s", e.Name, why)
		}
		return c.report(e.NameRange, sumUnknownFunction, "There is no function named %s.%s", e.Name, didYouMean(e.Name, functionNames()))
	}
	call := callNode{at: at{e.Range()}, fn: fn}
	if e.ExpandFinal {
		return c.report(e.Range(), sumUnsupported, "A list cannot be spread over arguments with \"...\". Name the arguments one by one.")
	}
	if n := len(e.Args); n < len(fn.params)-fn.optional || n > len(fn.params) && fn.rest == 0 {
		return c.report(e.Range(), sumCall, "%s needs %s, and has %d here: %s.", fn.name, fn.arity(), n, fn.usage())
	}
	before := len(c.uses)
	for i, a := range e.Args {
		if i == 0 && fn.secret && c.isSecret(a) {
			call.args = append(call.args, c.secret(a))
			continue
		}
		arg := c.compile(a)
		if lit, ok := arg.(litNode); ok && i == 0 {
			lit.secret = fn.secret
			arg = lit
		}
		call.args = append(call.args, arg)
	}
	if lit, ok := call.args[0].(litNode); ok && fn.validate != nil && lit.v.kind == kindString {
		if err := fn.validate(string(lit.v.text)); err != nil {
			return c.report(e.Args[0].Range(), sumCall, "%s cannot use this format: %s.", fn.name, err)
		}
	}
	if row, ok := call.args[0].(rowNode); ok && (fn.name == "pick" || fn.name == "omit") {
		var chosen []exprUse
		for _, a := range call.args[1:] {
			if lit, ok := a.(litNode); ok && lit.v.kind == kindString {
				chosen = append(chosen, exprUse{side: row.side, name: string(lit.v.text), rng: lit.rng, outer: c.outer, named: row.side != sideOld || fn.name == "omit"})
			}
		}
		if fn.name == "pick" && len(chosen) == len(call.args)-1 { // not the whole row
			c.uses = slices.Delete(c.uses, before, before+1)
		}
		c.uses = append(c.uses, chosen...)
	}
	if fn.pattern {
		lit, ok := call.args[0].(litNode)
		if !ok || lit.v.kind != kindString {
			return c.report(e.Args[0].Range(), sumCall, "The pattern of %s must be a literal string, so that a mistake in it is found when the rule is loaded.", fn.name)
		}
		re, err := regexp.Compile(string(lit.v.text))
		if err != nil {
			return c.report(e.Args[0].Range(), sumCall, "The pattern is not a regular expression (RE2 syntax): %s.", err)
		}
		if mixedGroups(re) {
			return c.report(e.Args[0].Range(), sumCall, "Either all groups of the pattern have names or none has.")
		}
		call.re = re
	}
	return call
}

// isSecret reports whether an expression is env() or file(), or a local that is.
func (c *compiler) isSecret(expr hcl.Expression) bool {
	switch e := expr.(type) {
	case *hclsyntax.FunctionCallExpr:
		return e.Name == "env" || e.Name == "file"
	case *hclsyntax.ScopeTraversalExpr:
		name, ok := localName(e.Traversal)
		call, isCall := c.scope.locals[name].(*hclsyntax.FunctionCallExpr)
		return ok && isCall && len(e.Traversal) == 2 && (call.Name == "env" || call.Name == "file")
	}
	return false
}

func (c *compiler) secret(expr hcl.Expression) node {
	if c.scope.secret != nil {
		if s, ok := c.scope.secret(expr.(hclsyntax.Expression)); ok {
			return litNode{at: at{expr.Range()}, v: stringValue([]byte(s)), secret: true}
		}
	}
	return badNode{at{expr.Range()}} // reported
}

func (c *compiler) object(e *hclsyntax.ObjectConsExpr) node {
	o := objectNode{at: at{e.SrcRange}}
	seen := map[string]bool{}
	for _, item := range e.Items {
		it := objectItem{val: c.compile(item.ValueExpr)}
		key, ok := item.KeyExpr.(*hclsyntax.ObjectConsKeyExpr)
		static := false
		if ok && !key.ForceNonLiteral {
			if kw := hcl.ExprAsKeyword(key.Wrapped); kw != "" {
				it.name, static = kw, true
			} else if t, ok := key.Wrapped.(*hclsyntax.ScopeTraversalExpr); ok {
				c.report(t.SrcRange, sumObject, "It is not clear whether this is a name or an expression. Put a name into quotes, and an expression into parentheses.")
				continue
			}
		}
		if !static {
			it.key = c.compile(item.KeyExpr)
			if lit, ok := it.key.(litNode); ok && lit.v.kinds()&isScalar != 0 {
				it.name, it.key, static = string(lit.v.appendText(nil)), nil, true
			}
		}
		if static && seen[it.name] {
			c.report(item.KeyExpr.Range(), sumObject, "The attribute %s is already there. Remove one of the two.", strconv.Quote(it.name))
			continue
		}
		seen[it.name] = static
		o.items = append(o.items, it)
	}
	return o
}

func (c *compiler) push(name string, anon *hclsyntax.AnonSymbolExpr) int {
	c.vars = append(c.vars, exprVar{name, anon, c.slots})
	c.slots++
	return c.slots - 1
}

func (c *compiler) forExpr(e *hclsyntax.ForExpr) node {
	f := forNode{at: at{e.SrcRange}, coll: c.compile(e.CollExpr), keySlot: -1}
	if e.Group {
		c.report(e.SrcRange, sumUnsupported, "Grouping with \"...\" is not part of the rule language.")
	}
	depth := len(c.vars)
	if e.KeyVar != "" {
		f.keySlot = c.push(e.KeyVar, nil)
	}
	f.valSlot = c.push(e.ValVar, nil)
	if e.KeyExpr != nil {
		f.key = c.compile(e.KeyExpr)
	}
	f.val = c.compile(e.ValExpr)
	if e.CondExpr != nil {
		f.cond = c.compile(e.CondExpr)
	}
	c.vars = c.vars[:depth]
	return f
}
