package config

import (
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay"
)

// shopTable is a table of which everything is known: not null where its name
// does not begin with m (maybe).
var shopTable = func() *relay.Table {
	types := &relay.Catalog{Types: map[uint32]relay.Type{
		20000: {OID: 20000, Schema: "public", Name: "status", Kind: 'e', Labels: []string{"pending", "paid", "refunded"}},
		20001: {OID: 20001, Schema: "public", Name: "color", Kind: 'e', Labels: []string{"red", "green"}},
		20002: {OID: 20002, Schema: "public", Name: "address", Kind: 'c', Fields: []relay.Column{{Name: "street", TypeOID: 25, TypeMod: -1}, {Name: "zip", TypeOID: 23, TypeMod: -1}}},
		20003: {OID: 20003, Schema: "public", Name: "cents", Kind: 'd', Base: 23, NotNull: true},
		20004: {OID: 20004, Schema: "public", Name: "_status", Kind: 'b', Elem: 20000},
	}}
	t := &relay.Table{Relation: relay.Relation{OID: 2, Schema: "public", Name: "shop", Identity: relay.IdentityDefault, PrimaryKey: []int{0}, Types: types}, Kind: 'r', Persistence: 'p'}
	for _, c := range []struct {
		name    string
		typ     string
		oid     uint32
		mod     int32
		storage byte
		dims    int
	}{
		{"id", "bigint", 20, -1, 'p', 0}, {"status", "public.status", 20000, -1, 'p', 0}, {"color", "public.color", 20001, -1, 'p', 0}, {"small", "smallint", 21, -1, 'p', 0}, {"paid", "boolean", 16, -1, 'p', 0}, {"uid", "uuid", 2950, -1, 'p', 0},
		{"day", "date", 1082, -1, 'p', 0}, {"at", "timestamp with time zone", 1184, -1, 'p', 0}, {"local_at", "timestamp without time zone", 1114, -1, 'p', 0}, {"name", "text", 25, -1, 'x', 0}, {"code", "character(3)", 1042, 7, 'x', 0}, {"nick", "character varying(100)", 1043, 104, 'x', 0},
		{"price", "numeric(5,2)", 1700, 5<<16 | 2 + 4, 'm', 0}, {"ratio", "double precision", 701, -1, 'p', 0}, {"doc", "jsonb", 3802, -1, 'x', 0}, {"tags", "text[]", 1009, -1, 'x', 1}, {"grid", "double precision[]", 1022, -1, 'x', 2}, {"home", "public.address", 20002, -1, 'x', 0},
		{"states", "public.status[]", 20004, -1, 'x', 1}, {"mname", "text", 25, -1, 'x', 0}, {"mtotal", "integer", 23, -1, 'p', 0}, {"mpaid", "boolean", 16, -1, 'p', 0}, {"mstatus", "public.status", 20000, -1, 'p', 0}, {"cents", "public.cents", 20003, -1, 'p', 0}, {"sum", "integer", 23, -1, 'p', 0},
	} {
		t.Columns = append(t.Columns, relay.Column{Name: c.name, TypeOID: c.oid, TypeMod: c.mod, Identity: c.name == "id"})
		t.NotNull = append(t.NotNull, c.name[0] != 'm' && c.name != "cents")
		t.Generated = append(t.Generated, 0)
		t.Storage = append(t.Storage, c.storage)
		t.Dims = append(t.Dims, c.dims)
		t.TypeNames = append(t.TypeNames, c.typ)
	}
	t.Generated[len(t.Generated)-1] = 's'
	return t
}()

func fullTable() *relay.Table {
	full := *shopTable
	full.Identity = relay.IdentityFull
	return &full
}

var (
	onInsert = relay.OpsOf(relay.Insert)
	onUpdate = relay.OpsOf(relay.Update)
	onDelete = relay.OpsOf(relay.Delete)
	onAll    = relay.OpsOf(relay.Insert, relay.Update, relay.Delete)
)

func scopeOn(ops relay.Ops) exprScope {
	return exprScope{kind: ruleTable, source: "shop", ops: ops, tables: []relay.TableName{shopTable.Table()}}
}

