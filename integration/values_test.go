package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// hostileSettings change how every kind of value is printed, for whoever does
// not pin what it needs. The database's are of the role, too.
var hostileSettings = map[string]string{
	"DateStyle": "'SQL, DMY'", "IntervalStyle": "'sql_standard'", "TimeZone": "'Asia/Tokyo'", "bytea_output": "'escape'",
	"extra_float_digits": "-3", "quote_all_identifiers": "on", "xmlbinary": "'hex'", "xmloption": "'document'",
	"search_path": "elsewhere", "default_text_search_config": "'pg_catalog.german'",
}

// values is a database whose rows are read twice: by a stream whose changes a
// rule with data = row turns into JSON, and by asking the server.
type values struct {
	*source
	major int
	rule  *relay.Rule
	mu    sync.Mutex
	got   map[string]string // table/id: what the rule made of the inserted row
	progs map[*relay.Relation]relay.Program
	draft relay.Draft
}

// newValues makes the database, whose tables are all published.
func newValues(t *testing.T, cluster *postgres.Cluster, name, options, schema string) *values {
	t.Helper()
	v := &values{major: cluster.Major(), rule: compile(t, `data = row`), got: map[string]string{}, progs: map[*relay.Relation]relay.Program{}}
	v.source = sourceIn(t, cluster, cluster.Database(t, name, options), name, "CREATE PUBLICATION everything FOR ALL TABLES; "+schema)
	v.stream.Publication = "everything"
	v.source.got.seen = v.see
	for setting, value := range hostileSettings {
		v.exec(fmt.Sprintf("ALTER DATABASE %s SET %s = %s", name, setting, value))
		v.exec(fmt.Sprintf("ALTER ROLE postgres IN DATABASE %s SET %s = %s", name, setting, value))
	}
	return v
}

// compile returns the rule with the body.
func compile(t *testing.T, body string) *relay.Rule {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rowhook.hcl")
	text := fmt.Sprintf(`
source "postgres" "shop" { url = env("URL") }
event "all" {
  table = "public.t"
  on    = ["insert", "update", "delete"]
  %s
}
sink "stdout" "out" { events = ["**"] }
`, body)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, diags := config.Load([]string{file}, config.Options{Getenv: func(string) (string, bool) { return "postgres://db/shop", true }})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return cfg.Rules[0]
}

