package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/rowhook/rowhook/relay/api"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

const (
	eventOne = "evt_00000000ee5dg3l2k8m0d0nn1ujag5qp"
	eventTwo = "evt_00000000ee5dg3l2k8m0d0nn1ujag5qq"
)

// fake is a backend with answers of its own. It notes every request but that
// for the status.
type fake struct {
	running bool
	state   string // of the source; "" is streaming

	mu    sync.Mutex
	calls []string
}

func (f *fake) note(call string, req any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, _ := json.Marshal(req)
	f.calls = append(f.calls, fmt.Sprintf("%s %s", call, b))
}

// taken returns the requests since the last time.
func (f *fake) taken() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls
	f.calls = nil
	return c
}

func (f *fake) Close() error { return nil }

func text(s string) *string { return &s }
func number(n int64) *int64 { return &n }

func (f *fake) Status(context.Context, *api.StatusRequest) (*api.Status, error) {
	st := &api.Status{
		Version: "v1.2.3", Running: f.running, PID: 4711, Started: noon.Add(-26 * time.Hour), Now: noon, DataDir: "/var/lib/rowhook",
		Log: api.LogStatus{
			Bytes: 1234567, MaxBytes: 10 << 30, RetentionSeconds: 604800, OnFull: "stop",
			Append: api.Histogram{Bounds: []float64{0.001, 0.01}, Counts: []uint64{98, 2, 0}},
		},
		Sources: []api.SourceStatus{{
			Name: "shop", State: api.SourceStreaming, Checkpoint: "0/16B3748", LagBytes: number(0), RetainedBytes: number(2 << 20), RetainedLimitBytes: number(50 << 30), SafeBytes: number(49 << 30), WALStatus: "extended",
			LastChange: noon.Add(-3 * time.Second), Changes: 200, Events: 30, Gaps: 1,
			LastGap:  &api.Gap{Generation: 2, At: noon.Add(-time.Hour), Reason: "reset to now"},
			Channels: []api.ChannelStatus{{Name: "exports", Listening: true}, {Name: "imports"}},
			Backfill: &api.Backfill{ID: 3, Event: "order.snapshot", State: api.BackfillRunning, Rows: 40, Events: 40, Estimate: 100, RowsPerSecond: 500.4, Reason: "waits for the stream to catch up"},
		}},
		Rules: []api.RuleStatus{
			{Name: "order.paid", Source: "shop", Seen: 200, Matched: 30, Failed: 2, LastMatch: noon.Add(-90 * time.Second),
				LastFailure: noon.Add(-time.Hour), LastError: "when: rowhook.hcl:12,10-25: new.total is null"},
			{Name: "order.lost", Source: "shop", Seen: 200},
		},
		Warnings: []api.Warning{{Kind: api.WarnNeverMatched, Rule: "order.lost", Text: "rule order.lost has never matched, of 200 changes it was asked about; 'rowhook explain' shows why"}},
		Endpoints: []api.EndpointStatus{
			{
				Endpoint: api.Endpoint{Name: "billing", Status: api.EndpointActive}, InFlight: 2, LastSuccess: noon.Add(-time.Second),
				Latency: api.Histogram{Bounds: []float64{0.01, 0.1}, Counts: []uint64{90, 10, 0}},
			},
			{
				Endpoint: api.Endpoint{Name: "crm", Status: api.EndpointActive}, Behind: 7000, Retrying: 1, Dead: 3,
				LastFailure: noon.Add(-5 * time.Second), LastError: "connect: refused\x1b[31m",
				Breaker: api.Breaker{State: api.BreakerOpen, Until: noon.Add(25 * time.Second)},
			},
			{Endpoint: api.Endpoint{Name: "old", Status: api.EndpointDisabled, Reason: "410 Gone"}, Held: 12},
		},
	}
	if !f.running {
		st.Sources[0].State, st.Sources[0].Reason = api.SourceStopped, "the daemon is not running"
	} else if f.state != "" {
		st.Sources[0].State, st.Sources[0].Reason = f.state, "dial tcp 127.0.0.1:5432: connection refused"
	}
	return st, nil
}

