package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// The story of every cell, by the ids of its rows:
//
//	1, 2    delivered
//	        the backup of an older store
//	3       delivered; then rowhook stops at the checkpoint P
//	4       committed while nothing runs
//	        somebody advances the slot to here (ahead)
//	5       committed while nothing runs
//	        MIDDLE
//	6       committed while nothing runs
//	7       committed after the start with the flag
//	8       committed after the next start, with the flag still in place
//
// BACK lies between 1 and 2.
type resetCell struct {
	slot, store, reset string
	// refused holds words of the refusal; then nothing else counts.
	refused []string
	// got are the rows delivered after the flag, 7 and 8 apart.
	got []int
	// generation after the start; 0 is 1.
	generation uint32
	// gapFrom and gapTo name positions: "" is no gap, "?" an unknown one.
	gapFrom, gapTo string
	// note is what the log says of it.
	note string
}

const (
	flagNow      = "--reset-checkpoint shop=now"
	flagEarliest = "--reset-checkpoint shop=earliest"
)

// What a start says without a flag. A combination that is not here starts.
var withoutFlag = map[string][]string{
	"fine/missing":  {"this store did not make it", flagEarliest, flagNow},
	"fine/older":    {"the store is an older copy", "cannot be read any more", flagEarliest},
	"missing/fine":  {"does not exist any more", "bytes of WAL", flagNow},
	"missing/older": {"does not exist any more", "bytes of WAL", flagNow},
	"lost/fine":     {"is lost (", "bytes of WAL", flagNow},
	"lost/missing":  {"is lost (", flagNow},
	"lost/older":    {"is lost (", "bytes of WAL", flagNow},
	"ahead/fine":    {"was moved to", "by somebody else", "bytes of WAL", flagEarliest},
	"ahead/missing": {"this store did not make it", flagEarliest, flagNow},
	"ahead/older":   {"was moved to", "by somebody else", "bytes of WAL", flagEarliest},
}

var (
	cannotGoBack = []string{"the server cannot go back before it", flagEarliest}
	noSlot       = []string{"does not exist, so that nothing before now can be read", flagNow}
	lostSlot     = []string{"is lost (", "so that nothing before now can be read", flagNow}
)

