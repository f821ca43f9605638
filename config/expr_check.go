package config

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// check holds the expressions against a table of the live catalogue, for the
// operations the rule is about.
func (e *ruleExprs) check(t *relay.Table, ops relay.Ops) hcl.Diagnostics {
	var diags hcl.Diagnostics
	seen := map[string]bool{} // one report a place, also when a local is used twice
	for _, u := range e.uses {
		place := fmt.Sprint(u.side, u.name, u.rng)
		if seen[place] {
			continue
		}
		seen[place] = true
		if d := checkUse(t, ops, u); d != nil {
			diags = append(diags, d)
		}
	}
	return append(diags, e.typeCheck(t)...)
}

func checkUse(t *relay.Table, ops relay.Ops, u exprUse) *hcl.Diagnostic {
	if u.name == "" {
		if u.side == sideOld && t.Identity != relay.IdentityFull && (ops.Has(relay.Update) || ops.Has(relay.Delete)) && !allKnown(t) {
			return exprDiag(u.rng, u.outer, sumOldMissing, "The whole old row of %s is not sent by the server, because its replica identity does not have all columns. To have it, run:\n  ALTER TABLE %s REPLICA IDENTITY FULL;\nOr name the columns that are needed, as in { id = old.id }.",
				t.Table(), quoteTable(t.Table()))
		}
		return nil
	}
	col := t.Column(u.name)
	if col < 0 {
		var names []string
		for _, c := range t.Columns {
			names = append(names, c.Name)
		}
		hint := didYouMean(u.name, names)
		if strings.Contains(u.name, "-") {
			hint += " For a subtraction write spaces around the minus."
		}
		return exprDiag(u.rng, u.outer, sumUnknownColumn, "The table %s has no column %s.%s", t.Table(), u.name, hint)
	}
	var reads string // which change needs the old value
	switch {
	case t.OldKnown(col):
	case u.side == sideOld && ops.Has(relay.Update):
		reads = "an update"
	case u.side == sideOld && ops.Has(relay.Delete):
		reads = "a delete"
	case u.side == sideRow && ops.Has(relay.Delete):
		reads = "a delete, where row is the old row"
	case u.side == sideChanged && ops.Has(relay.Update):
		reads = "an update"
	case u.side == sideChanged && ops.Has(relay.Delete):
		reads = "a delete"
	}
	if reads != "" {
		return exprDiag(u.rng, u.outer, sumOldMissing, "The old value of the column %s of %s is not sent by the server with %s, because the column is not in the table's replica identity. To have it, either run:\n  ALTER TABLE %s REPLICA IDENTITY FULL;\nor, with a unique index on not-null columns that has this column:\n  ALTER TABLE %s REPLICA IDENTITY USING INDEX ...;",
			u.name, t.Table(), reads, quoteTable(t.Table()), quoteTable(t.Table()))
	}
	if u.side == sideChanged && !ops.Has(relay.Update) {
		d := exprDiag(u.rng, u.outer, sumChanged, "changed.%s compares the row before and after an update, and the rule is not about updates. Add \"update\" to on, or remove the condition.", u.name)
		d.Severity = hcl.DiagWarning
		return d
	}
	return nil
}

func allKnown(t *relay.Table) bool {
	for i := range t.Columns {
		if !t.OldKnown(i) {
			return false
		}
	}
	return true
}

func quoteTable(n relay.TableName) string {
	q := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	return q(n.Schema) + "." + q(n.Name)
}

// typeCheck finds what cannot be right whatever the values are. Without a
// table a column can be anything.
func (e *ruleExprs) typeCheck(t *relay.Table) hcl.Diagnostics {
	c := &checker{t: t, scope: &e.scope, vars: map[int]kinds{}, done: map[hcl.Range]kinds{}}
	c.vars[eachKeySlot], c.vars[eachValueSlot] = isString|isNumber, isAny
	for _, x := range []*compiledExpr{e.when, e.forEach, e.key, e.tenant, e.data} {
		if x == nil {
			continue
		}
		c.outer = x.rng
		k := c.kinds(x.node)
		if x == e.forEach && k&(isList|isObject|isNull) == 0 {
			c.report(x.node, sumTypes, "for_each needs a list or an object, and %s is %s.", describe(x.node), k)
		}
		if x == e.when && k&isBool == 0 {
			c.report(x.node, sumTypes, "The condition must be true or false, and %s is %s.", describe(x.node), k)
		}
	}
	return c.diags
}

// checker finds the kinds an expression can have, and reports operators that
// fit none of them.
type checker struct {
	t     *relay.Table
	scope *exprScope
	outer hcl.Range
	diags hcl.Diagnostics
	vars  map[int]kinds
	done  map[hcl.Range]kinds // an expression that is used twice is judged once
}

func (c *checker) report(n node, summary, format string, args ...any) {
	c.diags = append(c.diags, exprDiag(n.where(), c.outer, summary, format, args...))
}

