package relay

import (
	"bytes"
	"encoding/binary"
)

// changeBuffer holds changes, one after the other, in a compact form that a
// changeReader reads from its beginning. Adding to it allocates nothing once it
// has grown. What the changes of a transaction share is written once, at the
// first that is there. Numbers are unsigned varints.
type changeBuffer struct {
	buf       []byte
	relations []*Relation // a change names its own by the place in here
	places    map[*Relation]int
	inTx      bool
	tx        Tx // of the last change, with a Context of its own
}

// The flags of a change.
const (
	changeTx      = 1 << iota // it belongs to a transaction
	changeSameTx              // to that of the change before
	changeContext             // the transaction's context is another than that
	changeCut                 // the payload was too long
)

// valueCut is the state of a value that was too long, beside the ValueStates.
const valueCut = 3

// add appends a change. Values and payloads of more than longest bytes are left
// out.
func (b *changeBuffer) add(c *Change, longest int) {
	flags := byte(0)
	if c.Tx != nil {
		flags |= changeTx
		if b.inTx && b.tx.XID == c.Tx.XID && b.tx.CommitLSN == c.Tx.CommitLSN {
			flags |= changeSameTx
		} else {
			b.tx.Context = b.tx.Context[:0]
		}
		if !bytes.Equal(b.tx.Context, c.Tx.Context) {
			flags |= changeContext
		}
	}
	payload := c.Payload
	if len(payload) > longest {
		flags, payload = flags|changeCut, nil
	}
	buf := append(b.buf, byte(c.Op), flags)
	buf = binary.AppendUvarint(buf, uint64(c.LSN))
	buf = binary.AppendUvarint(buf, uint64(c.Ordinal))
	if c.Tx == nil {
		buf = binary.AppendUvarint(buf, uint64(c.Time))
		buf = binary.AppendUvarint(buf, uint64(c.PID))
	} else if flags&changeSameTx == 0 {
		buf = binary.AppendUvarint(buf, uint64(c.Tx.XID))
		buf = binary.AppendUvarint(buf, uint64(c.Tx.CommitLSN))
		buf = binary.AppendUvarint(buf, uint64(c.Tx.CommitTime))
	}
	if flags&changeContext != 0 {
		buf = appendText(buf, c.Tx.Context)
	}
	if c.Op == Message || c.Op == Notify {
		buf = binary.AppendUvarint(buf, uint64(len(c.Name)))
		buf = append(buf, c.Name...)
		buf = appendText(buf, payload)
	} else {
		buf = binary.AppendUvarint(buf, uint64(b.relation(c.Relation)))
		buf = appendRow(buf, c.New, longest)
		buf = appendRow(buf, c.Old, longest)
	}
	b.buf = buf
	b.inTx = c.Tx != nil
	if b.inTx {
		context := append(b.tx.Context[:0], c.Tx.Context...)
		b.tx = *c.Tx
		b.tx.Context = context
	}
}

func (b *changeBuffer) relation(rel *Relation) int {
	i, ok := b.places[rel]
	if !ok {
		if b.places == nil {
			b.places = map[*Relation]int{}
		}
		i = len(b.relations)
		b.relations, b.places[rel] = append(b.relations, rel), i
	}
	return i
}

// reset empties the buffer and keeps its memory, but for what a very wide row
// took: no more than most bytes.
func (b *changeBuffer) reset(most int) {
	b.buf = b.buf[:0]
	if cap(b.buf) > most {
		b.buf = nil
	}
	clear(b.relations)
	clear(b.places)
	b.relations, b.inTx = b.relations[:0], false
}

func appendText(b, text []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func appendRow(b []byte, row Row, longest int) []byte {
	if row == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	for i := range row {
		v := &row[i]
		switch {
		case v.State != Known:
			b = append(b, byte(v.State))
		case len(v.Text) > longest:
			b = append(b, valueCut)
		default:
			b = appendText(append(b, byte(Known)), v.Text)
		}
	}
	return b
}

// changeReader reads what a changeBuffer holds. What it returns points into the
// bytes.
type changeReader struct {
	rest      []byte
	relations []*Relation
	tx        *Tx // of the last change
	bad       bool
}

// next reads a change into c and reports whether there was one. cut are the
// columns whose value was too long, "payload" for a payload; they are unknown
// in the rows.
func (r *changeReader) next(c *Change) (cut []string, ok bool) {
	if len(r.rest) == 0 || r.bad {
		return nil, false
	}
	*c = Change{Op: Op(r.byte())}
	flags := r.byte()
	c.LSN, c.Ordinal = LSN(r.number()), uint32(r.number())
	if flags&changeTx == 0 {
		c.Time, c.PID = int64(r.number()), uint32(r.number())
		r.tx = nil
	} else {
		switch {
		case flags&changeSameTx == 0:
			r.tx = &Tx{XID: uint32(r.number()), CommitLSN: LSN(r.number()), CommitTime: int64(r.number())}
		case r.tx == nil:
			r.bad = true
			return nil, false
		}
		if flags&changeContext != 0 {
			tx := *r.tx // earlier changes keep theirs
			if tx.Context = r.text(); len(tx.Context) == 0 {
				tx.Context = nil
			}
			r.tx = &tx
		}
		c.Tx = r.tx
	}
	switch c.Op {
	case Message, Notify:
		c.Name, c.Payload = string(r.text()), r.text()
		if flags&changeCut != 0 {
			cut = append(cut, "payload")
		}
	case Insert, Update, Delete, Truncate:
		n := r.number()
		if n >= uint64(len(r.relations)) {
			r.bad = true
			return nil, false
		}
		c.Relation = r.relations[n]
		c.New = r.row(c.Relation, &cut)
		c.Old = r.row(c.Relation, &cut)
	default:
		r.bad = true
	}
	return cut, !r.bad
}

func (r *changeReader) row(rel *Relation, cut *[]string) Row {
	if r.byte() == 0 {
		return nil
	}
	row := make(Row, len(rel.Columns))
	for i := range row {
		switch s := r.byte(); s {
		case valueCut:
			*cut = append(*cut, rel.Columns[i].Name)
		case byte(Known):
			row[i] = Value{State: Known, Text: r.text()}
		case byte(Null), byte(Unknown):
			row[i].State = ValueState(s)
		default:
			r.bad = true
		}
	}
	return row
}

func (r *changeReader) byte() byte {
	if len(r.rest) == 0 {
		r.bad = true
		return 0
	}
	c := r.rest[0]
	r.rest = r.rest[1:]
	return c
}

func (r *changeReader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *changeReader) text() []byte {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	t := r.rest[:n:n]
	r.rest = r.rest[n:]
	return t
}
