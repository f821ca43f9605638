package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
)

var (
	inserts = relay.OpsOf(relay.Insert)
	writes  = relay.OpsOf(relay.Insert, relay.Update, relay.Delete)
)

func public(names ...string) (tables []relay.TableName) {
	for _, name := range names {
		tables = append(tables, relay.TableName{Schema: "public", Name: name})
	}
	return tables
}

// whole wants whole tables published.
func whole(ops relay.Ops, names ...string) cdc.Want {
	want := cdc.Want{Ops: ops}
	for _, t := range public(names...) {
		want.Tables = append(want.Tables, relay.TableColumns{TableName: t, All: true})
	}
	return want
}

// wantSetup fails unless err says that a person has to act, with the words.
func wantSetup(t *testing.T, err error, words ...string) {
	t.Helper()
	var setup *cdc.SetupError
	if !errors.As(err, &setup) || cdc.IsTemporary(err) {
		t.Errorf("got %v, want an error for a person", err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in: %v", w, err)
		}
	}
}

// A publication that grows locks its tables one after the other. Where it and
// somebody else wait for each other, the server ends one of the two, and it is
// tried again.
func TestCapture_APublicationGrowsInSpiteOfADeadlock(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"deadlock_timeout": "1500ms"}})
	url := relay.NewSecret(cluster.Database(t, "dead"))
	db, err := cluster.Conn(t.Context(), "dead")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	one := func(sql string) (n int) {
		t.Helper()
		if err := db.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return n
	}
	// This session looks for no deadlock, so that it is the other one that is ended.
	for _, sql := range []string{
		"CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)",
		"SET deadlock_timeout = '10min'; BEGIN; LOCK TABLE b IN SHARE ROW EXCLUSIVE MODE",
	} {
		if _, err := db.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	ensured := make(chan error, 1)
	go func() {
		_, err := cdc.EnsurePublication(t.Context(), url, "dead", whole(writes, "a", "b"))
		ensured <- err
	}()
	harness.Eventually(t, harness.Patience, func() error {
		if one("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'b'::regclass") == 0 {
			return errors.New("nobody waits for b")
		}
		return nil
	})
	if _, err := db.PgConn().Exec(t.Context(), "LOCK TABLE a IN SHARE ROW EXCLUSIVE MODE; COMMIT").ReadAll(); err != nil {
		t.Fatal(err)
	}
	if err := <-ensured; err != nil {
		t.Error(err)
	}
	harness.Eventually(t, harness.Patience, func() error {
		if n := one("SELECT deadlocks FROM pg_stat_database WHERE datname = 'dead'"); n != 1 {
			return fmt.Errorf("%d deadlocks", n)
		}
		return nil
	})
}

