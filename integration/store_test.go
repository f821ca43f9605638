package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/rowhook/rowhook/integration/harness"
)

const storeSchema = `
CREATE TABLE rows (n int PRIMARY KEY, k int NOT NULL, pad text NOT NULL);
CREATE FUNCTION fill(first int, last int, size int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO rows SELECT n, n % 50, repeat('x', size) FROM generate_series(first, last) AS n
$$;`

const storeRules = `
source "postgres" "shop" { url = env("DATABASE_URL") }
event "row.made" {
  table = "public.rows"
  on    = ["insert"]
  key   = row.k
  data  = { n = new.n, pad = new.pad }
}
sink "webhook" "receiver" {
  url    = "URL"
  events = ["**"]
  retry {
    initial = "10ms"
    max     = "100ms"
    max_attempts = 1000
  }
}
`

// throughPipe keeps the daemon's log out of the reach of its limits: what it says goes through cat.
var throughPipe = []string{"sh", "-c", `"$@" 2>&1 | cat`, "sh"}

// daemonPID is the process that has the data folder, which is not the one that wraps it.
func (b *crashBed) daemonPID() int {
	b.t.Helper()
	var pid int
	r := b.daemon.Command("status", "--json", "--data-dir", "DATA")
	for line := range strings.Lines(r.Stdout) {
		if _, err := fmt.Sscanf(strings.TrimSpace(line), `"pid": %d,`, &pid); err == nil {
			return pid
		}
	}
	b.t.Fatalf("status has no pid: %s%s", r.Stdout, r.Stderr)
	return 0
}

// killWrapped kills the daemon together with what wraps it, and waits until both are gone.
func (b *crashBed) killWrapped() {
	b.t.Helper()
	proc := fmt.Sprintf("/proc/%d", b.daemonPID())
	b.daemon.Kill9()
	harness.Eventually(b.t, harness.Patience, func() error {
		stat, err := os.ReadFile(proc + "/stat")
		_, state, _ := strings.Cut(string(stat), ") ")
		threads, _ := os.ReadDir(proc + "/task")
		if err == nil && (!strings.HasPrefix(state, "Z") || len(threads) > 1) {
			return fmt.Errorf("the daemon is still there, with %d threads: %s", len(threads), stat)
		}
		return nil
	})
}

// limitFiles lets the process make no file longer than so many bytes; 0 is no limit. The kernel
// answers a write beyond it with EFBIG and, where nobody ignores it, a deadly SIGXFSZ.
func limitFiles(t *testing.T, pid int, bytes uint64) {
	t.Helper()
	limit := syscall.Rlimit{Cur: bytes, Max: ^uint64(0)}
	if bytes == 0 {
		limit.Cur = limit.Max
	}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), syscall.RLIMIT_FSIZE, uintptr(unsafe.Pointer(&limit)), 0, 0, 0); errno != 0 {
		t.Fatalf("prlimit: %v", errno)
	}
}

// wantAllInOrder fails unless the events of rows 1 to n have come, each accepted once and in order
// per key.
func wantAllInOrder(t *testing.T, r *harness.Receiver, n int) {
	t.Helper()
	last := map[string]int{}
	seen := map[int]bool{}
	for _, q := range r.Requests() {
		var row int
		if _, err := fmt.Sscanf(string(q.Data), `{"n":%d`, &row); err != nil {
			t.Fatalf("%s: %v", q.Data, err)
		}
		if !q.Accepted() {
			continue
		}
		if seen[row] {
			t.Errorf("row %d came twice", row)
		}
		if row <= last[q.Key] {
			t.Errorf("row %d came after %d of the same key", row, last[q.Key])
		}
		seen[row] = true
		last[q.Key] = row
	}
	if len(seen) != n {
		t.Errorf("%d of %d rows came", len(seen), n)
	}
}

func (b *crashBed) walsender() (pid int) {
	b.t.Helper()
	if err := b.db.QueryRow(b.t.Context(), "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = 'rowhook_shop'").Scan(&pid); err != nil {
		b.t.Fatal(err)
	}
	return pid
}

