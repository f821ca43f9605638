package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// wire is a proxy before PostgreSQL that remembers every byte that leaves it, and that can stop the
// conversation at a moment.
type wire struct {
	URL string

	mu     sync.Mutex
	left   bytes.Buffer
	moment *moment
	frozen chan struct{} // nil: everything passes
	sprung chan struct{}
}

// moment is when the client has asked and the server answers, on one connection; without an answer,
// when the client asks.
type moment struct{ asked, answered string }

// carried is a connection, with the end of what each side has said last.
type carried struct {
	asked bool
	said  map[bool][]byte
}

var errFrozen = errors.New("the moment has come, and the client is gone")

// stopAt stops everything at the moment: what makes it does not pass. The channel is closed then.
func (w *wire) stopAt(m moment) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moment, w.sprung = &m, make(chan struct{})
	return w.sprung
}

// goOn ends the connections that were stopped and lets others pass.
func (w *wire) goOn() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.frozen)
	w.frozen = nil
}

// pass looks at what one side says, and waits where the moment has come.
func (w *wire) pass(c *carried, byServer bool, p []byte) error {
	w.mu.Lock()
	if byServer {
		w.left.Write(p)
	}
	text := append(c.said[byServer], p...)
	c.said[byServer] = bytes.Clone(text[max(0, len(text)-64):])
	if m := w.moment; m != nil {
		c.asked = c.asked || m.asked == "" || !byServer && bytes.Contains(text, []byte(m.asked))
		if c.asked && (m.answered == "" || byServer && bytes.Contains(text, []byte(m.answered))) {
			w.moment, w.frozen = nil, make(chan struct{})
			close(w.sprung)
		}
	}
	frozen := w.frozen
	w.mu.Unlock()
	if frozen == nil {
		return nil
	}
	<-frozen
	return errFrozen
}

// passing is the side of a connection that is written to.
type passing struct {
	io.Writer
	wire     *wire
	conn     *carried
	byServer bool
}

// Write implements io.Writer.
func (p *passing) Write(b []byte) (int, error) {
	if err := p.wire.pass(p.conn, p.byServer, b); err != nil {
		return 0, err
	}
	return p.Writer.Write(b)
}

func newWire(t *testing.T, database string) *wire {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w, server := &wire{}, u.Host
	u.Host = l.Addr().String()
	w.URL = u.String()
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.carry(ctx, client, server) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		all.Wait()
	})
	return w
}

// carry copies between the client and the server until either goes.
func (w *wire) carry(ctx context.Context, client net.Conn, address string) {
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		_ = client.Close()
		return
	}
	end := func() { _, _ = client.Close(), server.Close() }
	conn := &carried{said: map[bool][]byte{}}
	defer context.AfterFunc(ctx, end)()
	var both sync.WaitGroup
	both.Go(func() {
		defer end()
		_, _ = io.Copy(&passing{server, w, conn, false}, client)
	})
	both.Go(func() {
		defer end()
		_, _ = io.Copy(&passing{client, w, conn, true}, server)
	})
	both.Wait()
}

// saw reports whether the text has left the database since the last forget.
func (w *wire) saw(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Contains(w.left.Bytes(), []byte(text))
}

func (w *wire) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left.Reset()
}

const peopleSchema = `CREATE TABLE people (id int PRIMARY KEY, name text, tag text, ssn text, note text);
	ALTER TABLE people ALTER note SET STORAGE EXTERNAL;
	CREATE TABLE visits (id int, place text, doctor text, PRIMARY KEY (id, place)) PARTITION BY RANGE (id);
	CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (100);
	CREATE TABLE "Sick, notes" (nr int PRIMARY KEY, "The ""code""" text, diagnosis text)`

const peopleRules = `
event "person" {
  table = "public.people"
  on    = ["insert", "update", "delete"]
  when  = row.id != 9 || new.tag == "x"
  data  = { name = new.name }
}
event "visit" {
  table = "public.visits"
  on    = ["insert"]
  data  = { id = new.id }
}
`

