package admin

import (
	"context"
	"math"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// metricsHandler returns the handler of /metrics, the same one each time, since
// a collector is registered once.
func (s *Server) metricsHandler() http.Handler {
	s.metrics.once.Do(func() {
		reg := s.Registry
		if reg == nil {
			reg = prometheus.NewRegistry()
			reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		}
		reg.MustRegister(NewCollector(s.snapshot))
		s.metrics.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{
			MaxRequestsInFlight: 4,
			// A broken status still shows what else there is, and the failed scrape.
			ErrorHandling: promhttp.ContinueOnError,
		})
	})
	return s.metrics.handler
}

// Collector makes metrics of a status at the moment of the scrape.
type Collector struct {
	status func(context.Context) (*api.Status, error)
}

// NewCollector returns a collector of what status returns.
func NewCollector(status func(context.Context) (*api.Status, error)) *Collector {
	return &Collector{status}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("rowhook_"+name, help, labels, nil)
}

var (
	descUp        = desc("up", "1, or 0 when the daemon could not tell its status.")
	descBuildInfo = desc("build_info", "Always 1; the version is in the labels.", "version", "goversion")

	descLogBytes     = desc("log_bytes", "Size of the durable log.")
	descLogMaxBytes  = desc("log_max_bytes", "Bound of the log's size, 0 for none.")
	descLogFull      = desc("log_full", "1 while a bound or the disk is reached and reading has stopped.")
	descStoreAppend  = desc("store_append_seconds", "Duration of store transactions of the ingest side.")
	descStoreErrors  = desc("store_errors_total", "Store transactions that failed.")
	descSourceUp     = desc("source_up", "1 while the source makes progress.", "source")
	descSourceState  = desc("source_state", "1 for the state the source is in.", "source", "state")
	descSourceLag    = desc("source_lag_bytes", "WAL between the checkpoint and the end of the server's WAL.", "source")
	descSourceP      = desc("source_checkpoint_lsn", "LSN up to which everything is durably in the log, as a number.", "source")
	descSourceCF     = desc("source_confirmed_lsn", "LSN that was confirmed to the server, as a number.", "source")
	descSourceWAL    = desc("source_retained_wal_bytes", "WAL that the slot makes the server keep.", "source")
	descSourceWALMax = desc("source_retained_wal_limit_bytes", "WAL that the slot makes the server keep at worst, before it is lost; +Inf when only the disk bounds it.", "source")
	descSourceSafe   = desc("source_safe_wal_bytes", "WAL that may be written before the slot is in danger; absent when nothing bounds what it keeps.", "source")
	descSourceGen    = desc("source_generation", "Number of the period of unbroken history.", "source")
	descSourceLast   = desc("source_last_change_timestamp_seconds", "When the last change was received.", "source")
	descSourceTx     = desc("source_transactions_total", "Transactions read.", "source")
	descSourceChg    = desc("source_changes_total", "Changes read.", "source")
	descSourceEvents = desc("source_events_total", "Events made of changes.", "source")
	descSourceRec    = desc("source_reconnects_total", "Connections lost and made again.", "source")
	descSourceGaps   = desc("source_gaps_total", "Recorded holes in the history.", "source")
	descNotifyGaps   = desc("notify_gaps_total", "Times in which notifications may have been lost.", "source")
	descNotifyLength = desc("notify_gap_seconds_total", "Length of the times in which notifications may have been lost.", "source")
	descChannelUp    = desc("channel_up", "1 while the channel is listened to.", "source", "channel")
	descBackfillRows = desc("backfill_rows", "Rows that the backfill under way has read; absent when there is none.", "source", "rule")
	descBackfillOf   = desc("backfill_rows_estimated", "About how many rows there were when the backfill under way began.", "source", "rule")
	descBackfillWait = desc("backfill_waiting", "1 while the backfill under way waits; backfill show says for what.", "source", "rule")
	descChannelN     = desc("channel_notifications_total", "Notifications received.", "source", "channel")

	descRuleSeen    = desc("rule_seen_total", "Changes the rule was asked about.", "rule")
	descRuleMatched = desc("rule_matched_total", "Changes the rule made an event of.", "rule")
	descRuleFailed  = desc("rule_failed_total", "Changes on which the rule failed.", "rule")

	descEndpointUp       = desc("endpoint_up", "1 while the endpoint is active and its breaker is closed.", "endpoint")
	descEndpointBehind   = desc("endpoint_behind", "Events of the log after the endpoint's place.", "endpoint")
	descEndpointOldest   = desc("endpoint_oldest_pending_timestamp_seconds", "Commit time of the oldest event the endpoint waits for.", "endpoint")
	descEndpointInFlight = desc("endpoint_in_flight", "Attempts under way.", "endpoint")
	descEndpointRetrying = desc("endpoint_retrying", "Deliveries that failed and will be tried again.", "endpoint")
	descEndpointDead     = desc("endpoint_dead", "Deliveries that need a person.", "endpoint")
	descEndpointHeld     = desc("endpoint_held", "Deliveries that wait for the endpoint to be enabled.", "endpoint")
	descDeliveries       = desc("deliveries_total", "Deliveries by the state they ended in.", "endpoint", "result")
	descAttempts         = desc("attempts_total", "Attempts by error class, ok for those without error.", "endpoint", "class")
	descLatency          = desc("delivery_latency_seconds", "Time from commit to delivery.", "endpoint")
)

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descUp, descBuildInfo,
		descLogBytes, descLogMaxBytes, descLogFull, descStoreAppend, descStoreErrors,
		descSourceUp, descSourceState, descSourceLag, descSourceP, descSourceCF, descSourceWAL, descSourceWALMax, descSourceSafe, descSourceGen, descSourceLast,
		descSourceTx, descSourceChg, descSourceEvents, descSourceRec, descSourceGaps, descNotifyGaps, descNotifyLength, descChannelUp, descChannelN, descBackfillRows, descBackfillOf, descBackfillWait,
		descRuleSeen, descRuleMatched, descRuleFailed,
		descEndpointUp, descEndpointBehind, descEndpointOldest, descEndpointInFlight, descEndpointRetrying, descEndpointDead, descEndpointHeld,
		descDeliveries, descAttempts, descLatency,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	e := emitter{ch}
	st, err := c.status(context.Background())
	e.gauge(descUp, number(err == nil))
	if err != nil {
		return
	}
	e.gauge(descBuildInfo, 1, st.Version, runtime.Version())
	e.gauge(descLogBytes, float64(st.Log.Bytes))
	e.gauge(descLogMaxBytes, float64(st.Log.MaxBytes))
	e.gauge(descLogFull, number(st.Log.Full))
	e.counter(descStoreErrors, st.Log.Errors)
	e.histogram(descStoreAppend, &st.Log.Append)
	for i := range st.Sources {
		e.source(&st.Sources[i])
	}
	for i := range st.Rules {
		r := &st.Rules[i]
		e.counter(descRuleSeen, r.Seen, r.Name)
		e.counter(descRuleMatched, r.Matched, r.Name)
		e.counter(descRuleFailed, r.Failed, r.Name)
	}
	for i := range st.Endpoints {
		e.endpoint(&st.Endpoints[i])
	}
}