// The store has no more room. The daemon says so, reads and sends no more, confirms nothing, keeps
// its connection alive past the server's patience, and goes on by itself when there is room again.
func TestStore_FullStorePausesAndRecovers(t *testing.T) { fullStore(t) }

func fullStore(t *testing.T) {
	const patience = 2 * time.Second // of the server
	b := newCrashBed(t, storeSchema, storeRules, harness.DaemonOptions{Wrap: throughPipe}, map[string]string{"wal_sender_timeout": "2s"})
	b.daemon.StartReady()
	b.exec("SELECT fill(1, 10, 10)")
	b.receiver.WaitCount(10)
	pid, sender := b.daemonPID(), b.walsender()
	limitFiles(t, pid, 512<<10)
	rows := 10
	for range 30 {
		b.exec(fmt.Sprintf("SELECT fill(%d, %d, 1000)", rows+1, rows+100))
		rows += 100
	}
	end := b.written()
	b.daemon.WaitLog("store does not accept events, reading is paused")
	harness.Eventually(t, harness.Patience, func() error {
		if status, body, err := b.daemon.Get("/readyz"); err != nil || status != 503 || !strings.Contains(body, "shop") {
			return fmt.Errorf("/readyz: %d %s %w", status, body, err)
		}
		return nil
	})
	stuck, _ := b.checkpoint()
	if stuck >= end {
		t.Fatalf("everything up to %s is stored, and there was no room for it", end)
	}
	sent := b.receiver.Count()
	for until := time.Now().Add(3 * patience); time.Now().Before(until); {
		if got := b.walsender(); got != sender {
			t.Fatalf("the server's process for us was %d and is %d", sender, got)
		}
		p, _ := b.checkpoint()
		if c := b.confirmed(); c > p || p >= end {
			t.Fatalf("confirmed %s, stored %s, all is %s", c, p, end)
		}
		wait(t.Context(), 100*time.Millisecond)
	}
	if got := b.receiver.Count(); got > sent+mostRepeated || got >= rows {
		t.Errorf("%d deliveries while their outcomes could not be stored", got-sent)
	}
	limitFiles(t, pid, 0)
	b.daemon.WaitLog("store accepts events again")
	b.receiver.WaitCount(rows)
	b.daemon.WaitReady()
	wantAllInOrder(t, b.receiver, rows)
	if got := b.walsender(); got != sender {
		t.Errorf("the server's process for us was %d and is %d", sender, got)
	}
	harness.Eventually(t, harness.Patience, func() error {
		if c := b.confirmed(); c <= stuck {
			return fmt.Errorf("confirmed %s, and was %s while the store was full", c, stuck)
		}
		return nil
	})
}

