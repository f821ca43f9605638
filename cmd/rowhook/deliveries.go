package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay/api"
)

func (p *program) deliveriesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deliveries",
		Short: "Look at deliveries, and try dead ones again",
	}
	cmd.AddCommand(p.deliveriesListCommand(), p.deliveriesShowCommand(), p.deliveriesRetryCommand())
	return cmd
}

var deliveryStates = []string{"pending", "retrying", "delivered", "dead", "held", "cancelled"}

func (p *program) deliveriesListCommand() *cobra.Command {
	var t target
	var asJSON bool
	var req api.DeliveriesRequest
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List deliveries, newest first",
		Example: `  rowhook deliveries list --endpoint billing --state dead
  rowhook deliveries list --event evt_00000000ee5dg3l2k8m0d0nn1ujag5qp`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.State != "" && !slices.Contains(deliveryStates, req.State) {
				return usageErrorf("--state %q is none of %s", req.State, strings.Join(deliveryStates, ", "))
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Deliveries(ctx, &req)
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				if len(res.Deliveries) == 0 {
					fmt.Fprintln(p.stderr, "no deliveries")
					if req.State == "pending" {
						fmt.Fprintln(p.stderr, "those that wait for their first attempt have no row of their own: 'rowhook status' counts them under BEHIND, 'rowhook events show EVENT' shows each")
					}
					return nil
				}
				tab := newTable(p.stdout, "TIME", "EVENT", "TYPE", "ENDPOINT", "STATE", "ATTEMPTS", "LAST")
				for i := range res.Deliveries {
					d := &res.Deliveries[i]
					tab.row(p.clock(d.Time), d.Event, d.Type, d.Endpoint, d.State, count(d.Attempts), outcome(d.Status, d.Class))
				}
				return tab.flush()
			})
		},
	}
	t.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&req.Endpoint, "endpoint", "", "only deliveries of the `endpoint`")
	f.StringVar(&req.State, "state", "", "only deliveries in the `state`: "+strings.Join(deliveryStates, ", "))
	f.StringVar(&req.Event, "event", "", "only deliveries of the `event`")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(deliveryStates, cobra.ShellCompDirectiveNoFileComp))
	limitFlag(cmd, &req.Limit)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// outcome tells what came of an attempt in a word or two.
func outcome(status int, class string) string {
	switch {
	case status == 0:
		return class
	case class == "":
		return count(status)
	}
	return count(status) + " " + class
}

func (p *program) deliveriesShowCommand() *cobra.Command {
	var t target
	var asJSON bool
	var endpoint string
	cmd := &cobra.Command{
		Use:   "show EVENT",
		Short: "Show the deliveries of an event and their attempts",
		Example: `  rowhook deliveries show evt_00000000ee5dg3l2k8m0d0nn1ujag5qp
  rowhook deliveries show evt_00000000ee5dg3l2k8m0d0nn1ujag5qp --endpoint billing`,
		Args: eventArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := deliveriesOf(ctx, b, args[0], endpoint)
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				if len(res.Deliveries) == 0 {
					fmt.Fprintln(p.stdout, "no endpoint wants it")
					return nil
				}
				return p.printDeliveryDetails(res.Deliveries)
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().StringVar(&endpoint, "endpoint", "", "only that of the `endpoint`")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func deliveriesOf(ctx context.Context, b backend, event, endpoint string) (*api.DeliveryDetails, error) {
	if endpoint != "" {
		return b.Delivery(ctx, &api.DeliveryRequest{Event: event, Endpoint: endpoint})
	}
	res, err := b.Event(ctx, &api.EventRequest{ID: event})
	if err != nil {
		return nil, err
	}
	return &api.DeliveryDetails{Deliveries: res.Deliveries}, nil
}

func (p *program) printDeliveryDetails(list []api.DeliveryDetail) error {
	for i := range list {
		d := &list[i]
		state := d.State
		switch {
		case d.State == "retrying" && !d.Next.IsZero():
			state += ", next attempt " + ago(d.Next, p.now())
		case d.State == "retrying":
			state += ", waits behind another of its key"
		case !d.Time.IsZero():
			state += " " + p.moment(d.Time)
		}
		if d.Replay != 0 {
			state += fmt.Sprintf(", replay %d", d.Replay)
		}
		if d.Again {
			state += ", tried again on request"
		}
		if i > 0 {
			fmt.Fprintln(p.stdout)
		}
		fmt.Fprintf(p.stdout, "%s: %s\n", printable(d.Endpoint), state)
		if len(d.Log) == 0 {
			continue
		}
		tab := newTable(p.stdout, "  ATTEMPT", "TIME", "TOOK", "RESULT", "ERROR")
		for j := range d.Log {
			a := &d.Log[j]
			result := outcome(a.Status, a.Class)
			if result == "" {
				result = "delivered"
			}
			took := time.Duration(a.DurationMS * float64(time.Millisecond)).Round(10 * time.Microsecond)
			text := a.Error
			if a.Response != "" {
				text = strings.TrimPrefix(text+": "+a.Response, ": ")
			}
			tab.row("  "+count(a.N), p.clock(a.At), took.String(), result, short(text, 200))
		}
		if err := tab.flush(); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) deliveriesRetryCommand() *cobra.Command {
	var t target
	var asJSON bool
	var req api.RetryRequest
	cmd := &cobra.Command{
		Use:   "retry [EVENT] --endpoint NAME",
		Short: "Try dead deliveries again",
		Long: `Retry makes a dead delivery, or all dead deliveries of an endpoint, be tried
once more; one that had attempts left goes on with them. They carry the same
webhook-id, are outside the order promise and do not delay other deliveries.
When no daemon runs they are tried once it does.`,
		Example: `  rowhook deliveries retry evt_00000000ee5dg3l2k8m0d0nn1ujag5qp --endpoint billing
  rowhook deliveries retry --endpoint billing --all-dead`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case req.Endpoint == "":
				return usageErrorf("which endpoint? Name it with --endpoint")
			case req.AllDead && len(args) > 0:
				return usageErrorf("give an event or --all-dead, not both")
			case req.AllDead:
				return nil
			}
			if len(args) == 0 {
				return usageErrorf("give an event, or --all-dead for all of the endpoint")
			}
			return eventArg(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				req.Event = args[0]
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Retry(ctx, &req)
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				fmt.Fprintf(p.stdout, "%s of %s will be tried again\n", plural(res.Retried, "dead delivery", "dead deliveries"), printable(req.Endpoint))
				return nil
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().StringVar(&req.Endpoint, "endpoint", "", "the `endpoint`")
	cmd.Flags().BoolVar(&req.AllDead, "all-dead", false, "all dead deliveries of the endpoint")
	jsonFlag(cmd, &asJSON)
	return cmd
}