func order() api.Event {
	return api.Event{
		ID: eventOne, Type: "order.paid", Version: 1, Time: noon.Add(-time.Minute), Source: "shop", Rule: "order.paid", Table: "public.orders",
		Op: "update", Key: text("1"), Tenant: text("acme"), Sequence: "0001-00000000016b3748-00000000", Stream: "shop", Seq: 1, Generation: 1,
		LSN: "0/16B3748", Data: json.RawMessage(`{"order_id":1,"note":"<b>\u001b"}`),
	}
}

func (f *fake) Events(_ context.Context, req *api.EventsRequest) (*api.Events, error) {
	f.note("events", req)
	if req.Source == "other" {
		return &api.Events{Events: []api.Event{}}, nil
	}
	second := order()
	second.ID, second.Key, second.Type = eventTwo, nil, "order.\u202Epaid"
	return &api.Events{Events: []api.Event{order(), second}}, nil
}

func (f *fake) Event(_ context.Context, req *api.EventRequest) (*api.EventDetail, error) {
	f.note("event", req)
	if req.ID != eventOne {
		return nil, api.Errorf(api.CodeNotFound, "the log has no event %s (any more)", req.ID)
	}
	return &api.EventDetail{Event: order(), Deliveries: []api.DeliveryDetail{delivered(), retrying(), {
		Delivery: api.Delivery{Event: eventOne, Endpoint: "old", State: "pending"}, Log: []api.Attempt{},
	}}}, nil
}

func delivered() api.DeliveryDetail {
	at := noon.Add(-59 * time.Second)
	return api.DeliveryDetail{
		Delivery: api.Delivery{Event: eventOne, Endpoint: "billing", Type: "order.paid", State: "delivered", Attempts: 1, Time: at, Status: 200},
		Log:      []api.Attempt{{N: 1, At: at, DurationMS: 3.21, Status: 200}},
	}
}

func retrying() api.DeliveryDetail {
	at := noon.Add(-30 * time.Second)
	return api.DeliveryDetail{
		Delivery: api.Delivery{
			Event: eventOne, Endpoint: "crm", Type: "order.paid", State: "retrying", Attempts: 2, Time: at, Next: noon.Add(90 * time.Second),
			Status: 500, Class: "status_5xx",
		},
		Log: []api.Attempt{
			{N: 1, At: at.Add(-20 * time.Second), DurationMS: 15000, Class: "timeout", Error: "no answer within 15s"},
			{N: 2, At: at, DurationMS: 12.345, Status: 500, Class: "status_5xx", Error: "500 Internal Server Error", Response: "oops\n\x1b]0;title\a"},
		},
	}
}

func (f *fake) Failures(_ context.Context, req *api.FailuresRequest) (*api.Failures, error) {
	f.note("failures", req)
	return &api.Failures{Failures: []api.Failure{{
		ID: 1, Rule: "order.paid", At: noon, Error: "new.total is null", Stream: "shop", Seq: 4, Table: "public.orders", LSN: "0/16B3700", XID: 9,
		Change: json.RawMessage(`{"op":"update","table":"public.orders","lsn":"0/16B3700","new":{"id":"1","total":null},"diagnosis":{"argument":"data","message":"new.total is null, and + needs a number","file":"rowhook.hcl","line":12,"column":10,"snippet":"    net = new.total + 1","values":[{"name":"new.total","value":null}]}}`),
	}}}, nil
}

func (f *fake) Deliveries(_ context.Context, req *api.DeliveriesRequest) (*api.Deliveries, error) {
	f.note("deliveries", req)
	if req.Endpoint == "biling" {
		return nil, api.Errorf(api.CodeNotFound, `there is no endpoint "biling"; there is billing, crm, old`)
	}
	return &api.Deliveries{Deliveries: []api.Delivery{delivered().Delivery, retrying().Delivery}}, nil
}

