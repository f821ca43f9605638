package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay/daemon"
)

// exitChanges is of plan: there is something to do.
const exitChanges = 2

// planOptions is what the flags of plan say.
type planOptions struct {
	config []string
	source string // "" is all
}

// planFunc plans the sources of a configuration. Mistakes of the configuration
// have been printed when it returns an *exitError without an error in it.
type planFunc func(ctx context.Context, o *planOptions) ([]sourcePlan, error)

// sourcePlan is what plan prints of one source. The JSON is its interface.
type sourcePlan struct {
	Source   string        `json:"source"`
	Address  string        `json:"address,omitempty"`
	Database string        `json:"database,omitempty"`
	Version  string        `json:"version,omitempty"` // 15.18
	Role     string        `json:"role,omitempty"`
	Service  string        `json:"service,omitempty"`
	Steps    []planStep    `json:"steps"`
	Warnings []planWarning `json:"warnings"`
	// Error is why there is no plan.
	Error string `json:"error,omitempty"`
}

type planStep struct {
	Action  string   `json:"action"` // create or alter
	Kind    string   `json:"kind"`   // publication, slot, setting or role
	Name    string   `json:"name"`
	By      string   `json:"by"` // run, or dba
	Changes []string `json:"changes"`
	Why     string   `json:"why,omitempty"` // it is not by run
	Detail  string   `json:"detail,omitempty"`
	SQL     []string `json:"sql"`
}

type planWarning struct {
	Summary string   `json:"summary"`
	Detail  string   `json:"detail,omitempty"`
	SQL     []string `json:"sql,omitempty"`
}

// Who does a step.
const (
	byRun = "run"
	byDBA = "dba"
)

func (p *program) planCommand() *cobra.Command {
	var o planOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "plan [SOURCE]",
		Short: "Show what run would create or alter in the databases",
		Long: `Plan compares the rules with the live databases. It prints what 'rowhook run'
creates or alters when it starts, with the exact SQL; what a DBA has to do where
the role may not or manage = false forbids it; and what will surprise somebody
later. It changes nothing: its sessions are read-only.

It ends with exit code 0 when there is nothing to do, 2 when there is, and 1
after an error, also one of the command line or the configuration.`,
		Example: `  rowhook plan
  rowhook plan shop -c /etc/rowhook
  rowhook plan --json | jq -r '.sources[].steps[] | select(.by == "dba").sql[]'`,
		Args: func(_ *cobra.Command, args []string) error { return planError(maxArgs(1)(nil, args)) },
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.config, err = configPaths(o.config); err != nil {
				return planError(err)
			}
			if len(args) > 0 {
				o.source = args[0]
			}
			plans, err := p.plan(cmd.Context(), &o)
			if err != nil {
				return planError(err)
			}
			if asJSON {
				err = p.printJSON(struct {
					Sources []sourcePlan `json:"sources"`
				}{plans})
			} else {
				p.printPlans(plans)
			}
			if err != nil {
				return planError(err)
			}
			return planExit(plans)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return planError(usageErrorf("%w", err)) })
	configFlag(cmd, &o.config)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// planError gives an error the exit code 1: 2 is a result.
func planError(err error) error {
	exit, ok := errors.AsType[*exitError](err)
	if !ok {
		return err
	}
	changed := *exit
	changed.code = exitFailure
	return &changed
}

func planExit(plans []sourcePlan) error {
	changes := false
	for i := range plans {
		if plans[i].Error != "" {
			return &exitError{code: exitFailure}
		}
		changes = changes || len(plans[i].Steps) > 0
	}
	if changes {
		return &exitError{code: exitChanges}
	}
	return nil
}

// planSources plans for the live databases.
func (p *program) planSources(ctx context.Context, o *planOptions) ([]sourcePlan, error) {
	cfg, files, err := p.loadFiles(o.config, false)
	if err != nil {
		return nil, err
	}
	if o.source != "" && cfg.Source(o.source) == nil {
		return nil, usageErrorf("the configuration has no source %q", o.source)
	}
	plans := []sourcePlan{}
	for i := range cfg.Sources {
		src := &cfg.Sources[i]
		if o.source != "" && src.Name != o.source {
			continue
		}
		known, err := p.catalog(ctx, cfg, src.Name, src.URL)
		if err != nil {
			plans = append(plans, sourcePlan{Source: src.Name, Error: err.Error()})
			continue
		}
		diags := config.Check(cfg, map[string]config.Known{src.Name: known})
		width, color := p.terminal(p.stderr)
		if err := files.Write(p.stderr, diags, width, color); err != nil {
			return nil, err
		}
		if diags.HasErrors() {
			plans = append(plans, sourcePlan{Source: src.Name, Error: "the rules do not fit the database"})
			continue
		}
		plan, err := daemon.Plan(ctx, src, cfg.Rules)
		if err != nil {
			plans = append(plans, sourcePlan{Source: src.Name, Error: err.Error()})
			continue
		}
		plans = append(plans, newSourcePlan(src.Name, plan))
	}
	return plans, nil
}

