package integration_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

// planned is what 'rowhook plan --json' prints.
type planned struct {
	Sources []struct {
		Source, Address, Database, Version, Role, Service, Error string
		Steps                                                    []struct {
			Action, Kind, Name, By, Why, Detail string
			Changes, SQL                        []string
		}
		Warnings []struct {
			Summary, Detail string
			SQL             []string
		}
	}
}

// plan runs the command, which has to end with the code.
func (s *shop) plan(code int) planned {
	s.t.Helper()
	if res := s.command("plan"); res.Code != code {
		s.t.Fatalf("rowhook plan: exit code %d, want %d\n%s%s", res.Code, code, res.Stdout, res.Stderr)
	}
	p := readJSON[planned](s, "plan")
	if len(p.Sources) != 1 {
		s.t.Fatalf("plans of %d sources", len(p.Sources))
	}
	return p
}

// steps are the steps in short: "create publication rowhook_shop by run".
func (p *planned) steps() string {
	var out []string
	for _, s := range p.Sources[0].Steps {
		out = append(out, fmt.Sprintf("%s %s %s by %s", s.Action, s.Kind, s.Name, s.By))
	}
	return strings.Join(out, "; ")
}

func (p *planned) sql(by string) (out []string) {
	for _, s := range p.Sources[0].Steps {
		if s.By == by {
			out = append(out, s.SQL...)
		}
	}
	return out
}

func (p *planned) warnings() string {
	var out []string
	for _, w := range p.Sources[0].Warnings {
		out = append(out, w.Summary+" | "+w.Detail)
	}
	return strings.Join(out, "\n")
}

// quietServer writes nothing of its own that takes a transaction.
var quietServer = postgres.Options{Settings: map[string]string{"autovacuum": "off"}}

// as is the URL of a shop for a role.
func as(t *testing.T, cluster *postgres.Cluster, database, role string) string {
	t.Helper()
	u, err := url.Parse(withPassword(t, cluster.URL(database)))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, dbPassword)
	return u.String()
}

func TestPlan_ChangesNothingAndIsWhatRunDoes(t *testing.T) {
	cluster := postgres.New(t, quietServer)
	s := newShop(t, cluster, "planned", shopOptions{schema: itemsSchema + "; CREATE TABLE orders (id int PRIMARY KEY)", rules: itemRule + `
event "order" {
  table = "public.orders"
  on    = ["insert"]
  data  = row
}`})
	const state = `SELECT pg_snapshot_xmax(pg_current_snapshot()) || ' ' || (SELECT count(*) FROM pg_publication) || ' ' || (SELECT count(*) FROM pg_replication_slots)`
	before := s.ask(state)
	p := s.plan(2)
	if after := s.ask(state); after != before {
		t.Errorf("next xid, publications and slots were %s and are %s", before, after)
	}
	if got := p.steps(); got != "create publication rowhook_shop by run; create slot rowhook_planned by run" {
		t.Errorf("steps are %s", got)
	}
	s.d.StartReady()
	for _, sql := range p.Sources[0].Steps[0].SQL {
		contains(t, "the log", s.d.Log(), fmt.Sprintf("%q", strings.TrimSuffix(sql, ";")))
	}
	if got := s.plan(0); len(got.Sources[0].Steps) != 0 {
		t.Errorf("after run: %s", got.steps())
	}

	// An operation more.
	s.d.Term()
	s.d.SetRules(strings.Replace(s.rules, `on    = ["insert"]`, `on    = ["insert", "truncate"]`, 1))
	p = s.plan(2)
	contains(t, "the plan", strings.Join(p.Sources[0].Steps[0].Changes, "\n"), "~ publish insert, update, delete, truncate, now insert, update, delete")
	s.d.StartReady()
	for _, sql := range p.Sources[0].Steps[0].SQL {
		if strings.HasPrefix(sql, "ALTER PUBLICATION") {
			contains(t, "the log", s.d.Log(), fmt.Sprintf("%q", strings.TrimSuffix(sql, ";")))
		}
	}
	s.plan(0)
	s.put(1)
	s.expect(1)

	// Errors: the rules do not fit, no source of the name, no server.
	s.d.SetRules(strings.Replace(s.rules, "public.items", "public.itens", 1))
	if res := s.command("plan"); res.Code != 1 || !strings.Contains(res.Stderr, "Unknown table") {
		t.Errorf("a wrong table: %+v", res)
	}
	if res := s.command("plan", "other"); res.Code != 1 {
		t.Errorf("a wrong source: %+v", res)
	}
	s.d.Term()
	if err := cluster.Stop(postgres.Fast); err != nil {
		t.Fatal(err)
	}
	s.d.SetRules(s.rules)
	if res := s.command("plan", "--json"); res.Code != 1 || !strings.Contains(res.Stdout, "connect") {
		t.Errorf("no server: %+v", res)
	}
}

