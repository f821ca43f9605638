package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
	"github.com/rowhook/rowhook/relay/relaytest"
)

const stream = "shop"

func event(seq int64, typ, key string) *relay.Event {
	at := noon.UnixMicro() + seq
	f := relay.IDFacts{CommitLSN: relay.LSN(0x1000 + seq), Kind: relay.Update, CommitTime: at}
	return &relay.Event{
		ID: f.ID(), Seq: seq, Stream: stream, Source: "shop", Type: typ, Version: 1, Rule: typ, Table: "public.orders", Op: relay.Update,
		Time: at, Generation: 1, HasKey: key != "", Key: []byte(key), Tenant: []byte("acme"), Data: []byte(`{"total": 1e400, "note": "<b>"}`),
	}
}

// store has three events, of which billing (order.**) has the first delivered
// and the second dead, and waits for the third.
func store(t *testing.T) (*relaytest.Memory, []*relay.Event) {
	t.Helper()
	ctx := t.Context()
	m := &relaytest.Memory{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	st := &relay.SourceState{
		Source: "shop", Generation: 1, SystemID: 1 << 63, Timeline: 1, Database: "shop", Address: "db:5432",
		Slot: "rowhook_shop", Publication: "rowhook_shop", Phase: relay.PhaseStreaming, LSN: 0x2000, UpdatedAt: noon.UnixMicro(),
		Partial: &relay.PartialTx{CommitLSN: 0x3000, XID: 77, Changes: 5, Events: 2},
	}
	must(m.PutSource(ctx, st, &relay.Gap{Source: "shop", Generation: 1, At: noon.UnixMicro(), To: 0x100, Reason: "the slot was made"}))
	must(m.PutEndpoint(ctx, &relay.EndpointRow{
		ID: "billing", Kind: "webhook", Target: "https://billing.example.com/", Status: relay.EndpointActive, CreatedAt: noon.UnixMicro(),
		Versions: []relay.EndpointVersion{{Version: 1, Patterns: "order.**"}},
	}))
	events := []*relay.Event{event(1, "order.paid", "1"), event(2, "order.paid", "2"), event(3, "order.sent", "")}
	var b relay.BlockBuilder
	for _, e := range events {
		b.Add(e)
	}
	must(m.Append(ctx, &relay.Append{
		Stream: stream, Blocks: []*relay.Block{b.Finish()}, Tail: 4, Head: 4, Source: st,
		Failures: []relay.Failure{{Stream: stream, Seq: 4, Rule: "order.paid", At: noon.UnixMicro(), LSN: 0x1004, XID: 9, Table: "public.orders", Change: []byte(`{"op":"update"}`), Err: "total is null"}},
	}))
	cursor := relay.CursorID{Endpoint: "billing", Stream: stream}
	must(m.Settle(ctx, &relay.Settlement{
		Cursors: []relay.CursorState{{CursorID: cursor, Position: 2}},
		Put: []relay.OpenDelivery{{
			CursorID: cursor, Seq: 2, EventID: events[1].ID, Type: "order.paid", State: relay.StateDead, Attempts: 1,
			LastClass: relay.ErrStatus4, LastStatus: 404, UpdatedAt: noon.UnixMicro(),
		}},
		Attempts: []relay.Attempt{{
			CursorID: cursor, Seq: 2, N: 1, At: noon.UnixMicro(), Duration: 12500 * time.Microsecond, Status: 404, Class: relay.ErrStatus4,
			Err: "404 Not Found", Response: []byte("nobody here"),
		}},
		Successes: []relay.SuccessBatch{{CursorID: cursor, Successes: []relay.Success{
			{Seq: 1, Attempts: 1, At: noon.UnixMicro(), Duration: 3 * time.Millisecond, Status: 200},
		}}},
	}))
	return m, events
}

func views(t *testing.T) (*admin.Views, []*relay.Event) {
	m, events := store(t)
	return &admin.Views{Store: m, Version: "v1", DataDir: "/data"}, events
}

func TestViewsListEvents(t *testing.T) {
	v, events := views(t)
	for name, c := range map[string]struct {
		req  api.EventsRequest
		want []int64
	}{
		"all":        {api.EventsRequest{}, []int64{3, 2, 1}},
		"by type":    {api.EventsRequest{Types: []string{"order.paid"}}, []int64{2, 1}},
		"by key":     {api.EventsRequest{Key: "2"}, []int64{2}},
		"by tenant":  {api.EventsRequest{Tenant: "acme", Limit: 1}, []int64{3}},
		"since then": {api.EventsRequest{After: time.UnixMicro(events[1].Time)}, []int64{3, 2}},
	} {
		res, err := v.Events(t.Context(), &c.req)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, e := range res.Events {
			got = append(got, e.Seq)
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: got places %v, want %v", name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: got places %v, want %v", name, got, c.want)
			}
		}
	}
	for _, req := range []api.EventsRequest{{Types: []string{"Order"}}, {Limit: -1}, {Limit: 5000}} {
		if _, err := v.Events(t.Context(), &req); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%+v: %v", req, err)
		}
	}
	if _, err := v.Events(t.Context(), &api.EventsRequest{Source: "other"}); err == nil || !strings.Contains(err.Error(), `there is no source "other"; there is shop`) {
		t.Errorf("a source that does not exist: %v", err)
	}
}

