package config

import (
	"fmt"
	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/config/contract"
)

func (c *checker) binary(n binaryNode, e *env) contract.Type {
	switch n.op {
	case opAnd, opOr:
		c.chain(n, e)
		return contract.Of(isBool)
	case opEqual, opNotEqual:
		c.equality(n, e)
		return contract.Of(isBool)
	case opLess, opLessEqual, opGreater, opGreaterEqual:
		c.need(n.l, e, isNumber, n.op.String())
		c.need(n.r, e, isNumber, n.op.String())
		c.order(n, e)
		return contract.Of(isBool)
	}
	l, r := c.need(n.l, e, isNumber, n.op.String()), c.need(n.r, e, isNumber, n.op.String())
	if lit, ok := n.r.(litNode); ok && (n.op == opDivide || n.op == opModulo) && lit.v.kind == kindNumber && compareNumber(lit.v, intValue(0)) == 0 {
		c.report(n, sumTypes, "The divisor is zero.")
	}
	return contract.Type{Kinds: isNumber, Integer: n.op != opDivide && l.Integer && r.Integer}
}

// maxChain is how many operands of && or || are judged by what the others say.
const maxChain = 64

// chain judges the operands of && or ||. The operators look at all operands
// before they give up, so each is judged where the others do not decide, on
// both sides of it.
func (c *checker) chain(n binaryNode, e *env) {
	var operands []node
	var add func(x node)
	add = func(x node) {
		if inner, ok := x.(binaryNode); ok && inner.op == n.op {
			add(inner.l)
			add(inner.r)
			return
		}
		operands = append(operands, x)
	}
	add(n)
	beside := besideAnd
	if n.op == opOr {
		beside = besideOr
	}
	for i, x := range operands {
		here := e
		for j, other := range operands {
			if j != i && len(operands) <= maxChain {
				here = c.assume(here, other, n.op == opAnd, beside)
			}
		}
		c.need(x, here, isBool, n.op.String())
	}
}

// equality reports a comparison that says nothing.
func (c *checker) equality(n binaryNode, e *env) {
	l, r := c.typeOf(n.l, e), c.typeOf(n.r, e)
	c.decide(n.l, l)
	c.decide(n.r, r)
	if x, null := operandOfNull(n); null {
		c.nullComparison(n, x, e)
		return
	}
	if c.inLocal(n) && (isFact(n.l) || isFact(n.r)) {
		return // a local that tells operations or tables apart serves several rules
	}
	lk, rk := l.Kinds&^isNull, r.Kinds&^isNull
	switch {
	case lk == 0 || rk == 0:
		c.alwaysNull(n, l, r, e)
	case lk&rk == 0:
		cure := " Make both the same with tonumber() or tostring()."
		switch both := lk | rk; {
		case both&^isScalar != 0:
			cure = ""
		case both == isBool|isString:
			cure = " A bool is written true or false, without quotes."
		}
		c.report(n, sumMixed, "%s is %s and %s is %s: the comparison can never hold.%s", describe(n.l), lk, describe(n.r), rk, cure)
	case !contract.Overlap(l, r):
		c.constant(n, hcl.DiagError, n.op == opNotEqual, "%s is %s, and %s is %s: they are never equal.%s", describe(n.l), l.Only(lk), describe(n.r), r.Only(rk), valueHint(l, r))
	}
}

// alwaysNull judges a comparison with what is null in all that the rule is
// about. A local may be meant for other rules too.
func (c *checker) alwaysNull(n binaryNode, l, r contract.Type, e *env) {
	x, other := n.l, r
	if l.Kinds != isNull {
		x, other = n.r, l
	}
	if other.Kinds&isNull != 0 || c.inLocal(n) {
		return
	}
	c.constant(n, harmless(n), n.op == opNotEqual, "%s is always null here, and null equals nothing else.%s", describe(x), c.whyNull(x, e))
}

func operandOfNull(n binaryNode) (node, bool) {
	for _, p := range [][2]node{{n.l, n.r}, {n.r, n.l}} {
		if lit, ok := p[1].(litNode); ok && lit.v.kind == kindNull {
			return p[0], true
		}
	}
	return nil, false
}

func isFact(n node) bool {
	f, ok := n.(factNode)
	return ok && (f.fact == factOp || f.fact == factTable)
}

// inLocal reports whether an expression stands in a local, and not in the
// event itself.
func (c *checker) inLocal(n node) bool { return !within(n.where(), c.outer) }

func within(inner, outer hcl.Range) bool {
	return inner.Filename == outer.Filename && inner.Start.Byte >= outer.Start.Byte && inner.End.Byte <= outer.End.Byte
}