var resetCells = []resetCell{
	{slot: "fine", store: "fine", reset: "now", generation: 2, gapFrom: "P", gapTo: "NOW"},
	{slot: "fine", store: "fine", reset: "earliest", got: []int{1, 2, 3, 4, 5, 6}, note: "are delivered again"},
	{slot: "fine", store: "fine", reset: "MIDDLE", got: []int{6}, generation: 2, gapFrom: "P", gapTo: "MIDDLE"},
	{slot: "fine", store: "fine", reset: "BACK", got: []int{2, 3, 4, 5, 6}, note: "are delivered again"},
	{slot: "fine", store: "fine", reset: "BEYOND", refused: []string{"is beyond the end of the server's WAL"}},
	{slot: "fine", store: "fine", reset: "P..MIDDLE", got: []int{6}, generation: 2, gapFrom: "P", gapTo: "MIDDLE"},
	{slot: "fine", store: "fine", reset: "BACK..MIDDLE", refused: []string{"not BACK as the reset expects", "rowhook checkpoint show"}},

	{slot: "fine", store: "missing", reset: "now", gapFrom: "CF", gapTo: "NOW"},
	{slot: "fine", store: "missing", reset: "earliest", got: []int{4, 5, 6}, gapFrom: "?", gapTo: "CF"},
	{slot: "fine", store: "missing", reset: "MIDDLE", got: []int{6}, gapFrom: "CF", gapTo: "MIDDLE"},
	{slot: "fine", store: "missing", reset: "BACK", refused: cannotGoBack},

	{slot: "fine", store: "older", reset: "now", generation: 2, gapFrom: "P", gapTo: "NOW"},
	{slot: "fine", store: "older", reset: "earliest", got: []int{4, 5, 6}, generation: 2, gapFrom: "P", gapTo: "CF"},
	{slot: "fine", store: "older", reset: "MIDDLE", got: []int{6}, generation: 2, gapFrom: "P", gapTo: "MIDDLE"},
	{slot: "fine", store: "older", reset: "BACK", refused: cannotGoBack},

	{slot: "missing", store: "fine", reset: "now", generation: 2, gapFrom: "P", gapTo: "?"},
	{slot: "missing", store: "fine", reset: "earliest", refused: noSlot},
	{slot: "missing", store: "fine", reset: "MIDDLE", refused: noSlot},
	{slot: "missing", store: "fine", reset: "BACK", refused: noSlot},

	// There is nothing to reset: it is a first start.
	{slot: "missing", store: "missing", reset: "now"},
	{slot: "missing", store: "missing", reset: "earliest"},
	{slot: "missing", store: "missing", reset: "MIDDLE"},
	{slot: "missing", store: "missing", reset: "BACK"},

	{slot: "missing", store: "older", reset: "now", generation: 2, gapFrom: "P", gapTo: "?"},
	{slot: "missing", store: "older", reset: "earliest", refused: noSlot},
	{slot: "missing", store: "older", reset: "MIDDLE", refused: noSlot},
	{slot: "missing", store: "older", reset: "BACK", refused: noSlot},

	{slot: "lost", store: "fine", reset: "now", generation: 2, gapFrom: "P", gapTo: "?"},
	{slot: "lost", store: "fine", reset: "earliest", refused: lostSlot},
	{slot: "lost", store: "fine", reset: "MIDDLE", refused: lostSlot},
	{slot: "lost", store: "fine", reset: "BACK", refused: lostSlot},

	{slot: "lost", store: "missing", reset: "now", gapFrom: "?", gapTo: "?"},
	{slot: "lost", store: "missing", reset: "earliest", refused: lostSlot},
	{slot: "lost", store: "missing", reset: "MIDDLE", refused: lostSlot},
	{slot: "lost", store: "missing", reset: "BACK", refused: lostSlot},

	{slot: "lost", store: "older", reset: "now", generation: 2, gapFrom: "P", gapTo: "?"},
	{slot: "lost", store: "older", reset: "earliest", refused: lostSlot},
	{slot: "lost", store: "older", reset: "MIDDLE", refused: lostSlot},
	{slot: "lost", store: "older", reset: "BACK", refused: lostSlot},

	{slot: "ahead", store: "fine", reset: "now", generation: 2, gapFrom: "P", gapTo: "NOW"},
	{slot: "ahead", store: "fine", reset: "earliest", got: []int{5, 6}, generation: 2, gapFrom: "P", gapTo: "CF"},
	{slot: "ahead", store: "fine", reset: "MIDDLE", got: []int{6}, generation: 2, gapFrom: "P", gapTo: "MIDDLE"},
	{slot: "ahead", store: "fine", reset: "BACK", refused: cannotGoBack},

	{slot: "ahead", store: "missing", reset: "now", gapFrom: "CF", gapTo: "NOW"},
	{slot: "ahead", store: "missing", reset: "earliest", got: []int{5, 6}, gapFrom: "?", gapTo: "CF"},
	{slot: "ahead", store: "missing", reset: "MIDDLE", got: []int{6}, gapFrom: "CF", gapTo: "MIDDLE"},
	{slot: "ahead", store: "missing", reset: "BACK", refused: cannotGoBack},

	{slot: "ahead", store: "older", reset: "now", generation: 2, gapFrom: "P", gapTo: "NOW"},
	{slot: "ahead", store: "older", reset: "earliest", got: []int{5, 6}, generation: 2, gapFrom: "P", gapTo: "CF"},
	{slot: "ahead", store: "older", reset: "MIDDLE", got: []int{6}, generation: 2, gapFrom: "P", gapTo: "MIDDLE"},
	{slot: "ahead", store: "older", reset: "BACK", refused: cannotGoBack},
}