// TestInfer_Types holds what is inferred of data against the JSON Schema words
// of it, in short.
func TestInfer_Types(t *testing.T) {
	for _, c := range []struct {
		ops        relay.Ops
		when, data string
		want       string
	}{
		{onInsert, ``, `new.id`, `a whole number from -9223372036854775808 to 9223372036854775807`},
		{onInsert, ``, `new.small`, `a whole number from -32768 to 32767`},
		{onInsert, ``, `new.cents`, `a whole number from -2147483648 to 2147483647`},
		{onInsert, ``, `new.status`, `one of "pending", "paid", "refunded"`},
		{onInsert, ``, `new.mstatus`, `one of "pending", "paid", "refunded" or null`},
		{onDelete, ``, `new.status`, `null`},
		{onAll, ``, `new.id`, `a whole number from -9223372036854775808 to 9223372036854775807 or null`},
		{onAll, ``, `row.id`, `a whole number from -9223372036854775808 to 9223372036854775807`},
		{onAll, `op != "delete"`, `new.paid`, `a bool`},
		{onAll, ``, `op == "delete" ? old.id : new.id`, `a whole number from -9223372036854775808 to 9223372036854775807`},
		{onAll, `contains(["insert", "update"], op)`, `new.paid`, `a bool`},
		{onAll, ``, `op`, `one of "insert", "update", "delete"`},
		{onInsert, ``, `new.uid`, `a string (uuid)`},
		{onInsert, ``, `new.at`, `a string (timestamp)`},
		{onInsert, ``, `new.tags`, `a list of a string or null`},
		{onInsert, ``, `new.grid`, `a list of a list of a number or null`},
		{onInsert, ``, `new.states`, `a list of one of "pending", "paid", "refunded" or null`},
		{onInsert, ``, `new.home.zip`, `a whole number from -2147483648 to 2147483647 or null`},
		{onInsert, ``, `new.doc`, `any value`},
		{onInsert, ``, `new.doc.a.b`, `any value`},
		{onInsert, ``, `new.price`, `a number`},
		{onInsert, ``, `new.mtotal`, `a whole number from -2147483648 to 2147483647 or null`},
		{onInsert, `new.mtotal > 5`, `new.mtotal`, `a whole number from -2147483648 to 2147483647`},
		{onInsert, `new.mtotal != null`, `new.mtotal`, `a whole number from -2147483648 to 2147483647`},
		{onInsert, `!(new.mtotal == null)`, `new.mtotal`, `a whole number from -2147483648 to 2147483647`},
		{onInsert, `new.mstatus == "paid"`, `new.mstatus`, `"paid"`},
		{onInsert, `new.mstatus == "paid" || new.mstatus == "refunded"`, `new.mstatus`, `one of "paid", "refunded"`},
		{onInsert, `contains(["paid", "pending"], new.mstatus)`, `new.mstatus`, `one of "paid", "pending"`},
		{onInsert, `new.status != "paid"`, `new.status`, `one of "pending", "refunded"`},
		{onInsert, `new.mtotal == new.small`, `new.mtotal`, `a whole number from -2147483648 to 2147483647`},
		{onInsert, `new.mname == null || new.mtotal != null`, `new.mtotal`, `a whole number from -2147483648 to 2147483647 or null`},
		{onInsert, ``, `coalesce(new.mtotal, 0)`, `a whole number from -2147483648 to 2147483647`},
		{onInsert, ``, `coalesce(new.mtotal, new.mname)`, `a whole number from -2147483648 to 2147483647 or a string or null`},
		{onInsert, ``, `new.mtotal == null ? 0 : new.mtotal * 2`, `a whole number`},
		{onInsert, ``, `new.paid ? "gold" : "normal"`, `one of "gold", "normal"`},
		{onInsert, ``, `"${new.id} x"`, `a string`},
		{onInsert, ``, `[for t in new.tags : upper(t) if t != null]`, `a list of a string`},
		{onInsert, ``, `split(",", new.name)`, `a list of a string`},
		{onInsert, ``, `new.small / 2`, `a number`},
		{onInsert, ``, `floor(new.small / 2)`, `a whole number`},
		{onInsert, ``, `tostring(new.mtotal)`, `a string or null`},
		{onInsert, ``, `try(tonumber(new.name), null)`, `a number or null`},
		{onInsert, ``, `tx.xid`, `a whole number from 0 to 4294967295`},
	} {
		e, diags := exprs{when: c.when, data: c.data}.compile(t, scopeOn(c.ops))
		if diags.HasErrors() {
			t.Errorf("%s: %s", c.data, diags)
			continue
		}
		in := e.infer(fullTable())
		if got := in.data.String(); got != c.want {
			t.Errorf("%s when %q:\n got %s %v\nwant %s", c.data, c.when, got, in.diags, c.want)
		}
	}
}

