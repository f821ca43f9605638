package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay/api"
)

func (p *program) statusCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether sources, rules and endpoints make progress",
		Long: `Status shows the daemon's sources (how far they are, how much WAL their slots
make PostgreSQL keep), its rules (how many changes they saw, matched and failed
on) and its endpoints (what waits, is retried or needs a person). It warns of a
rule that has never matched and of events that no endpoint wants.

It ends with exit code 3 when no daemon runs, in which case it shows what the
store has, or when a source makes no progress.`,
		Example: `  rowhook status
  rowhook status -c /etc/rowhook --json
  rowhook status --data-dir /var/lib/rowhook >/dev/null || systemctl restart rowhook`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := p.action(cmd, &t, func(ctx context.Context, b backend) error {
				st, err := b.Status(ctx, &api.StatusRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					err = p.printJSON(st)
				} else {
					err = p.printStatus(st)
				}
				if err == nil && !st.Ready() {
					err = &exitError{code: exitNotReady}
				}
				return err
			})
			if errors.Is(err, errNoFolder) {
				return &exitError{code: exitNotReady, err: err}
			}
			return err
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func jsonFlag(cmd *cobra.Command, v *bool) {
	cmd.Flags().BoolVar(v, "json", false, "print JSON, as the API answers it")
}

func (p *program) printStatus(st *api.Status) error {
	if st.Running {
		fmt.Fprintf(p.stdout, "rowhook %s, pid %d, up %s, data folder %s\n", st.Version, st.PID, span(st.Now.Sub(st.Started)), printable(st.DataDir))
	} else {
		fmt.Fprintf(p.stdout, "rowhook is not running; the store in %s has:\n", printable(st.DataDir))
	}
	fmt.Fprintf(p.stdout, "log: %s\n", logLine(&st.Log))
	if err := p.printSources(st); err != nil {
		return err
	}
	if err := p.printRules(st); err != nil {
		return err
	}
	if err := p.printEndpoints(st); err != nil {
		return err
	}
	for i := range st.Warnings {
		if i == 0 {
			fmt.Fprintln(p.stdout)
		}
		fmt.Fprintf(p.stdout, "warning: %s\n", printable(st.Warnings[i].Text))
	}
	return nil
}

func logLine(l *api.LogStatus) string {
	s := size(l.Bytes)
	if l.MaxBytes > 0 {
		s += " of " + size(l.MaxBytes)
	}
	if l.RetentionSeconds > 0 {
		s += ", kept for " + span(time.Duration(l.RetentionSeconds)*time.Second)
	}
	if l.OnFull != "" {
		s += ", when full: " + l.OnFull
	}
	if l.Append.Count() > 0 && len(l.Append.Bounds) > 0 {
		s += fmt.Sprintf(", append p50 %s p99 %s", seconds(l.Append.Quantile(0.5)), seconds(l.Append.Quantile(0.99)))
	}
	if l.Full {
		s += "; FULL: nothing is read"
	}
	if l.Error != "" {
		s += "; last error: " + oneLine(l.Error)
	}
	return s
}

func (p *program) printSources(st *api.Status) error {
	fmt.Fprintln(p.stdout)
	tab := newTable(p.stdout, "SOURCE", "STATE", "CHECKPOINT", "LAG", "WAL KEPT", "LAST CHANGE", "CHANGES", "EVENTS", "GAPS")
	for i := range st.Sources {
		s := &st.Sources[i]
		changes, events := "-", "-" // counted by a daemon, from its start on
		if st.Running {
			changes, events = count(s.Changes), count(s.Events)
		}
		tab.row(s.Name, s.State, s.Checkpoint, sizeOrUnknown(s.LagBytes), sizeOrUnknown(s.RetainedBytes), ago(s.LastChange, st.Now),
			changes, events, count(s.Gaps))
	}
	if err := tab.flush(); err != nil {
		return err
	}
	for i := range st.Sources {
		s := &st.Sources[i]
		if s.Reason != "" && st.Running {
			fmt.Fprintf(p.stdout, "  %s is %s: %s\n", printable(s.Name), s.State, paragraph(s.Reason, "    "))
		}
		if s.RetainedBytes != nil {
			fmt.Fprintf(p.stdout, "  %s pins %s\n", printable(s.Name), pinned(s))
		}
		if r := &s.Rules; r.Fingerprint != "" {
			fmt.Fprintf(p.stdout, "  %s is judged by rules %s from %s on, loaded %s\n", printable(s.Name), printable(r.Fingerprint), r.From, p.clock(r.Loaded))
			if r.Waiting != "" {
				fmt.Fprintf(p.stdout, "  %s goes over to rules %s, loaded %s, when it has been read up to their place\n", printable(s.Name), printable(r.Waiting), p.clock(r.WaitingSince))
			}
		}
		if b := s.Backfill; b != nil {
			fmt.Fprintf(p.stdout, "  %s has backfill %d of %s under way: %s\n", printable(s.Name), b.ID, printable(b.Event), backfillLine(b))
		}
		if g := s.LastGap; g != nil {
			fmt.Fprintf(p.stdout, "  %s has a gap before generation %d, %s: %s\n", printable(s.Name), g.Generation, p.clock(g.At), paragraph(g.Reason, "    "))
		}
		for j := range s.Channels {
			if c := &s.Channels[j]; !c.Listening && st.Running {
				fmt.Fprintf(p.stdout, "  %s does not listen to channel %s\n", printable(s.Name), printable(c.Name))
			}
		}
	}
	return nil
}

