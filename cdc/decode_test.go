package cdc

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"

	"github.com/rowhook/rowhook/relay"
)

// wire builds messages as the server writes them.
type wire []byte

func (w wire) u8(v ...byte) wire   { return append(w, v...) }
func (w wire) u16(v uint16) wire   { return binary.BigEndian.AppendUint16(w, v) }
func (w wire) u32(v uint32) wire   { return binary.BigEndian.AppendUint32(w, v) }
func (w wire) u64(v uint64) wire   { return binary.BigEndian.AppendUint64(w, v) }
func (w wire) text(s string) wire  { return append(append(w, s...), 0) }
func (w wire) bytes(s string) wire { return append(w.u32(uint32(len(s))), s...) }

// tuple appends columns: "n", "u", or "t" and the text.
func (w wire) tuple(columns ...string) wire {
	w = w.u16(uint16(len(columns)))
	for _, c := range columns {
		w = w.u8(c[0])
		if c[0] == 't' {
			w = w.bytes(c[1:])
		}
	}
	return w
}

func begin(xid uint32, final relay.LSN) wire {
	return wire{'B'}.u64(uint64(final)).u64(1000).u32(xid)
}

func commit(lsn, end relay.LSN) wire {
	return wire{'C', 0}.u64(uint64(lsn)).u64(uint64(end)).u64(1000)
}

func relation(oid uint32, identity byte, columns ...string) wire {
	w := wire{'R'}.u32(oid).text("public").text("t").u8(identity).u16(uint16(len(columns)))
	for _, c := range columns {
		var flags byte
		if name, key := strings.CutPrefix(c, "*"); key {
			c, flags = name, 1
		}
		w = w.u8(flags).text(c).u32(25).u32(0xffffffff)
	}
	return w
}

func insert(oid uint32, columns ...string) wire {
	return wire{'I'}.u32(oid).u8('N').tuple(columns...)
}

// seeds are one message of each kind, whole and with a fault.
func seeds() map[string]wire {
	many := make([]string, 40)
	for i := range many {
		many[i] = fmt.Sprintf("tvalue %d", i)
	}
	return map[string]wire{
		"begin":                  begin(7, 0x100),
		"commit":                 commit(0x100, 0x130),
		"origin":                 wire{'O'}.u64(1).text("o"),
		"relation":               relation(1, 'd', "*id", "v"),
		"relation in pg_catalog": wire{'R'}.u32(1).text("").text("t").u8('n').u16(0),
		"type":                   wire{'Y'}.u32(20000).text("public").text("mood"),
		"insert":                 insert(1, "t1", "n", "u", "t"),
		"insert of no columns":   insert(1),
		"insert of many":         insert(1, many...),
		"update":                 wire{'U'}.u32(1).u8('N').tuple("t1", "u"),
		"update with key":        wire{'U'}.u32(1).u8('K').tuple("t1", "n").u8('N').tuple("t2", "tx"),
		"update with old":        wire{'U'}.u32(1).u8('O').tuple("t1", "ty").u8('N').tuple("t2", "tx"),
		"delete":                 wire{'D'}.u32(1).u8('K').tuple("t1", "n"),
		"truncate":               wire{'T'}.u32(2).u8(3).u32(1).u32(2),
		"message":                wire{'M', 1}.u64(9).text("p").bytes("content"),
		"message outside":        wire{'M', 0}.u64(9).text("").bytes(""),
	}
}

