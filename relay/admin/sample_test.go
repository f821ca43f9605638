package admin_test

import (
	"time"

	"github.com/rowhook/rowhook/relay/api"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func ptr(n int64) *int64 { return &n }

// sample is the status of a daemon with one of everything.
func sample() *api.Status {
	return &api.Status{
		Version: "v1.2.3", Running: true, PID: 4711, Started: noon.Add(-time.Hour), Now: noon, DataDir: "/var/lib/rowhook",
		Log: api.LogStatus{
			Bytes: 123456, MaxBytes: 10 << 30, RetentionSeconds: 604800, OnFull: "stop", Errors: 1,
			Append: api.Histogram{Bounds: []float64{0.001, 0.01}, Counts: []uint64{5, 2, 1}, Sum: 0.05},
		},
		Sources: []api.SourceStatus{{
			Name: "shop", State: api.SourceStreaming, Checkpoint: "0/16B3748", Confirmed: "0/16B3700", Server: "0/16B4000",
			LagBytes: ptr(2232), RetainedBytes: ptr(4096), SafeBytes: ptr(8192), LastChange: noon.Add(-3 * time.Second), Generation: 2,
			Transactions: 10, Changes: 200, Events: 30, Reconnects: 4, Gaps: 1,
			Channels: []api.ChannelStatus{{Name: "exports", Listening: true, Notifications: 6}}, NotifyGaps: 2, NotifyGapSeconds: 1.5,
			Backfill: &api.Backfill{ID: 3, Event: "order.snapshot", State: api.BackfillRunning, Rows: 40, Estimate: 100},
		}},
		Rules: []api.RuleStatus{
			{Name: "order.paid", Type: "order.paid", Version: 1, Source: "shop", Seen: 200, Matched: 30, Failed: 2},
			{Name: "export.requested", Type: "export.requested", Version: 1, Source: "shop"},
		},
		Endpoints: []api.EndpointStatus{{
			Endpoint: api.Endpoint{Name: "billing", Kind: "webhook", Status: api.EndpointActive},
			Behind:   5, OldestPending: noon.Add(-time.Minute), InFlight: 2, Retrying: 1, Dead: 3, Held: 0,
			Breaker:    api.Breaker{State: api.BreakerClosed},
			Deliveries: map[string]int64{"delivered": 20, "dead": 3},
			Attempts:   map[string]int64{"ok": 20, "timeout": 9},
			Latency:    api.Histogram{Bounds: []float64{0.01, 0.1}, Counts: []uint64{15, 4, 1}, Sum: 1.5},
		}},
	}
}
