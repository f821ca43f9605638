package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// sequenceLSN is the commit LSN in an event's sequence.
func sequenceLSN(t *testing.T, sequence string) relay.LSN {
	t.Helper()
	hex := strings.Split(sequence, "-")[1]
	return lsnOf(t, hex[:8]+"/"+hex[8:])
}

// earlier is a shop whose server has been copied after row 1, and whose rows 2 and 3 came later. Both
// server and daemon are stopped.
func earlier(t *testing.T, name string) (s *shop, backup *postgres.Cluster, between relay.LSN) {
	t.Helper()
	cluster := postgres.New(t, postgres.Options{})
	s = newShop(t, cluster, name, shopOptions{})
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.d.Term()
	s.stopCluster(postgres.Fast)
	backup = clone(t, cluster)
	s.runCluster()
	s.d.StartReady()
	s.put(2)
	between = s.wal()
	s.put(3)
	s.expect(1, 2, 3)
	s.d.Term()
	s.stopCluster(postgres.Fast)
	return s, backup, between
}

// B6: the files of an earlier day are put back, on the same timeline: as a storage snapshot does.
func TestRestore_OfTheFilesOfAnEarlierDay(t *testing.T) {
	t.Parallel()
	s, backup, _ := earlier(t, "snapshot")
	if err := s.cluster.Restore(backup); err != nil {
		t.Fatal(err)
	}
	s.runCluster()
	at := s.checkpoint().LSN
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "the checkpoint "+at+" is beyond the end of the server's WAL", "restored from a backup", flagNow)
	s.d.Term()

	// The server has gone on, past our checkpoint: its WAL there is other WAL.
	s.put(4)
	s.exec("CREATE TABLE noise AS SELECT repeat('x', 1000) AS v FROM generate_series(1, 2000); DROP TABLE noise")
	if s.wal() <= lsnOf(t, at) {
		t.Fatal("the server's WAL ends before the checkpoint")
	}
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "is not the one that events were made of, up to "+at, "has no transaction that committed at", flagEarliest)
	s.d.Term()
	s.d.StartReady("--reset-checkpoint", "shop=earliest")
	s.put(5)
	// The slot's position may be as old as the one before row 1, which then comes again with its id.
	s.expect(1, 2, 3, 4, 5)
	if src := s.source(); src.Generation != 2 || src.Gaps != 1 {
		t.Errorf("source: %+v", src)
	}
	s.d.Term()
	s.d.StartReady() // and that is that
	s.put(6)
	s.expect(1, 2, 3, 4, 5, 6)
}

// B6: as before, and the checkpoint had moved on without transactions, past where the files were
// copied: the last event is in both histories.
func TestRestore_BehindACheckpointThatMovedByItself(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "byitself", shopOptions{})
	cluster.Database(t, "neighbour")
	busy := func() {
		if err := cluster.Exec(t.Context(), "neighbour", "CREATE TABLE noise AS SELECT repeat('x', 1000) AS v FROM generate_series(1, 20000); DROP TABLE noise"); err != nil {
			t.Fatal(err)
		}
	}
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	s.d.Term()
	s.stopCluster(postgres.Fast)
	backup := clone(t, cluster)
	s.runCluster()
	copied := s.wal()
	s.d.StartReady()
	busy()
	s.eventually(func() error {
		if at := s.checkpoint().LSN; lsnOf(t, at) <= copied+8<<20 {
			return fmt.Errorf("the checkpoint is %s", at)
		}
		return nil
	})
	s.d.Term()
	at := s.checkpoint().LSN
	s.stopCluster(postgres.Fast)
	if err := s.cluster.Restore(backup); err != nil {
		t.Fatal(err)
	}
	s.runCluster()
	s.put(2) // nothing of it was read, and it lies before the checkpoint
	busy()
	if s.wal() <= lsnOf(t, at) {
		t.Fatal("the server's WAL ends before the checkpoint")
	}
	for range 2 { // what was found out is found out again
		s.d.Start()
		contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "is not the one that events were made of, up to "+at, "which was not read", flagEarliest)
		s.d.Term()
	}
	s.d.StartReady("--reset-checkpoint", "shop=earliest")
	s.put(3)
	s.expect(1, 2, 3)
	if src := s.source(); src.Generation != 2 || src.Gaps != 1 {
		t.Errorf("source: %+v", src)
	}
}

// B6: a recovery to a point in time begins a new timeline.
func TestRestore_ToAPointInTime(t *testing.T) {
	t.Parallel()
	s, backup, between := earlier(t, "pitr")
	archive := filepath.Join(s.cluster.Dir, "archive")
	if out, err := exec.Command("cp", "-a", filepath.Join(s.cluster.Dir, "data", "pg_wal"), archive).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := s.cluster.Restore(backup); err != nil {
		t.Fatal(err)
	}
	if err := s.cluster.Set(map[string]string{
		"restore_command": "cp " + archive + "/%f %p", "recovery_target_lsn": between.String(), "recovery_target_action": "promote",
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.cluster.Signal("recovery.signal"); err != nil {
		t.Fatal(err)
	}
	s.runCluster()
	s.eventually(func() error {
		if s.ask("SELECT pg_is_in_recovery()::text") != "false" {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	if ids := s.ask("SELECT string_agg(id::text, ',' ORDER BY id) FROM items"); ids != "1,2" {
		t.Fatalf("the restored table has rows %s", ids)
	}
	s.put(4)
	s.d.Start()
	reason := s.untilSource(api.SourceStopped).Reason
	contains(t, "the reason", reason, "the server is on timeline 2, which left timeline 1 at ", s.checkpoint().LSN, "--reset-checkpoint shop=")
	_, parts, _ := strings.Cut(reason, "--reset-checkpoint ")
	s.d.Term()
	s.d.StartReady("--reset-checkpoint", strings.TrimSuffix(strings.TrimSpace(parts), "."))
	s.expect(1, 2, 3, 4)
	s.once()
}

// B6: a copy of the whole cluster has the same system identifier and the same slot. Only its address
// tells that it is not the production server.
func TestRestore_ACopiedClusterIsNotTakenForTheOriginal(t *testing.T) {
	t.Parallel()
	s, backup, _ := earlier(t, "twin")
	if err := backup.Restore(s.cluster); err != nil { // the present state
		t.Fatal(err)
	}
	if err := backup.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := s.source().Address
	s.moveTo(backup.URL("twin"))
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "the store was made for the server at "+at, "must not deliver by accident", "--accept-address shop")
	s.d.Term()
	s.cluster = backup
	s.reconnect()
	s.put(4)
	s.d.StartReady("--accept-address", "shop")
	s.expect(1, 2, 3, 4)
	s.unbroken()
	s.d.Term()

	// A copy of the database within the cluster has neither the slot nor the name.
	_ = s.conn.Close(t.Context())
	if err := backup.Exec(t.Context(), "postgres", "CREATE DATABASE twin2 TEMPLATE twin"); err != nil {
		t.Fatal(err)
	}
	s.moveTo(backup.URL("twin2"))
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "belongs to database twin, the source to twin2")
	s.d.Term()
}