// Outcomes that cannot be stored would all be repeated after a crash. So sending stops at 1,000 of
// them, and goes on when there is room; and after a crash just then no more than these come again.
func TestStore_SendingStopsWhenOutcomesCannotBeStored(t *testing.T) {
	const rows = 4000
	b := newCrashBed(t, storeSchema, storeRules, harness.DaemonOptions{Wrap: throughPipe}, nil)
	backlog := func(first, last int) {
		t.Helper()
		b.receiver.Down()
		before := b.written()
		b.exec(fmt.Sprintf("SELECT fill(%d, %d, 10)", first, last))
		harness.Eventually(t, harness.Patience, func() error {
			if p, _ := b.checkpoint(); p <= before {
				return fmt.Errorf("stored up to %s, want more than %s", p, before)
			}
			return nil
		})
	}
	stops := func() (sent int) {
		t.Helper()
		limitFiles(t, b.daemonPID(), 1) // nothing at all can be written
		before := b.receiver.Count()
		said := strings.Count(b.daemon.Log(), "outcomes cannot be recorded, sending is paused")
		b.receiver.Up()
		harness.Eventually(t, harness.Patience, func() error {
			if n := strings.Count(b.daemon.Log(), "outcomes cannot be recorded, sending is paused"); n < said+3 {
				return fmt.Errorf("it was said %d times", n-said)
			}
			return nil
		})
		// Until no request comes any more.
		for still := 0; still < 20; still++ {
			n := len(b.receiver.Requests())
			wait(t.Context(), 50*time.Millisecond)
			if len(b.receiver.Requests()) != n {
				still = 0
			}
		}
		sent = b.receiver.Count() - before
		if sent == 0 || sent > mostRepeated {
			t.Errorf("%d deliveries were made while their outcomes could not be stored, want up to %d", sent, mostRepeated)
		}
		return sent
	}
	b.daemon.StartReady()
	backlog(1, rows)
	stops()
	limitFiles(t, b.daemonPID(), 0)
	b.daemon.WaitLog("outcomes are recorded again")
	b.receiver.WaitCount(rows)
	wantAllInOrder(t, b.receiver, rows)

	backlog(rows+1, 2*rows)
	sent := stops()
	b.killWrapped()
	requests := len(b.receiver.Requests())
	b.daemon.StartReady()
	b.receiver.WaitCount(2 * rows)
	again := 0
	old := map[string]bool{}
	for i, q := range b.receiver.Requests() {
		if i < requests {
			old[q.ID] = true
		} else if old[q.ID] {
			again++
		}
	}
	if again < sent || again > mostRepeated {
		t.Errorf("%d deliveries were made again, %d were made while nothing could be stored", again, sent)
	}
	t.Logf("%d deliveries made while nothing could be stored, %d made again after the crash", sent, again)
}

// A call of the system fails, at one step of the store's work after the other. Each time the store
// is opened anew and the work goes on by itself, and nothing is lost, repeated or out of order.
func TestStore_FailedCallsAtEachStep(t *testing.T) {
	for name, c := range map[string]struct {
		call, file, fault string
		when              string // strace counts the calls of each thread; the first ones serve to start
	}{
		"no space for the log of the store": {"pwrite64", "rowhook.db-wal", "ENOSPC", "240..242"},
		"a broken disk under the log":       {"pwrite64", "rowhook.db-wal", "EIO", "240..242"},
		"fsync fails":                       {"fsync", "rowhook.db-wal", "EIO", "25..27"},
	} {
		t.Run(name, func(t *testing.T) {
			strace := fmt.Sprintf(`exec strace -f -qq -o "$PWD/trace" -P "$PWD/data/%s" -e trace=%s -e inject=%s:error=%s:when=%s "$@"`,
				c.file, c.call, c.call, c.fault, c.when)
			b := newCrashBed(t, storeSchema, storeRules, harness.DaemonOptions{Wrap: []string{"sh", "-c", strace, "sh"}}, nil)
			b.daemon.StartReady()
			rows := 0
			failed := func() int {
				trace, err := os.ReadFile(filepath.Join(b.daemon.Dir, "trace"))
				if err != nil {
					t.Fatal(err)
				}
				return strings.Count(string(trace), "(INJECTED)")
			}
			for failed() < 3 && rows < 5000 {
				for range 20 {
					rows++
					b.exec(fmt.Sprintf("SELECT fill(%d, %d, 100)", rows, rows))
				}
				b.receiver.WaitCount(rows) // so that outcomes are stored in between
			}
			if n := failed(); n < 3 {
				t.Fatalf("%d calls failed in %d transactions", n, rows)
			}
			wantAllInOrder(t, b.receiver, rows)
			log := b.daemon.Log()
			if !strings.Contains(log, "store does not accept events") && !strings.Contains(log, "outcomes cannot be recorded") {
				t.Error("the log does not tell of it")
			}
			b.daemon.WaitReady()
			b.killWrapped()
			events, state := b.log()
			if len(events) != rows || state.Tail != state.Head {
				t.Errorf("the log holds %d events of %d, head %d, tail %d", len(events), rows, state.Head, state.Tail)
			}
		})
	}
}