func TestCapture_PublicationIsMadeAndGrown(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	url := relay.NewSecret(cluster.Database(t, "pubs"))
	db, err := cluster.Conn(t.Context(), "pubs")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	exec := func(sql string) {
		t.Helper()
		if _, err := db.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(`CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE child () INHERITS (a); CREATE TABLE nokey (id int); CREATE TABLE "B, b" (id int PRIMARY KEY);
		CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING; CREATE UNLOGGED TABLE quick (id int PRIMARY KEY); CREATE VIEW v AS SELECT 1 AS id;
		CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);`)
	ensure := func(ops relay.Ops, tables ...string) ([]string, error) {
		return cdc.EnsurePublication(t.Context(), url, `My "Pub"`, whole(ops, tables...))
	}

	_, err = ensure(writes, "a", "nokey", "quick", "v", "gone", "nothing")
	for _, words := range []string{"public.nokey has no replica identity", "public.nothing has no replica identity", "public.quick is unlogged",
		"public.v is a view", "public.gone does not exist", `ALTER TABLE "public"."nokey" REPLICA IDENTITY FULL;`} {
		wantSetup(t, err, words)
	}
	done, err := ensure(inserts, "a", "nokey")
	if err != nil || len(done) != 1 {
		t.Fatal(done, err)
	}
	if done, err = ensure(inserts, "a", "nokey"); err != nil || len(done) != 0 {
		t.Error("a second time:", done, err)
	}
	if _, err = ensure(writes, "a", "nokey"); err == nil {
		t.Error("updates of a table without identity were published")
	}
	exec("UPDATE nokey SET id = 1; ALTER TABLE nokey ADD PRIMARY KEY (id)")
	if done, err = ensure(writes, "a", "nokey", "B, b", "p"); err != nil || len(done) != 2 {
		t.Error("grown:", done, err)
	}
	st, err := cdc.Inspect(t.Context(), url, "", `My "Pub"`)
	if err != nil {
		t.Fatal(err)
	}
	pub := st.Publication
	if pub == nil || pub.Tables[0].Columns != nil || pub.Tables[0].RowFilter != "" || !pub.Ours || !pub.ViaRoot || pub.AllTables || pub.Ops != writes || fmt.Sprint(pub.Tables) !=
		"[public.B, b public.a public.nokey public.p]" {
		t.Errorf("publication is %+v", pub)
	}
	if st.Slot != nil || st.SystemID == 0 || st.Timeline != 1 || st.Flush == 0 || st.Database != "pubs" || st.WALSenderTimeout != time.Minute ||
		st.Address != fmt.Sprintf("127.0.0.1:%d", cluster.Port) || st.Version/10000 != cluster.Major() || !st.CanCreate || st.InRecovery {
		t.Errorf("server is %+v", st)
	}
	// One that someone made without via_root, of a partitioned table.
	exec("CREATE PUBLICATION other FOR TABLE p")
	done, err = cdc.EnsurePublication(t.Context(), url, "other", whole(writes, "p"))
	if err != nil || !slices.Equal(done, []string{`ALTER PUBLICATION "other" SET (publish_via_partition_root = true)`}) {
		t.Error("via root:", done, err)
	}
	exec("CREATE PUBLICATION everything FOR ALL TABLES")
	if done, err = cdc.EnsurePublication(t.Context(), url, "everything", whole(writes, "a")); err != nil || len(done) != 0 {
		t.Error("for all tables:", done, err)
	}
	if err := cdc.DropPublication(t.Context(), url, `My "Pub"`); err != nil {
		t.Error(err)
	}
}

// C5: updates and deletes of a table without a replica identity fail in the
// application as soon as they are published, also of a table that no rule is
// about any more.
func TestCapture_PublishingUpdatesDoesNotBreakOtherTables(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	url := relay.NewSecret(cluster.Database(t, "others"))
	db, err := cluster.Conn(t.Context(), "others")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	exec := func(sql string) {
		t.Helper()
		if _, err := db.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec("CREATE TABLE logs (id int, v int); INSERT INTO logs VALUES (1, 1); CREATE TABLE orders (id int PRIMARY KEY, v int)")
	if _, err := cdc.EnsurePublication(t.Context(), url, "p", whole(inserts, "logs")); err != nil {
		t.Fatal(err)
	}
	_, err = cdc.EnsurePublication(t.Context(), url, "p", whole(writes, "orders"))
	wantSetup(t, err, "no rule names", "the table public.logs has no replica identity")
	exec("UPDATE logs SET id = 2; CREATE PUBLICATION everything FOR ALL TABLES WITH (publish = 'insert')")
	_, err = cdc.EnsurePublication(t.Context(), url, "everything", whole(writes, "orders"))
	wantSetup(t, err, "the table public.logs has no replica identity")
	exec("UPDATE logs SET id = 2; ALTER PUBLICATION p DROP TABLE logs")
	if _, err := cdc.EnsurePublication(t.Context(), url, "p", whole(writes, "orders")); err != nil {
		t.Error(err)
	}
	exec("UPDATE logs SET id = 2; UPDATE orders SET v = 2")
	if cluster.Major() >= 15 {
		exec("INSERT INTO orders VALUES (1, 1); CREATE PUBLICATION filtered FOR TABLE orders WHERE (v > 1) WITH (publish = 'insert')")
		_, err = cdc.EnsurePublication(t.Context(), url, "filtered", whole(writes, "orders"))
		wantSetup(t, err, "has a row filter for public.orders", "ALTER PUBLICATION")
		exec("UPDATE orders SET v = 3")
	}
}

// The first insert of a transaction that is under way while its table is added
// is not published; so nobody may be under way.
func TestCapture_ATableIsAddedOnlyBetweenItsWriters(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newSource(t, cluster, "adding", "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)", "a")
	s.run()
	writer, err := cluster.Conn(t.Context(), "adding")
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close(context.Background())
	tx, err := writer.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO b VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	added := make(chan error, 1)
	go func() {
		_, err := cdc.EnsurePublication(t.Context(), s.url, "Pub,adding", whole(writes, "a", "b"))
		added <- err
	}()
	s.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'rowhook publication' AND wait_event_type = 'Lock')")
	if _, err := tx.Exec(t.Context(), "INSERT INTO b VALUES (2)"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	s.exec("INSERT INTO b VALUES (3)")
	s.expect("begin", "insert public.b new id=3 key(id)", "commit")
	s.stop()
}

func TestCapture_WhatOnlyADBACanDoIsSaid(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	_ = cluster.Database(t, "rights")
	if err := cluster.Exec(t.Context(), "rights", `CREATE TABLE a (id int PRIMARY KEY); CREATE ROLE app LOGIN; CREATE ROLE reader LOGIN REPLICATION;
		CREATE PUBLICATION theirs FOR TABLE a WITH (publish = 'insert')`); err != nil {
		t.Fatal(err)
	}
	as := func(user string) relay.Secret {
		return relay.NewSecret(fmt.Sprintf("postgres://%s:s3cr3t@127.0.0.1:%d/rights?sslmode=disable", user, cluster.Port))
	}
	_, err := cdc.Inspect(t.Context(), as("app"), "s", "p")
	wantSetup(t, err, `the role "app" may not replicate`, `ALTER ROLE "app" WITH REPLICATION;`)
	_, err = cdc.CreateSlot(t.Context(), as("app"), "s", cdc.SlotOptions{})
	wantSetup(t, err, `ALTER ROLE "app" WITH REPLICATION;`)
	if _, err := cdc.Inspect(t.Context(), as("reader"), "s", "p"); err != nil {
		t.Error(err)
	}
	_, err = cdc.EnsurePublication(t.Context(), as("reader"), "mine", whole(inserts, "a"))
	wantSetup(t, err, "GRANT CREATE ON DATABASE", "public.a belongs to postgres", `CREATE PUBLICATION "mine" FOR TABLE ONLY "public"."a" WITH (publish = 'insert', publish_via_partition_root = true);`)
	_, err = cdc.EnsurePublication(t.Context(), as("reader"), "theirs", whole(writes, "a"))
	wantSetup(t, err, "belongs to postgres", `ALTER PUBLICATION "theirs" SET (publish = 'insert, update, delete');`)
	if done, err := cdc.EnsurePublication(t.Context(), as("reader"), "theirs", whole(inserts, "a")); err != nil || len(done) != 0 {
		t.Error("nothing to do:", done, err)
	}
	_, err = cdc.Inspect(t.Context(), as("nobody"), "s", "p")
	wantSetup(t, err, "credentials")
	_, err = cdc.Inspect(t.Context(), relay.NewSecret("postgres://u:s3cr3t@%zz/db"), "s", "p")
	wantSetup(t, err, "not a valid connection string")
	if strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("a password in: %v", err)
	}
	_, err = cdc.CreateSlot(t.Context(), as("reader"), "My-Slot", cdc.SlotOptions{})
	wantSetup(t, err, "cannot be the name of a slot")
	if cluster.Major() < 17 {
		_, err = cdc.CreateSlot(t.Context(), as("reader"), "s", cdc.SlotOptions{Failover: true})
		wantSetup(t, err, "needs PostgreSQL 17")
	}
	if err := cdc.DropSlot(t.Context(), as("reader"), "nothing"); err != nil {
		t.Error("a slot that does not exist:", err)
	}
}

func TestCapture_WALLevelIsSaid(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"wal_level": "replica"}})
	url := relay.NewSecret(cluster.URL("postgres"))
	_, err := cdc.Inspect(t.Context(), url, "s", "p")
	wantSetup(t, err, "wal_level is replica", "ALTER SYSTEM SET wal_level = 'logical';")
	_, err = cdc.CreateSlot(t.Context(), url, "s", cdc.SlotOptions{})
	wantSetup(t, err, "ALTER SYSTEM SET wal_level = 'logical';")
}

