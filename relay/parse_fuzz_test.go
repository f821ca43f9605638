package relay_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func FuzzParseLSN(f *testing.F) {
	for _, s := range []string{"0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "/1", "1/", "0x1/1", "1/1 ", "00000000001/1", "+1/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		lsn, err := relay.ParseLSN(s)
		if err != nil {
			return
		}
		if again, err := relay.ParseLSN(lsn.String()); err != nil || again != lsn || !strings.EqualFold(trimZeros(s), lsn.String()) {
			t.Fatalf("%q is %s, which is %s: %v", s, lsn, again, err)
		}
	})
}

// trimZeros takes leading zeros from both halves.
func trimZeros(s string) string {
	halves := strings.Split(s, "/")
	for i, h := range halves {
		if h = strings.TrimLeft(h, "0"); h == "" {
			h = "0"
		}
		halves[i] = h
	}
	return strings.Join(halves, "/")
}

func FuzzParseEventID(f *testing.F) {
	id := (&relay.IDFacts{CommitLSN: 1, Rule: "r"}).ID().String()
	for _, s := range []string{id, strings.ToUpper(id), id[:20], "evt_", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := relay.ParseEventID(s); err == nil && !strings.EqualFold(id.String(), s) {
			t.Fatalf("%q is %s", s, id)
		}
	})
}

func FuzzParsePatterns(f *testing.F) {
	f.Add("**", "!order.**", "order.paid@2", 2)
	f.Add("a.*.b", "**.paid", "order.shipped.paid", 1)
	f.Add("rowhook.**", "*@1", "rowhook.gap", 1)
	f.Fuzz(func(t *testing.T, first, second, typ string, version int) {
		both, err := relay.ParsePatterns([]string{first, second})
		if err != nil {
			return
		}
		matches := both.Match(typ, version)
		for _, text := range []string{first, second} {
			one, err := relay.ParsePatterns([]string{strings.TrimPrefix(text, "!")})
			if err != nil {
				t.Fatalf("%q alone: %v", text, err)
			}
			if excluded := strings.HasPrefix(text, "!"); excluded && matches && one.Match(typ, version) {
				t.Fatalf("%q does not exclude %q", text, typ)
			} else if !excluded && !matches && one.Match(typ, version) && !strings.HasPrefix(first+second, "!") && !strings.HasPrefix(second, "!") {
				t.Fatalf("%q does not choose %q beside another", text, typ)
			}
		}
	})
}

// FuzzRejudge reads the changes of dead letters, which may come from another
// version of the program or from a store that somebody wrote to.
func FuzzRejudge(f *testing.F) {
	f.Add([]byte(`{"op":"update","table":"public.t","new":{"id":"1","v":null},"old":{"id":"1"},"lsn":"0/1","xid":7,"commit_lsn":"0/2","context":{"a":1}}`))
	f.Add([]byte(`{"op":"message","name":"p","payload":"{}","xid":0}`))
	f.Add([]byte(`{"op":"insert","new":{"id":"1"},"cut":true}`))
	f.Add([]byte(`null`))
	rel := &relay.Relation{OID: 1, Schema: "public", Name: "t", Columns: []relay.Column{{Name: "id", TypeOID: 23, Identity: true}, {Name: "v", TypeOID: 25}}, PrimaryKey: []int{0}}
	set := relay.NewRuleSet("s", []*relay.Rule{{Name: "r", Type: "r", Source: "s", Tables: []relay.TableName{rel.Table()}, Ops: relay.OpsOf(relay.Insert, relay.Update),
		Bind: func(*relay.Relation) (relay.Program, error) { return echo{}, nil }}})
	f.Fuzz(func(t *testing.T, change []byte) {
		events, err := relay.Rejudge(set, &relay.Failure{Rule: "r", Change: change}, &relay.SourceState{Source: "s"}, rel)
		if err != nil {
			return
		}
		for i := range events {
			if !json.Valid(events[i].Data) {
				t.Fatalf("%s", events[i].Data)
			}
		}
	})
}

// echo is a program whose event is the texts of the row.
type echo struct{}

// Eval implements relay.Program.
func (echo) Eval(c *relay.Change, d *relay.Draft) (bool, error) {
	texts := []string{}
	for _, v := range c.New {
		texts = append(texts, string(v.Text))
	}
	data, err := json.Marshal(texts)
	d.Data = append(d.Data, data...)
	return true, err
}
