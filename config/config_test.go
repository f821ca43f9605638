package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

// mustLoad loads files that have no mistake, not even one to warn of.
func mustLoad(t *testing.T, paths ...string) *Config {
	t.Helper()
	cfg, files, diags := Load(paths, testOptions())
	mustBeClean(t, files, diags)
	return cfg
}

func mustLoadText(t *testing.T, src string) *Config {
	t.Helper()
	cfg, files, diags := loadText("rules.hcl", []byte(src), testOptions())
	mustBeClean(t, files, diags)
	return cfg
}

func mustBeClean(t *testing.T, files *Files, diags hcl.Diagnostics) {
	t.Helper()
	if len(diags) > 0 {
		var b strings.Builder
		_ = files.Write(&b, diags, 100, false)
		t.Fatal(b.String())
	}
}

// source is a source block for tests whose subject is another.
const sourceText = "source \"postgres\" \"main\" {\n  url = \"postgres://localhost/shop\"\n}\n"

func TestLoad_ReadsEveryArgument(t *testing.T) {
	cfg := mustLoad(t, "testdata/good/full.hcl")
	wantSettings := Settings{
		Language: 1, DataDir: "testdata/good/data", Listen: "127.0.0.1:0", ShutdownGrace: 90 * time.Second,
		Retention: relay.RetentionLimits{Age: 24 * time.Hour, MaxBytes: 512 << 20}, OnFull: OnFullExpire,
	}
	if cfg.Settings != wantSettings {
		t.Errorf("settings\n%+v, want\n%+v", cfg.Settings, wantSettings)
	}
	stock := *cfg.Source("stock")
	stock.Range = hcl.Range{}
	wantStock := Source{
		Name: "stock", URL: relay.NewSecret("postgres:///stock?host=/run/postgresql"), Slot: "stock_events", Publication: "Stock Events",
		Columns: ColumnsRules, Confirm: ConfirmDelivered, MaxRuleFailures: 5, OnError: relay.OnErrorSkip, Failover: true,
		KeepChanges: 36 * time.Hour, KeepChangesSize: 64 << 20,
	}
	if !reflect.DeepEqual(stock, wantStock) {
		t.Errorf("source\n%+v, want\n%+v", stock, wantStock)
	}

	billing := cfg.Sinks[0]
	if !billing.Endpoint.Events.Match("order.paid", 1) || billing.Endpoint.Events.Match("order.paid", 2) {
		t.Errorf("events are %s", billing.Endpoint.Events)
	}
	billing.Endpoint.Events = relay.Patterns{}
	wantEndpoint := relay.Endpoint{
		ID: "billing", Kind: "webhook", Target: "https://hooks.example.com/billing", FromEarliest: true, Order: relay.OrderStrict,
		OnFailure: relay.Park, MaxInFlight: 8,
		Retry: relay.RetryPolicy{MaxAttempts: 3, Initial: time.Second, Max: time.Minute, Multiplier: 1.5, Jitter: -1},
	}
	if !reflect.DeepEqual(billing.Endpoint, wantEndpoint) {
		t.Errorf("endpoint\n%+v, want\n%+v", billing.Endpoint, wantEndpoint)
	}
	wantWebhook := &Webhook{
		URL:     relay.NewSecret("https://hooks.example.com/billing"),
		Secrets: []relay.Secret{relay.NewSecret("whsec_" + signingKey), relay.NewSecret("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")},
		Format:  "standard", Timeout: 3 * time.Second,
		Headers: []Header{{"Authorization", relay.NewSecret("Bearer s3cr3t-word")}, {"X-Team", relay.NewSecret("billing")}},
	}
	if !reflect.DeepEqual(billing.Webhook, wantWebhook) {
		t.Error("the webhook differs from what the file says")
	}
	if plain := cfg.Sinks[1]; plain.Endpoint.Target != "https://hooks.example.com" || plain.Webhook.URL.Reveal() != testEnv["HOOK_URL"] {
		t.Errorf("a URL from the environment shows as %s", plain.Endpoint.Target)
	}
	if cfg.Sinks[2].Webhook != nil || cfg.Sinks[2].Endpoint.Kind != "stdout" {
		t.Error("the stdout sink is a webhook")
	}
}