func TestCapture_Catalog(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	url := relay.NewSecret(cluster.Database(t, "catalog"))
	if err := cluster.Exec(t.Context(), "catalog", `
		CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN price AS numeric(10,2) NOT NULL; CREATE TYPE pair AS (m mood[], p price);
		CREATE TABLE a (dropped int, b int, "A a" varchar(5), pairs pair[], gen int GENERATED ALWAYS AS (b * 2) STORED, PRIMARY KEY ("A a", b));
		ALTER TABLE a DROP dropped;
		CREATE TABLE i (id int, code text NOT NULL UNIQUE); ALTER TABLE i REPLICA IDENTITY USING INDEX i_code_key;
		CREATE TABLE f (id int); ALTER TABLE f REPLICA IDENTITY FULL; CREATE VIEW v AS SELECT 1 AS one; CREATE TABLE empty (); CREATE UNLOGGED TABLE u (id int);
		CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT;
		CREATE SCHEMA "S.s"; CREATE TABLE "S.s".a (id int);`); err != nil {
		t.Fatal(err)
	}
	c, all, err := cdc.ReadCatalog(t.Context(), url, append(public("a", "i", "f", "v", "empty", "u", "p", "p1", "missing", "a"), relay.TableName{Schema: "S.s", Name: "a"}))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Tables) != 9 || c.Table(public("missing")[0]) != nil {
		t.Errorf("%d tables", len(c.Tables))
	}
	if got := fmt.Sprint(all); got != "[S.s.a public.a public.empty public.f public.i public.p public.p1 public.u]" {
		t.Errorf("all tables are %s", got)
	}
	table := func(name string) *relay.Table {
		t.Helper()
		found := c.Table(public(name)[0])
		if found == nil {
			t.Fatalf("no table %s", name)
		}
		return found
	}
	a := table("a")
	if got := fmt.Sprintln(a.Columns[0].Name, a.Columns[1].Name, a.PrimaryKey, a.NotNull, string(a.Generated), a.TypeNames, a.Owner, a.Ancestors); got !=
		"b A a [1 0] [true true false false] \x00\x00\x00s [integer character varying(5) public.pair[] integer] postgres []\n" {
		t.Error(got)
	}
	if !a.Columns[0].Identity || !a.Columns[1].Identity || a.Columns[2].Identity || a.Kind != 'r' || a.Persistence != 'p' || a.Identity != 'd' {
		t.Errorf("table a is %+v", a)
	}
	pairs, _ := a.Types.ResolveType(a.Columns[2].TypeOID)
	pair, _ := c.ResolveType(pairs.Elem)
	if pair.Kind != 'c' || len(pair.Fields) != 2 {
		t.Fatalf("pair is %+v", pair)
	}
	moods, _ := c.ResolveType(pair.Fields[0].TypeOID)
	mood, _ := c.ResolveType(moods.Elem)
	price, _ := c.ResolveType(pair.Fields[1].TypeOID)
	if mood.Kind != 'e' || mood.Name != "mood" || mood.Schema != "public" || price.Kind != 'd' || price.Base != 1700 || moods.Delim != ',' {
		t.Errorf("types are %+v %+v %+v", moods, mood, price)
	}
	if i := table("i"); i.Columns[0].Identity || !i.Columns[1].Identity || len(i.PrimaryKey) != 0 || i.Identity != 'i' {
		t.Errorf("table i is %+v", i)
	}
	if f := table("f"); !f.Columns[0].Identity || f.Identity != 'f' {
		t.Errorf("table f is %+v", f)
	}
	if table("v").Kind != 'v' || len(table("empty").Columns) != 0 || table("u").Persistence != 'u' || table("p").Kind != 'p' || fmt.Sprint(table("p1").Ancestors) != "[public.p]" {
		t.Error("kinds are wrong")
	}
}

