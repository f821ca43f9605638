package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/integration/harness"
)

// modelRow is a row as the events made it.
type modelRow struct {
	values map[string]any
	v      int64
	era    int
	whole  bool // no value of it was missing so far
}

// modelMirror applies the events that arrive to tables of its own, as a customer would.
type modelMirror struct {
	keys [][]string // by table: the columns of the primary key

	split  []bool
	mu     sync.Mutex
	strict []bool // by table: it has had a rule from its first row on
	rows   []map[string]modelRow
	seen   map[string]bool // accepted ids
	events int
	reads  int
	wrong  []string
}

func newModelMirror(tables []*modelTable) *modelMirror {
	m := &modelMirror{seen: map[string]bool{}}
	for _, t := range tables {
		var key []string
		for _, c := range t.pk {
			key = append(key, c.name)
		}
		m.keys = append(m.keys, key)
		m.split, m.strict = append(m.split, len(t.leaves) > 0), append(m.strict, t.strict)
		m.rows = append(m.rows, map[string]modelRow{})
	}
	return m
}

// decode reads JSON without going through floats.
func decode(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(into)
}

func keyOf(values map[string]any, names []string) string {
	var key []any
	for _, n := range names {
		key = append(key, values[n])
	}
	text, _ := json.Marshal(key)
	return string(text)
}

// relax says that the events of a table no longer tell all of it.
func (m *modelMirror) relax(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.strict[n] = false
}

// apply takes an accepted delivery.
func (m *modelMirror) apply(q *harness.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen[q.ID] {
		return
	}
	m.seen[q.ID] = true
	m.events++
	var body struct {
		Unchanged []string
		Data      struct {
			T, Era int
			Op     string
			Row    map[string]any
			Old    map[string]any
		}
	}
	if err := decode(q.Body, &body); err != nil {
		m.wrong = append(m.wrong, fmt.Sprintf("%s: %v", q.ID, err))
		return
	}
	e := body.Data
	if e.T < 0 || e.T >= len(m.rows) {
		m.wrong = append(m.wrong, fmt.Sprintf("%s: there is no table %d", q.ID, e.T))
		return
	}
	bad := func(format string, args ...any) {
		if m.strict[e.T] {
			m.wrong = append(m.wrong, fmt.Sprintf("table %d, %s %s, sequence %s (event %d): ", e.T, e.Op, q.Key, q.Sequence, m.events)+fmt.Sprintf(format, args...))
		}
	}
	if e.Op == "truncate" {
		clear(m.rows[e.T])
		return
	}
	key := keyOf(e.Row, m.keys[e.T])
	from := key
	if e.Op == "update" {
		from = keyOf(e.Old, m.keys[e.T])
	}
	before, had := m.rows[e.T][from]
	if e.Op == "delete" {
		if !had {
			bad("there is no such row")
		}
		delete(m.rows[e.T], key)
		return
	}
	v, err := e.Row["v"].(json.Number).Int64()
	if err != nil {
		bad("v: %v", err)
	}
	switch {
	case e.Op == "insert" && had:
		bad("the row is there, at version %d", before.v)
	case e.Op == "insert" && v != 1 && !m.split[e.T]:
		bad("inserted at version %d", v)
	case e.Op == "update" && !had:
		bad("version %d of a row that is not there", v)
	case e.Op == "update" && v != before.v+1:
		bad("version %d follows %d", v, before.v)
	case e.Op == "read" && (!had || v != before.v):
		m.reads++
		bad("read at version %d, and the events have made it %d (known: %t)", v, before.v, had)
	case e.Op == "read":
		m.reads++
	}
	if from != key {
		if _, taken := m.rows[e.T][key]; taken {
			bad("moved to a key that is taken")
		}
		delete(m.rows[e.T], from)
	}
	row := modelRow{values: e.Row, v: v, era: e.Era, whole: true}
	for _, name := range body.Unchanged {
		if value, known := before.values[name]; had && known {
			row.values[name] = value
		} else {
			row.whole = false
		}
		row.whole = row.whole && before.whole
	}
	m.rows[e.T][key] = row
}

