package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

const (
	// silence is how long a source may hear nothing of its server and still
	// count as streaming: the stream asks for a sign of life every ten seconds.
	silence = 35 * time.Second
	// inspectInterval is how often the server is asked for slot and publication.
	inspectInterval = 10 * time.Second
	maxReconnect    = 15 * time.Second
)

// source runs one source.
type source struct {
	d     *Daemon
	cfg   *config.Source
	rules atomic.Pointer[configured]
	// recent are the last changes, for who asks why no event came.
	recent relay.Recent
	log    *slog.Logger
	stats  relay.IngestStats
	// notifications has its own counters.
	notifyStats relay.IngestStats
	// hazards and drift are what the last session said of its rules and of its
	// catalogue, to say it once.
	hazards, drift string
	// notifyGaps counts the times in which nothing listened, notifyGapMicros sums
	// their lengths.
	notifyGaps, notifyGapMicros atomic.Int64
	heard                       atomic.Int64 // last sign of life of the server, microseconds
	reconnects                  atomic.Int64
	unpublished                 atomic.Bool // the publication was found gone, and is awaited
	backfills                   *backfiller

	placing  sync.Mutex     // held while it is decided where rules take effect
	unmarked *cdc.RulesMark // the place that is to be marked
	live     *relay.Ingest  // of the session under way
	shrinks  chan struct{}  // capacity 1: rules have come into force
	channels chan struct{}  // capacity 1: the rules name other channels

	mu            sync.Mutex
	state         string
	reason        string
	since         time.Time
	server        *cdc.ServerState
	ingest        *relay.Ingest
	notify        *relay.Ingest
	notifyProblem string
	listening     bool // to its channels
	listener      *cdc.Listener
	rulesStatus   api.SourceRules
	paused        string
	gaps          int64
	lastGap       *relay.Gap
	reset         *relay.Reset       // to apply at the next start
	applying      bool               // the reset, which cannot be cancelled any more
	answer        chan<- resetAnswer // who waits for it
	restart       context.CancelFunc // ends the session under way
	wake          chan struct{}      // a stopped source is to start again
	dropped       bool               // by source drop: it stays stopped
	ended         chan struct{}      // closed when a dropped source has ended
	spent         string             // the flag of a reset that was applied in an earlier life
	warned        bool               // of what a plan says; under placing
}

// configured is the rules of the configuration, and their text.
type configured struct {
	*relay.RuleSet
	cfg  *config.Config
	text string
}

// rulesOf returns the rules that the configuration has for the source.
func rulesOf(cfg *config.Config, source string) *configured {
	return &configured{relay.NewRuleSet(source, cfg.Rules), cfg, cfg.RulesText(source)}
}

type resetAnswer struct {
	res *api.ResetResponse
	err error
}

