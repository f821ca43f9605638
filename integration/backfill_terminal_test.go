package integration_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/harness"
)

// bar is what a terminal of 80 columns shows in one line.
var bar = regexp.MustCompile(`^\[(#*)(\.*)\] +(\d+)%  (\d+) of about (\d+) rows(, .*)?$`)

// TestBackfill_Terminal looks at what people see: a bar in one line, whatever the
// width, what it waits for, and what is left of it at the end.
func TestBackfill_Terminal(t *testing.T) {
	t.Parallel()
	w := newBackfillWorld(t, 2000, "", nil)
	w.daemon.StartReady()
	look := w.daemon.Terminal(80, "backfill", "item", "--data-dir", "DATA", "--rate", "400")
	look.Wait("a bar that has begun", func(lines []string) bool {
		m := bar.FindStringSubmatch(lines[len(lines)-1])
		return m != nil && len(m[1]) > 0 && len(m[1]+m[2]) == 20 && m[5] == "2000" && strings.HasSuffix(m[6], " rows/s")
	})
	if lines := look.Screen(); strings.Contains(strings.Join(lines[:len(lines)-1], ""), "rows") {
		t.Errorf("the bar takes more than a line:\n%s", strings.Join(lines, "\n"))
	}

	// The next snapshot waits for this.
	blocker := w.conn()
	if _, err := blocker.Exec(t.Context(), "BEGIN; CREATE TABLE blocker (id int)"); err != nil {
		t.Fatal(err)
	}
	says := fmt.Sprintf("these are open: pid %d (shop", blocker.PgConn().PID())
	look.Wait("what it waits for above the bar", func(lines []string) bool {
		text := strings.Join(lines[:len(lines)-1], "")
		return strings.Contains(text, "backfill 1 is running: its snapshot waits for every transaction that has written") &&
			strings.Count(text, says) == 1 && bar.MatchString(lines[len(lines)-1]) && strings.HasSuffix(lines[len(lines)-1], ", waits")
	})
	w.maker(3)
	if log := w.daemon.Log(); strings.Contains(log, "backfill is interrupted") {
		t.Error("the backfill does not wait, but tries again")
	}
	status := w.daemon.Command("status", "--data-dir", "DATA").Stdout
	if !strings.Contains(status, "shop has backfill 1 of item under way: running, ") || !strings.Contains(status, says) {
		t.Errorf("status says:\n%s", status)
	}
	for name, ok := range map[string]func(n float64) bool{
		"rowhook_backfill_rows":           func(n float64) bool { return n > 0 && n < 2000 },
		"rowhook_backfill_rows_estimated": func(n float64) bool { return n == 2000 },
		"rowhook_backfill_waiting":        func(n float64) bool { return n == 1 },
	} {
		if n, err := w.daemon.Metric(name, `rule="item"`, `source="shop"`); err != nil || !ok(n) {
			t.Errorf("%s is %v, %v", name, n, err)
		}
	}

	// Interrupted, the command leaves it alone.
	look.Type("\x03")
	if code := look.End(); code == 0 {
		t.Error("interrupted, it ended well")
	}
	if text := strings.Join(look.Screen(), ""); strings.Contains(text, "[#") || !strings.Contains(text, "backfill 1 goes on; see 'rowhook backfill show 1'") {
		t.Errorf("interrupted, the terminal shows:\n%s", strings.Join(look.Screen(), "\n"))
	}
	narrow := w.daemon.Terminal(38, "backfill", "show", "1", "--wait", "--data-dir", "DATA")
	narrow.Wait("a short bar", func(lines []string) bool {
		return regexp.MustCompile(`^\d+ of about 2000 rows, waits$`).MatchString(lines[len(lines)-1])
	})
	if err := blocker.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := narrow.End(); code != 0 {
		t.Errorf("at the end of the backfill: exit code %d", code)
	}
	lines := narrow.Screen()
	if text := strings.Join(lines, ""); !strings.HasSuffix(text, "backfill 1 of item: done, 2000 rows, 2000 events") || strings.Contains(text, "[#") {
		t.Errorf("at the end the terminal shows:\n%s", strings.Join(lines, "\n"))
	}
	if n, err := w.daemon.Metric("rowhook_backfill_rows", `rule="item"`, `source="shop"`); err == nil {
		t.Errorf("after the end rowhook_backfill_rows is %v", n)
	}
}

// maker waits until the session that makes a slot has waited for so many seconds,
// by the clock of the server.
func (w *backfillWorld) maker(seconds int) {
	w.t.Helper()
	conn := w.conn()
	harness.Eventually(w.t, harness.Patience, func() error {
		var waits bool
		err := conn.QueryRow(w.t.Context(), `SELECT coalesce(max(clock_timestamp() - query_start) > make_interval(secs => $1), false)
			FROM pg_stat_activity WHERE query LIKE 'CREATE_REPLICATION_SLOT%' AND state = 'active' AND wait_event_type = 'Lock'`, float64(seconds)).Scan(&waits)
		if err == nil && !waits {
			err = fmt.Errorf("nobody has waited for %d seconds with the making of a slot", seconds)
		}
		return err
	})
}

// TestBackfill_FirstStartSaysWhatItsSlotWaitsFor begins a source, with the rows
// there are, while a transaction is open.
func TestBackfill_FirstStartSaysWhatItsSlotWaitsFor(t *testing.T) {
	t.Parallel()
	w := newBackfillWorld(t, 50, `  backfill = ["item"]`, nil)
	blocker := w.conn()
	if _, err := blocker.Exec(t.Context(), "BEGIN; UPDATE items SET v = 'later' WHERE id = 7"); err != nil {
		t.Fatal(err)
	}
	says := fmt.Sprintf("its slot waits for every transaction that has written, of any database of the cluster, to end; these are open: pid %d (shop", blocker.PgConn().PID())
	w.daemon.Start()
	w.daemon.WaitLog("the slot waits for long transactions")
	status := w.daemon.Command("status", "--data-dir", "DATA").Stdout
	if !strings.Contains(status, "shop is starting: "+says) {
		t.Errorf("status says:\n%s", status)
	}
	if b := w.until(1, "waiting", func(b backfill) bool { return b.State == "waiting" }); !strings.Contains(b.Reason, says) {
		t.Errorf("the backfill says %s", b.Reason)
	}
	if _, err := blocker.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	w.done(1)
	w.equal()
	if n := len(w.changes()); n != 50 {
		t.Errorf("%d events of 50 rows came", n)
	}
}