const noteRule = `
event "note" {
  table = "public.Sick, notes"
  on    = ["insert", "update"]
  data  = { code = new["The \"code\""] }
}
`

// leastSource is a source that asks for no more than its rules read.
func leastSource(columns string) string {
	return strings.ReplaceAll(shopSource, "slot", fmt.Sprintf("columns = %q\n  slot", columns))
}

// people makes changes whose values begin with LEAVES where the rules read them
// and with STAYS where they do not.
func people(s *shop, from int) {
	stays := strings.Repeat("STAYS", 2000) // out of line
	for _, sql := range []string{
		"INSERT INTO people VALUES (%[1]d, 'LEAVES-a', 'x', 'STAYS', '" + stays + "')",
		"UPDATE people SET name = 'LEAVES-b', ssn = 'STAYS-2' WHERE id = %[1]d",
		"UPDATE people SET id = %[1]d + 1 WHERE id = %[1]d",
		"UPDATE people SET ssn = 'STAYS-3', note = note || 'STAYS' WHERE id = %[1]d + 1",
		"DELETE FROM people WHERE id = %[1]d + 1",
		"INSERT INTO visits VALUES (%[1]d, 'LEAVES-c', 'STAYS')",
		`INSERT INTO "Sick, notes" VALUES (%[1]d, 'LEAVES-d', 'STAYS')`,
		`UPDATE "Sick, notes" SET diagnosis = 'STAYS-4' WHERE nr = %[1]d`,
	} {
		s.exec(fmt.Sprintf(sql, from))
	}
}

const peopleEvents = 8

func TestCapture_OnlyWhatRulesReadLeavesTheDatabase(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	if cluster.Major() < 15 {
		s := newShop(t, cluster, "old", shopOptions{source: leastSource("rules")})
		s.d.Start()
		reason := s.untilSource(api.SourceStopped).Reason
		contains(t, "the reason", reason, `columns = "rules" is not possible`, "needs PostgreSQL 15")
		return
	}
	w := newWire(t, withPassword(t, cluster.URL("least")))
	s := newShop(t, cluster, "least", shopOptions{schema: peopleSchema, source: leastSource("rules"), rules: peopleRules + noteRule, url: w.URL})
	s.d.StartReady()
	people(s, 1)
	s.hook.WaitCount(peopleEvents)
	if w.saw("STAYS") || !w.saw("LEAVES-a") || !w.saw("LEAVES-b") || !w.saw("LEAVES-c") || !w.saw("LEAVES-d") {
		t.Errorf("with columns = rules: STAYS left %v, LEAVES left %v", w.saw("STAYS"), w.saw("LEAVES"))
	}
	if got := s.ask("SELECT string_agg(tablename || ' ' || attnames::text, '; ' ORDER BY tablename COLLATE \"C\") FROM pg_publication_tables"); got !=
		`Sick, notes {nr,"The \"code\""}; people {id,name,tag}; visits {id,place}` {
		t.Errorf("the publication lists %s", got)
	}

	// Another rule needs another column, and one table less is read.
	s.d.Term()
	s.d.SetRules(strings.NewReplacer("{ name = new.name }", "{ ssn = new.ssn }", noteRule, "").Replace(s.rules))
	s.d.StartReady()
	s.d.WaitLog("rules in force")
	// Until then the list serves the former rules too; it narrows at the next start.
	s.d.Term()
	s.d.StartReady()
	w.forget()
	s.exec("INSERT INTO people VALUES (50, 'GONE', 'x', 'WANTED', 'STAYS'); INSERT INTO \"Sick, notes\" VALUES (50, 'GONE', 'STAYS')")
	s.hook.WaitCount(peopleEvents + 1)
	if !w.saw("WANTED") || w.saw("STAYS") || w.saw("GONE") {
		t.Errorf("after the edit: WANTED left %v, STAYS %v, GONE %v", w.saw("WANTED"), w.saw("STAYS"), w.saw("GONE"))
	}

	// The proof is worth something only if the wire sees what is sent.
	s.d.Term()
	s.d.SetRules(strings.Replace(s.rules, `"rules"`, `"all"`, 1))
	s.d.StartReady()
	w.forget()
	people(s, 60)
	s.hook.WaitCount(2*peopleEvents + 1)
	if !w.saw("STAYS") {
		t.Error("with columns = all the unread columns do not leave: the wire sees nothing")
	}
}