func TestInfer_Objects(t *testing.T) {
	fields := func(data string, ops relay.Ops, table *relay.Table) map[string]contract.Field {
		e, diags := exprs{data: data}.compile(t, scopeOn(ops))
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		m := map[string]contract.Field{}
		for _, f := range e.infer(table).data.Fields {
			m[f.Name] = f
		}
		return m
	}
	row := fields(`new`, onUpdate, shopTable)
	if _, ok := row["sum"]; ok || !row["name"].Optional || row["id"].Optional || len(row) != len(shopTable.Columns)-1 {
		t.Errorf("a row: %v", row)
	}
	if row := fields(`new`, onUpdate, fullTable()); row["name"].Optional {
		t.Error("FULL supplies what was not sent")
	}
	if row := fields(`row`, onDelete, shopTable); !row["paid"].Optional || row["id"].Optional {
		t.Errorf("a deleted row has the replica identity: %v", row)
	}
	m := fields(`merge(pick(new, "id", "name"), { name = "x", extra = new.mtotal })`, onUpdate, shopTable)
	if len(m) != 3 || m["name"].Optional || m["name"].Type.String() != `"x"` || m["extra"].Type.Kinds&contract.Null == 0 {
		t.Errorf("merge and pick: %v", m)
	}
	if m := fields(`omit(new, "name")`, onInsert, shopTable); len(m) != len(shopTable.Columns)-2 {
		t.Errorf("omit: %v", m)
	}
	if m := fields(`{ a = new.paid ? { b = 1 } : { b = "x", c = 2 } }`, onInsert, shopTable); !m["a"].Type.Field("c").Optional || m["a"].Type.Field("b").Optional {
		t.Errorf("one of two objects: %v", m)
	}
}

