package integration_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

// edit writes other rules and sinks beside the source block; empty leaves what there was.
func (s *shop) edit(rules, sinks string) {
	s.t.Helper()
	if sinks == "" {
		sinks = sinkTo("hook", s.hook.URL)
	}
	s.rules = strings.ReplaceAll(shopSource, "SLOT", "rowhook_"+s.name) + rules + "\n" + sinks
	s.d.SetRules(s.rules)
}

// reload has the daemon read its configuration again.
func (s *shop) reload() api.ReloadResponse {
	s.t.Helper()
	return readJSON[api.ReloadResponse](s, "reload")
}

// refused has a reload refused with the exit code, and returns what it says.
func (s *shop) refused(code int) string {
	s.t.Helper()
	before := s.rulesInForce()
	res := s.d.Command("reload", "--data-dir", "DATA")
	if res.Code != code || res.Stdout != "" {
		s.t.Errorf("a reload that has to be refused: %+v", res)
	}
	if now := s.rulesInForce(); now != before {
		s.t.Errorf("after a reload that was refused the rules are %+v, before %+v", now, before)
	}
	return res.Stderr
}

// rulesInForce asks over HTTP, which needs no configuration that can be read.
func (s *shop) rulesInForce() api.SourceRules {
	s.t.Helper()
	var st api.Status
	code, body, err := s.d.Get("/v1/status")
	if err == nil {
		err = json.Unmarshal([]byte(body), &st)
	}
	if err != nil || code != http.StatusOK || len(st.Sources) != 1 {
		s.t.Fatalf("/v1/status: %d, %v: %s", code, err, body)
	}
	return st.Sources[0].Rules
}

// itemsAs is a rule on items whose events say which version of it made them.
func itemsAs(version int) string {
	return fmt.Sprintf(`
event "item" {
  table = "public.items"
  on    = ["insert"]
  data  = { id = new.id, v = %d, lsn = tx.lsn }
}
`, version)
}

// made is what a versioned event says of itself.
type made struct {
	ID  int    `json:"id"`
	V   int    `json:"v"`
	LSN string `json:"lsn"`
}

func madeBy(t *testing.T, q *harness.Request) made {
	t.Helper()
	var m made
	if err := json.Unmarshal(q.Data, &m); err != nil {
		t.Fatalf("%s: %v", q.Data, err)
	}
	return m
}

func TestReload(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	for name, test := range map[string]func(*testing.T, *shop){
		"rules":    reloadRules,
		"mistakes": reloadMistakes,
		"sinks":    reloadSinks,
		"inflight": reloadInFlight,
		"channels": reloadChannels,
		"broken":   reloadBroken,
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, cluster, "reload_"+name, shopOptions{rules: itemsAs(1), sinkMore: map[string]string{"inflight": "max_in_flight = 4"}[name]})
			s.d.StartReady()
			test(t, s)
		})
	}
}

// Rules that read nothing new judge from the next transaction on, by command and by signal.
func reloadRules(t *testing.T, s *shop) {
	s.put(1)
	s.expect(1)
	first := s.source().Rules
	s.edit(itemsAs(2), "")
	res := s.reload()
	if len(res.Events.Changed) != 1 || !res.Sinks.Empty() || len(res.Sources) != 1 || len(res.Statements) != 0 {
		t.Errorf("the reload says %+v", res)
	}
	if r := res.Sources[0]; r.Rules.Fingerprint == first.Fingerprint || r.Rules.Waiting != "" || r.Note != "" || lsnOf(t, r.Rules.From) < lsnOf(t, first.From) {
		t.Errorf("the new rules are %+v, the first ones were %+v", r, first)
	}
	s.put(2)
	s.expect(1, 2)
	s.edit(itemsAs(3), "")
	second := s.source().Rules.Fingerprint
	s.d.Signal(syscall.SIGHUP)
	s.untilSourceThat("has other rules", func(src *api.SourceStatus) bool { return src.Rules.Fingerprint != second })
	s.put(3)
	s.expect(1, 2, 3)
	for _, q := range s.hook.Events() {
		if m := madeBy(t, q); m.V != m.ID {
			t.Errorf("item %d is judged by version %d", m.ID, m.V)
		}
	}
	if res := s.reload(); !res.Events.Empty() || !res.Sinks.Empty() || len(res.Sources) != 0 {
		t.Errorf("nothing has changed, and the reload says %+v", res)
	}
	if out := s.must("reload"); out != "nothing has changed\n" {
		t.Errorf("nothing has changed, and the reload prints %q", out)
	}
	contains(t, "status", s.must("status"), "judged by rules "+s.source().Rules.Fingerprint)
}

