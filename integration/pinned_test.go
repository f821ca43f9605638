package integration_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

// What the slot pins, and what it can pin at worst, is in the status and a
// metric, and moves also while the source is stopped.
func TestPinned_WALIsSeenToGrowAndItsBoundIsSaid(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{"max_slot_wal_keep_size": "1GB", "wal_keep_size": "0"}})
	s := newShop(t, cluster, "pinned", shopOptions{})
	s.d.StartReady()
	const gib, written = 1 << 30, 24 << 20
	before := s.untilSourceThat("knows its slot", func(src *api.SourceStatus) bool { return src.RetainedBytes != nil && src.SafeBytes != nil })
	if l := before.RetainedLimitBytes; l == nil || *l != gib || before.WALStatus != "reserved" || *before.SafeBytes > gib+64<<20 {
		t.Errorf("the source is %+v", before)
	}
	contains(t, "rowhook status", s.must("status"), "shop pins ", "at worst 1.0 GiB (max_slot_wal_keep_size); the slot is in danger after ")

	// The source stops, and the application writes on.
	s.exec("DROP PUBLICATION rowhook_shop")
	s.exec("INSERT INTO items VALUES (1, 'a')")
	s.untilSource(api.SourceStopped)
	s.exec(fmt.Sprintf("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1 << 20)) FROM generate_series(1, %d)", written>>20))
	after := s.untilSourceThat("pins what was written", func(src *api.SourceStatus) bool { return *src.RetainedBytes >= *before.RetainedBytes+written })
	if after.State != api.SourceStopped || *after.SafeBytes > *before.SafeBytes-written {
		t.Errorf("the source is %+v, and was %+v", after, before)
	}
	if got, err := s.d.Metric("rowhook_source_retained_wal_limit_bytes"); err != nil || got != gib {
		t.Errorf("the metric of the bound is %v (%v)", got, err)
	}
	if got, err := s.d.Metric("rowhook_source_retained_wal_bytes"); err != nil || got < written {
		t.Errorf("the metric of what is pinned is %v (%v)", got, err)
	}
	if got, err := s.d.Metric("rowhook_source_safe_wal_bytes"); err != nil || got <= 0 || got > float64(*before.SafeBytes-written) {
		t.Errorf("the metric of what is safe is %v (%v)", got, err)
	}

	// Without a bound it is the disk.
	s.exec("ALTER SYSTEM SET max_slot_wal_keep_size = -1")
	s.exec("SELECT pg_reload_conf()")
	s.d.Term()
	s.d.Start()
	s.untilSourceThat("has no bound", func(src *api.SourceStatus) bool {
		return src.State == api.SourceStopped && src.RetainedBytes != nil && src.RetainedLimitBytes == nil && src.SafeBytes == nil
	})
	if res := s.command("status"); res.Code != 3 {
		t.Errorf("rowhook status ended with %d", res.Code)
	} else {
		contains(t, "rowhook status", res.Stdout, "at worst all that the disk of the database holds (max_slot_wal_keep_size = -1)")
	}
	harness.Eventually(t, harness.Patience, func() error {
		got, err := s.d.Metric("rowhook_source_retained_wal_limit_bytes")
		if err == nil && !math.IsInf(got, 1) {
			err = fmt.Errorf("the metric is %v, want +Inf", got)
		}
		return err
	})
}