func TestCapture_NotificationsAndTheirGaps(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	url := relay.NewSecret(cluster.Database(t, "notes"))
	db, err := cluster.Conn(t.Context(), "notes")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	notify := func(channel, payload string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), "SELECT pg_notify($1, $2)", channel, payload); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan string, 10)
	gaps := make(chan time.Duration, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	l := cdc.Listener{URL: url, Channels: []string{`MiXed "q"`, "other"}}
	listening := func() {
		t.Helper()
		// What is sent before LISTEN is lost, so wait until a notification comes.
		late := time.After(20 * time.Second)
		for n := 0; ; n++ {
			notify("other", fmt.Sprint("ready", n))
			select {
			case text := <-got:
				for ; text != fmt.Sprintf("other:ready%d", n); text = <-got {
				}
				return
			case <-time.After(20 * time.Millisecond):
			case <-late:
				t.Fatal("nothing arrives")
			}
		}
	}
	go func() {
		done <- l.Run(ctx, func(c *relay.Change) error {
			if c.Op != relay.Notify || c.PID == 0 || c.Time == 0 || c.Tx != nil {
				t.Errorf("change is %+v", c)
			}
			got <- c.Name + ":" + string(c.Payload)
			return nil
		}, func(from, to time.Time) error {
			gaps <- to.Sub(from)
			return nil
		})
	}()
	listening()
	notify(`MiXed "q"`, "x")
	notify("mixed", "not ours")
	notify("other", "")
	if a, b := <-got, <-got; a != `MiXed "q":x` || b != "other:" {
		t.Errorf("got %q and %q", a, b)
	}
	if _, err := db.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rowhook listen'"); err != nil {
		t.Fatal(err)
	}
	if gap := <-gaps; gap <= 0 || gap > 20*time.Second {
		t.Errorf("gap of %s", gap)
	}
	listening()
	if len(gaps) != 0 {
		t.Error("more than one gap")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("listener: %v", err)
	}
	full := errors.New("disk full")
	go func() {
		done <- l.Run(t.Context(), func(*relay.Change) error { return full }, func(time.Time, time.Time) error { return nil })
	}()
	for ended := false; !ended; {
		notify("other", "x")
		select {
		case err = <-done:
			ended = true
		case <-time.After(20 * time.Millisecond):
		}
	}
	if !errors.Is(err, full) {
		t.Errorf("listener: %v", err)
	}
	l.Channels = []string{strings.Repeat("x", 64)}
	wantSetup(t, l.Run(t.Context(), nil, nil), "63 bytes")
}
