package integration_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// notifyGapEvent is the data of a rowhook.notify_gap.
type notifyGapEvent struct {
	Channels []string
	From, To time.Time
	Seconds  float64
	Lost     int
	Reason   string
}

// gapEvents waits until n events about gaps have come to the receiver.
func gapEvents(t *testing.T, hook *harness.Receiver, n int) []notifyGapEvent {
	t.Helper()
	hook.WaitCount(n)
	var out []notifyGapEvent
	for _, q := range hook.Events() {
		var e notifyGapEvent
		if err := json.Unmarshal(q.Data, &e); err != nil || q.Type != "rowhook.notify_gap" {
			t.Fatalf("event of type %s: %s", q.Type, q.Data)
		}
		out = append(out, e)
	}
	return out
}

// H4: a time in which nothing listened is an event, a metric and a recorded gap, with its length, also
// when it was rowhook that did not run. Only a sink that names operational events gets it.
func TestNotify_AGapIsAnEventForWhoNamesIt(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	ops := harness.NewReceiver(t)
	s := newShop(t, cluster, "gaps", shopOptions{rules: itemRule + hintRule + sinkTo("ops", ops.URL, `events = ["rowhook.**"]`)})
	s.d.StartReady()
	s.untilListening()
	s.exec(`SELECT pg_notify('hints', '{"id": 1}')`)
	s.expect(1)
	s.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rowhook listen'")
	gap := gapEvents(t, ops, 1)[0]
	if gap.Seconds <= 0 || gap.Seconds != gap.To.Sub(gap.From).Seconds() || fmt.Sprint(gap.Channels) != "[hints]" || gap.Reason != "nothing listened" {
		t.Errorf("the event says %+v", gap)
	}
	for name, want := range map[string]float64{"rowhook_notify_gaps_total": 1, "rowhook_notify_gap_seconds_total": gap.Seconds} {
		if got, err := s.d.Metric(name, `source="shop"`); err != nil || got < want-1e-3 || got > want+1e-3 {
			t.Errorf("%s is %v, %v, want %v", name, got, err, want)
		}
	}
	s.untilListening()
	s.d.Term()
	stopped := time.Now()
	s.exec(`SELECT pg_notify('hints', '{"id": 2}')`) // which nobody can have
	s.d.StartReady()
	s.untilListening()
	gap = gapEvents(t, ops, 2)[1]
	if gap.From.After(stopped) || gap.To.Before(stopped) {
		t.Errorf("stopped at %s, and the gap is %+v", stopped, gap)
	}
	s.exec(`SELECT pg_notify('hints', '{"id": 3}')`)
	s.expect(1, 3)
	if cp := s.checkpoint(); len(cp.Gaps) != 2 {
		t.Errorf("gaps: %+v", cp.Gaps)
	}
}

// A log that takes nothing costs the listener one wait, not one a notification, and says how many it
// gave up.
func TestNotify_AFullLogGivesUpAndCounts(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	ops := harness.NewReceiver(t)
	s := newShop(t, cluster, "nqfull", shopOptions{
		settings: "log {\n max_size = \"1MiB\"\n}",
		rules:    itemRule + hintRule + sinkTo("ops", ops.URL, `events = ["rowhook.**"]`),
	})
	s.hook.Down()
	s.d.StartReady()
	s.untilListening()
	s.fill(1)
	s.untilSource(api.SourcePaused)
	const n = 200
	s.exec(fmt.Sprintf(`SELECT pg_notify('hints', '{"id": ' || 5000 + n || '}') FROM generate_series(1, %d) n`, n))
	// The server's queue is read to its end while the log takes nothing.
	s.eventually(func() error {
		if waiting := s.ask("SELECT (pg_notification_queue_usage() > 0)::text"); waiting != "false" {
			return fmt.Errorf("the queue is not empty")
		}
		return nil
	})
	s.d.WaitLog("notifications are given up")
	s.hook.Up()
	gap := gapEvents(t, ops, 1)[0]
	if gap.Lost != n || !strings.Contains(gap.Reason, "the log took nothing") || gap.Seconds <= 0 {
		t.Errorf("the event says %+v, want %d lost", gap, n)
	}
	if got := strings.Count(s.d.Log(), "notifications are given up"); got != 1 {
		t.Errorf("the log says %d times that notifications are given up", got)
	}
	s.exec(`SELECT pg_notify('hints', '{"id": 9999}')`)
	s.hook.Wait(harness.Patience, func() error {
		for _, id := range idsAt(s.hook) {
			if id == 9999 {
				return nil
			}
		}
		return fmt.Errorf("a notification after the gap has not come")
	})
}

