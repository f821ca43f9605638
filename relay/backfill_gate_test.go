package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

var keyedTable = &relay.Relation{
	OID: 1, Schema: "public", Name: "t", Identity: relay.IdentityDefault,
	Columns: []relay.Column{{Name: "id", Identity: true}, {Name: "big"}}, PrimaryKey: []int{0},
}

func keyedRow(id string, big relay.ValueState) relay.Row {
	return relay.Row{{State: relay.Known, Text: []byte(id)}, {State: big}}
}

// A row moves within a transaction that is half stored while a backfill is under
// way.
func TestBackfill_ARowMovesInAHalfStoredTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{reading("a")}}
		b := relay.Backfill{Source: "shop", Rule: "a", Progress: underWay(keyedTable)}
		check(t, s.store.AddBackfill(t.Context(), &b))
		in := s.open(t)
		in.Follow(&b)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- in.Run(ctx) }()
		x := relay.Tx{XID: 1, CommitLSN: 96}
		check(t, in.Begin(&x))
		for i := range 40 { // more than a chunk
			row := keyedRow(fmt.Sprint(i)+strings.Repeat("x", 60_000), relay.Null)
			check(t, in.Change(&relay.Change{Op: relay.Insert, Relation: keyedTable, New: row, Tx: &x, Ordinal: uint32(i)}))
		}
		synctest.Wait()
		check(t, in.Change(&relay.Change{Op: relay.Update, Relation: keyedTable, Old: keyedRow("4", relay.Unknown), New: keyedRow("5", relay.Unknown), Tx: &x}))
		time.Sleep(5 * time.Second) // the source takes its time to send the rest
		check(t, in.Commit(&x, 104))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := in.Durable(); got != 104 {
			t.Errorf("durable %s, want 104", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the store never takes it: %v", err)
		}
	})
}

// A message outside a transaction waits for a chunk, and its rule halts.
func TestBackfill_AHeldMessageWhoseRuleHalts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := rule("m")
		m.Tables, m.Message, m.NonTransactional, m.OnError = nil, "m", true, relay.OnErrorHalt
		m.Bind = func(*relay.Relation) (relay.Program, error) {
			return progFunc(func(*relay.Change, *relay.Draft) (bool, error) { return false, errors.New("no") }), nil
		}
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{m, reading("a")}}
		in := s.open(t)
		defer runIngest(t, in)()
		check(t, in.Hold(100))
		check(t, in.Change(&relay.Change{Op: relay.Message, LSN: 150, Name: "m", Payload: []byte("p")}))
		err := in.Open() // called by the backfill, which tries again
		if _, ok := errors.AsType[*relay.RuleFailedError](err); !ok {
			t.Fatalf("open: %v", err)
		}
		stop := forever
		if err := send(in, one(1, 200, "after"), &stop); err == nil {
			synctest.Wait()
			t.Errorf("the stream goes on behind the message that its rule halts at, durable is %s", in.Durable())
		}
	})
}

// A row of a backfill fails with on_error = "halt" while a transaction waits.
func TestBackfill_ARowHaltsWhileATransactionWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reading("a")
		r.OnError = relay.OnErrorHalt
		r.Bind = func(*relay.Relation) (relay.Program, error) {
			return progFunc(func(c *relay.Change, d *relay.Draft) (bool, error) {
				if c.Op == relay.Read && string(c.New[0].Text) == "bad" {
					return false, errors.New("no")
				}
				d.Data = append(d.Data, c.New[0].Text...)
				return true, nil
			}), nil
		}
		s := &source{store: &relaytest.Memory{}, rules: []*relay.Rule{r}}
		b := relay.Backfill{Source: "shop", Rule: "a"}
		check(t, s.store.AddBackfill(t.Context(), &b))
		in := s.open(t)
		defer runIngest(t, in)()
		check(t, in.Hold(100))
		x := one(1, 200, "live")
		check(t, in.Begin(&x.Tx))
		c, err := in.NewChunk(&b, r, 200, 1)
		check(t, err)
		check(t, c.Wait(t.Context()))
		check(t, c.Read(t.Context(), tableT, value("good"), [][]byte{[]byte("1")}))
		if err := c.Read(t.Context(), tableT, value("bad"), [][]byte{[]byte("2")}); err == nil {
			t.Fatal("no error")
		}
		p, err := c.Close(t.Context(), false)
		check(t, err)
		if string(p.After[0]) != "1" {
			t.Errorf("the row that the rule halted at counts as read: after %s", p.After)
		}
		if err := in.Change(&relay.Change{Op: relay.Insert, Relation: tableT, New: value("live"), LSN: 190, Tx: &x.Tx}); err != nil {
			t.Errorf("the live stream stops: %v", err)
			return
		}
		check(t, in.Commit(&x.Tx, x.end))
		synctest.Wait()
		if got := data(t, s.store); !slices.Equal(got, []string{"good", "live"}) {
			t.Errorf("%q", got)
		}
	})
}

// Two reloads while the transaction that holds the place of an earlier set is
// open, because the log is full.
func TestIngest_APlaceIsNotThatOfAnotherSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &rulesWorld{t: t, store: &relaytest.Memory{}}
		w.put("0", 1)
		w.open()
		defer func() { w.stop() }()
		w.put("1", 0)
		w.in.AwaitRules(relay.NextRules{ID: "1", Rules: versioned("1")})
		x := relay.Tx{XID: 1, CommitLSN: 100}
		check(t, w.in.Begin(&x))
		check(t, w.in.Change(&relay.Change{Op: relay.Message, Name: relay.RulesPrefix, Payload: []byte("1"), LSN: 99, Tx: &x}))
		w.put("b2", 0)
		w.in.SetRules(relay.NextRules{ID: "b2", Rules: versioned("b2")}) // reads no more than 0
		w.put("3", 0)
		w.in.AwaitRules(relay.NextRules{ID: "3", Rules: versioned("3")}) // reads more; its message follows
		check(t, w.in.Commit(&x, 105))
		if got := w.in.Rules().Rules()[0].Hash; got != "b2" {
			t.Errorf("after the place of set 1 the set %s judges, whose own place has not come", got)
		}
	})
}
