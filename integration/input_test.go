package integration_test

import (
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // to make a store of a newer version

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

func TestInput(t *testing.T) {
	runPromises(t, postgres.Options{Settings: map[string]string{"max_replication_slots": "60", "max_wal_senders": "60"}}, "input", []promise{
		{"broken HCL ends with 2 and shows the place", brokenHCL},
		{"an unknown table or column ends with 2 and says what was meant", unknownColumn},
		{"old that the replica identity lacks names both cures", oldWithoutIdentity},
		{"a role that may not replicate gets the statement that allows it", noReplicationRole},
		{"a role that does not own the tables gets the statement for the owner", notTheOwner},
		{"a pooler's URL is told from a server's", poolerURL},
		{"a store of a newer version is refused", newerStore},
		{"a store of another database is refused", otherDatabase},
		{"a store of another address is refused", otherAddress},
		{"a second daemon on a data folder says who has it", secondOnFolder},
		{"a second daemon on a slot waits and says who has it", secondOnSlot},
		{"two sources on one database are refused", twoSources},
		{"manage = false runs no DDL", unmanaged},
		{"source drop of a running daemon leaves nothing behind", dropRunning},
		{"source drop of a stopped daemon leaves nothing behind", dropStopped},
		{"unusual names go through", unusualNames},
	})
}

// refusesFile starts a configuration that is wrong, and checks it.
func refusesFile(s *shop, words ...string) {
	s.t.Helper()
	s.d.Start()
	if code := s.d.Wait(harness.Patience); code != 2 {
		s.t.Errorf("run ends with %d, want 2", code)
	}
	contains(s.t, "run", s.d.Log(), words...)
	res := s.command("check", "--database")
	if res.Code != 2 {
		s.t.Errorf("check --database ends with %d, want 2", res.Code)
	}
	contains(s.t, "check --database", res.Stderr, words...)
	if n := s.ask("SELECT (SELECT count(*) FROM pg_publication WHERE pubname = 'rowhook_shop') + (SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1)", "rowhook_"+s.name); n != "0" {
		s.t.Errorf("a configuration that is wrong left %s slots and publications", n)
	}
}

func brokenHCL(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{rules: `
event "item" {
  table = "public.items"
  on    = ["insert"
  data  = row
}`})
	refusesFile(s, "rules.hcl line ", `on    = ["insert"`, "Error: ")
	s = newShop(t, cluster, db+"b", shopOptions{rules: strings.Replace(itemRule, "data  = row", "dta = row", 1), sinkMore: `order = "keyed"`})
	refusesFile(s, "rules.hcl line ", "dta = row", "data?", `order = "keyed"`) // all mistakes at once
}

func unknownColumn(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{
		schema: "CREATE TABLE items (id int PRIMARY KEY, status text)",
		rules: `
event "a" {
  table = "public.item"
  on    = ["insert"]
  data  = row
}
event "b" {
  table = "public.items"
  on    = ["insert"]
  when  = new.stauts == "paid"
  data  = row
}`})
	refusesFile(s, `table = "public.item"`, `Did you mean "public.items"?`, `new.stauts == "paid"`, "Did you mean status?")
}

func oldWithoutIdentity(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{rules: `
event "a" {
  table = "public.items"
  on    = ["update"]
  when  = old.v != new.v
  data  = row
}`})
	refusesFile(s, "old.v != new.v", "REPLICA IDENTITY FULL", "REPLICA IDENTITY USING INDEX")
	s.exec("ALTER TABLE items REPLICA IDENTITY FULL")
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, 'a'); UPDATE items SET v = 'b'")
	s.expect(1)
}

// as returns the URL for another role.
func (s *shop) as(role string) string {
	s.t.Helper()
	u, err := url.Parse(s.cluster.URL(s.name))
	if err != nil {
		s.t.Fatal(err)
	}
	u.User = url.UserPassword(role, dbPassword)
	return u.String()
}

