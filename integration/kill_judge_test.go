package integration_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/harness"
)

// truthRow is a committed change; per key, rows are in the order of the commits.
type truthRow struct {
	Kind, Op     string
	OldID, NewID string
	Tag          int64
}

// fact is an event that has to arrive: what it says, and the keys it belongs to.
type fact struct {
	content string // type/op/tag; the tag makes it unique
	keys    []string
}

// expectedOf are the events that the rules make of the rows. Of one change they come in the order
// of the rules' names.
func expectedOf(rows []truthRow, wants func(typ string) bool) (facts []fact) {
	for _, r := range rows {
		var keys []string
		if r.OldID != "" {
			keys = append(keys, r.Kind+"/"+r.OldID)
		}
		if r.NewID != "" && r.NewID != r.OldID {
			keys = append(keys, r.Kind+"/"+r.NewID)
		}
		add := func(typ string) {
			if wants(typ) {
				facts = append(facts, fact{fmt.Sprintf("%s/%s/%d", typ, r.Op, r.Tag), keys})
			}
		}
		switch r.Kind {
		case "items":
			add("item.changed")
			if r.Op != "delete" && r.Tag%2 == 0 {
				add("item.even")
			}
		case "accounts":
			add("account.changed")
		case "memo":
			add("memo")
		}
	}
	return facts
}

// arrival is a request as the judge sees it.
type arrival struct {
	id, content, sequence, body string
	life                        string // which start of the daemon sent it
	accepted                    bool
}

func arrivalsOf(requests []*harness.Request) (arrivals []arrival) {
	for _, q := range requests {
		var data struct {
			Op  string
			Tag int64
		}
		content := "unreadable"
		if err := json.Unmarshal(q.Data, &data); err == nil {
			content = fmt.Sprintf("%s/%s/%d", q.Type, data.Op, data.Tag)
		}
		arrivals = append(arrivals, arrival{q.ID, content, q.Sequence, string(q.Body), q.Header.Get("x-life"), q.Accepted()})
	}
	return arrivals
}

// lanePlace is a place in the lane of a key.
type lanePlace struct {
	*laneSeen
	n int
}

// laneSeen is what has been seen of the lane of one key.
type laneSeen struct {
	key      string
	length   int
	done     int // the first so many have been accepted
	runs     map[string]*laneRun
	sequence string // of the last of them
}

// laneRun is how one life of the daemon went through a lane.
type laneRun struct {
	last     int
	accepted bool
}

// mostRepeated is how many deliveries an endpoint may get again after one crash.
const mostRepeated = 1000

// judge holds what arrived at an endpoint, in order, against what had to:
//
//   - every event, and nothing else;
//   - one content has one id, one sequence and one body, whenever it is sent;
//   - an event is sent only when all before it in its lanes were accepted;
//   - each life goes through a lane step by step from where it begins, which is at or before the
//     first event not accepted yet: what repeats is a suffix;
//   - an accepted event is not sent again in the same life, and a crash repeats few.
func judge(facts []fact, arrivals []arrival) (report string, wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	lanes := map[string]*laneSeen{}
	places := map[string][]lanePlace{}
	for _, f := range facts {
		for _, k := range f.keys {
			l := lanes[k]
			if l == nil {
				l = &laneSeen{key: k, runs: map[string]*laneRun{}}
				lanes[k] = l
			}
			places[f.content] = append(places[f.content], lanePlace{l, l.length})
			l.length++
		}
	}
	first := map[string]arrival{}   // by content
	contents := map[string]string{} // by id
	accepted := map[string]string{} // content to the life that delivered it last
	repeated := map[string]int{}    // by life
	counted := map[string]bool{}    // life and content of those
	lives := map[string]bool{}
	failed, repeats := 0, 0
	for i, a := range arrivals {
		lives[a.life] = true
		if places[a.content] == nil {
			bad("request %d: %s (%s) was not committed", i, a.content, a.id)
			continue
		}
		if before, seen := first[a.content]; !seen {
			first[a.content] = a
		} else if before.id != a.id || before.sequence != a.sequence || before.body != a.body {
			bad("request %d: %s is %s, sequence %s, and was %s, sequence %s: %s was %s", i, a.content, a.id, a.sequence, before.id, before.sequence, a.body, before.body)
		}
		if other, seen := contents[a.id]; seen && other != a.content {
			bad("request %d: %s has the id %s of %s", i, a.content, a.id, other)
		}
		contents[a.id] = a.content
		if life, seen := accepted[a.content]; seen {
			if life == a.life {
				bad("request %d: %s was accepted in this life and is sent again", i, a.content)
			}
			repeats++
			if again := a.life + " " + a.content; !counted[again] { // one that fails is tried again
				counted[again] = true
				if repeated[a.life]++; repeated[a.life] == mostRepeated+1 {
					bad("life %s sends more than %d deliveries again", a.life, mostRepeated)
				}
			}
		}
		for _, p := range places[a.content] {
			p.see(i, a, bad)
		}
		if a.accepted {
			accepted[a.content] = a.life
		} else {
			failed++
		}
	}
	for key, l := range lanes {
		if l.done != l.length {
			bad("key %s: %d of %d events arrived", key, l.done, l.length)
		}
	}
	most := 0
	for _, n := range repeated {
		most = max(most, n)
	}
	return fmt.Sprintf("%d events of %d keys in %d requests of %d lives, %d failed on purpose, %d repeated, at most %d after one crash",
		len(facts), len(lanes), len(arrivals), len(lives), failed, repeats, most), wrong
}