// compare holds the mirror of a table against the table.
func (m *modelMirror) compare(ctx context.Context, db *pgx.Conn, n int, t *modelTable) error {
	result, err := db.Query(ctx, "SELECT to_jsonb(x)::text FROM "+t.sql()+" x")
	if err != nil {
		return err
	}
	texts, err := pgx.CollectRows(result, pgx.RowTo[string])
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var wrong []string
	have := map[string]bool{}
	for _, text := range texts {
		var want map[string]any
		if err := decode([]byte(text), &want); err != nil {
			return err
		}
		key := keyOf(want, m.keys[n])
		have[key] = true
		maps.DeleteFunc(want, func(name string, _ any) bool {
			return t.least && name != "v" && !slices.Contains(t.read, name) && !slices.Contains(m.keys[n], name)
		})
		got, ok := m.rows[n][key]
		switch {
		case !ok:
			wrong = append(wrong, key+" is missing: "+short(text))
		case !reflect.DeepEqual(got.values, want):
			wrong = append(wrong, fmt.Sprintf("%s differs in %s (version %d, table %s)", key, difference(got.values, want), got.v, want["v"]))
		}
	}
	for key, row := range m.rows[n] {
		if !have[key] && (t.strict || row.era == t.era) {
			wrong = append(wrong, fmt.Sprintf("%s is there, at version %d, and not in the table", key, row.v))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	sort.Strings(wrong)
	return fmt.Errorf("%s (%d rows, %d in the mirror), %d differ:\n  %s", t.sql(), len(texts), len(m.rows[n]), len(wrong), strings.Join(wrong[:min(len(wrong), 10)], "\n  "))
}

func difference(got, want map[string]any) string {
	var names []string
	for name := range want {
		if !reflect.DeepEqual(got[name], want[name]) {
			names = append(names, fmt.Sprintf("%s (%s, want %s)", name, short(fmt.Sprint(got[name])), short(fmt.Sprint(want[name]))))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			names = append(names, name+" (not in the table)")
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func short(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// A mirror that takes everything would make every seed green.
func TestModel_MirrorSeesWhatIsWrong(t *testing.T) {
	id := modelColumn{name: "id"}
	event := func(n int, op string, row, old string) *harness.Request {
		return &harness.Request{ID: fmt.Sprint(n), Body: fmt.Appendf(nil, `{"unchanged": ["b"], "data": {"t": 0, "era": 1, "op": %q, "row": %s, "old": %s}}`, op, row, old)}
	}
	start := []*harness.Request{
		event(0, "insert", `{"id": 1, "v": 1, "b": "x"}`, `{"id": null}`),
		event(1, "update", `{"id": 1, "v": 2}`, `{"id": 1}`),
	}
	for name, c := range map[string]struct {
		event *harness.Request
		want  string
	}{
		"good":               {event(2, "update", `{"id": 7, "v": 3}`, `{"id": 1}`), ""},
		"good read":          {event(2, "read", `{"id": 1, "v": 2, "b": "x"}`, `{"id": null}`), ""},
		"again, as sent":     {start[0], ""},
		"lost":               {event(2, "update", `{"id": 1, "v": 4}`, `{"id": 1}`), "version 4 follows 2"},
		"twice":              {event(2, "update", `{"id": 1, "v": 2}`, `{"id": 1}`), "version 2 follows 2"},
		"invented":           {event(2, "update", `{"id": 2, "v": 2}`, `{"id": 2}`), "not there"},
		"inserted again":     {event(2, "insert", `{"id": 1, "v": 1}`, `{"id": null}`), "the row is there"},
		"deleted by nobody":  {event(2, "delete", `{"id": 3, "v": null}`, `{"id": 3}`), "no such row"},
		"read too early":     {event(2, "read", `{"id": 1, "v": 1}`, `{"id": null}`), "read at version 1"},
		"read of a new row":  {event(2, "read", `{"id": 9, "v": 1}`, `{"id": null}`), "known: false"},
		"no such table":      {&harness.Request{ID: "2", Body: []byte(`{"data": {"t": 1}}`)}, "there is no table 1"},
		"not what was asked": {&harness.Request{ID: "2", Body: []byte(`{`)}, "unexpected EOF"},
	} {
		m := newModelMirror([]*modelTable{{pk: []modelColumn{id}, strict: true}})
		for _, q := range append(slices.Clone(start), c.event) {
			m.apply(q)
		}
		if all := strings.Join(m.wrong, "\n"); c.want == "" && all != "" || !strings.Contains(all, c.want) {
			t.Errorf("%s: want %q, got %q", name, c.want, all)
		}
		if row := m.rows[0]["[1]"]; name == "lost" && row.values["b"] != "x" {
			t.Errorf("the unchanged value is %v", row.values["b"])
		}
	}
}
