// Package daemon wires the parts into one process: it is the composition root.
//
// A [Daemon] opens the store, makes a dispatcher for the endpoints, and runs
// one loop a source. A source that cannot go on stops alone, with its reason in
// the status; deliveries and the other sources go on. [Offline] is the same
// face to the store of a daemon that does not run.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
	"github.com/rowhook/rowhook/relay/sqlitestore"
	"github.com/rowhook/rowhook/sinks/stdout"
	"github.com/rowhook/rowhook/sinks/webhook"
)

// Options are what a daemon is made of.
type Options struct {
	Config *config.Config
	// Load reads the configuration again, for a reload; nil is that there is
	// nothing to read.
	Load    func() (*config.Config, *config.Files, config.Diagnostics)
	Logger  *slog.Logger
	Version string
	// Resets are applied once, at the start of their source.
	Resets []relay.Reset
	// AcceptAddress names sources whose database may have another address than
	// the store was made for.
	AcceptAddress []string
	// ExitOnSourceStop ends Run with an error when a source stops.
	ExitOnSourceStop bool
	// Stdout is where sinks of type stdout print.
	Stdout io.Writer
	// StoreOptions are for tests; Dir and Logger are set by New.
	StoreOptions sqlitestore.Options
}

// Daemon is a running Rowhook.
type Daemon struct {
	*admin.Views
	o          Options
	log        *slog.Logger
	store      *sqlitestore.Store
	feed       *relay.Feed
	dispatcher *relay.Dispatcher
	sources    []*source
	tcp, unix  net.Listener
	started    time.Time
	cfg        atomic.Pointer[config.Config] // what a reload changes is in here

	reloading sync.Mutex
	closers   map[string]func() // of sinks, by endpoint

	retrying sync.Mutex // one retry of failed changes at a time

	mu     sync.Mutex
	counts map[string]map[relay.State]int64
	size   int64
	full   string // why the log takes nothing, or ""
	owners map[string]string
	// matched are the names of the rules that have matched since the store was
	// made, as far as the store knows.
	matched []string
}

// walStream and notifyStream name the streams of a source.
func walStream(source string) string    { return source }
func notifyStream(source string) string { return source + "/notify" }

// lockPatience is how long a start waits for the data folder: a command that
// works on a stopped daemon's store has it for a moment.
const lockPatience = 3 * time.Second

func openStore(ctx context.Context, o sqlitestore.Options) (*sqlitestore.Store, error) {
	patience := time.After(lockPatience)
	for {
		store, err := sqlitestore.Open(ctx, o)
		if !errors.Is(err, relay.ErrStoreLocked) {
			return store, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-patience:
			return nil, err
		case <-ctx.Done():
			return nil, err
		}
	}
}

// New opens the store and everything else that can fail before anything is
// read or sent.
func New(ctx context.Context, o Options) (_ *Daemon, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	set := o.Config.Settings
	so := o.StoreOptions
	so.Dir, so.Logger = set.DataDir, o.Logger
	store, err := openStore(ctx, so)
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		Views: &admin.Views{Store: store, Version: o.Version, DataDir: set.DataDir, Log: set.Retention},
		o:     o, log: o.Logger, store: store, feed: relay.NewFeed(), started: time.Now(),
		counts: map[string]map[relay.State]int64{}, owners: map[string]string{}, closers: map[string]func(){},
	}
	d.Pending = d.pending
	d.cfg.Store(o.Config)
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err := d.readMatched(ctx); err != nil {
		return nil, err
	}
	var streams []string
	for i := range o.Config.Sources {
		s, err := newSource(ctx, d, &o.Config.Sources[i])
		if err != nil {
			return nil, err
		}
		d.sources = append(d.sources, s)
		streams = append(streams, walStream(s.cfg.Name), notifyStream(s.cfg.Name), retriedStream(s.cfg.Name))
	}
	for _, r := range o.Resets {
		if d.source(r.Source) == nil {
			return nil, fmt.Errorf("--reset-checkpoint names the source %q, which the configuration does not have", r.Source)
		}
	}
	states, err := store.Streams(ctx)
	if err != nil {
		return nil, err
	}
	for name, st := range states {
		d.feed.Open(name, st.Head)
	}
	endpoints, err := d.endpoints()
	if err != nil {
		return nil, err
	}
	d.dispatcher, err = relay.NewDispatcher(ctx, relay.DispatcherConfig{
		Ledger: store, Feed: d.feed, Endpoints: endpoints, Logger: d.log, Grace: set.ShutdownGrace,
	}, streams)
	if err != nil {
		return nil, err
	}
	d.refresh(ctx)
	var lc net.ListenConfig
	if d.tcp, err = lc.Listen(ctx, "tcp", set.Listen); err != nil {
		return nil, fmt.Errorf("listen for health and metrics (rowhook { listen = %q }): %w", set.Listen, err)
	}
	path, err := filepath.Abs(api.SocketPath(set.DataDir))
	if err != nil {
		return nil, err
	}
	if d.unix, err = api.ListenSocket(ctx, path); err != nil {
		return nil, err
	}
	return d, nil
}

