package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay/api"
)

func (p *program) explainCommand() *cobra.Command {
	var t target
	var asJSON, wait bool
	var since string
	cmd := &cobra.Command{
		Use:   "explain TABLE KEY",
		Short: "Why did no event come? Follow the changes of a row through the rules",
		Long: `Explain follows the changes of one row through the rules: which matched, which
did not and on which part of the condition, what was made, and where it went.
KEY is the row's primary key; the values of several columns are joined by commas.

What it can know:
  - A running daemon remembers the last changes of its sources in memory, half a
    MiB to one MiB of them, from its start on. They are judged by the rules as they are
    now. With --wait it is asked until the row changes.
  - The log has events of the row, by their default key, and changes on which a
    rule failed. Events of a rule with a key of its own are found with
    'rowhook events list --key'.
  - Where no change is remembered, the rules are shown on the row as it is now in
    the database. What it was before is not known then.`,
		Example: `  rowhook explain public.orders 42
  rowhook explain orders 42 --wait     # then change the row
  rowhook explain public.order_lines 42,7 --since 1h --json`,
		Args: exactArgs("TABLE", "KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &api.ExplainRequest{Table: args[0], Key: args[1]}
			var err error
			if req.Since, err = p.parseTime("since", since); err != nil {
				return err
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Explain(ctx, req)
				if err == nil && wait {
					res, err = p.awaitChange(ctx, b, req, res)
				}
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				p.printExplanation(res)
				return nil
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().StringVar(&since, "since", "", "only what happened after the `time`: 2h (ago), 2026-01-31, or 2026-01-31T10:00:00Z")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the next change of the row and explain that one")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// explainInterval is how often a daemon is asked for the next change, and
// storeTries how often for the events it made, which are stored soon.
const (
	explainInterval = 250 * time.Millisecond
	storeTries      = 20
)

// awaitChange asks until the row has changed.
func (p *program) awaitChange(ctx context.Context, b backend, req *api.ExplainRequest, before *api.Explanation) (*api.Explanation, error) {
	from := map[string]int64{}
	next := *req
	for i := range before.Rows {
		r := &before.Rows[i]
		if r.Next == 0 {
			return nil, errors.New("--wait needs a running daemon")
		}
		from[r.Source] = r.Next
		if next.From == 0 || r.Next < next.From {
			next.From = r.Next
		}
	}
	fmt.Fprintf(p.stderr, "waiting for a change of row %s of %s\n", printable(req.Key), printable(before.Table))
	tick := time.NewTicker(explainInterval)
	defer tick.Stop()
	for tries := 0; ; {
		res, err := b.Explain(ctx, &next)
		if err != nil {
			return nil, err
		}
		found, stored := false, true
		for i := range res.Rows {
			r := &res.Rows[i]
			r.Changes = slices.DeleteFunc(r.Changes, func(c api.ExplainedChange) bool { return c.N < from[r.Source] })
			found = found || len(r.Changes) > 0
			for j := range r.Changes {
				stored = stored && logged(&r.Changes[j])
			}
		}
		if found {
			if tries++; stored || tries > storeTries {
				return res, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// logged reports whether all events of a change are in the log.
func logged(c *api.ExplainedChange) bool {
	for _, r := range c.Rules {
		if slices.ContainsFunc(r.Events, func(e api.MadeEvent) bool { return !e.Logged }) {
			return false
		}
	}
	return true
}

func (p *program) printExplanation(x *api.Explanation) {
	for i := range x.Rows {
		if i > 0 {
			fmt.Fprintln(p.stdout)
		}
		p.printRow(x, &x.Rows[i])
	}
}

func (p *program) printRow(x *api.Explanation, r *api.ExplainedRow) {
	fmt.Fprintf(p.stdout, "row %s of %s, source %s\n", printable(x.Key), printable(x.Table), printable(r.Source))
	for _, s := range r.Rules {
		fmt.Fprintf(p.stdout, "  rule %s makes %s on %s\n", s.Rule, s.Type, strings.Join(s.On, ", "))
	}
	for i := range r.Changes {
		c := &r.Changes[i]
		fmt.Fprintf(p.stdout, "\n%s  %s, transaction %d at %s%s\n", p.clock(c.Time), c.Op, c.XID, c.LSN, inBrackets("changed: ", c.Changed))
		p.printChange(c)
	}
	if len(r.Changes) == 0 && r.Next > 0 {
		fmt.Fprintf(p.stdout, "\nno change of this row is remembered\n")
	}
	if r.Now != nil {
		fmt.Fprintf(p.stdout, "\nan update to the row as it is now in the database (what it was before, old, is not known here)\n")
		p.printChange(r.Now)
	}
	if len(r.Events) > 0 {
		fmt.Fprintf(p.stdout, "\nevents of earlier changes in the log\n")
		for i := range r.Events {
			p.printMade(&r.Events[i], "  ")
		}
	}
	for i := range r.Failures {
		f := &r.Failures[i]
		fmt.Fprintf(p.stdout, "\n%s  rule %s failed, see 'rowhook events failures %d': %s\n", p.clock(f.At), f.Rule, f.ID, oneLine(f.Error))
	}
	p.printLimits(r)
}

// printLimits says what the explanation does not know.
func (p *program) printLimits(r *api.ExplainedRow) {
	var notes []string
	switch {
	case r.Next == 0:
	case r.Remembered.IsZero():
		notes = append(notes, "the daemon remembers no change of any row yet")
	case r.Forgotten:
		notes = append(notes, "changes before "+p.clock(r.Remembered)+" are forgotten")
	default:
		notes = append(notes, "changes are remembered from the start of the daemon on")
	}
	fmt.Fprintln(p.stdout)
	for _, n := range append(notes, r.Notes...) {
		fmt.Fprintf(p.stdout, "note: %s\n", paragraph(n, "  "))
	}
}

func inBrackets(what string, words []string) string {
	if len(words) == 0 {
		return ""
	}
	return " (" + what + printable(strings.Join(words, ", ")) + ")"
}

func (p *program) printChange(c *api.ExplainedChange) {
	if len(c.Cut) > 0 {
		fmt.Fprintf(p.stdout, "  too long to be remembered: %s\n", printable(strings.Join(c.Cut, ", ")))
	}
	for i := range c.Rules {
		r := &c.Rules[i]
		switch r.Outcome {
		case api.RuleNotAbout:
			fmt.Fprintf(p.stdout, "  %s is not about %s\n", r.Rule, c.Op)
			continue
		case api.RuleMatched:
			fmt.Fprintf(p.stdout, "  %s matches\n", r.Rule)
		case api.RuleFailed:
			fmt.Fprintf(p.stdout, "  %s fails: %s\n", r.Rule, oneLine(r.Error))
		default:
			fmt.Fprintf(p.stdout, "  %s does not match\n", r.Rule)
		}
		if r.When != nil {
			p.printClause(r.When, "    ")
		}
		for j := range r.Events {
			p.printMade(&r.Events[j], "    ")
		}
	}
}

// printClause prints the outcome of a condition, with its parts below it, or
// with what it reads beside it.
func (p *program) printClause(c *api.Clause, indent string) {
	line := fmt.Sprintf("%s%-5s  %s", indent, c.Outcome, printable(c.Text))
	var values []string
	for _, v := range c.Values {
		switch {
		case v.Unknown != "":
			values = append(values, v.Name+" is not known: "+v.Unknown)
		case v.Name != c.Text:
			values = append(values, v.Name+" = "+string(v.Value))
		}
	}
	if len(values) > 0 {
		line += "   (" + oneLine(strings.Join(values, ", ")) + ")"
	}
	if c.Error != "" && len(c.Parts) == 0 {
		line += "   " + oneLine(c.Error)
	}
	fmt.Fprintln(p.stdout, line)
	for i := range c.Parts {
		p.printClause(&c.Parts[i], indent+"  ")
	}
}

// printMade prints an event and where it went.
func (p *program) printMade(e *api.MadeEvent, indent string) {
	fmt.Fprintf(p.stdout, "%s%s %s\n", indent, e.ID, printable(e.Type))
	switch {
	case !e.Logged:
		fmt.Fprintf(p.stdout, "%s  not in the log: not stored yet, or expired, or the rules were other ones when the change came\n", indent)
	case e.Unwanted != "":
		fmt.Fprintf(p.stdout, "%s  %s\n", indent, oneLine(e.Unwanted))
	}
	for i := range e.Deliveries {
		d := &e.Deliveries[i]
		state := d.State
		if !d.Time.IsZero() {
			state += " " + p.clock(d.Time)
		}
		if d.Error != "" {
			state += ": " + oneLine(short(d.Error, 120))
		}
		fmt.Fprintf(p.stdout, "%s  %s: %s\n", indent, printable(d.Endpoint), state)
	}
}
