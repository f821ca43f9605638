package integration_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

func TestOperate(t *testing.T) {
	runPromises(t, postgres.Options{Settings: map[string]string{"max_replication_slots": "60", "max_wal_senders": "60"}}, "operate", []promise{
		{"a gap in the notifications is recorded with its length", notifyGap},
		{"metrics count what rules saw, matched and failed on", ruleMetrics},
		{"a rule that fails leaves a row that a person sees", failureRow},
		{"a change on which a rule failed is judged again by the corrected rule", failureRetried},
		{"a rule that fails again and again stops its source", failuresStop},
		{"status tells by its exit code and as JSON", statusCodes},
		{"events are listed and shown, running and stopped", eventsListed},
		{"a backup of a running daemon starts", backupStarts},
		{"check finds nothing in a good configuration", checkGood},
		{"no secret is shown at any level of the log", noSecretShown},
	})
}

// A cluster that goes away under a running daemon.
func TestOperate_ReadyMeansProgress(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "ready", shopOptions{})
	s.d.StartReady()
	type health struct {
		OK        bool
		Reasons   []string
		Sources   []struct{ Name, State, Reason string }
		Endpoints []struct{ Name, Status string }
	}
	get := func(path string, want int) (h health) {
		t.Helper()
		s.eventually(func() error {
			status, body, err := s.d.Get(path)
			if err != nil {
				return err
			}
			if status != want {
				return fmt.Errorf("%s answers %d: %s", path, status, body)
			}
			return json.Unmarshal([]byte(body), &h)
		})
		return h
	}
	if h := get("/readyz", http.StatusOK); !h.OK || len(h.Sources) != 1 || h.Sources[0].State != "streaming" || len(h.Endpoints) != 1 {
		t.Errorf("ready: %+v", h)
	}
	if err := cluster.Stop(postgres.Immediate); err != nil {
		t.Fatal(err)
	}
	h := get("/readyz", http.StatusServiceUnavailable)
	if h.OK || len(h.Reasons) != 1 || !strings.Contains(h.Reasons[0], "source shop is ") {
		t.Errorf("while the database is away: %+v", h)
	}
	if h := get("/healthz", http.StatusOK); !h.OK {
		t.Errorf("the process is well, and says %+v", h)
	}
	src := s.untilSource(api.SourceWaiting)
	if up, err := s.d.Metric("rowhook_source_up", `source="shop"`); err != nil || up != 0 {
		t.Errorf("rowhook_source_up is %v, %v", up, err)
	}
	if src.Reason == "" {
		t.Error("a source that waits says no reason")
	}
	if err := cluster.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	get("/readyz", http.StatusOK)
	if up, err := s.d.Metric("rowhook_source_up", `source="shop"`); err != nil || up != 1 {
		t.Errorf("rowhook_source_up is %v, %v", up, err)
	}
	// A dead endpoint does not make the daemon unready.
	var err error
	if s.conn, err = cluster.Conn(t.Context(), "ready"); err != nil {
		t.Fatal(err)
	}
	s.hook.Down()
	s.put(1)
	s.eventually(func() error {
		if e := s.endpoint("hook"); e.Breaker.State == api.BreakerClosed {
			return fmt.Errorf("the breaker is closed")
		}
		return nil
	})
	get("/readyz", http.StatusOK)
	if up, err := s.d.Metric("rowhook_endpoint_up", `endpoint="hook"`); err != nil || up != 0 {
		t.Errorf("rowhook_endpoint_up is %v, %v", up, err)
	}
	s.hook.Up()
	s.expect(1)
}

