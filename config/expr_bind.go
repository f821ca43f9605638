package config

import (
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// A rule is compiled once for each relation it meets, to closures that know
// the places and the types of the columns. An expression has up to three
// forms: evalFn gives a value, condFn a verdict without a value between, and
// emitFn appends JSON without making anything else.
type (
	evalFn func(*frame) value
	condFn func(*frame) verdict
	emitFn func(*frame, []byte) []byte
)

type binder struct {
	rel *relay.Relation // nil for notifications and messages
	src string
	err error // the first column the relation lacks
}

// column returns the place of a column.
func (b *binder) column(n columnNode) int {
	if b.rel != nil {
		if i := b.rel.Column(n.name); i >= 0 {
			return i
		}
	}
	if b.err == nil {
		missing := &relay.MissingColumnError{Column: n.name, At: n.rng.String()}
		if b.rel != nil {
			missing.Table = b.rel.Table()
		}
		b.err = missing
	}
	return -1
}

func (b *binder) kind(i int) pgvalue.Kind {
	if i < 0 {
		return pgvalue.Text
	}
	return pgvalue.KindOf(b.rel.Columns[i].TypeOID, b.rel.Types)
}

// eval returns the closure that gives the value of an expression.
func (b *binder) eval(n node) evalFn {
	switch n := n.(type) {
	case litNode:
		v := n.v
		return func(*frame) value { return v }
	case columnNode:
		return b.evalColumn(n)
	case factNode:
		return b.evalFact(n)
	case varNode:
		slot := n.slot
		return func(f *frame) value { return f.vars[slot] }
	case pathNode:
		base := b.eval(n.base)
		return func(f *frame) value {
			tok, v := f.tokenAt(n, base(f))
			if tok == nil {
				return v
			}
			return f.fromToken(tok)
		}
	case indexNode:
		return b.evalIndex(n)
	case templateNode:
		return b.evalTemplate(n)
	case negateNode:
		x := b.eval(n.x)
		return func(f *frame) value {
			v := x(f)
			if v.kind != kindNumber {
				return f.wrong("-", n.x, n.rng, v, isNumber)
			}
			return negate(v)
		}
	case binaryNode:
		if n.op >= opAdd {
			return b.evalArithmetic(n)
		}
		return b.evalCond(n)
	case notNode, changedNode:
		return b.evalCond(n)
	case conditionalNode:
		cond, yesFn, noFn := b.cond(n.cond, "The condition before ?"), b.eval(n.yes), b.eval(n.no)
		return func(f *frame) value {
			switch cond(f) {
			case yes:
				return yesFn(f)
			case no:
				return noFn(f)
			}
			return failed
		}
	case callNode:
		return b.evalCall(n)
	case rowNode, objectNode, tupleNode, forNode:
		return b.made(b.emit(n))
	}
	return func(f *frame) value { return f.fail(n.where(), "this expression has a mistake") }
}

// made returns the closure that keeps what an emit closure prints, as a value.
// The value is decided on, so an unknown column in it is an error.
func (b *binder) made(emit emitFn) evalFn {
	return func(f *frame) value {
		f.strict++
		printer := f.printer
		f.printer = pgvalue.Printer{}
		buf := emit(f, f.take())
		f.printer = printer
		f.strict--
		if f.err != nil {
			f.give(buf)
			return failed
		}
		return f.madeJSON(buf)
	}
}

func (b *binder) evalCond(n node) evalFn {
	cond := b.cond(n, "")
	return func(f *frame) value {
		switch cond(f) {
		case yes:
			return boolValue(true)
		case no:
			return boolValue(false)
		}
		return failed
	}
}

func (b *binder) evalColumn(n columnNode) evalFn {
	i, s := b.column(n), n.side
	switch b.kind(i) {
	case pgvalue.Bool:
		return func(f *frame) value {
			v := &f.rows[s][i]
			if v.State != relay.Known {
				if v = f.load(s, i); v.State != relay.Known {
					return f.absent(v, s, i)
				}
			}
			return boolValue(len(v.Text) == 1 && v.Text[0] == 't')
		}
	case pgvalue.Number:
		return func(f *frame) value {
			v := &f.rows[s][i]
			if v.State != relay.Known {
				if v = f.load(s, i); v.State != relay.Known {
					return f.absent(v, s, i)
				}
			}
			return value{kind: kindNumber, text: v.Text}
		}
	case pgvalue.JSON:
		return func(f *frame) value {
			v := &f.rows[s][i]
			if v.State != relay.Known {
				if v = f.load(s, i); v.State != relay.Known {
					return f.absent(v, s, i)
				}
			}
			return f.fromJSON(v.Text)
		}
	case pgvalue.Text:
		return func(f *frame) value {
			v := &f.rows[s][i]
			if v.State != relay.Known {
				if v = f.load(s, i); v.State != relay.Known {
					return f.absent(v, s, i)
				}
			}
			return stringValue(v.Text)
		}
	}
	oid, types := b.rel.Columns[i].TypeOID, b.rel.Types
	return func(f *frame) value {
		v := &f.rows[s][i]
		if v.State != relay.Known {
			if v = f.load(s, i); v.State != relay.Known {
				return f.absent(v, s, i)
			}
		}
		start := len(f.scratch)
		f.scratch = pgvalue.AppendJSON(f.scratch, oid, v.Text, types)
		return f.fromToken(f.scratch[start:len(f.scratch):len(f.scratch)])
	}
}

// commitTimeFormat is RFC 3339 with the microseconds that PostgreSQL has.
const commitTimeFormat = "2006-01-02T15:04:05.000000Z07:00"

func (b *binder) evalFact(n factNode) evalFn {
	switch n.fact {
	case factOp:
		return func(f *frame) value { return stringValue(f.keepString(f.change.Op.String())) }
	case factTable:
		name := ""
		if b.rel != nil {
			name = b.rel.Table().String()
		}
		v := stringValue([]byte(name))
		return func(*frame) value { return v }
	case factSource:
		v := stringValue([]byte(b.src))
		return func(*frame) value { return v }
	case factPayload:
		return func(f *frame) value { return f.readPayload(n) }
	}
	return func(f *frame) value {
		tx := f.change.Tx
		if tx == nil {
			return value{}
		}
		switch n.fact {
		case factXID:
			return intValue(int64(tx.XID))
		case factLSN:
			return stringValue(f.keepString(tx.CommitLSN.String()))
		case factCommitTime:
			start := len(f.scratch)
			f.scratch = time.UnixMicro(tx.CommitTime).UTC().AppendFormat(f.scratch, commitTimeFormat)
			return stringValue(f.scratch[start:len(f.scratch):len(f.scratch)])
		}
		if len(tx.Context) == 0 {
			return value{}
		}
		return f.fromJSON(tx.Context)
	}
}

// readPayload reads the payload once a change. An empty one, as NOTIFY without
// a payload sends it, is null.
func (f *frame) readPayload(n factNode) value {
	if f.payloadRead {
		return f.payload
	}
	p := f.change.Payload
	switch {
	case f.prog.payloadText:
		f.payload = stringValue(p)
	case len(p) == 0:
		f.payload = value{}
	case !pgvalue.ValidJSON(p):
		return f.fail(n.rng, `the payload is not JSON; if it is meant to be text, set payload_format = "text"`)
	default:
		f.payload = f.fromJSON(p)
	}
	f.payloadRead = true
	return f.payload
}

// tokenAt follows a path from a value. Without a token it returns what the
// expression is: null, unknown or failed.
func (f *frame) tokenAt(n pathNode, v value) ([]byte, value) {
	switch v.kind {
	case kindJSON:
		tok, ok := f.walk(n, v.text)
		if !ok {
			return nil, failed
		}
		return tok, value{}
	case kindNull, kindUnknown, kindFailed:
		return nil, v
	}
	return nil, f.fail(n.rng, describe(n.base)+" is "+v.kinds().String()+" and has no attributes; guard it with try()")
}

func (b *binder) evalIndex(n indexNode) evalFn {
	base, key := b.eval(n.base), b.eval(n.key)
	return func(f *frame) value {
		v, k := base(f), f.known(key(f))
		if v.kind == kindNull || v.kind == kindUnknown || v.kind == kindFailed {
			return v
		}
		step, ok := literalStep(k)
		if !ok {
			return f.wrong("an index", n.key, n.rng, k, isString|isNumber)
		}
		if v.kind == kindJSON && v.text[0] == '{' && step.isIndex {
			step = pathStep{name: string(k.appendText(nil))}
		}
		tok, v := f.tokenAt(pathNode{n.at, n.base, []pathStep{step}}, v)
		if tok == nil {
			return v
		}
		return f.fromToken(tok)
	}
}

func (b *binder) evalTemplate(n templateNode) evalFn {
	parts := make([]evalFn, len(n.parts))
	for i, p := range n.parts {
		parts[i] = b.eval(p)
	}
	return func(f *frame) value {
		buf := f.take()
		for i, p := range parts {
			v := p(f)
			if v.kinds()&isScalar == 0 {
				f.give(buf)
				return f.wrong("a template", n.parts[i], n.rng, v, isScalar)
			}
			buf = v.appendText(buf)
		}
		v := stringValue(f.keep(buf))
		f.give(buf)
		return v
	}
}

func (b *binder) evalArithmetic(n binaryNode) evalFn {
	l, r := b.eval(n.l), b.eval(n.r)
	return func(f *frame) value {
		x := l(f)
		if x.kind != kindNumber {
			return f.wrong(n.op.String(), n.l, n.rng, x, isNumber)
		}
		y := r(f)
		if y.kind != kindNumber {
			return f.wrong(n.op.String(), n.r, n.rng, y, isNumber)
		}
		v := arithmetic(n.op, x, y)
		if v.kind != kindFailed {
			return v
		}
		if n.op >= opDivide && compareNumber(y, intValue(0)) == 0 {
			return f.fail(n.rng, "division by zero; guard it, as in "+describe(n.r)+" != 0 ? ... : null")
		}
		return f.fail(n.rng, n.op.String()+" cannot compute with NaN, an infinity or a number of that size")
	}
}

func (b *binder) evalCall(n callNode) evalFn {
	args := make([]evalFn, len(n.args))
	for i, a := range n.args {
		args[i] = b.eval(a)
	}
	switch n.fn.name {
	case "merge", "pick", "omit":
		return b.made(b.emit(n))
	case "try":
		return func(f *frame) value {
			for i, a := range args {
				v := a(f)
				if v.kind != kindFailed || f.err.unknown || i == len(args)-1 {
					return v
				}
				f.err = nil
			}
			return failed
		}
	case "can":
		return func(f *frame) value {
			v := f.known(args[0](f))
			if v.kind != kindFailed {
				return boolValue(true)
			}
			if f.err.unknown {
				return failed
			}
			f.err = nil
			return boolValue(false)
		}
	}
	return func(f *frame) value {
		base := len(f.stack)
		for i, a := range args {
			v := a(f)
			if p := n.fn.param(i); v.kinds()&p.kinds == 0 {
				clear(f.stack[base:])
				f.stack = f.stack[:base]
				return f.wrong(n.fn.name+"()", n.args[i], n.rng, v, p.kinds&^isNull)
			}
			f.stack = append(f.stack, v)
		}
		v := n.fn.run(f, &n, f.stack[base:])
		f.stack = f.stack[:base]
		return v
	}
}

// cond returns the closure that judges a condition. who is named in the error
// of a value that is no bool.
func (b *binder) cond(n node, who string) condFn {
	switch n := n.(type) {
	case binaryNode:
		switch n.op {
		case opAnd, opOr:
			return b.logic(n)
		case opEqual, opNotEqual:
			return b.equality(n)
		case opLess, opLessEqual, opGreater, opGreaterEqual:
			return b.order(n)
		}
	case notNode:
		x := b.cond(n.x, "!")
		return func(f *frame) verdict {
			if v := x(f); v != broken {
				return 1 - v
			}
			return broken
		}
	case changedNode:
		return b.changed(n)
	}
	x := b.eval(n)
	return func(f *frame) verdict {
		v := x(f)
		if v.kind != kindBool {
			f.wrong(who, n, n.where(), v, isBool)
			return broken
		}
		return verdict(v.n)
	}
}

// logic returns a chain of && or of ||. It stops at the first operand that
// decides. As in HCL, the operators are symmetrical: an operand to the right
// that decides makes an error to its left irrelevant, and so an unknown column
// that does not matter is no error.
func (b *binder) logic(n binaryNode) condFn {
	var chain []condFn
	var add func(x node)
	add = func(x node) {
		if inner, ok := x.(binaryNode); ok && inner.op == n.op {
			add(inner.l)
			add(inner.r)
			return
		}
		chain = append(chain, b.cond(x, n.op.String()))
	}
	add(n)
	decides := no
	if n.op == opOr {
		decides = yes
	}
	return func(f *frame) verdict {
		var err *evalError
		for _, cond := range chain {
			switch cond(f) {
			case decides:
				return decides
			case broken:
				if err == nil {
					err = f.err
				}
				f.err = nil
			}
		}
		if err != nil {
			f.err = err
			return broken
		}
		return 1 - decides
	}
}