// A change that was made before the list had a column is judged by the rules of
// then, which do not read it. One that lacks a column because somebody altered
// the list is not judged: the source stops.
func TestCapture_AChangeWithoutAListedColumnIsNotJudged(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	if cluster.Major() < 15 {
		return // refused: TestCapture_OnlyWhatRulesReadLeavesTheDatabase
	}
	s := newShop(t, cluster, "before", shopOptions{source: leastSource("rules"), rules: strings.ReplaceAll(itemRule, "row\n", "{ id = row.id }\n")})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, 'a')")
	s.expect(1)
	s.d.Term()
	s.exec("INSERT INTO items VALUES (2, 'b')")
	s.d.SetRules(strings.ReplaceAll(s.rules, "{ id = row.id }", "{ id = row.id, v = new.v }"))
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (3, 'c')")
	s.expect(1, 2, 3)
	for i, want := range []string{`{"id":1}`, `{"id":2}`, `{"id":3,"v":"c"}`} {
		contains(t, "the event", string(s.hook.Events()[i].Body), want)
	}
	s.exec("ALTER PUBLICATION rowhook_shop DROP TABLE items; ALTER PUBLICATION rowhook_shop ADD TABLE ONLY items (id); INSERT INTO items VALUES (4, 'd')")
	reason := s.untilSource(api.SourceStopped).Reason
	contains(t, "the reason", reason, `rule "item" reads`, "no column v", "checkpoint reset")
	s.expect(1, 2, 3)
	if got := s.must("events", "failures"); strings.Contains(got, "item") {
		t.Errorf("there are dead letters:\n%s", got)
	}
}