func TestLoad_MakesRules(t *testing.T) {
	cfg := mustLoad(t, "testdata/good/full.hcl")
	want := []relay.Rule{
		{Name: "order.paid", Type: "order.paid", Version: 1, Description: "An order was paid in full.", Source: "shop",
			Tables: []relay.TableName{{Schema: "public", Name: "orders"}}, Ops: relay.OpsOf(relay.Update)},
		{Name: "order.paid_v2", Type: "order.paid", Version: 2, Source: "shop",
			Tables: []relay.TableName{{Schema: "public", Name: "orders"}}, Ops: relay.OpsOf(relay.Update), All: true},
		{Name: "stock.changed", Type: "stock.changed", Version: 1, Source: "stock", Barrier: true, All: true, OnError: relay.OnErrorSkip,
			Tables: []relay.TableName{{Schema: "public", Name: "Items"}, {Schema: "we.ird", Name: "t"}},
			Ops:    relay.OpsOf(relay.Insert, relay.Update, relay.Delete, relay.Read)},
		{Name: "export.requested", Type: "export.requested", Version: 1, Source: "shop", Channel: "exports"},
		{Name: "user.signed_up", Type: "user.signed_up", Version: 1, Source: "shop", Message: "signup", NonTransactional: true},
	}
	if len(cfg.Rules) != len(want) {
		t.Fatalf("%d rules, want %d", len(cfg.Rules), len(want))
	}
	for i, r := range cfg.Rules {
		got := *r
		if got.Bind == nil || got.Hash == "" {
			t.Errorf("%s has no program or no hash", r.Name)
		}
		got.Bind, got.Hash, got.Reads = nil, "", nil
		if !reflect.DeepEqual(got, want[i]) {
			t.Errorf("rule\n%+v, want\n%+v", got, want[i])
		}
	}
	reads := map[relay.ColumnRef]bool{}
	for _, ref := range cfg.Rules[0].Reads {
		reads[ref] = true
	}
	for _, ref := range []relay.ColumnRef{{Name: "status"}, {Name: "status", Old: true}, {Name: "id"}, {Name: "account_id"}, {Name: "total_cents"}} {
		if !reads[ref] {
			t.Errorf("order.paid does not read %+v; it reads %v", ref, cfg.Rules[0].Reads)
		}
	}
}

func TestLoad_Defaults(t *testing.T) {
	cfg := mustLoad(t, "testdata/good/minimal.hcl")
	want := Settings{
		Language: 1, DataDir: "testdata/good/rowhook-data", Listen: "127.0.0.1:8090", ShutdownGrace: 20 * time.Second,
		Retention: relay.RetentionLimits{Age: 168 * time.Hour, MaxBytes: 10 << 30}, OnFull: OnFullStop,
	}
	if cfg.Settings != want {
		t.Errorf("settings\n%+v, want\n%+v", cfg.Settings, want)
	}
	s := cfg.Sources[0]
	if s.Slot != "rowhook_main" || s.Publication != "rowhook_main" || !s.Manage || s.Confirm != ConfirmStored || s.MaxRuleFailures != 1000 || !s.Failover || s.KeepChanges != 0 || s.KeepChangesSize != 1<<30 {
		t.Errorf("source %+v", s)
	}
	sink := mustLoadText(t, sourceText+`
		event "a" {
		  channel = "a"
		  data    = payload
		}
		sink "webhook" "w" {
		  url     = "https://example.com"
		  events  = ["**"]
		  secrets = [env("SIGNING")]
		}`).Sinks[0]
	sink.Endpoint.Events = relay.Patterns{}
	wantEndpoint := relay.Endpoint{
		ID: "w", Kind: "webhook", Target: "https://example.com", Order: relay.OrderKey, OnFailure: relay.BlockKey, MaxInFlight: 64,
		Retry: relay.RetryPolicy{MaxAttempts: 10, Initial: 5 * time.Second, Max: 24 * time.Hour, Multiplier: 5, Jitter: 0.2},
	}
	if !reflect.DeepEqual(sink.Endpoint, wantEndpoint) {
		t.Errorf("endpoint\n%+v, want\n%+v", sink.Endpoint, wantEndpoint)
	}
	if w := sink.Webhook; w.Format != "standard" || w.Timeout != 15*time.Second || !w.AllowPrivate {
		t.Errorf("webhook %+v", w)
	}
}

