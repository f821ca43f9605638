package config

import (
	"slices"
	"strconv"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay"
)

// env is what is known at a place of an expression, because the place is
// reached only where it holds: which operations are possible, and what a
// condition says of a name. It is a list that grows at its head and is
// immutable, so that a place is told by its pointer.
type env struct {
	ops    relay.Ops
	key    string // of the name the type is about; "" where only ops changed
	typ    contract.Type
	parent *env
}

// fact returns what is known of a name, and whether anything is.
func (e *env) fact(key string) (contract.Type, bool) {
	for ; e != nil && key != ""; e = e.parent {
		if e.key == key {
			return e.typ, true
		}
	}
	return contract.Type{}, false
}

func (e *env) with(key string, t contract.Type) *env { return &env{e.ops, key, t, e} }

func (e *env) withOps(ops relay.Ops) *env { return &env{ops: ops, parent: e} }

// join returns what is known where either of two descendants of e holds.
func (e *env) join(a, b *env) *env {
	joined := e
	if ops := a.ops | b.ops; ops != e.ops {
		joined = joined.withOps(ops)
	}
	seen := map[string]bool{}
	for x := a; x != e && x != nil; x = x.parent {
		if x.key == "" || seen[x.key] {
			continue
		}
		seen[x.key] = true
		if t, ok := b.factSince(e, x.key); ok {
			joined = joined.with(x.key, contract.Union(x.typ, t))
		}
	}
	return joined
}

// factSince is fact for what was learnt after e.
func (e *env) factSince(since *env, key string) (contract.Type, bool) {
	for ; e != nil && e != since; e = e.parent {
		if e.key == key {
			return e.typ, true
		}
	}
	return contract.Type{}, false
}

// keyOf names what a condition can say something of; "" is nothing.
func keyOf(n node) string {
	switch n := n.(type) {
	case columnNode:
		return n.side.String() + " " + n.name
	case factNode:
		return n.name
	case varNode:
		return "var " + strconv.Itoa(n.slot)
	case pathNode:
		key := keyOf(n.base)
		if key == "" {
			return ""
		}
		for _, s := range n.steps {
			if s.isIndex {
				key += " [" + strconv.Itoa(s.index) + "]"
			} else {
				key += " ." + s.name
			}
		}
		return key
	}
	return ""
}

// assumption says how a condition is known.
type assumption uint8

const (
	// evaluated: without an error.
	evaluated assumption = iota
	// besideAnd and besideOr are other operands of && and ||, which look at all
	// before they give up: an error is possible too. Beside ||, what the others say
	// of values is left alone: an operand that adds nothing to them is no mistake.
	besideAnd
	besideOr
)

// assume returns what is known where a condition is want.
func (c *checker) assume(e *env, n node, want bool, how assumption) *env {
	switch n := n.(type) {
	case notNode:
		return c.assume(e, n.x, !want, how)
	case binaryNode:
		switch n.op {
		case opAnd, opOr:
			if want == (n.op == opAnd) {
				return c.assume(c.assume(e, n.l, want, how), n.r, want, how)
			}
			return e.join(c.assume(e, n.l, want, how), c.assume(e, n.r, want, how))
		case opEqual, opNotEqual:
			return c.assumeEqual(e, n, want == (n.op == opEqual), how)
		default:
			if how == evaluated {
				return c.assumeNotNull(c.assumeNotNull(e, n.l), n.r)
			}
		}
	case callNode:
		if want && n.fn.name == "contains" && how != besideOr {
			e = c.assumeListed(e, n)
		}
		if how == evaluated && !n.fn.lazy {
			for i, a := range n.args {
				if n.fn.param(i).kinds&isNull == 0 {
					e = c.assumeNotNull(e, a)
				}
			}
		}
	case columnNode, pathNode, varNode:
		if how == evaluated {
			return c.assumeNotNull(e, n)
		}
	}
	return e
}

func (c *checker) assumeNotNull(e *env, n node) *env {
	if key := keyOf(n); key != "" {
		if t := c.quiet(n, e); t.Kinds&isNull != 0 && t.Kinds != isNull {
			return e.with(key, t.NotNull())
		}
	}
	return e
}

func (c *checker) assumeEqual(e *env, n binaryNode, equal bool, how assumption) *env {
	l, r := n.l, n.r
	if _, ok := l.(litNode); ok {
		l, r = r, l
	}
	lit, isLit := r.(litNode)
	switch {
	case !isLit && !equal:
		return e
	case !isLit:
		if c.quiet(l, e).Kinds&isNull == 0 {
			e = c.assumeNotNull(e, r)
		}
		if c.quiet(r, e).Kinds&isNull == 0 {
			e = c.assumeNotNull(e, l)
		}
		return e
	case lit.v.kind == kindNull && !equal:
		return c.assumeNotNull(e, l)
	}
	if f, ok := l.(factNode); ok && f.fact == factOp && lit.v.kind == kindString {
		op := relay.OpsOf(operations[string(lit.v.text)])
		if !equal {
			op = e.ops &^ op
		}
		return e.withOps(e.ops & op)
	}
	key, t := keyOf(l), c.quiet(l, e)
	switch {
	case key == "":
		return e
	case how == besideOr && equal:
		return c.assumeNotNull(e, l)
	case how == besideOr:
		return e
	}
	is := literalType(lit.v)
	switch {
	case equal && contract.Overlap(t, is):
		is.Unsent = t.Unsent
		return e.with(key, is)
	case !equal && t.Values != nil && len(is.Values) == 1 && len(t.Values) > 1:
		t.Values = slices.DeleteFunc(slices.Clone(t.Values), func(v string) bool { return v == is.Values[0] })
		return e.with(key, t)
	}
	return e
}

// assumeListed is for contains(["a", "b"], x).
func (c *checker) assumeListed(e *env, n callNode) *env {
	list, ok := n.args[0].(tupleNode)
	if !ok {
		return e
	}
	var listed contract.Type
	var ops relay.Ops
	for _, it := range list.items {
		lit, ok := it.(litNode)
		if !ok {
			return e
		}
		listed = contract.Union(listed, literalType(lit.v))
		ops |= relay.OpsOf(operations[string(lit.v.text)])
	}
	if f, ok := n.args[1].(factNode); ok && f.fact == factOp {
		return e.withOps(e.ops & ops)
	}
	if key := keyOf(n.args[1]); key != "" && len(list.items) > 0 {
		listed.Unsent = c.quiet(n.args[1], e).Unsent
		return e.with(key, listed)
	}
	return e
}