func (f *fake) Delivery(_ context.Context, req *api.DeliveryRequest) (*api.DeliveryDetails, error) {
	f.note("delivery", req)
	return &api.DeliveryDetails{Deliveries: []api.DeliveryDetail{retrying()}}, nil
}

func (f *fake) Retry(_ context.Context, req *api.RetryRequest) (*api.RetryResponse, error) {
	f.note("retry", req)
	if req.Event != "" {
		return &api.RetryResponse{Retried: 1}, nil
	}
	return &api.RetryResponse{Retried: 3}, nil
}

func (f *fake) RemoveEndpoint(_ context.Context, req *api.EndpointRequest) (*api.RemoveResponse, error) {
	f.note("remove endpoint", req)
	return &api.RemoveResponse{Name: req.Name, Cancelled: 3}, nil
}

func (f *fake) RetryFailures(_ context.Context, req *api.RetryFailuresRequest) (*api.RetryFailuresResponse, error) {
	f.note("retry failures", req)
	if req.ID != 0 {
		return &api.RetryFailuresResponse{Events: []string{}, Failing: 1, Error: "the rule still fails: total is null"}, nil
	}
	return &api.RetryFailuresResponse{Events: []string{"evt_1", "evt_2"}, Unmatched: 1}, nil
}

func (f *fake) Endpoints(_ context.Context, req *api.EndpointsRequest) (*api.Endpoints, error) {
	f.note("endpoints", req)
	return &api.Endpoints{Endpoints: []api.Endpoint{
		{Name: "billing", Kind: "webhook", Target: "https://billing.example.com/", Status: api.EndpointActive, Events: []string{"order.**", "!order.lost"}},
		{Name: "old", Kind: "webhook", Target: "https://old.example.com/", Status: api.EndpointDisabled, Reason: "410 Gone", Events: []string{"**"}},
	}}, nil
}

func (f *fake) EnableEndpoint(_ context.Context, req *api.EndpointRequest) (*api.Endpoint, error) {
	f.note("enable", req)
	return &api.Endpoint{Name: req.Name, Status: api.EndpointActive, Events: []string{}}, nil
}

func (f *fake) DisableEndpoint(_ context.Context, req *api.EndpointRequest) (*api.Endpoint, error) {
	f.note("disable", req)
	return &api.Endpoint{Name: req.Name, Status: api.EndpointDisabled, Reason: req.Reason, Events: []string{}}, nil
}

func (f *fake) Checkpoints(_ context.Context, req *api.CheckpointsRequest) (*api.Checkpoints, error) {
	f.note("checkpoints", req)
	return &api.Checkpoints{Checkpoints: []api.Checkpoint{{
		Source: "shop", LSN: "0/16B3748", Generation: 2, Timeline: 1, SystemID: "7490000000000000001", Address: "127.0.0.1:5432", Database: "shop",
		Slot: "rowhook_shop", Publication: "rowhook_shop", Phase: "streaming", Updated: noon.Add(-2 * time.Second), Pending: "shop=0/1A00000",
		Partial: &api.Partial{LSN: "0/1700000", XID: 99, Changes: 1000, Events: 20},
		Gaps:    []api.Gap{{Generation: 2, At: noon.Add(-time.Hour), To: "0/16A0000", Reason: "reset to now"}},
	}}}, nil
}

func (f *fake) ResetCheckpoint(_ context.Context, req *api.ResetRequest) (*api.ResetResponse, error) {
	f.note("reset", req)
	if req.Cancel {
		return &api.ResetResponse{Source: req.Source, Note: "the reset shop=0/1A00000 is not applied"}, nil
	}
	if req.From == "0/1" {
		return nil, api.Errorf(api.CodeConflict, "the checkpoint of shop is 0/16B3748, not 0/1; nothing was done")
	}
	return &api.ResetResponse{Source: req.Source, From: "0/16B3748", To: "0/1A00000", Generation: 3, Note: "shop goes on at 0/1A00000 in generation 3; 3.3 MiB of WAL were given up"}, nil
}

