package config

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

// randomRow returns a row of the shop table: null only where a column may be.
func randomRow(r *rand.Rand, t *relay.Table) relay.Row {
	texts := map[string][]string{
		"id": {"1", "9223372036854775807"}, "status": {"pending", "paid", "refunded"}, "color": {"red", "green"}, "small": {"-32768", "0", "7", "32767"}, "paid": {"t", "f"},
		"uid": {"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}, "day": {"2026-01-31", "infinity"}, "at": {"2026-01-31 09:30:00+00", "-infinity"}, "local_at": {"2026-01-31 09:30:00"},
		"name": {"", "Zoë", "7"}, "code": {"abc", "x  "}, "nick": {"n"}, "price": {"-999.99", "12.50"}, "ratio": {"0.1", "1e+20"}, "doc": {`{"total": 5, "name": "x"}`, "null", "[1]"},
		"tags": {"{}", `{a,NULL,"b c"}`}, "grid": {"{{1,2},{3,NULL}}"}, "home": {"(Main,12345)", "(,)"}, "states": {"{paid}", "{}"}, "cents": {"-5", "0"}, "sum": {"1"},
	}
	row := make(relay.Row, len(t.Columns))
	for i, c := range t.Columns {
		all := texts[c.Name]
		if all == nil { // mtotal and the like
			all = map[string][]string{"mname": {"x", ""}, "mtotal": {"-1", "6", "2147483647"}, "mpaid": {"t", "f"}, "mstatus": {"paid", "refunded"}}[c.Name]
		}
		row[i] = relay.Value{State: relay.Known, Text: []byte(all[r.IntN(len(all))])}
		if c.Name[0] == 'm' && r.IntN(2) == 0 {
			row[i] = relay.Value{State: relay.Null}
		}
	}
	return row
}

var soundConditions = []string{
	``, `new.mtotal != null`, `new.mtotal == null || new.mtotal > 5`, `new.mtotal > 5 && new.mtotal != null`, `op != "delete"`, `op == "delete" || new.status == "paid"`,
	`new.mstatus == "paid" || new.mstatus == "refunded"`, `contains(["paid", "pending"], new.mstatus)`, `!(new.mname == null)`, `new.status != "paid"`, `new.mtotal == new.small`,
	`row.mpaid == true`, `changed.status`, `try(new.mtotal > 5, false)`, `new.mtotal != null && (new.mtotal > 9 || new.mtotal < 2)`, `old.mstatus != new.mstatus`,
}

var soundData = []string{
	`row`, `new`, `old`, `{ a = new.mtotal, b = row.status, c = new.home.zip, d = new.tags[0], e = new.doc.total }`, `coalesce(new.mtotal, new.mname, false)`,
	`op == "delete" ? old.id : new.id`, `[for t in coalesce(new.tags, []) : t]`, `{for k, v in row : k => v}`, `merge(row, { id = "x", extra = [op] })`, `pick(row, "id", "mname")`,
	`omit(row, "doc", "grid")`, `new.mtotal == null ? "none" : new.mtotal * 2`, `try(tonumber(row.name), null)`, `{ n = tostring(new.mtotal), l = length(row.name), s = split(" ", row.name) }`,
	`concat(row.tags, ["x"], [1])`, `keys(row)`, `values({ a = 1, b = row.mname })`, `[row.status, row.mstatus, "x"]`, `row.small / 2`, `floor(row.ratio)`, `max(row.small, row.id)`, `-row.price`,
	`new.mtotal`, `new.mstatus`, `reverse(row.tags)`, `distinct(row.states)`, `tx.xid`, `lookup({ a = 1 }, row.name, null)`, `row.grid[0]`, `row.grid[*]`, `{ (row.name) = row.mtotal }`, `sum([row.small, 1])`,
}

// TestInfer_IsSound runs rules on random rows: what they make is of the type
// that was inferred, and what was not reported does not fail.
func TestInfer_IsSound(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	table := fullTable()
	tx := &relay.Tx{XID: 7, CommitTime: 1}
	made, failed := 0, 0
	for _, ops := range []relay.Ops{onInsert, onUpdate, onDelete, onAll} {
		for _, when := range soundConditions {
			for _, data := range soundData {
				// Expressions of a file have places of their own.
				e, diags := exprs{when: when, data: strings.Repeat(" ", len(when)) + data}.compile(t, scopeOn(ops))
				if diags.HasErrors() {
					continue // certain to be wrong
				}
				in := e.infer(table)
				p, err := e.bind(&table.Relation)
				if err != nil {
					t.Fatal(err)
				}
				for range 6 {
					c := &relay.Change{Op: relay.Insert, Relation: &table.Relation, Tx: tx}
					switch {
					case ops == onUpdate || ops == onAll && r.IntN(2) == 0:
						c.Op, c.New, c.Old = relay.Update, randomRow(r, table), randomRow(r, table)
					case ops == onDelete || ops == onAll && r.IntN(2) == 0:
						c.Op, c.Old = relay.Delete, randomRow(r, table)
					default:
						c.New = randomRow(r, table)
					}
					where := fmt.Sprintf("seed %d: %s of %s when %q", seed, c.Op, data, when)
					var d relay.Draft
					ok, err := p.Eval(c, &d)
					switch {
					case err != nil && !in.diags.HasErrors() && strings.Contains(err.Error(), "null"):
						t.Fatalf("%s fails, and nothing was reported: %v", where, err)
					case err != nil:
						failed++
					case ok:
						made++
						if why := (&frame{prog: p.(*program)}).misfit(in.data, d.Data, "data"); why != "" {
							t.Fatalf("%s: %s\n%s", where, why, d.Data)
						}
					}
				}
			}
		}
	}
	if made < 1000 || failed == 0 {
		t.Errorf("%d events and %d failures: the rules are of no use", made, failed)
	}
}
