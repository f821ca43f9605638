package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

// runCluster starts the shop's cluster again.
func (s *shop) runCluster() {
	s.t.Helper()
	if err := s.cluster.Run(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.reconnect()
}

func (s *shop) reconnect() {
	s.t.Helper()
	conn, err := s.cluster.Conn(s.t.Context(), s.name)
	if err != nil {
		s.t.Fatal(err)
	}
	s.conn = conn
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
}

func (s *shop) stopCluster(mode postgres.StopMode) {
	s.t.Helper()
	_ = s.conn.Close(s.t.Context())
	if err := s.cluster.Stop(mode); err != nil {
		s.t.Fatal(err)
	}
}

// unbroken fails the test unless the history of the source has no break.
func (s *shop) unbroken() {
	s.t.Helper()
	if src := s.source(); src.Generation != 1 || src.Gaps != 0 {
		s.t.Errorf("generation %d, %d gaps", src.Generation, src.Gaps)
	}
}

// once fails the test when an event came twice.
func (s *shop) once() {
	s.t.Helper()
	seen := map[string]int{}
	for _, q := range s.hook.Requests() {
		if q.Accepted() {
			seen[q.ID]++
		}
	}
	for id, n := range seen {
		if n > 1 {
			s.t.Errorf("event %s came %d times", id, n)
		}
	}
}

// A9, A11, B10: what is written elsewhere on the cluster, or to tables that nobody published, or
// while an endpoint is dead, is let go of.
func TestSlots_NothingThatIsNotOursPinsWAL(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"max_wal_size": "64MB"}})
	idle := newShop(t, cluster, "pinidle", shopOptions{})
	unpublished := newShop(t, cluster, "pinother", shopOptions{schema: itemsSchema + "; CREATE TABLE noise (v text)"})
	dead := newShop(t, cluster, "pindead", shopOptions{})
	shops := []*shop{idle, unpublished, dead}
	for _, s := range shops {
		s.d.StartReady()
	}
	dead.hook.Down()
	dead.put(1, 2, 3)
	cluster.Database(t, "pinbusy")
	if err := cluster.Exec(t.Context(), "pinbusy", "CREATE TABLE noise (v text)"); err != nil {
		t.Fatal(err)
	}
	const noise = "INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 9000)"
	mark := idle.wal()
	before := idle.appends()
	for range 2 {
		unpublished.exec(noise)
		if err := cluster.Exec(t.Context(), "pinbusy", noise); err != nil {
			t.Fatal(err)
		}
	}
	mark += 16 << 20
	for _, s := range shops {
		s.eventually(func() error {
			s.exec("CHECKPOINT") // writes which transactions run, by which a slot moves
			at := lsnOf(t, s.ask("SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = $1", "rowhook_"+s.name))
			if at < mark {
				return fmt.Errorf("slot of %s: restart_lsn is %s, want at least %s", s.name, at, mark)
			}
			return nil
		})
	}
	if n := idle.appends() - before; n > 8 {
		t.Errorf("the store was written %v times for positions at which nothing happened", n)
	}
	dead.hook.Up()
	dead.expect(1, 2, 3)
}

// appends is how often the daemon has written to its store while reading.
func (s *shop) appends() float64 {
	s.t.Helper()
	n, err := s.d.Metric("rowhook_store_append_seconds_count")
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// B1: the server removes the WAL of a slot whose reader is connected and does not answer.
func TestSlots_LostWhileConnected(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{
		"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB", "wal_sender_timeout": "1s",
	}})
	s := newShop(t, cluster, "lost", shopOptions{})
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.d.Signal(syscall.SIGSTOP)
	s.eventually(func() error {
		s.exec("SELECT pg_switch_wal(); INSERT INTO items SELECT max(id) + 1 FROM items; CHECKPOINT")
		if st := s.ask("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'rowhook_lost'"); st != "lost" {
			return fmt.Errorf("wal_status is %s", st)
		}
		return nil
	})
	s.d.Signal(syscall.SIGCONT)
	src := s.untilSource(api.SourceStopped)
	contains(t, "the reason", src.Reason, "slot rowhook_lost is lost (wal_removed", "max_slot_wal_keep_size", "bytes of WAL, since ", flagNow)
	if st := s.ask("SELECT count(*)::text FROM pg_stat_replication WHERE application_name LIKE 'rowhook%'"); st != "0" {
		t.Errorf("%s sessions go on trying to read a lost slot", st)
	}
	contains(t, "the reset", s.must("checkpoint", "reset", "shop", "now"), "generation 2")
	s.untilSource(api.SourceStreaming)
	s.exec("INSERT INTO items VALUES (1000, 'x')")
	s.expect(1, 1000)
	if src := s.source(); src.Gaps != 1 || src.LastGap.From == "" {
		t.Errorf("gaps: %+v", src)
	}
}