// config returns the configuration as it is now.
func (d *Daemon) config() *config.Config { return d.cfg.Load() }

// endpoints makes the sinks of the configuration.
func (d *Daemon) endpoints() ([]*relay.Endpoint, error) {
	var out []*relay.Endpoint
	for i := range d.o.Config.Sinks {
		e, closer, err := d.endpoint(&d.o.Config.Sinks[i])
		if err != nil {
			return nil, err
		}
		d.closers[e.ID] = closer
		out = append(out, e)
	}
	return out, nil
}

// endpoint makes one sink. The function it returns closes it.
func (d *Daemon) endpoint(s *config.Sink) (*relay.Endpoint, func(), error) {
	e := s.Endpoint
	if s.Webhook == nil {
		w := d.o.Stdout
		if w == nil {
			w = io.Discard
		}
		e.Sink = stdout.New(w)
		return &e, func() {}, nil
	}
	headers := map[string]relay.Secret{}
	for _, h := range s.Webhook.Headers {
		headers[h.Name] = h.Value
	}
	hook, err := webhook.New(webhook.Config{
		URL: s.Webhook.URL, Secrets: s.Webhook.Secrets, Unsigned: len(s.Webhook.Secrets) == 0,
		Format: s.Webhook.Format, Timeout: s.Webhook.Timeout, Headers: headers,
		AllowPrivate: s.Webhook.AllowPrivate, MaxInFlight: e.MaxInFlight, UserAgent: "Rowhook/" + d.o.Version,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("sink %q: %w", e.ID, err)
	}
	e.Sink = hook
	return &e, hook.Close, nil
}

func (d *Daemon) source(name string) *source {
	for _, s := range d.sources {
		if s.cfg.Name == name {
			return s
		}
	}
	return nil
}

func (d *Daemon) close() {
	for _, l := range []net.Listener{d.tcp, d.unix} {
		if l != nil {
			_ = l.Close()
		}
	}
	for _, f := range d.closers {
		f()
	}
	_ = d.store.Close()
}

// Run reads and delivers until ctx is done. Then it stops reading, ends the
// attempts under way within the grace period, stores how far it is, and returns
// nil. It returns an error when the daemon cannot go on.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.close()
	d.log.Info("rowhook is running", "version", d.o.Version, "data_dir", d.o.Config.Settings.DataDir, "listen", d.tcp.Addr().String(),
		"sources", len(d.sources), "endpoints", len(d.o.Config.Sinks))
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	errDone := errors.New("told to stop")
	stopping := make(chan struct{})
	context.AfterFunc(ctx, func() {
		d.log.Info("stopping", "reason", reasonOf(ctx))
		close(stopping)
	})

	var work, serve sync.WaitGroup
	goErr := func(wg *sync.WaitGroup, what string, ctx context.Context, run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				stop(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	for _, s := range d.sources {
		goErr(&work, "source "+s.cfg.Name, ctx, s.run)
		goErr(&work, "notifications of "+s.cfg.Name, ctx, s.runNotify)
	}
	goErr(&work, "deliveries", ctx, d.dispatcher.Run)
	serving, done := context.WithCancel(context.WithoutCancel(ctx))
	server := &admin.Server{Actions: d, Logger: d.log}
	goErr(&serve, "api", serving, func(ctx context.Context) error { return server.Run(ctx, d.tcp, d.unix) })
	goErr(&serve, "retention", serving, d.keepHouse)
	work.Wait()
	done()
	serve.Wait()
	stop(errDone)
	<-stopping
	if err := context.Cause(ctx); err != nil && !errors.Is(err, errDone) && !errors.Is(err, context.Canceled) {
		return err
	}
	d.log.Info("stopped")
	return nil
}

func reasonOf(ctx context.Context) string {
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err.Error()
	}
	return "told to stop"
}

// claim makes the source the owner of a database: two sources on one system
// identifier and database are refused.
func (d *Daemon) claim(source string, systemID uint64, database string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := fmt.Sprintf("%d/%s", systemID, database)
	if other, ok := d.owners[key]; ok && other != source {
		return fmt.Errorf("source %s reads the same database %s of the same cluster as source %s: give its rules to one of them", source, database, other)
	}
	for k, v := range d.owners {
		if v == source {
			delete(d.owners, k)
		}
	}
	d.owners[key] = source
	return nil
}

// houseInterval is how often the log's bounds and the counts of the status are
// looked at; blocks past their age go every trimEvery of them.
const (
	houseInterval = 2 * time.Second
	trimEvery     = 15
)

// keepHouse keeps the log within its bounds.
func (d *Daemon) keepHouse(ctx context.Context) error {
	tick := time.NewTicker(houseInterval)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			d.noteMatched(context.WithoutCancel(ctx))
			return nil
		}
		d.refresh(ctx)
		d.noteMatched(ctx)
		if _, err := d.store.TrimKept(ctx, d.keptLimits()); err != nil && ctx.Err() == nil {
			d.log.Error("retention of kept changes failed", "err", err)
		}
		limits := d.config().Settings.Retention
		over := limits.MaxBytes > 0 && d.size > limits.MaxBytes/10*9
		if n%trimEvery != 0 && !over && d.full == "" {
			continue
		}
		if err := d.trim(ctx, limits, over); err != nil && ctx.Err() == nil {
			d.log.Error("retention failed", "err", err)
		}
	}
}