func (c *resetCell) name() string {
	return fmt.Sprintf("slot %s, store %s, reset %s", c.slot, c.store, c.reset)
}

func TestReset_EveryCellOfSlotStoreAndReset(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"max_replication_slots": "100", "max_wal_senders": "50"}})
	seen := map[string]bool{}
	for i := range resetCells {
		c := &resetCells[i]
		seen[c.slot+"/"+c.store+"/"+c.reset] = true
		if c.slot == "lost" {
			continue
		}
		t.Run(c.name(), func(t *testing.T) {
			t.Parallel()
			r := prepareReset(t, cluster, fmt.Sprintf("cell%d", i), c)
			r.judge()
		})
	}
	for _, slot := range []string{"fine", "missing", "lost", "ahead"} {
		for _, store := range []string{"fine", "missing", "older"} {
			for _, reset := range []string{"now", "earliest", "MIDDLE", "BACK"} {
				if !seen[slot+"/"+store+"/"+reset] {
					t.Errorf("there is no cell for slot %s, store %s, reset %s", slot, store, reset)
				}
			}
		}
	}
}

// TestReset_EveryCellOfALostSlot has a cluster of its own, because the server loses all slots that
// are too far behind at once: the cells are prepared, then the WAL goes, then they are judged.
func TestReset_EveryCellOfALostSlot(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"max_replication_slots": "100"}})
	t.Run("cells", func(t *testing.T) {
		for i := range resetCells {
			c := &resetCells[i]
			if c.slot != "lost" {
				continue
			}
			t.Run(c.name(), func(t *testing.T) {
				r := prepareReset(t, cluster, fmt.Sprintf("lost%d", i), c)
				t.Parallel() // goes on when the slots are lost
				r.judge()
			})
		}
		if err := cluster.Exec(t.Context(), "postgres", `ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'`); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Exec(t.Context(), "postgres", `SELECT pg_reload_conf()`); err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{
			"CREATE TABLE filler (v text)",
			"INSERT INTO filler VALUES ('x')", "SELECT pg_switch_wal()", "INSERT INTO filler VALUES ('x')", "SELECT pg_switch_wal()",
			"INSERT INTO filler VALUES ('x')", "SELECT pg_switch_wal()", "CHECKPOINT",
		} {
			if err := cluster.Exec(t.Context(), "postgres", sql); err != nil {
				t.Fatal(err)
			}
		}
		harness.Eventually(t, harness.Patience, func() error {
			return cluster.Exec(t.Context(), "postgres", `DO $$ BEGIN
				IF EXISTS (SELECT FROM pg_replication_slots WHERE wal_status <> 'lost') THEN RAISE 'a slot is not lost'; END IF; END $$`)
		})
	})
}

// resetRun is a cell under way.
type resetRun struct {
	*shop
	c  *resetCell
	at map[string]relay.LSN
}

