package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Block is a run of events of one stream packed into one value, the unit in
// which the log stores and the dispatcher reads them.
//
// Data begins with a format byte and the place before the first event. Then
// come the records. What many events share (source, stream kind, type, rule,
// table, operation, generation) is written once, at the first record that needs
// it, and named by its number afterwards. Numbers are unsigned varints, times
// signed ones relative to the record before.
type Block struct {
	Stream      string
	First, Last int64 // places of the first and last event
	Count       int
	// Times and places (commit LSNs) of the events lie within these bounds.
	FirstTime, LastTime   int64
	FirstPlace, LastPlace uint64
	Data                  []byte
}

const blockFormat = 1

const (
	flagKey = 1 << iota
	flagOldKey
	flagTenant
	flagUnchanged
	flagBarrier
)

// eventHead is the part of an event that its neighbours share.
type eventHead struct {
	source, typ, rule, table string
	version                  int
	op                       Op
	generation               uint32
}

// BlockBuilder packs events into a block. The zero value is ready.
type BlockBuilder struct {
	block Block
	base  int64 // the time that those of the records are relative to
	heads map[eventHead]uint64
}

// Len returns the bytes packed so far.
func (b *BlockBuilder) Len() int { return len(b.block.Data) }

// Add packs e. The events of a block have rising places and one stream.
func (b *BlockBuilder) Add(e *Event) {
	k := &b.block
	place := e.ID.Place()
	if k.Count == 0 {
		k.Stream, k.First, k.Last = e.Stream, e.Seq, e.Seq-1
		k.FirstTime, k.LastTime, b.base = e.Time, e.Time, e.Time
		k.FirstPlace, k.LastPlace = place, place
		k.Data = append(k.Data, blockFormat)
		k.Data = binary.AppendUvarint(k.Data, uint64(e.Seq-1))
		k.Data = binary.AppendVarint(k.Data, e.Time)
	}
	d := k.Data
	h := eventHead{e.Source, e.Type, e.Rule, e.Table, e.Version, e.Op, e.Generation}
	n, ok := b.heads[h]
	if !ok {
		if b.heads == nil {
			b.heads = make(map[eventHead]uint64)
		}
		n = uint64(len(b.heads))
		b.heads[h] = n
	}
	d = binary.AppendUvarint(d, n)
	if !ok {
		d = appendString(d, e.Source)
		d = appendString(d, e.Type)
		d = appendString(d, e.Rule)
		d = appendString(d, e.Table)
		d = binary.AppendUvarint(d, uint64(e.Version))
		d = append(d, byte(e.Op))
		d = binary.AppendUvarint(d, uint64(e.Generation))
	}
	var flags byte
	if e.HasKey {
		flags |= flagKey
	}
	if e.OldKey != nil {
		flags |= flagOldKey
	}
	if e.Tenant != nil {
		flags |= flagTenant
	}
	if len(e.Unchanged) > 0 {
		flags |= flagUnchanged
	}
	if e.Barrier {
		flags |= flagBarrier
	}
	d = append(d, flags)
	d = binary.AppendUvarint(d, uint64(e.Seq-k.Last))
	d = append(d, e.ID[:]...)
	d = binary.AppendVarint(d, e.Time-b.base)
	d = binary.AppendUvarint(d, uint64(e.Index))
	if e.HasKey {
		d = appendString(d, e.Key)
	}
	if e.OldKey != nil {
		d = appendString(d, e.OldKey)
	}
	if e.Tenant != nil {
		d = appendString(d, e.Tenant)
	}
	if len(e.Unchanged) > 0 {
		d = binary.AppendUvarint(d, uint64(len(e.Unchanged)))
		for _, c := range e.Unchanged {
			d = appendString(d, c)
		}
	}
	d = appendString(d, e.Data)
	k.Data = d
	k.Count++
	k.Last = e.Seq
	k.FirstTime = min(k.FirstTime, e.Time)
	k.LastTime = max(k.LastTime, e.Time)
	k.FirstPlace = min(k.FirstPlace, place)
	k.LastPlace = max(k.LastPlace, place)
}

// Finish returns the block, or nil when nothing was added, and makes the
// builder ready for the next.
func (b *BlockBuilder) Finish() *Block {
	if b.block.Count == 0 {
		return nil
	}
	k := b.block
	b.block = Block{}
	clear(b.heads)
	return &k
}

func appendString[T string | []byte](d []byte, s T) []byte {
	d = binary.AppendUvarint(d, uint64(len(s)))
	return append(d, s...)
}

var errBlock = errors.New("block is damaged")

// Reader returns a reader of the block's events.
func (k *Block) Reader() BlockReader {
	r := BlockReader{stream: k.Stream, rest: k.Data}
	if len(r.rest) == 0 || r.rest[0] != blockFormat {
		r.err = fmt.Errorf("%w: unknown format", errBlock)
		return r
	}
	r.rest = r.rest[1:]
	r.seq = int64(r.uvarint())
	r.base = r.varint()
	return r
}

// BlockReader reads the events of a block in order.
type BlockReader struct {
	stream string
	rest   []byte
	seq    int64
	base   int64
	heads  []eventHead
	err    error
}

// Next sets *e to the next event and reports whether there was one. The event
// points into the block.
func (r *BlockReader) Next(e *Event) bool {
	if r.err != nil || len(r.rest) == 0 {
		return false
	}
	n := r.uvarint()
	if n == uint64(len(r.heads)) && r.err == nil {
		h := eventHead{source: string(r.bytes()), typ: string(r.bytes()), rule: string(r.bytes()), table: string(r.bytes())}
		h.version = int(r.uvarint())
		h.op = Op(r.byte())
		h.generation = uint32(r.uvarint())
		r.heads = append(r.heads, h)
	}
	if n >= uint64(len(r.heads)) {
		r.fail()
		return false
	}
	h := &r.heads[n]
	flags := r.byte()
	r.seq += int64(r.uvarint())
	*e = Event{
		Seq: r.seq, Stream: r.stream, Source: h.source, Type: h.typ, Version: h.version, Rule: h.rule,
		Table: h.table, Op: h.op, Generation: h.generation, Barrier: flags&flagBarrier != 0,
	}
	if len(r.rest) < len(e.ID) {
		r.fail()
		return false
	}
	copy(e.ID[:], r.rest)
	r.rest = r.rest[len(e.ID):]
	e.Place = e.ID.Place()
	e.Time = r.base + r.varint()
	e.Index = uint32(r.uvarint())
	if flags&flagKey != 0 {
		e.HasKey, e.Key = true, r.bytes()
	}
	if flags&flagOldKey != 0 {
		e.OldKey = r.bytes()
	}
	if flags&flagTenant != 0 {
		e.Tenant = r.bytes()
	}
	if flags&flagUnchanged != 0 {
		n := r.uvarint()
		if n > uint64(len(r.rest)) {
			r.fail()
			return false
		}
		e.Unchanged = make([]string, n)
		for i := range e.Unchanged {
			e.Unchanged[i] = string(r.bytes())
		}
	}
	e.Data = r.bytes()
	return r.err == nil
}

// Err returns why Next stopped early, or nil at the end of the block.
func (r *BlockReader) Err() error { return r.err }

func (r *BlockReader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("%w after place %d", errBlock, r.seq)
	}
	r.rest = nil
}

func (r *BlockReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *BlockReader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *BlockReader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

// bytes never returns nil, so that an empty value stays apart from none.
func (r *BlockReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fail()
		return []byte{}
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}
