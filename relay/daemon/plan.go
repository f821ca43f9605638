package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
)

// Plan compares the source's rules with its database: what a start makes and
// alters, and what somebody else has to. It changes nothing. rules may be those
// of several sources.
func Plan(ctx context.Context, cfg *config.Source, rules []*relay.Rule) (*cdc.Plan, error) {
	return cdc.ReadPlan(ctx, cfg.URL, planOptions(cfg, relay.NewRuleSet(cfg.Name, rules).Needs()))
}

func planOptions(cfg *config.Source, needs relay.Needs) cdc.PlanOptions {
	return cdc.PlanOptions{
		Slot: cfg.Slot, Publication: cfg.Publication, Managed: cfg.Manage, Failover: cfg.Failover,
		Want: cdc.Want{Tables: needs.Reads(), Ops: needs.Ops(), Least: cfg.Columns == config.ColumnsRules},
	}
}

// publish makes the publication send what the configured rules need, beside
// what is needed until they take effect, and returns the statements it ran. A
// publication that a person manages is only checked.
func (s *source) publish(ctx context.Context, sv *cdc.ServerState, until, next relay.Needs) ([]string, error) {
	o := planOptions(s.cfg, next)
	o.AnySlot = true // the start has judged it
	plan, err := cdc.ReadPlan(ctx, s.cfg.URL, o)
	if err != nil {
		return nil, err
	}
	if !s.warned { // a source may start often
		s.warned = true
		for _, w := range plan.Warnings {
			s.log.Warn(w.Summary, "detail", w.Detail)
		}
	}
	if !s.cfg.Manage {
		return nil, s.checkPublished(plan, sv.Publication, next)
	}
	want := planOptions(s.cfg, until.Union(next)).Want
	// What only the sets before need is there already, and may have been dropped
	// or changed so that it cannot be published any more.
	want.Tables = slices.DeleteFunc(want.Tables, func(t relay.TableColumns) bool {
		former := next.Table(t.TableName) == nil
		if former {
			want.Keep = append(want.Keep, t.TableName)
		}
		return former
	})
	done, err := cdc.EnsurePublication(ctx, s.cfg.URL, s.cfg.Publication, want)
	for _, sql := range done {
		s.log.Info("publication changed", "sql", sql)
	}
	return done, err
}

// checkPublished refuses a publication of a person that does not send what the
// rules need: they would miss changes, and nobody could tell which.
func (s *source) checkPublished(plan *cdc.Plan, pub *cdc.PublicationState, needs relay.Needs) error {
	if err := plan.Unmanaged(); err != nil {
		return err
	}
	lacks := pub.Lacks(needs)
	var sql []string
	for _, step := range plan.Steps {
		if step.Kind == "publication" && len(lacks) > 0 {
			sql = append(sql, step.SQL...)
			continue
		}
		s.log.Warn("the "+step.Kind+" is not as the rules ask for", "changes", strings.Join(step.Changes, "; "), "sql", strings.Join(step.SQL, " "))
	}
	if len(lacks) == 0 {
		return nil
	}
	return &cdc.SetupError{
		Summary: fmt.Sprintf("publication %s does not send what the rules need, and manage = false forbids to alter it", s.cfg.Publication),
		Detail:  strings.Join(lacks, "; "), SQL: sql,
	}
}