// bouncer runs a pgbouncer in front of the cluster and returns the URL of the database through it.
func bouncer(t *testing.T, cluster *postgres.Cluster, mode, database string) string {
	t.Helper()
	cmd := exec.Command("bash", "getpgbouncer.sh")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	program, libraries, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	dir, err := os.MkdirTemp("", "rowhook-bouncer-") // not t.TempDir, where nobody may go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("users", "\"postgres\" \"\"\n")
	write("ini", fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s/users
pool_mode = %s
ignore_startup_parameters = extra_float_digits
`, cluster.Port, port, dir, mode))
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// It refuses to run as root.
	run := exec.Command(program, filepath.Join(dir, "ini"))
	run.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries)
	run.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		// The program may lie where only root may go.
		copied := filepath.Join(dir, "pgbouncer")
		if out, err := exec.Command("cp", program, copied).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for path := range strings.SplitSeq(libraries, ":") {
			_ = exec.Command("cp", "-a", path, filepath.Join(dir, "lib")).Run() // one of them need not exist
		}
		run.Path, run.Env = copied, append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(dir, "lib"))
		run.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	run.Stdout, run.Stderr = log, log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = run.Process.Kill()
		_ = run.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("pgbouncer: %s", text)
		}
	})
	u := &url.URL{Scheme: "postgres", User: url.User("postgres"), Host: fmt.Sprintf("127.0.0.1:%d", port), Path: "/" + database, RawQuery: "sslmode=disable"}
	harness.Eventually(t, harness.Patience, func() error {
		conn, err := net.Dial("tcp", u.Host)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return u.String()
}

// H9: a pooler that gives each transaction another session takes LISTEN and delivers nothing. That is
// found out and said. One that keeps the session works.
func TestNotify_ThroughPgBouncer(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "pooled", shopOptions{rules: itemRule + hintRule})

	l := cdc.Listener{URL: relay.NewSecret(bouncer(t, cluster, "transaction", "pooled")), Channels: []string{"hints"}}
	err := l.Run(t.Context(), func(*relay.Change) error { return nil }, func(time.Time, time.Time) error { return nil })
	wantSetup(t, err, "notifications do not arrive", "connection pooler", "LISTEN succeeded")

	session := bouncer(t, cluster, "session", "pooled")
	l.URL = relay.NewSecret(session)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hears := make(chan struct{})
	l.Alive = func(at time.Time) {
		if !at.IsZero() {
			close(hears)
		}
	}
	got, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- l.Run(ctx, func(c *relay.Change) error {
			got <- string(c.Payload)
			return nil
		}, func(time.Time, time.Time) error { return nil })
	}()
	select {
	case <-hears:
	case err := <-done:
		t.Fatalf("through a pooler in session mode: %v", err)
	}
	s.exec("SELECT pg_notify('hints', 'through')")
	if text := <-got; text != "through" {
		t.Errorf("got %q", text)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	// The daemon needs replication too, which this pooler does not carry in any mode.
	s.d.SetRules(strings.ReplaceAll(strings.Replace(shopSource, `env("DATABASE_URL")`, fmt.Sprintf("%q", session), 1), "SLOT", "rowhook_pooled") +
		itemRule + hintRule + sinkTo("hook", s.hook.URL))
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "connection pooler", "a direct connection to PostgreSQL is needed")
	s.d.Term()
}

// deafProxy is a way to the server that swallows notifications when it is told to.
type deafProxy struct {
	net.Listener
	deaf atomic.Bool
}

func (p *deafProxy) serve(to string) {
	for {
		client, err := p.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			_ = client.Close()
			continue
		}
		go func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		}()
		go func() {
			_ = p.answers(client, server)
			_ = client.Close()
		}()
	}
}

// answers copies the server's messages but for the notifications.
func (p *deafProxy) answers(client io.Writer, server io.Reader) error {
	for head := make([]byte, 5); ; {
		if _, err := io.ReadFull(server, head); err != nil {
			return err
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return err
		}
		if head[0] == 'A' && p.deaf.Load() {
			continue
		}
		if _, err := client.Write(append(head[:5:5], body...)); err != nil {
			return err
		}
	}
}

// A session that stops to hear notifications, and is well otherwise, is found out too, and what it
// missed is a gap.
func TestNotify_ASessionThatGoesDeafIsNoticed(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	proxy := &deafProxy{Listener: l}
	go proxy.serve(fmt.Sprintf("127.0.0.1:%d", cluster.Port))
	u, err := url.Parse(cluster.URL("deaf"))
	if err != nil {
		t.Fatal(err)
	}
	u.Host = l.Addr().String()
	s := newShop(t, cluster, "deaf", shopOptions{rules: itemRule + hintRule, url: u.String()})
	s.d.StartReady()
	s.untilListening()
	proxy.deaf.Store(true)
	src := s.untilSource(api.SourceStopped)
	contains(t, "the reason", src.Reason, "notifications are not received", "LISTEN succeeded")
	if src.Channels[0].Listening {
		t.Error("the channel is said to be listened to")
	}
	s.put(1) // rows come as ever
	s.expect(1)
	proxy.deaf.Store(false)
	s.untilSource(api.SourceStreaming)
	s.untilListening()
	if src := s.source(); src.NotifyGaps != 1 || src.NotifyGapSeconds < 5 {
		t.Errorf("gaps in the notifications: %d of %v s", src.NotifyGaps, src.NotifyGapSeconds)
	}
}