// B2: 18 drops slots that nobody reads. One that is read it keeps, however idle.
func TestSlots_IdleTimeout(t *testing.T) {
	t.Parallel()
	bin, err := postgres.Fetch("18")
	if err != nil {
		t.Fatal(err)
	}
	cluster := postgres.New(t, postgres.Options{Binaries: bin, Settings: map[string]string{"idle_replication_slot_timeout": "1s"}})
	s := newShop(t, cluster, "idle", shopOptions{})
	s.d.StartReady()
	contains(t, "the log", s.d.Log(), "idle_replication_slot_timeout is set")
	if s.ask("SELECT failover::text FROM pg_replication_slots") != "true" {
		t.Error("the slot was not asked to follow a failover")
	}
	s.put(1)
	s.expect(1)
	s.exec("SELECT pg_sleep(1.5); CHECKPOINT")
	if why := s.ask("SELECT invalidation_reason FROM pg_replication_slots"); why != "" {
		t.Fatalf("a slot that is read was invalidated: %s", why)
	}
	s.d.Term()
	s.eventually(func() error {
		s.exec("CHECKPOINT")
		if why := s.ask("SELECT invalidation_reason FROM pg_replication_slots"); why != "idle_timeout" {
			return fmt.Errorf("the slot's invalidation_reason is %q", why)
		}
		return nil
	})
	s.put(2)
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "is lost (idle_timeout", "idle_replication_slot_timeout", "bytes of WAL, since ", flagNow)
}

// readAs reads a slot as another program would, until the returned function is called.
func readAs(t *testing.T, databaseURL, application, slot, publication string) (stop func()) {
	t.Helper()
	config, err := pgconn.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["replication"] = "database"
	config.RuntimeParams["application_name"] = application
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	stop = func() { _ = conn.Close(context.Background()) }
	t.Cleanup(stop)
	err = pglogrepl.StartReplication(t.Context(), conn, slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names '" + publication + "'"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return stop
}

// dropSlot drops the slot under its reader.
func (s *shop) dropSlot() {
	s.t.Helper()
	s.eventually(func() error {
		_, err := s.conn.Exec(s.t.Context(), `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1`, "rowhook_"+s.name)
		if err == nil {
			_, err = s.conn.Exec(s.t.Context(), `SELECT pg_drop_replication_slot($1)`, "rowhook_"+s.name)
		}
		return err
	})
}

// B4, B5: a slot that another reads, that is dropped under us, and made again by somebody else.
func TestSlots_InUseDroppedAndRecreated(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "taken", shopOptions{})
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.d.Term()
	s.put(2)
	stop := readAs(t, cluster.URL("taken"), "somebody else", "rowhook_taken", "rowhook_shop")
	pid := s.ask("SELECT active_pid::text FROM pg_replication_slots")
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceWaiting).Reason, "slot rowhook_taken is being read by process "+pid, "somebody else")
	stop()
	s.d.WaitReady()
	s.expect(1, 2)
	s.unbroken()

	s.dropSlot()
	s.put(3)
	p := s.checkpoint()
	contains(t, "after the drop, the reason", s.untilSource(api.SourceStopped).Reason,
		"slot rowhook_taken does not exist any more", p.LSN, "bytes of WAL, since ", flagNow)

	s.exec("SELECT pg_create_logical_replication_slot('rowhook_taken', 'pgoutput')")
	s.put(4)
	cf := s.confirmed().String()
	s.d.Term()
	s.d.Start()
	contains(t, "made again, the reason", s.untilSource(api.SourceStopped).Reason,
		"slot rowhook_taken was moved to "+cf, p.LSN, "bytes of WAL, since ", flagEarliest)
	contains(t, "the reset", s.must("checkpoint", "reset", "shop", "earliest"), "generation 2")
	s.expect(1, 2, 4)
	if src := s.source(); src.Gaps != 1 || src.LastGap.From != p.LSN || src.LastGap.To != cf {
		t.Errorf("the gap is %+v, want %s to %s", src.LastGap, p.LSN, cf)
	}
}

// A15, H5: a smart shutdown waits for every session but walsenders. The session that listens leaves.
func TestSlots_SmartShutdownIsNotBlocked(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "smart", shopOptions{rules: itemRule + hintRule})
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.untilListening()
	s.stopCluster(postgres.Smart)
	s.runCluster()
	s.d.WaitReady()
	s.untilListening()
	s.exec(`INSERT INTO items VALUES (2, 'x'); SELECT pg_notify('hints', '{"id": 3}')`)
	s.expect(1, 2, 3)
	if src := s.source(); src.Generation != 1 || src.NotifyGaps != 1 {
		t.Errorf("generation %d, %d gaps in the notifications", src.Generation, src.NotifyGaps)
	}
	s.d.Term() // before its database is dropped
}

