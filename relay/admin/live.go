package admin

import (
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// LiveEndpoint returns the status of an endpoint that the dispatcher serves.
// Dead deliveries are only in the store: the caller counts them.
func LiveEndpoint(row *relay.EndpointRow, s *relay.EndpointStatus) api.EndpointStatus {
	st := &s.Stats
	e := api.EndpointStatus{
		Endpoint: Endpoint(row), InFlight: int64(s.InFlight), Retrying: int64(s.Retrying), Held: int64(s.Held),
		LastSuccess: fromMicros(st.LastSuccess), LastFailure: fromMicros(st.LastFailure), LastError: st.LastError,
		Breaker:    api.Breaker{State: api.BreakerClosed, Until: fromMicros(s.PausedUntil)},
		Deliveries: map[string]int64{string(relay.StateDelivered): st.Delivered, string(relay.StateDead): st.Dead},
		Attempts:   make(map[string]int64, len(st.Attempts)),
		Latency:    api.Histogram{Sum: (time.Duration(st.LatencySum) * time.Microsecond).Seconds()},
	}
	if s.Disabled != "" {
		e.Status, e.Reason = api.EndpointDisabled, s.Disabled
	}
	if s.Down != 0 {
		e.Breaker.State = api.BreakerOpen
		if s.DownReason != "" {
			e.LastError = s.DownReason
		}
	}
	for _, c := range s.Cursors {
		if c.Replay == 0 {
			e.Behind += max(0, c.Head-c.Position)
		}
	}
	for class, n := range st.Attempts {
		name := string(class)
		if class == relay.ErrNone {
			name = "ok"
		}
		e.Attempts[name] = n
	}
	for _, b := range relay.LatencyBuckets() {
		e.Latency.Bounds = append(e.Latency.Bounds, b.Seconds())
	}
	for _, n := range st.Latency {
		e.Latency.Counts = append(e.Latency.Counts, uint64(n))
	}
	return e
}

// LiveRule returns the status of a rule.
func LiveRule(r *relay.Rule, s *relay.RuleStats) api.RuleStatus {
	st := api.RuleStatus{
		Name: r.Name, Type: r.Type, Version: max(r.Version, 1), Source: r.Source,
		Seen: s.Seen.Load(), Matched: s.Matched.Load(), Failed: s.Failed.Load(), LastMatch: fromMicros(s.LastMatch.Load()),
	}
	if f := s.LastFailure.Load(); f != nil {
		st.LastFailure, st.LastError = fromMicros(f.At), f.Err
	}
	return st
}