func (f *fake) DropSource(_ context.Context, req *api.DropRequest) (*api.DropResponse, error) {
	f.note("drop", req)
	return &api.DropResponse{Source: req.Source, Slot: "rowhook_shop", Publication: "rowhook_shop"}, nil
}

func (f *fake) Backfills(_ context.Context, req *api.BackfillsRequest) (*api.Backfills, error) {
	f.note("backfills", req)
	all := []api.Backfill{
		{
			ID: 2, Event: "order.read", Source: "shop", Where: "id > 5", Rate: 500, State: api.BackfillRunning, Rows: 120, Events: 100, Estimate: 1000,
			RowsPerSecond: 499.6, Created: noon.Add(-time.Minute), Reason: "its snapshot waits for pid 7",
		},
		{
			ID: 1, Event: "order.read", Source: "shop", State: api.BackfillFailed, Rows: 1, Events: 1, Created: noon.Add(-time.Hour),
			Ended: noon.Add(-59 * time.Minute), Reason: "division by zero",
		},
	}
	switch req.ID {
	case 0:
		return &api.Backfills{Backfills: all}, nil
	case 1, 2:
		return &api.Backfills{Backfills: all[2-req.ID : 3-req.ID]}, nil
	case 3:
		return &api.Backfills{Backfills: []api.Backfill{{ID: 3, Event: "order.read", State: api.BackfillDone, Rows: 7, Events: 7, Created: noon, Ended: noon}}}, nil
	}
	return nil, api.Errorf(api.CodeNotFound, "backfill %d: not found", req.ID)
}

func (f *fake) StartBackfill(_ context.Context, req *api.BackfillRequest) (*api.Backfill, error) {
	f.note("start backfill", req)
	if req.Where == "x" {
		return nil, api.Errorf(api.CodeInvalid, `the condition "x" cannot be used on public.orders: column "x" does not exist`)
	}
	return &api.Backfill{ID: 3, Event: req.Event, Source: "shop", Where: req.Where, Rate: req.Rate, State: api.BackfillWaiting, Estimate: 7, Created: noon}, nil
}

func (f *fake) CancelBackfill(_ context.Context, req *api.CancelBackfillRequest) (*api.Backfill, error) {
	f.note("cancel backfill", req)
	return &api.Backfill{ID: req.ID, Event: "order.read", Source: "shop", State: api.BackfillCancelled, Rows: 120, Events: 100, Created: noon, Ended: noon}, nil
}

func (f *fake) Reload(_ context.Context, req *api.ReloadRequest) (*api.ReloadResponse, error) {
	f.note("reload", req)
	return &api.ReloadResponse{
		Events: api.Changed{Added: []string{"order.refunded"}, Changed: []string{"order.paid"}, Removed: []string{}},
		Sinks:  api.Changed{Added: []string{}, Changed: []string{"billing"}, Removed: []string{"crm"}},
		Log:    true, Held: []api.HeldDeliveries{{Sink: "crm", Deliveries: 12}},
		Statements: []string{`ALTER PUBLICATION "rowhook_shop" ADD TABLE ONLY "public"."refunds"`},
		Sources: []api.ReloadedSource{
			{Source: "shop", Rules: api.SourceRules{Fingerprint: "5f2c8a", From: "0/16B3748", Loaded: noon}},
			{Source: "stock", Rules: api.SourceRules{Fingerprint: "11aa00", From: "0/1500000", Loaded: noon.Add(-time.Hour), Waiting: "77bb11", WaitingSince: noon}, Note: "they take effect when the source has been read up to their place; see rowhook status"},
		},
		Warnings: "Warning: No pattern matches\n",
	}, nil
}

