package config

import (
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/rowhook/rowhook/relay"
)

// The relation of the tests: a column of each kind.
var ordersTable = &relay.Table{
	Relation: relay.Relation{
		OID: 1, Schema: "public", Name: "orders", Identity: relay.IdentityDefault,
		Columns: []relay.Column{
			{Name: "id", TypeOID: 20, Identity: true},
			{Name: "status", TypeOID: 25},
			{Name: "total", TypeOID: 1700},
			{Name: "paid", TypeOID: 16},
			{Name: "doc", TypeOID: 3802},
			{Name: "tags", TypeOID: 1009},
			{Name: "body", TypeOID: 25},
			{Name: "at", TypeOID: 1184},
			{Name: "tax", TypeOID: 1700},
		},
		PrimaryKey: []int{0},
	},
	Kind: 'r',
}

var orders = &ordersTable.Relation

const (
	nullText    = "\x00null"
	unknownText = "\x00unknown"
)

// row makes a row of texts; columns that are not given are null.
func row(cols ...string) relay.Row {
	r := make(relay.Row, len(orders.Columns))
	for i := range r {
		r[i].State = relay.Null
	}
	for _, c := range cols {
		name, text, _ := strings.Cut(c, "=")
		v := &r[orders.Column(name)]
		switch text {
		case nullText:
			v.State = relay.Null
		case unknownText:
			v.State = relay.Unknown
		default:
			*v = relay.Value{State: relay.Known, Text: []byte(text)}
		}
	}
	return r
}

func parse(t testing.TB, src string) hcl.Expression {
	t.Helper()
	if src == "" {
		return nil
	}
	expr, diags := hclsyntax.ParseExpression([]byte(src), "rules.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatalf("%s: %s", src, diags)
	}
	return expr
}

func tableScope() exprScope {
	return exprScope{kind: ruleTable, source: "shop", ops: relay.OpsOf(relay.Insert, relay.Update, relay.Delete), tables: []relay.TableName{orders.Table()}}
}

type exprs struct{ when, key, tenant, data string }

func (x exprs) compile(t testing.TB, scope exprScope) (*ruleExprs, hcl.Diagnostics) {
	t.Helper()
	return compileExprs(scope, parse(t, x.when), parse(t, x.key), parse(t, x.tenant), parse(t, x.data))
}

func (x exprs) bind(t testing.TB, scope exprScope, rel *relay.Relation) relay.Program {
	t.Helper()
	e, diags := x.compile(t, scope)
	if diags.HasErrors() {
		t.Fatalf("%+v: %s", x, diags)
	}
	p, err := e.bind(rel)
	if err != nil {
		t.Fatalf("%+v: %s", x, err)
	}
	return p
}

// updated is the change most tests look at.
func updated() *relay.Change {
	return &relay.Change{
		Op: relay.Update, Relation: orders,
		Old: row("id=7", "status=open", "total=10.50", "paid=f", "doc="+unknownText, "tags="+unknownText, "body="+unknownText, "at="+unknownText, "tax="+unknownText),
		New: row("id=7", "status=paid", "total=12.50", "paid=t", `doc={"a": {"b": [1.0, "x\ty", null]}, "n": 12345678901234567890, "s": "5"}`,
			`tags={a,"b c"}`, "body="+unknownText, "at=2024-01-02 03:04:05+00"),
		Tx: &relay.Tx{XID: 99, CommitLSN: 0x16B3748, CommitTime: 1704164645123456, Context: []byte(`{"user":{"id":5}}`)},
	}
}

