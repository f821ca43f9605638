package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

// bothSources is rules of a version for both sources; with more they name another table, too.
func bothSources(version int, more bool) string {
	text := strings.ReplaceAll(shopSource, "SLOT", "rowhook_two_a") +
		strings.NewReplacer(`"shop"`, `"other"`, "DATABASE_URL", "OTHER_URL", "SLOT", "rowhook_two_b").Replace(shopSource)
	for _, source := range []string{"shop", "other"} {
		rules := itemsAs(version)
		if more {
			rules = tables(version, "a")
		}
		rules = strings.ReplaceAll(rules, "  table =", "  source = source."+source+"\n  table =")
		text += strings.NewReplacer(`"item"`, `"`+source+`.item"`, `"added.a"`, `"`+source+`.added"`).Replace(rules)
	}
	return text
}

// A reload that gives two sources new rules is in force at both or at neither: also when the second
// one fails after the publication of the first was altered.
func TestReload_TwoSourcesOrNeither(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	role(t, cluster, "clerk", "REPLICATION")
	other := &shop{t: t, cluster: cluster, name: "two_b"}
	cluster.Database(t, other.name)
	other.reconnect()
	other.exec(placeSchema + "ALTER TABLE items OWNER TO clerk; GRANT CREATE ON DATABASE two_b TO clerk")
	s := newShop(t, cluster, "two_a", shopOptions{schema: placeSchema, rules: bothSources(1, false), env: []string{"OTHER_URL=" + other.as("clerk")}})
	configure := func(text string) { s.d.SetRules(text + sinkTo("hook", s.hook.URL)) }
	configure(bothSources(1, false))
	s.d.StartReady()
	var ids []int
	// judged writes to all tables, and fails unless both sources judge by the version.
	judged := func(version int, more bool) {
		t.Helper()
		id := len(ids) + 1
		for _, at := range []*shop{s, other} {
			at.put(id)
			at.exec(fmt.Sprintf("INSERT INTO a VALUES (%d)", id))
			ids = append(ids, id)
			if more {
				ids = append(ids, id)
			}
		}
		s.expect(ids...)
		for _, q := range s.hook.Events() {
			if m := madeBy(t, q); m.ID == id && m.V != version && m.V != -1 {
				t.Errorf("%s %d is judged by version %d, want %d", q.Type, id, m.V, version)
			}
		}
	}
	states := func() (rules []api.SourceRules) {
		t.Helper()
		for _, src := range s.status().Sources {
			if src.State != api.SourceStreaming || src.Generation != 1 || src.Gaps != 0 {
				t.Errorf("source %+v", src)
			}
			rules = append(rules, src.Rules)
		}
		return rules
	}
	judged(1, false)
	before := states()
	refused := func(code int, text string, words ...string) {
		t.Helper()
		configure(text)
		res := s.d.Command("reload", "--data-dir", "DATA")
		if res.Code != code {
			t.Errorf("a reload that one source refuses: %+v", res)
		}
		contains(t, "the reload", res.Stderr, words...)
		for _, at := range []*shop{s, other} {
			if got := at.ask("SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_publication_tables"); got != "items" {
				t.Errorf("the publication in %s has %s", at.name, got)
			}
		}
		configure(bothSources(1, false)) // the commands read it
		if now := states(); !slices.Equal(now, before) {
			t.Errorf("after the refused reload the rules are %+v, before %+v", now, before)
		}
		judged(1, false)
	}
	refused(1, bothSources(2, true), "source other", "public.a belongs to postgres", "ADD TABLE")
	contains(t, "the log", s.d.Log(), "publication shrunk")
	refused(2, strings.Replace(bothSources(2, true), `"other.item"`, "\"other.more\" {\n  source = source.other\n  table = \"public.nope\"\n  on = [\"insert\"]\n  data = row\n}\nevent \"other.item\"", 1), "public.nope")

	other.exec("ALTER TABLE a OWNER TO clerk")
	configure(bothSources(2, true))
	res := s.reload()
	if len(res.Sources) != 2 || len(res.Statements) != 2 {
		t.Fatalf("the reload says %+v", res)
	}
	s.untilSourceThat("has no rules waiting", func(*api.SourceStatus) bool {
		return !slices.ContainsFunc(states(), func(r api.SourceRules) bool { return r.Waiting != "" })
	})
	for i, now := range states() {
		if lsnOf(t, now.From) <= lsnOf(t, before[i].From) {
			t.Errorf("the place of source %d is %s, before %s", i, now.From, before[i].From)
		}
	}
	judged(2, true)
}