func faults() map[string]wire {
	return map[string]wire{
		"empty":                       {},
		"unknown kind":                {'Z'},
		"stream start, not asked for": wire{'S'}.u32(1).u8(1),
		"binary column":               wire{'I'}.u32(1).u8('N').u16(1).u8('b').bytes("x"),
		"unknown column kind":         wire{'I'}.u32(1).u8('N').u16(1).u8('x'),
		"update with two olds":        wire{'U'}.u32(1).u8('K').tuple("t1").u8('O').tuple("t1").u8('N').tuple("t1"),
		"update without a new tuple":  wire{'U'}.u32(1).u8('K').tuple("t1"),
		"delete without a tuple":      wire{'D'}.u32(1).u8('N').tuple("t1"),
		"text longer than message":    wire{'I'}.u32(1).u8('N').u16(1).u8('t').u32(0xffffffff),
		"more columns than bytes":     wire{'I'}.u32(1).u8('N').u16(0xffff).u8('n'),
		"more relations than bytes":   wire{'T'}.u32(0xffffffff).u8(0).u32(1),
		"more relation columns":       wire{'R'}.u32(1).text("s").text("t").u8('d').u16(0xffff),
		"name without an end":         append(wire{'R'}.u32(1), "public"...),
		"unknown commit flags":        append(wire{'C', 1}, commit(1, 2)[2:]...),
		"unknown truncate flags":      wire{'T'}.u32(1).u8(4).u32(1),
		"truncate of nothing":         wire{'T'}.u32(0).u8(0),
		"unknown message flags":       wire{'M', 2}.u64(9).text("p").bytes(""),
	}
}