func TestExpr_Data(t *testing.T) {
	for _, x := range []struct{ expr, want string }{
		// Literals, templates, operators.
		{`1.50`, `1.5`},
		{`"a${new.id}b${true}"`, `"a7btrue"`},
		{`"${new.total}"`, `12.50`},
		{`"total ${new.total}"`, `"total 12.50"`},
		{`new.total - old.total`, `2`},
		{`new.total * 1.1`, `13.75`},
		{`1 / 4 + 7 % 4`, `3.25`},
		{`-new.total`, `-12.50`},
		{`0.1 + 0.2`, `0.3`},
		{`9223372036854775807 + 1`, `9223372036854775808`},
		{`9223372036854775807 * -2`, `-18446744073709551614`},
		{`new.id > 6 && !(new.total <= 12.4)`, `true`},
		{`new.paid ? "yes" : "no"`, `"yes"`},
		{`[1, "a", null, true]`, `[1,"a",null,true]`},
		{`{ b = new.id, "a b" = 1, (new.status) = 2, paid = 3 }`, `{"b":7,"a b":1,"paid":3}`},
		// Names.
		{`op`, `"update"`}, {`table`, `"public.orders"`}, {`source`, `"shop"`},
		{`{ x = tx.xid, l = tx.lsn, t = tx.commit_time, u = tx.context.user.id, n = tx.context.no.thing }`,
			`{"x":99,"l":"0/16B3748","t":"2024-01-02T03:04:05.123456Z","u":5,"n":null}`},
		{`changed.status && !changed.id`, `true`},
		{`row["id"]`, `7`}, {`(new).id`, `7`},
		// Documents are passed as they are.
		{`new.doc`, `{"a": {"b": [1.0, "x\ty", null]}, "n": 12345678901234567890, "s": "5"}`},
		{`new.doc.a.b`, `[1.0, "x\ty", null]`},
		{`new.doc.a.b[0]`, `1.0`}, {`new.doc.a.b[1]`, `"x\ty"`}, {`new.doc.a.b[2]`, `null`}, {`new.doc.a.b[9]`, `null`},
		{`new.doc.n + 1`, `12345678901234567891`},
		{`new.doc[new.status == "paid" ? "n" : "s"]`, `12345678901234567890`},
		{`new.doc.nothing.at.all`, `null`},
		{`new.doc.a == { b = [1, "x\ty", null] }`, `true`},
		{`new.doc.a == { b = [1, "x\ty"] }`, `false`},
		{`new.tags`, `["a", "b c"]`}, {`new.tags[1]`, `"b c"`}, {`new.at`, `"2024-01-02T03:04:05+00:00"`}, {`"${new.at}"`, `"2024-01-02T03:04:05+00:00"`},
		{`[for i, x in new.tags : "${i}${x}" if x != "a"]`, `["1b c"]`},
		{`{for k, v in new.doc : upper(k) => v if k != "a"}`, `{"N":12345678901234567890,"S":"5"}`},
		{`jsondecode("[{\"a\":1},{\"a\":2}]")[*].a`, `[1,2]`},
		// Functions.
		{`upper("aé") == "AÉ" && lower("A") == "a"`, `true`},
		{`[trim("xax", "x"), trimspace(" a "), trimprefix("ab", "a"), trimsuffix("ab", "b"), replace("aba", "a", "c")]`, `["a","a","b","a","cbc"]`},
		{`[split(",", "a,b"), join("-", new.tags), substr("héllo", 1, 3), substr("hello", -2, -1)]`, `[["a","b"],"a-b c","éll","lo"]`},
		{`[strlen("é"), length(new.tags), length({ a = 1 }), length("ab")]`, `[1,2,1,2]`},
		{`[contains(new.tags, "a"), contains("abc", "bc"), startswith("ab", "a"), endswith("ab", "a")]`, `[true,true,true,false]`},
		{`[coalesce(null, old.status, "x"), coalesce(new.tax, 0), coalesce(null)]`, `["open",0,null]`},
		{`[concat([1], [2, 3]), keys({ b = 1, a = 2 }), values({ b = 1, a = 2 }), lookup({ a = 1 }, "b", 5), lookup({ a = 1 }, "a")]`, `[[1,2,3],["a","b"],[2,1],5,1]`},
		{`[jsonencode(new.tags), tostring(1), tostring(new.total), tonumber("1.50"), tobool("true"), tostring(null)]`, `["[\"a\",\"b c\"]","1","12.50",1.50,true,null]`},
		{`[abs(-1.5), ceil(1.2), floor(-1.2), ceil(-1.2), max(1, 3, 2), min(2, 1.5)]`, `[1.5,2,-2,-1,3,1.5]`},
		{`[regex("[0-9]+", "a12"), regex("(a)(b)?", "a"), regex("(?P<x>a)", "a"), matches("^a", "ba")]`, `["12",["a",null],{"x":"a"},false]`},
		{`sha256("a")`, `"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"`},
		{`[mask("secret"), mask("4111111111111111", 4), mask("é", 5)]`, `["******","************1111","é"]`},
		{`[try(new.doc.s.x, "none"), can(new.doc.s.x), can(1 / new.id), try(tonumber("x"), 1)]`, `["none",false,true,1]`},
		{`merge({ a = 1, b = 2 }, null, { b = 3, c = new.total })`, `{"a":1,"b":3,"c":12.50}`},
		{`merge({ a = 1 }, new.doc.a)`, `{"a":1,"b":[1.0, "x\ty", null]}`},
	} {
		p := exprs{data: x.expr}.bind(t, tableScope(), orders)
		var d relay.Draft
		ok, err := p.Eval(updated(), &d)
		if err != nil || !ok || string(d.Data) != x.want {
			t.Errorf("%s\n got %s, %v, %v\nwant %s", x.expr, d.Data, ok, err, x.want)
		}
	}
}

