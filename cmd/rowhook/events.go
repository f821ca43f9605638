package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

func (p *program) eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Look at the events of the log, and at changes on which a rule failed",
	}
	cmd.AddCommand(p.eventsListCommand(), p.eventsShowCommand(), p.eventsFailuresCommand(), p.eventsRetryFailuresCommand())
	return cmd
}

func (p *program) eventsListCommand() *cobra.Command {
	var t target
	var asJSON bool
	var req api.EventsRequest
	var since, until string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List events, newest first",
		Example: `  rowhook events list --type 'order.**' --since 1h
  rowhook events list --key 4711 --json | jq '.events[].id'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if req.After, err = p.parseTime("since", since); err != nil {
				return err
			}
			if req.Before, err = p.parseTime("until", until); err != nil {
				return err
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Events(ctx, &req)
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				if len(res.Events) == 0 {
					fmt.Fprintln(p.stderr, "no events")
					return nil
				}
				tab := newTable(p.stdout, "TIME", "EVENT", "TYPE", "KEY")
				for i := range res.Events {
					e := &res.Events[i]
					tab.row(p.clock(e.Time), e.ID, e.Type, short(deref(e.Key), 60))
				}
				return tab.flush()
			})
		},
	}
	t.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&req.Types, "type", nil, "only types that match the `pattern`, as in a sink's events; may be repeated")
	f.StringVar(&req.Source, "source", "", "only events of the `source`")
	f.StringVar(&req.Key, "key", "", "only events with the `key`")
	f.StringVar(&req.Tenant, "tenant", "", "only events of the `tenant`")
	f.StringVar(&since, "since", "", "only events after the `time`: 2h (ago), 2026-01-31, or 2026-01-31T10:00:00Z")
	f.StringVar(&until, "until", "", "only events before the `time`")
	limitFlag(cmd, &req.Limit)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func limitFlag(cmd *cobra.Command, n *int) {
	cmd.Flags().IntVarP(n, "limit", "n", 50, "how many at most")
}

// parseTime reads a time as people write it: how long ago, a day, or RFC 3339.
func (p *program) parseTime(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return p.now().Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02", "2006-01-02 15:04", "2006-01-02 15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, p.zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageErrorf("--%s %q is not a time: write how long ago (90s, 2h), a day (2026-01-31), or 2026-01-31T10:00:00Z", flag, s)
}

func (p *program) eventsShowCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show EVENT",
		Short:   "Show an event, its deliveries and their attempts",
		Example: `  rowhook events show evt_00000000ee5dg3l2k8m0d0nn1ujag5qp`,
		Args:    eventArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Event(ctx, &api.EventRequest{ID: args[0]})
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				return p.printEvent(res)
			})
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// eventArg checks that the one argument is an event id.
func eventArg(cmd *cobra.Command, args []string) error {
	if err := exactArgs("EVENT")(cmd, args); err != nil {
		return err
	}
	_, err := relay.ParseEventID(args[0])
	return err
}

func (p *program) printEvent(d *api.EventDetail) error {
	e := &d.Event
	tab := newTable(p.stdout)
	field := func(name, value string) {
		if value != "" {
			tab.row(name, value)
		}
	}
	field("event", e.ID)
	field("type", fmt.Sprintf("%s, version %d", e.Type, e.Version))
	field("time", p.moment(e.Time))
	field("rule", e.Rule)
	field("source", e.Source)
	field("change", joinWords(e.Op, e.Table))
	field("key", deref(e.Key))
	field("old key", deref(e.OldKey))
	field("tenant", deref(e.Tenant))
	field("sequence", e.Sequence)
	field("lsn", e.LSN)
	if e.Barrier {
		field("barrier", "yes")
	}
	if len(e.Unchanged) > 0 {
		field("unchanged", fmt.Sprint(e.Unchanged))
	}
	if err := tab.flush(); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "data  %s\n", indented(e.Data, "      "))
	if len(d.Deliveries) == 0 {
		fmt.Fprintln(p.stdout, "\nno endpoint wants it")
		return nil
	}
	fmt.Fprintln(p.stdout)
	return p.printDeliveryDetails(d.Deliveries)
}

func joinWords(a, b string) string {
	if b == "" {
		return a
	}
	return a + " " + b
}

func (p *program) eventsFailuresCommand() *cobra.Command {
	var t target
	var asJSON bool
	var req api.FailuresRequest
	cmd := &cobra.Command{
		Use:   "failures [ID]",
		Short: "List changes on which a rule failed, newest first",
		Long: `Failures lists the changes of which a rule could make no event: no event was
delivered for them. Each is kept, within the bounds of the log, until the rule
is mended. With the ID of one it shows the place in the rule, what the names in
it stood for, and the change.`,
		Example: `  rowhook events failures
  rowhook events failures 17
  rowhook events failures --json | jq '.failures[].change'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if len(args) == 1 {
				if req.ID, err = failureID(args[0]); err != nil {
					return err
				}
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Failures(ctx, &req)
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				if req.ID != 0 && len(res.Failures) > 0 {
					return p.printFailure(&res.Failures[0])
				}
				if len(res.Failures) == 0 {
					fmt.Fprintln(p.stderr, "no failures")
					return nil
				}
				tab := newTable(p.stdout, "ID", "TIME", "RULE", "TABLE", "LSN", "ERROR")
				for i := range res.Failures {
					f := &res.Failures[i]
					tab.row(strconv.FormatInt(f.ID, 10), p.clock(f.At), f.Rule, f.Table, f.LSN, f.Error)
				}
				return tab.flush()
			})
		},
	}
	t.flags(cmd)
	limitFlag(cmd, &req.Limit)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func failureID(s string) (int64, error) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || id < 1 {
		return 0, usageErrorf("%q is not the ID of a failure: 'rowhook events failures' lists them", s)
	}
	return id, nil
}