// prepareReset tells the story of a cell up to the start with the flag.
func prepareReset(t *testing.T, cluster *postgres.Cluster, name string, c *resetCell) *resetRun {
	s := newShop(t, cluster, name, shopOptions{})
	r := &resetRun{shop: s, c: c, at: map[string]relay.LSN{}}
	s.d.StartReady()
	s.put(1)
	r.at["BACK"] = s.wal()
	s.put(2)
	s.expect(1, 2)
	backup := filepath.Join(s.d.Dir, "backup.db")
	if c.store == "older" {
		s.recorded("hook", 2) // or they would come again, as after a crash
		s.must("backup", backup)
	}
	s.put(3)
	s.expect(1, 2, 3)
	if code := s.d.Term(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	switch c.store {
	case "missing":
		r.removeStore()
	case "older":
		r.removeStore()
		r.restore(backup)
	}
	if c.store != "missing" {
		r.at["P"] = lsnOf(t, s.checkpoint().LSN)
	}
	s.put(4)
	switch c.slot {
	case "missing":
		s.exec("SELECT pg_drop_replication_slot('rowhook_" + name + "')")
	case "ahead":
		s.exec("SELECT pg_replication_slot_advance('rowhook_" + name + "', pg_current_wal_flush_lsn())")
	}
	if c.slot == "fine" || c.slot == "ahead" {
		r.at["CF"] = s.confirmed()
	}
	s.put(5)
	r.at["MIDDLE"] = s.wal()
	s.put(6)
	r.at["BEYOND"] = r.at["MIDDLE"] + 1<<40
	s.hook.Forget()
	return r
}

func (r *resetRun) removeStore() {
	r.t.Helper()
	if err := os.RemoveAll(r.d.DataDir); err != nil {
		r.t.Fatal(err)
	}
}

// restore puts a backup where the store was.
func (s *shop) restore(backup string) {
	s.t.Helper()
	if err := os.MkdirAll(s.d.DataDir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	data, err := os.ReadFile(backup)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.d.DataDir, "rowhook.db"), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// places puts LSNs for the names of positions in a text.
func (r *resetRun) places(text string) string {
	for _, name := range []string{"MIDDLE", "BACK", "BEYOND", "P.."} {
		lsn := r.at[strings.TrimSuffix(name, "..")].String()
		if name == "P.." {
			lsn += ".."
		}
		text = strings.ReplaceAll(text, name, lsn)
	}
	return text
}

// judge starts without the flag, where that is refused, then with it, and once more.
func (r *resetRun) judge() {
	t, s, c := r.t, r.shop, r.c
	t.Helper()
	flag := "shop=" + r.places(c.reset)
	if words := withoutFlag[c.slot+"/"+c.store]; words != nil {
		r.refused(words)
	}
	if c.refused != nil {
		r.refused(c.refused, "--reset-checkpoint", flag)
		if len(s.hook.Requests()) > 0 {
			t.Errorf("a refused start delivered %v", idsAt(s.hook))
		}
		return
	}
	before := s.wal()
	s.d.StartReady("--reset-checkpoint", flag)
	src := s.source()
	r.history(&src, before)
	if c.note != "" {
		contains(t, "the log", s.d.Log(), c.note)
	}
	s.put(7)
	s.expect(append([]int{7}, c.got...)...)
	if code := s.d.Term(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	applied := strings.Count(s.d.Log(), "checkpoint reset applied")
	s.d.StartReady("--reset-checkpoint", flag)
	contains(t, "the log", s.d.Log(), "already applied")
	if n := strings.Count(s.d.Log(), "checkpoint reset applied"); n != applied || n != 1 {
		t.Errorf("the reset was applied %d times", n)
	}
	s.put(8)
	s.expect(append([]int{7, 8}, c.got...)...)
	if again := s.source(); again.Generation != src.Generation || again.Gaps != src.Gaps {
		t.Errorf("the flag left in place made generation %d with %d gaps of generation %d with %d", again.Generation, again.Gaps, src.Generation, src.Gaps)
	}
}

// refused starts the daemon and sees the source stop with a reason, on every face of it.
func (r *resetRun) refused(words []string, args ...string) {
	t, s := r.t, r.shop
	t.Helper()
	s.d.Start(args...)
	src := s.untilSource(api.SourceStopped)
	for _, w := range words {
		contains(t, "the status", src.Reason, r.places(w))
		contains(t, "the log", s.d.Log(), r.places(w))
	}
	status, body, err := s.d.Get("/readyz")
	if err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d %v", status, err)
	}
	contains(t, "/readyz", body, "source shop is stopped")
	if res := s.command("status"); res.Code != 3 {
		t.Errorf("status ends with %d", res.Code)
	}
	if code := s.d.Term(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	s.d.Start(append(args, "--exit-on-source-stop")...)
	if code := s.d.Wait(harness.Patience); code != 1 {
		t.Errorf("--exit-on-source-stop ends with %d", code)
	}
}

// history checks generation and gap, in status, metrics and checkpoint show.
func (r *resetRun) history(src *api.SourceStatus, before relay.LSN) {
	t, s, c := r.t, r.shop, r.c
	t.Helper()
	if want := max(c.generation, 1); src.Generation != want {
		t.Errorf("generation %d, want %d", src.Generation, want)
	}
	gaps := int64(0)
	if c.gapFrom != "" {
		gaps = 1
	}
	if n, err := s.d.Metric("rowhook_source_gaps_total", `source="shop"`); err != nil || int64(n) != gaps || src.Gaps != gaps {
		t.Errorf("gaps: %d in the status, %v in the metrics (%v), want %d", src.Gaps, n, err, gaps)
	}
	cp := s.checkpoint()
	if int64(len(cp.Gaps)) != gaps || cp.Generation != src.Generation {
		t.Errorf("checkpoint show has generation %d and gaps %+v, want %d", cp.Generation, cp.Gaps, gaps)
	}
	if gaps == 0 || len(cp.Gaps) == 0 || src.LastGap == nil {
		return
	}
	g := cp.Gaps[0]
	if *src.LastGap != g || g.Generation != src.Generation {
		t.Errorf("gap %+v in checkpoint show, %+v in the status", g, src.LastGap)
	}
	for _, end := range []struct{ what, got, want string }{{"from", g.From, c.gapFrom}, {"to", g.To, c.gapTo}} {
		switch end.want {
		case "?":
			if end.got != "" {
				t.Errorf("the gap is %s %s, which nobody can know", end.what, end.got)
			}
		case "NOW":
			if end.got == "" || lsnOf(t, end.got) < before {
				t.Errorf("the gap goes to %s, and the WAL was at %s before", end.got, before)
			}
		default:
			if end.got != r.at[end.want].String() {
				t.Errorf("the gap is %s %s, want %s, %s", end.what, end.got, end.want, r.at[end.want])
			}
		}
	}
}

// A person resets a daemon that runs, and one that does not.
func TestReset_ByCommand(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})

	t.Run("running: forward, backward, compare-and-set", func(t *testing.T) {
		t.Parallel()
		s := newShop(t, cluster, "running", shopOptions{})
		s.d.StartReady()
		s.put(1)
		back := s.wal()
		s.put(2, 3)
		s.expect(1, 2, 3)
		s.hook.Forget()

		res := readJSON[api.ResetResponse](s, "checkpoint", "reset", "shop", back.String())
		if res.Replayed == 0 || res.Generation != 1 || !strings.Contains(res.Note, "delivered again") {
			t.Errorf("backward: %+v", res)
		}
		s.expect(2, 3)
		for _, q := range s.hook.Requests() {
			if q.Header.Get("rowhook-replay") == "" {
				t.Errorf("a replayed delivery of %d is not marked", rowID(q))
			}
		}
		s.hook.Forget()

		bad := s.command("checkpoint", "reset", "shop", back.String()+"..now")
		if bad.Code != 1 || !strings.Contains(bad.Stderr, "not "+back.String()+" as the reset expects") {
			t.Errorf("with another checkpoint in force: exit code %d, %s", bad.Code, bad.Stderr)
		}
		s.untilSource(api.SourceStreaming) // it goes on as if nothing had been asked
		if bad := s.command("checkpoint", "reset", "shop", "FFFFFF/0"); bad.Code != 1 || !strings.Contains(bad.Stderr, "beyond the end of the server's WAL") {
			t.Errorf("beyond the WAL: exit code %d, %s", bad.Code, bad.Stderr)
		}
		res = readJSON[api.ResetResponse](s, "checkpoint", "reset", "shop", s.checkpoint().LSN+"..now")
		if res.Generation != 2 || res.From == "" || lsnOf(t, res.To) < lsnOf(t, res.From) {
			t.Errorf("forward: %+v", res)
		}
		s.untilSource(api.SourceStreaming)
		s.put(4)
		s.expect(4)
		if cp := s.checkpoint(); cp.Generation != 2 || len(cp.Gaps) != 1 || cp.Gaps[0].From != res.From || cp.Gaps[0].To != res.To {
			t.Errorf("after the reset: %+v, want a gap from %s to %s", cp, res.From, res.To)
		}
		contains(t, "checkpoint show", s.must("checkpoint", "show"), "before generation 2", "reset to now")
		if bad := s.command("checkpoint", "reset", "shoop", "now"); bad.Code != 1 || !strings.Contains(bad.Stderr, "shoop") {
			t.Errorf("of an unknown source: exit code %d, %s", bad.Code, bad.Stderr)
		}
		if bad := s.command("checkpoint", "reset", "shop", "later"); bad.Code != 2 {
			t.Errorf("to no position: exit code %d, %s", bad.Code, bad.Stderr)
		}
	})

	t.Run("stopped: applied at the next start, once", func(t *testing.T) {
		t.Parallel()
		s := newShop(t, cluster, "stopped", shopOptions{})
		s.d.StartReady()
		s.put(1)
		back := s.wal()
		s.put(2)
		s.expect(1, 2)
		s.d.Term()
		s.hook.Forget()
		p := s.checkpoint()
		if p.Phase != "streaming" || p.Slot != "rowhook_stopped" || p.Database != "stopped" || p.Generation != 1 {
			t.Errorf("checkpoint of a stopped daemon: %+v", p)
		}
		if bad := s.command("checkpoint", "reset", "shop", back.String()+"..now"); bad.Code != 1 || !strings.Contains(bad.Stderr, "not "+back.String()+" as the reset expects") {
			t.Errorf("with another checkpoint in force: exit code %d, %s", bad.Code, bad.Stderr)
		}
		// One that waits is shown and can be taken back.
		s.must("checkpoint", "reset", "shop", "now")
		if got := s.checkpoint().Pending; got != "shop=now" {
			t.Errorf("the reset that waits is shown as %q", got)
		}
		contains(t, "checkpoint show", s.must("checkpoint", "show"), "the reset shop=now is applied when the source starts")
		contains(t, "the cancelling", s.must("checkpoint", "reset", "shop", "--cancel"), "the reset shop=now is not applied")
		if bad := s.command("checkpoint", "reset", "shop", "--cancel"); bad.Code != 1 || !strings.Contains(bad.Stderr, "no reset of source shop waits") {
			t.Errorf("cancelled twice: exit code %d, %s", bad.Code, bad.Stderr)
		}
		contains(t, "the reset", s.must("checkpoint", "reset", "shop", back.String()), "when the daemon starts")
		s.d.StartReady()
		s.expect(2)
		if src := s.checkpoint(); src.Pending != "" || src.Generation != 1 {
			t.Errorf("afterwards: %+v", src)
		}
		s.d.Term()
		s.d.StartReady()
		s.put(3)
		s.expect(2, 3)
	})

	t.Run("a flag is applied once, and again after it was gone", func(t *testing.T) {
		t.Parallel()
		s := newShop(t, cluster, "again", shopOptions{})
		const flag = "--reset-checkpoint=shop=now"
		for i, c := range []struct {
			args       []string
			generation uint32
		}{{nil, 1}, {[]string{flag}, 2}, {[]string{flag}, 2}, {nil, 2}, {[]string{flag}, 3}} {
			s.d.StartReady(c.args...)
			if got := s.source().Generation; got != c.generation {
				t.Fatalf("start %d: generation %d, want %d", i, got, c.generation)
			}
			s.put(i + 1)
			s.hook.WaitCount(i + 1)
			s.d.Kill9() // between the steps it must not matter how it ended
		}
	})
}
