package daemon

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// placeWait is how long a reload waits for the rules to come into force before
// it answers that they will.
const placeWait = 5 * time.Second

// reload is one reload: everything that can fail is done before anything that
// runs is touched.
type reload struct {
	d        *Daemon
	cfg      *config.Config
	files    *config.Files
	res      *api.ReloadResponse
	put      []*relay.Endpoint
	closers  map[string]func() // of put
	sources  []*sourceReload   // whose rules change
	warnings config.Diagnostics
}

// sourceReload is the new rules of one source.
type sourceReload struct {
	s    *source
	next *configured
	sv   *cdc.ServerState
	// altered says that the publication was, grown that it has what the rules
	// need and that no transaction under way wrote before it had.
	altered, grown bool
}

// Reload implements admin.Changes: events, locals, sinks and the log's bounds
// become as the configuration files say now. A configuration with a mistake, or
// with a change that needs a restart, changes nothing.
func (d *Daemon) Reload(ctx context.Context, _ *api.ReloadRequest) (*api.ReloadResponse, error) {
	if d.o.Load == nil {
		return nil, api.Errorf(api.CodeUnsupported, "this daemon has no configuration files to read again")
	}
	d.reloading.Lock()
	defer d.reloading.Unlock()
	r := &reload{d: d, res: &api.ReloadResponse{}, closers: map[string]func(){}}
	if err := r.prepare(ctx); err != nil {
		r.undo(context.WithoutCancel(ctx))
		d.log.Error("reload refused, nothing is changed", "err", err)
		return nil, err
	}
	// From here on it is done also when nobody waits for it any more.
	err := r.apply(context.WithoutCancel(ctx))
	if err != nil {
		d.log.Error("reload is not complete", "err", err)
		return nil, err
	}
	d.log.Info("reloaded", "events", r.res.Events, "sinks", r.res.Sinks)
	return r.res, nil
}

// undo takes back what prepare has done.
func (r *reload) undo(ctx context.Context) {
	for _, closer := range r.closers {
		closer()
	}
	for _, sr := range r.sources {
		if !sr.altered {
			continue
		}
		if err := sr.s.ungrow(ctx, sr.sv.Publication, sr.next.Needs()); err != nil {
			sr.s.log.Warn("the publication keeps what was added for rules that are not loaded", "err", err)
		}
	}
}

// prepare reads the files and makes and checks everything they ask for.
func (r *reload) prepare(ctx context.Context) error {
	cfg, files, diags := r.d.o.Load()
	if cfg == nil {
		return r.invalid(files, diags)
	}
	r.cfg, r.files, r.warnings = cfg, files, diags
	old := r.d.config()
	if fixed := fixedChanges(old, cfg); len(fixed) > 0 {
		return api.Errorf(api.CodeConflict, "a reload takes events, locals, sinks and the log block, and these changed too: %s. Restart the daemon, or take the change back", strings.Join(fixed, ", "))
	}
	if err := r.prepareSinks(old); err != nil {
		return api.Errorf(api.CodeInvalid, "%v", err)
	}
	r.res.Events = changes(hashes(old), hashes(cfg))
	if old.Settings != cfg.Settings {
		r.res.Log = true
	}
	for _, s := range r.d.sources {
		next := rulesOf(cfg, s.cfg.Name)
		if next.Hash() == s.rules.Load().Hash() {
			continue
		}
		sr := &sourceReload{s: s, next: next}
		if err := r.prepareSource(ctx, sr); err != nil {
			return err
		}
		r.sources = append(r.sources, sr)
	}
	// Altering a publication is the last thing that can fail.
	for _, sr := range r.sources {
		if err := r.growPublication(ctx, sr); err != nil {
			return err
		}
	}
	text := &strings.Builder{}
	if err := files.Write(text, r.warnings, 0, false); err != nil {
		return err
	}
	r.res.Warnings = text.String()
	return nil
}

