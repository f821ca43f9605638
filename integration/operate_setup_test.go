package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// dbPassword is in every URL that a shop's daemon gets. The server does not ask for it; whatever
// prints it fails the test.
const dbPassword = "hunter2-never-shown"

// spareSecret is a second signing secret.
const spareSecret = "whsec_c2VjcmV0IG51bWJlciB0d28sIHJvdGF0ZWQgaW4="

const itemsSchema = "CREATE TABLE items (id int PRIMARY KEY, v text)"

// shopSource is the source block; SLOT becomes a name of the test's own, because slots belong to the
// whole cluster.
const shopSource = `
source "postgres" "shop" {
  url  = env("DATABASE_URL")
  slot = "SLOT"
}
`

const itemRule = `
event "item" {
  table = "public.items"
  on    = ["insert", "update", "delete"]
  data  = row
}
`

// sinkTo is a sink block with fast retries; more goes into it.
func sinkTo(name, url string, more ...string) string {
	retry := `retry {
    initial      = "200ms"
    max          = "400ms"
    multiplier   = 1.5
    jitter       = 0
    max_attempts = 500
  }`
	if strings.Contains(strings.Join(more, "\n"), "retry {") {
		retry = ""
	}
	events := `events = ["**"]`
	if strings.Contains(strings.Join(more, "\n"), "events ") {
		events = ""
	}
	return fmt.Sprintf("sink \"webhook\" %q {\n  url = %q\n  %s\n  secrets = [env(\"HOOK_SECRET\")]\n  %s\n  %s\n}\n",
		name, url, events, strings.Join(more, "\n  "), retry)
}

// shop is a database with a daemon that reads it and a receiver that gets its events.
type shop struct {
	t       *testing.T
	cluster *postgres.Cluster
	name    string
	conn    *pgx.Conn
	hook    *harness.Receiver
	d       *harness.Daemon
	rules   string // as the daemon was given them
}

// shopOptions are what a test wants otherwise. Empty fields are a table of items, a rule for it and
// one sink named hook.
type shopOptions struct {
	schema   string
	source   string
	rules    string
	sinks    string // replaces the sink
	sinkMore string // into the sink
	settings string
	url      string // replaces the URL of the database
	env      []string
	args     []string
}

// newShop makes database, receiver and configuration; nothing runs yet.
func newShop(t *testing.T, cluster *postgres.Cluster, name string, o shopOptions) *shop {
	t.Helper()
	cluster.Database(t, name)
	s := &shop{t: t, cluster: cluster, name: name, hook: harness.NewReceiver(t)}
	conn, err := cluster.Conn(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	or := func(v, def string) string {
		if v == "" {
			return def
		}
		return v
	}
	s.exec(or(o.schema, itemsSchema))
	s.rules = strings.ReplaceAll(or(o.source, shopSource), "SLOT", "rowhook_"+name) + or(o.rules, itemRule) + "\n" + or(o.sinks, sinkTo("hook", s.hook.URL, o.sinkMore))
	s.d = harness.NewDaemon(t, harness.DaemonOptions{
		Rules:       s.rules,
		Settings:    o.settings,
		DatabaseURL: or(o.url, withPassword(t, cluster.URL(name))),
		Env:         append([]string{"HOOK_SECRET=" + harness.Secret, "SPARE_SECRET=" + spareSecret}, o.env...),
		Args:        o.args,
	})
	t.Cleanup(func() { noSecretIn(t, "the log", s.d.Log()) })
	return s
}

// withPassword puts dbPassword into a URL.
func withPassword(t *testing.T, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), dbPassword)
	return u.String()
}

// noSecretIn fails the test when a text shows a password or a signing secret.
func noSecretIn(t *testing.T, where, text string) {
	t.Helper()
	for _, secret := range []string{dbPassword, harness.Secret, spareSecret} {
		for _, form := range []string{secret, strings.TrimPrefix(secret, "whsec_")} {
			if strings.Contains(text, form) {
				t.Errorf("%s shows a secret (%.6s...): %s", where, form, text)
			}
		}
	}
}