// A configuration with a mistake, or with what takes a restart, changes nothing and says why.
func reloadMistakes(t *testing.T, s *shop) {
	s.d.SetRules(s.rules + "event \"bad\" {\n")
	contains(t, "a file that does not parse", s.refused(2), "rules.hcl", "nothing is changed")
	s.edit(strings.ReplaceAll(itemsAs(2), "new.id", "new.nope"), "")
	contains(t, "a column that does not exist", s.refused(2), "rules.hcl", "nope")
	s.edit(itemsAs(2)+strings.NewReplacer("\"item\"", "\"gone\"", "public.items", "public.gone").Replace(itemsAs(2)), "")
	contains(t, "a table that does not exist", s.refused(2), "public.gone")
	s.d.SetRules(strings.Replace(s.rules, "url  =", "max_rule_failures = 7\n  url  =", 1))
	contains(t, "another source block", s.refused(1), "max_rule_failures of source shop", "Restart")
	s.d.SetRules(strings.ReplaceAll(s.rules, `"shop"`, `"other"`))
	contains(t, "another source", s.refused(1), "source shop (removed)", "source other (added)")
	contains(t, "the log", s.d.Log(), "reload refused")
	s.put(1)
	s.expect(1)
	if m := madeBy(t, s.hook.Events()[0]); m.V != 1 {
		t.Errorf("item 1 is judged by version %d", m.V)
	}
}

// A sink that is gone has its deliveries held, with their number, and gets them in order when it is
// back; a new one gets what comes after it; the others notice nothing.
func reloadSinks(t *testing.T, s *shop) {
	crm := harness.NewReceiver(t)
	both := sinkTo("hook", s.hook.URL) + sinkTo("crm", crm.URL, `order = "strict"`)
	s.edit(itemsAs(1), both)
	if res := s.reload(); len(res.Sinks.Added) != 1 || len(res.Sources) != 0 {
		t.Errorf("the reload says %+v", res)
	}
	s.put(1)
	expectAt(t, crm, 1)
	crm.Down()
	s.put(2, 3, 4)
	s.expect(1, 2, 3, 4)
	s.edit(itemsAs(1), sinkTo("hook", s.hook.URL))
	res := s.reload()
	if want := []api.HeldDeliveries{{Sink: "crm", Deliveries: 3}}; !slices.Equal(res.Held, want) || !slices.Equal(res.Sinks.Removed, []string{"crm"}) {
		t.Errorf("the reload says %+v", res)
	}
	s.put(5)
	s.expect(1, 2, 3, 4, 5)
	crm.Up()
	// Held also over a restart.
	s.recorded("hook", 5)
	s.d.Kill9()
	s.d.StartReady()
	if e := s.endpoint("crm"); e.Status != "vanished" {
		t.Errorf("crm is %s", e.Status)
	}
	s.edit(itemsAs(1), both)
	if res := s.reload(); !slices.Equal(res.Sinks.Added, []string{"crm"}) || len(res.Held) != 0 {
		t.Errorf("the reload says %+v", res)
	}
	s.put(6)
	expectAt(t, crm, 1, 2, 3, 4, 6)
	if got := idsAt(crm); !slices.IsSorted(got) {
		t.Errorf("crm got %v: what was held comes first, in order", got)
	}
	s.expect(1, 2, 3, 4, 5, 6)
	// Given up, they are gone.
	crm.Down()
	s.put(7, 8)
	s.edit(itemsAs(1), sinkTo("hook", s.hook.URL))
	if res := s.reload(); len(res.Held) != 1 || res.Held[0].Deliveries != 2 {
		t.Errorf("the reload says %+v", res)
	}
	s.must("endpoints", "remove", "crm")
	if len(s.hook.Requests()) != len(s.hook.Events()) {
		t.Errorf("hook got %d requests for %d events", len(s.hook.Requests()), len(s.hook.Events()))
	}
}

// A sink that changes while it sends ends its attempts; nothing comes twice or out of order.
func reloadInFlight(t *testing.T, s *shop) {
	s.hook.Handle(func(*harness.Request) harness.Reply { return harness.Reply{Delay: 50 * time.Millisecond} })
	const n = 600
	s.exec(fmt.Sprintf("INSERT INTO items SELECT i, 'x' FROM generate_series(1, %d) i", n))
	other := harness.NewReceiver(t)
	s.hook.Wait(harness.Patience, atLeast(s.hook, 5))
	for _, sinks := range []string{
		sinkTo("hook", s.hook.URL, `secrets = [env("HOOK_SECRET"), env("SPARE_SECRET")]`, "max_in_flight = 4"),
		sinkTo("hook", s.hook.URL, `order = "strict"`),
		sinkTo("hook", s.hook.URL, `events = ["item"]`, "max_in_flight = 4"),
		sinkTo("hook", other.URL),
	} {
		if strings.Contains(sinks, "SPARE_SECRET") {
			sinks = strings.Replace(sinks, "  secrets = [env(\"HOOK_SECRET\")]\n", "", 1)
		}
		s.edit(itemsAs(1), sinks)
		if res := s.reload(); !slices.Equal(res.Sinks.Changed, []string{"hook"}) || len(res.Held) != 0 {
			t.Fatalf("the reload says %+v", res)
		}
	}
	s.eventually(func() error {
		if got := s.hook.Count() + other.Count(); got != n {
			return fmt.Errorf("%d events have arrived, want %d", got, n)
		}
		return nil
	})
	if s.hook.Count() == n || len(s.hook.Requests())+len(other.Requests()) != n {
		t.Errorf("%d requests at the first receiver and %d at the other, for %d events", len(s.hook.Requests()), len(other.Requests()), n)
	}
	got := append(idsAt(s.hook), idsAt(other)...)
	slices.Sort(got)
	if len(slices.Compact(got)) != n {
		t.Errorf("not every event arrived once")
	}
}

