package relay_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

// ruleOf makes the events that f puts into the draft.
func ruleOf(name string, f func(c *relay.Change, d *relay.Draft) (bool, error)) *relay.Rule {
	return &relay.Rule{
		Name: name, Type: strings.TrimRight(name, "0123456789"), Source: "shop", Hash: name,
		Tables: []relay.TableName{{Schema: "public", Name: "t"}}, Ops: relay.OpsOf(relay.Insert),
		Bind: func(*relay.Relation) (relay.Program, error) { return progFunc(f), nil },
	}
}

func dataOf(items ...string) func(*relay.Change, *relay.Draft) (bool, error) {
	return func(_ *relay.Change, d *relay.Draft) (bool, error) {
		for i, item := range items {
			x := d
			if i > 0 {
				x = d.Add()
			}
			x.Data = append(x.Data, item...)
		}
		return len(items) > 0, nil
	}
}

func failing(message string) func(*relay.Change, *relay.Draft) (bool, error) {
	return func(*relay.Change, *relay.Draft) (bool, error) {
		e := relay.NewRuleError(fmt.Errorf("rules.hcl:%d: %s", len(message), message))
		e.Argument, e.Message = "when", message
		return false, e
	}
}

// written writes a difference in lines.
func written(d *relay.Difference) (lines []string) {
	for _, e := range d.Removed {
		lines = append(lines, fmt.Sprintf("- %s %s", e.Type, e.Data))
	}
	for _, e := range d.Added {
		lines = append(lines, fmt.Sprintf("+ %s %s", e.Type, e.Data))
	}
	for _, c := range d.Changed {
		for _, f := range c.Fields {
			lines = append(lines, fmt.Sprintf("~ %s %s %s %s", c.After.Type, f.Field, f.Before, f.After))
		}
	}
	for _, f := range d.Failures {
		lines = append(lines, fmt.Sprintf("! %s %q %q", f.Rule, f.Before, f.After))
	}
	for _, u := range d.Unjudged {
		lines = append(lines, fmt.Sprintf("? %s %v %v", u.Rule, u.After, u.Missing))
	}
	return lines
}

