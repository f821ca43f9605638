package relay

import (
	"encoding/binary"
	"sync"
)

// Recent remembers the last changes of a source in memory, so that a person can
// be told how rules judge them. It holds little more than twice RecentBytes, and
// adding to it allocates nothing once it has grown.
type Recent struct {
	mu sync.Mutex
	// older and newer are filled one after the other; the older one is forgotten
	// as a whole.
	older, newer recentHalf
	next         int64 // number of the next change
}

// RecentBytes is the size at which half of what is remembered is forgotten.
const RecentBytes = 512 << 10

// maxRecentValue bounds each value that is remembered, in bytes.
const maxRecentValue = 4 << 10

type recentHalf struct {
	buf       []byte
	relations []*Relation
	places    map[*Relation]int // in relations
	first     int64             // number of the first change
	count     int64
}

// RecentChange is a change as Recent remembers it.
type RecentChange struct {
	// N rises from change to change, from 1.
	N      int64
	Change Change
	// Cut are columns whose value was too long to be remembered; they are unknown
	// in the rows.
	Cut []string
}

// Add remembers a row change.
func (r *Recent) Add(c *Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.newer.buf) >= RecentBytes {
		forgotten := r.older
		clear(forgotten.relations)
		clear(forgotten.places)
		r.older = r.newer
		r.newer = recentHalf{buf: forgotten.buf[:0], relations: forgotten.relations[:0], places: forgotten.places}
		if cap(r.newer.buf) > 2*RecentBytes { // one very wide row must not stay for ever
			r.newer.buf = nil
		}
	}
	h := &r.newer
	r.next++
	if h.count == 0 {
		h.first = r.next
	}
	h.count++
	h.add(c)
}

func (h *recentHalf) relation(rel *Relation) int {
	i, ok := h.places[rel]
	if !ok {
		if h.places == nil {
			h.places = map[*Relation]int{}
		}
		i = len(h.relations)
		h.relations, h.places[rel] = append(h.relations, rel), i
	}
	return i
}

// add appends a change: its facts, its rows, the context of its transaction.
func (h *recentHalf) add(c *Change) {
	b := append(h.buf, byte(c.Op))
	b = binary.AppendUvarint(b, uint64(h.relation(c.Relation)))
	for _, n := range [...]uint64{uint64(c.LSN), uint64(c.Ordinal), uint64(c.Tx.XID), uint64(c.Tx.CommitLSN), uint64(c.Tx.CommitTime)} {
		b = binary.AppendUvarint(b, n)
	}
	b = appendRecentRow(b, c.New)
	b = appendRecentRow(b, c.Old)
	context := c.Tx.Context
	if len(context) > maxRecentValue {
		context = nil
	}
	b = binary.AppendUvarint(b, uint64(len(context)))
	h.buf = append(b, context...)
}

// The states of a remembered value, beside the ValueStates.
const recentCut = 3

func appendRecentRow(b []byte, row Row) []byte {
	if row == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	for i := range row {
		v := &row[i]
		switch {
		case v.State != Known:
			b = append(b, byte(v.State))
		case len(v.Text) > maxRecentValue:
			b = append(b, recentCut)
		default:
			b = append(b, byte(Known))
			b = binary.AppendUvarint(b, uint64(len(v.Text)))
			b = append(b, v.Text...)
		}
	}
	return b
}

// Of returns the remembered changes of a table, oldest first, from the number
// on. since is the commit time of the oldest change of any table that is
// remembered, in microseconds since the Unix epoch, 0 when there is none;
// forgotten says that there were older ones, and next is the number of the next
// change.
func (r *Recent) Of(table TableName, from int64) (changes []RecentChange, since int64, forgotten bool, next int64) {
	r.mu.Lock()
	halves := [2]recentHalf{r.older, r.newer}
	for i := range halves {
		halves[i].buf = append([]byte(nil), halves[i].buf...)
		halves[i].relations = append([]*Relation(nil), halves[i].relations...)
	}
	next = r.next + 1
	r.mu.Unlock()
	first := int64(0)
	for i := range halves {
		h := &halves[i]
		d := recentReader{b: h.buf}
		for n := h.first; len(d.b) > 0; n++ {
			c := RecentChange{N: n}
			d.change(h.relations, &c)
			if first == 0 {
				first, since = n, c.Change.Tx.CommitTime
			}
			if n >= from && c.Change.Relation.Table() == table {
				changes = append(changes, c)
			}
		}
	}
	return changes, since, first > 1, next
}

// recentReader reads what add wrote.
type recentReader struct{ b []byte }

func (d *recentReader) byte() byte {
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *recentReader) number() uint64 {
	n, size := binary.Uvarint(d.b)
	d.b = d.b[size:]
	return n
}

func (d *recentReader) text() []byte {
	n := d.number()
	t := d.b[:n:n]
	d.b = d.b[n:]
	return t
}

func (d *recentReader) change(relations []*Relation, out *RecentChange) {
	c := &out.Change
	c.Op = Op(d.byte())
	c.Relation = relations[d.number()]
	c.LSN, c.Ordinal = LSN(d.number()), uint32(d.number())
	c.Tx = &Tx{XID: uint32(d.number()), CommitLSN: LSN(d.number()), CommitTime: int64(d.number())}
	c.New = d.row(c.Relation, &out.Cut)
	c.Old = d.row(c.Relation, &out.Cut)
	if context := d.text(); len(context) > 0 {
		c.Tx.Context = context
	}
}

func (d *recentReader) row(rel *Relation, cut *[]string) Row {
	if d.byte() == 0 {
		return nil
	}
	row := make(Row, len(rel.Columns))
	for i := range row {
		switch s := d.byte(); s {
		case recentCut:
			*cut = append(*cut, rel.Columns[i].Name)
		case byte(Known):
			row[i] = Value{State: Known, Text: d.text()}
		default:
			row[i].State = ValueState(s)
		}
	}
	return row
}