func notifyGap(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{rules: itemRule + `
event "hint" {
  channel = "Hints ☃"
  data    = payload
}`})
	s.d.StartReady()
	listening := func() {
		t.Helper()
		s.eventually(func() error {
			src := s.source()
			if len(src.Channels) != 1 || src.Channels[0].Name != "Hints ☃" || !src.Channels[0].Listening {
				return fmt.Errorf("channels: %+v", src.Channels)
			}
			return nil
		})
	}
	listening()
	s.exec(`SELECT pg_notify('Hints ☃', '{"id": 1}')`)
	s.expect(1)
	if up, err := s.d.Metric("rowhook_channel_up", `channel="Hints ☃"`); err != nil || up != 1 {
		t.Errorf("rowhook_channel_up is %v, %v", up, err)
	}
	before := time.Now()
	if n := s.ask("SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE datname = $1 AND application_name = 'rowhook listen'", db); n != "1" {
		t.Fatalf("%s listeners", n)
	}
	var gap api.Gap
	s.eventually(func() error {
		src := s.source()
		if src.Gaps != 1 || src.LastGap == nil {
			return fmt.Errorf("%d gaps", src.Gaps)
		}
		gap = *src.LastGap
		return nil
	})
	longest := time.Since(before) + time.Minute // it begins at the last sign of life
	contains(t, "the gap", gap.Reason, "notifications sent between ", " are lost", "nothing listened")
	_, rest, _ := strings.Cut(gap.Reason, "(")
	text, _, _ := strings.Cut(rest, ")")
	if length, err := time.ParseDuration(text); err != nil || length <= 0 || length > longest {
		t.Errorf("the length of the gap is %q (%v)", text, err)
	}
	contains(t, "the log", s.d.Log(), "gap in the notifications", "length=")
	if n, err := s.d.Metric("rowhook_source_gaps_total", `source="shop"`); err != nil || n != 1 {
		t.Errorf("rowhook_source_gaps_total is %v, %v", n, err)
	}
	listening()
	s.exec(`SELECT pg_notify('Hints ☃', '{"id": 2}')`)
	s.expect(1, 2)
	// It is durable, and the rows' history has no part in it. A restart is a gap too.
	s.d.Kill9()
	s.d.StartReady()
	s.eventually(func() error {
		if cp := s.checkpoint(); len(cp.Gaps) != 2 || cp.Gaps[0].Reason != gap.Reason || cp.Generation != 1 {
			return fmt.Errorf("checkpoint: %+v", cp)
		}
		return nil
	})
}

func ruleMetrics(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{rules: `
event "big" {
  table = "public.items"
  on    = ["insert"]
  when  = new.id > 10
  data  = row
}
event "never" {
  table = "public.items"
  on    = ["delete"]
  data  = row
}
event "number" {
  table = "public.items"
  on    = ["insert"]
  when  = new.v != "x"
  data  = { id = new.id, n = tonumber(new.v) }
}`})
	s.d.StartReady()
	s.put(1, 2, 11)
	s.exec("INSERT INTO items VALUES (12, 'not a number'), (3, '7'), (4, '8')")
	s.expect(11, 12, 3, 4)
	for _, want := range []struct {
		rule                  string
		seen, matched, failed float64
	}{{"big", 6, 2, 0}, {"never", 0, 0, 0}, {"number", 6, 2, 1}} {
		label := "rule=" + strconv.Quote(want.rule)
		for name, v := range map[string]float64{"seen": want.seen, "matched": want.matched, "failed": want.failed} {
			if got, err := s.d.Metric("rowhook_rule_"+name+"_total", label); err != nil || got != v {
				t.Errorf("rule %s %s is %v, want %v (%v)", want.rule, name, got, v, err)
			}
		}
	}
	for _, r := range s.status().Rules {
		if r.Name == "number" && (r.Seen != 6 || r.Matched != 2 || r.Failed != 1 || r.LastMatch.IsZero()) {
			t.Errorf("status of the rule: %+v", r)
		}
	}
	s.recorded("hook", 4)
	for _, m := range []struct {
		name, label string
		min         float64
	}{
		{"rowhook_up", "", 1}, {"rowhook_source_up", `source="shop"`, 1}, {"rowhook_source_events_total", `source="shop"`, 4},
		{"rowhook_source_transactions_total", `source="shop"`, 4}, {"rowhook_source_checkpoint_lsn", `source="shop"`, 1},
		{"rowhook_deliveries_total", `result="delivered"`, 4}, {"rowhook_attempts_total", `class="ok"`, 4},
		{"rowhook_delivery_latency_seconds_count", `endpoint="hook"`, 4}, {"rowhook_log_bytes", "", 1},
	} {
		s.eventually(func() error { // some are looked at every two seconds
			if got, err := s.d.Metric(m.name, m.label); err != nil || got < m.min {
				return fmt.Errorf("%s is %v, want %v at least (%w)", m.name, got, m.min, err)
			}
			return nil
		})
	}
	_, text, err := s.d.Get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	noSecretIn(t, "/metrics", text)
}