func TestSimulation_SaysWhatDiffersEventByEvent(t *testing.T) {
	keyed := func(key, old, tenant string) func(*relay.Change, *relay.Draft) (bool, error) {
		return func(_ *relay.Change, d *relay.Draft) (bool, error) {
			d.Data = append(d.Data, `{}`...)
			d.KeyKind = relay.KeyNone
			if key != "" {
				d.KeyKind, d.Key = relay.KeySet, append(d.Key, key...)
				d.OldKey, d.HasOldKey = append(d.OldKey, old...), true
			}
			if tenant != "" {
				d.Tenant, d.HasTenant = append(d.Tenant, tenant...), true
			}
			return true, nil
		}
	}
	missing := ruleOf("a", dataOf(`1`))
	missing.Bind = func(rel *relay.Relation) (relay.Program, error) {
		return nil, &relay.MissingColumnError{Table: rel.Table(), Column: "total", At: "rules.hcl:3"}
	}
	reads := ruleOf("a", dataOf(`1`))
	reads.Reads = []relay.ColumnRef{{Name: "id"}}
	version2 := ruleOf("a", dataOf(`1`))
	version2.Version = 2
	other := ruleOf("a", dataOf(`1`))
	other.Ops = relay.OpsOf(relay.Delete)
	for name, c := range map[string]struct {
		before, after []*relay.Rule
		cut           []string
		want          []string
		events        [2]int
	}{
		"the same": {
			before: []*relay.Rule{ruleOf("a", dataOf(`{"x": 1, "y": [1, 2]}`)), ruleOf("b", failing("no"))},
			after:  []*relay.Rule{ruleOf("a", dataOf(`{"y":[1,2],"x":1}`)), ruleOf("b", failing("no"))},
			events: [2]int{1, 1},
		},
		"gone, new, versions": {
			before: []*relay.Rule{ruleOf("a", dataOf(`1`)), ruleOf("b", dataOf(`2`))}, after: []*relay.Rule{version2, ruleOf("c", dataOf(`3`))},
			want: []string{"- a 1", "- b 2", "+ a 1", "+ c 3"}, events: [2]int{2, 2},
		},
		"another operation": {before: []*relay.Rule{ruleOf("a", dataOf(`1`))}, after: []*relay.Rule{other}, want: []string{"- a 1"}, events: [2]int{1, 0}},
		"data": {
			before: []*relay.Rule{ruleOf("a", dataOf(`{"id":1,"gone":"x","in":{"a.b":1,"same":2},"list":[1],"big":12345678901234567890}`))},
			after:  []*relay.Rule{ruleOf("a", dataOf(`{"id":1,"in":{"a.b":2,"same":2},"list":[1,2],"big":12345678901234567891,"new":null}`))},
			want: []string{
				"~ a data.big 12345678901234567890 12345678901234567891", `~ a data.gone "x" `, `~ a data.in."a.b" 1 2`, "~ a data.list [1] [1,2]", "~ a data.new  null",
			},
			events: [2]int{1, 1},
		},
		"key and tenant": {
			before: []*relay.Rule{ruleOf("a", keyed("k", "o", ""))}, after: []*relay.Rule{ruleOf("a", keyed("", "", "acme"))},
			want: []string{`~ a key "k" null`, `~ a old_key "o" null`, `~ a tenant null "acme"`}, events: [2]int{1, 1},
		},
		"an element less": {
			before: []*relay.Rule{ruleOf("a", dataOf(`1`, `2`, `3`, `4`))}, after: []*relay.Rule{ruleOf("a", dataOf(`2`, `5`, `4`))},
			want: []string{"- a 3", "~ a data 1 5"}, events: [2]int{4, 3},
		},
		"another rule of the type": {before: []*relay.Rule{ruleOf("a1", dataOf(`1`))}, after: []*relay.Rule{ruleOf("a2", dataOf(`1`))}, events: [2]int{1, 1}},
		"failures": {
			before: []*relay.Rule{ruleOf("a", failing("no")), ruleOf("b", dataOf(`1`)), ruleOf("c", failing("short"))},
			after:  []*relay.Rule{ruleOf("a", dataOf(`1`)), ruleOf("b", failing("not at all")), ruleOf("c", failing("long"))},
			want:   []string{"- b 1", "+ a 1", `! a "when: no" ""`, `! b "" "when: not at all"`, `! c "when: short" "when: long"`},
			events: [2]int{1, 1},
		},
		"a column that was not sent": {
			before: []*relay.Rule{ruleOf("a", dataOf(`1`)), ruleOf("b", dataOf(`2`))}, after: []*relay.Rule{missing, ruleOf("b", dataOf(`3`))},
			want: []string{"~ b data 2 3", "? a true [total]"}, events: [2]int{1, 1},
		},
		"a value that was too long": {
			before: []*relay.Rule{reads, ruleOf("b", dataOf(`2`))}, after: []*relay.Rule{reads, ruleOf("b", dataOf(`2`))}, cut: []string{"id"},
			want: []string{"? a false [id]", "? a true [id]"}, events: [2]int{1, 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := relay.NewSimulation(relay.NewRuleSet("shop", c.before), relay.NewRuleSet("shop", c.after), 7)
			for range 2 {
				change := &relay.Change{Op: relay.Insert, Relation: tableT, New: value("x"), LSN: 9, Tx: &relay.Tx{XID: 1, CommitLSN: 10, CommitTime: 11}}
				d := s.Compare(change, c.cut)
				if got := written(&d); !reflect.DeepEqual(got, c.want) || d.Before != c.events[0] || d.After != c.events[1] {
					t.Errorf("got %d and %d events\n%s\nwant %v\n%s", d.Before, d.After, strings.Join(got, "\n"), c.events, strings.Join(c.want, "\n"))
				}
				unjudged := len(d.Unjudged) == len(c.want)
				if d.Any() != (len(c.want) > 0 && !unjudged) {
					t.Errorf("any is %v", d.Any())
				}
			}
		})
	}
}

// The events have the ids that they had, or would have had.
func TestSimulation_EventsHaveTheirIDs(t *testing.T) {
	s := relay.NewSimulation(relay.NewRuleSet("shop", []*relay.Rule{ruleOf("a", dataOf(`1`, `2`))}), relay.NewRuleSet("shop", nil), 7)
	d := s.Compare(&relay.Change{Op: relay.Insert, Relation: tableT, New: value("x"), LSN: 9, Ordinal: 2, Tx: &relay.Tx{XID: 1, CommitLSN: 10, CommitTime: 11}}, nil)
	f := relay.IDFacts{SystemID: 7, CommitLSN: 10, XID: 1, CommitTime: 11, Kind: relay.Insert, ChangeLSN: 9, Ordinal: 2, Rule: "a", Item: 1}
	if len(d.Removed) != 2 || d.Removed[1].ID != f.ID() || d.Removed[1].Time != 11 {
		t.Errorf("removed: %+v", d.Removed)
	}
}
