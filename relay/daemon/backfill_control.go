package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
)

// newBackfill makes what a request asks for, of a rule that can be read for.
func newBackfill(rules []*relay.Rule, req *api.BackfillRequest) (*relay.Backfill, *relay.Rule, error) {
	i := slices.IndexFunc(rules, func(r *relay.Rule) bool { return r.Name == req.Event })
	if i < 0 {
		names := make([]string, len(rules))
		for j, r := range rules {
			names[j] = r.Name
		}
		return nil, nil, api.Errorf(api.CodeNotFound, "no event is called %s; there are %s", req.Event, strings.Join(names, ", "))
	}
	r := rules[i]
	switch {
	case len(r.Tables) == 0:
		return nil, nil, api.Errorf(api.CodeInvalid, "the event %s is not about a table, so it has no rows", r.Name)
	case !r.Ops.Has(relay.Read):
		return nil, nil, api.Errorf(api.CodeInvalid, "the event %s makes nothing of rows that are read: add \"read\" to its on", r.Name)
	case req.Rate < 0:
		return nil, nil, api.Errorf(api.CodeInvalid, "a rate is a number of rows a second, from 1")
	}
	return &relay.Backfill{Source: r.Source, Rule: r.Name, Where: req.Where, Rate: req.Rate, CreatedAt: time.Now().UnixMicro()}, r, nil
}

// StartBackfill implements admin.Changes. What can be known now is: whether the
// role may read the tables, and what the server says to the condition.
func (d *Daemon) StartBackfill(ctx context.Context, req *api.BackfillRequest) (*api.Backfill, error) {
	var rules []*relay.Rule
	for _, s := range d.sources {
		rules = append(rules, s.rules.Load().Rules()...)
	}
	job, rule, err := newBackfill(rules, req)
	if err != nil {
		return nil, err
	}
	s := d.source(rule.Source)
	n, err := checkRead(ctx, &s.backfills.cfg, rule, req.Where)
	var setup *cdc.SetupError
	switch {
	case errors.As(err, &setup):
		return nil, api.Errorf(api.CodeInvalid, "%s", reasonText(err))
	case err != nil:
		return nil, api.Errorf(api.CodeConflict, "the tables cannot be looked at: %v", err)
	}
	job.Progress.Estimate = max(n, 1)
	if err := d.store.AddBackfill(ctx, job); err != nil {
		return nil, err
	}
	s.backfills.kick()
	return d.backfill(ctx, job.ID)
}

// CancelBackfill implements admin.Changes.
func (d *Daemon) CancelBackfill(ctx context.Context, req *api.CancelBackfillRequest) (*api.Backfill, error) {
	if err := cancelBackfill(ctx, d.store, req.ID); err != nil {
		return nil, err
	}
	for _, s := range d.sources {
		s.backfills.stop(req.ID)
	}
	return d.backfill(ctx, req.ID)
}

func cancelBackfill(ctx context.Context, store relay.Backfills, id int64) error {
	ended, err := store.EndBackfill(ctx, id, relay.BackfillCancelled, "", time.Now().UnixMicro())
	if err == nil && !ended {
		return api.Errorf(api.CodeConflict, "backfill %d has ended already", id)
	}
	return err
}

func (d *Daemon) backfill(ctx context.Context, id int64) (*api.Backfill, error) {
	res, err := d.Backfills(ctx, &api.BackfillsRequest{ID: id})
	if err != nil {
		return nil, err
	}
	return &res.Backfills[0], nil
}

// Backfills implements admin.Reads: what the store has, and of the backfill of
// each source that is under way what it does at the moment.
func (d *Daemon) Backfills(ctx context.Context, req *api.BackfillsRequest) (*api.Backfills, error) {
	res, err := d.Views.Backfills(ctx, req)
	if err != nil {
		return nil, err
	}
	for i := range res.Backfills {
		b := &res.Backfills[i]
		if b.State != api.BackfillWaiting {
			continue
		}
		s := d.source(b.Source)
		if s == nil {
			b.Reason = "the source is not in the configuration"
			continue
		}
		live := s.backfills.status()
		if state, reason := s.standing(); state != api.SourceStreaming {
			b.Reason = "the source is " + state
			if reason != "" {
				b.Reason += ": " + reason
			}
		}
		if live.job.ID == b.ID {
			live.tell(b)
		}
	}
	return res, nil
}

// tell completes what is known of the backfill under way.
func (l *liveBackfill) tell(b *api.Backfill) {
	if l.cancel != nil && b.Reason == "" {
		b.State, b.RowsPerSecond = api.BackfillRunning, l.rate()
		if b.Rate > 0 { // the first rows come at once
			b.RowsPerSecond = min(b.RowsPerSecond, float64(b.Rate))
		}
	}
	b.Rows = max(b.Rows, l.job.Progress.Rows)
	b.Estimate = max(b.Estimate, l.job.Progress.Estimate)
	if b.Reason == "" {
		b.Reason = l.note
	}
}

// backfill returns the backfill under way, nil when there is none.
func (s *source) backfill() *api.Backfill {
	live := s.backfills.status()
	if live.cancel == nil {
		return nil
	}
	b := admin.Backfill(&live.job)
	live.tell(&b)
	return &b
}

// StartBackfill implements admin.Changes: the rows are read when the daemon
// runs.
func (o *Offline) StartBackfill(ctx context.Context, req *api.BackfillRequest) (*api.Backfill, error) {
	if o.cfg == nil {
		return nil, api.Errorf(api.CodeInvalid, "the daemon does not run: name the configuration with -c, which has the event")
	}
	job, _, err := newBackfill(o.cfg.Rules, req)
	if err != nil {
		return nil, err
	}
	if err := o.store.AddBackfill(ctx, job); err != nil {
		return nil, err
	}
	b := admin.Backfill(job)
	return &b, nil
}

// CancelBackfill implements admin.Changes.
func (o *Offline) CancelBackfill(ctx context.Context, req *api.CancelBackfillRequest) (*api.Backfill, error) {
	if err := cancelBackfill(ctx, o.store, req.ID); err != nil {
		return nil, err
	}
	res, err := o.Backfills(ctx, &api.BackfillsRequest{ID: req.ID})
	if err != nil {
		return nil, err
	}
	return &res.Backfills[0], nil
}
