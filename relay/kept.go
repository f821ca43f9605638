package relay

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// A source may keep its changes for a while, as they came (keep_changes), so
// that other rules can judge them later. They are stored with the append that
// covers their transaction: none is missing and none is there twice, whatever
// crashes.

// MaxKeptValue is the longest value that is kept, in bytes. Of a longer one only
// that it was there is known.
const MaxKeptValue = chunkBytes

// keptBytes is the size at which kept changes of complete transactions are
// stored although no event is.
const keptBytes = 256 << 10

// KeptChanges is a run of changes of one stream.
type KeptChanges struct {
	// Seq is its place among those of the stream, from 1; the store sets it.
	Seq int64
	// At is the time of the last change: its commit, or when it was received. In
	// microseconds since the Unix epoch.
	At int64
	// Data begins with a format byte and the IDs of the tables that the changes
	// name.
	Data []byte
}

// KeptTable is a table as it was when changes of it were kept.
type KeptTable struct {
	// ID is a digest of the definition, in hexadecimal.
	ID         string
	Definition []byte
}

// Kept is what an append has to keep.
type Kept struct {
	// Whole are changes of complete transactions, Open those of the half-stored
	// one, which go again when that is discarded. Either may be nil.
	Whole, Open *KeptChanges
	// Ended says that a transaction has ended since the last append: if it was half
	// stored, it is complete with Whole.
	Ended bool
	// Tables are those that the changes name. The store may know them already.
	Tables []KeptTable
}

// KeptQuery chooses kept changes of a stream.
type KeptQuery struct {
	Stream string
	// After is the place after which they are, Since the time from which on, in
	// microseconds since the Unix epoch.
	After, Since int64
	// MaxBytes is about how much to return; at least one run comes when there is
	// one.
	MaxBytes int
}

// KeptStore is what commands read of kept changes.
type KeptStore interface {
	// Kept returns runs of complete transactions, oldest first.
	Kept(ctx context.Context, q KeptQuery) ([]KeptChanges, error)
	// KeptTables returns all tables that kept changes name.
	KeptTables(ctx context.Context) ([]KeptTable, error)
}

const keptFormat = 1

// keptTableID is the length of a KeptTable's ID in the data of changes, in bytes.
const keptTableID = 16

// keptBuffer gathers the changes of a stream until they are handed to the
// store. A nil buffer keeps nothing.
type keptBuffer struct {
	changeBuffer
	// whole is where the changes of complete transactions end in buf, wholeAt the
	// time of the last of them, at that of the last of all.
	whole       int
	wholeAt, at int64
	ended       bool // a transaction, since the last hand-over
	tables      map[*Relation]KeptTable
}

// keep takes a change.
func (k *keptBuffer) keep(c *Change) {
	if k == nil || c.Op == Read || c.Op == Message && c.Name == RulesPrefix {
		return
	}
	k.add(c, MaxKeptValue)
	if k.at = c.Time; c.Tx != nil {
		k.at = c.Tx.CommitTime
	}
}

// end says that the transaction of the last changes is complete.
func (k *keptBuffer) end() {
	if k != nil {
		k.whole, k.wholeAt, k.ended = len(k.buf), k.at, true
	}
}

// drop forgets the changes of the open transaction.
func (k *keptBuffer) drop() {
	if k != nil {
		k.buf, k.inTx = k.buf[:k.whole], false
	}
}

// sizes returns the bytes of complete transactions, and of all.
func (k *keptBuffer) sizes() (whole, all int) {
	if k == nil {
		return 0, 0
	}
	return k.whole, len(k.buf)
}

// take hands over what is complete, and with open what is not, too.
func (k *keptBuffer) take(open bool) *Kept {
	if k == nil || k.whole == 0 && (!open || len(k.buf) == 0) {
		return nil
	}
	out := &Kept{Ended: k.ended}
	k.ended = false
	ids := []byte{keptFormat}
	ids = binary.AppendUvarint(ids, uint64(len(k.relations)))
	for _, rel := range k.relations {
		t := k.table(rel)
		out.Tables = append(out.Tables, t)
		id, _ := hex.DecodeString(t.ID) // it is one
		ids = append(ids, id...)
	}
	if k.whole > 0 {
		out.Whole = &KeptChanges{At: k.wholeAt, Data: slices.Concat(ids, k.buf[:k.whole])}
	}
	if open && len(k.buf) > k.whole {
		out.Open = &KeptChanges{At: k.at, Data: slices.Concat(ids, k.buf[k.whole:])}
	}
	rest := k.buf[k.whole:]
	k.whole = 0
	if open || len(rest) == 0 {
		k.reset(2 * chunkBytes)
	} else {
		k.buf = k.buf[:copy(k.buf, rest)] // it begins with a transaction, and the tables stay
	}
	return out
}

