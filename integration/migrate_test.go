package integration_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// configure writes the source block with rules and the sink.
func (s *shop) configure(source, rules string) {
	s.t.Helper()
	s.d.SetRules(strings.ReplaceAll(source, "SLOT", "rowhook_"+s.name) + rules + sinkTo("hook", s.hook.URL))
}

// beside opens a session of its own and runs statements in it.
func (s *shop) beside() (run func(sql string)) {
	s.t.Helper()
	conn, err := s.cluster.Conn(s.t.Context(), s.name)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return func(sql string) {
		s.t.Helper()
		if _, err := conn.PgConn().Exec(s.t.Context(), sql).ReadAll(); err != nil {
			s.t.Fatalf("%s: %v", sql, err)
		}
	}
}

func (s *shop) lists() string {
	s.t.Helper()
	return s.ask("SELECT string_agg(tablename || ' ' || attnames::text, '; ' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = 'rowhook_shop'")
}

func personRule(on, data string) string {
	return fmt.Sprintf("\nevent \"person\" {\n  table = \"public.people\"\n  on    = [%s]\n  data  = { %s }\n}\n", on, data)
}

// The list of columns narrows as soon as rules are in force that read less, whoever is writing: on
// the wire nothing more leaves. Where the table is locked it does so later, by itself.
func TestCapture_TheListNarrowsAtOnce(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	if cluster.Major() < 15 {
		return // refused: TestCapture_OnlyWhatRulesReadLeavesTheDatabase
	}
	w := newWire(t, withPassword(t, cluster.URL("narrow")))
	s := newShop(t, cluster, "narrow", shopOptions{schema: peopleSchema, source: leastSource("rules"), url: w.URL,
		rules: personRule(`"insert", "update"`, "name = new.name, ssn = new.ssn") + noteRule})
	s.d.StartReady()
	s.exec("INSERT INTO people VALUES (1, 'LEAVES', 'x', 'LEAVES-ssn', 'x')")
	s.hook.WaitCount(1)
	if !w.saw("LEAVES-ssn") {
		t.Error("the wire sees nothing")
	}

	writer := s.beside()
	writer("BEGIN; INSERT INTO people VALUES (2, 'LEAVES', 'x', 'before', 'x')")
	s.configure(leastSource("rules"), personRule(`"insert"`, "name = new.name"))
	res := s.reload()
	if got := s.lists(); got != "people {id,name}" || res.Sources[0].Rules.Waiting != "" {
		t.Errorf("after the reload the publication lists %s; it says %+v", got, res.Sources)
	}
	if ops := s.ask("SELECT concat_ws(' ', pubinsert, pubupdate, pubdelete) FROM pg_publication WHERE pubname = 'rowhook_shop'"); ops != "t f f" {
		t.Errorf("insert, update and delete are published: %s", ops)
	}
	w.forget()
	s.exec("INSERT INTO people VALUES (3, 'LEAVES', 'x', 'GONE', 'GONE'); UPDATE people SET name = 'GONE'; INSERT INTO \"Sick, notes\" VALUES (50, 'GONE', 'GONE')")
	writer("INSERT INTO people VALUES (4, 'LEAVES', 'x', 'GONE', 'GONE'); COMMIT")
	s.hook.WaitCount(4)
	if w.saw("GONE") || !w.saw("LEAVES") {
		t.Errorf("after the reload: GONE left %v, LEAVES %v", w.saw("GONE"), w.saw("LEAVES"))
	}

	// Something that VACUUM and CREATE INDEX CONCURRENTLY hold, too, keeps it wide.
	writer("BEGIN; LOCK TABLE people IN SHARE UPDATE EXCLUSIVE MODE")
	s.configure(leastSource("rules"), personRule(`"insert"`, "id = new.id"))
	s.reload()
	if got := s.lists(); got != "people {id,name}" {
		t.Errorf("while its table is locked the publication lists %s", got)
	}
	s.d.WaitLog("it will be tried again")
	writer("COMMIT")
	s.eventually(func() error {
		if got := s.lists(); got != "people {id}" {
			return fmt.Errorf("the publication lists %s", got)
		}
		return nil
	})

	// Files that were edited while the daemon was away.
	for _, data := range []string{"name = new.name", "id = new.id"} {
		s.d.Term()
		s.configure(leastSource("rules"), personRule(`"insert"`, data))
		s.d.StartReady()
		s.untilSourceThat("has no rules waiting", func(src *api.SourceStatus) bool { return src.Rules.Waiting == "" && src.Rules.Fingerprint != "" })
	}
	s.eventually(func() error {
		if got := s.lists(); got != "people {id}" {
			return fmt.Errorf("the publication lists %s", got)
		}
		return nil
	})
	w.forget()
	s.exec("INSERT INTO people VALUES (5, 'GONE', 'x', 'GONE', 'GONE')")
	s.hook.WaitCount(5)
	if w.saw("GONE") {
		t.Error("after the start with other rules a column leaves that none reads")
	}
}