// Each expression has a mistake at a place, which the catalogue shows.
func TestInfer_Mistakes(t *testing.T) {
	for _, m := range []struct {
		ops relay.Ops
		mistake
	}{
		{onInsert, mistake{`new.status == "piad"`, `new.status == "piad"`, sumNever, `Did you mean paid?`}},
		{onInsert, mistake{`new.status != "shipped"`, `new.status != "shipped"`, sumAlways, `one of "pending", "paid", "refunded"`}},
		{onInsert, mistake{`new.status == new.color`, `new.status == new.color`, sumNever, `never equal`}},
		{onInsert, mistake{`new.small == 70000`, `new.small == 70000`, sumNever, `from -32768 to 32767`}},
		{onInsert, mistake{`new.small > 70000`, `new.small > 70000`, sumNever, `from -32768 to 32767`}},
		{onInsert, mistake{`70000 < new.small`, `70000 < new.small`, sumNever, `new.small is a whole number`}},
		{onInsert, mistake{`new.small < 70000`, `new.small < 70000`, sumAlways, `from -32768 to 32767`}},
		{onInsert, mistake{`new.small >= -32768`, `new.small >= -32768`, sumAlways, ``}},
		{onInsert, mistake{`new.small == 1.5`, `new.small == 1.5`, sumNever, ``}},
		{onInsert, mistake{`new.price == 12345`, `new.price == 12345`, sumNever, ``}},
		{onInsert, mistake{`new.paid == "true"`, `new.paid == "true"`, sumMixed, `new.paid is a bool and "true" is a string`}},
		{onInsert, mistake{`new.id == null`, `new.id == null`, sumNever, `declared NOT NULL`}},
		{onInsert, mistake{`new.id != null`, `new.id != null`, sumAlways, `declared NOT NULL`}},
		{onInsert, mistake{`new.cents == null`, `new.cents == null`, sumNever, `declared NOT NULL`}},
		{onInsert, mistake{`new.uid == "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"`, `new.uid == "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"`, sumNever, `Its values look like "a0eebc99`}},
		{onInsert, mistake{`new.day == "2026-1-31"`, `new.day == "2026-1-31"`, sumNever, `"2026-01-31"`}},
		{onInsert, mistake{`new.at == "2026-01-31 09:30:00+00"`, `new.at == "2026-01-31 09:30:00+00"`, sumNever, `2026-01-31T09:30:00+00:00`}},
		{onInsert, mistake{`new.code == "x"`, `new.code == "x"`, sumNever, `trimspace()`}},
		{onInsert, mistake{`new.nick == "` + strings.Repeat("x", 101) + `"`, ``, sumNever, `at most 100 characters`}},
		{onInsert, mistake{`new.status == "paid" && new.status == "pending"`, ``, sumNever, `never equal`}},
		{onInsert, mistake{`new.mtotal > 5`, `new.mtotal`, sumMayBeNull, `new.mtotal != null &&`}},
		{onInsert, mistake{`new.mtotal > 5 && new.mtotal < 9`, ``, sumMayBeNull, `not declared NOT NULL`}},
		{onInsert, mistake{`new.mpaid`, `new.mpaid`, sumMayBeNull, `the condition`}},
		{onInsert, mistake{`new.mpaid || new.paid`, `new.mpaid`, sumMayBeNull, `|| then fails`}},
		{onInsert, mistake{`"${new.mname}!" == "x"`, `new.mname`, sumMayBeNull, `a template`}},
		{onInsert, mistake{`upper(new.mname) == "X"`, `new.mname`, sumMayBeNull, `coalesce(new.mname, ...)`}},
		{onInsert, mistake{`new.home.zip > 5`, `new.home.zip`, sumMayBeNull, ``}},
		{onAll, mistake{`new.id > 5`, `new.id`, sumMayBeNull, `There is no new row on delete: test op first, or use row.`}},
		{onInsert, mistake{`old.id > 5`, `old.id`, sumNull, `There is no old row in what the rule is about (insert).`}},
		{onInsert, mistake{`new.home.zap == 5`, `new.home.zap`, sumUnknownAttribute, `Did you mean zip?`}},
		{onInsert, mistake{`new.home[0] == 5`, `new.home[0]`, sumTypes, `an attribute is written .name`}},
		{onInsert, mistake{`new.sum == 5`, `new.sum`, sumGenerated, `does not send generated columns`}},
		{onUpdate, mistake{`new.name == "x"`, `new.name`, sumUnsent, `ALTER TABLE "public"."shop" REPLICA IDENTITY FULL`}},
		{onUpdate, mistake{`new.name == "x"`, `new.name`, sumUnsent, `ALTER COLUMN "name" SET STORAGE MAIN`}},
		{onUpdate, mistake{`new.doc.x == 5`, `new.doc.x`, sumUnsent, `TOAST`}},
		{onUpdate, mistake{`length(new.tags) > 1`, `new.tags`, sumUnsent, ``}},
		{onUpdate, mistake{`new.mname == null`, `new.mname`, sumUnsent, ``}},
		{onUpdate, mistake{`new.nick == "x"`, `new.nick`, sumUnsent, ``}},
		{onUpdate, mistake{`can(new.name)`, `new.name`, sumUnsent, ``}},
	} {
		e, diags := exprs{when: m.expr, data: `1`}.compile(t, scopeOn(m.ops))
		diags = append(diags, e.check(shopTable)...)
		var hit bool
		for _, d := range diags {
			at := string(d.Subject.SliceBytes([]byte(m.expr)))
			hit = hit || d.Summary == m.summary && strings.Contains(d.Detail, m.detail) && (m.at == "" || m.at == at)
		}
		if !hit || m.at != "" && len(diags) != 1 {
			t.Errorf("%s on %v: %v", m.expr, opNames(m.ops), diags)
		}
	}
}

