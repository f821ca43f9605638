package admin_test

import (
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
)

func TestLiveEndpoint(t *testing.T) {
	row := &relay.EndpointRow{ID: "crm", Kind: "webhook", Status: relay.EndpointActive}
	s := &relay.EndpointStatus{
		Down: noon.UnixMicro(), DownReason: "connection refused", Retrying: 1, InFlight: 2,
		Cursors: []relay.CursorStatus{
			{CursorID: relay.CursorID{Endpoint: "crm", Stream: "a"}, Position: 10, Head: 15},
			{CursorID: relay.CursorID{Endpoint: "crm", Stream: "b"}, Position: 4, Head: 4},
			{CursorID: relay.CursorID{Endpoint: "crm", Stream: "a", Replay: 1}, Position: 0, Head: 1000},
		},
		Stats: relay.EndpointStats{
			Delivered: 7, Attempts: map[relay.ErrorClass]int64{relay.ErrNone: 7, relay.ErrConnect: 3}, LatencySum: 1_500_000,
		},
	}
	s.Stats.Latency[0], s.Stats.Latency[len(s.Stats.Latency)-1] = 6, 1
	e := admin.LiveEndpoint(row, s)
	if e.Behind != 5 || e.Breaker.State != api.BreakerOpen || e.LastError != "connection refused" || e.Status != api.EndpointActive {
		t.Errorf("got %+v", e)
	}
	if e.Attempts["ok"] != 7 || e.Attempts["connect"] != 3 || e.Deliveries["delivered"] != 7 {
		t.Errorf("attempts %v, deliveries %v", e.Attempts, e.Deliveries)
	}
	if h := &e.Latency; h.Count() != 7 || h.Sum != 1.5 || len(h.Counts) != len(h.Bounds)+1 || h.Quantile(0.5) != time.Millisecond.Seconds() {
		t.Errorf("latency %+v", h)
	}
	s.Disabled = "410 Gone"
	if e := admin.LiveEndpoint(row, s); e.Status != api.EndpointDisabled || e.Reason != "410 Gone" {
		t.Errorf("got %+v", e.Endpoint)
	}
}

func TestLiveRule(t *testing.T) {
	var s relay.RuleStats
	s.Seen.Store(3)
	s.Failed.Store(1)
	want := api.RuleStatus{Name: "order.paid", Type: "order.paid", Version: 1, Source: "shop", Seen: 3, Failed: 1}
	if got := admin.LiveRule(&relay.Rule{Name: "order.paid", Type: "order.paid", Source: "shop"}, &s); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