// A table is dropped while the rules in force name it, and then they are edited to name another one:
// what only the rules before needed stands in nobody's way.
func TestReload_AfterItsTableWasDropped(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	for name, source := range map[string]string{"all": shopSource, "rules": leastSource("rules")} {
		if name == "rules" && cluster.Major() < 15 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := newShop(t, cluster, "dropped_"+name, shopOptions{schema: placeSchema, source: source, rules: tables(1, "a")})
			s.d.StartReady()
			s.put(1)
			s.exec("INSERT INTO a VALUES (1)")
			s.expect(1, 1)
			s.exec("DROP TABLE a")
			s.configure(source, tables(2, "b"))
			s.reload()
			s.untilSourceThat("has no rules waiting", func(src *api.SourceStatus) bool {
				return src.Rules.Waiting == "" && src.State == api.SourceStreaming
			})
			s.put(2)
			s.exec("INSERT INTO b VALUES (2)")
			s.expect(1, 1, 2, 2)
			s.eventually(func() error {
				if got := s.published(); got != "b items" {
					return fmt.Errorf("published are %s", got)
				}
				return nil
			})

			// The same at a start.
			s.d.Term()
			s.exec("DROP TABLE b")
			s.configure(source, tables(3, "c"))
			s.d.StartReady()
			s.untilSourceThat("has no rules waiting", func(src *api.SourceStatus) bool {
				return src.Rules.Waiting == "" && src.Rules.Fingerprint != "" && src.State == api.SourceStreaming
			})
			s.put(3)
			s.exec("INSERT INTO c VALUES (3)")
			s.expect(1, 1, 2, 2, 3, 3)
		})
	}
}

// A listed column gets another name: the rule that reads the old one stops the source before the
// change, and with the corrected rule it goes on. What came between is a dead letter that the
// corrected rule can judge.
func TestReload_AfterAListedColumnWasRenamed(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	if cluster.Major() < 15 {
		return // refused: TestCapture_OnlyWhatRulesReadLeavesTheDatabase
	}
	rule := func(column string) string {
		return strings.ReplaceAll(itemRule, "row\n", "{ id = new.id, v = new."+column+" }\n")
	}
	s := newShop(t, cluster, "renamed", shopOptions{source: leastSource("rules"), rules: rule("v")})
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.exec("ALTER TABLE items RENAME v TO w")
	s.put(2)
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, `rule "item" reads`, "no column v", "another name", "checkpoint reset")
	s.configure(leastSource("rules"), rule("w"))
	s.reload()
	s.untilSource(api.SourceStreaming)
	s.put(3)
	s.expect(1, 3)
	if n := len(readJSON[api.Failures](s, "events", "failures").Failures); n != 1 {
		t.Errorf("%d dead letters, want that of row 2", n)
	}
	s.must("events", "retry-failures", "--rule", "item")
	s.expect(1, 2, 3)
	for _, q := range s.hook.Events() {
		contains(t, "the event", string(q.Body), `"v":"x"`)
	}
}

// Somebody takes an operation out of the publication, and puts it back: what was changed meanwhile
// was not sent, which is noticed, and recorded from where all was known to be sent.
func TestPlace_WhatWasTakenOutAndPutBackIsAGap(t *testing.T) {
	t.Parallel()
	s := newShop(t, postgres.New(t, postgres.Options{}), "takenout", shopOptions{})
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	last := s.wal()
	s.exec("ALTER PUBLICATION rowhook_shop SET (publish = 'insert')")
	s.exec("UPDATE items SET v = 'lost'")
	s.put(2)
	s.expect(1, 2)
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "it does not publish update, delete", "records the gap")
	s.exec("ALTER PUBLICATION rowhook_shop SET (publish = 'insert, update, delete')")
	for range 2 {
		s.d.Term()
		s.d.StartReady()
		src := s.untilSourceThat("has a gap", func(src *api.SourceStatus) bool { return src.Gaps == 1 })
		if g := src.LastGap; src.Generation != 2 || lsnOf(t, g.From) > last || lsnOf(t, g.To) <= last {
			t.Errorf("generation %d, gap %+v; the update came after %s", src.Generation, g, last)
		}
	}
	s.exec("UPDATE items SET v = 'seen' WHERE id = 1")
	s.expect(1, 1, 2)
}

// The mark waits for the transactions that were under way when the publication was altered, and not
// for those that have begun since, however they overlap.
func TestPlace_WaitsOnlyForEarlierWriters(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "overlap", shopOptions{})
	first, second := s.beside(), s.beside()
	first("BEGIN; INSERT INTO items VALUES (1, 'x')")
	mark := cdc.RulesMark{ID: "x", Writers: true}
	url := relay.NewSecret(withPassword(t, cluster.URL("overlap")))
	soon, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := mark.Write(soon, url); err == nil {
		t.Error("it did not wait for a writer")
	}
	second("BEGIN; INSERT INTO items VALUES (2, 'x')")
	first("COMMIT")
	if err := mark.Write(t.Context(), url); err != nil {
		t.Errorf("it waits for a writer that began later: %v", err)
	}
	second("COMMIT")
}
