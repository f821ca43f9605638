package cdc

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

// taker is a connection that takes everything.
type taker struct{ net.Conn }

func (taker) Write(b []byte) (int, error)      { return len(b), nil }
func (taker) SetWriteDeadline(time.Time) error { return nil }
func (taker) SetReadDeadline(time.Time) error  { return nil }

// strict is a handler that fails the test when a call breaks the promises of
// [Handler].
type strict struct {
	t    *testing.T
	open *relay.Tx
	ids  map[changeID]bool // of the transaction
}

type changeID struct {
	op      relay.Op
	lsn     relay.LSN
	ordinal uint32
}

func (h *strict) Begin(tx *relay.Tx) error {
	if h.open != nil {
		h.t.Fatal("begin within a transaction")
	}
	h.open, h.ids = tx, map[changeID]bool{}
	return nil
}

func (h *strict) Commit(tx *relay.Tx, _ relay.LSN) error {
	if h.open != tx {
		h.t.Fatal("commit of another transaction")
	}
	h.open = nil
	return nil
}

func (h *strict) Idle(relay.LSN) error {
	if h.open != nil {
		h.t.Fatal("idle within a transaction")
	}
	return nil
}

func (h *strict) Change(c *relay.Change) error {
	if c.Tx != nil {
		if c.Tx != h.open {
			h.t.Fatal("change of another transaction")
		}
		id := changeID{c.Op, c.LSN, c.Ordinal}
		if h.ids[id] {
			h.t.Fatalf("two changes %s %s #%d", c.Op, c.LSN, c.Ordinal)
		}
		h.ids[id] = true
		if len(c.Tx.Context) > contextLimit || c.Tx.Context != nil && !json.Valid(c.Tx.Context) {
			h.t.Fatalf("context of %d bytes", len(c.Tx.Context))
		}
	}
	if c.Op == relay.Message {
		return nil
	}
	if c.Tx == nil || c.Relation == nil {
		h.t.Fatalf("%s without a transaction or a table", c.Op)
	}
	n := len(c.Relation.Columns)
	if (c.New != nil && len(c.New) != n) || (c.Old != nil && len(c.Old) != n) {
		h.t.Fatalf("%d columns, rows of %d and %d", n, len(c.Old), len(c.New))
	}
	for _, i := range c.Relation.PrimaryKey {
		_ = c.Relation.Columns[i]
	}
	return nil
}

func (h *strict) Durable() relay.LSN    { return 0 }
func (h *strict) Full() <-chan struct{} { return nil }

func (h *strict) Waits() string { return "" }

// script joins the payloads of CopyData messages.
func script(messages ...[]byte) (out []byte) {
	for _, m := range messages {
		out = binary.BigEndian.AppendUint16(out, uint16(len(m)))
		out = append(out, m...)
	}
	return out
}

func walAt(lsn uint64, msg wire) []byte {
	return append(wire{'w'}.u64(lsn).u64(lsn).u64(0), msg...)
}

func keepaliveAt(lsn uint64, reply byte) []byte { return wire{'k'}.u64(lsn).u64(0).u8(reply) }