// pinned says how much WAL a source's slot pins, and how much it can.
func pinned(s *api.SourceStatus) string {
	text := size(*s.RetainedBytes) + " of WAL"
	if s.WALStatus != "" && s.WALStatus != "reserved" {
		text += " (" + printable(s.WALStatus) + ")"
	}
	if s.RetainedLimitBytes == nil {
		return text + ", at worst all that the disk of the database holds (max_slot_wal_keep_size = -1)"
	}
	text += ", at worst " + size(*s.RetainedLimitBytes) + " (max_slot_wal_keep_size)"
	if s.SafeBytes != nil {
		text += "; the slot is in danger after " + size(*s.SafeBytes) + " more"
	}
	return text
}

func (p *program) printRules(st *api.Status) error {
	if len(st.Rules) == 0 {
		return nil
	}
	fmt.Fprintln(p.stdout)
	tab := newTable(p.stdout, "RULE", "SOURCE", "SEEN", "MATCHED", "FAILED", "LAST MATCH")
	for i := range st.Rules {
		r := &st.Rules[i]
		last := ago(r.LastMatch, st.Now)
		if last == "" {
			last = "not yet"
		}
		tab.row(r.Name, r.Source, count(r.Seen), count(r.Matched), count(r.Failed), last)
	}
	if err := tab.flush(); err != nil {
		return err
	}
	for i := range st.Rules {
		if r := &st.Rules[i]; r.LastError != "" {
			fmt.Fprintf(p.stdout, "  %s failed %s: %s\n", printable(r.Name), ago(r.LastFailure, st.Now), oneLine(short(r.LastError, 200)))
		}
	}
	return nil
}

func (p *program) printEndpoints(st *api.Status) error {
	if len(st.Endpoints) == 0 {
		return nil
	}
	fmt.Fprintln(p.stdout)
	tab := newTable(p.stdout, "ENDPOINT", "STATUS", "BEHIND", "IN FLIGHT", "RETRYING", "DEAD", "HELD", "LAST SUCCESS", "P50", "P99")
	for i := range st.Endpoints {
		e := &st.Endpoints[i]
		status := e.Status
		if b := e.Breaker.State; b != "" && b != api.BreakerClosed {
			status += ", unreachable"
		}
		tab.row(e.Name, status, count(e.Behind), count(e.InFlight), count(e.Retrying), count(e.Dead), count(e.Held),
			ago(e.LastSuccess, st.Now), seconds(e.Latency.Quantile(0.5)), seconds(e.Latency.Quantile(0.99)))
	}
	if err := tab.flush(); err != nil {
		return err
	}
	for i := range st.Endpoints {
		e := &st.Endpoints[i]
		if e.Reason != "" {
			fmt.Fprintf(p.stdout, "  %s is %s: %s\n", printable(e.Name), e.Status, paragraph(e.Reason, "    "))
		}
		if e.LastError != "" && e.LastFailure.After(e.LastSuccess) {
			fmt.Fprintf(p.stdout, "  %s failed %s: %s\n", printable(e.Name), ago(e.LastFailure, st.Now), oneLine(short(e.LastError, 200)))
		}
		if e.Breaker.State == api.BreakerOpen && !e.Breaker.Until.IsZero() {
			fmt.Fprintf(p.stdout, "  %s is tried again %s\n", printable(e.Name), ago(e.Breaker.Until, st.Now))
		}
	}
	return nil
}