func TestExpr_RowPassesThroughWithoutWhatIsUnknown(t *testing.T) {
	const doc = `"doc":{"a": {"b": [1.0, "x\ty", null]}, "n": 12345678901234567890, "s": "5"},"tags":["a", "b c"],`
	for _, x := range []struct{ expr, want, unchanged string }{
		{`row`, `{"id":7,"status":"paid","total":12.50,"paid":true,` + doc + `"at":"2024-01-02T03:04:05+00:00","tax":null}`, "body"},
		{``, `{"id":7,"status":"paid","total":12.50,"paid":true,` + doc + `"at":"2024-01-02T03:04:05+00:00","tax":null}`, "body"},
		{`{ id = new.id, body = new.body, in = { b = new.body } }`, `{"id":7,"in":{}}`, "body"},
		{`merge({ a = 1 }, { b = new.body })`, `{"a":1}`, "body"},
		{`merge({ x = old }, { x = 1 })`, `{"x":1}`, ""},
		{`old`, `{"id":7,"status":"open","total":10.50,"paid":false}`, ""},
	} {
		p := exprs{data: x.expr}.bind(t, tableScope(), orders)
		d := relay.Draft{Unchanged: make([]string, 0, 4)}
		if _, err := p.Eval(updated(), &d); err != nil || string(d.Data) != x.want || strings.Join(d.Unchanged, ",") != x.unchanged {
			t.Errorf("%s\n got %s unchanged %v, %v\nwant %s unchanged %s", x.expr, d.Data, d.Unchanged, err, x.want, x.unchanged)
		}
	}
	p := exprs{data: `merge(row, { body = "b", id = "x" })`}.bind(t, tableScope(), orders)
	var d relay.Draft
	if _, err := p.Eval(updated(), &d); err != nil || len(d.Unchanged) > 0 || !strings.HasSuffix(string(d.Data), `"tax":null,"body":"b","id":"x"}`) || strings.Contains(string(d.Data), `"id":7`) {
		t.Errorf("merge over an unknown column: %s unchanged %v, %v", d.Data, d.Unchanged, err)
	}
}

