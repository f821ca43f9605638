package integration_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
)

// snapshots makes a Snapshots of a database that ends with the test.
func snapshots(t *testing.T, url string) *cdc.Snapshots {
	t.Helper()
	s := &cdc.Snapshots{URL: relay.NewSecret(url), Slot: "rowhook_shop"}
	t.Cleanup(s.Close)
	return s
}

func take(t *testing.T, s *cdc.Snapshots) *cdc.Snapshot {
	t.Helper()
	snap, err := s.Take(t.Context(), func(cdc.SnapshotWait) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// readAll reads a table with a snapshot for every n rows and returns the rows as
// text.
func readAll(t *testing.T, s *cdc.Snapshots, read cdc.TableRead, n int) []string {
	t.Helper()
	var all []string
	for {
		snap := take(t, s)
		end, err := snap.Read(t.Context(), read, cdc.ReadLimits{Rows: n}, func(rel *relay.Relation, row relay.Row, key [][]byte) error {
			var w []string
			for i, v := range row {
				text := "NULL"
				if v.State == relay.Known {
					text = string(v.Text)
				}
				w = append(w, rel.Columns[i].Name+"="+text)
			}
			all = append(all, strings.Join(w, " "))
			read.After = nil
			for _, k := range key {
				read.After = append(read.After, slices.Clone(k))
			}
			return nil
		})
		snap.Close()
		if err != nil {
			t.Fatal(err)
		}
		if end {
			return all
		}
	}
}

func table(name string) relay.TableName { return relay.TableName{Schema: "public", Name: name} }

// TestBackfill_ReadsEveryRowOnce reads tables of every kind in small chunks: the
// order of the pages is the server's own, whatever the key.
func TestBackfill_ReadsEveryRowOnce(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	url := cluster.Database(t, "shop")
	exec := func(sql string) {
		t.Helper()
		if err := cluster.Exec(t.Context(), "shop", sql); err != nil {
			t.Fatal(err)
		}
	}
	s := snapshots(t, url)
	for name, c := range map[string]struct{ sql, from string }{
		"ints":      {`CREATE TABLE ints (id int PRIMARY KEY, v text); INSERT INTO ints SELECT i, i FROM generate_series(-60, 60) i`, "ints"},
		"composite": {`CREATE TABLE composite (v text, b text, a int, PRIMARY KEY (a, b)); INSERT INTO composite SELECT i, chr(65 + i % 26), i / 26 FROM generate_series(1, 120) i`, "composite"},
		"texts": {`CREATE TABLE texts (id text PRIMARY KEY); INSERT INTO texts
			SELECT x FROM unnest('{a,A,b,B,ä,Ä,z,Z,"","a b","a-b",ab,aB,"''","\\","é",е,"日本"}'::text[]) x; INSERT INTO texts SELECT md5(i::text) FROM generate_series(1, 100) i`, "texts"},
		"icu": {`CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); CREATE TABLE icu (id text COLLATE ci PRIMARY KEY);
			INSERT INTO icu SELECT x FROM unnest('{a,B,c,Z,ä,é,"a b","a-b",ab}'::text[]) x; INSERT INTO icu SELECT upper(md5(i::text)) FROM generate_series(1, 60) i`, "icu"},
		"unusual": {`CREATE TYPE mood AS ENUM ('z', 'a', 'm'); CREATE DOMAIN price AS numeric; CREATE TABLE unusual (m mood, p price, f float8, t timestamptz, c char(4), PRIMARY KEY (m, p, f, t, c));
			INSERT INTO unusual SELECT (enum_range(NULL::mood))[1 + i % 3], i / 7, (ARRAY['NaN', '-Infinity', '0.1', '1e300'])[1 + i % 4]::float8, timestamptz '2024-01-01 00:00:00.000001+05' + i * interval '1 us', i FROM generate_series(1, 90) i`, "unusual"},
		"unique index":  {`CREATE TABLE uniq (id int NOT NULL, v int NOT NULL, w int); CREATE UNIQUE INDEX ON uniq (v DESC, id); INSERT INTO uniq SELECT i % 10, i, NULL FROM generate_series(1, 70) i`, "uniq"},
		"quoted":        {`CREATE TABLE "We""ird Näme" ("I""D" int PRIMARY KEY, "select" text); INSERT INTO "We""ird Näme" SELECT i, i FROM generate_series(1, 50) i`, `We"ird Näme`},
		"partitioned":   {`CREATE TABLE parts (id int, r text, PRIMARY KEY (r, id)) PARTITION BY LIST (r); CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ('eu'); CREATE TABLE parts_us (r text NOT NULL, id int NOT NULL); ALTER TABLE parts ATTACH PARTITION parts_us FOR VALUES IN ('us'); INSERT INTO parts SELECT i, (ARRAY['eu', 'us'])[1 + i % 2] FROM generate_series(1, 80) i`, "parts"},
		"inherited":     {`CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent); INSERT INTO parent SELECT i FROM generate_series(1, 30) i; INSERT INTO child VALUES (5), (500)`, "parent"},
		"extension":     {`CREATE EXTENSION citext; CREATE TABLE ext (c citext, id int, PRIMARY KEY (c, id)); INSERT INTO ext SELECT (ARRAY['a', 'B', 'c', 'D', 'é'])[1 + i % 5], i FROM generate_series(1, 90) i`, "ext"},
		"empty":         {`CREATE TABLE empty (id int PRIMARY KEY)`, "empty"},
		"large objects": {`CREATE TABLE large (id int PRIMARY KEY, v text); ALTER TABLE large ALTER v SET STORAGE EXTERNAL; INSERT INTO large SELECT i, repeat('x', 300000) FROM generate_series(1, 20) i`, "large"},
	} {
		t.Run(name, func(t *testing.T) {
			exec(c.sql)
			got := readAll(t, s, cdc.TableRead{Table: table(c.from)}, 7)
			conn, err := cluster.Conn(t.Context(), "shop")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			only := "ONLY "
			if name == "partitioned" {
				only = ""
			}
			n := 0
			if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM `+only+pgx.Identifier{c.from}.Sanitize()).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if distinct := slices.Compact(slices.Sorted(slices.Values(got))); len(got) != n || len(distinct) != n {
				t.Errorf("%d rows were read, %d different ones, of %d", len(got), len(distinct), n)
			}
		})
	}
}

func TestBackfill_SaysWhatIsMissing(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	cluster.Database(t, "shop")
	if err := cluster.Exec(t.Context(), "shop", `
		CREATE ROLE feed LOGIN REPLICATION;
		CREATE SCHEMA hidden; CREATE TABLE hidden.t (id int PRIMARY KEY);
		CREATE TABLE closed (id int PRIMARY KEY); CREATE TABLE keyless (id int);
		CREATE TABLE partly (id int PRIMARY KEY, v text, w text); INSERT INTO partly VALUES (1, 'a', 'b'); GRANT SELECT (id, v) ON partly TO feed;
		CREATE TABLE guarded (id int PRIMARY KEY); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; GRANT SELECT ON guarded, keyless TO feed;
		CREATE TABLE fine (id int PRIMARY KEY, v text); INSERT INTO fine SELECT i, i FROM generate_series(1, 1000) i; GRANT SELECT ON fine TO feed; ANALYZE fine`); err != nil {
		t.Fatal(err)
	}
	url := strings.Replace(cluster.URL("shop"), "postgres@", "feed@", 1)
	if !strings.Contains(url, "feed@") {
		t.Fatalf("%s does not name the user", url)
	}
	for name, c := range map[string]struct {
		table relay.TableName
		where string
		want  []string
	}{
		"no grant":     {table("closed"), "", []string{"may not read", `GRANT SELECT ON "public"."closed" TO "feed";`}},
		"no column's":  {table("partly"), "", []string{"may not read", `GRANT SELECT ON "public"."partly" TO "feed";`}},
		"no schema":    {relay.TableName{Schema: "hidden", Name: "t"}, "", []string{`GRANT USAGE ON SCHEMA "hidden" TO "feed";`}},
		"row security": {table("guarded"), "", []string{"row level security", `ALTER ROLE "feed" WITH BYPASSRLS;`}},
		"no key":       {table("keyless"), "", []string{"neither a primary key nor a unique index"}},
		"no table":     {table("nothing"), "", []string{"does not exist"}},
		"no column":    {table("fine"), "w > 1", []string{`column "w" does not exist`}},
		"no condition": {table("fine"), "v", []string{"argument of WHERE must be type boolean, not type text"}},
		"no syntax":    {table("fine"), "id > 5 LIMIT 3", []string{`syntax error at or near "LIMIT"`}},
		"no escape":    {table("fine"), "true) OR (true", []string{"a closing parenthesis too many"}},
		"comment":      {table("fine"), "true -- ", []string{"a comment"}},
		"statement":    {table("fine"), "true; DROP TABLE fine", []string{"a semicolon"}},
		"a parameter":  {table("fine"), "id = $1", []string{"a dollar sign"}},
		"escapes":      {table("fine"), `v = E'\') OR (true'`, []string{"an escape string"}},
		"open":         {table("fine"), "(id > 5", []string{"an opening parenthesis too many"}},
		"unended":      {table("fine"), "v = 'a", []string{"a quote without its end"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cdc.CheckRead(t.Context(), relay.NewSecret(url), cdc.TableRead{Table: c.table, Where: c.where})
			var setup *cdc.SetupError
			if !errors.As(err, &setup) {
				t.Fatalf("it says %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("it says %v, want %q", err, want)
				}
			}
		})
	}
	rows, err := cdc.CheckRead(t.Context(), relay.NewSecret(url), cdc.TableRead{Table: table("fine"), Where: `v <> 'it''s ) ; $1 --' AND "id" > 500`})
	if err != nil || rows < 100 || rows > 900 {
		t.Errorf("about %d rows, %v", rows, err)
	}
	s := snapshots(t, url)
	if got := readAll(t, s, cdc.TableRead{Table: table("partly"), Columns: []string{"v"}}, 4); fmt.Sprint(got) != "[id=1 v=a]" {
		t.Errorf("with the right to two columns: %v", got)
	}
	if got := readAll(t, s, cdc.TableRead{Table: table("fine"), Where: "id % 100 = 0 OR id = 1", Columns: []string{}}, 4); fmt.Sprint(got) != "[id=1 id=100 id=200 id=300 id=400 id=500 id=600 id=700 id=800 id=900 id=1000]" {
		t.Errorf("read %v", got)
	}
}
