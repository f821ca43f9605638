package integration_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
)

// confirmed returns the slot's position once it is at least lsn.
func (s *source) confirmed(lsn relay.LSN) {
	s.t.Helper()
	late := time.Now().Add(20 * time.Second)
	for {
		st, err := cdc.Inspect(s.t.Context(), s.url, s.name, "")
		if err != nil {
			s.t.Fatal(err)
		}
		if st.Slot.ConfirmedFlush >= lsn {
			return
		}
		if time.Now().After(late) {
			s.t.Fatalf("confirmed is %s, want %s", st.Slot.ConfirmedFlush, lsn)
		}
	}
}

// until waits until the query says true.
func (s *source) until(sql string, args ...any) {
	s.t.Helper()
	late := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s.query("SELECT ("+sql+")::text", args...) != "true" {
		if <-tick.C; time.Now().After(late) {
			s.t.Fatalf("not true in time: %s", sql)
		}
	}
}

func (s *source) wal() relay.LSN {
	s.t.Helper()
	lsn, err := relay.ParseLSN(s.query("SELECT pg_current_wal_lsn()::text"))
	if err != nil {
		s.t.Fatal(err)
	}
	return lsn
}

func TestCapture_IdleDatabaseWithBusyNeighbourDoesNotPinWAL(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newSource(t, cluster, "idle", "CREATE TABLE a (id int PRIMARY KEY)", "a")
	s.run()
	s.settle()
	other := cluster.Database(t, "busy")
	if err := cluster.Exec(t.Context(), "busy", "CREATE TABLE b (v text); INSERT INTO b SELECT repeat('x', 1000) FROM generate_series(1, 20000)"); err != nil {
		t.Fatal(err, other)
	}
	s.exec("CREATE TABLE unpublished (v text); INSERT INTO unpublished SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
	s.confirmed(s.wal() - 1<<20)
	s.stop()
}

func TestCapture_ConfirmsTheEndOfATransactionOnlyWhenItIsDurable(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newSource(t, cluster, "confirm", "CREATE TABLE a (id int PRIMARY KEY)", "a")
	s.got.hold = true
	s.run()
	s.exec("INSERT INTO a VALUES (1)")
	s.expect("begin", "insert public.a new id=1 key(id)", "commit")
	s.stop() // its last status states a position too
	st, err := cdc.Inspect(t.Context(), s.url, s.name, "")
	if err != nil {
		t.Fatal(err)
	}
	if st.Slot.ConfirmedFlush > s.start {
		t.Fatalf("confirmed %s, of which nothing was durable", st.Slot.ConfirmedFlush)
	}
	// The transaction comes again, and once it is confirmed no more.
	s.got = newCaptured(s.start)
	s.run()
	s.got.wait(t, "the transaction again", func() bool { return s.got.durable > s.start })
	s.stop()
	s.got = newCaptured(s.got.durable)
	s.run()
	s.exec("INSERT INTO a VALUES (2)")
	s.expect("begin", "insert public.a new id=2 key(id)", "commit")
	s.stop()
}

func TestCapture_AFullHandlerKeepsTheConnectionAlive(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"wal_sender_timeout": "1s"}})
	s := newSource(t, cluster, "full", "CREATE TABLE a (id int PRIMARY KEY, v text)", "a")
	s.run()
	s.settle()
	pid := s.query("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = 'full'")
	room := make(chan struct{})
	s.got.mu.Lock()
	s.got.full = room
	s.got.mu.Unlock()
	s.exec("INSERT INTO a SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n")
	// A status that the server got after four times its own patience.
	from := s.query("SELECT clock_timestamp()::text")
	s.until("SELECT reply_time > $1::timestamptz + '4 s' FROM pg_stat_replication WHERE pid = $2::int", from, pid)
	s.got.mu.Lock()
	s.got.full = nil
	close(room)
	s.got.mu.Unlock()
	if lines := s.settle(); len(lines) != 20002 {
		t.Errorf("%d lines", len(lines))
	}
	if now := s.query("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = 'full'"); now != pid || pid == "" {
		t.Errorf("the walsender was %s and is %s", pid, now)
	}
	s.stop()
}

func TestCapture_TheServerCanShutDownWhileConnected(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		set  func(*captured)
	}{
		{"idle", func(*captured) {}},
		{"with changes that are not stored", func(c *captured) { c.hold = true }},
		{"paused", func(c *captured) { c.full = make(chan struct{}) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			cluster := postgres.New(t, postgres.Options{})
			s := newSource(t, cluster, "down", "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE u (v text)", "a")
			s.run()
			s.exec("INSERT INTO a VALUES (1)")
			s.settle()
			s.got.mu.Lock()
			test.set(s.got)
			s.got.mu.Unlock()
			s.exec("INSERT INTO a VALUES (2); INSERT INTO u VALUES ('x')")
			from := time.Now()
			if err := cluster.Stop(postgres.Fast); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(from); took > 25*time.Second {
				t.Errorf("the shutdown took %s", took)
			} else {
				t.Logf("the shutdown took %s", took)
			}
			if err := s.end(); !cdc.IsTemporary(err) {
				t.Errorf("the stream ended with %v, which is not temporary", err)
			} else {
				t.Logf("the stream ended with: %v; retry after %s", err, cdc.RetryAfter(err))
			}
		})
	}
}