func TestExpr_AbsentRowsAreNulls(t *testing.T) {
	insert := &relay.Change{Op: relay.Insert, Relation: orders, New: row("id=1", "status=open")}
	remove := &relay.Change{Op: relay.Delete, Relation: orders, Old: row("id=1", "status="+unknownText)}
	truncate := &relay.Change{Op: relay.Truncate, Relation: orders}
	nulls := `{"id":null,"status":null,"total":null,"paid":null,"doc":null,"tags":null,"body":null,"at":null,"tax":null}`
	for _, x := range []struct {
		change     *relay.Change
		expr, want string
	}{
		{insert, `[old.id, new.id, row.id, changed.id, changed.total, old.status == null]`, `[null,1,1,true,false,true]`},
		{insert, `old`, nulls},
		{remove, `[old.id, new.id, row.id, new.status]`, `[1,null,1,null]`},
		{remove, `row`, `{"id":1,"total":null,"paid":null,"doc":null,"tags":null,"body":null,"at":null,"tax":null}`},
		{truncate, `{ op = op, id = row.id }`, `{"op":"truncate","id":null}`},
		{truncate, ``, `null`},
	} {
		p := exprs{data: x.expr}.bind(t, tableScope(), orders)
		var d relay.Draft
		if _, err := p.Eval(x.change, &d); err != nil || string(d.Data) != x.want {
			t.Errorf("%s of %s\n got %s, %v\nwant %s", x.change.Op, x.expr, d.Data, err, x.want)
		}
	}
}

// The full identity has the old value of what is not sent with the new row.
func TestExpr_AnUnchangedColumnIsTakenFromTheOldRow(t *testing.T) {
	c := &relay.Change{Op: relay.Update, Relation: orders, Old: row("id=1", "body=long"), New: row("id=1", "body="+unknownText)}
	p := exprs{when: `new.body == "long" && !changed.body`, data: `{ b = new.body, r = row }`}.bind(t, tableScope(), orders)
	var d relay.Draft
	ok, err := p.Eval(c, &d)
	if !ok || err != nil || len(d.Unchanged) > 0 || !strings.Contains(string(d.Data), `"body":"long"`) {
		t.Errorf("got %v, %v, %s", ok, err, d.Data)
	}
}

func TestExpr_When(t *testing.T) {
	for _, x := range []struct {
		expr, want string // the error's text, or the verdict
	}{
		{`new.status == "paid" && old.status != "paid"`, "true"},
		{`new.status != "paid"`, "false"},
		{`"paid" == new.status`, "true"},
		{`new.tax == null && null != new.id`, "true"},
		{`new.total == "x" || new.tax != 5`, "true"},
		{`new.total == "x" || new.tax == 5`, "new.total is a number and \"x\" is a string"},
		{`new.tax == 5`, "false"},
		{`new.total == 12.5 && new.total >= 12.500 && new.total < 100000000000000000000`, "true"},
		{`new.paid`, "true"}, {`new.paid == false`, "false"},
		{`new.tax > 5`, "new.tax is null, and > needs a number; guard it, as in new.tax != null"},
		{`new.tax != null && new.tax > 5`, "false"},
		{`new.status == "a${new.tax}"`, "new.tax is null, and a template needs a bool or a number or a string; guard it"},
		{`new.tax == null ? true : new.tax > 5`, "true"},
		{`new.doc.n == new.doc.s`, "is a number and new.doc.s is a string"},
		{`new.doc.s`, "when needs a bool, and new.doc.s is a string"},
		{`new.doc.nothing`, "new.doc.nothing is null, and when needs a bool"},
		{`new.doc.s.x == 1`, "on the way, which has no attributes"},
		{`new.body == "x"`, "the value of column body of public.orders was not sent"},
		{`new.body == null`, "was not sent"},
		{`new.body == "x" && new.id == 8`, "false"},
		{`new.body == "x" || new.id == 7`, "true"},
		{`try(upper(new.body), "A") == "A"`, "was not sent"},
		{`can(new.body)`, "was not sent"},
		{`coalesce(new.body, "x") == "x"`, "was not sent"},
		{`jsonencode(new) == ""`, "was not sent"},
		{`old.body == "x"`, "not in the replica identity: use REPLICA IDENTITY FULL, or USING INDEX"},
		{`changed.body`, "false"},
		{`changed.at`, "replica identity"},
		{`changed.total`, "true"},
		{`1 / (new.id - 7) > 1`, "division by zero"},
		{`new.id % (new.id - 7) == 1`, "division by zero"},
		{`upper(new.tax) == ""`, "new.tax is null, and upper() needs a string"},
		{`tonumber(new.status) == 1`, "not a number"},
		{`regex("x", new.status) == ""`, "does not match the pattern"},
		{`join("", [[1]]) == ""`, "there is a list in it"},
	} {
		p := exprs{when: x.expr, data: `1`}.bind(t, tableScope(), orders)
		var d relay.Draft
		ok, err := p.Eval(updated(), &d)
		got := map[bool]string{true: "true", false: "false"}[ok]
		if err != nil {
			got = err.Error()
			if !strings.HasPrefix(got, "when: ") {
				t.Errorf("%s: the error does not name the argument: %s", x.expr, got)
			}
		}
		if !strings.Contains(got, x.want) {
			t.Errorf("%s\n got %s\nwant %s", x.expr, got, x.want)
		}
		// An error leaves nothing behind.
		if ok2, err2 := p.Eval(updated(), &d); ok2 != ok || (err == nil) != (err2 == nil) {
			t.Errorf("%s: judged otherwise the second time: %v, %v", x.expr, ok2, err2)
		}
	}
}