// What columns = "rules" refuses is what the server would refuse, or would make
// the application's own statements fail.
func TestCapture_LeastColumnsAreRefusedWhereTheApplicationWouldFail(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	if cluster.Major() < 15 {
		return // refused: TestCapture_OnlyWhatRulesReadLeavesTheDatabase
	}
	for _, test := range []struct {
		name, schema string
		publication  string // what would have been made
		update       string // of the application
		words        []string
		from         int // the version from which it is taken; 0 is none
	}{
		{name: "full", schema: "CREATE TABLE t (id int PRIMARY KEY, a int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1)",
			publication: "CREATE PUBLICATION x FOR TABLE t (id, a)", update: "UPDATE t SET a = 1", words: []string{"public.t has REPLICA IDENTITY FULL"}, from: 99},
		{name: "leaf", schema: `CREATE TABLE t (id int PRIMARY KEY, a int) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t DEFAULT;
			ALTER TABLE t1 REPLICA IDENTITY FULL; INSERT INTO t VALUES (1)`,
			publication: "CREATE PUBLICATION x FOR TABLE t (id) WITH (publish_via_partition_root = true)", update: "UPDATE t SET a = 1",
			words: []string{"the partition public.t1 of public.t has REPLICA IDENTITY FULL"}, from: 99},
		{name: "nokey", schema: "CREATE TABLE t (id int, a int); INSERT INTO t VALUES (1)",
			publication: "CREATE PUBLICATION x FOR TABLE t (id)", update: "UPDATE t SET a = 1", words: []string{"no replica identity"}, from: 99},
		{name: "deferrable", schema: "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, a int); INSERT INTO t VALUES (1)",
			publication: "CREATE PUBLICATION x FOR TABLE t", update: "UPDATE t SET a = 1", words: []string{"no replica identity", "not deferrable"}, from: 99},
		{name: "generated", schema: `CREATE TABLE t (id int NOT NULL, a int, g int GENERATED ALWAYS AS (id * 2) STORED NOT NULL UNIQUE);
			ALTER TABLE t REPLICA IDENTITY USING INDEX t_g_key; INSERT INTO t VALUES (1)`,
			publication: "CREATE PUBLICATION x FOR TABLE t (id)", update: "UPDATE t SET a = 1", words: []string{"generated", "PostgreSQL 18"}, from: 18},
		{name: "index", schema: `CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL UNIQUE, b int, c int);
			ALTER TABLE t REPLICA IDENTITY USING INDEX t_a_key; INSERT INTO t VALUES (1, 1)`,
			publication: "CREATE PUBLICATION x FOR TABLE t (id)", update: "UPDATE t SET b = 1", from: 15},
	} {
		t.Run(test.name, func(t *testing.T) {
			database := cluster.Database(t, "least_"+test.name)
			run := func(sql string) error { return cluster.Exec(t.Context(), "least_"+test.name, sql) }
			if err := run(test.schema); err != nil {
				t.Fatal(err)
			}
			want := cdc.Want{Tables: []relay.TableColumns{{TableName: public("t")[0], Columns: []string{"id"}}}, Ops: writes, Least: true}
			done, err := cdc.EnsurePublication(t.Context(), relay.NewSecret(database), "p", want)
			if cluster.Major() < test.from {
				wantSetup(t, err, test.words...)
			} else if err != nil || len(done) == 0 {
				t.Errorf("got %v, %v", done, err)
			}
			if err := run(test.update); err != nil {
				t.Errorf("the application's update fails: %v", err)
			}
			// The server agrees that a naive list would have been wrong.
			if err := run(test.publication); err != nil {
				t.Fatal(err)
			}
			if err := run(test.update); err == nil {
				t.Error("the application's update does not fail with the naive publication: the refusal is too strict")
			}
		})
	}
}

// A listed column cannot be dropped or retyped before the list was altered: the
// rule first, then the migration.
func TestCapture_AMigrationOfAListedColumnComesAfterTheRule(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	if cluster.Major() < 15 {
		return // refused: TestCapture_OnlyWhatRulesReadLeavesTheDatabase
	}
	s := newShop(t, cluster, "migrate", shopOptions{source: leastSource("rules"), rules: strings.ReplaceAll(itemRule, "row\n", "{ id = new.id, v = new.v }\n")})
	s.d.StartReady()
	for sql, code := range map[string]string{
		"ALTER TABLE items DROP COLUMN v":               "2BP01", // dependent_objects_still_exist
		"ALTER TABLE items ALTER COLUMN v TYPE varchar": "0A000", // feature_not_supported
	} {
		if err := cluster.Exec(t.Context(), "migrate", sql); err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: %v, want SQLSTATE %s", sql, err, code)
		}
	}
	// The way that plan prints, while rowhook reads on.
	for _, w := range s.plan(0).Sources[0].Warnings {
		if strings.Contains(w.Summary, "cannot be dropped or retyped") {
			s.exec("INSERT INTO items VALUES (1, 'before')")
			s.exec(strings.Replace(strings.Join(w.SQL, "\n"), "-- the migration", "ALTER TABLE items ALTER COLUMN v TYPE varchar;", 1))
			s.exec("INSERT INTO items VALUES (2, 'after')")
		}
	}
	s.expect(1, 2)
	s.d.Term()
	s.d.SetRules(strings.ReplaceAll(s.rules, ", v = new.v", ""))
	s.d.StartReady()
	s.exec("ALTER TABLE items ALTER COLUMN v TYPE text; ALTER TABLE items DROP COLUMN v; INSERT INTO items VALUES (3)")
	s.expect(1, 2, 3)
}
