package config

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay"
)

// inferred is what is known of a rule on one table without running it.
type inferred struct {
	key, tenant, data contract.Type
	diags             hcl.Diagnostics
}

// infer finds the types of the rule's expressions, and what cannot be right or
// may go wrong in them. t is nil for rules that are not about a table, and
// where the catalogue is not known: columns can then be anything.
func (e *ruleExprs) infer(t *relay.Table) inferred {
	c := &checker{t: t, scope: &e.scope, vars: map[int]contract.Type{}, done: map[visit]contract.Type{}, seen: map[string]bool{}}
	here := &env{ops: e.scope.ops}
	if e.when != nil {
		c.outer = e.when.rng
		k := c.typeOf(e.when.node, here)
		if k.Kinds&isBool == 0 {
			c.report(e.when.node, sumTypes, "The condition must be true or false, and %s is %s.", describe(e.when.node), k.Kinds)
		} else {
			c.notNull(e.when.node, k, here, "The condition")
		}
		c.decide(e.when.node, k)
		here = c.assume(here, e.when.node, true, evaluated)
	}
	if e.forEach != nil {
		c.outer = e.forEach.rng
		list := c.typeOf(e.forEach.node, here)
		if list.Kinds&(isList|isObject|isNull) == 0 {
			c.report(e.forEach.node, sumTypes, "for_each needs a list or an object, and %s is %s.", describe(e.forEach.node), list.Kinds)
		}
		c.decide(e.forEach.node, list)
		c.vars[eachKeySlot], c.vars[eachValueSlot] = keysOf(list), elementsOf(list)
	}
	out := inferred{}
	for _, x := range []struct {
		expr *compiledExpr
		into *contract.Type
	}{{e.key, &out.key}, {e.tenant, &out.tenant}, {e.data, &out.data}} {
		if x.expr == nil {
			continue
		}
		c.outer = x.expr.rng
		*x.into = c.typeOf(x.expr.node, here)
		if x.expr == e.data {
			c.needSent(x.expr.node, x.into.Unsent) // what is in it may be left out
		} else {
			c.decide(x.expr.node, *x.into)
		}
	}
	if e.data != nil && e.data.rng.Filename != "" {
		c.outer = e.data.rng
		c.absentRow(e.data.node, here)
	}
	if e.scope.schema != nil {
		c.checkSchema(e, out.data)
	}
	out.diags = c.diags
	return out
}

// checker finds the types of expressions, and reports operators that fit none
// of them.
type checker struct {
	t     *relay.Table
	scope *exprScope
	outer hcl.Range
	diags hcl.Diagnostics
	seen  map[string]bool // what was reported
	vars  map[int]contract.Type
	done  map[visit]contract.Type // an expression that is used twice is judged once
	// silent: nothing is reported. forgiving: an error at run time is caught.
	silent, forgiving int
}

// visit is an expression at a place where something is known.
type visit struct {
	rng    hcl.Range
	env    *env
	silent bool
}

// maxVisits bounds the work for locals that multiply: beyond, an expression
// can be anything.
const maxVisits = 20_000

// A finding says more of a diagnostic, in its Extra.
type finding uint8

const (
	// someRows: the rule fails on some rows, which become dead letters, and goes
	// on with the others.
	someRows finding = iota + 1
	// everyTable: it counts only where it holds for every table of the rule.
	everyTable
)

func (c *checker) report(n node, summary, format string, args ...any) {
	c.add(n, hcl.DiagError, 0, summary, format, args...)
}

func (c *checker) add(n node, severity hcl.DiagnosticSeverity, f finding, summary, format string, args ...any) {
	d := exprDiag(n.where(), c.outer, summary, format, args...)
	d.Severity = severity
	if f != 0 {
		d.Extra = f
	}
	if place := placeOf(d); c.silent == 0 && !c.seen[place] {
		c.seen[place] = true
		c.diags = append(c.diags, d)
	}
}

// need reports an operand that is none of the wanted kinds, or may be null.
func (c *checker) need(n node, e *env, want kinds, who string) contract.Type {
	t := c.typeOf(n, e)
	switch k := t.Kinds; {
	case k == isNull:
		c.report(n, sumNull, "%s needs %s and is given null. Only == and != compare with null.%s", who, want, c.whyNull(n, e))
	case k&want == 0:
		c.report(n, sumTypes, "%s needs %s, and %s is %s.%s", who, want, describe(n), k&^isNull, conversion(k, want))
	default:
		c.notNull(n, t, e, who)
	}
	c.decide(n, t)
	return t
}