func TestExpr_KeyAndTenant(t *testing.T) {
	moved := updated()
	moved.Old = row("id=6", "status="+unknownText)
	for _, x := range []struct {
		change *relay.Change
		key    string
		kind   relay.KeyKind
		want   string
		old    string // "-" is not known
	}{
		{updated(), ``, relay.KeyDefault, "", "-"},
		{updated(), `row.id`, relay.KeySet, "7", "7"},
		{moved, `row.id`, relay.KeySet, "7", "6"},
		{moved, `"o-${row.id}"`, relay.KeySet, "o-7", "o-6"},
		{moved, `new.status`, relay.KeySet, "paid", "-"},
		{moved, `row.tax`, relay.KeyNone, "", "-"},
		{updated(), `{ a = [row.id, true] }`, relay.KeySet, `{"a":[7,true]}`, `{"a":[7,true]}`},
		{updated(), `new.doc.a`, relay.KeySet, `{"b":[1.0,"x\ty",null]}`, "-"},
		{updated(), `local.k`, relay.KeySet, "7", "7"},
	} {
		scope := tableScope()
		scope.locals = map[string]hcl.Expression{"k": parse(t, "row.id")}
		d := relay.Draft{Key: []byte{}, OldKey: []byte{}}
		if _, err := (exprs{key: x.key, tenant: `new.tax`, data: `1`}).bind(t, scope, orders).Eval(x.change, &d); err != nil {
			t.Errorf("%s: %v", x.key, err)
			continue
		}
		old := "-"
		if d.HasOldKey {
			old = string(d.OldKey)
		}
		if d.KeyKind != x.kind || string(d.Key) != x.want || old != x.old || d.HasTenant {
			t.Errorf("key %s: got %v %q old %q tenant %v, want %v %q old %q", x.key, d.KeyKind, d.Key, old, d.HasTenant, x.kind, x.want, x.old)
		}
	}
	var d relay.Draft
	if _, err := (exprs{key: `new.body`}).bind(t, tableScope(), orders).Eval(updated(), &d); err == nil || !strings.HasPrefix(err.Error(), "key: ") {
		t.Errorf("a key of an unknown column: %v", err)
	}
	if _, err := (exprs{tenant: `new.status`}).bind(t, tableScope(), orders).Eval(updated(), &d); err != nil || string(d.Tenant) != "paid" || !d.HasTenant {
		t.Errorf("tenant: %q, %v", d.Tenant, err)
	}
}