func newSourcePlan(name string, plan *cdc.Plan) sourcePlan {
	st := plan.Server
	out := sourcePlan{
		Source: name, Address: st.Address, Database: st.Database, Version: fmt.Sprintf("%d.%d", st.Version/10000, st.Version%10000),
		Role: st.User, Service: string(st.Service), Steps: []planStep{}, Warnings: []planWarning{},
	}
	for _, s := range plan.Steps {
		by := byDBA
		if s.Run {
			by = byRun
		}
		out.Steps = append(out.Steps, planStep{
			Action: string(s.Action), Kind: s.Kind, Name: s.Name, By: by, Changes: s.Changes, Why: s.Why, Detail: s.Detail, SQL: s.SQL,
		})
	}
	for _, w := range plan.Warnings {
		out.Warnings = append(out.Warnings, planWarning(w))
	}
	return out
}

// printPlans prints plans for people.
func (p *program) printPlans(plans []sourcePlan) {
	_, color := p.terminal(p.stdout)
	out := planPrinter{w: p.stdout, color: color}
	var made, altered, dba, warnings, errs int64
	for i := range plans {
		s := &plans[i]
		out.source(s)
		for j := range s.Steps {
			if s.Steps[j].Action == string(cdc.StepCreate) {
				made++
			} else {
				altered++
			}
			if s.Steps[j].By == byDBA {
				dba++
			}
		}
		warnings += int64(len(s.Warnings))
		if s.Error != "" {
			errs++
		}
	}
	switch {
	case errs > 0:
		fmt.Fprintf(p.stdout, "No plan for %s.\n", plural(errs, "source", "sources"))
	case made+altered == 0:
		fmt.Fprintf(p.stdout, "Nothing to do; %s.\n", plural(warnings, "warning", "warnings"))
	default:
		fmt.Fprintf(p.stdout, "Plan: %d to create, %d to alter; %s.\n", made, altered, plural(warnings, "warning", "warnings"))
		switch run := made + altered - dba; {
		case dba == 0:
			fmt.Fprintln(p.stdout, "'rowhook run' does it when it starts.")
		case run == 0:
			fmt.Fprintln(p.stdout, "A DBA has to do it, in this order, before 'rowhook run' can read.")
		default:
			fmt.Fprintf(p.stdout, "A DBA has to do %d of it first; 'rowhook run' does the rest when it starts.\n", dba)
		}
	}
}

type planPrinter struct {
	w     io.Writer
	color bool
}

// The colours of a plan, as terraform has them.
const (
	green   = "\x1b[32m"
	yellow  = "\x1b[33m"
	red     = "\x1b[31m"
	bold    = "\x1b[1m"
	unpaint = "\x1b[0m"
)

func (o planPrinter) paint(color, s string) string {
	if !o.color {
		return printable(s)
	}
	return color + printable(s) + unpaint
}

func (o planPrinter) source(s *sourcePlan) {
	fmt.Fprintf(o.w, "%s", o.paint(bold, "source "+s.Source))
	if s.Error != "" {
		fmt.Fprintln(o.w)
		for line := range strings.Lines(s.Error) {
			fmt.Fprintf(o.w, "  %s %s\n", o.paint(red, "error:"), printable(strings.TrimSuffix(line, "\n")))
		}
		fmt.Fprintln(o.w)
		return
	}
	on := ""
	if s.Service != "" {
		on = " on " + s.Service
	}
	fmt.Fprintf(o.w, ": %s\n\n", printable(fmt.Sprintf("database %s at %s, PostgreSQL %s%s, role %s", s.Database, s.Address, s.Version, on, s.Role)))
	for i := range s.Steps {
		o.step(&s.Steps[i])
	}
	for _, w := range s.Warnings {
		fmt.Fprintf(o.w, "  %s %s\n", o.paint(yellow, "warning:"), printable(w.Summary))
		if w.Detail != "" {
			fmt.Fprintf(o.w, "      %s\n", printable(w.Detail))
		}
		o.sql(w.SQL)
		fmt.Fprintln(o.w)
	}
}

func (o planPrinter) step(s *planStep) {
	sign, by := o.paint(green, "+"), ""
	if s.Action != string(cdc.StepCreate) {
		sign = o.paint(yellow, "~")
	}
	if s.By == byDBA {
		by = "  " + o.paint(bold, "by a DBA") + ": " + printable(s.Why)
	}
	fmt.Fprintf(o.w, "  %s %s %s%s\n", sign, s.Kind, o.paint(bold, s.Name), by)
	for _, c := range s.Changes {
		mark, text, _ := strings.Cut(c, " ")
		color := map[string]string{"+": green, "-": red, "~": yellow}[mark]
		if color == "" {
			mark, text, color = "~", c, yellow
		}
		fmt.Fprintf(o.w, "      %s %s\n", o.paint(color, mark), printable(text))
	}
	if s.Detail != "" {
		fmt.Fprintf(o.w, "      %s\n", printable(s.Detail))
	}
	o.sql(s.SQL)
	fmt.Fprintln(o.w)
}

func (o planPrinter) sql(statements []string) {
	if len(statements) > 0 {
		fmt.Fprintln(o.w)
	}
	for _, s := range statements {
		fmt.Fprintf(o.w, "      %s\n", printable(s))
	}
}