const hintRule = `
event "hint" {
  channel = "hints"
  data    = payload
}
`

// untilListening waits until the source has been seen to hear notifications.
func (s *shop) untilListening() {
	s.t.Helper()
	s.untilSourceThat("listens", func(src *api.SourceStatus) bool {
		return len(src.Channels) > 0 && src.Channels[0].Listening
	})
}

// A8: after a crash the server's confirmed position may be older than what it was told. Nothing comes
// twice into the log, and nothing is missing that was committed.
func TestSlots_CrashTakesTheConfirmedPositionBack(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{FSync: true, Settings: map[string]string{"synchronous_commit": "off", "checkpoint_timeout": "1h"}})
	s := newShop(t, cluster, "crash", shopOptions{})
	s.d.StartReady()
	s.exec("CHECKPOINT")
	s.put(1, 2, 3)
	s.expect(1, 2, 3)
	p := s.checkpoint()
	s.eventually(func() error {
		if cf := s.confirmed(); cf < lsnOf(t, p.LSN) {
			return fmt.Errorf("confirmed is %s, stored %s", cf, p.LSN)
		}
		return nil
	})
	s.cluster.Kill9()
	s.runCluster()
	// Read before the daemon confirms anew: it may be there already, and then this says nothing.
	if cf := s.confirmed(); cf < lsnOf(t, p.LSN) {
		t.Logf("confirmed went back to %s from %s", cf, p.LSN)
	}
	s.put(4)
	s.expect(1, 2, 3, 4)
	s.once()
	s.unbroken()
}

// D2: the publication is dropped while we read. Up to 17 the server refuses every later change, 18
// skips them with a mere warning.
func TestSlots_PublicationDroppedWhileReading(t *testing.T) {
	t.Parallel()
	eighteen, err := postgres.Fetch("18")
	if err != nil {
		t.Fatal(err)
	}
	for name, bin := range map[string]*postgres.Binaries{"the server at hand": nil, "18": eighteen} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := postgres.New(t, postgres.Options{Binaries: bin})
			s := newShop(t, cluster, "nopub", shopOptions{})
			s.d.StartReady()
			s.put(1)
			s.expect(1)
			s.exec("DROP PUBLICATION rowhook_shop")
			s.put(2)
			src := s.untilSource(api.SourceStopped)
			contains(t, "the reason", src.Reason, "the publication rowhook_shop was missing", "bytes of WAL, since ", flagNow)
			before := s.checkpoint()
			// A restart makes the publication again, and is not taken in by that.
			s.d.Term()
			s.d.Start()
			s.untilSource(api.SourceStopped)
			if p := s.checkpoint(); lsnOf(t, p.LSN) > lsnOf(t, before.LSN) {
				t.Errorf("the checkpoint went from %s to %s, past what was not sent", before.LSN, p.LSN)
			}
			contains(t, "the reset", s.must("checkpoint", "reset", "shop", "now"), "generation 2")
			s.untilSource(api.SourceStreaming)
			s.put(3)
			s.expect(1, 3)
		})
	}
}

// A publication that was dropped and is there again, without a change in between: nothing was lost,
// and reading goes on by itself.
func TestSlots_PublicationDroppedAndMadeAgain(t *testing.T) {
	t.Parallel()
	eighteen, err := postgres.Fetch("18")
	if err != nil {
		t.Fatal(err)
	}
	for name, bin := range map[string]*postgres.Binaries{"the server at hand": nil, "18": eighteen} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, postgres.New(t, postgres.Options{Binaries: bin}), "again", shopOptions{})
			s.d.StartReady()
			s.put(1)
			s.expect(1)
			s.exec("DROP PUBLICATION rowhook_shop")
			contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "publication rowhook_shop does not exist any more", "goes on by itself")
			s.exec("CREATE PUBLICATION rowhook_shop FOR TABLE items WITH (publish_via_partition_root = true)")
			s.untilSource(api.SourceStreaming)
			s.put(2)
			s.expect(1, 2)
			s.unbroken()
			s.once()
			// And with a change in between it is not taken in.
			s.exec("DROP PUBLICATION rowhook_shop; INSERT INTO items VALUES (3, 'x')")
			contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "the publication rowhook_shop was missing", flagNow)
			s.exec("CREATE PUBLICATION rowhook_shop FOR TABLE items WITH (publish_via_partition_root = true)")
			s.d.Term()
			s.d.Start()
			contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "the publication rowhook_shop was missing", flagNow)
		})
	}
}