// see judges one change, in the stream's goroutine.
func (v *values) see(c *relay.Change) {
	if c.Op != relay.Insert {
		return
	}
	prog := v.progs[c.Relation]
	if prog == nil {
		var err error
		if prog, err = v.rule.Bind(c.Relation); err != nil {
			v.t.Error(err)
			return
		}
		v.progs[c.Relation] = prog
	}
	v.draft.Reset()
	if ok, err := prog.Eval(c, &v.draft); !ok || err != nil {
		v.t.Errorf("%s: %t, %v", c.Relation.Table(), ok, err)
	}
	if len(v.draft.Unchanged) > 0 {
		v.t.Errorf("%s: an inserted row without %v", c.Relation.Table(), v.draft.Unchanged)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.got[c.Relation.Name+"/"+string(c.New[0].Text)] = string(v.draft.Data)
}

// oracle opens a session with the settings that a stream pins.
func (v *values) oracle() *pgx.Conn {
	v.t.Helper()
	cfg, err := pgx.ParseConfig(v.url.Reveal())
	if err != nil {
		v.t.Fatal(err)
	}
	cfg.RuntimeParams["options"] = cdc.SessionOptions
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	conn, err := pgx.ConnectConfig(v.t.Context(), cfg)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// compare holds the rows of the tables against what the server's function,
// to_jsonb or to_json, says of them. It settles the stream first.
func (v *values) compare(function string, tables ...string) {
	v.t.Helper()
	v.settle()
	conn := v.oracle()
	v.mu.Lock()
	defer v.mu.Unlock()
	rows := 0
	for _, table := range tables {
		for _, want := range simple(v.t, conn, fmt.Sprintf("SELECT id, %s(t) FROM public.%s AS t ORDER BY id", function, pgx.Identifier{table}.Sanitize())) {
			id := table + "/" + want[0]
			got, ok := v.got[id]
			if !ok {
				v.t.Errorf("%s did not come", id)
				continue
			}
			rows++
			delete(v.got, id)
			if g, w := canonical(v.t, got), canonical(v.t, want[1]); g != w {
				v.t.Errorf("%s\n got %s\nwant %s", id, around(g, w), around(w, g))
			}
		}
	}
	if rows == 0 {
		v.t.Error("no rows to compare")
	}
	v.t.Logf("%d rows of %d tables compared", rows, len(tables))
}

// simple asks in the simple protocol, which gives text. A null is "".
func simple(t *testing.T, conn *pgx.Conn, sql string) (rows [][]string) {
	t.Helper()
	results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	for _, row := range results[0].Rows {
		var texts []string
		for _, text := range row {
			texts = append(texts, string(text))
		}
		rows = append(rows, texts)
	}
	return rows
}

// around returns what is around the first byte in which two texts differ.
func around(text, other string) string {
	at := 0
	for at < len(text) && at < len(other) && text[at] == other[at] {
		at++
	}
	from, to := max(0, at-60), min(len(text), at+120)
	return strconv.Itoa(at) + ": " + text[from:to]
}

// canonical returns the JSON text with the members of objects sorted and
// without white space between tokens. Strings and numbers stay as they are
// written.
func canonical(t *testing.T, text string) string {
	t.Helper()
	if !pgvalue.ValidJSON([]byte(text)) {
		t.Errorf("not JSON: %s", text)
		return text
	}
	return sorted(string(pgvalue.AppendCompact(nil, []byte(text))))
}

// sorted sorts the members of a compact value.
func sorted(text string) string {
	if text[0] != '{' && text[0] != '[' {
		return text
	}
	var items []string
	for i := 1; i < len(text)-1; i++ { // the comma, or the closing bracket
		start := i
		i, _ = pgvalue.SkipJSON([]byte(text), i)
		name := ""
		if text[0] == '{' {
			name = text[start : i+1]
			start = i + 1
			i, _ = pgvalue.SkipJSON([]byte(text), start)
		}
		items = append(items, name+sorted(text[start:i]))
	}
	if text[0] == '{' {
		slices.Sort(items)
	}
	return text[:1] + strings.Join(items, ",") + text[len(text)-1:]
}

// valueTypesSQL lists every type that a column may have: arrays are tried with
// their elements.
const valueTypesSQL = `SELECT t.oid, t.typname, format('%I.%I', n.nspname, t.typname), t.typarray <> 0,
  coalesce((SELECT c.relkind::text || c.oid::regclass::text FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c'), '')
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype <> 'p' AND t.typsubscript <> 'array_subscript_handler'::regproc AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY t.oid`

// TestValues_AreWhatToJSONBPrints holds what data = row makes of streamed rows
// against the server's own to_jsonb.
func TestValues_AreWhatToJSONBPrints(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"max_locks_per_transaction": "1024"}})
	t.Run("E1 E2 E3 every type the server has under hostile settings", func(t *testing.T) { everyType(t, cluster) })
	t.Run("random types and values", func(t *testing.T) { randomValues(t, cluster) })
	t.Run("a cast to json made by a user is not used", func(t *testing.T) { userCasts(t, cluster) })
	for _, encoding := range []string{"LATIN1", "EUC_JP", "SQL_ASCII"} {
		t.Run("E5 encoding "+encoding, func(t *testing.T) { otherEncoding(t, cluster, encoding) })
	}
}

