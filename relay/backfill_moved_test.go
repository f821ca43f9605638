package relay_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// movedUpdate sends one update of the keyed table as a transaction of its own to
// a backfill that is under way, and returns how the next chunk begins.
func movedUpdate(t *testing.T, s *source, table *relay.Relation, changes ...relay.Change) (keys []string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s.store = &relaytest.Memory{}
		b := relay.Backfill{Source: "shop", Rule: "a", Progress: underWay(table)}
		check(t, s.store.AddBackfill(t.Context(), &b))
		in := s.open(t)
		defer runIngest(t, in)()
		in.Follow(&b)
		x := relay.Tx{XID: 1, CommitLSN: 96}
		check(t, in.Begin(&x))
		for i := range changes {
			c := changes[i]
			c.Op, c.Relation, c.Tx, c.Ordinal = relay.Update, table, &x, uint32(i)
			check(t, in.Change(&c))
		}
		check(t, in.Commit(&x, 104))
		check(t, in.Idle(200))
		var c *relay.Chunk
		if c, err = in.NewChunk(&b, in.Rule("a"), 200, 1); err != nil {
			return
		}
		for _, k := range c.Moved() {
			keys = append(keys, string(k[0]))
		}
		_, cerr := c.Close(t.Context(), false)
		check(t, cerr)
	})
	return keys, err
}

func known(texts ...string) relay.Row {
	var r relay.Row
	for _, s := range texts {
		v := relay.Value{State: relay.Known, Text: []byte(s)}
		if s == "?" {
			v = relay.Value{}
		}
		r = append(r, v)
	}
	return r
}

