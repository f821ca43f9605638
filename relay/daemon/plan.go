package daemon

import (
	"context"
	"strings"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
)

// Plan compares the source's rules with its database: what a start makes and
// alters, and what somebody else has to. It changes nothing. rules may be those
// of several sources.
func Plan(ctx context.Context, cfg *config.Source, rules []*relay.Rule) (*cdc.Plan, error) {
	return cdc.ReadPlan(ctx, cfg.URL, planOptions(cfg, relay.NewRuleSet(cfg.Name, rules)))
}

func planOptions(cfg *config.Source, rules *relay.RuleSet) cdc.PlanOptions {
	_, ops := rules.Tables()
	return cdc.PlanOptions{
		Slot: cfg.Slot, Publication: cfg.Publication, Managed: cfg.Manage, Failover: cfg.Failover,
		Want: cdc.Want{Tables: rules.Columns(), Ops: ops, Least: cfg.Columns == config.ColumnsRules},
	}
}

// publish makes or checks the publication.
func (s *source) publish(ctx context.Context) error {
	o := planOptions(s.cfg, s.rules)
	plan, err := cdc.ReadPlan(ctx, s.cfg.URL, o)
	if err != nil {
		return err
	}
	if !s.warned { // a source may start often
		s.warned = true
		for _, w := range plan.Warnings {
			s.log.Warn(w.Summary, "detail", w.Detail)
		}
	}
	if !s.cfg.Manage {
		if err := plan.Unmanaged(); err != nil {
			return err
		}
		for _, step := range plan.Steps {
			s.log.Warn("the "+step.Kind+" is not as the rules ask for", "changes", strings.Join(step.Changes, "; "), "sql", strings.Join(step.SQL, " "))
		}
		return nil
	}
	done, err := cdc.EnsurePublication(ctx, s.cfg.URL, s.cfg.Publication, o.Want)
	for _, sql := range done {
		s.log.Info("publication changed", "sql", sql)
	}
	return err
}
