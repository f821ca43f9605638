package integration_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rowhook/rowhook/integration/harness"
)

// ownDisk runs a command with a file system of 96 MiB as the folder "data" of its working directory,
// which only the command and its children see. A plain user gets it by a user namespace.
func ownDisk() []string {
	flags := "-m"
	if os.Getuid() != 0 {
		flags = "-rm"
	}
	return []string{"unshare", flags, "sh", "-c", `mkdir -p data && mount -t tmpfs -o size=96m,mode=700 none data && exec "$@"`, "sh"}
}

// The disk under the store is full to the last byte, and then not any more.
func TestDisk_FullPausesAndRecovers(t *testing.T) {
	t.Parallel()
	wrap := ownDisk()
	try := exec.Command(wrap[0], append(wrap[1:], "true")...)
	try.Dir = t.TempDir()
	if out, err := try.CombinedOutput(); err != nil {
		t.Logf("no file system can be mounted here (%v: %s): a limit on the size of files stands in for a small disk", err, out)
		fullStore(t)
		return
	}
	b := newCrashBed(t, storeSchema, storeRules, harness.DaemonOptions{Wrap: wrap}, nil)
	b.daemon.StartReady()
	b.exec("SELECT fill(1, 10, 10)")
	b.receiver.WaitCount(10)
	disk := filepath.Join("/proc", fmt.Sprint(b.daemon.PID()), "root", b.daemon.DataDir)
	ballast := filepath.Join(disk, "ballast")
	fillDisk(t, ballast)
	const most = 40_000 // far more than fits now, and less than fits later
	rows := 10
	harness.Eventually(t, harness.Patience, func() error {
		if rows < most {
			b.exec(fmt.Sprintf(`INSERT INTO rows SELECT n, n %% 50, (SELECT string_agg(md5((64 * n + i)::text), '') FROM generate_series(1, 32) i)
				FROM generate_series(%d, %d) n`, rows+1, rows+2000))
			rows += 2000
		}
		if !strings.Contains(b.daemon.Log(), "store does not accept events, reading is paused") {
			return fmt.Errorf("%d rows fit on a full disk", rows)
		}
		return nil
	})
	end := b.written()
	harness.Eventually(t, harness.Patience, func() error {
		status, body, err := b.daemon.Get("/readyz")
		if err != nil || status != 503 || !strings.Contains(body, "the store does not accept events") {
			return fmt.Errorf("/readyz: %d %s %w", status, body, err)
		}
		return nil
	})
	if c := b.confirmed(); c >= end {
		t.Errorf("confirmed %s, and there is no room for what is at %s", c, end)
	}
	if got := b.receiver.Count(); got >= rows {
		t.Errorf("%d of %d rows were delivered, some of which cannot have been stored", got, rows)
	}
	sender := b.walsender()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	b.daemon.WaitLog("store accepts events again")
	b.receiver.WaitCount(rows)
	b.daemon.WaitReady()
	wantAllInOrder(t, b.receiver, rows)
	if got := b.walsender(); got != sender {
		t.Errorf("the server's process for us was %d and is %d", sender, got)
	}
}

// fillDisk writes a file until there is no room for a byte.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; ; {
		if _, err = f.Write(make([]byte, size)); err == nil {
			continue
		}
		if size == 1 || !errors.Is(err, syscall.ENOSPC) {
			break
		}
		size = max(1, size/64)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}