func (k *keptBuffer) table(rel *Relation) KeptTable {
	t, ok := k.tables[rel]
	if !ok {
		t = newKeptTable(rel)
		if k.tables == nil {
			k.tables = map[*Relation]KeptTable{}
		}
		k.tables[rel] = t
	}
	return t
}

// keptRelation is the JSON form of a relation, with the types it needs.
type keptRelation struct {
	OID        uint32
	Schema     string
	Name       string
	Identity   byte
	Columns    []Column
	PrimaryKey []int  `json:",omitempty"`
	Types      []Type `json:",omitempty"` // by OID
}

// ResolveType implements TypeResolver.
func (k *keptRelation) ResolveType(oid uint32) (Type, bool) {
	for i := range k.Types {
		if k.Types[i].OID == oid {
			return k.Types[i], true
		}
	}
	return Type{}, false
}

func newKeptTable(rel *Relation) KeptTable {
	k := keptRelation{
		OID: rel.OID, Schema: rel.Schema, Name: rel.Name, Identity: rel.Identity, Columns: rel.Columns, PrimaryKey: rel.PrimaryKey,
	}
	var add func(oid uint32)
	add = func(oid uint32) {
		if _, have := k.ResolveType(oid); have || oid == 0 || rel.Types == nil {
			return
		}
		t, ok := rel.Types.ResolveType(oid)
		if !ok {
			return
		}
		t.OID = oid
		k.Types = append(k.Types, t)
		add(t.Elem)
		add(t.Base)
		for i := range t.Fields {
			add(t.Fields[i].TypeOID)
		}
	}
	for i := range rel.Columns {
		add(rel.Columns[i].TypeOID)
	}
	slices.SortFunc(k.Types, func(a, b Type) int { return cmp.Compare(a.OID, b.OID) })
	text, err := json.Marshal(&k)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	sum := sha256.Sum256(text)
	return KeptTable{ID: hex.EncodeToString(sum[:keptTableID]), Definition: text}
}

// KeptReader reads kept changes. The zero value knows no tables.
type KeptReader struct {
	tables map[string]*Relation
	r      changeReader
}

// Learn makes the tables known. One that is known stays as it is, so that what
// was derived from it stays good.
func (k *KeptReader) Learn(tables []KeptTable) error {
	if k.tables == nil {
		k.tables = map[string]*Relation{}
	}
	for _, t := range tables {
		if k.tables[t.ID] != nil {
			continue
		}
		var rel keptRelation
		if err := json.Unmarshal(t.Definition, &rel); err != nil {
			return fmt.Errorf("read the table %s of kept changes: %w", t.ID, err)
		}
		for _, i := range rel.PrimaryKey {
			if i < 0 || i >= len(rel.Columns) {
				return fmt.Errorf("read the table %s of kept changes: its key has no column %d", t.ID, i)
			}
		}
		k.tables[t.ID] = &Relation{
			OID: rel.OID, Schema: rel.Schema, Name: rel.Name, Identity: rel.Identity, Columns: rel.Columns, PrimaryKey: rel.PrimaryKey, Types: &rel,
		}
	}
	return nil
}

var errKept = errors.New("kept changes are damaged, or of a newer version")

// Open makes changes the ones to read.
func (k *KeptReader) Open(changes *KeptChanges) error {
	k.r = changeReader{rest: changes.Data}
	if k.r.byte() != keptFormat {
		return fmt.Errorf("%w: run %d", errKept, changes.Seq)
	}
	n := k.r.number()
	if k.r.bad || n > uint64(len(k.r.rest)/keptTableID) {
		return fmt.Errorf("%w: run %d", errKept, changes.Seq)
	}
	for range n {
		id := hex.EncodeToString(k.r.rest[:keptTableID])
		k.r.rest = k.r.rest[keptTableID:]
		rel := k.tables[id]
		if rel == nil {
			return fmt.Errorf("%w: run %d is of a table that is not known", errKept, changes.Seq)
		}
		k.r.relations = append(k.r.relations, rel)
	}
	return nil
}

// Next reads a change, which points into the data, and reports whether there
// was one. cut are the columns whose value was too long to be kept, "payload"
// for the content of a notification or message.
func (k *KeptReader) Next(c *Change) (cut []string, ok bool) { return k.r.next(c) }

// Err returns why Next stopped early, or nil at the end.
func (k *KeptReader) Err() error {
	if k.r.bad {
		return errKept
	}
	return nil
}