// need reports an operand that can be none of the wanted kinds. Null is
// wanted by nobody: one that may be null passes, and is an error when it is.
func (c *checker) need(n node, want kinds, who string) {
	k := c.kinds(n)
	switch {
	case k == isNull:
		c.report(n, sumNull, "%s needs %s and is given null. Only == and != compare with null.", who, want)
	case k&want == 0:
		c.report(n, sumTypes, "%s needs %s, and %s is %s.%s", who, want, describe(n), k&^isNull, conversion(k, want))
	}
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

func (c *checker) kinds(n node) kinds {
	switch n := n.(type) {
	case litNode:
		return n.v.kinds()
	case rowNode:
		return isObject
	case columnNode:
		return c.column(n.name)
	case changedNode:
		return isBool
	case factNode:
		return c.fact(n.fact)
	case varNode:
		return c.vars[n.slot]
	case notNode, negateNode, binaryNode, conditionalNode, callNode, pathNode, indexNode, templateNode, objectNode, tupleNode, forNode:
		rng := n.where()
		k, ok := c.done[rng]
		if !ok {
			k = c.inner(n)
			c.done[rng] = k
		}
		return k
	}
	return isAny
}

func (c *checker) inner(n node) kinds {
	switch n := n.(type) {
	case notNode:
		c.need(n.x, isBool, "!")
		return isBool
	case negateNode:
		c.need(n.x, isNumber, "-")
		return isNumber
	case binaryNode:
		return c.binary(n)
	case conditionalNode:
		c.need(n.cond, isBool, "The condition before ?")
		return c.kinds(n.yes) | c.kinds(n.no)
	case callNode:
		for i, a := range n.args {
			p := n.fn.param(i)
			if n.fn.lazy {
				c.kinds(a)
				continue
			}
			if k := c.kinds(a); p.kinds&isNull != 0 && k == isNull {
				continue
			}
			c.need(a, p.kinds&^isNull, fmt.Sprintf("The argument %s of %s()", p.name, n.fn.name))
		}
		return n.fn.result
	case pathNode:
		if k := c.kinds(n.base); k != isNull && k&(isObject|isList) == 0 {
			c.report(n, sumTypes, "%s is %s and has no attributes.", describe(n.base), k&^isNull)
		}
		return isAny
	case indexNode:
		c.need(n.base, isObject|isList, "An index")
		c.need(n.key, isString|isNumber, "An index")
		return isAny
	case templateNode:
		for _, p := range n.parts {
			c.need(p, isScalar, "A template")
		}
		return isString
	case objectNode:
		for _, it := range n.items {
			if it.key != nil {
				c.need(it.key, isScalar, "The name of an attribute")
			}
			c.kinds(it.val)
		}
		return isObject
	case tupleNode:
		for _, it := range n.items {
			c.kinds(it)
		}
		return isList
	case forNode:
		if !n.splat {
			c.need(n.coll, isList|isObject, "for")
		}
		c.vars[n.valSlot] = isAny
		if n.keySlot >= 0 {
			c.vars[n.keySlot] = isString | isNumber
		}
		if n.cond != nil {
			c.need(n.cond, isBool, "The condition after if")
		}
		c.kinds(n.val)
		if n.key != nil {
			c.need(n.key, isScalar, "The name of an attribute")
			return isObject
		}
		return isList
	}
	return isAny
}

func (c *checker) binary(n binaryNode) kinds {
	switch n.op {
	case opAnd, opOr:
		c.need(n.l, isBool, n.op.String())
		c.need(n.r, isBool, n.op.String())
		return isBool
	case opEqual, opNotEqual:
		l, r := c.kinds(n.l), c.kinds(n.r)
		if l, r := l&^isNull, r&^isNull; l != 0 && r != 0 && l&r == 0 {
			cure := " Make both the same with tonumber() or tostring()."
			if (l|r)&^isScalar != 0 {
				cure = ""
			}
			c.report(n, sumMixed, "%s is %s and %s is %s: the comparison can never hold.%s", describe(n.l), l, describe(n.r), r, cure)
		}
		return isBool
	case opLess, opLessEqual, opGreater, opGreaterEqual:
		c.need(n.l, isNumber, n.op.String())
		c.need(n.r, isNumber, n.op.String())
		return isBool
	}
	c.need(n.l, isNumber, n.op.String())
	c.need(n.r, isNumber, n.op.String())
	if lit, ok := n.r.(litNode); ok && (n.op == opDivide || n.op == opModulo) && lit.v.kind == kindNumber && compareNumber(lit.v, intValue(0)) == 0 {
		c.report(n, sumTypes, "The divisor is zero.")
	}
	return isNumber
}

// column returns what a column can be. The absent row of an insert or delete
// is one of nulls, so null is possible whatever the column says.
func (c *checker) column(name string) kinds {
	if c.t == nil {
		return isAny
	}
	i := c.t.Column(name)
	if i < 0 {
		return isAny // reported already
	}
	switch pgvalue.KindOf(c.t.Columns[i].TypeOID, c.t.Types) {
	case pgvalue.Bool:
		return isBool | isNull
	case pgvalue.Number:
		return isNumber | isNull
	case pgvalue.JSON:
		return isAny
	case pgvalue.Array, pgvalue.Vector:
		return isList | isNull
	case pgvalue.Composite, pgvalue.Hstore:
		return isObject | isNull
	}
	return isString | isNull
}

func (c *checker) fact(f fact) kinds {
	switch f {
	case factOp, factTable, factSource:
		return isString
	case factXID:
		return isNumber | isNull
	case factLSN, factCommitTime:
		return isString | isNull
	case factContext:
		return isObject | isNull
	}
	if c.scope.payloadText {
		return isString
	}
	return isAny
}