// nullComparison judges x == null by what the table says of a column.
func (c *checker) nullComparison(n binaryNode, x node, e *env) {
	col, ok := x.(columnNode)
	if !ok || c.t == nil || c.t.Column(col.name) < 0 || c.inLocal(n) {
		return
	}
	t := c.columnAt(col.side, col.name, e.ops)
	switch {
	case t.Kinds&isNull == 0:
		c.constant(n, harmless(n), n.op == opNotEqual, "The column %s of %s is declared NOT NULL.", col.name, c.t.Table())
	case t.Kinds == isNull && n.op == opNotEqual:
		c.constant(n, hcl.DiagError, false, "%s is always null here.%s", describe(x), c.whyNull(x, e))
	}
}

// harmless is the severity of a test for null that has one outcome: a guard too
// many does no harm, a condition that is never met does.
func harmless(n binaryNode) hcl.DiagnosticSeverity {
	if n.op == opNotEqual {
		return hcl.DiagWarning
	}
	return hcl.DiagError
}

// constant reports a comparison that has one outcome, whatever the values are.
func (c *checker) constant(n node, severity hcl.DiagnosticSeverity, holds bool, format string, args ...any) {
	summary, text := sumNever, "The comparison can never hold. "
	if holds {
		summary, text = sumAlways, "The comparison always holds. "
	}
	c.add(n, severity, everyTable, summary, "%s", text+fmt.Sprintf(format, args...))
}

// order reports a comparison of a column with a number that it cannot reach.
func (c *checker) order(n binaryNode, e *env) {
	op, x, y := n.op, n.l, n.r
	if op == opGreater || op == opGreaterEqual { // turn it round
		op, x, y = map[binaryOp]binaryOp{opGreater: opLess, opGreaterEqual: opLessEqual}[op], y, x
	}
	l, r := c.bounded(x, e), c.bounded(y, e)
	if l.Min == nil || r.Min == nil || isLiteral(x) == isLiteral(y) {
		return
	}
	low, high := l.Min.Cmp(r.Max), l.Max.Cmp(r.Min)
	never := low > 0 || op == opLess && low == 0
	always := high < 0 || op == opLessEqual && high == 0
	if never || always {
		col, typ := x, l
		if isLiteral(x) {
			col, typ = y, r
		}
		severity := hcl.DiagError
		if always {
			severity = hcl.DiagWarning
		}
		c.constant(n, severity, always, "%s is %s.", describe(col), typ.Only(isNumber))
	}
}

func isLiteral(n node) bool {
	_, ok := n.(litNode)
	return ok
}

// bounded returns the type of a literal, or of a column as it is declared, that
// has bounds, whatever a condition says of it here.
func (c *checker) bounded(n node, e *env) contract.Type {
	t := contract.Type{}
	switch n := n.(type) {
	case litNode:
		t = literalType(n.v)
	case columnNode:
		t = c.columnAt(n.side, n.name, e.ops)
	}
	if t.Kinds&^isNull != isNumber || t.NaN || t.Max == nil {
		return contract.Type{}
	}
	return t
}

// valueHint says what was meant by a string that a column does not have.
func valueHint(l, r contract.Type) string {
	if len(r.Values) != 1 {
		l, r = r, l
	}
	if len(r.Values) != 1 {
		return ""
	}
	v := r.Values[0]
	switch {
	case l.MinLength > 0 && l.MinLength == l.MaxLength && len([]rune(v)) < l.MinLength:
		return " A character(n) is padded with blanks: compare trimspace() of it."
	case l.Format != "":
		return fmt.Sprintf(" Its values look like \"%s\".", contract.Example(l.Format))
	}
	return didYouMean(v, l.Values)
}

// call judges the arguments of a function and finds what it returns.
func (c *checker) call(n callNode, e *env) contract.Type {
	args := make([]contract.Type, len(n.args))
	for i, a := range n.args {
		args[i] = c.argument(n, i, e)
		if n.fn.name == "try" {
			continue // it hands on what was not sent
		}
		if n.fn.lazy && n.fn.result == isObject { // merge, pick, omit: what is in it may be left out
			c.needSent(a, args[i].Unsent)
		} else {
			c.decide(a, args[i])
		}
		args[i].Unsent = nil
	}
	if n.fn.typ != nil {
		return n.fn.typ(args)
	}
	return contract.Of(n.fn.result)
}