// invalid returns the diagnostics as an error.
func (r *reload) invalid(files *config.Files, diags config.Diagnostics) error {
	text := &strings.Builder{}
	if err := files.Write(text, diags, 0, false); err != nil {
		return err
	}
	return api.Errorf(api.CodeInvalid, "the configuration has mistakes, nothing is changed\n\n%s", strings.TrimSpace(text.String()))
}

// prepareSource holds the rules against the live catalogue.
func (r *reload) prepareSource(ctx context.Context, sr *sourceReload) (err error) {
	s := sr.s
	if sr.sv, err = s.inspect(ctx); err != nil {
		return api.Errorf(api.CodeConflict, "the rules of source %s changed, and its database cannot be asked about them: %v", s.cfg.Name, reasonText(err))
	}
	_, certain, hazards, err := s.checkAgainst(ctx, sr.next)
	if err != nil {
		return api.Errorf(api.CodeConflict, "the rules of source %s cannot be checked: %v", s.cfg.Name, err)
	}
	if len(certain) > 0 {
		return r.invalid(r.files, certain)
	}
	r.warnings = append(r.warnings, hazards...)
	return nil
}

// growPublication alters the publication for the new rules of a source that is
// being read; a source that is not does so when it starts.
func (r *reload) growPublication(ctx context.Context, sr *sourceReload) error {
	s := sr.s
	s.placing.Lock()
	defer s.placing.Unlock()
	if s.live == nil {
		return nil
	}
	grown, done, err := s.grow(ctx, sr.sv, sr.next.Needs())
	r.res.Statements = append(r.res.Statements, done...)
	if err != nil {
		return api.Errorf(api.CodeConflict, "source %s: %s", s.cfg.Name, reasonText(err))
	}
	sr.altered, sr.grown = len(done) > 0, grown
	return nil
}

// prepareSinks makes the sinks that are new or have changed.
func (r *reload) prepareSinks(old *config.Config) error {
	before, after := sinksOf(old), sinksOf(r.cfg)
	r.res.Sinks = changes(before, after)
	for i := range r.cfg.Sinks {
		s := &r.cfg.Sinks[i]
		if id := s.Endpoint.ID; !slices.Contains(r.res.Sinks.Added, id) && !slices.Contains(r.res.Sinks.Changed, id) {
			continue
		}
		e, closer, err := r.d.endpoint(s)
		if err != nil {
			return err
		}
		r.put = append(r.put, e)
		r.closers[e.ID] = closer
	}
	return nil
}

// apply puts everything in force. Sinks come first, so that a new sink gets the
// first event of a new rule.
func (r *reload) apply(ctx context.Context) error {
	d := r.d
	if len(r.put)+len(r.res.Sinks.Removed) > 0 {
		held, err := d.dispatcher.Reconfigure(ctx, r.put, r.res.Sinks.Removed)
		if err != nil {
			return api.Errorf(api.CodeUnavailable, "%v", err)
		}
		for _, h := range held {
			r.res.Held = append(r.res.Held, api.HeldDeliveries{Sink: h.Endpoint, Deliveries: h.Count, More: h.More})
		}
		for _, id := range r.res.Sinks.Removed {
			d.closers[id]()
			delete(d.closers, id)
		}
		for id, closer := range r.closers {
			if before := d.closers[id]; before != nil {
				before()
			}
			d.closers[id] = closer
		}
	}
	d.cfg.Store(r.cfg)
	for _, sr := range r.sources {
		note, err := sr.s.reload(ctx, sr)
		if err != nil {
			note = "not in force yet, and tried again at the source's next start: " + reasonText(err)
			sr.s.log.Error("rules are not in force yet", "err", err)
		}
		r.res.Sources = append(r.res.Sources, api.ReloadedSource{Source: sr.s.cfg.Name, Note: note})
	}
	for i := range r.res.Sources {
		r.sources[i].s.await(ctx, &r.res.Sources[i], r.sources[i].next.Hash())
	}
	return nil
}