const failingRule = `
event "number" {
  table = "public.items"
  on    = ["insert"]
  data  = { id = new.id, n = tonumber(new.v) }
}`

func failureRow(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{rules: failingRule})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, '5'), (2, 'five'), (3, '6')")
	s.expect(1, 3)
	look := func() {
		t.Helper()
		list := readJSON[api.Failures](s, "events", "failures").Failures
		if len(list) != 1 {
			t.Fatalf("%d failures", len(list))
		}
		f := list[0]
		var change struct {
			New map[string]string
		}
		if err := json.Unmarshal(f.Change, &change); err != nil {
			t.Fatal(err)
		}
		if f.Rule != "number" || f.Table != "public.items" || f.LSN == "" || f.Error == "" || change.New["v"] != "five" || change.New["id"] != "2" {
			t.Errorf("failure: %+v, change %s", f, f.Change)
		}
		contains(t, "events failures", s.must("events", "failures"), "number", "public.items", f.LSN)
	}
	look()
	s.d.Term()
	look()
}

func failureRetried(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{rules: failingRule})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, '5'), (2, 'five'), (3, '6')")
	s.expect(1, 3)
	list := readJSON[api.Failures](s, "events", "failures").Failures
	if len(list) != 1 {
		t.Fatalf("%d failures", len(list))
	}
	id := strconv.FormatInt(list[0].ID, 10)
	if res := s.command("events", "retry-failures", id); res.Code != 1 || !strings.Contains(res.Stderr, "still fails") {
		t.Errorf("with the same rule: %+v", res)
	}
	s.d.Term()
	corrected := strings.Replace(failingRule, "tonumber(new.v)", "try(tonumber(new.v), 0)", 1)
	s.d.SetRules(strings.ReplaceAll(shopSource, "SLOT", "rowhook_"+s.name) + corrected + "\n" + sinkTo("hook", s.hook.URL))
	s.d.StartReady()
	s.hook.Forget()
	made := readJSON[api.RetryFailuresResponse](s, "events", "retry-failures", "--rule", "number")
	if len(made.Events) != 1 || made.Failing != 0 || made.Unmatched != 0 {
		t.Fatalf("with the corrected rule: %+v", made)
	}
	s.expect(2)
	// The id is that of the transaction: it begins as those of its neighbours do.
	neighbour := readJSON[api.Events](s, "events", "list", "--type", "number").Events
	if len(neighbour) != 3 || neighbour[0].ID[:16] != neighbour[2].ID[:16] || !strings.HasPrefix(made.Events[0], neighbour[0].ID[:16]) {
		t.Errorf("made %s beside %+v", made.Events[0], neighbour)
	}
	if left := readJSON[api.Failures](s, "events", "failures").Failures; len(left) != 0 {
		t.Errorf("still a failure: %+v", left)
	}
}

func failuresStop(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{
		rules:  failingRule,
		source: strings.Replace(shopSource, "SLOT\"", "SLOT\"\n  max_rule_failures = 5", 1),
	})
	s.d.StartReady()
	s.exec("INSERT INTO items SELECT i, 'five' FROM generate_series(1, 20) i")
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, `rule "number" failed on 5 changes in a row`, "not a number")
	s.d.Term()
	s.d.Start("--exit-on-source-stop")
	if code := s.d.Wait(harness.Patience); code != 1 {
		t.Errorf("--exit-on-source-stop ends with %d", code)
	}
}

