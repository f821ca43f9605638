package config

import (
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

// mistakes are expressions of `when`, the place the diagnostic points at, its
// summary, and a part of its detail.
type mistake struct{ expr, at, summary, detail string }

func (m mistake) verify(t *testing.T, diags hcl.Diagnostics) {
	t.Helper()
	if len(diags) != 1 {
		t.Errorf("%s: %d diagnostics, want 1: %v", m.expr, len(diags), diags)
		return
	}
	d := diags[0]
	if got := string(d.Subject.SliceBytes([]byte(m.expr))); got != m.at || d.Summary != m.summary || !strings.Contains(d.Detail, m.detail) {
		t.Errorf("%s\n got %q: %s: %s\nwant %q: %s: %s", m.expr, got, d.Summary, d.Detail, m.at, m.summary, m.detail)
	}
	if d.Context == nil || d.Context.Filename == "" {
		t.Errorf("%s: no context", m.expr)
	}
}

func TestExpr_MistakesThatNeedNoCatalogue(t *testing.T) {
	locals := map[string]hcl.Expression{
		"vip": parse(t, `"gold"`), "a": parse(t, `local.b`), "b": parse(t, `local.a`),
	}
	for _, m := range []mistake{
		{`status == "paid"`, `status`, sumUnknownName, "A column is written new.status"},
		{`new.status == paid`, `paid`, sumUnknownName, "a string stands in quotes"},
		{`nwe.status == "paid"`, `nwe`, sumUnknownName, "Did you mean new?"},
		{`payload.x == 1`, `payload`, sumNotHere, "A rule on a table has no payload"},
		{`new.total-old.total > 5`, `.total-old`, sumMinus, "write spaces around the minus: total - old"},
		{`total-old > 5`, `total-old`, sumUnknownName, "write spaces around the minus"},
		{`tx.xidd == 1`, `tx.xidd`, sumUnknownName, "Did you mean xid?"},
		{`tx == null`, `tx`, sumUnsupported, "xid, lsn, commit_time, context"},
		{`changed`, `changed`, sumUnsupported, "changed.status"},
		{`new[0] == 1`, `new[0]`, sumUnsupported, "have names, not numbers"},
		{`new[op] == 1`, `new[op]`, sumUnsupported, "known when the rule is loaded"},
		{`local.vipp == 1`, `local.vipp`, sumUnknownName, "Did you mean vip?"},
		{`local == 1`, `local`, sumUnsupported, "local.vip"},
		{`uper(new.status) == ""`, `uper`, sumUnknownFunction, "Did you mean upper?"},
		{`now() == ""`, `now`, sumUnknownFunction, "tx.commit_time"},
		{`env("X") == ""`, `env`, sumNotHere, "only as the key of hmacsha256()"},
		{`file("x") == ""`, `file`, sumNotHere, "only as the key of hmacsha256()"},
		{`upper() == ""`, `upper()`, sumCall, "upper needs 1 argument, and has 0 here: upper(s)"},
		{`mask("a", 1, 2) == ""`, `mask("a", 1, 2)`, sumCall, "1 to 2 arguments"},
		{`max() == 1`, `max()`, sumCall, "at least 1 arguments"},
		{`matches("(", new.status)`, `"("`, sumCall, "not a regular expression"},
		{`matches(new.status, "a")`, `new.status`, sumCall, "must be a literal string"},
		{`matches("(?P<a>x)(y)", "a")`, `"(?P<a>x)(y)"`, sumCall, "names"},
		{`max([1]...) == 1`, `max([1]...)`, sumUnsupported, "one by one"},
		{`{ a = 1, a = 2 } == null`, `a`, sumObject, "already there"},
		{`{ new.id = 1 } == null`, `new.id`, sumObject, "parentheses"},
		{`{for x in new.tags : x => x...} == null`, `{for x in new.tags : x => x...}`, sumUnsupported, "Grouping"},
		{`"a%{for x in new.tags}b%{endfor}" == ""`, `%{for x in new.tags}b%{endfor}`, sumUnsupported, "not part of the rule language"},
		{`"paid"`, `"paid"`, sumTypes, "must be true or false"},
		{`1 == "1"`, `1 == "1"`, sumMixed, "tonumber() or tostring()"},
		{`op == 1`, `op == 1`, sumMixed, "op is a string and 1 is a number"},
		{`changed.status == "x"`, `changed.status == "x"`, sumMixed, "is a bool"},
		{`new.total > "5"`, `"5"`, sumTypes, "> needs a number"},
		{`new.total > null`, `null`, sumNull, "Only == and != compare with null"},
		{`new.total + "5" > 1`, `"5"`, sumTypes, "tonumber()"},
		{`new.total / 0 > 1`, `new.total / 0`, sumTypes, "divisor is zero"},
		{`!op`, `op`, sumTypes, "! needs a bool"},
		{`new.id && "x"`, `"x"`, sumTypes, "&& needs a bool"},
		{`-op > 1`, `op`, sumTypes, "- needs a number"},
		{`("x" ? 1 : 2) > 0`, `"x"`, sumTypes, "before ?"},
		{`"a${[1]}" == ""`, `[1]`, sumTypes, "jsonencode()"},
		{`upper(5) == ""`, `5`, sumTypes, "The argument s of upper() needs a string, and 5 is a number. Use tostring()"},
		{`op.x == 1`, `op.x`, sumTypes, "has no attributes"},
		{`[for x in op : x] == null`, `op`, sumTypes, "for needs a list or an object"},
	} {
		scope := tableScope()
		scope.locals = locals
		_, diags := exprs{when: m.expr, data: `1`}.compile(t, scope)
		m.verify(t, diags)
	}
	scope := tableScope()
	scope.locals = locals
	_, diags := exprs{data: `local.a`}.compile(t, scope)
	if len(diags) != 1 || diags[0].Summary != sumLocalCircle || !strings.Contains(diags[0].Detail, "a -> b -> a") {
		t.Errorf("a circle of locals: %v", diags)
	}
	if _, diags = (exprs{when: `local.vip == local.vip && new.status == local.vip`, data: `1`}).compile(t, scope); len(diags) > 0 {
		t.Errorf("a good local: %v", diags)
	}
}

func TestExpr_MistakesInRulesWithoutATable(t *testing.T) {
	channel := exprScope{kind: ruleChannel}
	text := exprScope{kind: ruleMessage, payloadText: true}
	for _, m := range []struct {
		scope exprScope
		mistake
	}{
		{channel, mistake{`new.id == 1`, `new`, sumNotHere, "A notification is not about a row"}},
		{text, mistake{`changed.id`, `changed`, sumNotHere, "A logical message is not about a row"}},
		{channel, mistake{`format == "csv"`, `format`, sumUnknownName, "payload.format"}},
		{text, mistake{`payload.x == 1`, `payload.x`, sumNotHere, `payload_format = "text"`}},
		{text, mistake{`payload > 1`, `payload`, sumTypes, "is a string"}},
	} {
		_, diags := exprs{when: m.expr}.compile(t, m.scope)
		m.verify(t, diags)
	}
}

func TestExpr_MistakesAgainstTheCatalogue(t *testing.T) {
	all := relay.OpsOf(relay.Insert, relay.Update, relay.Delete)
	insert := relay.OpsOf(relay.Insert)
	update := relay.OpsOf(relay.Update)
	for _, m := range []struct {
		ops relay.Ops
		mistake
	}{
		{all, mistake{`new.statsu == "x"`, `new.statsu`, sumUnknownColumn, "The table public.orders has no column statsu. Did you mean status?"}},
		{all, mistake{`new.total-1 > 5`, `new.total-1`, sumUnknownColumn, "write spaces around the minus"}},
		{update, mistake{`old.status == "x"`, `old.status`, sumOldMissing, `ALTER TABLE "public"."orders" REPLICA IDENTITY FULL;`}},
		{update, mistake{`old.status == "x"`, `old.status`, sumOldMissing, `USING INDEX`}},
		{update, mistake{`changed.status`, `changed.status`, sumOldMissing, "with an update"}},
		{all, mistake{`row.status == "x"`, `row.status`, sumOldMissing, "where row is the old row"}},
		{insert, mistake{`changed.id`, `changed.id`, sumChanged, `Add "update" to on`}},
		{all, mistake{`new.id == "7"`, `new.id == "7"`, sumMixed, "new.id is a number"}},
		{all, mistake{`new.status == 7`, `new.status == 7`, sumMixed, "can never hold"}},
		{all, mistake{`new.status == new.id`, `new.status == new.id`, sumMixed, "can never hold"}},
		{all, mistake{`new.status > 7`, `new.status`, sumTypes, "> needs a number, and new.status is a string. Use tonumber()"}},
		{all, mistake{`new.at > 7`, `new.at`, sumTypes, "a string"}},
		{all, mistake{`new.total`, `new.total`, sumTypes, "must be true or false"}},
		{all, mistake{`upper(new.id) == ""`, `new.id`, sumTypes, "upper() needs a string"}},
		{all, mistake{`"${new.tags} x" == ""`, `new.tags`, sumTypes, "jsonencode()"}},
		{all, mistake{`new.status.x == 1`, `new.status.x`, sumTypes, "has no attributes"}},
		{all, mistake{`old == null`, `old`, sumOldMissing, "whole old row"}},
	} {
		scope := tableScope()
		scope.ops = m.ops
		e, diags := exprs{when: m.expr, data: `1`}.compile(t, scope)
		if diags.HasErrors() {
			t.Errorf("%s: %s", m.expr, diags)
			continue
		}
		m.verify(t, e.check(ordersTable))
	}
	full := *ordersTable
	full.Identity = relay.IdentityFull
	for _, x := range []struct {
		expr string
		t    *relay.Table
		ops  relay.Ops
	}{
		{`old.status == "x" && changed.total && row.body == "" && new.doc.x > 5 && new.doc == "x"`, &full, all},
		{`changed.paid && new.paid == true`, &full, update},
		{`old.id == 5 && row.id == 5 && changed.id`, ordersTable, all},
		{`new.body == null || new.tags != null && length(new.tags) > 1 || new.tags[0] == "x" || new.id == 5`, ordersTable, all},
	} {
		scope := tableScope()
		scope.ops = x.ops
		e, _ := exprs{when: x.expr, data: `row`}.compile(t, scope)
		if diags := e.check(x.t); len(diags) > 0 {
			t.Errorf("%s: %s", x.expr, diags)
		}
	}
}

func TestExpr_EveryMistakeIsReportedAtOnce(t *testing.T) {
	e, diags := exprs{when: `nwe.id == 1 && uper("a") == "A"`, key: `payload`, tenant: `1 == "a"`, data: `{ a = new.x-old.y, b = -"x" }`}.compile(t, tableScope())
	if len(diags) != 6 {
		t.Errorf("%d diagnostics, want 6: %s", len(diags), diags)
	}
	if e == nil {
		t.Error("no expressions")
	}
}

// TestExpr_ChosenColumnsOfARowAreHandedOn: pick and omit decide on nothing, so a
// value that was not sent is left out, and nothing is wrong with that.
func TestExpr_ChosenColumnsOfARowAreHandedOn(t *testing.T) {
	scope := tableScope()
	scope.ops = relay.OpsOf(relay.Insert, relay.Update, relay.Delete)
	for _, data := range []string{`omit(row, "status")`, `pick(row, "id", "status")`} {
		e, diags := exprs{data: data}.compile(t, scope)
		if diags = append(diags, e.check(ordersTable)...); diags.HasErrors() {
			t.Errorf("%s: %s", data, diags)
		}
	}
	for data, all := range map[string]bool{
		`pick(row, "id", "status")`: false, `merge(pick(new, "id"), { a = row.status })`: false,
		`pick(row, "id", op)`: true, `omit(row, "id")`: true, `merge(row, pick(row, "id"))`: true,
	} {
		e, diags := exprs{data: data}.compile(t, scope)
		if cols, got := e.reads(); diags.HasErrors() || got != all || len(cols) == 0 {
			t.Errorf("%s reads %v, all: %t; %s", data, cols, got, diags)
		}
	}
	old, _ := exprs{data: `pick(old, "id", "status")`}.compile(t, scope)
	if diags := old.check(ordersTable); len(diags) != 1 || diags[0].Summary != sumOldMissing {
		t.Errorf("a chosen old value that is not sent: %v", diags)
	}
	e, _ := exprs{data: `omit(row, "sattus")`}.compile(t, scope)
	if diags := e.check(ordersTable); len(diags) != 1 || diags[0].Summary != sumUnknownColumn {
		t.Errorf("a misspelt column: %v", diags)
	}
}