func atLeast(hook *harness.Receiver, n int) func() error {
	return func() error {
		if got := hook.Count(); got < n {
			return fmt.Errorf("%d events, awaited are %d", got, n)
		}
		return nil
	}
}

// Channels come and go while their source listens; what stays is heard throughout.
func reloadChannels(t *testing.T, s *shop) {
	channel := func(names ...string) string {
		rules := itemsAs(1)
		for _, n := range names {
			rules += fmt.Sprintf("event %q {\n  channel = %q\n  data = { id = payload.id }\n}\n", "heard."+n, n)
		}
		return rules
	}
	listening := func(names ...string) {
		t.Helper()
		s.eventually(func() error {
			var got []string
			for _, c := range s.source().Channels {
				if c.Listening {
					got = append(got, c.Name)
				}
			}
			if slices.Sort(got); !slices.Equal(got, names) {
				return fmt.Errorf("channels %v, want %v", got, names)
			}
			return nil
		})
	}
	notify := func(name string, id int) { s.exec(fmt.Sprintf(`NOTIFY %s, '{"id": %d}'`, name, id)) }
	s.edit(channel("a"), "")
	s.reload()
	listening("a")
	notify("a", 1)
	s.expect(1)
	s.edit(channel("a", "b"), "")
	s.reload()
	notify("a", 2)
	s.eventually(func() error { // LISTEN runs a moment after the reload
		notify("b", 3)
		if !slices.Contains(idsAt(s.hook), 3) {
			return fmt.Errorf("channel b is not heard")
		}
		return nil
	})
	s.edit(channel("b"), "")
	s.reload()
	notify("a", 4)
	notify("b", 5)
	s.eventually(func() error {
		if !slices.Contains(idsAt(s.hook), 5) {
			return fmt.Errorf("channel b is not heard")
		}
		return nil
	})
	if ids := idsAt(s.hook); slices.Contains(ids, 4) || !slices.Contains(ids, 2) {
		t.Errorf("heard %v: 2 was on a channel that stayed, 4 on one that went", ids)
	}
	if src := s.source(); src.NotifyGaps != 0 || src.Gaps != 0 {
		t.Errorf("%d gaps of notifications", src.NotifyGaps)
	}
}

// A rule that stops its source is corrected by a reload, also when the correction reads more than
// the rule did: the source need not get past the failing changes with the old one.
func reloadBroken(t *testing.T, s *shop) {
	broken := func(data string) string {
		return "\nevent \"item\" {\n  table = \"public.items\"\n  on = [\"insert\"]\n  on_error = \"halt\"\n  data = " + data + "\n}\n"
	}
	for i, cure := range []string{"{ id = new.id, n = new.id }", "{ id = new.id, v = new.v }"} {
		s.edit(broken("{ id = new.id, n = 1 / (new.id - new.id) }"), "")
		s.reload()
		s.put(10 * (i + 1))
		s.untilSource(api.SourceStopped)
		s.edit(broken(cure), "")
		s.reload()
		s.untilSource(api.SourceStreaming)
		s.put(10*(i+1) + 1)
		s.eventually(func() error {
			if ids := idsAt(s.hook); !slices.Contains(ids, 10*(i+1)+1) {
				return fmt.Errorf("events of %v", ids)
			}
			return nil
		})
	}
	if !slices.Contains(idsAt(s.hook), 10) {
		t.Error("the change at which the source stopped is not judged by the corrected rule")
	}
	if n := len(readJSON[api.Failures](s, "events", "failures").Failures); n != 1 {
		t.Errorf("%d failures: the change that the old rule judged on the way to the place of the new one is one", n)
	}
	if code, _, err := s.d.Get("/readyz"); err != nil || code != http.StatusOK {
		t.Errorf("/readyz: %d, %v", code, err)
	}
}