// A rule without on_error has that of its source; but nothing halts before a
// notification, which would be lost.
func TestLoad_OnErrorIsTheSourcesByDefault(t *testing.T) {
	rules := mustLoadText(t, `
		source "postgres" "a" {
		  url      = "postgres:///a"
		  on_error = "halt"
		}
		source "postgres" "b" {
		  url = "postgres:///b"
		}
		event "row" {
		  source = source.a
		  table  = "public.t"
		  on     = ["insert"]
		  data   = row
		}
		event "own" {
		  source   = source.a
		  table    = "public.u"
		  on       = ["insert"]
		  on_error = "continue"
		  data     = row
		}
		event "note" {
		  source  = source.a
		  channel = "c"
		  data    = payload
		}
		event "other" {
		  source  = source.b
		  message = "m"
		  data    = payload
		}`).Rules
	for i, want := range []relay.OnError{relay.OnErrorHalt, relay.OnErrorContinue, relay.OnErrorContinue, relay.OnErrorContinue} {
		if rules[i].OnError != want {
			t.Errorf("%s has on_error %d, want %d", rules[i].Name, rules[i].OnError, want)
		}
	}
}

func TestLoad_MergesAFolder(t *testing.T) {
	cfg, files, diags := Load([]string{"testdata/good/folder"}, testOptions())
	mustBeClean(t, files, diags)
	if len(cfg.Rules) != 1 || len(cfg.Sources) != 1 || len(files.Names()) != 2 {
		t.Errorf("%d rules, %d sources of %v", len(cfg.Rules), len(cfg.Sources), files.Names())
	}
	if cfg.Settings.DataDir != filepath.FromSlash("testdata/good/folder/rowhook-data") {
		t.Errorf("data folder %s", cfg.Settings.DataDir)
	}
	// Files named besides the folder they are in are read once.
	mustLoad(t, "testdata/good/folder/b.hcl", "testdata/good/folder", "testdata/good/folder/a.hcl")
}