// everyType compares samples of every type: alone, in arrays, in domains over
// it and over its array, and in composites of those. A type that nobody has
// thought of a sample for fails the test.
func everyType(t *testing.T, cluster *postgres.Cluster) {
	v := newValues(t, cluster, "everytype", "", valueSchema)
	for _, extension := range simple(t, v.db, "SELECT name FROM pg_available_extensions WHERE name = ANY('{hstore,citext,ltree,cube,seg,isn,intarray}') ORDER BY name") {
		v.exec("CREATE EXTENSION " + extension[0])
		t.Logf("with %s", extension[0])
	}
	types := simple(t, v.db, valueTypesSQL)
	v.run()
	var jsonb, json []string
	for _, typ := range types {
		oid, name, quoted, array, rowOf := typ[0], typ[1], typ[2], typ[3] == "t", typ[4]
		samples, ok := valueSamples[name]
		if rowOf != "" {
			samples, ok = []string{"(SELECT json_populate_record(NULL::" + quoted + ", '{}'))"}, true
			if rowOf[0] == 'r' {
				samples = append(samples, "(SELECT x FROM "+rowOf[1:]+" x LIMIT 1)")
			}
		}
		switch {
		case !ok:
			t.Errorf("no sample of the type %s", quoted)
		case len(samples) == 0: // no SQL makes one
		case !v.insertSamples("t"+oid, quoted, samples, array && rowOf == ""):
		case name == "json":
			json = append(json, "t"+oid)
		default:
			jsonb = append(jsonb, "t"+oid)
		}
	}
	v.compare("to_jsonb", jsonb...)
	t.Run("json is passed on as it was written and not as jsonb would normalise it", func(t *testing.T) {
		// Its duplicates, the order of its members, 1e2 and \u0000: as to_json does.
		v.source.t = t
		v.compare("to_json", json...)
	})
	v.source.t = t
	v.stop()
	v.done()
}

// done fails when rows came that nobody compared. The stream has ended.
func (v *values) done() {
	v.t.Helper()
	if len(v.got) > 0 {
		v.t.Errorf("%d rows were not compared", len(v.got))
	}
}

// userCasts: to_jsonb calls a function of the user's where there is a cast to
// json of the type, and the stream has only the text that the type prints.
// hstore, whose cast everyone has, is printed as its cast does.
func userCasts(t *testing.T, cluster *postgres.Cluster) {
	v := newValues(t, cluster, "usercasts", "", `
		CREATE TYPE color AS ENUM ('red'); CREATE FUNCTION color_json(color) RETURNS json LANGUAGE sql AS $$ SELECT '{"rgb": "f00"}'::json $$;
		CREATE CAST (color AS json) WITH FUNCTION color_json(color); CREATE TABLE t (id int PRIMARY KEY, c color, cs color[])`)
	v.run()
	v.exec("INSERT INTO t VALUES (1, 'red', '{red}')")
	v.settle()
	if want := simple(t, v.db, "SELECT to_jsonb(t) FROM t")[0][0]; !strings.Contains(want, "f00") {
		t.Errorf("to_jsonb does not use the cast any more: %s", want)
	}
	if got := v.got["t/1"]; got != `{"id":1,"c":"red","cs":["red"]}` {
		t.Errorf("got %s", got)
	}
	v.stop()
}