func (c *checker) argument(n callNode, i int, e *env) contract.Type {
	a, p := n.args[i], n.fn.param(i)
	who := fmt.Sprintf("The argument %s of %s()", p.name, n.fn.name)
	switch {
	case n.fn.name == "can" || n.fn.name == "try" && i < len(n.args)-1:
		c.forgiving++ // an error in it is caught
		defer func() { c.forgiving-- }()
		return c.typeOf(a, e)
	case p.kinds&isNull == 0 && !(n.fn.lazy && i == 0): // the object of pick and omit is handed on
		return c.need(a, e, p.kinds, who)
	}
	t := c.typeOf(a, e)
	if t.Kinds&p.kinds == 0 {
		c.report(a, sumTypes, "%s needs %s, and %s is %s.%s", who, p.kinds, describe(a), t.Kinds, conversion(t.Kinds, p.kinds))
	}
	return t
}

// The types of what functions return, where more is known than their kinds.

func typeOfUnion(args []contract.Type) contract.Type {
	var t contract.Type
	for _, a := range args {
		t = contract.Union(t, a)
	}
	return t
}

// typeOfCoalesce is the first that is not null.
func typeOfCoalesce(args []contract.Type) contract.Type {
	var t contract.Type
	for _, a := range args {
		t = contract.Union(t, a.NotNull())
		if a.Kinds&isNull == 0 {
			return t
		}
	}
	return t.Nullable()
}

// sameNull gives a type null where the argument may be.
func sameNull(t contract.Type) func(args []contract.Type) contract.Type {
	return func(args []contract.Type) contract.Type {
		out := t
		out.Kinds |= args[0].Kinds & isNull
		return out
	}
}

func typeOfInteger([]contract.Type) contract.Type {
	return contract.Type{Kinds: isNumber, Integer: true}
}

// typeOfNumbers is one of the arguments.
func typeOfNumbers(args []contract.Type) contract.Type {
	t := contract.Type{Kinds: isNumber, Integer: true}
	for _, a := range args {
		t.Integer = t.Integer && a.Integer
	}
	return t
}

func typeOfConcat(args []contract.Type) contract.Type {
	var elem contract.Type
	for _, a := range args {
		elem = contract.Union(elem, a.Element())
	}
	return contract.ListOf(elem)
}

func listOfStrings([]contract.Type) contract.Type { return contract.ListOf(contract.Of(isString)) }

func typeOfValues(args []contract.Type) contract.Type { return contract.ListOf(elementsOf(args[0])) }

// typeOfMerge has the attributes of all; the last with a name counts.
func typeOfMerge(args []contract.Type) contract.Type {
	out := contract.ObjectOf()
	for _, a := range args {
		out = merged(out, a)
	}
	return out
}

func merged(t, over contract.Type) contract.Type {
	out := contract.Type{Kinds: isObject, Rest: t.Rest}
	for _, f := range t.Fields {
		o := over.Field(f.Name)
		switch {
		case o == nil && over.Rest != nil: // it may be replaced
			f.Type = contract.Union(f.Type, *over.Rest)
		case o == nil:
		case o.Optional || over.Kinds&isNull != 0:
			f.Type = contract.Union(f.Type, o.Type)
			f.Type.Unsent = o.Type.Unsent
			f.Optional = f.Optional && o.Optional
			if !f.Optional {
				f.Type.Unsent = nil
			}
		default:
			f = *o
		}
		out.Fields = append(out.Fields, f)
	}
	for _, o := range over.Fields {
		if t.Field(o.Name) == nil {
			o.Optional = o.Optional || over.Kinds&isNull != 0
			out.Fields = append(out.Fields, o)
		}
	}
	if over.Rest != nil {
		rest := *over.Rest
		if out.Rest != nil {
			rest = contract.Union(rest, *out.Rest)
		}
		out.Rest = &rest
	}
	return out
}

// typeOfPick and typeOfOmit choose attributes by their names.
func typeOfPick(args []contract.Type) contract.Type { return chosen(args, true) }

func typeOfOmit(args []contract.Type) contract.Type { return chosen(args, false) }

func chosen(args []contract.Type, named bool) contract.Type {
	from := args[0].Only(isObject)
	out := contract.Type{Kinds: isObject, Rest: from.Rest}
	names := map[string]bool{}
	for _, a := range args[1:] {
		if len(a.Values) != 1 { // a name that is computed
			for _, f := range from.Fields {
				f.Optional = true
				out.Fields = append(out.Fields, f)
			}
			return out
		}
		names[a.Values[0]] = true
	}
	for _, f := range from.Fields {
		if names[f.Name] == named {
			out.Fields = append(out.Fields, f)
		}
	}
	return out
}

// sameList has the elements of its argument.
func sameList(args []contract.Type) contract.Type { return contract.ListOf(args[0].Element()) }
