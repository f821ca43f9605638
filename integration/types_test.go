package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
)

const typesSchema = `
CREATE TYPE status AS ENUM ('pending', 'paid', 'so so');
CREATE TYPE place AS (street text, zip int);
CREATE DOMAIN cents AS int NOT NULL;
CREATE TABLE orders (
  id bigint PRIMARY KEY, account uuid NOT NULL, status status NOT NULL DEFAULT 'pending', small smallint NOT NULL, total numeric(10,2) NOT NULL, ratio float8, due date, at timestamptz NOT NULL,
  local timestamp, note text, doc jsonb, tags text[], grid int[][], home place, states status[], code char(3), ok boolean NOT NULL, price cents, raw bytea, span int4range, "odd name" int);
CREATE TABLE full_orders (LIKE orders INCLUDING ALL);
ALTER TABLE full_orders REPLICA IDENTITY FULL;`

const typesRules = `
event "order.changed" {
  description = "A row of orders, as it is."
  table       = "public.orders"
  on          = ["insert", "update", "delete"]
  data        = row
}
event "order.kept" {
  table  = "public.full_orders"
  on     = ["update"]
  when   = new.status == "paid" && old.status != "paid"
  tenant = new.account
  data = {
    id    = new.id
    now   = new.status
    was   = old.status
    total = new.total
    zip   = new.home != null ? new.home.zip : 0
    size  = new.small > 100 ? "big" : "small"
    tags  = [for t in coalesce(new.tags, []) : upper(t) if t != null]
    mixed = new.ok ? new.id : tostring(new.id)
    who   = { account = new.account, "odd name" = new["odd name"] }
  }
}
event "order.kept_v2" {
  type    = "order.kept"
  version = 2
  table   = "public.full_orders"
  on      = ["update"]
  numbers = "string"
  data    = new
}
event "order.gone" {
  table = "public.full_orders"
  on    = ["truncate"]
  data  = { table = table, op = op }
}
event "signup" {
  message = "signup"
  data    = payload
  schema {
    id    = description(integer, "Of the account, */ for ever.")
    plan  = enum("free", "pro")
    email = optional(description(nullable(string), "Where \"invoices\" go.\nNull until it is confirmed."))
    lines = description(list({ sku = description(string, "'SKU' of the article"), qty = number }), "What was ordered.")
    attrs = map(any)
  }
}
`

// typesChanges makes every value that a contract has to allow.
const typesChanges = `
INSERT INTO TABLE VALUES (1, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'pending', -5, 'NaN', 'Infinity', 'infinity', '-infinity', '0044-03-15 01:02:03 BC',
  (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i), '{"a": [1, null, {"b": 1e30}]}', '{a,NULL,"b c"}', '{{1,2},{3,NULL}}', '(Main,12345)', '{paid,NULL}', 'x', true, 5, '\xff', '[1,5)', 7);
INSERT INTO TABLE (id, account, small, total, at, ok, price) VALUES (9223372036854775807, gen_random_uuid(), 32767, 12345678.90, now(), false, -1);
INSERT INTO TABLE (id, account, small, total, at, due, ok, price, ratio, home) VALUES (3, gen_random_uuid(), 0, 0, '12026-01-31 09:30:00.5+05:30', '2026-01-31', true, 0, 1e-7, '(,)');
UPDATE TABLE SET status = 'paid';
UPDATE TABLE SET status = 'so so', "odd name" = 8;
DELETE FROM TABLE;
TRUNCATE TABLE;`

