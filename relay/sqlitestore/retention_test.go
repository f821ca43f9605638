package sqlitestore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// The events of blockOf are of this time.
var then = time.UnixMicro(1_700_000_000_000_000)

var billing = relay.CursorID{Endpoint: "billing", Stream: "shop"}

// filled returns a store with ten blocks of ten events, whose deliveries are:
// 5 dead, 15 dead and touched late, 25 retrying, all others delivered.
func filled(t *testing.T, now time.Time) *store {
	t.Helper()
	s := openStore(t, sqlitestore.Options{Now: func() time.Time { return now }})
	a := &relay.Append{Stream: "shop", Head: 100, Tail: 100, Source: sourceAt(100)}
	for first := int64(1); first <= 100; first += 10 {
		a.Blocks = append(a.Blocks, blockOf("shop", first, 10))
	}
	check(t, s.Append(t.Context(), a))
	check(t, s.Append(t.Context(), &relay.Append{Stream: "shop", Failures: []relay.Failure{{Seq: 101, Rule: "r", At: then.UnixMicro()}}, Head: 101, Tail: 101}))
	st := &relay.Settlement{Routed: map[string]int64{"shop": 100}}
	for first := int64(1); first <= 100; first += 10 {
		b := relay.SuccessBatch{CursorID: billing}
		for seq := first; seq < first+10; seq++ {
			if seq != 5 && seq != 15 && seq != 25 {
				b.Successes = append(b.Successes, relay.Success{Seq: seq, Attempts: 1, At: then.UnixMicro()})
			}
		}
		st.Successes = append(st.Successes, b)
	}
	for seq, state := range map[int64]relay.State{5: relay.StateDead, 15: relay.StateDead, 25: relay.StateRetrying} {
		d := relay.OpenDelivery{CursorID: billing, Seq: seq, Type: "order.paid", State: state, Attempts: 1, UpdatedAt: then.UnixMicro()}
		if seq == 15 {
			d.UpdatedAt = now.UnixMicro()
		}
		st.Put = append(st.Put, d)
		st.Attempts = append(st.Attempts, relay.Attempt{CursorID: billing, Seq: seq, N: 1, At: then.UnixMicro()})
	}
	check(t, s.Settle(t.Context(), st))
	return s
}

func firstPlace(t *testing.T, s *store) int64 {
	t.Helper()
	st, err := s.Stream(t.Context(), "shop")
	check(t, err)
	return st.First
}

func TestTrim_RemovesOnlyWhatIsOldAndSettled(t *testing.T) {
	day := 24 * time.Hour
	s := filled(t, then.Add(8*day))
	limits := relay.RetentionLimits{Age: 7 * day}
	trim := func(keep map[string]int64, first int64) {
		t.Helper()
		before, err := s.Size(t.Context())
		check(t, err)
		freed, err := s.Trim(t.Context(), limits, keep)
		check(t, err)
		after, err := s.Size(t.Context())
		check(t, err)
		if before-after != freed {
			t.Errorf("%d bytes freed, but the log went from %d to %d", freed, before, after)
		}
		if f := firstPlace(t, s); f != first {
			t.Errorf("keep %v: the log begins at %d, want %d", keep, f, first)
		}
	}
	trim(nil, 1)
	trim(map[string]int64{"other": 50}, 1)
	trim(map[string]int64{"shop": 9}, 1) // inside the first block
	young := limits
	limits.Age = 9 * day
	trim(map[string]int64{"shop": 100}, 1)
	limits = young
	trim(map[string]int64{"shop": 10}, 11)
	settled, err := s.SettledAfter(t.Context(), billing, 0)
	check(t, err)
	if len(settled) != 89 || settled[0] != 11 { // 88 successes, and 15, which is dead
		t.Errorf("settled after trimming: %v", settled)
	}
	// 25 waits for its next attempt: its block stays, whatever the caller says.
	trim(map[string]int64{"shop": 100}, 21)
	counts, err := s.DeliveryCounts(t.Context())
	check(t, err)
	if c := counts["billing"]; c[relay.StateDead] != 1 || c[relay.StateRetrying] != 1 {
		t.Errorf("rows: %v", c) // the dead row of 15 was touched lately
	}
	if _, err := s.RetryDead(t.Context(), relay.DeliveryRef{CursorID: billing, Seq: 15}, then); !errors.Is(err, relay.ErrNotFound) {
		t.Errorf("retry of a delivery whose event is gone: %v", err)
	}
	check(t, s.Settle(t.Context(), &relay.Settlement{Remove: []relay.DeliveryRef{{CursorID: billing, Seq: 25}}}))
	trim(map[string]int64{"shop": 101}, 0)
	if size, err := s.Size(t.Context()); size != 0 || err != nil {
		t.Errorf("size %d, %v", size, err)
	}
	s.Reopen(t)
	if size, err := s.Size(t.Context()); size != 0 || err != nil {
		t.Errorf("size %d, %v", size, err)
	}
	// The stream goes on where it was.
	b := blockOf("shop", 102, 5)
	check(t, s.Append(t.Context(), &relay.Append{Stream: "shop", Blocks: []*relay.Block{b}, Head: b.Last, Tail: b.Last}))
	if f := firstPlace(t, s); f != 102 {
		t.Errorf("the log begins at %d", f)
	}
}

