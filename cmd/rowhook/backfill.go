package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay/api"
)

func (p *program) backfillCommand() *cobra.Command {
	var t target
	var asJSON, wait bool
	req := &api.BackfillRequest{}
	cmd := &cobra.Command{
		Use:   "backfill EVENT",
		Short: "Make events of the rows that exist",
		Long: `Backfill reads the rows of the event's tables and passes them through the event's
rule, which lists read in on. Changes keep flowing meanwhile. The rows are read
in chunks, each under a snapshot of its own, and each chunk stands in the stream
exactly at the point of its snapshot, so that whoever applies the events in order
has the rows as they are.

The daemon does it, one backfill of a source after the other, and goes on after a
crash with the next row. On a terminal the command shows how far it is;
interrupted, it leaves the backfill alone.

A table is read by the index that is its replica identity, by its primary key, or
by a unique index on columns that are NOT NULL. The role needs SELECT on the
columns that the rule reads, and on those of the key. A row whose key changes
meanwhile is read once more; where a change does not carry the key, or very many
wait to be read, the backfill fails and says what to do.`,
		Example: `  rowhook backfill order.snapshot
  rowhook backfill order.snapshot --where "created_at > '2026-01-01'" --rate 500
  rowhook backfill order.snapshot --wait --json
  rowhook backfill list
  rowhook backfill cancel 3`,
		Args: exactArgs("EVENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Event = args[0]
			if cmd.Flags().Changed("rate") && req.Rate < 1 {
				return usageErrorf("--rate is a number of rows a second, from 1")
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				job, err := b.StartBackfill(ctx, req)
				if err != nil {
					return err
				}
				st, err := b.Status(ctx, &api.StatusRequest{})
				if err != nil {
					return err
				}
				width, _ := p.terminal(p.stdout)
				if st.Running && (wait || width > 0 && !asJSON) {
					return p.followBackfill(ctx, b, job, asJSON)
				}
				if err := p.printBackfill(job, asJSON); err != nil || !wait {
					return err
				}
				return fmt.Errorf("no daemon runs: backfill %d begins when one does", job.ID)
			})
		},
	}
	cmd.Flags().StringVar(&req.Where, "where", "", "SQL `condition` on the rows, as after WHERE")
	cmd.Flags().IntVar(&req.Rate, "rate", 0, "the most `rows` to read a second (default: as fast as the log takes them)")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the backfill has ended; exit code 1 when it is not done then")
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(p.backfillListCommand(), p.backfillShowCommand(), p.backfillCancelCommand())
	return cmd
}

// printBackfill prints one backfill.
func (p *program) printBackfill(b *api.Backfill, asJSON bool) error {
	if asJSON {
		return p.printJSON(b)
	}
	_, err := fmt.Fprintf(p.stdout, "backfill %d of %s: %s\n", b.ID, printable(b.Event), backfillLine(b))
	return err
}

// backfillLine says how a backfill stands.
func backfillLine(b *api.Backfill) string {
	line := b.State + ", " + plural(b.Rows, "row", "rows")
	if !b.HasEnded() && b.Estimate > 0 {
		line += " of about " + count(b.Estimate)
	}
	line += ", " + plural(b.Events, "event", "events")
	if b.State == api.BackfillRunning && b.RowsPerSecond > 0 {
		line += fmt.Sprintf(", %.0f rows/s", b.RowsPerSecond)
	}
	if b.Reason != "" {
		line += ": " + printable(b.Reason)
	}
	return line
}

func (p *program) backfillListCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List backfills, newest first",
		Example: `  rowhook backfill list
  rowhook backfill list --json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Backfills(ctx, &api.BackfillsRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				if len(res.Backfills) == 0 {
					fmt.Fprintln(p.stderr, "no backfills")
					return nil
				}
				tab := newTable(p.stdout, "ID", "EVENT", "SOURCE", "STATE", "ROWS", "OF ABOUT", "EVENTS", "CREATED", "ENDED")
				for i := range res.Backfills {
					f := &res.Backfills[i]
					estimate := ""
					if f.Estimate > 0 {
						estimate = count(f.Estimate)
					}
					tab.row(count(f.ID), f.Event, f.Source, f.State, count(f.Rows), estimate, count(f.Events), p.clock(f.Created), p.clock(f.Ended))
				}
				return tab.flush()
			})
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) backfillShowCommand() *cobra.Command {
	var t target
	var asJSON, wait bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show how a backfill stands, and what it waits for",
		Example: `  rowhook backfill show 3
  rowhook backfill show 3 --wait`,
		Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := backfillID(args[0])
			if err != nil {
				return err
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Backfills(ctx, &api.BackfillsRequest{ID: id})
				if err != nil {
					return err
				}
				if wait {
					return p.followBackfill(ctx, b, &res.Backfills[0], asJSON)
				}
				return p.printBackfill(&res.Backfills[0], asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the backfill has ended; exit code 1 when it is not done then")
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) backfillCancelCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "cancel ID",
		Short:   "End a backfill; the events it has made stay",
		Example: `  rowhook backfill cancel 3`,
		Args:    exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := backfillID(args[0])
			if err != nil {
				return err
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				job, err := b.CancelBackfill(ctx, &api.CancelBackfillRequest{ID: id})
				if err != nil {
					return err
				}
				return p.printBackfill(job, asJSON)
			})
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func backfillID(s string) (int64, error) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || id < 1 {
		return 0, usageErrorf("%q is not the number of a backfill; see 'rowhook backfill list'", s)
	}
	return id, nil
}