// notNull reports an operand that may be null. Of one of which nothing is
// known it says nothing.
func (c *checker) notNull(n node, t contract.Type, e *env, who string) {
	if t.Kinds&isNull == 0 || t.Kinds == isNull || t.Dynamic() || c.forgiving > 0 {
		return
	}
	name := describe(n)
	c.add(n, hcl.DiagError, someRows, sumMayBeNull, "%s may be null, and %s then fails.%s Guard it, as in %s != null && ..., or give a value with coalesce(%s, ...).",
		name, lowerFirst(who), c.whyNull(n, e), name, name)
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// whyNull says why a column is null, or may be.
func (c *checker) whyNull(n node, e *env) string {
	col, ok := n.(columnNode)
	if !ok {
		return ""
	}
	if there, absent := presence(col.side, e.ops); absent {
		if !there {
			return fmt.Sprintf(" There is no %s row in what the rule is about (%s).", col.side, opsText(e.ops))
		}
		return fmt.Sprintf(" There is no %s row on %s: test op first, or use row.", col.side, opsText(absentOps(col.side, e.ops)))
	}
	if c.t != nil && c.t.Column(col.name) >= 0 {
		return fmt.Sprintf(" The column of %s is not declared NOT NULL.", c.t.Table())
	}
	return ""
}

func absentOps(s side, ops relay.Ops) relay.Ops {
	var absent relay.Ops
	for _, op := range operations {
		if there, _ := presence(s, relay.OpsOf(op)); ops.Has(op) && !there {
			absent |= relay.OpsOf(op)
		}
	}
	return absent
}

func opsText(ops relay.Ops) string { return list(opNames(ops), "or") }

func opNames(ops relay.Ops) []string {
	var names []string
	for _, op := range []relay.Op{relay.Insert, relay.Update, relay.Delete, relay.Truncate, relay.Read} {
		if ops.Has(op) {
			names = append(names, op.String())
		}
	}
	return names
}

// decide reports a value that the server may not send, or that holds one, and
// that something is made of.
func (c *checker) decide(n node, t contract.Type) { c.needSent(n, t.AllUnsent()) }

func (c *checker) needSent(n node, columns []string) {
	for _, name := range columns {
		severity := hcl.DiagError
		if n := maxBytes(c.t.Columns[c.t.Column(name)]); n > 0 && n < toastThreshold {
			severity = hcl.DiagWarning // it goes out of line only where others make the row long
		}
		c.add(n, severity, someRows, sumUnsent, "%s A change in which it is missing becomes a dead letter. %s", c.unsentText(name), c.unsentCure(name))
	}
}

func (c *checker) unsentText(column string) string {
	return fmt.Sprintf("PostgreSQL may store the column %s of %s out of line (TOAST), and then does not send it with an update that leaves it as it is.", column, c.t.Table())
}

func (c *checker) unsentCure(column string) string {
	return fmt.Sprintf("To have it always, %sfor values that fit into the row, which new ones then stay in:\n  ALTER TABLE %s ALTER COLUMN %s SET STORAGE MAIN;%s",
		c.scope.orFull(c.t), quoteTable(c.t.Table()), quoteName(column), c.scope.noFull())
}

// absentRow reports data that is a row, or a column of one, that is never
// there.
func (c *checker) absentRow(n node, e *env) {
	switch n := n.(type) {
	case rowNode:
		if there, absent := presence(n.side, e.ops); !there && absent {
			c.report(n, sumNoRow, "There is no %s row in what the rule is about (%s): every column would be null. %s", n.side, opsText(e.ops), otherRow(n.side, e.ops))
		}
	case columnNode:
		if there, absent := presence(n.side, e.ops); !there && absent && !c.inLocal(n) {
			c.add(n, hcl.DiagWarning, 0, sumNoRow, "There is no %s row in what the rule is about (%s): this is always null. %s", n.side, opsText(e.ops), otherRow(n.side, e.ops))
		}
	case objectNode:
		for _, it := range n.items {
			c.absentRow(it.val, e)
		}
	case callNode:
		if n.fn.name == "merge" {
			for _, a := range n.args {
				c.absentRow(a, e)
			}
		}
	}
}

func otherRow(s side, ops relay.Ops) string {
	other := sideNew
	if s == sideNew {
		other = sideOld
	}
	if there, _ := presence(other, ops); there {
		return fmt.Sprintf("Use %s.", other)
	}
	return "A truncate has no rows."
}

func conversion(have, want kinds) string {
	switch {
	case want&isNumber != 0 && have&isString != 0:
		return " Use tonumber() to read a number from a string."
	case want&isString != 0 && have&(isNumber|isBool) != 0:
		return " Use tostring() to make a string of it."
	case want&isString != 0 && have&(isList|isObject) != 0:
		return " Use jsonencode() to make a string of it."
	}
	return ""
}

// quiet is typeOf without a report.
func (c *checker) quiet(n node, e *env) contract.Type {
	c.silent++
	defer func() { c.silent-- }()
	return c.typeOf(n, e)
}

// typeOf returns the type of an expression where e is known.
func (c *checker) typeOf(n node, e *env) contract.Type {
	if t, ok := e.fact(keyOf(n)); ok {
		return t
	}
	switch n := n.(type) {
	case litNode:
		if n.secret {
			return contract.Of(isString)
		}
		return literalType(n.v)
	case rowNode:
		return c.rowAt(n.side, e.ops)
	case columnNode:
		return c.columnAt(n.side, n.name, e.ops)
	case changedNode:
		return contract.Of(isBool)
	case factNode:
		return c.factType(n.fact, e)
	case varNode:
		return c.vars[n.slot]
	case badNode:
		return contract.Any()
	}
	v := visit{n.where(), e, c.silent > 0}
	t, ok := c.done[v]
	if !ok {
		if len(c.done) > maxVisits {
			return contract.Any()
		}
		t = c.inner(n, e)
		c.done[v] = t
	}
	return t
}

func literalType(v value) contract.Type {
	switch v.kind {
	case kindNumber:
		r, ok := new(big.Rat).SetString(string(v.number(new([20]byte))))
		if !ok {
			return contract.Of(isNumber)
		}
		return contract.Type{Kinds: isNumber, Integer: r.IsInt(), Min: r, Max: r}
	case kindString:
		return contract.OneOf(string(v.text))
	}
	return contract.Of(v.kinds())
}

func (c *checker) inner(n node, e *env) contract.Type {
	switch n := n.(type) {
	case notNode:
		c.need(n.x, e, isBool, "!")
		return contract.Of(isBool)
	case negateNode:
		t := c.need(n.x, e, isNumber, "-")
		return contract.Type{Kinds: isNumber, Integer: t.Integer}
	case binaryNode:
		return c.binary(n, e)
	case conditionalNode:
		c.need(n.cond, e, isBool, "The condition before ?")
		return contract.Union(c.typeOf(n.yes, c.assume(e, n.cond, true, evaluated)), c.typeOf(n.no, c.assume(e, n.cond, false, evaluated)))
	case callNode:
		return c.call(n, e)
	case pathNode:
		return c.path(n, e)
	case indexNode:
		base := c.typeOf(n.base, e)
		if base.Kinds&(isObject|isList) == 0 && base.Kinds != isNull {
			c.report(n.base, sumTypes, "An index needs %s, and %s is %s.", isObject|isList, describe(n.base), base.Kinds&^isNull)
		}
		c.need(n.key, e, isString|isNumber, "An index")
		t := contract.Any()
		if base.Kinds&^isNull == isList {
			t = base.Element().Nullable()
		}
		t.Unsent = base.Unsent
		return t
	case templateNode:
		for _, p := range n.parts {
			c.need(p, e, isScalar, "A template")
		}
		return contract.Of(isString)
	case objectNode:
		return c.object(n, e)
	case tupleNode:
		if len(n.items) == 0 {
			return contract.Of(isList)
		}
		var elem contract.Type
		for _, it := range n.items {
			t := c.typeOf(it, e)
			c.decide(it, t)
			elem = contract.Union(elem, t)
		}
		elem.Unsent = nil
		return contract.ListOf(elem)
	case forNode:
		return c.forType(n, e)
	}
	return contract.Any()
}

func (c *checker) object(n objectNode, e *env) contract.Type {
	o := contract.ObjectOf()
	for _, it := range n.items {
		t := c.typeOf(it.val, e)
		if it.key != nil {
			c.need(it.key, e, isScalar, "The name of an attribute")
			rest := t
			if o.Rest != nil {
				rest = contract.Union(*o.Rest, t)
			}
			o.Rest = &rest
			continue
		}
		if len(t.Unsent) > 0 && c.forgiving == 0 {
			c.add(it.val, hcl.DiagWarning, someRows, sumUnsent, "%s The attribute %s is then left out of the event, and named in unchanged. %s", c.unsentText(t.Unsent[0]), it.name, c.unsentCure(t.Unsent[0]))
		}
		o.Fields = append(o.Fields, contract.Field{Name: it.name, Type: t, Optional: len(t.Unsent) > 0})
	}
	return o
}

// path follows the steps into a value, as frame.walk does: what is not there is
// null.
func (c *checker) path(n pathNode, e *env) contract.Type {
	t := c.typeOf(n.base, e)
	unsent := t.Unsent
	for i, s := range n.steps {
		name := describe(pathNode{n.at, n.base, n.steps[:i]})
		null := t.Kinds & isNull
		switch {
		case t.Dynamic():
			t = contract.Any()
		case t.Kinds == isNull:
		case t.Kinds&(isObject|isList) == 0:
			c.report(n, sumTypes, "%s is %s and has no attributes.", name, t.Kinds&^isNull)
			t = contract.Any()
		case s.isIndex && t.Kinds&isList != 0:
			t = t.Element().Nullable()
		case !s.isIndex && t.Kinds&isObject != 0:
			switch f := t.Field(s.name); {
			case f != nil:
				t = f.Type
				if f.Optional && len(t.Unsent) == 0 {
					t = t.Nullable()
				}
			case t.Rest != nil:
				t = t.Rest.Nullable()
			default:
				var known []string
				for _, f := range t.Fields {
					known = append(known, f.Name)
				}
				c.report(n, sumUnknownAttribute, "%s has no attribute %s.%s", name, s.name, didYouMean(s.name, known))
				t = contract.Any()
			}
		default:
			c.report(n, sumTypes, "%s is %s, and this is not how one goes into it: an attribute is written .name, an element [0].", name, t.Kinds&^isNull)
			t = contract.Any()
		}
		t.Kinds |= null
	}
	if unsent != nil {
		t.Unsent = unsent
	}
	return t
}

func (c *checker) forType(n forNode, e *env) contract.Type {
	var coll contract.Type
	if n.splat {
		coll = c.typeOf(n.coll, e)
		c.decide(n.coll, coll)
	} else {
		coll = c.need(n.coll, e, isList|isObject, "for")
	}
	c.vars[n.valSlot] = elementsOf(coll)
	if n.keySlot >= 0 {
		c.vars[n.keySlot] = keysOf(coll)
	}
	if n.cond != nil {
		c.need(n.cond, e, isBool, "The condition after if")
		e = c.assume(e, n.cond, true, evaluated)
	}
	val := c.typeOf(n.val, e)
	c.decide(n.val, val)
	val.Unsent = nil
	if n.key != nil {
		c.need(n.key, e, isScalar, "The name of an attribute")
		return contract.MapOf(val)
	}
	return contract.ListOf(val)
}

// keysOf returns the type of the keys of what is gone through.
func keysOf(coll contract.Type) contract.Type {
	switch coll.Kinds &^ isNull {
	case isList:
		return contract.Type{Kinds: isNumber, Integer: true}
	case isObject:
		return contract.Of(isString)
	}
	return contract.Of(isString | isNumber)
}

// elementsOf returns the type of what a for expression goes through.
func elementsOf(coll contract.Type) contract.Type {
	if coll.Kinds&(isList|isObject) == isList {
		return coll.Element()
	}
	if coll.Kinds&(isList|isObject) != isObject || coll.Rest != nil && coll.Rest.Dynamic() {
		return contract.Any()
	}
	var t contract.Type
	for _, f := range coll.Fields {
		t = contract.Union(t, f.Type)
	}
	if coll.Rest != nil {
		t = contract.Union(t, *coll.Rest)
	}
	t.Unsent = nil
	return t
}

func (c *checker) factType(f fact, e *env) contract.Type {
	var t contract.Type
	switch f {
	case factOp:
		if c.scope.kind != ruleTable {
			return contract.Of(isString)
		}
		return contract.OneOf(opNames(e.ops)...)
	case factTable:
		var names []string
		for _, n := range c.scope.tables {
			names = append(names, n.String())
		}
		if c.t != nil {
			names = []string{c.t.Table().String()}
		}
		return contract.OneOf(names...)
	case factSource:
		return contract.Of(isString)
	case factXID:
		t = contract.Whole(0, 1<<32-1)
	case factLSN:
		t = contract.Of(isString)
	case factCommitTime:
		t = contract.Formatted(contract.Instant)
	case factContext:
		return contract.Of(isObject | isNull)
	default:
		if c.scope.payloadText {
			return contract.Of(isString)
		}
		return contract.Any()
	}
	if c.scope.kind != ruleTable || e.ops.Has(relay.Read) { // outside a transaction there is none
		t = t.Nullable()
	}
	return t
}