// role makes a role that lasts as long as the test.
func role(t *testing.T, cluster *postgres.Cluster, name, attributes string) {
	t.Helper()
	if err := cluster.Exec(t.Context(), "postgres", "CREATE ROLE "+name+" LOGIN "+attributes); err != nil {
		t.Fatal(err)
	}
}

func roleURL(t *testing.T, cluster *postgres.Cluster, db, role string) string {
	t.Helper()
	return (&shop{t: t, cluster: cluster, name: db}).as(role)
}

// remedies returns the statements that a reason ends with.
func remedies(t *testing.T, reason string) (statements []string) {
	t.Helper()
	for line := range strings.Lines(reason) { // one for each thing that is missing
		if _, text, ok := strings.Cut(line, "; run: "); ok {
			statements = append(statements, strings.SplitAfter(strings.TrimSpace(text), "; ")...)
		}
	}
	if len(statements) == 0 {
		t.Fatalf("no statement to run in %q", reason)
	}
	return statements
}

// stopsAlone starts a daemon whose source cannot work, and sees the process stay; then that it ends
// when it is told to.
func stopsAlone(s *shop, words ...string) (reason string) {
	s.t.Helper()
	s.d.Start()
	src := s.untilSource(api.SourceStopped)
	contains(s.t, "the status", src.Reason, words...)
	contains(s.t, "the log", s.d.Log(), words[0])
	if status, _, err := s.d.Get("/healthz"); err != nil || status != http.StatusOK {
		s.t.Errorf("/healthz: %d %v", status, err)
	}
	if status, body, err := s.d.Get("/readyz"); err != nil || status != http.StatusServiceUnavailable || !strings.Contains(body, "is stopped") {
		s.t.Errorf("/readyz: %d %v %s", status, err, body)
	}
	if code := s.d.Term(); code != 0 {
		s.t.Errorf("exit code %d", code)
	}
	s.d.Start("--exit-on-source-stop")
	if code := s.d.Wait(harness.Patience); code != 1 {
		s.t.Errorf("--exit-on-source-stop ends with %d, want 1", code)
	}
	return src.Reason
}

func noReplicationRole(t *testing.T, cluster *postgres.Cluster, db string) {
	role(t, cluster, db+"app", "")
	s := newShop(t, cluster, db, shopOptions{url: roleURL(t, cluster, db, db+"app")})
	s.exec(fmt.Sprintf("ALTER TABLE items OWNER TO %sapp; GRANT CREATE ON DATABASE %s TO %sapp", db, db, db))
	reason := stopsAlone(s, "may not replicate", fmt.Sprintf(`ALTER ROLE "%sapp" WITH REPLICATION;`, db))
	for _, sql := range remedies(t, reason) {
		s.exec(sql)
	}
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.d.Term()
	s.must("source", "drop", "shop", "--yes") // the publication is the role's
	s.exec(fmt.Sprintf("ALTER TABLE items OWNER TO postgres; REVOKE CREATE ON DATABASE %s FROM %sapp; DROP ROLE %sapp", db, db, db))
}

func notTheOwner(t *testing.T, cluster *postgres.Cluster, db string) {
	role(t, cluster, db+"reader", "REPLICATION")
	s := newShop(t, cluster, db, shopOptions{url: roleURL(t, cluster, db, db+"reader")})
	reason := stopsAlone(s, "may not make or change the publication", "public.items belongs to postgres", "GRANT CREATE ON DATABASE",
		`CREATE PUBLICATION "rowhook_shop" FOR TABLE ONLY "public"."items"`)
	for _, sql := range remedies(t, reason) {
		s.exec(sql)
	}
	s.d.StartReady()
	s.put(1)
	s.expect(1)
}