// printFailure prints a failure with the diagnosis that its change holds.
func (p *program) printFailure(f *api.Failure) error {
	var change struct {
		Op        string           `json:"op"`
		Diagnosis *relay.RuleError `json:"diagnosis"`
	}
	if err := json.Unmarshal(f.Change, &change); err != nil {
		return fmt.Errorf("the change of failure %d: %w", f.ID, err)
	}
	fmt.Fprintf(p.stdout, "failure %d: rule %s failed on %s at %s, %s\n", f.ID, printable(f.Rule), printable(joinWords(change.Op, f.Table)), f.LSN, p.moment(f.At))
	if d := change.Diagnosis; d != nil {
		if d.Snippet != "" {
			fmt.Fprintf(p.stdout, "\n  on %s line %d, in %s:\n  %4d: %s\n", printable(d.File), d.Line, d.Argument, d.Line, printable(d.Snippet))
		}
		fmt.Fprintf(p.stdout, "\n%s\n", paragraph(d.Message, ""))
		p.printValues(d.Values, "  ")
	} else {
		fmt.Fprintf(p.stdout, "\n%s\n", paragraph(f.Error, ""))
	}
	fmt.Fprintf(p.stdout, "\nchange  %s\n", indented(withoutDiagnosis(f.Change), "        "))
	return nil
}

// withoutDiagnosis returns a change of a dead letter without what is printed
// already.
func withoutDiagnosis(change json.RawMessage) json.RawMessage {
	var m map[string]json.RawMessage
	if json.Unmarshal(change, &m) != nil {
		return change
	}
	delete(m, "diagnosis")
	out, err := json.Marshal(m)
	if err != nil {
		return change
	}
	return out
}

// printValues prints what names stood for, one a line.
func (p *program) printValues(values []relay.NamedValue, indent string) {
	for _, v := range values {
		if v.Unknown != "" {
			fmt.Fprintf(p.stdout, "%s%s is not known: %s\n", indent, printable(v.Name), printable(v.Unknown))
			continue
		}
		fmt.Fprintf(p.stdout, "%s%s = %s\n", indent, printable(v.Name), printable(string(v.Value)))
	}
}

func (p *program) eventsRetryFailuresCommand() *cobra.Command {
	var t target
	var asJSON bool
	var req api.RetryFailuresRequest
	cmd := &cobra.Command{
		Use:   "retry-failures [ID]",
		Short: "Have the corrected rules judge failed changes again",
		Long: `Retry-failures passes changes on which a rule failed through the rule as it is
now: one change, or with --rule all of a rule. The events are delivered to every
endpoint that wants them, outside the order of the changes, with the ids they
would have had at first. What fails again stays where it is, and the exit code
is 1.`,
		Example: `  rowhook events retry-failures 17
  rowhook events retry-failures --rule order.paid`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (req.Rule != "") {
				return usageErrorf("name either the ID of a failure or a rule with --rule")
			}
			if len(args) == 1 {
				var err error
				if req.ID, err = failureID(args[0]); err != nil {
					return err
				}
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.RetryFailures(ctx, &req)
				if err != nil {
					return err
				}
				if asJSON {
					err = p.printJSON(res)
				} else {
					for _, id := range res.Events {
						fmt.Fprintln(p.stdout, id)
					}
					fmt.Fprintf(p.stderr, "%s made, %d not wanted any more, %d still failing\n", plural(int64(len(res.Events)), "event", "events"), res.Unmatched, res.Failing)
				}
				if err == nil && res.Failing > 0 {
					return errors.New(res.Error)
				}
				return err
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().StringVar(&req.Rule, "rule", "", "all failures of the `RULE`")
	jsonFlag(cmd, &asJSON)
	return cmd
}