func TestTrim_KeepsTheLogWithinItsSize(t *testing.T) {
	s := filled(t, then)
	check(t, s.Settle(t.Context(), &relay.Settlement{Remove: []relay.DeliveryRef{{CursorID: billing, Seq: 25}}}))
	one := int64(len(blockOf("shop", 11, 10).Data))
	_, err := s.Trim(t.Context(), relay.RetentionLimits{MaxBytes: 4 * one}, map[string]int64{"shop": 50})
	check(t, err)
	if f := firstPlace(t, s); f != 51 {
		t.Errorf("the log begins at %d; what is not settled must stay", f)
	}
	_, err = s.Trim(t.Context(), relay.RetentionLimits{MaxBytes: 4 * one}, map[string]int64{"shop": 100})
	check(t, err)
	if size, _ := s.Size(t.Context()); size > 4*one || size < 3*one {
		t.Errorf("size %d, want about %d", size, 4*one)
	}
}

func TestExpireOldest_KeepsTheRowsOfTheDead(t *testing.T) {
	s := filled(t, then)
	freed, err := s.ExpireOldest(t.Context(), "shop", 35)
	check(t, err)
	if f := firstPlace(t, s); f != 31 || freed == 0 {
		t.Errorf("the log begins at %d, %d bytes freed", f, freed)
	}
	_, err = s.Trim(t.Context(), relay.RetentionLimits{Age: time.Hour}, map[string]int64{})
	check(t, err)
	rows, err := s.Deliveries(t.Context(), relay.DeliveryQuery{State: relay.StateDead})
	check(t, err)
	if len(rows) != 2 {
		t.Errorf("dead rows: %+v", rows)
	}
}

func TestTrim_FileShrinks(t *testing.T) {
	s := openStore(t, sqlitestore.Options{Now: func() time.Time { return then.Add(time.Hour) }})
	a := &relay.Append{Stream: "shop"}
	last := int64(0)
	for range 300 {
		b := blockOf("shop", last+1, 200)
		last = b.Last
		a.Blocks = append(a.Blocks, b)
	}
	a.Head, a.Tail = last, last
	check(t, s.Append(t.Context(), a))
	s.Reopen(t)
	path := filepath.Join(s.options.Dir, sqlitestore.FileName)
	before, err := os.Stat(path)
	check(t, err)
	_, err = s.Trim(t.Context(), relay.RetentionLimits{Age: time.Minute}, map[string]int64{"shop": last})
	check(t, err)
	s.Reopen(t)
	after, err := os.Stat(path)
	check(t, err)
	if after.Size() > before.Size()/2 {
		t.Errorf("the file went from %d to %d bytes", before.Size(), after.Size())
	}
	if ok := raw(t, path, "PRAGMA integrity_check"); ok != "ok" {
		t.Error(ok)
	}
}

