package config

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// node is an expression after names are resolved. There are a dozen kinds, and
// two walks over them: checker.kinds, which judges, and binder, which makes
// closures.
type node interface{ where() hcl.Range }

type at struct{ rng hcl.Range }

func (a at) where() hcl.Range { return a.rng }

// side is which row a column is read from.
type side uint8

const (
	sideNew side = iota
	sideOld
	sideRow
	sideChanged // of exprUse only
)

func (s side) String() string { return [...]string{"new", "old", "row", "changed"}[s] }

type fact uint8

const (
	factOp fact = iota
	factTable
	factSource
	factXID
	factLSN
	factCommitTime
	factContext
	factPayload
)

type (
	// badNode stands where a diagnostic was reported.
	badNode struct{ at }
	litNode struct {
		at
		v      value
		secret bool // of env() or file(): nothing may print it
	}
	rowNode struct {
		at
		side side
	}
	columnNode struct {
		at
		side side
		name string
	}
	changedNode struct {
		at
		name string
	}
	factNode struct {
		at
		fact fact
		name string
	}
	// varNode is a variable of a for expression.
	varNode struct {
		at
		slot int
		name string
	}
	// pathNode goes into a JSON value.
	pathNode struct {
		at
		base  node
		steps []pathStep
	}
	// indexNode goes into a JSON value by a key that is computed.
	indexNode struct {
		at
		base, key node
	}
	templateNode struct {
		at
		parts []node
	}
	binaryNode struct {
		at
		op   binaryOp
		l, r node
	}
	notNode struct {
		at
		x node
	}
	negateNode struct {
		at
		x node
	}
	conditionalNode struct {
		at
		cond, yes, no node
	}
	callNode struct {
		at
		fn   *exprFunc
		args []node
		re   *regexp.Regexp // of the functions whose first argument is a pattern
	}
	objectNode struct {
		at
		items []objectItem
	}
	tupleNode struct {
		at
		items []node
	}
	forNode struct {
		at
		coll             node
		keySlot, valSlot int // keySlot -1: not named
		key              node
		val, cond        node // key nil: a tuple
		splat            bool
	}
)

// objectItem is an attribute of an object constructor; key is nil when the
// name is known.
type objectItem struct {
	name string
	key  node
	val  node
}

// pathStep is .name or ["name"], or [index] when name is empty and isIndex.
type pathStep struct {
	name    string
	index   int
	isIndex bool
}

type binaryOp uint8

const (
	opAnd binaryOp = iota
	opOr
	opEqual
	opNotEqual
	opLess
	opLessEqual
	opGreater
	opGreaterEqual
	opAdd
	opSubtract
	opMultiply
	opDivide
	opModulo
)

var opSymbols = [...]string{"&&", "||", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%"}

func (o binaryOp) String() string { return opSymbols[o] }

// describe names an expression in a message to its author.
func describe(n node) string {
	switch n := n.(type) {
	case litNode:
		if n.secret {
			return "the secret"
		}
		switch n.v.kind {
		case kindNull:
			return "null"
		case kindString:
			return strconv.Quote(string(n.v.text))
		case kindNumber, kindBool:
			return string(n.v.appendText(nil))
		}
	case rowNode:
		return n.side.String()
	case columnNode:
		return n.side.String() + "." + n.name
	case changedNode:
		return "changed." + n.name
	case factNode:
		return n.name
	case varNode:
		return n.name
	case callNode:
		return n.fn.name + "(...)"
	case pathNode:
		var b strings.Builder
		b.WriteString(describe(n.base))
		for _, s := range n.steps {
			switch {
			case s.isIndex:
				b.WriteString("[" + strconv.Itoa(s.index) + "]")
			default:
				b.WriteString("." + s.name)
			}
		}
		return b.String()
	case templateNode:
		return "the template"
	case objectNode:
		return "the object"
	case tupleNode:
		return "the list"
	}
	return "the value"
}

// each calls fn with an expression and everything in it.
func each(n node, fn func(node)) {
	if n == nil {
		return
	}
	fn(n)
	for _, x := range children(n) {
		each(x, fn)
	}
}

// children are the expressions an expression is made of; some may be nil.
func children(n node) []node {
	switch n := n.(type) {
	case pathNode:
		return []node{n.base}
	case indexNode:
		return []node{n.base, n.key}
	case templateNode:
		return n.parts
	case binaryNode:
		return []node{n.l, n.r}
	case notNode:
		return []node{n.x}
	case negateNode:
		return []node{n.x}
	case conditionalNode:
		return []node{n.cond, n.yes, n.no}
	case callNode:
		return n.args
	case objectNode:
		var list []node
		for _, it := range n.items {
			list = append(list, it.key, it.val)
		}
		return list
	case tupleNode:
		return n.items
	case forNode:
		return []node{n.coll, n.key, n.val, n.cond}
	}
	return nil
}