func TestInfer_WhatIsGuardedIsFine(t *testing.T) {
	for _, c := range []struct {
		ops        relay.Ops
		when, data string
	}{
		{onInsert, `new.mtotal != null && new.mtotal > 5`, `1`},
		{onInsert, `new.mtotal > 5 && new.mtotal != null`, `1`}, // && looks at both sides
		{onInsert, `new.mtotal == null || new.mtotal > 5`, `1`},
		{onInsert, `new.mname == "x" && upper(new.mname) == "X"`, `1`},
		{onInsert, `coalesce(new.mtotal, 0) > 5`, `1`},
		{onInsert, `(new.mtotal == null ? 0 : new.mtotal) > 5`, `1`},
		{onInsert, `try(new.mtotal > 5, false)`, `1`},
		{onInsert, `can(new.mtotal + 1)`, `1`},
		{onInsert, `new.mtotal != null && (new.mtotal > 9 || new.mtotal < 2)`, `{ n = new.mtotal + 1 }`},
		{onInsert, `new.doc.total > 5 && new.doc.name == "x"`, `1`},
		{onAll, `op != "delete" && new.id > 5`, `1`},
		{onAll, `op == "delete" || new.id > 5`, `1`},
		{onAll, `row.id > 5`, `1`},
		{onInsert, `new.name == "x"`, `{ name = new.name }`},
		{onUpdate, `changed.id || new.small == 5 && new.status == "paid"`, `new`},
		{relay.OpsOf(relay.Insert, relay.Update), `op == "insert" && new.name == "x"`, `{ name = new.name }`},
		{onInsert, `new.code == "abc" && new.nick == "x" && new.uid == "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`, `1`},
		{onInsert, `new.price > 5 && new.ratio > 1 && new.day == "2026-01-31"`, `1`},
	} {
		e, diags := exprs{when: c.when, data: c.data}.compile(t, scopeOn(c.ops))
		if diags = append(diags, e.check(shopTable)...); len(diags) > 0 {
			t.Errorf("%s, %s: %v", c.when, c.data, diags)
		}
	}
}

func TestInfer_DataThatIsNotThere(t *testing.T) {
	for _, c := range []struct {
		ops            relay.Ops
		data, at, want string
		severity       hcl.DiagnosticSeverity
	}{
		{onInsert, `old`, `old`, "There is no old row in what the rule is about (insert): every column would be null. Use new.", hcl.DiagError},
		{onDelete, `merge(new, { a = 1 })`, `new`, "Use old.", hcl.DiagError},
		{onInsert, `{ was = old.id }`, `old.id`, "always null", hcl.DiagWarning},
		{relay.OpsOf(relay.Truncate), `row`, `row`, "A truncate has no rows.", hcl.DiagError},
		{onUpdate, `{ name = new.name }`, `new.name`, "left out of the event", hcl.DiagWarning},
		{onUpdate, `{ names = [new.name] }`, `new.name`, "dead letter", hcl.DiagError},
		{onUpdate, `{ name = upper(new.name) }`, `new.name`, "dead letter", hcl.DiagError},
		{onUpdate, `{ nick = upper(new.nick) }`, `new.nick`, "dead letter", hcl.DiagWarning}, // bounded: only in a row of more than 2 kB
		{onUpdate, `new.name`, `new.name`, "dead letter", hcl.DiagError},
		{onUpdate, `{ row = jsonencode(new) }`, `new`, "dead letter", hcl.DiagError},
	} {
		e, diags := exprs{data: c.data}.compile(t, scopeOn(c.ops))
		diags = append(diags, e.check(shopTable)...)
		if len(diags) == 0 {
			t.Errorf("%s: nothing", c.data)
			continue
		}
		for _, d := range diags[:1] {
			if at := string(d.Subject.SliceBytes([]byte(c.data))); at != c.at || !strings.Contains(d.Detail, c.want) || d.Severity != c.severity {
				t.Errorf("%s: %s: %v %s", c.data, at, d.Severity, d.Detail)
			}
		}
	}
}

// A local is written for several rules: what it says of other operations is no
// mistake.
func TestInfer_LocalsServeSeveralRules(t *testing.T) {
	scope := scopeOn(onInsert)
	scope.locals = map[string]hcl.Expression{"id": parseAt(t, `op == "delete" ? old.id : new.id`), "paid": parseAt(t, `new.paid && old.paid != true`)}
	e, diags := exprs{when: `local.paid`, key: `local.id`, data: `1`}.compile(t, scope)
	if diags = append(diags, e.check(shopTable)...); len(diags) > 0 {
		t.Error(diags)
	}
}

// parseAt parses an expression that stands in a file of its own.
func parseAt(t *testing.T, src string) hcl.Expression {
	t.Helper()
	expr, diags := hclsyntax.ParseExpression([]byte(src), "locals.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return expr
}