func (s *shop) exec(sql string, args ...any) {
	s.t.Helper()
	var err error
	if len(args) == 0 {
		_, err = s.conn.PgConn().Exec(s.t.Context(), sql).ReadAll()
	} else {
		_, err = s.conn.Exec(s.t.Context(), sql, args...)
	}
	if err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// put inserts items with the given ids, each in a transaction of its own.
func (s *shop) put(ids ...int) {
	s.t.Helper()
	for _, id := range ids {
		s.exec(fmt.Sprintf("INSERT INTO items VALUES (%d, 'x')", id))
	}
}

// ask returns the one text that a query gives.
func (s *shop) ask(sql string, args ...any) string {
	s.t.Helper()
	var text *string
	if err := s.conn.QueryRow(s.t.Context(), sql, args...).Scan(&text); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	if text == nil {
		return ""
	}
	return *text
}

// wal returns the end of the WAL.
func (s *shop) wal() relay.LSN {
	s.t.Helper()
	return lsnOf(s.t, s.ask("SELECT pg_current_wal_flush_lsn()::text"))
}

func lsnOf(t *testing.T, text string) relay.LSN {
	t.Helper()
	lsn, err := relay.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// confirmed returns the confirmed position of the slot.
func (s *shop) confirmed() relay.LSN {
	s.t.Helper()
	return lsnOf(s.t, s.ask("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", "rowhook_"+s.name))
}

// ids returns the ids of the rows whose events the receiver accepted, in order of arrival.
func idsAt(hook *harness.Receiver) []int {
	var ids []int
	for _, q := range hook.Events() {
		ids = append(ids, rowID(q))
	}
	return ids
}

func rowID(q *harness.Request) int {
	var row struct{ ID int }
	if json.Unmarshal(q.Data, &row) != nil {
		return -1
	}
	return row.ID
}

// expect waits until the receiver has accepted events of exactly these rows, in any order.
func (s *shop) expect(want ...int) {
	s.t.Helper()
	expectAt(s.t, s.hook, want...)
}

func expectAt(t *testing.T, hook *harness.Receiver, want ...int) {
	t.Helper()
	slices.Sort(want)
	hook.Wait(harness.Patience, func() error {
		got := idsAt(hook)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("events of rows %v, want %v", got, want)
		}
		return nil
	})
}

// command runs a rowhook command with the shop's configuration.
func (s *shop) command(args ...string) harness.Result {
	s.t.Helper()
	res := s.d.Command(append(args, "-c", "CONFIG")...)
	noSecretIn(s.t, "rowhook "+strings.Join(args, " "), res.Stdout+res.Stderr)
	return res
}

// must runs a command that has to succeed, and returns what it printed.
func (s *shop) must(args ...string) string {
	s.t.Helper()
	res := s.command(args...)
	if res.Code != 0 {
		s.t.Fatalf("rowhook %s: exit code %d\n%s%s", strings.Join(args, " "), res.Code, res.Stdout, res.Stderr)
	}
	return res.Stdout
}

// readJSON runs a command with --json and decodes its output strictly.
func readJSON[T any](s *shop, args ...string) T {
	s.t.Helper()
	res := s.command(append(args, "--json")...)
	var v T
	dec := json.NewDecoder(bytes.NewReader([]byte(res.Stdout)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		s.t.Fatalf("rowhook %s: exit code %d, %v\n%s%s", strings.Join(args, " "), res.Code, err, res.Stdout, res.Stderr)
	}
	return v
}

func (s *shop) status() api.Status {
	s.t.Helper()
	return readJSON[api.Status](s, "status")
}

// source returns the status of the first source.
func (s *shop) source() api.SourceStatus {
	s.t.Helper()
	st := s.status()
	if len(st.Sources) == 0 {
		s.t.Fatal("the status has no source")
	}
	return st.Sources[0]
}

// untilSource waits until the first source is in a state, and returns it.
func (s *shop) untilSource(state string) api.SourceStatus {
	s.t.Helper()
	return s.untilSourceThat("is "+state, func(src *api.SourceStatus) bool { return src.State == state })
}

func (s *shop) untilSourceThat(what string, done func(*api.SourceStatus) bool) api.SourceStatus {
	s.t.Helper()
	var src api.SourceStatus
	harness.Eventually(s.t, harness.Patience, func() error {
		if !s.d.Running() {
			s.t.Fatalf("rowhook ended with %d; awaited was a source that %s", s.d.Wait(0), what)
		}
		_, _, err := s.d.Get("/healthz")
		if err != nil {
			return err // a command would take the store of a daemon that is about to start
		}
		src = s.source()
		if !done(&src) {
			return fmt.Errorf("awaited is a source that %s, it is %s: %s", what, src.State, src.Reason)
		}
		return nil
	})
	return src
}

func (s *shop) endpoint(name string) api.EndpointStatus {
	s.t.Helper()
	for _, e := range s.status().Endpoints {
		if e.Name == name {
			return e
		}
	}
	s.t.Fatalf("the status has no endpoint %s", name)
	return api.EndpointStatus{}
}

// recorded waits until n deliveries of an endpoint are durable as delivered.
func (s *shop) recorded(name string, n int) {
	s.t.Helper()
	s.eventually(func() error {
		list := readJSON[api.Deliveries](s, "deliveries", "list", "--endpoint", name, "--state", "delivered", "-n", "1000").Deliveries
		if len(list) != n {
			return fmt.Errorf("%d deliveries of %s are recorded, want %d", len(list), name, n)
		}
		return nil
	})
}

// checkpoint returns what checkpoint show says of the source.
func (s *shop) checkpoint() api.Checkpoint {
	s.t.Helper()
	list := readJSON[api.Checkpoints](s, "checkpoint", "show", "shop").Checkpoints
	if len(list) != 1 {
		s.t.Fatalf("%d checkpoints", len(list))
	}
	return list[0]
}

// eventually waits for what takes a moment.
func (s *shop) eventually(check func() error) {
	s.t.Helper()
	harness.Eventually(s.t, harness.Patience, check)
}

// contains fails the test when a text lacks one of the words.
func contains(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q: %s", what, w, text)
		}
	}
}