// keptLimits returns how much each stream keeps of its changes.
func (d *Daemon) keptLimits() map[string]relay.RetentionLimits {
	limits := map[string]relay.RetentionLimits{}
	for _, s := range d.sources {
		if s.cfg.KeepChanges > 0 {
			l := relay.RetentionLimits{Age: s.cfg.KeepChanges, MaxBytes: s.cfg.KeepChangesSize}
			limits[walStream(s.cfg.Name)], limits[notifyStream(s.cfg.Name)] = l, l
		}
	}
	return limits
}

// trim removes what is settled and old, or settled and in the way, and applies
// on_full where that is not enough.
func (d *Daemon) trim(ctx context.Context, limits relay.RetentionLimits, over bool) error {
	keep := map[string]int64{}
	states, err := d.store.Streams(ctx)
	if err != nil {
		return err
	}
	for name := range states {
		keep[name] = d.dispatcher.Keep(name)
	}
	if _, err := d.store.Trim(ctx, limits, keep); err != nil {
		return err
	}
	if over || d.full != "" {
		d.refresh(ctx)
	}
	switch {
	case limits.MaxBytes > 0 && d.size > limits.MaxBytes:
		if d.config().Settings.OnFull == config.OnFullExpire {
			return d.expire(ctx, limits.MaxBytes, states)
		}
		d.setFull(fmt.Sprintf("the log holds %d bytes of undelivered events and may hold %d (log { max_size, on_full })", d.size, limits.MaxBytes))
	default:
		d.setFull("")
	}
	return nil
}

// expire makes the oldest deliveries dead until the log is within its bound.
func (d *Daemon) expire(ctx context.Context, maxBytes int64, states map[string]relay.StreamState) error {
	for _, name := range slices.Sorted(maps.Keys(states)) {
		for d.size > maxBytes/100*95 {
			blocks, err := d.store.Blocks(ctx, name, 0, 4<<20)
			if err != nil {
				return err
			}
			if len(blocks) == 0 {
				break
			}
			upTo := blocks[len(blocks)-1].Last
			n, err := d.dispatcher.Expire(ctx, name, upTo)
			if err != nil {
				return err
			}
			if _, err := d.store.ExpireOldest(ctx, name, upTo); err != nil {
				return err
			}
			d.log.Warn("the log is full, its oldest deliveries are dead", "stream", name, "deliveries", n)
			d.refresh(ctx)
		}
	}
	return nil
}

// setFull stops the reading for the reason, or lets it go on.
func (d *Daemon) setFull(reason string) {
	d.mu.Lock()
	before := d.full
	d.full = reason
	d.mu.Unlock()
	switch {
	case before == "" && reason != "":
		d.log.Error("the log is full, reading stops", "reason", reason)
	case before != "" && reason == "":
		d.log.Info("the log has room again, reading goes on")
	}
	for _, s := range d.sources {
		s.setPaused(reason)
	}
}

// refresh reads what the status tells of the store.
func (d *Daemon) refresh(ctx context.Context) {
	counts, cerr := d.store.DeliveryCounts(ctx)
	size, serr := d.store.Size(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	if cerr == nil {
		d.counts = counts
	}
	if serr == nil {
		d.size = size
	}
}
