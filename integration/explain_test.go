package integration_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

func TestRules(t *testing.T) {
	runPromises(t, postgres.Options{}, "rules", []promise{
		{"explain follows a row through the rules", explainRow},
		{"several events of one change, with ids that stay", severalEvents},
		{"a rule that halts stops before the change and loses nothing", ruleHalts},
	})
}

const explainSchema = `
CREATE TABLE orders (id bigint PRIMARY KEY, status text NOT NULL, total int, items jsonb);
ALTER TABLE orders REPLICA IDENTITY FULL`

const explainRules = `
event "order.paid" {
  table = "public.orders"
  on    = ["update"]
  when  = new.status == "paid" && old.status != "paid"
  data  = { id = new.id }
}
event "order.big" {
  table = "public.orders"
  on    = ["insert", "update"]
  when  = new.total > 1000
  data  = { id = new.id }
}
event "audit.order" {
  table = "public.orders"
  on    = ["delete"]
  data  = { id = old.id }
}
`

func explainRow(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{schema: explainSchema, rules: explainRules, sinkMore: `events = ["order.**"]`})
	s.d.StartReady()
	s.exec("INSERT INTO orders VALUES (41, 'open', 5), (42, 'open', 5)")
	s.exec("UPDATE orders SET status = 'paid' WHERE id = 42")
	s.exec("UPDATE orders SET total = 7 WHERE id = 42")
	s.exec("UPDATE orders SET total = NULL WHERE id = 42")
	s.exec("DELETE FROM orders WHERE id = 42")
	s.expect(42)
	s.recorded("hook", 1)

	x := readJSON[api.Explanation](s, "explain", "orders", "42")
	if len(x.Rows) != 1 || x.Table != "public.orders" {
		t.Fatalf("explained: %+v", x)
	}
	// What each rule made of each change of the row, as "op: rule outcome".
	var got []string
	made := map[string]api.MadeEvent{}
	for _, c := range x.Rows[0].Changes {
		line := c.Op + " " + strings.Join(c.Changed, ",") + ":"
		for _, r := range c.Rules {
			line += " " + r.Rule + " " + r.Outcome + ";"
			for _, e := range r.Events {
				made[r.Rule] = e
			}
		}
		got = append(got, line)
	}
	want := []string{
		"insert : audit.order not about this operation; order.big not matched; order.paid not about this operation;",
		"update status: audit.order not about this operation; order.big not matched; order.paid matched;",
		"update total: audit.order not about this operation; order.big not matched; order.paid not matched;",
		"update total: audit.order not about this operation; order.big failed; order.paid not matched;",
		"delete : audit.order matched; order.big not about this operation; order.paid not about this operation;",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	paid, audit := made["order.paid"], made["audit.order"]
	if !paid.Logged || len(paid.Deliveries) != 1 || paid.Deliveries[0].Endpoint != "hook" || paid.Deliveries[0].State != "delivered" || paid.ID != s.hook.Events()[0].ID {
		t.Errorf("the event that was delivered: %+v", paid)
	}
	if !audit.Logged || len(audit.Deliveries) != 0 || !strings.Contains(audit.Unwanted, "hook wants order.**") {
		t.Errorf("the event that nobody wants: %+v", audit)
	}
	if f := x.Rows[0].Failures; len(f) != 1 || f[0].Rule != "order.big" {
		t.Errorf("failures: %+v", f)
	}
	text := s.must("explain", "public.orders", "42")
	contains(t, "explain", text, "order.paid does not match", `true   new.status == "paid"   (new.status = "paid")`,
		`false  old.status != "paid"   (old.status = "paid")`, "order.big fails: when:", "new.total is null", "hook: delivered", "no endpoint wants it: hook wants order.**")

	contains(t, "a failure", s.must("events", "failures", strconv.FormatInt(x.Rows[0].Failures[0].ID, 10)), "when  = new.total > 1000", "new.total = null", `"id": "42"`)
	status := s.must("status")
	contains(t, "status", status, "no endpoint wants audit.order", "rule order.big has never matched", "order.big failed")
	if strings.Contains(status, "order.paid has never") || strings.Contains(status, "order.paid failed") {
		t.Errorf("status warns of a good rule:\n%s", status)
	}
	if res := s.command("explain", "ordres", "42"); res.Code != 1 || !strings.Contains(res.Stderr, "there are rules about public.orders") {
		t.Errorf("a table that no rule is about: %+v", res)
	}

	waited := make(chan harness.Result, 1)
	go func() { waited <- s.d.Command("explain", "orders", "41", "--wait", "-c", "CONFIG") }()
	s.eventually(func() error { // the command waits for a change that comes after it
		select {
		case res := <-waited:
			waited <- res
			return nil
		default:
			s.exec("UPDATE orders SET total = total + 1000 WHERE id = 41")
			return fmt.Errorf("the command waits")
		}
	})
	contains(t, "explain --wait", (<-waited).Stdout, "order.big matches", "true   new.total > 1000", "hook: ")

	// After a restart nothing is remembered: there are the log, and the row as it is.
	s.d.Term()
	s.d.StartReady()
	text = s.must("explain", "orders", "41")
	contains(t, "after a restart", text, "no change of this row is remembered", "the row as it is now", "order.big matches", "old.status is not known", "events of earlier changes")
	if status := s.must("status"); strings.Contains(status, "order.paid has never matched") || !strings.Contains(status, "rule audit.order") && !strings.Contains(status, "no endpoint wants audit.order") {
		t.Errorf("status after a restart:\n%s", status)
	}
	s.d.Term()
	contains(t, "without a daemon", s.must("explain", "orders", "41"), "no daemon runs", "the row as it is now", "events of earlier changes")
}