// A pooler such as PgBouncer refuses startup parameters that it does not know.
func poolerURL(t *testing.T, cluster *postgres.Cluster, db string) {
	pooler, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pooler.Close()
	go func() {
		for {
			c, err := pooler.Accept()
			if err != nil {
				return
			}
			var size uint32
			if binary.Read(c, binary.BigEndian, &size) == nil && size < 10000 {
				_, _ = io.CopyN(io.Discard, c, int64(size)-4)
				body := "SFATAL\x00VFATAL\x00C08P01\x00Munsupported startup parameter: options\x00\x00"
				_, _ = c.Write(append(binary.BigEndian.AppendUint32([]byte("E"), uint32(len(body)+4)), body...))
			}
			_ = c.Close()
		}
	}()
	s := newShop(t, cluster, db, shopOptions{url: fmt.Sprintf("postgres://app:%s@%s/%s?sslmode=disable", dbPassword, pooler.Addr(), db)})
	stopsAlone(s, "connection pooler", "a direct connection to PostgreSQL is needed")
}

func newerStore(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	s.d.StartReady()
	s.d.Term()
	store, err := sql.Open("sqlite", filepath.Join(s.d.DataDir, "rowhook.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.ExecContext(t.Context(), "PRAGMA user_version = 999"); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	s.d.Start()
	if code := s.d.Wait(harness.Patience); code != 1 {
		t.Errorf("exit code %d", code)
	}
	contains(t, "run", s.d.Log(), "it has version 999, made by a newer rowhook", s.d.DataDir)
	if res := s.command("events", "list"); res.Code != 1 || !strings.Contains(res.Stderr, "made by a newer rowhook") {
		t.Errorf("events list: %+v", res)
	}
}

// moveTo makes the shop's source another URL.
func (s *shop) moveTo(url string) {
	s.t.Helper()
	source := strings.Replace(shopSource, `env("DATABASE_URL")`, fmt.Sprintf("%q", url), 1)
	s.d.SetRules(strings.ReplaceAll(source, "SLOT", "rowhook_"+s.name) + itemRule + sinkTo("hook", s.hook.URL))
}

func otherDatabase(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.d.Term()
	cluster.Database(t, db+"copy")
	if err := cluster.Exec(t.Context(), db+"copy", itemsSchema+"; INSERT INTO items VALUES (66, 'of the copy')"); err != nil {
		t.Fatal(err)
	}
	s.moveTo(cluster.URL(db + "copy"))
	s.d.Start()
	src := s.untilSource(api.SourceStopped)
	// The slot is in the way before the database is.
	if !strings.Contains(src.Reason, "belongs to database "+db) {
		t.Errorf("reason: %s", src.Reason)
	}
	s.d.Term()
	s.exec("SELECT pg_drop_replication_slot('rowhook_" + db + "')")
	s.d.Start()
	src = s.untilSource(api.SourceStopped)
	contains(t, "the reason", src.Reason, "the store was made for database "+db, db+"copy", flagNow)
	s.d.Term()
	s.d.StartReady("--reset-checkpoint", "shop=now")
	if err := cluster.Exec(t.Context(), db+"copy", "INSERT INTO items VALUES (2, 'x')"); err != nil {
		t.Fatal(err)
	}
	s.expect(1, 2)
}

func otherAddress(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.d.Term()
	s.put(2)
	s.moveTo(strings.Replace(cluster.URL(db), "127.0.0.1", "localhost", 1))
	s.d.Start()
	src := s.untilSource(api.SourceStopped)
	contains(t, "the reason", src.Reason, "the store was made for the server at 127.0.0.1:", "localhost:", "--accept-address shop")
	if n := s.hook.Count(); n != 1 {
		t.Errorf("%d events", n)
	}
	s.d.Term()
	s.d.StartReady("--accept-address", "shop")
	s.expect(1, 2)
	s.d.Term()
	s.d.StartReady() // once is enough
	s.put(3)
	s.expect(1, 2, 3)
	if src := s.source(); src.Gaps != 0 || src.Generation != 1 {
		t.Errorf("source: %+v", src)
	}
}

func secondOnFolder(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	s.d.StartReady()
	res := s.command("run")
	if res.Code != 1 {
		t.Errorf("exit code %d", res.Code)
	}
	contains(t, "the second daemon", res.Stderr, fmt.Sprintf("is held by process %d on host ", s.d.PID()), s.d.DataDir)
	s.put(1)
	s.expect(1)
}

func secondOnSlot(t *testing.T, cluster *postgres.Cluster, db string) {
	first := newShop(t, cluster, db, shopOptions{})
	first.d.StartReady()
	first.put(1)
	first.expect(1)
	pid := first.walsender()
	hook := harness.NewReceiver(t)
	second := &shop{t: t, cluster: cluster, name: db, conn: first.conn, hook: hook, d: harness.NewDaemon(t, harness.DaemonOptions{
		Rules:       strings.ReplaceAll(shopSource, "SLOT", "rowhook_"+db) + itemRule + sinkTo("hook", hook.URL),
		DatabaseURL: withPassword(t, cluster.URL(db)), Env: []string{"HOOK_SECRET=" + harness.Secret},
	})}
	// It does not have the events of the first one, and says so.
	second.d.Start()
	src := second.untilSource(api.SourceStopped)
	contains(t, "the reason", src.Reason, "this store did not make it", flagEarliest)
	second.d.Term()
	second.d.Start("--reset-checkpoint", "shop=earliest")
	src = second.untilSource(api.SourceWaiting)
	contains(t, "the reason", src.Reason, "slot rowhook_"+db+" is being read by process "+pid, "rowhook stream")
	if status, _, err := second.d.Get("/readyz"); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d %v", status, err)
	}
	// The first one is not disturbed, and the second takes over when it ends.
	first.put(2)
	first.expect(1, 2)
	if first.walsender() != pid {
		t.Error("the first one lost its connection")
	}
	first.d.Term()
	second.untilSource(api.SourceStreaming)
	first.put(3)
	expectAt(t, hook, 3)
}

func twoSources(t *testing.T, cluster *postgres.Cluster, db string) {
	twin := `
source "postgres" "twin" {
  url  = env("TWIN_URL")
  slot = "SLOT_twin"
}
`
	rules := strings.Replace(itemRule, "data ", "source = source.shop\n  data ", 1) + `
event "twin" {
  source = source.twin
  table  = "public.items"
  on     = ["insert"]
  data   = row
}`
	// The same URL shows in the file.
	s := newShop(t, cluster, db, shopOptions{source: shopSource + twin, rules: rules, env: []string{"TWIN_URL=" + withPassword(t, cluster.URL(db))}})
	refusesFile(s, "Two sources on one database", `source "postgres" "twin"`)
	// Two spellings of one show when they are connected.
	spelled := strings.Replace(withPassword(t, cluster.URL(db+"b")), "127.0.0.1", "localhost", 1)
	s = newShop(t, cluster, db+"b", shopOptions{source: shopSource + twin, rules: rules, env: []string{"TWIN_URL=" + spelled}})
	s.d.Start()
	s.eventually(func() error {
		if _, _, err := s.d.Get("/healthz"); err != nil {
			return err
		}
		var states []string
		for _, src := range s.status().Sources {
			states = append(states, src.State)
			if src.State == api.SourceStopped {
				contains(t, "the reason", src.Reason, "reads the same database "+db+"b", "shop", "twin")
			}
		}
		slices.Sort(states)
		if !slices.Equal(states, []string{api.SourceStopped, api.SourceStreaming}) {
			return fmt.Errorf("the sources are %v", states)
		}
		return nil
	})
	s.put(1)
	s.expect(1) // once
}

func unmanaged(t *testing.T, cluster *postgres.Cluster, db string) {
	role(t, cluster, db+"reader", "REPLICATION")
	s := newShop(t, cluster, db, shopOptions{
		url: roleURL(t, cluster, db, db+"reader"),
		source: strings.Replace(shopSource, "SLOT\"", `SLOT"
  publication = "given"
  manage = false`, 1),
	})
	s.exec(`CREATE TABLE ddl (tag text);
		CREATE FUNCTION note_ddl() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN INSERT INTO public.ddl VALUES (tg_tag || ' by ' || session_user); END $$;
		CREATE EVENT TRIGGER note_ddl ON ddl_command_start EXECUTE FUNCTION note_ddl()`)
	run := func(words ...string) {
		t.Helper()
		s.d.Start()
		src := s.untilSource(api.SourceStopped)
		contains(t, "the reason", src.Reason, words...)
		s.d.Term()
		for _, sql := range remedies(t, src.Reason) {
			s.exec(sql)
		}
	}
	run("publication given does not exist", "manage = false", `CREATE PUBLICATION "given"`, "slot rowhook_"+db+" does not exist")
	s.put(1) // from the slot on
	s.d.StartReady()
	s.put(2)
	s.expect(1, 2)
	if ours := s.ask("SELECT string_agg(tag, ', ') FROM ddl WHERE tag LIKE '% by ' || $1", db+"reader"); ours != "" {
		t.Errorf("DDL was run: %s", ours)
	}
	if all := s.ask("SELECT string_agg(tag, ', ') FROM ddl"); !strings.Contains(all, "CREATE PUBLICATION by postgres") {
		t.Errorf("DDL is not noticed: %q", all)
	}
}

// left says which slots and publications of the shop are there.
func (s *shop) left() string {
	s.t.Helper()
	return s.ask("SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1) || ' slots, ' || (SELECT count(*) FROM pg_publication) || ' publications'", "rowhook_"+s.name)
}

func dropRunning(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	if res := s.command("source", "drop", "shop"); res.Code != 2 || !strings.Contains(res.Stderr, "--yes") {
		t.Errorf("without a person or --yes: %+v", res)
	}
	if got := s.left(); got != "1 slots, 1 publications" {
		t.Errorf("there are %s", got)
	}
	contains(t, "source drop", s.must("source", "drop", "shop", "--yes"), "slot rowhook_"+db, "publication rowhook_shop", "stays stopped")
	if got := s.left(); got != "0 slots, 0 publications" {
		t.Errorf("there are %s", got)
	}
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "dropped")
	s.put(2) // nobody sees it
	s.d.Term()
	s.d.StartReady()
	s.put(3)
	s.expect(1, 3)
	if cp := s.checkpoint(); cp.Generation != 2 || len(cp.Gaps) != 1 || cp.Gaps[0].Reason != "source dropped" {
		t.Errorf("checkpoint: %+v", cp)
	}
	if res := s.command("source", "drop", "shoop", "--yes"); res.Code != 1 || !strings.Contains(res.Stderr, "shoop") {
		t.Errorf("an unknown source: %+v", res)
	}
}