func TestBackup_OpensAndRefusesToReplace(t *testing.T) {
	s := filled(t, then)
	path := filepath.Join(t.TempDir(), sqlitestore.FileName)
	check(t, s.Backup(t.Context(), path))
	if err := s.Backup(t.Context(), path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second backup: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	copied := openStore(t, sqlitestore.Options{Dir: filepath.Dir(path)})
	for _, x := range []*store{s, copied} {
		st, err := x.Stream(t.Context(), "shop")
		check(t, err)
		blocks, err := x.Blocks(t.Context(), "shop", 0, 1<<20)
		check(t, err)
		if st != (relay.StreamState{Head: 101, Tail: 101, First: 1}) || len(blocks) != 10 {
			t.Errorf("stream %+v of %d blocks", st, len(blocks))
		}
	}
	b := blockOf("shop", 102, 5)
	check(t, copied.Append(t.Context(), &relay.Append{Stream: "shop", Blocks: []*relay.Block{b}, Head: b.Last, Tail: b.Last}))
}

func TestRetryDead_IsDueAtOnceAndMarked(t *testing.T) {
	s := filled(t, then)
	now := then.Add(time.Minute)
	d, err := s.RetryDead(t.Context(), relay.DeliveryRef{CursorID: billing, Seq: 5}, now)
	check(t, err)
	if d.State != relay.StateRetrying || !d.Again || d.NextAt != now.UnixMicro() || d.Attempts != 1 {
		t.Errorf("returned %+v", d)
	}
	open, err := s.OpenDeliveries(t.Context(), billing)
	check(t, err)
	if len(open) != 2 || open[0] != d {
		t.Errorf("stored %+v", open)
	}
	for _, seq := range []int64{5, 25, 7, 1000} {
		if _, err := s.RetryDead(t.Context(), relay.DeliveryRef{CursorID: billing, Seq: seq}, now); !errors.Is(err, relay.ErrNotFound) {
			t.Errorf("retry of %d, which is not dead: %v", seq, err)
		}
	}
}

func TestEndpointStates_MoveOpenRowsOnly(t *testing.T) {
	s := filled(t, then)
	moves := []struct {
		name string
		do   func() (int64, error)
		n    int64
		want relay.State
	}{
		{"hold", func() (int64, error) { return s.HoldEndpoint(t.Context(), "billing") }, 1, relay.StateHeld},
		{"hold again", func() (int64, error) { return s.HoldEndpoint(t.Context(), "billing") }, 0, relay.StateHeld},
		{"another", func() (int64, error) { return s.ReleaseEndpoint(t.Context(), "mail") }, 0, relay.StateHeld},
		{"release", func() (int64, error) { return s.ReleaseEndpoint(t.Context(), "billing") }, 1, relay.StatePending},
		{"cancel", func() (int64, error) { return s.CancelEndpoint(t.Context(), "billing") }, 1, relay.StateCancelled},
		{"cancel again", func() (int64, error) { return s.CancelEndpoint(t.Context(), "billing") }, 0, relay.StateCancelled},
	}
	for _, m := range moves {
		n, err := m.do()
		check(t, err)
		counts, err := s.DeliveryCounts(t.Context())
		check(t, err)
		if c := counts["billing"]; n != m.n || c[m.want] != 1 || c[relay.StateDead] != 2 || len(c) != 2 {
			t.Errorf("%s: %d rows moved; %v", m.name, n, c)
		}
	}
}

func TestSettings_SurviveAndAreReplaced(t *testing.T) {
	s := openStore(t, sqlitestore.Options{})
	if _, ok, err := s.Setting(t.Context(), "reset"); ok || err != nil {
		t.Fatalf("unknown setting: %v, %v", ok, err)
	}
	check(t, s.PutSetting(t.Context(), "reset", "one"))
	check(t, s.PutSetting(t.Context(), "reset", "two"))
	s.Reopen(t)
	if v, ok, err := s.Setting(t.Context(), "reset"); v != "two" || !ok || err != nil {
		t.Fatalf("%q, %v, %v", v, ok, err)
	}
}

// A success after days of retries must not make the search for every other one
// read the records of days.
func TestSettle_LateSuccessGetsARecordOfItsOwn(t *testing.T) {
	s := openStore(t, sqlitestore.Options{})
	check(t, s.Append(t.Context(), &relay.Append{Stream: "shop", Head: 2_000_000, Tail: 2_000_000}))
	check(t, s.Settle(t.Context(), &relay.Settlement{Successes: []relay.SuccessBatch{{CursorID: billing, Successes: []relay.Success{
		{Seq: 1_999_999, Attempts: 1}, {Seq: 7, Attempts: 9}, {Seq: 2_000_000, Attempts: 1},
	}}}}))
	path := filepath.Join(s.options.Dir, sqlitestore.FileName)
	if n := raw(t, path, "SELECT count(*) FROM successes"); n != "2" {
		t.Errorf("%s records", n)
	}
	if n := raw(t, path, "SELECT max(width) FROM cursors"); n != "1" {
		t.Errorf("a record spans %s places", n)
	}
}