func statusCodes(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	if res := s.command("status"); res.Code != 3 || !strings.Contains(res.Stderr, "does not exist") {
		t.Errorf("before the first start: %+v", res)
	}
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.recorded("hook", 1)
	if res := s.command("status"); res.Code != 0 {
		t.Errorf("running: %+v", res)
	} else {
		contains(t, "status", res.Stdout, "rowhook ", "pid "+strconv.Itoa(s.d.PID()), "shop", "streaming", "item", "hook", "active", s.d.DataDir)
	}
	st := s.status()
	src := st.Sources[0]
	if !st.Running || st.PID != s.d.PID() || src.State != "streaming" || src.Database != db || src.Slot != "rowhook_"+db || src.Publication != "rowhook_shop" ||
		src.SystemID == "" || src.Generation != 1 || src.Timeline != 1 || src.Checkpoint == "" || src.Events != 1 || src.LastChange.IsZero() {
		t.Errorf("status: %+v", st)
	}
	if r := st.Rules[0]; r.Name != "item" || r.Seen != 1 || r.Matched != 1 {
		t.Errorf("rule: %+v", r)
	}
	s.eventually(func() error {
		if e := s.endpoint("hook"); e.Behind != 0 || e.Deliveries["delivered"] != 1 || e.Attempts["ok"] != 1 || e.Latency.Count() != 1 || e.Target != s.hook.URL {
			return fmt.Errorf("endpoint: %+v", e)
		}
		return nil
	})
	s.d.Term()
	if res := s.command("status"); res.Code != 3 || !strings.Contains(res.Stdout, "is not running") || !strings.Contains(res.Stdout, "shop") {
		t.Errorf("stopped: %+v", res)
	}
	if st := s.status(); st.Running || len(st.Sources) != 1 || st.Sources[0].Checkpoint == "" || len(st.Endpoints) != 1 {
		t.Errorf("stopped: %+v", st)
	}
}

func eventsListed(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, 'a'); UPDATE items SET v = 'b'; INSERT INTO items VALUES (2, 'c')")
	s.hook.WaitCount(3)
	s.recorded("hook", 3)
	look := func() {
		t.Helper()
		list := readJSON[api.Events](s, "events", "list").Events
		if len(list) != 3 || list[0].Seq <= list[2].Seq {
			t.Fatalf("events: %+v", list)
		}
		for i, q := range []int{2, 1, 1} { // newest first
			var r row
			if err := json.Unmarshal(list[i].Data, &r); err != nil || r.ID != q || list[i].Type != "item" || list[i].Table != "public.items" {
				t.Errorf("event %d: %+v %v", i, list[i], err)
			}
		}
		one := list[0]
		if got := readJSON[api.Events](s, "events", "list", "--key", *one.Key).Events; len(got) != 1 || got[0].ID != one.ID {
			t.Errorf("by key %s: %+v", *one.Key, got)
		}
		if got := readJSON[api.Events](s, "events", "list", "--type", "other.**").Events; len(got) != 0 {
			t.Errorf("of another type: %+v", got)
		}
		if got := readJSON[api.Events](s, "events", "list", "-n", "2").Events; len(got) != 2 {
			t.Errorf("two: %+v", got)
		}
		detail := readJSON[api.EventDetail](s, "events", "show", one.ID)
		if detail.Event.ID != one.ID || len(detail.Deliveries) != 1 || detail.Deliveries[0].State != "delivered" || len(detail.Deliveries[0].Log) != 1 {
			t.Errorf("event: %+v", detail)
		}
		contains(t, "events show", s.must("events", "show", one.ID), one.ID, "item, version 1", "insert public.items", "hook: delivered")
	}
	look()
	if res := s.command("events", "show", "evt_00000000000000000000000000000000"); res.Code != 1 {
		t.Errorf("an unknown event: %+v", res)
	}
	if res := s.command("events", "show", "nonsense"); res.Code != 2 {
		t.Errorf("no event: %+v", res)
	}
	s.d.Term()
	look()
}

