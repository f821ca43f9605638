package cdc

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// relations is what one connection knows of tables. The server sends a
// Relation message before the first change of a table and again whenever the
// table may have changed, also within a transaction, so the cache is right for
// the point of the stream that has been reached, and for no other connection.
type relations struct {
	// primaryKey returns the names of the key's columns in the order of the key,
	// none when the table has none or is gone. It asks the catalogue of now, while
	// the stream may be in the past, so what it says is believed only as far as
	// the Relation message agrees.
	primaryKey func(oid uint32) ([]string, error)
	// loadTypes returns those of the types, and of what they consist of, that
	// exist.
	loadTypes func(oids []uint32) (map[uint32]relay.Type, error)
	// partitionOf reports whether a table is a partition of another, at any depth,
	// and returns the columns of its replica identity.
	partitionOf func(oid, root uint32) (is bool, identity []string, err error)
	// idle is called now and then, so that what the lookups hold may go.
	idle func(now time.Time)

	byOID map[uint32]*relay.Relation
	last  *relay.Relation
	// looked is when composite types were looked up last; see follow.
	looked time.Time
	types  map[uint32]relay.Type

	// root is the Relation message that has just come, nil after anything else. A
	// partition whose changes are sent as its root's is announced right after it.
	root *relationMessage
	// lacking are, by root, the partitions that do not send all of the root's
	// replica identity, and what they send of it.
	lacking map[uint32]map[uint32][]string
}

func newRelations(primaryKey func(uint32) ([]string, error), loadTypes func([]uint32) (map[uint32]relay.Type, error)) *relations {
	return &relations{
		primaryKey: primaryKey, loadTypes: loadTypes,
		byOID: make(map[uint32]*relay.Relation), types: make(map[uint32]relay.Type),
		lacking: make(map[uint32]map[uint32][]string),
	}
}

// types known at one point of the stream.
type typeSet map[uint32]relay.Type

// ResolveType implements relay.TypeResolver.
func (s typeSet) ResolveType(oid uint32) (relay.Type, bool) {
	t, ok := s[oid]
	return t, ok
}

// get returns the relation of a change, which has the given number of columns
// in its tuples.
func (r *relations) get(kind byte, oid uint32) (*relay.Relation, error) {
	if r.last != nil && r.last.OID == oid {
		return r.last, nil
	}
	rel := r.byOID[oid]
	if rel == nil {
		return nil, &DecodeError{Kind: kind, Msg: fmt.Sprintf("relation %d was not announced", oid)}
	}
	r.last = rel
	return rel, nil
}

// forgetType makes the next relation with the type ask for it again. The
// server announces a type before the relation that uses it.
func (r *relations) forgetType(oid uint32) { delete(r.types, oid) }

// put takes a Relation message. A relation that did not change keeps its
// pointer, so that what was derived from it stays good.
func (r *relations) put(m *relationMessage) error {
	root := r.root
	message := *m
	message.columns = slices.Clone(m.columns)
	r.root = &message
	if err := r.keep(m); err != nil || root == nil || root.oid == m.oid {
		return err
	}
	return r.putPart(root, m)
}

// putPart takes the Relation message of what may be a partition of root. The
// server writes an old row as the root's replica identity says, from what the
// partition's own has put into the WAL: what is not in there comes as null. So
// the root's rows are read with the identity that all its partitions have.
func (r *relations) putPart(root, m *relationMessage) error {
	sent := identityOf(m)
	missing := func() bool {
		return slices.ContainsFunc(identityOf(root), func(name string) bool { return !slices.Contains(sent, name) })
	}
	lacks := missing()
	_, lacked := r.lacking[root.oid][m.oid]
	// Where the publication lists columns, the server announces those of a partition
	// that stand where the listed ones stand in the root: where it has other columns
	// than the root, the message does not tell its identity.
	garbled := !sameNames(root.columns, m.columns)
	if lacks && (!lacked || garbled) {
		is, identity, err := r.partitionOf(m.oid, root.oid)
		if err != nil {
			return fmt.Errorf("look up partitions of %s.%s: %w", root.schema, root.name, err)
		}
		if garbled {
			sent = identity
		}
		lacks = is && missing()
	}
	switch {
	case lacks && r.lacking[root.oid] == nil:
		r.lacking[root.oid] = map[uint32][]string{m.oid: sent}
	case lacks:
		r.lacking[root.oid][m.oid] = sent
	case lacked:
		delete(r.lacking[root.oid], m.oid)
	default:
		return nil
	}
	return r.keep(root)
}