// see takes the arrival of the event at this place of its lane.
func (p lanePlace) see(i int, a arrival, bad func(string, ...any)) {
	if p.n > p.done {
		bad("request %d: %s is event %d of key %s, of which %d have been accepted", i, a.content, p.n, p.key, p.done)
	}
	run := p.runs[a.life]
	switch {
	case run == nil:
		run = &laneRun{}
		p.runs[a.life] = run
	case run.accepted && p.n != run.last+1:
		bad("request %d: %s is event %d of key %s, and life %s was at %d, which was accepted", i, a.content, p.n, p.key, a.life, run.last)
	case !run.accepted && p.n != run.last:
		bad("request %d: %s is event %d of key %s, and life %s was at %d, which failed", i, a.content, p.n, p.key, a.life, run.last)
	}
	run.last, run.accepted = p.n, a.accepted
	if p.n != p.done {
		return
	}
	if a.sequence < p.sequence {
		bad("request %d: %s has the sequence %s after %s in key %s", i, a.content, a.sequence, p.sequence, p.key)
	}
	p.sequence = a.sequence
	if a.accepted {
		p.done++
	}
}

// A judge that lets everything pass would make every kill test green.
func TestKill_JudgeSeesWhatIsWrong(t *testing.T) {
	rows := []truthRow{
		{"items", "insert", "", "1", 1}, {"items", "insert", "", "2", 3}, {"items", "update", "1", "1", 5},
		{"items", "update", "1", "9", 7}, {"items", "delete", "9", "", 7}, {"items", "update", "2", "2", 9},
	}
	ok := func(life string, n int) arrival {
		r := rows[n]
		return arrival{fmt.Sprintf("evt_%d", n), fmt.Sprintf("item.changed/%s/%d", r.Op, r.Tag), fmt.Sprintf("%03d", n), fmt.Sprintf("body %d", n), life, true}
	}
	but := func(a arrival, change func(*arrival)) arrival {
		change(&a)
		return a
	}
	fails := func(a arrival) arrival { return but(a, func(a *arrival) { a.accepted = false }) }
	good := []arrival{ok("1", 0), ok("1", 1), fails(ok("1", 2)), ok("1", 2), fails(ok("1", 5)), ok("2", 0), ok("2", 2), ok("2", 3), ok("3", 2), ok("3", 3), ok("3", 4), ok("2", 5), ok("3", 5)}
	for name, c := range map[string]struct {
		arrivals []arrival
		want     string
	}{
		"good":                  {good, ""},
		"lost at the end":       {good[:9], "1 of 2 events arrived"},
		"lost in between":       {[]arrival{ok("1", 0), ok("1", 1), ok("1", 5), ok("1", 3), ok("1", 4)}, "is event 2 of key items/1, of which 1"},
		"rolled back":           {append(good[:len(good):len(good)], arrival{"evt_x", "item.changed/insert/99", "", "", "1", true}), "was not committed"},
		"order, first delivery": {append([]arrival{ok("1", 2)}, good...), "of which 0 have been accepted"},
		"order across keys":     {[]arrival{ok("1", 0), ok("1", 1), ok("1", 5), ok("1", 2), ok("1", 4), ok("1", 3)}, "key items/9, of which 0"},
		"past a failure":        {[]arrival{ok("1", 0), ok("1", 1), fails(ok("1", 2)), ok("1", 3)}, "which failed"},
		"another id":            {append(good[:len(good):len(good)], but(ok("4", 5), func(a *arrival) { a.id = "evt_y" })), "and was evt_5"},
		"another body":          {append(good[:len(good):len(good)], but(ok("4", 5), func(a *arrival) { a.body = "?" })), "and was evt_5"},
		"a shared id":           {append([]arrival{but(ok("1", 1), func(a *arrival) { a.id = "evt_0" })}, good...), "has the id evt_0 of"},
		"again in one life":     {append(good[:len(good):len(good)], ok("3", 5)), "is sent again"},
		"no suffix":             {append(good[:len(good):len(good)], ok("4", 0), ok("4", 3)), "which was accepted"},
		"sequence falls":        {[]arrival{ok("1", 0), but(ok("1", 2), func(a *arrival) { a.sequence = "" })}, "has the sequence"},
	} {
		report, wrong := judge(expectedOf(rows, func(typ string) bool { return typ == "item.changed" }), c.arrivals)
		all := strings.Join(wrong, "\n")
		if c.want == "" && all != "" || c.want != "" && !strings.Contains(all, c.want) {
			t.Errorf("%s: want %q, got %q (%s)", name, c.want, all, report)
		}
	}
	var many []truthRow
	var twice []arrival
	for life := range 2 {
		for n := range mostRepeated + 1 {
			if life == 0 {
				many = append(many, truthRow{"items", "insert", "", fmt.Sprint(n), int64(2*n + 1)})
			}
			twice = append(twice, arrival{fmt.Sprint(n), fmt.Sprintf("item.changed/insert/%d", 2*n+1), "", "", fmt.Sprint(life), true})
		}
	}
	if _, wrong := judge(expectedOf(many, killWants[0]), twice); len(wrong) != 1 || !strings.Contains(wrong[0], "more than 1000 deliveries again") {
		t.Errorf("too many repeats: %q", wrong)
	}
}