// What a plan prints for a DBA, run by hand, is all that is needed.
func TestPlan_WhatADBARunsIsEnough(t *testing.T) {
	cluster := postgres.New(t, quietServer)
	columns := ""
	if cluster.Major() >= 15 {
		columns = `columns = "rules"`
	}
	for name, managed := range map[string]bool{"dba": false, "both": true} {
		t.Run(name, func(t *testing.T) {
			role := "reader_" + name
			if err := cluster.Exec(t.Context(), "postgres", "CREATE ROLE "+role+" LOGIN"); err != nil {
				t.Fatal(err)
			}
			s := newShop(t, cluster, name, shopOptions{
				schema: itemsSchema + `; CREATE TABLE "Much, more" (id int PRIMARY KEY, unread text) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF "Much, more" DEFAULT`,
				source: strings.Replace(shopSource, "slot", fmt.Sprintf("manage = %v\n  %s\n  slot", managed, columns), 1),
				rules:  strings.Replace(itemRule, "data  = row", "data  = { id = row.id, v = new.v }\n}\nevent \"more\" {\n  table = \"public.Much, more\"\n  on = [\"insert\"]\n  data = { id = new.id }", 1),
				url:    as(t, cluster, name, role),
			})
			p := s.plan(2)
			want := fmt.Sprintf("alter role %s by dba; create publication rowhook_shop by dba; create slot rowhook_%s by ", role, name)
			if got := p.steps(); got != want+map[bool]string{false: "dba", true: "run"}[managed] {
				t.Errorf("steps are %s", got)
			}
			for _, sql := range p.sql("dba") {
				if _, err := s.conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			if managed {
				s.plan(2) // the slot
			} else if got := s.plan(0); len(got.Sources[0].Steps) != 0 {
				t.Errorf("after the DBA: %s", got.steps())
			}
			s.d.StartReady()
			s.exec(`INSERT INTO items VALUES (1, 'a'); INSERT INTO "Much, more" VALUES (2, 'b')`)
			s.expect(1, 2)
			s.plan(0)

			// A rule more: said, with what a DBA runs under the lock of the writers.
			s.exec("CREATE TABLE later (id int PRIMARY KEY)")
			s.d.Term()
			s.d.SetRules(s.rules + "\nevent \"later\" {\n  table = \"public.later\"\n  on = [\"insert\"]\n  data = { id = new.id }\n}")
			p = s.plan(2)
			sql := strings.Join(p.sql("dba"), "\n")
			contains(t, "the SQL", sql, "BEGIN;", `LOCK TABLE ONLY "public"."later" IN SHARE ROW EXCLUSIVE MODE;`, `ADD TABLE ONLY "public"."later"`, "COMMIT;")
			for _, sql := range p.sql("dba") {
				if _, err := s.conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			s.plan(0)
			s.d.StartReady()
			s.exec("INSERT INTO later VALUES (3)")
			s.expect(1, 2, 3)
		})
	}
}

// Everything that is missing is said at once, and as the service wants it done.
func TestPlan_FitsTheServer(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{
		"wal_level": "replica", "max_replication_slots": "1", "wal_sender_timeout": "0", "max_slot_wal_keep_size": "-1",
	}})
	if err := cluster.Exec(t.Context(), "postgres", "CREATE ROLE app LOGIN; CREATE ROLE owner; SELECT pg_create_physical_replication_slot('standby')"); err != nil {
		t.Fatal(err)
	}
	s := newShop(t, cluster, "fits", shopOptions{schema: itemsSchema + "; ALTER TABLE items OWNER TO owner", url: as(t, cluster, "fits", "app")})
	p := s.plan(2)
	if got := p.steps(); got != "alter setting wal_level by dba; alter role app by dba; create publication rowhook_shop by dba; "+
		"alter setting max_replication_slots by dba; create slot rowhook_fits by run" {
		t.Errorf("steps are %s", got)
	}
	all := fmt.Sprintf("%+v", p)
	contains(t, "the plan", all, "ALTER SYSTEM SET wal_level = 'logical';", `ALTER ROLE "app" WITH REPLICATION;`, "the owner of the tables (owner) or a superuser",
		"belongs to owner", `GRANT "owner" TO "app";`, `GRANT CREATE ON DATABASE "fits" TO "app";`, "no CREATE privilege", "all 1 replication slots", "max_slot_wal_keep_size is -1", "wal_sender_timeout is 0")
	standbys := "they do not copy logical slots before PostgreSQL 17"
	if cluster.Major() >= 17 {
		standbys = "synchronized_standby_slots is empty"
	}
	contains(t, "the plan", all, standbys)
	for role, words := range map[string][]string{
		"rds_superuser":     {"Amazon RDS", "rds.logical_replication = 1", `GRANT rds_replication TO "app";`},
		"cloudsqlsuperuser": {"Google Cloud SQL", "cloudsql.logical_decoding = on", `ALTER ROLE "app" WITH REPLICATION;`, "a member of cloudsqlsuperuser"},
		"supabase_admin":    {"Supabase", "postgres-config update", `ALTER ROLE "app" WITH REPLICATION;`, "the role postgres"},
		"azure_pg_admin":    {"Azure", "server parameter wal_level = logical", "azure_pg_admin"},
	} {
		if err := cluster.Exec(t.Context(), "postgres", "CREATE ROLE "+role); err != nil {
			t.Fatal(err)
		}
		p := s.plan(2)
		all := fmt.Sprintf("%+v", p)
		contains(t, "the plan", all, append(words, "has no superuser")...)
		if strings.Contains(all, "ALTER SYSTEM") {
			t.Errorf("%s: the plan wants ALTER SYSTEM, which takes a superuser:\n%s", role, all)
		}
		if err := cluster.Exec(t.Context(), "postgres", "DROP ROLE "+role); err != nil {
			t.Fatal(err)
		}
	}
}