// otherEncoding: the stream is in UTF-8 whatever the database is in, names and
// messages too. A character that UTF-8 has not ends it, with the reason. In
// SQL_ASCII nobody knows what the bytes mean: those that are not UTF-8 become
// U+FFFD, and the stream goes on.
func otherEncoding(t *testing.T, cluster *postgres.Cluster, encoding string) {
	letters := map[string]string{"LATIN1": "äÿ\u00a0", "EUC_JP": "日本語ｱ", "SQL_ASCII": "ä日"}[encoding]
	name := strings.ToLower(encoding)
	v := newValues(t, cluster, name, "ENCODING '"+encoding+"' TEMPLATE template0",
		fmt.Sprintf(`CREATE TYPE %[1]q AS ENUM (%[2]s); CREATE TYPE pair AS (%[1]q text); CREATE TABLE t (id int PRIMARY KEY, %[1]q text, e %[1]q, c pair, a text[], j jsonb)`,
			letters, quote(letters)))
	v.run()
	v.exec(fmt.Sprintf("INSERT INTO t VALUES (1, %[1]s, %[1]s, ROW(%[1]s), ARRAY[%[1]s], to_jsonb(%[1]s::text))", quote(letters)))
	v.compare("to_jsonb", "t")
	v.exec("SELECT pg_logical_emit_message(true, " + quote(letters) + ", " + quote(letters) + ")")
	lines := v.settle()
	if want := "message " + letters + " " + letters; !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, want) }) {
		t.Errorf("%q is not in %q", want, lines)
	}
	if encoding == "SQL_ASCII" {
		v.exec(`INSERT INTO t (id, a) VALUES (2, ARRAY[E'a\xff\xe4z'])`)
		v.settle()
		if got, want := v.got["t/2"], fmt.Sprintf("{\"id\":2,%q:null,\"e\":null,\"c\":null,\"a\":[\"a\uFFFD\uFFFDz\"],\"j\":null}", letters); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		delete(v.got, "t/2")
	}
	if encoding != "EUC_JP" {
		v.stop()
		v.done()
		return
	}
	v.exec(`INSERT INTO t (id, a) VALUES (2, ARRAY[E'\xa9\xa1'])`) // of a row of the character set that is empty
	err := v.source.end()
	wantSetup(t, err, "convert", "reset", "associated LSN")
	v.done()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// insertSamples makes a table of the values of a type and fills it. It returns
// false when a column cannot be of the type.
func (v *values) insertSamples(table, typ string, samples []string, shapes bool) bool {
	v.t.Helper()
	replace := strings.NewReplacer("$T", typ, "$t", table)
	create, columns := "CREATE TABLE $t (id int PRIMARY KEY, v $T)", "v"
	if shapes {
		create = `CREATE DOMAIN $t_d AS $T; CREATE DOMAIN $t_da AS $T[]; CREATE TYPE $t_c AS (b $T, "a ""b" $T[], d $t_d); CREATE DOMAIN $t_dc AS $t_c;
			CREATE TYPE $t_cc AS (c $t_c, cs $t_c[], dc $t_dc, ds $t_d[], x int);
			CREATE TABLE $t (id int PRIMARY KEY, v $T, a $T[], aa $T[], bounds $T[], empty $T[], d $t_d, da $t_da, ds $t_d[], c $t_c, cs $t_c[], dc $t_dc, cc $t_cc)`
		c := "ROW(v, ARRAY[v, NULL]::$T[], v)::$t_c"
		columns = "v, ARRAY[v, NULL, v]::$T[], ARRAY[ARRAY[v, NULL], ARRAY[v, v]]::$T[], ('[-1:0]=' || ARRAY[v, v]::$T[]::text)::$T[], '{}'::$T[], v, ARRAY[v]::$T[], ARRAY[v, NULL]::$t_d[], " +
			c + ", ARRAY[" + c + ", NULL], " + c + ", ROW(" + c + ", ARRAY[" + c + "], NULL, ARRAY[v]::$t_d[], 1)::$t_cc"
	}
	if _, err := v.db.PgConn().Exec(v.t.Context(), replace.Replace(create)).ReadAll(); err != nil {
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "42P16" { // columns of pseudo-types
			v.t.Errorf("%s: %v", typ, err)
		}
		return false
	}
	sql := "INSERT INTO $t (id) VALUES (-1);\n"
	for i, sample := range samples {
		if version, expr, ok := strings.Cut(sample, ": "); ok {
			if since, err := strconv.Atoi(version); err == nil {
				if sample = expr; since > v.major {
					continue
				}
			}
		}
		sql += fmt.Sprintf("INSERT INTO $t SELECT %d, %s FROM (SELECT (%s)::$T AS v) s;\n", i, columns, sample)
	}
	if _, err := v.db.PgConn().Exec(v.t.Context(), replace.Replace(sql)).ReadAll(); err != nil {
		v.t.Errorf("%s: %v", sql, err)
	}
	return true
}
