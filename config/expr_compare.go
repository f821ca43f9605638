package config

import (
	"bytes"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// verdict is the outcome of a condition. With broken, the error is in the
// frame.
type verdict uint8

const (
	no verdict = iota
	yes
	broken
)

func verdictOf(b bool) verdict {
	if b {
		return yes
	}
	return no
}

// same compares two values of one kind that are not null.
func (f *frame) same(a, b value) bool {
	switch a.kind {
	case kindBool:
		return a.n == b.n
	case kindNumber:
		return compareNumber(a, b) == 0
	case kindString:
		return bytes.Equal(a.text, b.text)
	case kindJSON:
		return f.equalJSON(a.text, b.text)
	}
	return true
}

// equal compares null-safely. Values of different kinds are an error, because
// a number that is never equal to a string hides a mistake.
func (f *frame) equal(n binaryNode, a, b value) verdict {
	if a, b = f.known(a), f.known(b); a.kind == kindFailed || b.kind == kindFailed {
		return broken
	}
	if a.kind == kindNull || b.kind == kindNull {
		return verdictOf(a.kind == b.kind)
	}
	if ak, bk := a.kinds(), b.kinds(); ak != bk {
		f.fail(n.rng, describe(n.l)+" is "+ak.String()+" and "+describe(n.r)+" is "+bk.String()+"; make both the same with tonumber() or tostring()")
		return broken
	}
	return verdictOf(f.same(a, b))
}

// equality returns the condition l == r, or l != r. The forms that rules use
// most have closures of their own, which look at the column's bytes.
func (b *binder) equality(n binaryNode) condFn {
	if lit, ok := n.l.(litNode); ok { // the literal to the right
		if _, both := n.r.(litNode); !both {
			n.l, n.r = n.r, lit
		}
	}
	fn := b.equalFn(n)
	if n.op == opEqual {
		return fn
	}
	return func(f *frame) verdict {
		if v := fn(f); v != broken {
			return 1 - v
		}
		return broken
	}
}

func (b *binder) equalFn(n binaryNode) condFn {
	lit, isLit := n.r.(litNode)
	col, isCol := n.l.(columnNode)
	if isLit && lit.v.kind == kindNull {
		x := b.eval(n.l)
		return func(f *frame) verdict {
			v := f.known(x(f))
			if v.kind == kindFailed {
				return broken
			}
			return verdictOf(v.kind == kindNull)
		}
	}
	if isCol {
		i, s := b.column(col), col.side
		kind := b.kind(i)
		if isLit {
			switch {
			case kind == pgvalue.Text && lit.v.kind == kindString:
				return b.textIs(s, i, string(lit.v.text))
			case kind == pgvalue.Bool && lit.v.kind == kindBool:
				return b.textIs(s, i, map[int64]string{0: "f", 1: "t"}[lit.v.n])
			case kind == pgvalue.Number && lit.v.kind == kindNumber:
				return b.numberIs(n, s, i, lit.v)
			}
		}
		if other, ok := n.r.(columnNode); ok && kind == pgvalue.Text {
			if j := b.column(other); b.kind(j) == pgvalue.Text {
				return b.textsAre(s, i, other.side, j)
			}
		}
	}
	if isLit {
		l, r := b.eval(n.l), lit.v
		return func(f *frame) verdict { return f.equal(n, l(f), r) }
	}
	l, r := b.eval(n.l), b.eval(n.r)
	return func(f *frame) verdict {
		x := l(f)
		if x.kind == kindFailed {
			return broken
		}
		return f.equal(n, x, r(f))
	}
}

func (b *binder) textIs(s side, i int, want string) condFn {
	return func(f *frame) verdict {
		v := &f.rows[s][i]
		if v.State == relay.Unknown {
			v = f.load(s, i)
		}
		switch v.State {
		case relay.Known:
			return verdictOf(string(v.Text) == want)
		case relay.Null:
			return no
		}
		f.known(f.absent(v, s, i))
		return broken
	}
}

func (b *binder) numberIs(n binaryNode, s side, i int, want value) condFn {
	column := b.eval(n.l)
	return func(f *frame) verdict {
		if v := &f.rows[s][i]; v.State == relay.Known && want.text == nil {
			return verdictOf(pgvalue.CompareNumberToInt(v.Text, want.n) == 0)
		}
		return f.equal(n, column(f), want)
	}
}

func (b *binder) textsAre(s side, i int, t side, j int) condFn {
	return func(f *frame) verdict {
		x, y := f.load(s, i), f.load(t, j)
		switch {
		case x.State == relay.Unknown:
			f.known(f.absent(x, s, i))
			return broken
		case y.State == relay.Unknown:
			f.known(f.absent(y, t, j))
			return broken
		}
		return verdictOf(x.State == y.State && bytes.Equal(x.Text, y.Text))
	}
}

// changed returns whether a column's value differs from before. An unchanged
// TOAST column has not changed, whatever is known of its old value.
func (b *binder) changed(n changedNode) condFn {
	i := b.column(columnNode{n.at, sideNew, n.name})
	l, r := b.eval(columnNode{n.at, sideNew, n.name}), b.eval(columnNode{n.at, sideOld, n.name})
	equal := binaryNode{n.at, opEqual, columnNode{n.at, sideNew, n.name}, columnNode{n.at, sideOld, n.name}}
	return func(f *frame) verdict {
		x, y := &f.rows[sideNew][i], &f.rows[sideOld][i]
		if x.State == relay.Unknown {
			return no
		}
		if x.State == y.State && y.State != relay.Unknown && bytes.Equal(x.Text, y.Text) {
			return no
		}
		v := f.equal(equal, l(f), r(f))
		if v == broken {
			return v
		}
		return 1 - v
	}
}

// order returns l < r and its kin.
func (b *binder) order(n binaryNode) condFn {
	l, r := b.eval(n.l), b.eval(n.r)
	var less, same, greater verdict
	switch n.op {
	case opLess:
		less = yes
	case opLessEqual:
		less, same = yes, yes
	case opGreater:
		greater = yes
	case opGreaterEqual:
		greater, same = yes, yes
	}
	if lit, ok := n.r.(litNode); ok && lit.v.kind == kindNumber && lit.v.text == nil {
		limit, outcome := lit.v.n, [3]verdict{less, same, greater}
		if col, ok := n.l.(columnNode); ok {
			if i := b.column(col); b.kind(i) == pgvalue.Number {
				s := col.side
				return func(f *frame) verdict {
					if v := &f.rows[s][i]; v.State == relay.Known {
						return outcome[1+pgvalue.CompareNumberToInt(v.Text, limit)]
					}
					x := l(f)
					if x.kind != kindNumber && f.operand(n, n.l, x, isNumber) {
						return broken
					}
					return outcome[1+compareNumber(x, lit.v)]
				}
			}
		}
	}
	return func(f *frame) verdict {
		x := l(f)
		if x.kind != kindNumber && f.operand(n, n.l, x, isNumber) {
			return broken
		}
		y := r(f)
		if y.kind != kindNumber && f.operand(n, n.r, y, isNumber) {
			return broken
		}
		return [3]verdict{less, same, greater}[1+compareNumber(x, y)]
	}
}

// operand says why a value is not what an operator needs. It always returns
// true.
func (f *frame) operand(op binaryNode, n node, v value, want kinds) bool {
	f.wrong(op.op.String(), n, op.rng, v, want)
	return true
}

// wrong makes the error of a value that is not of a wanted kind.
func (f *frame) wrong(who string, n node, rng hcl.Range, v value, want kinds) value {
	if v = f.known(v); v.kind == kindFailed {
		return failed
	}
	name := describe(n)
	if v.kind == kindNull {
		return f.fail(rng, name+" is null, and "+who+" needs "+want.String()+"; guard it, as in "+name+" != null && ..., or give a value with coalesce("+name+", ...)")
	}
	return f.fail(rng, who+" needs "+want.String()+", and "+name+" is "+v.kinds().String()+conversion(v.kinds(), want))
}
