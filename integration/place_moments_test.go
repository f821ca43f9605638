package integration_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

// moments are those of a reload at which a kill leaves something half done, in their order.
var moments = []struct {
	name string
	moment
}{
	{"altered: the server has committed the larger publication, and nothing is recorded", moment{"ADD TABLE", "COMMIT\x00"}},
	{"recorded: the rules wait in the store, and their message is not written", moment{"pg_logical_emit_message", ""}},
	{"marked: the message is written, and the daemon does not know", moment{"pg_logical_emit_message", "SELECT 1\x00"}},
	{"sent: the message comes out of the stream, and the place is not stored", moment{"", "rowhook.rules"}},
}

// The daemon is killed at each moment of a reload while transactions are under way: no change is
// lost, made into two events or judged by the wrong rules, of tables and of columns that are added.
func TestPlace_KilledAtEachMoment(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	names := []string{"a", "b", "c", "d"}
	t.Run("tables", func(t *testing.T) {
		killedAtEachMoment(t, cluster, momentWorld{
			name: "moments_tables", schema: placeSchema, source: shopSource, rules: tables, smaller: "DROP TABLE",
			writers: func(s *shop) func() int { return writers(s, names...) },
		})
	})
	if cluster.Major() < 15 {
		return // columns = "rules" is refused
	}
	t.Run("columns", func(t *testing.T) {
		killedAtEachMoment(t, cluster, momentWorld{
			name: "moments_columns", schema: "CREATE TABLE items (id int PRIMARY KEY, v text, a int, b int, c int, d int)",
			source: leastSource("rules"), rules: columnsAs, smaller: "ADD TABLE",
			writers: func(s *shop) func() int {
				return writing(s, func(id int) string {
					return fmt.Sprintf("INSERT INTO items VALUES (%[1]d, 'x', %[1]d, %[1]d, %[1]d, %[1]d); SELECT pg_sleep(0.01);", id)
				})
			},
		})
	})
}

// columnsAs is a rule of a version that reads the columns, too.
func columnsAs(version int, names ...string) string {
	more := "v = %d,"
	for _, n := range names {
		more += fmt.Sprintf(" %[1]s = new.%[1]s,", n)
	}
	return strings.Replace(itemsAs(version), fmt.Sprintf("v = %d,", version), fmt.Sprintf(more, version), 1)
}

type momentWorld struct {
	name, schema, source string
	rules                func(version int, names ...string) string
	writers              func(*shop) (stop func() int)
	smaller              string // in the statement that takes out what rules need no more
}

func killedAtEachMoment(t *testing.T, cluster *postgres.Cluster, m momentWorld) {
	w := newWire(t, withPassword(t, cluster.URL(m.name)))
	s := newShop(t, cluster, m.name, shopOptions{schema: m.schema, source: m.source, rules: m.rules(1), url: w.URL})
	s.d.StartReady()
	stop := m.writers(s)
	sets := []inForce{{version: 1}}
	names := []string{"a", "b", "c", "d"}
	killAt := func(at moment, names ...string) {
		t.Helper()
		version := len(sets) + 1
		s.d.SetRules(strings.ReplaceAll(m.source, "SLOT", "rowhook_"+s.name) + m.rules(version, names...) + sinkTo("hook", s.hook.URL))
		sprung, done := w.stopAt(at), make(chan struct{})
		go func() {
			defer close(done)
			s.d.Command("reload", "--data-dir", "DATA") // the daemon is gone before it answers
		}()
		select {
		case <-sprung:
		case <-time.After(harness.Patience):
			t.Fatalf("the moment %q does not come", at)
		}
		s.d.Kill9()
		w.goOn()
		<-done
		s.d.StartReady()
		src := s.untilSourceThat("has no rules waiting", func(src *api.SourceStatus) bool {
			return src.Rules.Waiting == "" && src.Rules.Fingerprint != "" && src.State == api.SourceStreaming
		})
		sets = append(sets, inForce{version, names, lsnOf(t, src.Rules.From)})
	}
	for i, at := range moments {
		t.Log(at.name)
		killAt(at.moment, names[:i+1]...)
	}
	published := func() string {
		return s.ask("SELECT string_agg(tablename || coalesce(to_jsonb(t)->>'attnames', ''), ' ' ORDER BY tablename) FROM pg_publication_tables t WHERE pubname = 'rowhook_shop'")
	}
	large := published()
	killAt(moment{m.smaller, "COMMIT\x00"})
	if small := published(); len(small) >= len(large) {
		t.Errorf("the publication sends %s, and %s when more was needed", small, large)
	}
	n := stop()
	s.judgeMoments(n, names, sets)
	s.unbroken()
}

// judgeMoments holds the events of n transactions against the sets that were in force: what a set
// reads beside items is in an event of its own or in a field of the item's.
func (s *shop) judgeMoments(n int, names []string, sets []inForce) {
	s.t.Helper()
	s.eventually(func() error {
		items, ids, got := map[int]made{}, map[string]string{}, map[int][]string{}
		for _, q := range s.hook.Events() {
			m := madeBy(s.t, q)
			of := fmt.Sprint(q.Type, " ", m.ID)
			if before, ok := ids[of]; ok && before != q.ID {
				s.t.Fatalf("%s is two events: %s and %s", of, before, q.ID)
			}
			ids[of] = q.ID
			if q.Type != "item" {
				got[m.ID] = append(got[m.ID], strings.TrimPrefix(q.Type, "added."))
				continue
			}
			items[m.ID] = m
			var data map[string]any
			if err := json.Unmarshal(q.Data, &data); err != nil {
				s.t.Fatal(err)
			}
			for _, name := range names {
				if v, ok := data[name]; ok && v == float64(m.ID) {
					got[m.ID] = append(got[m.ID], name)
				} else if ok {
					s.t.Fatalf("the event of item %d has %s = %v", m.ID, name, v)
				}
			}
		}
		if len(items) != n {
			return fmt.Errorf("events of %d items, want %d", len(items), n)
		}
		judged := map[int]int{}
		for id, m := range items {
			var set inForce
			for _, f := range sets {
				if f.from <= lsnOf(s.t, m.LSN) {
					set = f
				}
			}
			judged[set.version]++
			if has := slices.Compact(slices.Sorted(slices.Values(got[id]))); m.V != set.version || !slices.Equal(has, set.names) {
				return fmt.Errorf("item %d, committed at %s, is judged by version %d with %v, want version %d with %v; the places are %+v", id, m.LSN, m.V, has, set.version, set.names, sets)
			}
		}
		if len(judged) < len(sets) {
			return fmt.Errorf("only the versions %v have judged: that proves nothing", slices.Sorted(maps.Keys(judged)))
		}
		return nil
	})
}
