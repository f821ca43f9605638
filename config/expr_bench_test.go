package config

import (
	"bytes"
	"testing"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// The same rule compiled and written by hand. Issue: at most three times the
// time of the hand-written one; no allocation where the condition does not
// hold, at most two where it does.
const (
	benchWhen = `new.status == "paid" && old.id == 7 && new.total > 1000`
	benchData = `{ order_id = new.id, total = new.total, status = new.status, paid = new.paid, at = new.at }`
)

func handWhen(c *relay.Change) bool {
	if string(c.New[1].Text) != "paid" {
		return false
	}
	if id, ok := pgvalue.ParseInt(c.Old[0].Text); !ok || id != 7 {
		return false
	}
	return pgvalue.CompareNumbers(c.New[2].Text, []byte("1000")) > 0
}

func handData(c *relay.Change, dst []byte) []byte {
	dst = append(dst, `{"order_id":`...)
	dst = pgvalue.AppendJSON(dst, 20, c.New[0].Text, nil)
	dst = append(dst, `,"total":`...)
	dst = pgvalue.AppendJSON(dst, 1700, c.New[2].Text, nil)
	dst = append(dst, `,"status":`...)
	dst = pgvalue.AppendString(dst, c.New[1].Text)
	dst = append(dst, `,"paid":`...)
	dst = pgvalue.AppendJSON(dst, 16, c.New[3].Text, nil)
	dst = append(dst, `,"at":`...)
	dst = pgvalue.AppendJSON(dst, 1184, c.New[7].Text, nil)
	return append(dst, '}')
}

func benchChange(total string) *relay.Change {
	c := updated()
	c.New[2].Text = []byte(total)
	return c
}

func TestExpr_AllocatesNothing(t *testing.T) {
	p := exprs{when: benchWhen, key: `row.id`, data: benchData}.bind(t, tableScope(), orders)
	for _, total := range []string{"12.50", "2000.50"} {
		c := benchChange(total)
		var d relay.Draft
		hit, err := p.Eval(c, &d)
		if err != nil || hit != handWhen(c) || hit && !bytes.Equal(d.Data, handData(c, nil)) {
			t.Fatalf("total %s: %v, %v, %s", total, hit, err, d.Data)
		}
		if n := testing.AllocsPerRun(100, func() { d.Reset(); _, _ = p.Eval(c, &d) }); n > 0 {
			t.Errorf("total %s: %v allocations", total, n)
		}
	}
}

func benchmarkEval(b *testing.B, total string) {
	p := exprs{when: benchWhen, data: benchData}.bind(b, tableScope(), orders)
	c := benchChange(total)
	var d relay.Draft
	b.ReportAllocs()
	for b.Loop() {
		if hit, _ := p.Eval(c, &d); hit {
			d.Reset()
		}
	}
}

func benchmarkHand(b *testing.B, total string) {
	c := benchChange(total)
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		if handWhen(c) {
			buf = handData(c, buf[:0])
		}
	}
}

func BenchmarkExpr_MissOnTheThirdClause(b *testing.B) { benchmarkEval(b, "12.50") }
func BenchmarkHand_MissOnTheThirdClause(b *testing.B) { benchmarkHand(b, "12.50") }
func BenchmarkExpr_HitWithFiveFields(b *testing.B)    { benchmarkEval(b, "2000.50") }
func BenchmarkHand_HitWithFiveFields(b *testing.B)    { benchmarkHand(b, "2000.50") }

func BenchmarkExpr_MissOnTheFirstClause(b *testing.B) {
	p := exprs{when: benchWhen, data: benchData}.bind(b, tableScope(), orders)
	c := benchChange("1")
	c.New[1].Text = []byte("open")
	var d relay.Draft
	b.ReportAllocs()
	for b.Loop() {
		_, _ = p.Eval(c, &d)
	}
}
