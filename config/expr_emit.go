package config

import (
	"slices"
	"strconv"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// emit returns the closure that appends an expression as JSON. After an error
// (f.err) what was appended is of no use. An unknown value appends nothing and
// sets f.omit, except in strict mode.
func (b *binder) emit(n node) emitFn {
	switch n := n.(type) {
	case litNode:
		plain := (&frame{}).appendValue(nil, n.v, pgvalue.Printer{})
		quoted := (&frame{}).appendValue(nil, n.v, pgvalue.Printer{NumbersAsString: true})
		return func(f *frame, dst []byte) []byte {
			if f.printer.NumbersAsString {
				return append(dst, quoted...)
			}
			return append(dst, plain...)
		}
	case columnNode:
		return b.emitColumn(n)
	case rowNode:
		return b.emitRow(n)
	case pathNode:
		base := b.eval(n.base)
		return func(f *frame, dst []byte) []byte {
			tok, v := f.tokenAt(n, base(f))
			if tok == nil {
				return f.appendOrOmit(dst, v)
			}
			return f.appendToken(dst, tok)
		}
	case conditionalNode:
		cond, yesFn, noFn := b.cond(n.cond, "The condition before ?"), b.emit(n.yes), b.emit(n.no)
		return func(f *frame, dst []byte) []byte {
			switch cond(f) {
			case yes:
				return yesFn(f, dst)
			case no:
				return noFn(f, dst)
			}
			return dst
		}
	case callNode:
		switch n.fn.name {
		case "merge":
			return b.emitMerge(n)
		case "pick", "omit":
			return b.emitChosen(n)
		}
	case objectNode:
		return b.emitObject(n)
	case tupleNode:
		return b.emitTuple(n)
	case forNode:
		return b.emitFor(n)
	}
	x := b.eval(n)
	return func(f *frame, dst []byte) []byte { return f.appendOrOmit(dst, x(f)) }
}

// appendValue appends a value as JSON.
func (f *frame) appendValue(dst []byte, v value, p pgvalue.Printer) []byte {
	switch v.kind {
	case kindBool:
		return strconv.AppendBool(dst, v.n != 0)
	case kindNumber:
		if v.text != nil {
			return p.AppendNumber(dst, v.text)
		}
		if p.NumbersAsString {
			return append(strconv.AppendInt(append(dst, '"'), v.n, 10), '"')
		}
		return strconv.AppendInt(dst, v.n, 10)
	case kindString:
		return pgvalue.AppendString(dst, v.text)
	case kindJSON:
		if !pgvalue.ValidJSON(v.text) {
			return pgvalue.AppendString(dst, v.text)
		}
		return append(dst, v.text...)
	}
	return append(dst, "null"...)
}

func (f *frame) appendOrOmit(dst []byte, v value) []byte {
	switch v.kind {
	case kindFailed:
		return dst
	case kindUnknown:
		if f.strict > 0 {
			f.known(v)
			return dst
		}
		f.omit = true
		if name := f.prog.rel.Columns[v.n].Name; !slices.Contains(f.unchanged, name) {
			f.unchanged = append(f.unchanged, name)
		}
		return dst
	}
	return f.appendValue(dst, v, f.printer)
}

// appendToken appends a part of a document as it stands there.
func (f *frame) appendToken(dst, tok []byte) []byte {
	if c := tok[0]; f.printer.NumbersAsString && (c == '-' || c >= '0' && c <= '9') {
		dst = append(dst, '"')
		dst = append(dst, tok...)
		return append(dst, '"')
	}
	if !pgvalue.ValidJSON(tok) {
		return pgvalue.AppendString(dst, tok)
	}
	return append(dst, tok...)
}

func (b *binder) emitColumn(n columnNode) emitFn {
	i, s := b.column(n), n.side
	if i < 0 {
		return func(_ *frame, dst []byte) []byte { return dst }
	}
	kind, oid, types := b.kind(i), b.rel.Columns[i].TypeOID, b.rel.Types
	return func(f *frame, dst []byte) []byte {
		v := &f.rows[s][i]
		if v.State != relay.Known {
			if v = f.load(s, i); v.State != relay.Known {
				return f.appendOrOmit(dst, f.absent(v, s, i))
			}
		}
		switch kind {
		case pgvalue.Text:
			return pgvalue.AppendString(dst, v.Text)
		case pgvalue.Array, pgvalue.Vector, pgvalue.Composite:
			return f.printer.AppendJSON(dst, oid, v.Text, types)
		}
		return f.printer.AppendKind(dst, kind, v.Text)
	}
}

// emitRow prints a whole row in the order of its columns. What is unknown is
// left out: of a new row the columns that did not change are listed; of an old
// one those outside the replica identity are not, because nothing is said of
// them.
func (b *binder) emitRow(n rowNode) emitFn {
	if b.rel == nil {
		return func(_ *frame, dst []byte) []byte { return append(dst, "null"...) }
	}
	type column struct {
		name []byte
		kind pgvalue.Kind
		oid  uint32
	}
	cols := make([]column, len(b.rel.Columns))
	for i, c := range b.rel.Columns {
		cols[i] = column{appendName(nil, c.Name), b.kind(i), c.TypeOID}
	}
	types, s := b.rel.Types, n.side
	return func(f *frame, dst []byte) []byte {
		dst = append(dst, '{')
		start := len(dst)
		for i := range cols {
			v := f.load(s, i)
			if v.State == relay.Unknown {
				if s == sideOld || s == sideRow && f.rowIsOld {
					continue
				}
				if f.appendOrOmit(dst, value{kind: kindUnknown, n: int64(i)}); f.err != nil {
					return dst
				}
				f.omit = false
				continue
			}
			if len(dst) > start {
				dst = append(dst, ',')
			}
			dst = append(dst, cols[i].name...)
			switch {
			case v.State == relay.Null:
				dst = append(dst, "null"...)
			case cols[i].kind == pgvalue.Text:
				dst = pgvalue.AppendString(dst, v.Text)
			default:
				dst = f.printer.AppendJSON(dst, cols[i].oid, v.Text, types)
			}
		}
		return append(dst, '}')
	}
}

func (b *binder) emitObject(n objectNode) emitFn {
	type item struct {
		name []byte // with quotes and colon
		key  evalFn // nil when the name is known
		at   node
		emit emitFn
	}
	items := make([]item, len(n.items))
	dynamic := false
	for i, it := range n.items {
		items[i] = item{name: appendName(nil, it.name), at: it.key, emit: b.emit(it.val)}
		if it.key != nil {
			items[i].key = b.eval(it.key)
			dynamic = true
		}
	}
	object := func(f *frame, dst []byte) []byte {
		dst = append(dst, '{')
		start := len(dst)
		for i := range items {
			mark := len(dst)
			if mark > start {
				dst = append(dst, ',')
			}
			if it := &items[i]; it.key == nil {
				dst = append(dst, it.name...)
			} else {
				k := it.key(f)
				if k.kinds()&isScalar == 0 {
					f.wrong("the name of an attribute", it.at, it.at.where(), k, isString)
					return dst
				}
				buf := k.appendText(f.take())
				dst = append(pgvalue.AppendString(dst, buf), ':')
				f.give(buf)
			}
			if dst = items[i].emit(f, dst); f.err != nil {
				return dst
			}
			if f.omit {
				f.omit = false
				dst = dst[:mark]
			}
		}
		return append(dst, '}')
	}
	if !dynamic {
		return object
	}
	return func(f *frame, dst []byte) []byte { // computed names may repeat
		buf := object(f, f.take())
		if f.err == nil {
			dst = appendMerged(dst, [][]byte{buf})
		}
		f.give(buf)
		return dst
	}
}

// element runs an emit closure where nothing can be left out.
func (f *frame) element(emit emitFn, dst []byte) []byte {
	f.strict++
	dst = emit(f, dst)
	f.strict--
	return dst
}

func (b *binder) emitTuple(n tupleNode) emitFn {
	items := make([]emitFn, len(n.items))
	for i, it := range n.items {
		items[i] = b.emit(it)
	}
	return func(f *frame, dst []byte) []byte {
		dst = append(dst, '[')
		for i, emit := range items {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst = f.element(emit, dst); f.err != nil {
				return dst
			}
		}
		return append(dst, ']')
	}
}

// emitMerge prints the arguments into buffers and goes through their members.
// Nothing of them is decided on, so an unknown column of a row stays left out,
// and one that another argument supplies is not unchanged.
func (b *binder) emitMerge(n callNode) emitFn {
	args := make([]emitFn, len(n.args))
	for i, a := range n.args {
		args[i] = b.emit(a)
	}
	return func(f *frame, dst []byte) []byte {
		mark := len(f.unchanged)
		objects := make([][]byte, 0, 4)
		defer func() {
			for _, o := range objects {
				f.give(o)
			}
		}()
		for i, emit := range args {
			buf := emit(f, f.take())
			objects = append(objects, buf)
			switch {
			case f.err != nil:
				return dst
			case f.omit:
				f.omit = false
				f.fail(n.rng, "merge() is given "+describe(n.args[i])+", which is not known in this change")
				f.err.unknown = true
				return dst
			case string(buf) == "null":
				objects[i] = append(buf[:0], '{', '}')
			case buf[0] != '{':
				f.fail(n.rng, "merge() needs objects, and "+describe(n.args[i])+" is "+f.fromJSON(buf).kinds().String())
				return dst
			}
		}
		start := len(dst)
		dst = appendMerged(dst, objects)
		kept := f.unchanged[:mark]
		for _, name := range f.unchanged[mark:] {
			if member(dst[start:], name) == nil {
				kept = append(kept, name)
			}
		}
		f.unchanged = kept
		return dst
	}
}

func (b *binder) emitFor(n forNode) emitFn {
	coll, val := b.eval(n.coll), b.emit(n.val)
	var cond condFn
	var key evalFn
	if n.cond != nil {
		cond = b.cond(n.cond, "The condition after if")
	}
	if n.key != nil {
		key = b.eval(n.key)
	}
	return func(f *frame, dst []byte) []byte {
		c := f.known(coll(f))
		switch {
		case c.kind == kindFailed:
			return dst
		case n.splat && c.kind == kindNull:
			return append(dst, "[]"...)
		case c.kind != kindJSON || n.splat && c.text[0] == '{':
			f.wrong("for", n.coll, n.rng, c, isList|isObject)
			return dst
		}
		for len(f.vars) <= max(n.valSlot, n.keySlot) {
			f.vars = append(f.vars, value{})
		}
		buf := append(f.take(), map[bool]byte{true: '{', false: '['}[key != nil])
		defer func() { f.give(buf) }()
		i := 0
		for r := readJSON(c.text); r.next(); i++ {
			f.vars[n.valSlot] = f.fromToken(r.val)
			if n.keySlot >= 0 {
				f.vars[n.keySlot] = intValue(int64(i))
				if r.key != nil {
					f.vars[n.keySlot] = f.fromToken(r.key)
				}
			}
			if cond != nil {
				if v := cond(f); v == broken {
					return dst
				} else if v == no {
					continue
				}
			}
			if len(buf) > 1 {
				buf = append(buf, ',')
			}
			if key != nil {
				k := key(f)
				if k.kinds()&isScalar == 0 {
					f.wrong("the name of an attribute", n.key, n.rng, k, isString)
					return dst
				}
				buf = append(pgvalue.AppendString(buf, k.appendText(nil)), ':')
			}
			if buf = f.element(val, buf); f.err != nil {
				return dst
			}
		}
		if key != nil {
			return appendMerged(dst, [][]byte{append(buf, '}')})
		}
		return append(append(dst, buf...), ']')
	}
}