type emitter struct{ ch chan<- prometheus.Metric }

func (e emitter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (e emitter) counter(d *prometheus.Desc, v int64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

// histogram turns separate buckets into Prometheus's cumulative ones.
func (e emitter) histogram(d *prometheus.Desc, h *api.Histogram, labels ...string) {
	buckets := make(map[float64]uint64, len(h.Bounds))
	var n uint64
	for i, b := range h.Bounds {
		if i < len(h.Counts) {
			n += h.Counts[i]
		}
		buckets[b] = n
	}
	e.ch <- prometheus.MustNewConstHistogram(d, h.Count(), h.Sum, buckets, labels...)
}

func (e emitter) source(s *api.SourceStatus) {
	e.gauge(descSourceUp, number(s.State == api.SourceStreaming), s.Name)
	for _, state := range []string{api.SourceStarting, api.SourceWaiting, api.SourceStreaming, api.SourcePaused, api.SourceStopped} {
		e.gauge(descSourceState, number(s.State == state), s.Name, state)
	}
	if s.LagBytes != nil {
		e.gauge(descSourceLag, float64(*s.LagBytes), s.Name)
	}
	if s.RetainedBytes != nil {
		e.gauge(descSourceWAL, float64(*s.RetainedBytes), s.Name)
		limit := math.Inf(1)
		if s.RetainedLimitBytes != nil {
			limit = float64(*s.RetainedLimitBytes)
		}
		e.gauge(descSourceWALMax, limit, s.Name)
	}
	if s.SafeBytes != nil {
		e.gauge(descSourceSafe, float64(*s.SafeBytes), s.Name)
	}
	if lsn, err := relay.ParseLSN(s.Checkpoint); err == nil {
		e.gauge(descSourceP, float64(lsn), s.Name)
	}
	if lsn, err := relay.ParseLSN(s.Confirmed); err == nil {
		e.gauge(descSourceCF, float64(lsn), s.Name)
	}
	if !s.LastChange.IsZero() {
		e.gauge(descSourceLast, seconds(s.LastChange.UnixMicro()), s.Name)
	}
	e.gauge(descSourceGen, float64(s.Generation), s.Name)
	e.counter(descSourceTx, s.Transactions, s.Name)
	e.counter(descSourceChg, s.Changes, s.Name)
	e.counter(descSourceEvents, s.Events, s.Name)
	e.counter(descSourceRec, s.Reconnects, s.Name)
	e.counter(descSourceGaps, s.Gaps, s.Name)
	if b := s.Backfill; b != nil {
		e.gauge(descBackfillRows, float64(b.Rows), s.Name, b.Event)
		e.gauge(descBackfillOf, float64(b.Estimate), s.Name, b.Event)
		e.gauge(descBackfillWait, number(b.Reason != ""), s.Name, b.Event)
	}
	if len(s.Channels) > 0 {
		e.counter(descNotifyGaps, s.NotifyGaps, s.Name)
		e.ch <- prometheus.MustNewConstMetric(descNotifyLength, prometheus.CounterValue, s.NotifyGapSeconds, s.Name)
	}
	for i := range s.Channels {
		c := &s.Channels[i]
		e.gauge(descChannelUp, number(c.Listening), s.Name, c.Name)
		e.counter(descChannelN, c.Notifications, s.Name, c.Name)
	}
}

func (e emitter) endpoint(s *api.EndpointStatus) {
	up := s.Status == api.EndpointActive && (s.Breaker.State == "" || s.Breaker.State == api.BreakerClosed)
	e.gauge(descEndpointUp, number(up), s.Name)
	e.gauge(descEndpointBehind, float64(s.Behind), s.Name)
	if !s.OldestPending.IsZero() {
		e.gauge(descEndpointOldest, seconds(s.OldestPending.UnixMicro()), s.Name)
	}
	e.gauge(descEndpointInFlight, float64(s.InFlight), s.Name)
	e.gauge(descEndpointRetrying, float64(s.Retrying), s.Name)
	e.gauge(descEndpointDead, float64(s.Dead), s.Name)
	e.gauge(descEndpointHeld, float64(s.Held), s.Name)
	for result, n := range s.Deliveries {
		e.counter(descDeliveries, n, s.Name, result)
	}
	for class, n := range s.Attempts {
		e.counter(descAttempts, n, s.Name, class)
	}
	e.histogram(descLatency, &s.Latency, s.Name)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(micros int64) float64 { return float64(micros) / 1e6 }
