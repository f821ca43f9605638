package daemon

import (
	"context"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
)

// Status implements admin.Reads. It reads memory only.
func (d *Daemon) Status(context.Context, *api.StatusRequest) (*api.Status, error) {
	set := d.config().Settings
	d.mu.Lock()
	counts, size, full, matched := d.counts, d.size, d.full, d.matched
	d.mu.Unlock()
	st := &api.Status{
		Version: d.o.Version, Running: true, PID: os.Getpid(), Started: d.started.UTC(), Now: time.Now().UTC(), DataDir: set.DataDir,
		Log: api.LogStatus{
			Bytes: size, MaxBytes: set.Retention.MaxBytes, RetentionSeconds: int64(set.Retention.Age / time.Second),
			OnFull: string(set.OnFull), Full: full != "",
		},
		Sources: []api.SourceStatus{}, Rules: []api.RuleStatus{}, Endpoints: []api.EndpointStatus{},
	}
	var appends uint64
	var seconds float64
	for _, s := range d.sources {
		st.Sources = append(st.Sources, s.status())
		for _, is := range []*relay.IngestStats{&s.stats, &s.notifyStats} {
			appends += uint64(is.Appends.Load())
			seconds += float64(is.AppendMicros.Load()) / 1e6
			st.Log.Errors += is.StoreErrors.Load()
			if e := is.StoreError.Load(); e != nil {
				st.Log.Error = *e
			}
		}
		rules := s.rules.Load()
		for i, r := range rules.Rules() {
			st.Rules = append(st.Rules, admin.LiveRule(r, rules.Stats(i)))
		}
	}
	st.Warnings = warnings(st.Rules, matched, d.config().Sinks)
	if p := d.dispatcher.Problem(); p != "" {
		st.Log.Error = p
	}
	st.Log.Append = api.Histogram{Counts: []uint64{appends}, Sum: seconds}
	for _, es := range d.dispatcher.Status() {
		row := relay.EndpointRow{
			ID: es.ID, Kind: es.Kind, Target: es.Target, Status: relay.EndpointActive,
			Versions: []relay.EndpointVersion{{Patterns: es.Patterns}}, CreatedAt: es.CreatedAt,
		}
		e := admin.LiveEndpoint(&row, &es)
		e.Dead = counts[es.ID][relay.StateDead]
		st.Endpoints = append(st.Endpoints, e)
	}
	for _, row := range d.dispatcher.Vanished() {
		e := api.EndpointStatus{Endpoint: admin.Endpoint(&row)}
		e.Dead, e.Held = counts[row.ID][relay.StateDead], counts[row.ID][relay.StateHeld]+counts[row.ID][relay.StateRetrying]+counts[row.ID][relay.StatePending]
		st.Endpoints = append(st.Endpoints, e)
	}
	slices.SortFunc(st.Endpoints, func(a, b api.EndpointStatus) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return st, nil
}

// status describes the source. A source that is connected counts as streaming
// only while it hears of its server and the log takes what it reads.
func (s *source) status() api.SourceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := api.SourceStatus{
		Name: s.cfg.Name, State: s.state, Reason: s.reason, Since: s.since.UTC(), Slot: s.cfg.Slot, Publication: s.cfg.Publication,
		Transactions: s.stats.Transactions.Load(), Changes: s.stats.Changes.Load() + s.notifyStats.Changes.Load(),
		Events: s.stats.Events.Load() + s.notifyStats.Events.Load(), Reconnects: s.reconnects.Load(), Gaps: s.gaps,
		Channels: s.channelStatus(), NotifyGaps: s.notifyGaps.Load(), NotifyGapSeconds: float64(s.notifyGapMicros.Load()) / 1e6,
		Rules: s.rulesStatus, Backfill: s.backfill(),
	}
	if at := s.stats.LastChange.Load(); at > 0 {
		st.LastChange = time.UnixMicro(at).UTC()
	}
	if s.lastGap != nil {
		g := admin.Gap(s.lastGap)
		st.LastGap = &g
	}
	if st.State == api.SourceStreaming {
		st.State, st.Reason = s.liveness()
	}
	if s.ingest != nil {
		if src := s.ingest.State(); src != nil {
			st.Generation, st.Timeline, st.Database, st.Address = src.Generation, src.Timeline, src.Database, src.Address
			st.SystemID = strconv.FormatUint(src.SystemID, 10)
			st.Checkpoint = s.ingest.Checkpoint().String()
		}
	}
	if sv := s.server; sv != nil {
		st.Server = sv.Flush.String()
		if s.ingest != nil {
			lag := int64(max(sv.Flush, s.ingest.Checkpoint()) - s.ingest.Checkpoint())
			st.LagBytes = &lag
		}
		if sv.Slot != nil {
			st.Confirmed = sv.Slot.ConfirmedFlush.String()
			st.RetainedBytes, st.WALStatus = &sv.Slot.Retained, sv.Slot.WALStatus
			if sv.SlotKeepSize >= 0 {
				st.RetainedLimitBytes = &sv.SlotKeepSize
			}
			if sv.Slot.SafeWALSize >= 0 {
				st.SafeBytes = &sv.Slot.SafeWALSize
			}
		}
	}
	return st
}

// standing returns the state of the source, and why it is not streaming.
func (s *source) standing() (state, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != api.SourceStreaming {
		return s.state, s.reason
	}
	return s.liveness()
}

// liveness says whether a connected source makes progress.
func (s *source) liveness() (state, reason string) {
	if s.paused != "" {
		return api.SourcePaused, s.paused
	}
	if e := s.stats.StoreError.Load(); e != nil {
		return api.SourcePaused, "the store does not accept events: " + *e
	}
	if s.notifyProblem != "" {
		return api.SourceStopped, "notifications are not received: " + s.notifyProblem
	}
	heard := s.heard.Load()
	switch {
	case s.backfills.isHolding():
		// The stream waits for rows that are being read, and hears nothing.
	case heard == 0 && time.Since(s.since) > silence:
		return api.SourceWaiting, "connected, and the server has sent nothing yet"
	case heard == 0:
		return api.SourceStarting, "connected, waiting for the first sign of the server"
	case time.Since(time.UnixMicro(heard)) > silence:
		return api.SourceWaiting, "the server has not been heard of since " + time.UnixMicro(heard).UTC().Format(time.RFC3339)
	}
	return api.SourceStreaming, ""
}