func TestExpr_Payload(t *testing.T) {
	for _, x := range []struct{ payload, when, data, want string }{
		{`{"format":"csv","n":1e2}`, `payload.format == "csv"`, ``, `{"format":"csv","n":1e2}`},
		{`{"format":"csv","n":1e2}`, `payload.n == 100`, `[payload.n, payload["format"], op, source]`, `[1e2,"csv","notify","shop"]`},
		{` 5 `, `payload > 4`, `payload`, `5`},
		{``, `payload == null`, `{ p = payload }`, `{"p":null}`},
		{`{"a":1}`, ``, `tx.xid == null`, `true`},
		{`not json`, ``, `payload`, `payload_format = "text"`},
		{`not json`, ``, `{ a = op }`, `{"a":"notify"}`},
	} {
		for _, text := range []bool{false, true} {
			scope := exprScope{kind: ruleChannel, source: "shop", payloadText: text}
			want := x.want
			if text { // the payload is text: only as a whole
				x.when, x.data, want = "", `payload`, string((&frame{}).appendValue(nil, stringValue([]byte(x.payload)), (&frame{}).printer))
			}
			var d relay.Draft
			_, err := exprs{when: x.when, data: x.data}.bind(t, scope, nil).Eval(&relay.Change{Op: relay.Notify, Name: "exports", Payload: []byte(x.payload)}, &d)
			got := string(d.Data)
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, want) {
				t.Errorf("%q %s %s\n got %s\nwant %s", x.payload, x.when, x.data, got, want)
			}
		}
	}
}

func TestExpr_NumbersAsString(t *testing.T) {
	scope := tableScope()
	scope.numbersAsString = true
	var d relay.Draft
	p := exprs{data: `{ a = new.id, b = new.total + 1, c = 5, d = new.doc.n, e = new.status, f = { g = [new.id] }, h = merge({ i = 1 }, { j = new.id }), k = "x${new.id}" }`}.bind(t, scope, orders)
	const want = `{"a":"7","b":"13.5","c":"5","d":"12345678901234567890","e":"paid","f":{"g":["7"]},"h":{"i":"1","j":"7"},"k":"x7"}`
	if _, err := p.Eval(updated(), &d); err != nil || string(d.Data) != want {
		t.Errorf("got %s, %v\nwant %s", d.Data, err, want)
	}
}

func TestExpr_Reads(t *testing.T) {
	e, diags := exprs{when: `changed.status && new.total > old.total`, key: `row.id`, data: `{ d = new.doc.x }`}.compile(t, tableScope())
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	cols, all := e.reads()
	var got []string
	for _, c := range cols {
		got = append(got, map[bool]string{true: "old.", false: "new."}[c.old]+c.name)
	}
	const want = "new.status old.status new.total old.total new.id old.id new.doc"
	if all || strings.Join(got, " ") != want {
		t.Errorf("reads %v, all %v; want %s", got, all, want)
	}
	for _, data := range []string{`row`, ``, `merge(new, {})`} {
		if e, _ := (exprs{data: data}).compile(t, tableScope()); e == nil {
			t.Fatal("not compiled")
		} else if cols, all := e.reads(); !all || !cols[0].whole {
			t.Errorf("data %q: all is %v", data, all)
		}
	}
}

func TestExpr_BindFailsWhereTheStreamLacksAColumn(t *testing.T) {
	for _, x := range []string{`new.nothing`, `changed.nothing`, `old.nothing == "x"`, `{ a = row.nothing }`} {
		e, diags := exprs{data: x}.compile(t, tableScope())
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if _, err := e.bind(orders); err == nil || !strings.Contains(err.Error(), "no column nothing") {
			t.Errorf("%s: %v", x, err)
		}
	}
	p := exprs{data: `1`}.bind(t, tableScope(), orders)
	if _, err := p.Eval(&relay.Change{Op: relay.Insert, Relation: orders, New: relay.Row{{}}}, &relay.Draft{}); err == nil {
		t.Error("a row of another width is taken")
	}
}