func newSource(ctx context.Context, d *Daemon, cfg *config.Source) (*source, error) {
	s := &source{
		d: d, cfg: cfg,
		log:   d.log.With("source", cfg.Name),
		state: api.SourceStarting, since: time.Now(), wake: make(chan struct{}, 1), ended: make(chan struct{}),
		shrinks: make(chan struct{}, 1), channels: make(chan struct{}, 1),
	}
	s.backfills = newBackfiller(cfg.Name, backfillConfig{cfg.URL, cfg.Slot, cfg.Publication}, d.store, s.log)
	s.rules.Store(rulesOf(d.o.Config, cfg.Name))
	if err := s.readGaps(ctx); err != nil {
		return nil, err
	}
	if err := s.pendingReset(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// The settings that keep a reset from being applied twice, and one that was
// asked for while no daemon ran.
func appliedKey(source string) string { return "reset.applied." + source }

func pendingKey(source string) string { return "reset.pending." + source }

// pendingReset finds out whether a reset is to be applied: one asked for while
// the daemon was stopped, or one of the command line that was not applied yet.
func (s *source) pendingReset(ctx context.Context) error {
	name := s.cfg.Name
	text, ok, err := s.d.store.Setting(ctx, pendingKey(name))
	if err != nil {
		return err
	}
	if ok && text != "" {
		r, err := relay.ParseReset(text)
		if err != nil {
			return err
		}
		s.reset = &r
		return nil
	}
	applied, _, err := s.d.store.Setting(ctx, appliedKey(name))
	if err != nil {
		return err
	}
	for _, r := range s.d.o.Resets {
		if r.Source != name {
			continue
		}
		flag, at, _ := strings.Cut(applied, " ")
		if flag == r.String() {
			s.log.Info("--reset-checkpoint was already applied, going on", "reset", r.String(), "applied", at)
			s.spent = r.String()
			return nil
		}
		s.reset = &r
		return nil
	}
	if applied != "" {
		// The flag is gone: given again, it is meant again.
		return s.d.store.PutSetting(ctx, appliedKey(name), "")
	}
	return nil
}

// setState says what the source does, and reports whether that is new.
func (s *source) setState(state, reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == state && s.reason == reason {
		return false
	}
	s.state, s.reason, s.since = state, reason, time.Now()
	return true
}

func (s *source) setPaused(reason string) {
	s.mu.Lock()
	s.paused = reason
	ins := []*relay.Ingest{s.ingest, s.notify}
	s.mu.Unlock()
	for _, in := range ins {
		switch {
		case in == nil:
		case reason != "":
			in.Pause(reason)
		default:
			in.Resume()
		}
	}
}

// run reads the source until ctx is done, through as many sessions as it takes.
func (s *source) run(ctx context.Context) error {
	retry := backoff.NewExponentialBackOff()
	retry.MaxElapsedTime, retry.InitialInterval, retry.MaxInterval = 0, 250*time.Millisecond, maxReconnect
	for {
		session, cancel := context.WithCancel(ctx)
		s.mu.Lock()
		s.restart = cancel
		dropped := s.dropped
		s.mu.Unlock()
		if dropped {
			cancel()
			s.setState(api.SourceStopped, "its slot and publication were dropped")
			close(s.ended)
			<-ctx.Done()
			return nil
		}
		began := time.Now()
		err := s.session(session)
		restarted := session.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // told to stop: what broke is of no interest
		case restarted:
			continue
		case err == nil:
			err = errors.New("the server ended the stream")
		}
		var wrong *ConfigError
		if errors.As(err, &wrong) && wrong.First {
			return err
		}
		if !temporary(err) {
			var refused *relay.StartRefusal
			if s.spent != "" && errors.As(err, &refused) {
				refused.Remedy += " The flag --reset-checkpoint " + s.spent + " was applied before and is not applied again: start once without it, or use rowhook checkpoint reset."
			}
			s.refuseReset(err)
			if s.setState(api.SourceStopped, reasonText(err)) {
				s.log.Error("source is stopped until somebody does something", "err", err)
			}
			if s.d.o.ExitOnSourceStop {
				return fmt.Errorf("stopped: %w", err)
			}
			var again <-chan time.Time
			if errors.As(err, new(*unusableError)) {
				again = time.After(retry.NextBackOff())
			}
			if s.rest(ctx, again) {
				continue
			}
			return nil
		}
		if time.Since(began) > time.Minute {
			retry.Reset()
		}
		wait := max(retry.NextBackOff(), cdc.RetryAfter(err))
		s.reconnects.Add(1)
		s.log.Warn("source is not connected, trying again", "err", err, "in", wait.Round(time.Millisecond))
		s.setState(api.SourceWaiting, err.Error())
		select {
		case <-time.After(wait):
		case <-s.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// storeError is an error of the store: it is tried again.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }

func (e *storeError) Unwrap() error { return e.err }

func stored(err error) error {
	if err == nil {
		return nil
	}
	return &storeError{err}
}

var errSlotBeingMade = errors.New("another session is still creating the slot")

// slotHeldError says who reads the slot: another daemon, or for a moment a
// session of ours that has just ended. Nothing is decided until it is free,
// because its reader moves it.
type slotHeldError struct{ slot *cdc.SlotState }

func (e *slotHeldError) Error() string {
	return fmt.Sprintf("slot %s is being read by process %d of the server (%s): waiting for it to end", e.slot.Name, e.slot.ActivePID, e.slot.ActiveApplication)
}

// unusableError is what keeps us from using a server that is there: the
// credentials, a right, a setting. A person has to put that right on the server.
// Nothing was read and nothing decided, so the source goes on by itself then.
type unusableError struct{ err error }

func (e *unusableError) Error() string { return e.err.Error() }

func (e *unusableError) Unwrap() error { return e.err }

// temporary reports whether the source may go on by itself after err.
func temporary(err error) bool {
	var setup *cdc.SetupError
	var refused *relay.StartRefusal
	var store *storeError
	var held *slotHeldError
	switch {
	case errors.As(err, &setup), errors.As(err, &refused), errors.As(err, new(*unusableError)):
		return false
	case errors.As(err, &store), errors.As(err, &held), errors.Is(err, errSlotBeingMade), errors.Is(err, errPartitions):
		return true
	case errors.Is(err, cdc.ErrSlotMissing), errors.Is(err, cdc.ErrSlotLost),
		errors.Is(err, cdc.ErrStartBeforeSlot), errors.Is(err, cdc.ErrStartBeyondServer):
		return true // the slot has changed since the start: the next one says what that means
	}
	return cdc.IsTemporary(err)
}

// reasonText returns what a person has to know of an error, with the SQL that
// puts it right.
func reasonText(err error) string {
	var setup *cdc.SetupError
	if !errors.As(err, &setup) {
		return err.Error()
	}
	t := err.Error()
	if len(setup.SQL) > 0 && !strings.Contains(t, setup.SQL[0]) {
		t += "\n" + strings.Join(setup.SQL, "\n")
	}
	return t
}

// ConfigError is a mistake in the configuration that only the database shows.
type ConfigError struct {
	// Source is the source whose catalogue showed it.
	Source string
	// First says that the store has no checkpoint of the source yet: then the
	// configuration is wrong, and not a database that has changed.
	First bool
	// Known is what the rules were held against: [config.Check] gives the
	// diagnostics.
	Known map[string]config.Known
	// Detail is the diagnostics in one line each.
	Detail string
}

func (e *ConfigError) Error() string {
	return "the rules of source " + e.Source + " do not fit its database: " + e.Detail
}

// start decides how to begin, does what that asks for, and returns the state
// to stream from.
func (s *source) start(ctx context.Context) (*relay.SourceState, *relay.Ingest, error) {
	sv, err := s.inspect(ctx)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	s.server = sv
	reset := s.reset
	s.mu.Unlock()
	if sv.Publication == nil && reset == nil && s.unpublished.Load() {
		return nil, nil, s.publicationGone()
	}
	s.unpublished.Store(false)
	s.setState(api.SourceStarting, "")
	if err := s.d.claim(s.cfg.Name, sv.SystemID, sv.Database); err != nil {
		return nil, nil, &cdc.SetupError{Summary: err.Error()}
	}
	s.placing.Lock()
	defer s.placing.Unlock()
	if err := s.checkRules(ctx); err != nil {
		return nil, nil, err
	}
	if sl := sv.Slot; sl != nil && sl.ConfirmedFlush == 0 && sl.Lost == "" && !sl.Physical {
		return nil, nil, errSlotBeingMade
	}
	known, err := s.d.store.SourceState(ctx, s.cfg.Name)
	if err != nil {
		return nil, nil, stored(err)
	}
	if known != nil && known.Slot != "" && known.Slot != s.cfg.Slot && known.Phase == relay.PhaseStreaming && sv.Slot == nil {
		s.log.Warn("the configuration names another slot than the store was made with", "slot", s.cfg.Slot, "before", known.Slot)
	}
	o, err := s.startOptions(ctx, known, reset)
	if err != nil {
		return nil, nil, err
	}
	plan, err := relay.PlanStart(known, relayState(sv), o)
	if err != nil {
		return nil, nil, err
	}
	if plan.Action == relay.StartStream && sv.Slot.Active {
		return nil, nil, &slotHeldError{sv.Slot}
	}
	for _, n := range plan.Notes {
		s.log.Warn(n)
	}
	if plan.Gap != nil { // it begins anew
		if err := s.d.store.PutSetting(ctx, leftKey(s.cfg.Name), ""); err != nil {
			return nil, nil, stored(err)
		}
	}
	var rules placing
	if plan.Action == relay.StartStream {
		rules, err = s.place(ctx, sv, plan.State.LSN, nil, false)
	} else {
		_, err = s.publish(ctx, sv, nil, s.rules.Load().Needs())
	}
	if err != nil {
		return nil, nil, err
	}
	begin := false
	if first := known == nil || known.Phase == relay.PhaseCreating; first && plan.State.Generation == 1 {
		if begin, err = s.backfills.want(ctx, s.cfg.Backfill); err != nil {
			return nil, nil, stored(err)
		}
	}
	if err := s.beginReset(reset); err != nil {
		return nil, nil, err
	}
	defer s.endReset()
	if err := s.d.store.PutSource(ctx, &plan.State, plan.Gap); err != nil {
		return nil, nil, stored(err)
	}
	if plan.Gap != nil {
		s.noteGap(plan.Gap)
	}
	state := plan.State
	if plan.Action != relay.StartStream {
		if state, err = s.createSlot(ctx, sv, plan, begin); err != nil {
			return nil, nil, err
		}
		if rules, err = s.begin(ctx, state.LSN); err != nil {
			return nil, nil, err
		}
	} else if sv.AlterFailover(planOptions(s.cfg, s.rules.Load().Needs())) {
		if err := cdc.SetFailover(ctx, s.cfg.URL, s.cfg.Slot, s.cfg.Failover); err != nil {
			s.log.Warn("the slot's failover option cannot be changed", "slot", s.cfg.Slot, "want", s.cfg.Failover, "err", err)
		}
	}
	in, err := s.open(ctx, &state, rules)
	if err != nil {
		return nil, nil, err
	}
	if reset != nil {
		if err := s.applied(ctx, reset, known, plan, &state); err != nil {
			return nil, nil, err
		}
	}
	return &state, in, nil
}

// inspect reads the state of a server that can be used.
func (s *source) inspect(ctx context.Context) (*cdc.ServerState, error) {
	sv, err := cdc.Inspect(ctx, s.cfg.URL, s.cfg.Slot, s.cfg.Publication)
	if err == nil && sv.InRecovery && s.cfg.Manage {
		err = &cdc.SetupError{
			Summary: fmt.Sprintf("the server at %s is a standby", sv.Address),
			Detail:  "slot and publication are managed on the primary. Where the roles may change, name all hosts in the URL, with target_session_attrs=read-write",
		}
	}
	if err != nil && !temporary(err) && ctx.Err() == nil {
		return nil, &unusableError{err}
	}
	return sv, err
}

// startOptions are what PlanStart has to know of the configuration, and of what
// was found out about the server.
func (s *source) startOptions(ctx context.Context, known *relay.SourceState, reset *relay.Reset) (relay.StartOptions, error) {
	other, err := s.inOtherHistory(ctx, known, reset != nil)
	return relay.StartOptions{
		Source: s.cfg.Name, Slot: s.cfg.Slot, Publication: s.cfg.Publication, Reset: reset, OtherHistory: other,
		AcceptAddress: slices.Contains(s.d.o.AcceptAddress, s.cfg.Name), Adopt: !s.cfg.Manage, Now: time.Now(),
	}, stored(err)
}

// open makes the ingest of a session.
func (s *source) open(ctx context.Context, state *relay.SourceState, rules placing) (*relay.Ingest, error) {
	stream := walStream(s.cfg.Name)
	ic := relay.IngestConfig{
		Stream: stream, Source: s.cfg.Name, SystemID: state.SystemID, Rules: rules.rules, Waiting: rules.waiting, Placed: s.placed,
		Log: s.d.store, Feed: s.d.feed, Logger: s.d.log, MaxFailures: s.cfg.MaxRuleFailures, Stats: &s.stats,
		Listed: s.cfg.Columns == config.ColumnsRules || s.server.Publication.Listed(), Recent: &s.recent, Keep: s.cfg.KeepChanges > 0,
	}
	if s.cfg.Confirm == config.ConfirmDelivered {
		ic.Settled = func() int64 { return s.d.dispatcher.Settled(stream) }
	}
	in, err := relay.NewIngest(ctx, ic, state)
	if err != nil {
		return nil, stored(err)
	}
	s.live = in
	s.placed() // the status and the publication are looked at
	s.mu.Lock()
	s.ingest = in
	paused := s.paused
	s.mu.Unlock()
	if paused != "" {
		in.Pause(paused)
	}
	return in, nil
}

// checkRules holds the rules against the live catalogue.
func (s *source) checkRules(ctx context.Context) error {
	c := s.rules.Load()
	known, certain, hazards, err := s.checkAgainst(ctx, c)
	if err != nil {
		return err
	}
	s.checkDrift(c.cfg, known)
	s.warnOnce(&s.hazards, hazards.Error(), len(hazards) > 0, "a rule fails on some rows: see rowhook check --database")
	if len(certain) == 0 {
		return nil
	}
	var text []string
	for _, e := range certain.Errs() {
		text = append(text, e.Error())
	}
	st, err := s.d.store.SourceState(ctx, s.cfg.Name)
	if err != nil {
		return stored(err)
	}
	return &ConfigError{
		Source: s.cfg.Name, Known: known, Detail: strings.Join(text, "\n"),
		First: st == nil || st.Phase != relay.PhaseStreaming,
	}
}

// checkDrift says where the live catalogue differs from the saved one in what a
// rule depends on.
func (s *source) checkDrift(cfg *config.Config, known map[string]config.Known) {
	file := cfg.Settings.Catalog
	if file == "" {
		return
	}
	_, saved, err := config.LoadCatalog(file, cfg)
	if err != nil {
		s.warnOnce(&s.drift, err.Error(), true, "the saved catalogue is of no use")
		return
	}
	var text []string
	for _, d := range config.Drift(cfg, saved, known) {
		text = append(text, d.Detail)
	}
	s.warnOnce(&s.drift, strings.Join(text, "\n"), len(text) > 0, "the catalogue has drifted from the saved one")
}

// checkAgainst holds the rules of a configuration against the live catalogue,
// and tells what is certainly wrong from what is only on some rows.
func (s *source) checkAgainst(ctx context.Context, c *configured) (known map[string]config.Known, certain, hazards config.Diagnostics, err error) {
	tables, _ := c.Tables()
	catalog, all, err := cdc.ReadCatalog(ctx, s.cfg.URL, tables)
	if err != nil {
		return nil, nil, nil, err
	}
	known = map[string]config.Known{s.cfg.Name: {Catalog: catalog, Tables: all}}
	certain, hazards = config.Hazards(config.Check(c.cfg, known))
	return known, certain, hazards, nil
}

// warnOnce logs a problem when it is another one than at the last session.
func (s *source) warnOnce(last *string, problem string, is bool, msg string) {
	if !is {
		problem = ""
	}
	if problem != "" && problem != *last {
		s.log.Warn(msg, "problem", problem)
	}
	*last = problem
}

// createSlot makes the slot of a plan and stores where it begins. With snapshot
// the backfiller gets the snapshot that the slot begins with.
func (s *source) createSlot(ctx context.Context, sv *cdc.ServerState, plan *relay.StartPlan, snapshot bool) (relay.SourceState, error) {
	state := plan.State
	if plan.Action == relay.StartRecreate {
		if err := cdc.DropSlot(ctx, s.cfg.URL, s.cfg.Slot); err != nil {
			return state, err
		}
	}
	o := cdc.SlotOptions{Failover: s.cfg.Failover && sv.CanFailover(), Waits: s.slotWaits}
	if snapshot {
		o.Exported = s.backfills.adopt
	}
	lsn, err := cdc.CreateSlot(ctx, s.cfg.URL, s.cfg.Slot, o)
	if err != nil {
		return state, err
	}
	s.setState(api.SourceStarting, "")
	s.log.Info("slot created", "slot", s.cfg.Slot, "lsn", lsn.String())
	state.Phase, state.LSN, state.UpdatedAt = relay.PhaseStreaming, lsn, time.Now().UnixMicro()
	return state, stored(s.d.store.PutSource(ctx, &state, nil))
}

// readGaps counts the recorded gaps.
func (s *source) readGaps(ctx context.Context) error {
	gaps, err := s.d.store.Gaps(ctx, s.cfg.Name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gaps = int64(len(gaps)); len(gaps) > 0 {
		s.lastGap = &gaps[len(gaps)-1]
	}
	return nil
}

func (s *source) noteGap(g *relay.Gap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps++
	s.lastGap = g
}

// relayState is what the decision about a start needs of the server's state.
func relayState(sv *cdc.ServerState) *relay.ServerState {
	out := &relay.ServerState{
		SystemID: sv.SystemID, Timeline: sv.Timeline, Database: sv.Database, Address: sv.Address, Flush: sv.Flush,
	}
	for _, h := range sv.History {
		out.History = append(out.History, relay.TimelineSwitch{Timeline: h.Timeline, At: h.At})
	}
	if sl := sv.Slot; sl != nil {
		out.Slot = &relay.SlotState{
			Name: sl.Name, Plugin: sl.Plugin, Database: sl.Database, Physical: sl.Physical,
			ConfirmedFlush: sl.ConfirmedFlush, Lost: sl.Lost,
		}
	}
	return out
}