// sameNames reports whether two relations have the same columns in any order.
func sameNames(a, b []relay.Column) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(c relay.Column) bool {
		return !slices.ContainsFunc(b, func(o relay.Column) bool { return o.Name == c.Name })
	})
}

// identityOf returns the columns of the replica identity.
func identityOf(m *relationMessage) (names []string) {
	for i := range m.columns {
		if m.columns[i].Identity {
			names = append(names, m.columns[i].Name)
		}
	}
	return names
}

// narrow leaves in a root's replica identity what all its partitions send.
func (r *relations) narrow(m *relationMessage) {
	for _, sent := range r.lacking[m.oid] {
		m.identity = relay.IdentityIndex
		for i := range m.columns {
			m.columns[i].Identity = m.columns[i].Identity && slices.Contains(sent, m.columns[i].Name)
		}
	}
}

// keep makes a relation of a Relation message, unless it has it already.
func (r *relations) keep(m *relationMessage) error {
	old := r.byOID[m.oid]
	r.narrow(m)
	types, err := r.typesOf(m.columns)
	if err != nil {
		return fmt.Errorf("look up types of %s.%s: %w", m.schema, m.name, err)
	}
	if old != nil && old.Schema == m.schema && old.Name == m.name && old.Identity == m.identity &&
		slices.Equal(old.Columns, m.columns) && sameTypes(old.Types, types) {
		return nil
	}
	rel := &relay.Relation{OID: m.oid, Schema: m.schema, Name: m.name, Identity: m.identity, Columns: m.columns}
	if len(types) > 0 {
		rel.Types = types
	}
	if rel.PrimaryKey, err = r.keyOf(rel, old); err != nil {
		return fmt.Errorf("look up primary key of %s: %w", rel.Table(), err)
	}
	r.byOID[m.oid] = rel
	r.last = nil
	return nil
}

// followTypes is how often composite types are looked up again.
const followTypes = 10 * time.Second

// follow takes over what ALTER TYPE has made of composite types: the server says
// nothing of it to the tables that have them. Values that are read before that,
// or long after they were written, are read with other attributes: where their
// number differs they stay text.
func (r *relations) follow(now time.Time) {
	if now.Sub(r.looked) < followTypes {
		return
	}
	r.looked = now
	var composites []uint32
	for oid, t := range r.types {
		if t.Kind == 'c' {
			composites = append(composites, oid)
		}
	}
	if len(composites) == 0 {
		return
	}
	found, err := r.loadTypes(composites)
	if err != nil {
		return // what is known stays until the next time
	}
	maps.Copy(r.types, found)
	for oid, rel := range r.byOID {
		types, err := r.typesOf(rel.Columns)
		if err != nil || sameTypes(rel.Types, types) {
			continue
		}
		changed := *rel
		changed.Types = types
		r.byOID[oid], r.last = &changed, nil
	}
}

func sameTypes(old relay.TypeResolver, now typeSet) bool {
	was, _ := old.(typeSet)
	return maps.EqualFunc(was, now, func(a, b relay.Type) bool {
		same := slices.Equal(a.Fields, b.Fields)
		a.Fields, b.Fields = nil, nil
		return same && a.OID == b.OID && a.Schema == b.Schema && a.Name == b.Name && a.Kind == b.Kind &&
			a.Elem == b.Elem && a.Delim == b.Delim && a.Base == b.Base
	})
}