func TestDecode_RefusesWhatItDoesNotUnderstand(t *testing.T) {
	var d decoder
	for name, msg := range faults() {
		if _, err := d.decode(msg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, msg := range seeds() {
		if _, err := d.decode(msg); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range msg {
			if _, err := d.decode(msg[:n]); err == nil {
				t.Errorf("%s: no error when cut to %d bytes", name, n)
			}
		}
		if _, err := d.decode(append(bytes.Clone(msg), 0)); err == nil {
			t.Errorf("%s: no error with a byte more", name)
		}
	}
}

func TestDecode_AllocatesNothingForARow(t *testing.T) {
	var d decoder
	msgs := [][]byte{seeds()["insert of many"], seeds()["update with old"], seeds()["delete"], seeds()["message"], seeds()["truncate"]}
	if n := testing.AllocsPerRun(100, func() {
		for _, msg := range msgs {
			if _, err := d.decode(msg); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzDecode holds the decoder to pglogrepl's: what it takes, pglogrepl takes,
// and understands in the same way. pglogrepl takes more, and panics.
func FuzzDecode(f *testing.F) {
	for _, msg := range seeds() {
		f.Add([]byte(msg))
	}
	for _, msg := range faults() {
		f.Add([]byte(msg))
	}
	var d decoder // used again, as in a stream
	f.Fuzz(func(t *testing.T, msg []byte) {
		kind, err := d.decode(msg)
		if err != nil {
			return
		}
		want, oracleErr := oracle(msg)
		noColumns := map[byte]bool{'I': len(d.new) == 0, 'U': len(d.new) == 0 || (d.oldKind != 0 && len(d.old) == 0), 'D': len(d.old) == 0}
		if oracleErr != nil && noColumns[kind] {
			return // PostgreSQL has tables without columns, pglogrepl has not
		}
		if oracleErr != nil {
			t.Fatalf("pglogrepl refuses %s: %v", hex.EncodeToString(msg), oracleErr)
		}
		if got := describe(kind, &d); got != want {
			t.Fatalf("%s:\n got %s\nwant %s", hex.EncodeToString(msg), got, want)
		}
	})
}

func describe(kind byte, d *decoder) string {
	switch kind {
	case 'B':
		return fmt.Sprint(d.begin.final, d.begin.xid, d.begin.time*1000)
	case 'C':
		return fmt.Sprint(d.commit.lsn, d.commit.end, d.commit.time*1000)
	case 'R':
		s := fmt.Sprint(d.relation.oid, d.relation.schema, d.relation.name, d.relation.identity)
		for _, c := range d.relation.columns {
			s += fmt.Sprintf("[%q %d %d %t]", c.Name, c.TypeOID, c.TypeMod, c.Identity)
		}
		return s
	case 'Y':
		return fmt.Sprint(d.typeOID)
	case 'I':
		return fmt.Sprint(d.relOID, show(d.new))
	case 'U':
		if d.oldKind == 0 {
			return fmt.Sprint(d.relOID, 0, show(d.new))
		}
		return fmt.Sprint(d.relOID, d.oldKind, show(d.old), show(d.new))
	case 'D':
		return fmt.Sprint(d.relOID, d.oldKind, show(d.old))
	case 'T':
		return fmt.Sprint(d.truncated)
	case 'M':
		return fmt.Sprintf("%t %s %q %q", d.message.transactional, d.message.lsn, d.message.prefix, d.message.content)
	}
	return ""
}

func show(r relay.Row) string {
	var s strings.Builder
	for _, v := range r {
		switch v.State {
		case relay.Known:
			fmt.Fprintf(&s, "[%q]", v.Text)
		case relay.Null:
			s.WriteString("[null]")
		case relay.Unknown:
			s.WriteString("[unknown]")
		}
	}
	return s.String()
}

func oracle(msg []byte) (s string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	m, err := pglogrepl.Parse(msg)
	if err != nil {
		return "", err
	}
	tuple := func(t *pglogrepl.TupleData) string {
		var row relay.Row
		for _, c := range t.Columns {
			switch c.DataType {
			case 'n':
				row = append(row, relay.Value{State: relay.Null})
			case 'u':
				row = append(row, relay.Value{})
			default:
				row = append(row, relay.Value{State: relay.Known, Text: c.Data})
			}
		}
		return show(row)
	}
	switch m := m.(type) {
	case *pglogrepl.BeginMessage:
		return fmt.Sprint(relay.LSN(m.FinalLSN), m.Xid, m.CommitTime.UnixNano()), nil // which overflows after 2262, as ours does then
	case *pglogrepl.CommitMessage:
		return fmt.Sprint(relay.LSN(m.CommitLSN), relay.LSN(m.TransactionEndLSN), m.CommitTime.UnixNano()), nil
	case *pglogrepl.RelationMessage:
		schema := m.Namespace
		if schema == "" {
			schema = "pg_catalog"
		}
		s := fmt.Sprint(m.RelationID, schema, m.RelationName, m.ReplicaIdentity)
		for _, c := range m.Columns {
			s += fmt.Sprintf("[%q %d %d %t]", c.Name, c.DataType, c.TypeModifier, c.Flags&1 != 0)
		}
		return s, nil
	case *pglogrepl.TypeMessage:
		return fmt.Sprint(m.DataType), nil
	case *pglogrepl.InsertMessage:
		return fmt.Sprint(m.RelationID, tuple(m.Tuple)), nil
	case *pglogrepl.UpdateMessage:
		if m.OldTuple == nil {
			return fmt.Sprint(m.RelationID, 0, tuple(m.NewTuple)), nil
		}
		return fmt.Sprint(m.RelationID, m.OldTupleType, tuple(m.OldTuple), tuple(m.NewTuple)), nil
	case *pglogrepl.DeleteMessage:
		return fmt.Sprint(m.RelationID, m.OldTupleType, tuple(m.OldTuple)), nil
	case *pglogrepl.TruncateMessage:
		return fmt.Sprint(m.RelationIDs), nil
	case *pglogrepl.LogicalDecodingMessage:
		return fmt.Sprintf("%t %s %q %q", m.Transactional, relay.LSN(m.LSN), m.Prefix, m.Content), nil
	}
	return "", nil
}

func benchmarkRow(columns int) []byte {
	texts := make([]string, columns)
	for i := range texts {
		texts[i] = fmt.Sprintf("tvalue of column %d", i)
	}
	return insert(16384, texts...)
}

// BenchmarkDecode measures one insert, beside pglogrepl's decoder (bare).
// integration/bench runs it for its table.
func BenchmarkDecode(b *testing.B) {
	for _, columns := range []int{6, 40} {
		msg := benchmarkRow(columns)
		b.Run(fmt.Sprintf("%d/rowhook", columns), func(b *testing.B) {
			b.ReportAllocs()
			var d decoder
			for b.Loop() {
				if _, err := d.decode(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/bare", columns), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := pglogrepl.Parse(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