func (f *fake) Backup(_ context.Context, req *api.BackupRequest) (*api.BackupResponse, error) {
	f.note("backup", req)
	return &api.BackupResponse{Path: req.Path, Bytes: 1234567}, nil
}

func (f *fake) Explain(_ context.Context, req *api.ExplainRequest) (*api.Explanation, error) {
	f.note("explain", req)
	if req.Table != "orders" && req.Table != "public.orders" {
		return nil, api.Errorf(api.CodeNotFound, "no rule is about table %s; there are rules about public.orders", req.Table)
	}
	value := func(name, v string) api.NamedValue { return api.NamedValue{Name: name, Value: json.RawMessage(v)} }
	res := &api.Explanation{Table: "public.orders", Key: req.Key}
	row := api.ExplainedRow{
		Source: "shop", Next: 17, Remembered: noon.Add(-time.Hour), Forgotten: true,
		Rules: []api.RuleSubject{{Rule: "order.paid", Type: "order.paid", On: []string{"update"}}, {Rule: "order.created", Type: "order.created@2", On: []string{"insert"}}},
		Changes: []api.ExplainedChange{{
			N: 3, Time: noon.Add(-time.Minute), LSN: "0/16B3748", XID: 99, Op: "update", Changed: []string{"status", "total"}, Cut: []string{"note"},
			Rules: []api.ExplainedRule{
				{Rule: "order.paid", Outcome: api.RuleNotMatched, When: &api.Clause{Text: `new.status == "paid" && !changed.total`, Outcome: "false", Operator: "&&", Parts: []api.Clause{
					{Text: `new.status == "paid"`, Outcome: "true", Values: []api.NamedValue{value("new.status", `"paid"`)}},
					{Text: `!changed.total`, Outcome: "false", Operator: "!", Parts: []api.Clause{{Text: "changed.total", Outcome: "true", Values: []api.NamedValue{value("changed.total", "true")}}}},
				}}},
				{Rule: "order.created", Outcome: api.RuleNotAbout},
			},
		}},
		Events:   []api.MadeEvent{{ID: eventOne, Type: "order.paid", Logged: true, Deliveries: []api.Delivery{delivered().Delivery, retrying().Delivery}}, {ID: eventTwo, Type: "order.paid", Logged: true, Unwanted: "no endpoint wants it: billing wants invoice.**"}},
		Failures: []api.Failure{{ID: 4, Rule: "order.paid", At: noon.Add(-2 * time.Minute), Error: "when: new.total is null"}},
	}
	switch {
	case req.From > 0:
		row = api.ExplainedRow{Source: "shop", Next: 18, Remembered: noon, Rules: row.Rules, Changes: []api.ExplainedChange{{
			N: 17, Time: noon, LSN: "0/16B3800", XID: 100, Op: "insert", Rules: []api.ExplainedRule{
				{Rule: "order.created", Outcome: api.RuleMatched, Events: []api.MadeEvent{{ID: eventTwo, Type: "order.created@2", Logged: true, Deliveries: []api.Delivery{{Endpoint: "crm", State: "pending"}}}}},
				{Rule: "order.paid", Outcome: api.RuleFailed, Error: "when: new.total is null\nguard it", When: &api.Clause{Text: "new.total > 5", Outcome: "error", Error: "new.total is null", Values: []api.NamedValue{value("new.total", "null"), {Name: "old.total", Unknown: "not sent"}}}},
			}}}}
	case req.Key == "9":
		row.Now = &api.ExplainedChange{Op: "update", Rules: row.Changes[0].Rules[:1]}
		row.Changes, row.Events, row.Failures, row.Forgotten = nil, nil, nil, false
		row.Notes = []string{"the database cannot be asked: refused\nstart it"}
	}
	res.Rows = []api.ExplainedRow{row}
	return res, nil
}