// keyOf returns the positions of the primary key. Under the default identity
// the flags of the Relation message are the primary key as of the change, and
// the catalogue adds the order of its columns. Otherwise the flags say nothing
// of it (all columns under FULL, none under NOTHING) and the catalogue is
// believed when all columns it names are there.
func (r *relations) keyOf(rel, old *relay.Relation) ([]int, error) {
	var flagged []int
	if rel.Identity == relay.IdentityDefault {
		for i := range rel.Columns {
			if rel.Columns[i].Identity {
				flagged = append(flagged, i)
			}
		}
		if len(flagged) < 2 {
			return flagged, nil
		}
	}
	names, err := r.primaryKey(rel.OID)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 && old != nil { // dropped since
		for _, i := range old.PrimaryKey {
			names = append(names, old.Columns[i].Name)
		}
	}
	key := make([]int, 0, len(names))
	for _, name := range names {
		i := rel.Column(name)
		if i < 0 || (flagged != nil && !rel.Columns[i].Identity) {
			return flagged, nil // renamed since, or not published
		}
		key = append(key, i)
	}
	if len(key) != len(flagged) && flagged != nil {
		return flagged, nil
	}
	return key, nil
}

// typesOf returns what is known of the types of the columns that are not
// built in, with everything they consist of.
func (r *relations) typesOf(columns []relay.Column) (typeSet, error) {
	var missing []uint32
	for i := range columns {
		oid := columns[i].TypeOID
		if _, ok := r.types[oid]; !ok && !pgvalue.BuiltIn(oid) && !slices.Contains(missing, oid) {
			missing = append(missing, oid)
		}
	}
	if len(missing) > 0 {
		found, err := r.loadTypes(missing)
		if err != nil {
			return nil, err
		}
		maps.Copy(r.types, found)
	}
	var set typeSet
	var add func(oid uint32)
	add = func(oid uint32) {
		t, ok := r.types[oid]
		if _, have := set[oid]; have || !ok {
			return
		}
		if set == nil {
			set = make(typeSet)
		}
		set[oid] = t
		add(t.Elem)
		add(t.Base)
		for i := range t.Fields {
			add(t.Fields[i].TypeOID)
		}
	}
	for i := range columns {
		add(columns[i].TypeOID)
	}
	return set, nil
}

// complete gives the tuples of an update or delete the meaning that the
// replica identity implies, in place, and returns the old row. kind is the old
// tuple's: 'K', 'O' or 0 for none. next is nil for a delete.
//
// In a 'K' tuple the columns outside the identity are null on the wire and
// mean "not sent". No old tuple means that no column of the identity changed.
// A value of the new tuple that is not sent because it did not change (TOAST)
// is taken from the old tuple where that has it.
func complete(rel *relay.Relation, kind byte, old, next relay.Row) (relay.Row, error) {
	n := len(rel.Columns)
	if next != nil && len(next) != n {
		return nil, columnsError('U', rel, len(next))
	}
	if kind != 0 && len(old) != n {
		return nil, columnsError(kind, rel, len(old))
	}
	switch kind {
	case 'K', 'O':
		for i := range old {
			if !rel.Columns[i].Identity { // of an 'O' tuple: see putPart
				old[i] = relay.Value{}
			}
		}
	case 0:
		if rel.Identity == relay.IdentityFull {
			return nil, &DecodeError{Kind: 'U', Msg: fmt.Sprintf("no old tuple though %s has replica identity full", rel.Table())}
		}
		if cap(old) < n {
			old = make(relay.Row, n)
		}
		old = old[:n]
		for i := range old {
			old[i] = relay.Value{}
			if rel.Columns[i].Identity {
				old[i] = next[i]
			}
		}
		return old, nil
	}
	for i := range next {
		if next[i].State == relay.Unknown {
			next[i] = old[i]
		}
	}
	return old, nil
}

// columnsError says that a tuple does not fit its relation. To guess which
// columns it has would be to make wrong events.
func columnsError(kind byte, rel *relay.Relation, columns int) error {
	return &DecodeError{Kind: kind, Msg: fmt.Sprintf("tuple has %d columns, relation %s has %d", columns, rel.Table(), len(rel.Columns))}
}