func dropStopped(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	s.d.StartReady()
	s.d.Term()
	contains(t, "source drop", s.must("source", "drop", "shop", "--yes"), "slot rowhook_"+db, "publication rowhook_shop")
	if got := s.left(); got != "0 slots, 0 publications" {
		t.Errorf("there are %s", got)
	}
	contains(t, "source drop again", s.must("source", "drop", "shop", "--yes"), "nothing")
}

func unusualNames(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{
		schema: `CREATE SCHEMA "Schéma.1";
			CREATE TABLE "Schéma.1"."Größe ""x"" 'y' ☃" ("Id Nr" int PRIMARY KEY, "straße" text, "a""b" text, "new" text, "ключ" text)`,
		source: strings.Replace(shopSource, "SLOT\"", `SLOT"
  publication = "Pub \"für\" 'alle'"`, 1),
		rules: `
event "odd" {
  table = "\"Schéma.1\".Größe \"x\" 'y' ☃"
  on    = ["insert", "update"]
  when  = row["straße"] != "nein"
  key   = row["ключ"]
  data  = row
}`})
	s.d.StartReady()
	s.exec(`INSERT INTO "Schéma.1"."Größe ""x"" 'y' ☃" VALUES (1, 'ja', E'tab\t"quote" \\ back', 'neu', 'k1'), (2, 'nein', '', '', 'k2')`)
	s.exec(`UPDATE "Schéma.1"."Größe ""x"" 'y' ☃" SET "straße" = 'wieder' WHERE "Id Nr" = 1`)
	s.hook.WaitCount(2)
	var data map[string]any
	q := s.hook.Events()[0]
	if err := json.Unmarshal(q.Data, &data); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"Id Nr": 1.0, "straße": "ja", `a"b`: "tab\t\"quote\" \\ back", "new": "neu", "ключ": "k1"}
	for name, v := range want {
		if data[name] != v {
			t.Errorf("%s is %v, want %v", name, data[name], v)
		}
	}
	if len(data) != len(want) || !strings.Contains(q.Key, "k1") {
		t.Errorf("data %v, key %s", data, q.Key)
	}
	contains(t, "events list", s.must("events", "list", "--json"), "Größe")
}