func backupStarts(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{sinkMore: "retry {\n initial = \"1h\"\n max = \"1h\"\n}"})
	s.hook.Handle(failing(2, 1))
	s.d.StartReady()
	s.put(1, 2)
	s.expect(1)
	s.recorded("hook", 1)
	s.eventually(func() error {
		if list := readJSON[api.Deliveries](s, "deliveries", "list", "--state", "retrying").Deliveries; len(list) != 1 {
			return fmt.Errorf("%d retrying", len(list))
		}
		return nil
	})
	file := filepath.Join(s.d.Dir, "backup.db")
	contains(t, "backup", s.must("backup", file), "wrote "+file)
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm()&0o077 != 0 {
		t.Errorf("the backup: %v, %v", fi.Mode(), err)
	}
	if res := s.command("backup", file); res.Code != 1 || !strings.Contains(res.Stderr, file) {
		t.Errorf("over a file that is there: %+v", res)
	}
	s.put(3)
	s.expect(1, 3) // it goes on
	s.d.Term()
	if err := os.RemoveAll(s.d.DataDir); err != nil {
		t.Fatal(err)
	}
	s.restore(file)
	s.hook.Forget()
	// The slot is ahead of what was restored; the events of the backup are there.
	s.d.StartReady("--reset-checkpoint", "shop=earliest")
	if list := readJSON[api.Deliveries](s, "deliveries", "list", "--state", "retrying").Deliveries; len(list) != 1 || list[0].Attempts != 1 {
		t.Errorf("retrying after the restore: %+v", list)
	}
	s.put(4)
	s.expect(4)
	if cp := s.checkpoint(); cp.Generation != 2 || len(cp.Gaps) != 1 {
		t.Errorf("checkpoint: %+v", cp)
	}
	s.d.Term()
	s.must("backup", filepath.Join(s.d.Dir, "stopped.db")) // and of a stopped daemon
}

func checkGood(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	contains(t, "check", s.must("check"), "no mistake found: 1 source, 1 rule, 1 sink")
	contains(t, "check --database", s.must("check", "--database"), "no mistake found")
	var res struct {
		Valid       bool              `json:"valid"`
		Diagnostics []json.RawMessage `json:"diagnostics"`
	}
	if err := json.Unmarshal([]byte(s.must("check", "--json")), &res); err != nil || !res.Valid || len(res.Diagnostics) != 0 {
		t.Errorf("check --json: %+v %v", res, err)
	}
	if _, err := os.Stat(s.d.DataDir); !os.IsNotExist(err) {
		t.Errorf("a check made the data folder: %v", err)
	}
	s.exec("DROP TABLE items")
	if res := s.command("check", "--database"); res.Code != 2 || !strings.Contains(res.Stderr, "public.items") {
		t.Errorf("without the table: %+v", res)
	}
}

// Everything that a shop's commands print, and its log, is searched for secrets; here with as much
// going wrong as one daemon can have.
func noSecretShown(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{
		args: []string{"--log-level", "debug", "--log-format", "json"},
		sinks: `
sink "webhook" "hook" {
  url     = env("HOOK_URL")
  events  = ["**"]
  secrets = [env("HOOK_SECRET"), env("SPARE_SECRET")]
  headers = { authorization = env("HEADER") }
  retry {
    initial      = "20ms"
    max_attempts = 3
  }
}`,
		env: []string{"HOOK_URL=http://127.0.0.1:1/" + dbPassword + "?token=" + dbPassword, "HEADER=Bearer " + dbPassword},
	})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, 'a')")
	var dead []api.Delivery
	s.eventually(func() error {
		if dead = readJSON[api.Deliveries](s, "deliveries", "list", "--state", "dead").Deliveries; len(dead) != 1 {
			return fmt.Errorf("%d dead", len(dead))
		}
		return nil
	})
	s.must("deliveries", "show", dead[0].Event)
	s.must("events", "show", dead[0].Event)
	s.must("endpoints", "list")
	s.must("checkpoint", "show")
	s.must("events", "failures")
	s.command("status")
	if n := s.ask("SELECT count(pg_terminate_backend(active_pid))::text FROM pg_replication_slots WHERE slot_name = $1", "rowhook_"+db); n != "1" {
		t.Fatalf("%s walsenders", n)
	}
	s.d.WaitLog("trying again")
	s.d.WaitReady()
	for _, path := range []string{"/metrics", "/readyz", "/healthz"} {
		_, text, err := s.d.Get(path)
		if err != nil {
			t.Fatal(err)
		}
		noSecretIn(t, path, text)
	}
	s.d.Term()
	for line := range strings.Lines(s.d.Log()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	if !strings.Contains(s.d.Log(), `"level":"DEBUG"`) {
		t.Error("nothing was logged at the level debug")
	}
	entries, err := os.ReadDir(s.d.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(s.d.DataDir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the data folder: %v %v", fi.Mode(), err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(s.d.DataDir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		noSecretIn(t, e.Name(), strings.ToValidUTF8(string(text), ""))
	}
}
