package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

func (p *program) checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Look at how far sources are, and move it",
	}
	cmd.AddCommand(p.checkpointShowCommand(), p.checkpointResetCommand())
	return cmd
}

func (p *program) checkpointShowCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show [SOURCE]",
		Short: "Show the checkpoint of a source, or of all",
		Example: `  rowhook checkpoint show
  rowhook checkpoint show shop --json`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var req api.CheckpointsRequest
			if len(args) > 0 {
				req.Source = args[0]
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Checkpoints(ctx, &req)
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				if len(res.Checkpoints) == 0 {
					fmt.Fprintln(p.stderr, "no checkpoints")
				}
				return p.printCheckpoints(res.Checkpoints)
			})
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) printCheckpoints(list []api.Checkpoint) error {
	for i := range list {
		c := &list[i]
		if i > 0 {
			fmt.Fprintln(p.stdout)
		}
		tab := newTable(p.stdout)
		tab.row("source", c.Source)
		tab.row("checkpoint", c.LSN)
		tab.row("written", p.moment(c.Updated))
		tab.row("generation", count(c.Generation))
		tab.row("timeline", count(c.Timeline))
		tab.row("system", c.SystemID)
		tab.row("database", c.Database+" at "+c.Address)
		tab.row("slot", c.Slot)
		tab.row("publication", c.Publication)
		tab.row("phase", c.Phase)
		if c.Pending != "" {
			tab.row("pending", "the reset "+c.Pending+" is applied when the source starts; --cancel takes it back")
		}
		if h := c.Partial; h != nil {
			tab.row("half-stored", fmt.Sprintf("transaction %d at %s: %d changes, %d events", h.XID, h.LSN, h.Changes, h.Events))
		}
		for j := range c.Gaps {
			g := &c.Gaps[j]
			tab.row("gap", fmt.Sprintf("before generation %d, %s, from %s to %s: %s", g.Generation, p.clock(g.At), orUnknown(g.From), orUnknown(g.To), g.Reason))
		}
		if err := tab.flush(); err != nil {
			return err
		}
	}
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return "?"
	}
	return s
}

func (p *program) checkpointResetCommand() *cobra.Command {
	var t target
	var asJSON, cancel bool
	cmd := &cobra.Command{
		Use:   "reset SOURCE [FROM..]POSITION",
		Short: "Move the checkpoint of a source forward, or deliver from an earlier one again",
		Long: `Reset moves the checkpoint of a source. POSITION is an LSN, "now" or "earliest".

Forward, the changes between are given up: a new generation begins, and the gap
is recorded. Backward, the checkpoint stays, since PostgreSQL has forgotten what
was confirmed: the events of the log after that position are delivered again as
they were made.

FROM is the checkpoint that must be in force; with another one nothing happens.

While the daemon does not run, a reset waits for its start; --cancel takes it
back, and so it does with one that a source cannot apply yet.`,
		Example: `  rowhook checkpoint reset shop now
  rowhook checkpoint reset shop 0/16B3748
  rowhook checkpoint reset shop 0/16B3748..0/1A00000
  rowhook checkpoint reset shop --cancel`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case cancel:
				return exactArgs("SOURCE")(cmd, args)
			case len(args) == 1 && strings.Contains(args[0], "="):
				return nil // as the flag of run has it
			}
			return exactArgs("SOURCE", "POSITION")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &api.ResetRequest{Source: args[0], Cancel: true}
			if !cancel {
				var err error
				if r, err = parseReset(strings.Join(args, "=")); err != nil {
					return usageError(err)
				}
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.ResetCheckpoint(ctx, r)
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				fmt.Fprintln(p.stdout, printable(res.Note))
				return nil
			})
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&cancel, "cancel", false, "take back a reset that is not applied yet")
	return cmd
}

// parseReset parses SOURCE=[FROM..]LSN|now|earliest.
func parseReset(s string) (*api.ResetRequest, error) {
	source, place, ok := strings.Cut(s, "=")
	if !ok || source == "" || place == "" {
		return nil, fmt.Errorf("%q is not SOURCE=POSITION, where the position is an LSN such as 0/16B3748, \"now\" or \"earliest\"", s)
	}
	r := &api.ResetRequest{Source: source, To: place}
	if from, to, ok := strings.Cut(place, ".."); ok {
		if _, err := relay.ParseLSN(from); err != nil {
			return nil, fmt.Errorf("reset %s: before the dots stands the checkpoint in force: %w", source, err)
		}
		r.From, r.To = from, to
	}
	if r.To != "now" && r.To != "earliest" {
		if _, err := relay.ParseLSN(r.To); err != nil {
			return nil, fmt.Errorf("reset %s: %w, nor \"now\" or \"earliest\"", source, err)
		}
	}
	return r, nil
}
