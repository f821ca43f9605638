package cdc

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

// DecodeError is a message of the replication stream that cannot be
// understood. It ends the stream: to skip a message is to lose a change.
type DecodeError struct {
	// Kind is the message's first byte, 0 when there is none.
	Kind byte
	Msg  string
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("decode replication message %q: %s", e.Kind, e.Msg)
}

// unixEpoch is 1970-01-01 in PostgreSQL's microseconds since 2000-01-01, negated.
const unixEpoch = 946684800 * 1000000

// decoder decodes pgoutput messages of protocol 1. What it decoded is in its
// fields until the next call; texts point into the message. It allocates only
// for relations and types, and the first time for a wider row.
type decoder struct {
	// B: the transaction's commit position, known from its first message on.
	begin struct {
		final relay.LSN
		time  int64 // microseconds since the Unix epoch
		xid   uint32
	}
	// C: lsn is the commit record's start, end the first byte after it.
	commit struct {
		lsn, end relay.LSN
		time     int64
	}
	// R
	relation relationMessage
	// Y
	typeOID uint32

	// I, U, D. oldKind is 'K', 'O', or 0 when no old tuple was sent. In a 'K'
	// tuple the columns outside the replica identity are null and mean "not
	// sent": see relation.go.
	relOID   uint32
	oldKind  byte
	old, new relay.Row

	// T
	truncated []uint32

	// M
	message struct {
		transactional bool
		lsn           relay.LSN
		prefix        []byte
		content       []byte
	}

	rest []byte
	bad  string // the first thing that was wrong
}

// relationMessage is what a Relation message says.
type relationMessage struct {
	oid          uint32
	schema, name string
	identity     byte
	columns      []relay.Column
}

// decode reads one message. The kind is the message's first byte.
func (d *decoder) decode(msg []byte) (kind byte, err error) {
	if len(msg) == 0 {
		return 0, &DecodeError{Msg: "empty"}
	}
	kind = msg[0]
	d.rest, d.bad = msg[1:], ""
	switch kind {
	case 'B':
		d.begin.final, d.begin.time, d.begin.xid = relay.LSN(d.u64()), d.time(), d.u32()
	case 'C':
		if flags := d.u8(); flags != 0 {
			d.fail("unknown commit flags")
		}
		d.commit.lsn, d.commit.end, d.commit.time = relay.LSN(d.u64()), relay.LSN(d.u64()), d.time()
	case 'O':
		d.u64()
		d.text()
	case 'R':
		d.decodeRelation()
	case 'Y':
		d.typeOID = d.u32()
		d.text()
		d.text()
	case 'I':
		d.relOID = d.u32()
		d.oldKind = 0
		d.want('N')
		d.new = d.tuple(d.new)
	case 'U':
		d.decodeUpdate()
	case 'D':
		d.relOID = d.u32()
		d.oldKind = d.u8()
		if d.oldKind != 'K' && d.oldKind != 'O' {
			d.fail("delete without an old tuple")
		}
		d.old = d.tuple(d.old)
	case 'T':
		d.decodeTruncate()
	case 'M':
		d.decodeMessage()
	default:
		return kind, &DecodeError{Kind: kind, Msg: "unknown kind"}
	}
	if d.bad == "" && len(d.rest) != 0 {
		d.fail("bytes left over")
	}
	if d.bad != "" {
		return kind, &DecodeError{Kind: kind, Msg: d.bad}
	}
	return kind, nil
}

func (d *decoder) decodeUpdate() {
	d.relOID = d.u32()
	d.oldKind = 0
	tag := d.u8()
	if tag == 'K' || tag == 'O' {
		d.oldKind = tag
		d.old = d.tuple(d.old)
		tag = d.u8()
	}
	if tag != 'N' {
		d.fail("update without a new tuple")
	}
	d.new = d.tuple(d.new)
}

func (d *decoder) decodeTruncate() {
	n := d.u32()
	if flags := d.u8(); flags&^3 != 0 { // CASCADE, RESTART IDENTITY
		d.fail("unknown truncate flags")
	}
	d.truncated = d.truncated[:0]
	if n == 0 || uint64(n)*4 != uint64(len(d.rest)) {
		d.fail("wrong number of relations")
		return
	}
	for range n {
		d.truncated = append(d.truncated, d.u32())
	}
}

func (d *decoder) decodeMessage() {
	flags := d.u8()
	if flags&^1 != 0 {
		d.fail("unknown message flags")
	}
	d.message.transactional = flags&1 != 0
	d.message.lsn = relay.LSN(d.u64())
	d.message.prefix = d.text()
	d.message.content = d.take(d.u32())
}

func (d *decoder) decodeRelation() {
	r := &d.relation
	*r = relationMessage{oid: d.u32()}
	r.schema, r.name = string(d.text()), string(d.text())
	if r.schema == "" {
		r.schema = "pg_catalog"
	}
	r.identity = d.u8()
	n := int(d.u16())
	if len(d.rest) < n*10 { // flags, a name's zero byte, OID, modifier
		d.fail("short")
		return
	}
	r.columns = make([]relay.Column, n)
	for i := range r.columns {
		flags := d.u8()
		if flags&^1 != 0 {
			d.fail("unknown column flags")
		}
		r.columns[i] = relay.Column{
			Identity: flags&1 != 0, Name: string(d.text()),
			TypeOID: d.u32(), TypeMod: int32(d.u32()),
		}
	}
}

// tuple decodes one row into the memory of row.
func (d *decoder) tuple(row relay.Row) relay.Row {
	n := int(d.u16())
	if len(d.rest) < n {
		d.fail("short")
		return row[:0]
	}
	if cap(row) < n {
		row = make(relay.Row, n)
	}
	row = row[:n]
	rest := d.rest
	for i := range row {
		if len(rest) == 0 {
			d.fail("short")
			return row
		}
		switch rest[0] {
		case 'n':
			row[i] = relay.Value{State: relay.Null}
			rest = rest[1:]
		case 'u':
			row[i] = relay.Value{State: relay.Unknown}
			rest = rest[1:]
		case 't':
			if len(rest) < 5 {
				d.fail("short")
				return row
			}
			size := uint64(binary.BigEndian.Uint32(rest[1:]))
			rest = rest[5:]
			if size > uint64(len(rest)) {
				d.fail("short")
				return row
			}
			row[i].State, row[i].Text = relay.Known, rest[:size:size]
			rest = rest[size:]
		default:
			d.fail("unknown column kind") // 'b' is binary, which is never asked for
			return row
		}
	}
	d.rest = rest
	return row
}

// fail notes what is wrong, once, and stops further reads.
func (d *decoder) fail(what string) {
	if d.bad == "" {
		d.bad = what
	}
	d.rest = nil
}

func (d *decoder) take(n uint32) []byte {
	if uint64(n) > uint64(len(d.rest)) {
		d.fail("short")
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) want(tag byte) {
	if d.u8() != tag {
		d.fail("unknown tuple kind")
	}
}

func (d *decoder) u8() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// time reads microseconds since 2000 and returns microseconds since 1970.
func (d *decoder) time() int64 { return int64(d.u64()) + unixEpoch }

// text reads up to a zero byte.
func (d *decoder) text() []byte {
	end := bytes.IndexByte(d.rest, 0)
	if end < 0 {
		d.fail("text without an end")
		return nil
	}
	b := d.rest[:end:end]
	d.rest = d.rest[end+1:]
	return b
}