// FuzzSession plays whatever a server may send. It ends in an error or in calls
// of the handler that keep their promises, and never states a position that was
// not seen.
func FuzzSession(f *testing.F) {
	f.Add(script(keepaliveAt(0x90, 1), walAt(0x100, begin(7, 0x200)), walAt(0, relation(1, 'd', "*id", "v")), walAt(0x110, insert(1, "t1", "n")),
		walAt(0x110, insert(1, "t2", "n")), walAt(0x120, wire{'U'}.u32(1).u8('N').tuple("t1", "u")), walAt(0x130, wire{'D'}.u32(1).u8('K').tuple("t1", "n")),
		keepaliveAt(0x150, 1), walAt(0x140, wire{'T'}.u32(2).u8(3).u32(1).u32(1)), walAt(0x200, commit(0x200, 0x230)), keepaliveAt(0x230, 0)))
	f.Add(script(walAt(0x100, begin(7, 0x200)), walAt(0, wire{'Y'}.u32(20000).text("public").text("mood")), walAt(0, relation(1, 'f', "*id", "*v")), walAt(0, relation(2, 'd', "*id", "v")),
		walAt(0x110, wire{'U'}.u32(1).u8('O').tuple("t1", "n").u8('N').tuple("t2", "u")), walAt(0x110, wire{'O'}.u64(1).text("o")), walAt(0x200, commit(0x200, 0x230))))
	f.Add(script(walAt(0x90, wire{'M', 0}.u64(0x90).text("p").bytes("out")), walAt(0x100, begin(7, 0x200)), walAt(0x110, wire{'M', 1}.u64(0x110).text(contextPrefix).bytes(`{"a":1}`)),
		walAt(0x110, wire{'M', 1}.u64(0x110).text("p").bytes("\xff")), walAt(0x105, wire{'M', 1}.u64(0x105).text(contextPrefix).bytes(`{"a":[2],"b":"x"}`)), walAt(0x200, commit(0x200, 0x230))))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &session{conn: taker{}, handler: &strict{t: t}, log: slog.New(slog.DiscardHandler), acks: newAcks(1, 1), silence: time.Minute}
		s.toUTF8 = func(content []byte) ([]byte, error) { return bytes.ToValidUTF8(content, []byte("?")), nil }
		s.relations = newRelations(func(uint32) ([]string, error) { return []string{"id"}, nil }, func(oids []uint32) (map[uint32]relay.Type, error) {
			found := map[uint32]relay.Type{}
			for _, oid := range oids { // of themselves, which no catalogue has
				found[oid] = relay.Type{OID: oid, Kind: "bcde"[oid%4], Elem: oid - 1, Base: oid, Fields: []relay.Column{{Name: "x", TypeOID: oid}}}
			}
			return found, nil
		})
		s.relations.partitionOf = func(uint32, uint32) (bool, []string, error) { return true, nil, nil }
		for len(data) >= 2 {
			n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			err := s.copyData(data[2 : 2+n])
			if data = data[2+n:]; err != nil {
				if !isDecode(err) && !IsTemporary(err) {
					t.Fatalf("%T: %v", err, err)
				}
				return
			}
			if s.acks.sent > s.acks.seen {
				t.Fatalf("stated %s of %s", s.acks.sent, s.acks.seen)
			}
		}
	})
}

// FuzzContext merges two payloads and holds the result against encoding/json.
func FuzzContext(f *testing.F) {
	f.Add([]byte(`{"a": 1, "b": {"c": [1.50]}}`), []byte(`{"b": "\u00e9<>", "": null}`))
	f.Add([]byte(`{"a": 1, "a": 2}`), []byte(`[1]`))
	f.Add([]byte("{\"\xff\": \"\xff\"}"), []byte(`{"a":1e400}`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var tx transaction
		want := map[string]json.RawMessage{}
		for _, payload := range [][]byte{first, second} {
			before := bytes.Clone(tx.Context)
			if err := tx.addContext(payload); err != nil {
				if !bytes.Equal(before, tx.Context) {
					t.Fatalf("the context changed with an error: %v", err)
				}
				continue
			}
			if err := json.Unmarshal(payload, &want); err != nil {
				t.Fatal(err)
			}
			wanted, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			var got, same bytes.Buffer
			if len(tx.Context) > contextLimit || json.Compact(&got, tx.Context) != nil || json.Compact(&same, wanted) != nil {
				t.Fatalf("%s", tx.Context)
			}
			var a, b bytes.Buffer
			json.HTMLEscape(&a, got.Bytes())
			json.HTMLEscape(&b, same.Bytes())
			if !bytes.Equal(a.Bytes(), b.Bytes()) {
				t.Fatalf("got %s, want %s", a.Bytes(), b.Bytes())
			}
		}
	})
}