func TestCapture_AServerThatDiesIsATemporaryError(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newSource(t, cluster, "dies", "CREATE TABLE a (id int PRIMARY KEY)", "a")
	s.run()
	s.settle()
	cluster.Kill9()
	if err := s.end(); !cdc.IsTemporary(err) {
		t.Errorf("%v is not temporary", err)
	}
	s.run()
	if err := s.end(); !cdc.IsTemporary(err) {
		t.Errorf("%v is not temporary", err)
	}
	if err := cluster.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := cluster.Conn(t.Context(), "dies")
	if err != nil {
		t.Fatal(err)
	}
	s.db = conn
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	s.run()
	s.exec("INSERT INTO a VALUES (1)")
	s.expect("begin", "insert public.a new id=1 key(id)", "commit")
	s.stop()
}

func TestCapture_APositionTheSlotCannotHonourIsRefused(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newSource(t, cluster, "positions", "CREATE TABLE a (id int PRIMARY KEY)", "a")
	run := func(start relay.LSN) error { return s.stream.Run(t.Context(), start, newCaptured(start)) }
	if err := run(s.wal() + 1<<30); !errors.Is(err, cdc.ErrStartBeyondServer) || cdc.IsTemporary(err) {
		t.Errorf("beyond the server: %v", err)
	}
	s.exec("INSERT INTO a VALUES (1)")
	s.exec("SELECT pg_replication_slot_advance('" + s.name + "', pg_current_wal_lsn())") // by somebody else
	if err := run(s.start); !errors.Is(err, cdc.ErrStartBeforeSlot) || cdc.IsTemporary(err) {
		t.Errorf("before the slot: %v", err)
	}
	s.stream.SystemID = 1
	if err := run(s.wal()); !cdc.IsTemporary(err) {
		t.Errorf("another server: %v", err)
	}
	s.stream.SystemID = 0
	s.run()
	s.got.wait(t, "", func() bool { return true })
	second := s.stream
	s.exec("INSERT INTO a VALUES (2)")
	if err := cdc.DropSlot(t.Context(), s.url, s.name); err != nil {
		t.Fatal(err)
	}
	if err := s.end(); err == nil {
		t.Error("the stream of a dropped slot ended without an error")
	}
	if err := second.Run(t.Context(), s.wal(), newCaptured(1)); !errors.Is(err, cdc.ErrSlotMissing) || cdc.IsTemporary(err) {
		t.Errorf("missing slot: %v", err)
	}
}

func TestCapture_ASlotInUseIsATemporaryError(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newSource(t, cluster, "inuse", "CREATE TABLE a (id int PRIMARY KEY)", "a")
	s.run()
	s.settle()
	err := s.stream.Run(t.Context(), s.start, newCaptured(s.start))
	if !cdc.IsTemporary(err) || !strings.Contains(err.Error(), "is active for PID") {
		t.Errorf("second reader: %v", err)
	}
	st, err := cdc.Inspect(t.Context(), s.url, s.name, "")
	if err != nil {
		t.Fatal(err)
	}
	if !st.Slot.Active || st.Slot.ActivePID == 0 || st.Slot.ActiveApplication != "rowhook stream" {
		t.Errorf("slot is %+v", st.Slot)
	}
	s.stop()
}

func TestCapture_AMissingPublicationStopsTheStream(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newSource(t, cluster, "nopub", "CREATE TABLE a (id int PRIMARY KEY)", "a")
	s.run()
	s.settle()
	if err := cdc.DropPublication(t.Context(), s.url, "Pub,nopub"); err != nil {
		t.Fatal(err)
	}
	s.exec("INSERT INTO a VALUES (1)")
	err := s.end()
	if !errors.Is(err, cdc.ErrNotPublished) || cdc.IsTemporary(err) {
		t.Errorf("stream: %v", err)
	}
	if s.got.Durable() > s.wal() {
		t.Error("it moved")
	}
}

func TestCapture_ALostSlotIsNotTriedForEver(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}})
	s := newSource(t, cluster, "lost", "CREATE TABLE a (id int PRIMARY KEY)", "a")
	for range 6 {
		s.exec("INSERT INTO a SELECT coalesce(max(id), 0) + 1 FROM a; SELECT pg_switch_wal()")
		s.exec("CHECKPOINT")
	}
	st, err := cdc.Inspect(t.Context(), s.url, s.name, "Pub,lost")
	if err != nil {
		t.Fatal(err)
	}
	if st.Slot.Lost == "" || st.Slot.WALStatus != "lost" || st.Slot.ConfirmedFlush != s.start {
		t.Errorf("slot is %+v", st.Slot)
	}
	s.run()
	if err := s.end(); !errors.Is(err, cdc.ErrSlotLost) || cdc.IsTemporary(err) {
		t.Errorf("stream: %v", err)
	}
}

func TestCapture_ASlotWaitsForWritersAndNamesThem(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	url := relay.NewSecret(cluster.Database(t, "waits"))
	if err := cluster.Exec(t.Context(), "waits", "CREATE TABLE a (id int PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	conn, err := cluster.Conn(t.Context(), "waits")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "INSERT INTO a VALUES (1)"); err != nil {
			return err
		}
		_, err := cdc.CreateSlot(t.Context(), url, "waits", cdc.SlotOptions{LockTimeout: 300 * time.Millisecond})
		if !cdc.IsTemporary(err) || !strings.Contains(err.Error(), "pid ") || !strings.Contains(err.Error(), "idle in transaction") {
			t.Errorf("create slot: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err = cdc.CreateSlot(ctx, url, "waits", cdc.SlotOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("create slot and give up: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := cdc.Inspect(t.Context(), url, "waits", "")
	if err != nil {
		t.Fatal(err)
	}
	if st.Slot != nil {
		t.Errorf("a slot was left: %+v", st.Slot)
	}
}