func TestViewsShowWhatBecameOfAnEvent(t *testing.T) {
	v, events := views(t)
	for i, want := range []string{"delivered", "dead", "pending"} {
		res, err := v.Event(t.Context(), &api.EventRequest{ID: events[i].ID.String()})
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Deliveries) != 1 || res.Deliveries[0].State != want || res.Deliveries[0].Endpoint != "billing" {
			t.Errorf("event %d: %+v, want one %s", i, res.Deliveries, want)
		}
	}
	res, err := v.Delivery(t.Context(), &api.DeliveryRequest{Event: events[1].ID.String(), Endpoint: "billing"})
	if err != nil {
		t.Fatal(err)
	}
	d := res.Deliveries[0]
	want := api.Attempt{N: 1, At: noon, DurationMS: 12.5, Status: 404, Class: "status_4xx", Error: "404 Not Found", Response: "nobody here"}
	if len(d.Log) != 1 || d.Log[0] != want || d.Status != 404 {
		t.Errorf("got %+v", d)
	}
}

func TestViewsSayWhatIsNotThere(t *testing.T) {
	v, events := views(t)
	ctx := t.Context()
	missing := event(99, "x", "").ID.String()
	_, e1 := v.Event(ctx, &api.EventRequest{ID: missing})
	_, e2 := v.Delivery(ctx, &api.DeliveryRequest{Event: events[0].ID.String(), Endpoint: "biling"})
	_, e3 := v.Deliveries(ctx, &api.DeliveriesRequest{Endpoint: "biling"})
	_, e4 := v.Checkpoints(ctx, &api.CheckpointsRequest{Source: "shoop"})
	for i, err := range []error{e1, e2, e3, e4} {
		if !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if !strings.Contains(e3.Error(), "there is billing") || !strings.Contains(e4.Error(), "there is shop") {
		t.Errorf("%v; %v: they do not say what there is", e3, e4)
	}
	_, e5 := v.Event(ctx, &api.EventRequest{ID: "evt_1"})
	_, e6 := v.Deliveries(ctx, &api.DeliveriesRequest{State: "failed"})
	for i, err := range []error{e5, e6} {
		if !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func TestViewsListDeliveriesFailuresAndEndpoints(t *testing.T) {
	v, events := views(t)
	ctx := t.Context()
	d, err := v.Deliveries(ctx, &api.DeliveriesRequest{State: "dead"})
	if err != nil || len(d.Deliveries) != 1 || d.Deliveries[0].Event != events[1].ID.String() {
		t.Errorf("%+v, %v", d, err)
	}
	f, err := v.Failures(ctx, &api.FailuresRequest{})
	if err != nil || len(f.Failures) != 1 || f.Failures[0].Error != "total is null" || string(f.Failures[0].Change) != `{"op":"update"}` {
		t.Errorf("%+v, %v", f, err)
	}
	e, err := v.Endpoints(ctx, &api.EndpointsRequest{})
	if err != nil || len(e.Endpoints) != 1 || e.Endpoints[0].Events[0] != "order.**" {
		t.Errorf("%+v, %v", e, err)
	}
	c, err := v.Checkpoints(ctx, &api.CheckpointsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got := c.Checkpoints[0]
	if got.LSN != "0/2000" || got.SystemID != "9223372036854775808" || got.Partial.XID != 77 || len(got.Gaps) != 1 || got.Gaps[0].From != "" {
		t.Errorf("%+v", got)
	}
}

func TestViewsStatusIsOfAStoppedDaemon(t *testing.T) {
	v, _ := views(t)
	st, err := v.Status(t.Context(), &api.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if st.Running || st.Ready() || st.Sources[0].State != api.SourceStopped || st.Sources[0].Gaps != 1 {
		t.Errorf("%+v", st)
	}
	if e := st.Endpoints[0]; e.Dead != 1 || e.Behind != 2 {
		t.Errorf("dead %d, behind %d; want 1 and 2", e.Dead, e.Behind)
	}
}

func TestValuesReachTheCallerAsTheyWereMade(t *testing.T) {
	v, events := views(t)
	w := ask((&admin.Server{Actions: reader{Views: v}}).Local(), "POST", "/v1/events/show", `{"id":"`+events[0].ID.String()+`"}`)
	if !strings.Contains(w.Body.String(), `{"total":1e400,"note":"<b>"}`) {
		t.Errorf("got %s", w.Body)
	}
	// What is not JSON does not take the rest with it.
	e := admin.Event(&relay.Event{Op: relay.Notify, Data: []byte("{broken")})
	if b, err := json.Marshal(e); err != nil || !strings.Contains(string(b), `"{broken"`) || e.LSN != "" {
		t.Errorf("%s, %v", b, err)
	}
}

// reader makes views an admin.Actions.
type reader struct {
	*admin.Views
	admin.Changes
}

func (reader) Explain(context.Context, *api.ExplainRequest) (*api.Explanation, error) {
	return &api.Explanation{}, nil
}