// A row whose key changed, and of which the rule's events do not tell all.
func TestBackfill_NotesRowsThatMoveUntold(t *testing.T) {
	updates := reading("a")
	inserts := reading("a")
	inserts.Ops = relay.OpsOf(relay.Insert, relay.Read) // others publish updates
	fails := reading("a")
	fails.Bind = func(*relay.Relation) (relay.Program, error) {
		return progFunc(func(*relay.Change, *relay.Draft) (bool, error) { return false, errors.New("no") }), nil
	}
	columns := []relay.Column{{Name: "v"}, {Name: "id"}}
	keyless := &relay.Relation{OID: 1, Schema: "public", Name: "t", Identity: relay.IdentityFull, Columns: columns}
	other := &relay.Relation{OID: 1, Schema: "public", Name: "t", Identity: relay.IdentityIndex, Columns: columns}
	unlisted := &relay.Relation{OID: 1, Schema: "public", Name: "t", Identity: relay.IdentityIndex, Columns: columns[:1]}
	for name, c := range map[string]struct {
		rule     *relay.Rule
		table    *relay.Relation
		old, new relay.Row
		want     string
	}{
		"told":                          {updates, keyless, known("x", "9"), known("x", "1"), "[]"},
		"another table key":             {updates, keyless, known("x", "9"), known("?", "1"), "[1]"},
		"the rule passes over it":       {updates, keyless, known("x", "9"), known("skip", "1"), "[1]"},
		"the rule fails":                {fails, keyless, known("x", "9"), known("x", "1"), "[1]"},
		"the rule has no update":        {inserts, keyless, known("x", "9"), known("x", "1"), "[1]"},
		"same key":                      {inserts, keyless, known("x", "1"), known("skip", "1"), "[]"},
		"old key unknown":               {updates, other, known("x", "?"), known("skip", "1"), "[1]"},
		"the key is not sent, is known": {updates, keyless, known("x", "1"), known("skip", "?"), "[]"},
		"no value, so no change":        {updates, other, known("x", "?"), known("skip", "?"), "[]"},
		"no column":                     {updates, unlisted, known("x"), known("skip"), `does not carry "id"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := &source{rules: []*relay.Rule{c.rule, rule("u")}}
			keys, err := movedUpdate(t, s, c.table, relay.Change{Old: c.old, New: c.new})
			got := fmt.Sprint(keys)
			if err != nil {
				got = err.Error()
				if !errors.Is(err, relay.ErrRowsLost) {
					t.Errorf("the error is not ErrRowsLost: %v", err)
				}
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("it has %s, want %s", got, c.want)
			}
		})
	}
}

// The keys that wait to be read are bounded by their bytes.
func TestBackfill_RemembersKeysUpToABound(t *testing.T) {
	r := reading("a")
	r.Ops = relay.OpsOf(relay.Insert, relay.Read)
	table := &relay.Relation{OID: 1, Schema: "public", Name: "t", Identity: relay.IdentityFull, Columns: []relay.Column{{Name: "id"}}}
	moves := func(n, size int) []relay.Change {
		var all []relay.Change
		for i := range n {
			all = append(all, relay.Change{Old: known("x"), New: known(fmt.Sprint(i, strings.Repeat("k", size)))})
		}
		return all
	}
	s := &source{rules: []*relay.Rule{r, rule("u")}}
	for _, c := range []struct{ n, size, kept int }{{10_000, 10, 10_000}, {100, 10_000, 100}, {200_000, 1, -1}, {200, 10_000, -1}} {
		keys, err := movedUpdate(t, s, table, moves(c.n, c.size)...)
		switch {
		case c.kept < 0 && (!errors.Is(err, relay.ErrRowsLost) || !strings.Contains(err.Error(), "rows of public.t changed before a chunk")):
			t.Errorf("%d keys of %d bytes: %v", c.n, c.size, err)
		case c.kept >= 0 && (err != nil || len(keys) != c.kept):
			t.Errorf("%d keys of %d bytes: %d are remembered, %v", c.n, c.size, len(keys), err)
		}
	}
}

// TestBackfill_RandomMoves moves the rows of a table about while it is read, with
// updates that the rule tells, passes over or does not have the values of. Each
// row has to be told whole, wherever it is.
func TestBackfill_RandomMoves(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newMovingWorld(t, seed).run() })
		})
	}
}

// movingWorld is a table of rows with an id that stays and a key that moves.
type movingWorld struct {
	t     *testing.T
	rng   *rand.Rand
	s     *source
	table *relay.Relation
	old   bool           // the changes carry old keys
	rows  map[int]string // by key
	txs   []movingTx
	in    *relay.Ingest
	end   func()
}

type movingTx struct {
	tx      relay.Tx
	changes []relay.Change
}

func newMovingWorld(t *testing.T, seed uint64) *movingWorld {
	w := &movingWorld{t: t, rng: rand.New(rand.NewPCG(seed, 7)), rows: map[int]string{}}
	w.old = w.rng.IntN(2) == 0
	w.table = &relay.Relation{OID: 1, Schema: "public", Name: "t", Identity: relay.IdentityIndex, Columns: []relay.Column{{Name: "v"}, {Name: "k"}, {Name: "skip"}}}
	r := reading("a")
	if w.rng.IntN(3) == 0 {
		r.Ops = relay.OpsOf(relay.Read)
	}
	r.Bind = func(*relay.Relation) (relay.Program, error) {
		return progFunc(func(c *relay.Change, d *relay.Draft) (bool, error) {
			d.Data = append(d.Data, c.New[0].Text...)
			return c.Op == relay.Read || c.New[2].State != relay.Known, nil
		}), nil
	}
	w.s = &source{store: &relaytest.Memory{}, rules: []*relay.Rule{r, rule("u")}}
	for i := range 20 {
		w.rows[10*i] = fmt.Sprint("row", i)
	}
	return w
}

func (w *movingWorld) key(k int) relay.Value {
	return relay.Value{State: relay.Known, Text: fmt.Appendf(nil, "%03d", k)}
}

// commit moves some rows in one transaction.
func (w *movingWorld) commit() {
	n := len(w.txs) + 1
	x := movingTx{tx: relay.Tx{XID: uint32(n), CommitLSN: relay.LSN(1000 + 16*n), CommitTime: int64(n)}}
	for i := range 1 + w.rng.IntN(3) {
		from := slices.Sorted(maps.Keys(w.rows))[w.rng.IntN(len(w.rows))]
		to := w.rng.IntN(200)
		v := w.rows[from]
		if _, taken := w.rows[to]; taken {
			to = from // an update that moves nothing
		}
		delete(w.rows, from)
		w.rows[to] = v
		c := relay.Change{
			Op: relay.Update, Relation: w.table, Ordinal: uint32(i), Old: make(relay.Row, 3),
			New: relay.Row{{State: relay.Known, Text: []byte(v)}, w.key(to), {State: relay.Null}},
		}
		if w.old {
			c.Old[1] = w.key(from)
		}
		if w.rng.IntN(3) == 0 {
			c.New[0] = relay.Value{}
		}
		if w.rng.IntN(3) == 0 {
			c.New[2].State = relay.Known
		}
		x.changes = append(x.changes, c)
	}
	w.txs = append(w.txs, x)
}

// send streams what was committed since the checkpoint.
func (w *movingWorld) send() {
	for _, x := range w.txs {
		check(w.t, w.in.Begin(&x.tx))
		for _, c := range x.changes {
			c.Tx = &x.tx
			check(w.t, w.in.Change(&c))
		}
		check(w.t, w.in.Commit(&x.tx, x.tx.CommitLSN+8))
	}
}

func (w *movingWorld) run() {
	b := relay.Backfill{Source: "shop", Rule: "a"}
	check(w.t, w.s.store.AddBackfill(w.t.Context(), &b))
	for life := 0; b.State == relay.BackfillOpen; life++ {
		if life > 1000 {
			w.t.Fatal("the backfill does not come to its end")
		}
		w.in = w.s.open(w.t)
		w.in.Follow(&b)
		w.end = runIngest(w.t, w.in)
		w.send()
		for done := false; !done && w.rng.IntN(4) > 0; {
			if w.rng.IntN(2) == 0 {
				w.commit()
				w.send()
			}
			done = w.chunk(&b)
		}
		w.end()
		all, err := w.s.store.Backfills(w.t.Context())
		check(w.t, err)
		b = all[0]
	}
	told := map[string]bool{}
	for _, d := range data(w.t, w.s.store) {
		told[d] = true
	}
	for k, v := range w.rows {
		if !told[v] {
			w.t.Errorf("%s, which is at %03d now, was not told", v, k)
		}
	}
}

// chunk reads some rows, those that moved first.
func (w *movingWorld) chunk(b *relay.Backfill) (done bool) {
	point := relay.LSN(1000 + 16*len(w.txs) + 8)
	check(w.t, w.in.Idle(point))
	c, err := w.in.NewChunk(b, w.in.Rule("a"), point, 1)
	check(w.t, err)
	check(w.t, c.Wait(w.t.Context()))
	read := func(k int, key [][]byte) {
		row := relay.Row{{State: relay.Known, Text: []byte(w.rows[k])}, w.key(k), {State: relay.Null}}
		check(w.t, c.Read(w.t.Context(), w.table, row, key))
	}
	c.Table(w.table.Table(), []string{"k"})
	moved := c.Moved()
	for _, key := range moved {
		k, err := strconv.Atoi(string(key[0]))
		check(w.t, err)
		if _, ok := w.rows[k]; ok {
			read(k, nil)
		}
	}
	c.ReadAgain(len(moved))
	some := 1 + w.rng.IntN(5)
	done = true
	for _, k := range slices.Sorted(maps.Keys(w.rows)) {
		key := w.key(k).Text
		if b.Progress.After != nil && string(key) <= string(b.Progress.After[0]) {
			continue
		}
		if some--; some < 0 {
			done = false
			break
		}
		read(k, [][]byte{key})
	}
	if done {
		c.EndTable(w.table.Table(), true)
	}
	b.Progress, err = c.Close(w.t.Context(), false)
	check(w.t, err)
	return done
}