// reload makes the rules those of the configuration. A source that is being
// read goes over to them where that is right; another one does so when it
// starts, and one that has stopped tries that now.
func (s *source) reload(ctx context.Context, sr *sourceReload) (note string, err error) {
	s.placing.Lock()
	defer s.placing.Unlock()
	sr.next.Inherit(s.rules.Load().RuleSet)
	s.rules.Store(sr.next)
	if err := s.reloadNotify(ctx, sr.next.RuleSet); err != nil {
		s.log.Warn("the channels are not told yet", "err", err)
	}
	if s.live == nil {
		select {
		case s.wake <- struct{}{}:
		default:
		}
		return "the source is not being read; the rules are decided upon when it starts", nil
	}
	_, err = s.place(ctx, sr.sv, 0, s.live, sr.grown)
	s.placed()
	return "", err
}

// await waits a little until the rules are in force and says where.
func (s *source) await(ctx context.Context, res *api.ReloadedSource, hash string) {
	ctx, cancel := context.WithTimeout(ctx, placeWait)
	defer cancel()
	for {
		inForce, waiting, err := s.records(ctx)
		if err == nil {
			s.setRulesStatus(inForce, waiting)
			s.mu.Lock()
			res.Rules = s.rulesStatus
			s.mu.Unlock()
			if res.Note != "" {
				return
			}
			if inForce != nil && inForce.Hash == hash && len(waiting) == 0 {
				// A migration may wait for a column or table to leave the publication.
				if err := s.shrink(ctx); err != nil {
					s.log.Warn("the publication keeps what no rules need any more", "err", err)
				}
				return
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			res.Note = "they take effect when the source has been read up to their place; see rowhook status"
			return
		}
	}
}

// fixedChanges names what changed and cannot be reloaded.
func fixedChanges(old, now *config.Config) []string {
	var out []string
	a, b := old.Settings, now.Settings
	a.Retention, a.OnFull = b.Retention, b.OnFull
	out = append(out, fieldsThatDiffer(a, b)...)
	for _, s := range old.Sources {
		n := now.Source(s.Name)
		if n == nil {
			out = append(out, "source "+s.Name+" (removed)")
			continue
		}
		s.Range = n.Range
		for _, name := range fieldsThatDiffer(s, *n) {
			out = append(out, name+" of source "+s.Name)
		}
	}
	for _, s := range now.Sources {
		if old.Source(s.Name) == nil {
			out = append(out, "source "+s.Name+" (added)")
		}
	}
	return out
}

// fieldsThatDiffer names the exported fields of two structs, as the configuration
// writes them. The others say where something stands in the files.
func fieldsThatDiffer(a, b any) []string {
	var out []string
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		if f := x.Type().Field(i); f.IsExported() && !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			out = append(out, argumentName(f.Name))
		}
	}
	return out
}

// argumentName writes MaxRuleFailures as max_rule_failures.
func argumentName(field string) string {
	var b strings.Builder
	lower := false
	for _, c := range field {
		upper := c >= 'A' && c <= 'Z'
		if upper && lower {
			b.WriteByte('_')
		}
		lower = !upper
		b.WriteString(strings.ToLower(string(c)))
	}
	return b.String()
}

func hashes(c *config.Config) map[string]any {
	out := map[string]any{}
	for _, r := range c.Rules {
		out[r.Name] = r.Hash
	}
	return out
}

func sinksOf(c *config.Config) map[string]any {
	out := map[string]any{}
	for _, s := range c.Sinks {
		s.Range = config.Sink{}.Range
		out[s.Endpoint.ID] = s
	}
	return out
}

// changes compares what the configuration had and has, by name.
func changes(old, now map[string]any) api.Changed {
	c := api.Changed{Added: []string{}, Changed: []string{}, Removed: []string{}}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if before, ok := old[name]; !ok {
			c.Added = append(c.Added, name)
		} else if !reflect.DeepEqual(before, now[name]) {
			c.Changed = append(c.Changed, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if _, ok := now[name]; !ok {
			c.Removed = append(c.Removed, name)
		}
	}
	return c
}