// What a person changes on the server while we are connected or away: each is said, and when it is
// put right the source goes on by itself.
func TestSlots_SettingsRightsAndCredentials(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"max_wal_senders": "1"}})
	role(t, cluster, "app", "REPLICATION PASSWORD 'first-never-shown'")
	s := newShop(t, cluster, "rights", shopOptions{url: roleURL(t, cluster, "rights", "app")})
	s.exec("ALTER TABLE items OWNER TO app; GRANT CREATE ON DATABASE rights TO app")

	// The only walsender is somebody else's, and then enough.
	s.exec("SELECT pg_create_logical_replication_slot('other', 'pgoutput'); CREATE PUBLICATION other FOR TABLE items")
	stop := readAs(t, cluster.URL("rights"), "somebody else", "other", "other")
	s.d.Start()
	contains(t, "without a walsender, the reason", s.untilSource(api.SourceWaiting).Reason, "max_wal_senders")
	stop()
	s.d.WaitReady() // its walsender is free, and so is the slot
	s.exec("SELECT pg_drop_replication_slot('other')")
	s.put(1)
	s.expect(1)

	// The role may not replicate any more.
	s.exec("ALTER ROLE app NOREPLICATION; SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
	reason := s.untilSource(api.SourceStopped).Reason
	contains(t, "without the right, the reason", reason, `the role "app" may not replicate`)
	s.put(2)
	for _, sql := range remedies(t, reason) {
		s.exec(sql)
	}
	s.untilSource(api.SourceStreaming)
	s.expect(1, 2)

	// A server whose wal_level is too low for its slots does not start.
	s.stopCluster(postgres.Fast)
	if err := cluster.Set(map[string]string{"wal_level": "replica"}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "wal_level") {
		t.Fatalf("a server with wal_level = replica and our slot: %v", err)
	}
	if err := cluster.Set(map[string]string{"wal_level": "logical"}); err != nil {
		t.Fatal(err)
	}
	s.runCluster()
	s.put(3)
	s.expect(1, 2, 3)
	s.unbroken()
	s.once()
}

// The password is changed under a running daemon, which reads it from a file that it does not read
// only once: the passfile of libpq.
func TestSlots_PasswordRotated(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{Password: "superuser-never-shown"})
	passfile := t.TempDir() + "/pgpass"
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(passfile, []byte("*:*:*:postgres:"+password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("superuser-never-shown")
	u, err := url.Parse(cluster.URL("rotate"))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("postgres")
	u.RawQuery += "&passfile=" + url.QueryEscape(passfile)
	s := newShop(t, cluster, "rotate", shopOptions{url: u.String()})
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.exec("ALTER ROLE postgres PASSWORD 'second-never-shown'; SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "does not accept the credentials", "from env() is read when rowhook starts", "passfile")
	s.put(2)
	write("second-never-shown")
	s.untilSource(api.SourceStreaming)
	s.expect(1, 2)
	s.unbroken()
	for _, secret := range []string{"superuser-never-shown", "second-never-shown"} {
		if strings.Contains(s.d.Log(), secret) {
			t.Error("the log shows a password")
		}
	}
	s.exec("ALTER ROLE postgres PASSWORD 'superuser-never-shown'") // which drops the database
}

// B8: a slot that another session is still creating has no position yet.
func TestSlots_BeingCreatedByAnotherSession(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "born", shopOptions{source: strings.Replace(shopSource, "SLOT\"", "SLOT\"\n  manage = false", 1)})
	s.exec("CREATE PUBLICATION rowhook_shop FOR TABLE items")
	writer, err := cluster.Conn(t.Context(), "born")
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close(context.Background())
	made := make(chan error, 1)
	err = pgx.BeginFunc(t.Context(), writer, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "INSERT INTO items VALUES (1, 'x')"); err != nil {
			return err
		}
		go func() {
			made <- cluster.Exec(t.Context(), "born", "SELECT pg_create_logical_replication_slot('rowhook_born', 'pgoutput')")
		}()
		s.d.Start()
		s.untilSourceThat("waits for the slot", func(src *api.SourceStatus) bool {
			return src.State == api.SourceWaiting && strings.Contains(src.Reason, "still creating the slot")
		})
		return nil
	})
	if err = errors.Join(err, <-made); err != nil {
		t.Fatal(err)
	}
	s.untilSource(api.SourceStreaming)
	s.put(2)
	s.expect(2)
}