// Rules that never match, and applications whose statements fail already, are
// said by check, plan and run (C5).
func TestPlan_WarnsOfPartitionsAndOtherPublications(t *testing.T) {
	cluster := postgres.New(t, quietServer)
	const rootRule = `
event "root" {
  table = "public.m"
  on    = ["insert"]
  data  = row
}`
	s := newShop(t, cluster, "warned", shopOptions{
		schema: itemsSchema + `; CREATE TABLE m (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE m1 PARTITION OF m DEFAULT;
			CREATE TABLE bare (id int); CREATE TABLE g (id int PRIMARY KEY, s int GENERATED ALWAYS AS (1) STORED); ALTER TABLE g REPLICA IDENTITY FULL;
			CREATE PUBLICATION forgotten FOR ALL TABLES WITH (publish = 'update')`,
		rules: `
event "rows" {
  tables = ["public.bare", "public.items", "public.g"]
  on     = ["insert"]
  data   = row
}` + rootRule,
	})
	p := s.plan(2)
	contains(t, "the plan's warnings", p.warnings(), `updates and deletes of public.bare fail in the application, because of the publication "forgotten"`)
	if cluster.Major() >= 15 {
		s.exec(`CREATE PUBLICATION narrow FOR TABLE items (v) WITH (publish = 'delete');
			CREATE PUBLICATION part FOR TABLE items WHERE (v = 'a') WITH (publish = 'update');
			CREATE PUBLICATION fine FOR TABLE items (id) WHERE (id > 1); CREATE PUBLICATION inserts FOR TABLE items (v) WHERE (v = 'a') WITH (publish = 'insert')`)
		p = s.plan(2)
		contains(t, "the plan's warnings", p.warnings(), `publication "narrow" | its list of columns lacks id of the replica identity`, `publication "part" | its row filter uses v,`)
		for _, fine := range []string{`"fine"`, `"inserts"`} {
			if strings.Contains(p.warnings(), fine) {
				t.Errorf("the plan warns of %s:\n%s", fine, p.warnings())
			}
		}
	}
	if generated := strings.Contains(p.warnings(), `updates and deletes of public.g fail`); generated != (cluster.Major() >= 18) {
		t.Errorf("full identity with a generated column: warned of is %v", generated)
	}
	// The server agrees.
	for _, table := range []string{"bare", "items", "g"} {
		s.exec("INSERT INTO " + table + " (id) VALUES (1)")
		err := cluster.Exec(t.Context(), "warned", "UPDATE "+table+" SET id = 2")
		if warned := strings.Contains(p.warnings(), "deletes of public."+table+" fail"); (err != nil) != warned {
			t.Errorf("update of %s: %v, warned of was %v", table, err, warned)
		}
	}
	s.d.StartReady()
	contains(t, "the log", s.d.Log(), `updates and deletes of public.bare fail in the application, because of the publication \"forgotten\"`)
	s.d.Term()

	// A rule on a partition whose root is published.
	s.d.SetRules(strings.Replace(s.rules, `"public.bare"`, `"public.m1"`, 1))
	for _, command := range [][]string{{"check", "--database"}, {"plan"}} {
		res := s.command(command...)
		contains(t, "rowhook "+command[0], res.Stderr, "Rule never matches", "public.m1 is a partition of public.m")
		if want := map[string]int{"check": 2, "plan": 1}[command[0]]; res.Code != want {
			t.Errorf("rowhook %s ended with %d, want %d", command[0], res.Code, want)
		}
	}
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "Rule never matches")
	s.d.Term()
	// The same where no rule names the root.
	s.exec("ALTER PUBLICATION rowhook_shop SET TABLE m")
	s.d.SetRules(strings.NewReplacer(`"public.bare", "public.items", "public.g"`, `"public.m1"`, rootRule, "").Replace(s.rules))
	if res := s.command("plan"); res.Code != 1 || !strings.Contains(res.Stdout, "the changes of public.m1 come as those of public.m") {
		t.Errorf("rowhook plan: %+v", res)
	}
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "the changes of public.m1 come as those of public.m")
}

// A publication that someone else manages and that lacks a column the rules
// read is said at once, before a change is judged.
func TestPlan_AListThatLacksAColumnStopsAnUnmanagedSource(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	if cluster.Major() < 15 {
		return // there are no lists
	}
	s := newShop(t, cluster, "unmanaged", shopOptions{source: strings.Replace(shopSource, "slot", "manage = false\n  slot", 1)})
	s.exec("CREATE PUBLICATION rowhook_shop FOR TABLE items (id)")
	s.exec("SELECT pg_create_logical_replication_slot('rowhook_unmanaged', 'pgoutput')")
	s.d.Start()
	reason := s.untilSource(api.SourceStopped).Reason
	contains(t, "the reason", reason, "does not list columns of public.items that the rules read", `ADD TABLE ONLY "public"."items"`)
	p := s.plan(2)
	for _, sql := range p.sql("dba") {
		s.exec(sql)
	}
	s.d.Term()
	s.d.StartReady()
	s.put(1)
	s.expect(1)
}
