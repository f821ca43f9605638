package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay/api"
)

func (p *program) endpointsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "endpoints",
		Short: "Look at endpoints, disable, enable and remove them",
	}
	cmd.AddCommand(p.endpointsListCommand(), p.endpointsEnableCommand(), p.endpointsDisableCommand(), p.endpointsRemoveCommand())
	return cmd
}

func (p *program) endpointsListCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List endpoints",
		Example: `  rowhook endpoints list`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Endpoints(ctx, &api.EndpointsRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				if len(res.Endpoints) == 0 {
					fmt.Fprintln(p.stderr, "no endpoints")
					return nil
				}
				tab := newTable(p.stdout, "ENDPOINT", "KIND", "STATUS", "TARGET", "EVENTS", "REASON")
				for i := range res.Endpoints {
					e := &res.Endpoints[i]
					tab.row(e.Name, e.Kind, e.Status, e.Target, strings.Join(e.Events, " "), e.Reason)
				}
				return tab.flush()
			})
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) endpointsEnableCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "enable NAME",
		Short: "Send to a disabled endpoint again",
		Long: `Enable makes an endpoint active that was disabled by a person or by its own 410
Gone. What was held for it is sent first.`,
		Example: `  rowhook endpoints enable billing`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.EnableEndpoint(ctx, &api.EndpointRequest{Name: args[0]})
				return p.printEndpointChange(res, err, asJSON)
			})
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) endpointsDisableCommand() *cobra.Command {
	var t target
	var asJSON bool
	var reason string
	cmd := &cobra.Command{
		Use:   "disable NAME",
		Short: "Stop sending to an endpoint and keep what it wants",
		Long: `Disable stops sending to an endpoint. Events it wants are held, within the
bounds of the log, until it is enabled.`,
		Example: `  rowhook endpoints disable billing --reason "maintenance until Monday"`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.DisableEndpoint(ctx, &api.EndpointRequest{Name: args[0], Reason: reason})
				return p.printEndpointChange(res, err, asJSON)
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "disabled by a person", "what status says of it")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) endpointsRemoveCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Give up what is held for an endpoint that the configuration no longer has",
		Long: `Remove cancels the open deliveries of an endpoint whose sink block was taken out
of the configuration. Until then they are held, and the log keeps their events,
so that they are delivered when the block comes back.`,
		Example: `  rowhook endpoints remove old-billing`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.RemoveEndpoint(ctx, &api.EndpointRequest{Name: args[0]})
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				fmt.Fprintf(p.stdout, "%s is removed, %s cancelled\n", printable(res.Name), plural(res.Cancelled, "delivery", "deliveries"))
				return nil
			})
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) printEndpointChange(e *api.Endpoint, err error, asJSON bool) error {
	if err != nil {
		return err
	}
	if asJSON {
		return p.printJSON(e)
	}
	fmt.Fprintf(p.stdout, "%s is %s\n", printable(e.Name), e.Status)
	return nil
}
