package cdc

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

func noKey(uint32) ([]string, error) { return nil, errors.New("asked for the primary key") }

func noTypes([]uint32) (map[uint32]relay.Type, error) { return nil, errors.New("asked for types") }

func (r *relations) mustPut(t *testing.T, msg wire) *relay.Relation {
	t.Helper()
	var d decoder
	if _, err := d.decode(msg); err != nil {
		t.Fatal(err)
	}
	if err := r.put(&d.relation); err != nil {
		t.Fatal(err)
	}
	rel, err := r.get('I', d.relation.oid)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

func TestRelations_KeepThePointerOfATableThatDidNotChange(t *testing.T) {
	r := newRelations(noKey, noTypes)
	if _, err := r.get('I', 1); err == nil {
		t.Error("a relation that was not announced")
	}
	first := r.mustPut(t, relation(1, 'd', "*id", "v"))
	if again := r.mustPut(t, relation(1, 'd', "*id", "v")); again != first {
		t.Error("another pointer for the same table")
	}
	if other := r.mustPut(t, relation(1, 'd', "*id", "w")); other == first {
		t.Error("the same pointer for another table")
	}
	if first.Columns[1].Name != "v" {
		t.Error("a relation was changed in place")
	}
}

func TestRelations_PrimaryKey(t *testing.T) {
	for _, test := range []struct {
		name    string
		msg     wire
		catalog []string
		want    []int
	}{
		{"flags under default", relation(1, 'd', "v", "*id"), nil, []int{1}},
		{"order of the catalogue", relation(1, 'd', "*a", "*b"), []string{"b", "a"}, []int{1, 0}},
		{"catalogue of another time", relation(1, 'd', "*a", "*b"), []string{"b", "c"}, []int{0, 1}},
		{"catalogue with fewer", relation(1, 'd', "*a", "*b"), []string{"b"}, []int{0, 1}},
		{"full says nothing of the key", relation(1, 'f', "*a", "*b"), []string{"b"}, []int{1}},
		{"nothing", relation(1, 'n', "a", "b"), []string{"a"}, []int{0}},
		{"index", relation(1, 'i', "a", "*b"), []string{"a"}, []int{0}},
		{"no key", relation(1, 'f', "*a"), nil, nil},
		{"key that is not published", relation(1, 'f', "*a"), []string{"a", "id"}, nil},
	} {
		r := newRelations(func(uint32) ([]string, error) { return test.catalog, nil }, noTypes)
		if got := r.mustPut(t, test.msg).PrimaryKey; !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestRelations_KeepTheKeyOfATableThatIsGone(t *testing.T) {
	catalog := []string{"b", "a"}
	r := newRelations(func(uint32) ([]string, error) { return catalog, nil }, noTypes)
	r.mustPut(t, relation(1, 'd', "*a", "*b"))
	catalog = nil
	if got := r.mustPut(t, relation(1, 'd', "*a", "*b", "c")).PrimaryKey; !slices.Equal(got, []int{1, 0}) {
		t.Errorf("key is %v", got)
	}
}

func TestRelations_AskOnceForATypeUntilItIsAnnouncedAgain(t *testing.T) {
	asked := 0
	fields := []relay.Column{{Name: "x", TypeOID: 23}}
	r := newRelations(noKey, func(oids []uint32) (map[uint32]relay.Type, error) {
		asked++
		return map[uint32]relay.Type{
			20000: {OID: 20000, Name: "_pair", Kind: 'b', Elem: 20001},
			20001: {OID: 20001, Name: "pair", Kind: 'c', Fields: fields},
		}, nil
	})
	msg := wire{'R'}.u32(1).text("public").text("t").u8('d').u16(1).u8(1).text("p").u32(20000).u32(0xffffffff)
	first := r.mustPut(t, msg)
	if pair, ok := first.Types.ResolveType(20001); !ok || pair.Kind != 'c' {
		t.Errorf("element type is %+v", pair)
	}
	if again := r.mustPut(t, msg); again != first || asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	r.forgetType(20000)
	fields = append(fields, relay.Column{Name: "y", TypeOID: 23})
	if again := r.mustPut(t, msg); again == first || asked != 2 {
		t.Errorf("asked %d times, and the relation is the same: %t", asked, again == first)
	}
}

// E2: ALTER TYPE ... RENAME ATTRIBUTE says nothing to the tables that have the type.
func TestRelations_FollowCompositeTypesThatChange(t *testing.T) {
	pair := relay.Type{OID: 20000, Kind: 'c', Fields: []relay.Column{{Name: "a", TypeOID: 23}, {Name: "b", TypeOID: 23}}}
	list := relay.Type{OID: 20001, Kind: 'b', Elem: 20000}
	var down error
	r := newRelations(noKey, func(oids []uint32) (map[uint32]relay.Type, error) {
		return map[uint32]relay.Type{20000: pair, 20001: list}, down
	})
	message := func(oid uint32, name string, types ...uint32) *relationMessage {
		m := &relationMessage{oid: oid, schema: "public", name: name, identity: 'n'}
		for _, typ := range types {
			m.columns = append(m.columns, relay.Column{Name: name, TypeOID: typ})
		}
		return m
	}
	r.primaryKey = func(uint32) ([]string, error) { return nil, nil }
	for _, m := range []*relationMessage{message(1, "has", 23, 20001), message(2, "not", 23)} {
		if err := r.put(m); err != nil {
			t.Fatal(err)
		}
	}
	fieldOf := func(rel *relay.Relation) string {
		typ, _ := rel.Types.ResolveType(20000)
		return typ.Fields[0].Name
	}
	get := func(oid uint32) *relay.Relation {
		rel, err := r.get('I', oid)
		if err != nil {
			t.Fatal(err)
		}
		return rel
	}
	has, not := get(1), get(2)
	now := time.Now()
	r.follow(now)
	if get(1) != has {
		t.Error("another pointer though nothing has changed")
	}
	pair.Fields = []relay.Column{{Name: "aa", TypeOID: 23}, {Name: "b", TypeOID: 23}}
	down = errors.New("no connection")
	now = now.Add(followTypes)
	r.follow(now)
	if get(1) != has {
		t.Error("another pointer though nothing is known")
	}
	down = nil
	r.follow(now.Add(followTypes / 2))
	if get(1) != has {
		t.Error("asked too soon")
	}
	r.follow(now.Add(followTypes))
	if fieldOf(get(1)) != "aa" || fieldOf(has) != "a" || get(2) != not {
		t.Errorf("the field is %q, and was %q", fieldOf(get(1)), fieldOf(has))
	}
}

func TestComplete_AnOldRowIsWhatTheIdentitySupplies(t *testing.T) {
	key := newRelations(noKey, noTypes).mustPut(t, relation(1, 'd', "*id", "v"))
	full := newRelations(func(uint32) ([]string, error) { return []string{"id"}, nil }, noTypes).mustPut(t, relation(2, 'f', "*id", "*v"))
	for _, test := range []struct {
		name     string
		msg      wire
		rel      *relay.Relation
		old, new string
	}{
		{"no old tuple: the identity did not change", wire{'U'}.u32(1).u8('N').tuple("t1", "tx"), key, "[\"1\"][unknown]", "[\"1\"][\"x\"]"},
		{"no old tuple and a key that was not sent", wire{'U'}.u32(1).u8('N').tuple("u", "tx"), key, "[unknown][unknown]", "[unknown][\"x\"]"},
		{"null in a key tuple is not sent", wire{'U'}.u32(1).u8('K').tuple("t1", "n").u8('N').tuple("t2", "tx"), key, "[\"1\"][unknown]", "[\"2\"][\"x\"]"},
		{"a value that was not sent stays unknown", wire{'U'}.u32(1).u8('K').tuple("t1", "n").u8('N').tuple("t2", "u"), key, "[\"1\"][unknown]", "[\"2\"][unknown]"},
		{"a key that was not sent is the old one", wire{'U'}.u32(1).u8('K').tuple("t1", "n").u8('N').tuple("u", "tx"), key, "[\"1\"][unknown]", "[\"1\"][\"x\"]"},
		{"full supplies what was not sent", wire{'U'}.u32(2).u8('O').tuple("t1", "tbig").u8('N').tuple("t1", "u"), full, "[\"1\"][\"big\"]", "[\"1\"][\"big\"]"},
		{"full with null", wire{'U'}.u32(2).u8('O').tuple("t1", "n").u8('N').tuple("t1", "tx"), full, "[\"1\"][null]", "[\"1\"][\"x\"]"},
		{"delete by key", wire{'D'}.u32(1).u8('K').tuple("t1", "n"), key, "[\"1\"][unknown]", ""},
		{"delete under full", wire{'D'}.u32(2).u8('O').tuple("t1", "n"), full, "[\"1\"][null]", ""},
	} {
		var d decoder
		kind, err := d.decode(test.msg)
		if err != nil {
			t.Fatal(err)
		}
		if kind == 'D' {
			d.new = nil
		}
		old, err := complete(test.rel, d.oldKind, d.old, d.new)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		} else if show(old) != test.old || show(d.new) != test.new {
			t.Errorf("%s: old %s new %s, want %s %s", test.name, show(old), show(d.new), test.old, test.new)
		}
	}
	if _, err := complete(full, 0, nil, relay.Row{{}, {}}); err == nil {
		t.Error("no error for an update without an old tuple under full")
	}
	if _, err := complete(key, 0, nil, relay.Row{{}}); err == nil {
		t.Error("no error for a tuple with another number of columns")
	}
	if _, err := complete(key, 'K', relay.Row{{}}, nil); err == nil {
		t.Error("no error for an old tuple with another number of columns")
	}
}

func TestOrdinals_CountWhatHasTheSameOperationAndPosition(t *testing.T) {
	var o ordinals
	type at struct {
		op  relay.Op
		lsn relay.LSN
		k   uint32
	}
	unique := make(map[at]bool)
	for i, step := range []at{
		{relay.Insert, 10, 0}, {relay.Insert, 10, 1}, {relay.Insert, 10, 2},
		{relay.Message, 10, 0}, {relay.Update, 10, 0}, {relay.Update, 12, 0}, {relay.Insert, 12, 0},
		{relay.Insert, 11, fallenFrom}, {relay.Insert, 11, fallenFrom + 1}, {relay.Insert, 10, fallenFrom}, {relay.Insert, 12, 1},
		{relay.Truncate, 0, 0}, {relay.Truncate, 0, 1},
	} {
		got := at{step.op, step.lsn, o.next(step.op, step.lsn)}
		if got != step || unique[got] {
			t.Errorf("step %d: %+v, want %+v", i, got, step)
		}
		unique[got] = true
	}
	if k := o.next(relay.Insert, 12); k != 2 {
		t.Errorf("third insert at 12 has ordinal %d", k)
	}
	o.reset()
	if k := o.next(relay.Insert, 10); k != 0 {
		t.Errorf("first insert of the next transaction has ordinal %d", k)
	}
}

func TestContext_MergesObjectsAndIsBounded(t *testing.T) {
	var tx transaction
	tx.begin(1, 1, 1)
	for _, payload := range []string{`{"a": 1, "b": {"c": "<"}}`, `{"a": 12345678901234567890}`} {
		if err := tx.addContext([]byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	want := `{"a":12345678901234567890,"b":{"c":"<"}}`
	for _, payload := range []string{`[1]`, `null`, `"x"`, `{`, ``, `{"x": "` + string(make([]byte, contextLimit)) + `"}`} {
		if err := tx.addContext([]byte(payload)); err == nil {
			t.Errorf("no error for %.20s", payload)
		}
	}
	big := slices.Repeat([]byte("x"), contextLimit-30)
	if err := tx.addContext([]byte(`{"x":"` + string(big) + `"}`)); !errors.Is(err, errContextLimit) {
		t.Errorf("a context of more than the limit: %v", err)
	}
	if got := string(tx.Context); got != want {
		t.Errorf("context is %.100s, want %s", got, want)
	}
	tx.begin(2, 2, 2)
	if tx.Context != nil {
		t.Error("context of the transaction before")
	}
}

// The server writes a partition's old row as the root's identity says, with
// nulls for what the partition's own identity left out of the WAL.
func TestRelations_ARootIsReadWithTheIdentityOfItsPartitions(t *testing.T) {
	asked := 0
	r := newRelations(func(uint32) ([]string, error) { return []string{"id"}, nil }, noTypes)
	r.partitionOf = func(oid, root uint32) (bool, []string, error) {
		asked++
		return root == 1 && oid != 9, map[uint32][]string{5: {"id", "a", "b"}, 6: {"id"}}[oid], nil
	}
	flags := func(msg ...wire) string {
		for _, m := range msg {
			r.mustPut(t, m)
		}
		rel := r.byOID[1]
		s := string(rel.Identity)
		for _, c := range rel.Columns {
			if c.Identity {
				s += " " + c.Name
			}
		}
		return s
	}
	root, narrow, wide := relation(1, 'f', "*id", "*a", "*b"), relation(2, 'd', "*id", "a", "b"), relation(2, 'f', "*b", "*a", "*id")
	for _, step := range []struct {
		what, want string
		msgs       []wire
	}{
		{"a partition with all of it", "f id a b", []wire{root, wide}},
		{"another table", "f id a b", []wire{root, relation(9, 'd', "*id")}},
		{"a partition with less", "i id", []wire{root, narrow}},
		{"the root announced again for another partition", "i id", []wire{root, relation(3, 'f', "*id", "*a", "*b")}},
		{"two with less", "i", []wire{root, relation(4, 'i', "id", "*a", "b")}},
		{"one of them mended", "i a", []wire{root, wide}},
		{"both mended", "f id a b", []wire{root, relation(4, 'f', "*id", "*a", "*b")}},
		{"other columns than the listed ones are announced", "f id a b", []wire{root, relation(5, 'f', "*id", "*a", "*x")}},
		{"also of one with less", "i id", []wire{root, relation(6, 'd', "*a", "x", "b")}},
		{"which is announced again", "i id", []wire{root, relation(6, 'd', "*a", "x", "b")}},
	} {
		r.root = nil
		if got := flags(step.msgs...); got != step.want {
			t.Errorf("%s: %s, want %s", step.what, got, step.want)
		}
	}
	if asked != 6 {
		t.Errorf("asked %d times whether a table is a partition", asked)
	}
}