func severalEvents(t *testing.T, cluster *postgres.Cluster, db string) {
	const rule = `
event "item.ordered" {
  table    = "public.orders"
  on       = ["insert"]
  for_each = [for x in coalesce(new.items, []) : x if x.qty > 0]
  data     = { id = each.value.sku, order = new.id, place = each.key }
}`
	s := newShop(t, cluster, db, shopOptions{schema: explainSchema, rules: rule})
	s.d.StartReady()
	s.exec(`INSERT INTO orders VALUES (1, 'open', 5, '[{"sku": 10, "qty": 1}, {"sku": 11, "qty": 0}, {"sku": 12, "qty": 2}]'), (2, 'open', 5, '[]'), (3, 'open', 5, NULL)`)
	s.exec(`INSERT INTO orders VALUES (4, 'open', 5, '[{"sku": 13, "qty": 1}, {"sku": 14}]')`) // the second fails, so there is none
	s.exec(`INSERT INTO orders VALUES (5, 'open', 5, '[{"sku": 15, "qty": 1}]')`)
	s.expect(10, 12, 15)
	if got := idsAt(s.hook); slices.Index(got, 10) > slices.Index(got, 12) { // one row, one key
		t.Errorf("events %v are not in the order of the elements", got)
	}
	seen := map[string]bool{}
	for _, q := range s.hook.Events() {
		if seen[q.ID] {
			t.Errorf("two events have the id %s", q.ID)
		}
		seen[q.ID] = true
	}
	if f := readJSON[api.Failures](s, "events", "failures").Failures; len(f) != 1 || !strings.Contains(f[0].Error, "for_each") {
		t.Errorf("failures: %+v", f)
	}
	// The same changes give the same ids: all again from the log.
	s.hook.Forget()
	s.d.Term()
	s.d.StartReady("--reset-checkpoint", "shop=earliest")
	s.expect(10, 12, 15)
	for _, q := range s.hook.Events() {
		if !seen[q.ID] {
			t.Errorf("the event came again with another id %s", q.ID)
		}
	}
	// The corrected rule makes all the events of the change on which it failed.
	s.d.Term()
	corrected := strings.Replace(rule, "x.qty > 0", "coalesce(x.qty, 1) > 0", 1)
	s.d.SetRules(strings.ReplaceAll(shopSource, "SLOT", "rowhook_"+s.name) + corrected + "\n" + sinkTo("hook", s.hook.URL))
	s.d.StartReady()
	s.hook.Forget()
	if made := readJSON[api.RetryFailuresResponse](s, "events", "retry-failures", "--rule", "item.ordered"); len(made.Events) != 2 || made.Events[0] == made.Events[1] {
		t.Errorf("judged again: %+v", made)
	}
	s.expect(13, 14)
}

func ruleHalts(t *testing.T, cluster *postgres.Cluster, db string) {
	rule := strings.Replace(failingRule, "data ", "on_error = \"halt\"\n  data ", 1)
	s := newShop(t, cluster, db, shopOptions{rules: rule})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, '5')")
	s.exec("INSERT INTO items VALUES (2, '6'), (3, 'five'), (4, '7')")
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, `rule "number" failed on the change at`, `on_error = "halt"`, "judged again")
	s.expect(1)
	if f := readJSON[api.Failures](s, "events", "failures").Failures; len(f) != 0 {
		t.Errorf("dead letters: %+v", f)
	}
	s.d.Term()
	corrected := strings.Replace(rule, "tonumber(new.v)", "try(tonumber(new.v), 0)", 1)
	s.d.SetRules(strings.ReplaceAll(shopSource, "SLOT", "rowhook_"+s.name) + corrected + "\n" + sinkTo("hook", s.hook.URL))
	s.d.StartReady()
	s.expect(1, 2, 3, 4)
}