func TestLoad_UnreadablePathsAreDiagnostics(t *testing.T) {
	empty := t.TempDir()
	_, _, diags := Load([]string{"testdata/no.hcl", empty, "testdata/good/minimal.hcl"}, testOptions())
	if len(diags) != 2 || diags[0].Summary != "Configuration cannot be read" || diags[1].Summary != "No configuration" {
		t.Error(diags)
	}
	if _, _, diags := Load(nil, testOptions()); !diags.HasErrors() {
		t.Error("no paths, and no error")
	}
	big := filepath.Join(empty, "big.hcl")
	if err := os.WriteFile(big, []byte(strings.Repeat("#\n", maxFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, diags := Load([]string{big}, testOptions()); diags[0].Summary != "File is too large" && diags[1].Summary != "File is too large" {
		t.Error(diags)
	}
}

func TestLoad_WithoutSecretsWarns(t *testing.T) {
	src := `source "postgres" "main" {
		  url = env("MISSING")
		}
		event "a" {
		  channel = "a"
		  data    = payload
		}
		sink "webhook" "w" {
		  url     = "${env("MISSING")}/hooks"
		  events  = ["**"]
		  secrets = [env("MISSING"), file("missing")]
		  headers = { authorization = "Bearer ${env("MISSING")}" }
		  timeout = env("MISSING")
		}`
	opts := testOptions()
	opts.WithoutSecrets = true
	cfg, _, diags := loadText("rules.hcl", []byte(src), opts)
	if cfg == nil || len(diags) != 6 {
		t.Fatalf("%d diagnostics: %v", len(diags), diags.Errs())
	}
	for _, d := range diags {
		if d.Severity != hcl.DiagWarning {
			t.Error(d)
		}
	}
	if !cfg.Sources[0].URL.IsZero() || len(cfg.Sinks[0].Webhook.Secrets) != 2 {
		t.Error("what is missing has a value, or no place")
	}
	if cfg, _, _ := loadText("rules.hcl", []byte(src), testOptions()); cfg != nil {
		t.Error("the daemon starts without its secrets")
	}
}

func TestLoad_FileIsRelativeAndLosesOneLineBreak(t *testing.T) {
	asked := ""
	opts := testOptions()
	opts.ReadFile = func(path string) ([]byte, error) {
		asked = path
		return []byte("postgres://localhost/shop \r\n"), nil
	}
	src := "source \"postgres\" \"main\" {\n  url = file(\"run/url\")\n}\nevent \"a\" {\n  channel = \"a\"\n  data = payload\n}\n"
	cfg, files, diags := loadText("conf/rules.hcl", []byte(src), opts)
	mustBeClean(t, files, diags)
	if asked != filepath.FromSlash("conf/run/url") || cfg.Sources[0].URL.Reveal() != "postgres://localhost/shop " {
		t.Errorf("read %q from %s", cfg.Sources[0].URL.Reveal(), asked)
	}
	for _, c := range []struct {
		content []byte
		err     error
		want    string
	}{
		{nil, fs.ErrPermission, "may not read"},
		{nil, errors.New("is a directory"), "cannot be read as a file"},
		{[]byte("\n"), nil, "is empty"},
		{make([]byte, maxSecretFile+1), nil, "larger than 64 KiB"},
	} {
		opts.ReadFile = func(string) ([]byte, error) { return c.content, c.err }
		if _, _, diags := loadText("conf/rules.hcl", []byte(src), opts); !diags.HasErrors() || !strings.Contains(diags[0].Detail, c.want) {
			t.Errorf("want %s: %v", c.want, diags)
		}
	}
}

func TestLoad_BoundsLocalsThatMultiply(t *testing.T) {
	var b strings.Builder
	b.WriteString(sourceText + "locals {\n  l0 = \"xxxxxxxxxxxxxxxx\"\n")
	for i := 1; i < 40; i++ {
		n := string(rune('0'+i/10)) + string(rune('0'+i%10))
		p := string(rune('0'+(i-1)/10)) + string(rune('0'+(i-1)%10))
		if i == 1 {
			p = "0"
		}
		b.WriteString("  l" + n + " = \"${local.l" + p + "}${local.l" + p + "}\"\n")
	}
	b.WriteString("}\nrowhook {\n  listen = local.l39\n}\n")
	_, _, diags := loadText("rules.hcl", []byte(b.String()), testOptions())
	found := 0
	for _, d := range diags {
		if d.Summary == "Setting is too large" {
			found++
		}
	}
	if found != 1 {
		t.Error(diags)
	}
}

func TestLoad_BoundsNesting(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("(", 6_000), strings.Repeat("[", 101) + strings.Repeat("]", 101),
		strings.Repeat("!", 6_000), strings.Repeat("a?b:", 3_000) + "c", strings.Repeat("a+", 6_000) + "a",
		strings.Repeat(`"${`, 6_000), `"` + strings.Repeat(`%{if a}`, 6_000) + `"`, "a" + strings.Repeat("[b]", 6_000),
	} {
		_, _, diags := loadText("rules.hcl", []byte("locals {\n a = "+text+"\n}\n"), testOptions())
		deep := false
		for _, d := range diags {
			deep = deep || d.Summary == "Nested too deeply"
		}
		if !deep {
			t.Errorf("%.10s... is not too deep", text)
		}
	}
	// What is within the bounds is read, however odd it is.
	for _, text := range []string{
		strings.Repeat("[", 90) + "payload" + strings.Repeat("]", 90),
		strings.Repeat("!", 4_900) + "true", strings.Repeat("true?1:", 2_400) + "2", strings.Repeat("1+", 4_900) + "1",
	} {
		_, _, diags := loadText("rules.hcl", []byte(sourceText+"event \"a\" {\n  channel = \"a\"\n  data = "+text+"\n}\n"), testOptions())
		for _, d := range diags {
			if d.Summary == "Nested too deeply" {
				t.Errorf("%.10s... is too deep", text)
			}
		}
	}
}