// A cluster that asks for passwords.
func TestInput_AWrongPasswordIsSaidAndNotShown(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{Password: "the-real-one"})
	s := newShop(t, cluster, "locked", shopOptions{}) // with dbPassword, which is wrong
	stopsAlone(s, "does not accept the credentials", "postgres")
	if res := s.command("check", "--database"); res.Code != 1 || !strings.Contains(res.Stderr, "credentials") {
		t.Errorf("check --database: %+v", res)
	}
	if strings.Contains(s.d.Log(), "the-real-one") {
		t.Error("the log shows the password")
	}
	s.moveTo(cluster.URL("locked"))
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	if strings.Contains(s.d.Log(), "the-real-one") {
		t.Error("the log shows the password")
	}
}

// A cluster that stops and starts: wal_level, absence, and another system identifier.
func TestInput_AServerThatComesAndGoes(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"wal_level": "replica"}})
	s := newShop(t, cluster, "gone", shopOptions{})
	reason := stopsAlone(s, "wal_level is replica", "ALTER SYSTEM SET wal_level = 'logical';", "restart of the server")
	for _, sql := range remedies(t, reason) {
		s.exec(sql)
	}
	if err := cluster.Stop(postgres.Fast); err != nil {
		t.Fatal(err)
	}
	// Down at the start: it waits, says so, then works.
	s.d.Start()
	src := s.untilSource(api.SourceWaiting)
	contains(t, "the reason", src.Reason, "connect", "refused")
	s.d.WaitLog("source is not connected, trying again")
	status, body, err := s.d.Get("/readyz")
	if err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d %v", status, err)
	}
	contains(t, "/readyz", body, "source shop is waiting", "refused")
	run := func() {
		t.Helper()
		if err := cluster.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.conn, err = cluster.Conn(t.Context(), s.name); err != nil {
			t.Fatal(err)
		}
	}
	run()
	s.d.WaitReady()
	s.put(1)
	s.expect(1)
	// Goes away and returns, cleanly and not.
	for i, mode := range []postgres.StopMode{postgres.Fast, postgres.Immediate} {
		if err := cluster.Stop(mode); err != nil {
			t.Fatal(err)
		}
		s.untilSource(api.SourceWaiting)
		if res := s.command("status"); res.Code != 3 {
			t.Errorf("status ends with %d", res.Code)
		}
		run()
		s.d.WaitReady()
		s.put(i + 2)
	}
	s.expect(1, 2, 3)
	if src := s.source(); src.Generation != 1 || src.Gaps != 0 || src.Reconnects == 0 {
		t.Errorf("source: %+v", src)
	}
	if code := s.d.Term(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	// The same name, another cluster.
	other := postgres.New(t, postgres.Options{})
	other.Database(t, "gone")
	if err := other.Exec(t.Context(), "gone", itemsSchema); err != nil {
		t.Fatal(err)
	}
	s.moveTo(other.URL("gone"))
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "system identifier", flagNow)
	s.d.Term()
	s.d.Start("--accept-address", "shop")
	contains(t, "with the address accepted, the reason", s.untilSource(api.SourceStopped).Reason, "system identifier")
	s.d.Term()
	s.d.StartReady("--reset-checkpoint", "shop=now")
	if err := other.Exec(t.Context(), "gone", "INSERT INTO items VALUES (4, 'x')"); err != nil {
		t.Fatal(err)
	}
	s.expect(1, 2, 3, 4)
	if src := s.source(); src.Generation != 2 || src.Gaps != 1 {
		t.Errorf("source: %+v", src)
	}
	s.d.Term() // before its database goes
}