// TestTypes_AreJudgedByTheirOwnTools delivers events of every kind of value, and holds the bodies
// that arrived, and what types prints, against a JSON Schema validator, the TypeScript compiler, the
// AsyncAPI parser and the Go compiler.
func TestTypes_AreJudgedByTheirOwnTools(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "types", shopOptions{schema: typesSchema, rules: typesRules, settings: `catalog = "catalog.json"`})
	s.must("check", "--database", "--save-catalog", filepath.Join(s.d.Dir, "config", "catalog.json"))
	s.must("check") // without the database
	s.d.StartReady()
	for _, table := range []string{"orders", "full_orders"} {
		s.exec(strings.ReplaceAll(typesChanges, "TABLE", table))
	}
	s.exec(`SELECT pg_logical_emit_message(true, 'signup', '{"id": 1, "plan": "pro", "lines": [{"sku": "x", "qty": 1.5}], "attrs": {"a": null}, "more": 1}')`)
	s.exec(`SELECT pg_logical_emit_message(true, 'signup', '{"id": 2, "plan": "free", "email": null, "lines": [], "attrs": {}}')`)
	// 12 of orders, 3 kept, 6 kept_v2, 1 gone, 2 signups.
	s.hook.WaitCount(24)
	bodies := bodiesOf(t, s.hook.Events())
	work := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(work, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for format, name := range map[string]string{"jsonschema": "events.schema.json", "typescript": "events.ts", "asyncapi": "asyncapi.json", "go": "events.go"} {
		s.must("types", "--format", format, "--package", "main", "-o", filepath.Join(work, name))
	}
	modules := harness.JavaScript(t, "ajv", "ajv-formats", "typescript", "@asyncapi/parser")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}

	t.Run("JSON Schema", func(t *testing.T) {
		lines := append(slices.Clone(bodies), wrongBodies(t, bodies)...)
		out := mustRun(t, work, "node", filepath.Join(here, "testdata", "validate.mjs"), modules, "events.schema.json", write("bodies", strings.Join(lines, "\n")))
		results := strings.Split(strings.TrimSpace(out), "\n")
		if len(results) != len(lines) {
			t.Fatalf("%d results of %d bodies", len(results), len(lines))
		}
		for i, line := range results {
			var r struct {
				Valid  bool
				Of     []string
				Errors []string
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			if right := i < len(bodies); r.Valid != right || right && len(r.Of) != 1 {
				t.Errorf("valid is %t of %v, want %t: %v\n%s", r.Valid, r.Of, right, r.Errors, lines[i])
			}
		}
	})

	t.Run("TypeScript", func(t *testing.T) {
		// A literal may have no attribute that its type does not name, and so the
		// bodies are held against the types both ways.
		var good strings.Builder
		good.WriteString("import type { RowhookEvent } from \"./events\";\n" + typesConsumer)
		for i, b := range bodies {
			// What a message has beyond its schema is let through.
			fmt.Fprintf(&good, "export const e%d: RowhookEvent = %s;\n", i, strings.Replace(b, `, "more": 1`, "", 1))
		}
		write("good.ts", good.String())
		tsc := []string{filepath.Join(modules, "node_modules", "typescript", "bin", "tsc"), "--strict", "--noEmit", "--target", "es2022"}
		mustRun(t, work, "node", append(slices.Clone(tsc), "good.ts")...)
		var files []string
		for i, wrong := range []string{
			`export const f = (e: OrderKeptV1): number => e.data.mixed;`,
			`export const f = (e: OrderKeptV1): "lost" => e.data.now;`,
			`export const f = (e: OrderChangedV1): string => e.data.note;`,
			`export const f = (e: OrderChangedV1): string => e.data.grid![0]![0]!;`,
			`export const f = (e: RowhookEvent) => e.data.id;`,
			`export const f = (e: SignupV1) => e.data.missing;`,
		} {
			file := fmt.Sprintf("wrong%d.ts", i)
			write(file, "import type { RowhookEvent, OrderKeptV1, OrderChangedV1, SignupV1 } from \"./events\";\n"+wrong+"\n")
			files = append(files, file)
		}
		out, _ := run(work, "node", append(slices.Clone(tsc), files...)...)
		for _, file := range files {
			if !strings.Contains(out, file+"(2,") {
				t.Errorf("the compiler takes %s:\n%s", file, out)
			}
		}
	})

	t.Run("AsyncAPI", func(t *testing.T) {
		out := mustRun(t, work, "node", filepath.Join(here, "testdata", "asyncapi.mjs"), modules, "asyncapi.json")
		var doc struct {
			Version  string
			Messages map[string][]string
		}
		if err := json.Unmarshal([]byte(out), &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Version != "3.0.0" || len(doc.Messages) != 5 || !slices.Contains(doc.Messages["order.kept@1"], "tenant") {
			t.Errorf("got %s", out)
		}
	})

	t.Run("Go", func(t *testing.T) {
		write("go.mod", "module consumer\n\ngo 1.26\n")
		write("main.go", goConsumer)
		mustRun(t, work, "go", "vet", ".")
		cmd := exec.Command("go", "run", ".")
		cmd.Dir, cmd.Stdin = work, strings.NewReader(strings.Join(bodies, "\n"))
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(len(bodies)) {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// typesConsumer tells the events apart by type and version.
const typesConsumer = `
export function handle(e: RowhookEvent): string {
  switch (e.type) {
    case "order.kept":
      if (e.version === 1) {
        const size: "big" | "small" = e.data.size;
        const mixed: number | string = e.data.mixed;
        return size + e.tenant + mixed + e.data.who["odd name"];
      }
      return e.data.total.toUpperCase();
    case "order.changed":
      return e.op === "delete" ? String(e.data.id) : (e.data.note ?? e.unchanged?.join() ?? "");
    case "order.gone":
      return e.data.table;
    case "signup":
      return e.data.plan + e.data.lines.map((l) => l.sku).join();
  }
}
`

const goConsumer = `package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

func main() {
	in, n := bufio.NewScanner(os.Stdin), 0
	in.Buffer(nil, 1<<20)
	for ; in.Scan(); n++ {
		body := in.Bytes()
		var head struct {
			Type    string
			Version int
		}
		must(json.Unmarshal(body, &head))
		into := map[string]any{
			"order.changed@1": &OrderChangedV1{}, "order.kept@1": &OrderKeptV1{}, "order.kept@2": &OrderKeptV2{}, "order.gone@1": &OrderGoneV1{}, "signup@1": &SignupV1{},
		}[fmt.Sprintf("%s@%d", head.Type, head.Version)]
		d := json.NewDecoder(bytes.NewReader(body))
		if head.Type != "signup" { // a message may have more than its schema
			d.DisallowUnknownFields()
		}
		must(d.Decode(into))
		if e, ok := into.(*OrderChangedV1); ok && e.Data.Total != nil {
			// A number keeps its digits, and NaN is one.
			again, err := json.Marshal(e.Data.Total)
			must(err)
			if !strings.Contains(string(body), "\"total\":"+string(again)) {
				panic("total is printed as " + string(again))
			}
		}
	}
	must(in.Err())
	fmt.Println(n)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
`

// bodiesOf returns the bodies as they arrived, a line each.
func bodiesOf(t *testing.T, events []*harness.Request) []string {
	t.Helper()
	var bodies []string
	unsent := false
	for _, q := range events {
		if bytes.ContainsAny(q.Body, "\n") {
			t.Fatalf("a body of several lines: %s", q.Body)
		}
		bodies = append(bodies, string(q.Body))
		unsent = unsent || bytes.Contains(q.Body, []byte(`"unchanged":["note"]`))
	}
	if !unsent {
		t.Error("no body lacks an unchanged value, which the contract has to allow")
	}
	return bodies
}

// wrongBodies are bodies that no contract allows.
func wrongBodies(t *testing.T, bodies []string) []string {
	t.Helper()
	var wrong []string
	for _, c := range [][3]string{
		{`"type":"order.kept","version":1`, `"now":"paid"`, `"now":"lost"`},
		{`"type":"order.kept","version":1`, `"size":"`, `"size":5,"x":"`},
		{`"type":"order.kept","version":1`, `"tenant":`, `"tenants":`},
		{`"type":"order.changed"`, `"op":"insert"`, `"op":"inserted"`},
		{`"type":"order.changed"`, `"sequence":"`, `"sequence":"x`},
		{`"type":"order.changed"`, `"id":"evt_`, `"id":"evt-`},
		{`"type":"order.kept","version":2`, `"small":"`, `"small":5,"y":"`},
		{`"type":"signup"`, `"plan": "pro"`, `"plan": "team"`},
		{`"type":"signup"`, `"lines": []`, `"lines": null`},
	} {
		i := slices.IndexFunc(bodies, func(b string) bool { return strings.Contains(b, c[0]) && strings.Contains(b, c[1]) })
		if i < 0 {
			t.Fatalf("no body has %s and %s", c[0], c[1])
		}
		wrong = append(wrong, strings.Replace(bodies[i], c[1], c[2], 1))
	}
	return wrong
}

func run(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustRun(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	out, err := run(dir, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}
