package main

import (
	"context"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/sinks/receiver"
	"github.com/rowhook/rowhook/sinks/webhook"
)

// receiveOptions is what the flags of receive say.
type receiveOptions struct {
	listen   string
	secrets  []string
	expect   int
	timeout  time.Duration
	status   int
	failRate float64
	verbose  bool
}

func (p *program) receiveCommand() *cobra.Command {
	var o receiveOptions
	cmd := &cobra.Command{
		Use:   "receive",
		Short: "Receive webhooks, verify their signatures and print them",
		Long: `Receive is an endpoint to try things with: it verifies the signature of every
webhook, marks those it has had before, and prints them.

With --expect it ends when it has that many different verified events, with exit
code 0, or with 1 when --timeout passes first or it is interrupted.`,
		Example: `  rowhook receive --listen 127.0.0.1:9000 --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
  rowhook receive --listen 127.0.0.1:9000 --secret "$SECRET" --expect 3 --timeout 60s
  rowhook receive --listen 127.0.0.1:9000 --secret "$SECRET" --fail-rate 0.1`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, _, err := net.SplitHostPort(o.listen); err != nil {
				return usageErrorf("--listen: %w", err)
			}
			switch {
			case o.expect < 0:
				return usageErrorf("--expect is a number from 0")
			case o.failRate < 0 || o.failRate > 1:
				return usageErrorf("--fail-rate is a number from 0 to 1")
			case o.status < 200 || o.status > 599:
				return usageErrorf("--status is an HTTP status from 200 to 599")
			}
			return p.receive(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "127.0.0.1:9000", "`address` to listen on")
	f.StringArrayVar(&o.secrets, "secret", nil, "signing `secret`, whsec_...; any of several may sign; none accepts unsigned webhooks")
	f.IntVar(&o.expect, "expect", 0, "end after so many different verified events")
	f.DurationVar(&o.timeout, "timeout", 0, "end with exit code 1 after that long (default: never)")
	f.IntVar(&o.status, "status", 204, "HTTP `status` to answer with")
	f.Float64Var(&o.failRate, "fail-rate", 0, "`fraction` of requests to answer with 500 instead")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "also print the data of events")
	return cmd
}

func (p *program) runReceiver(ctx context.Context, o *receiveOptions) error {
	s := &receiver.Server{Addr: o.listen, Out: p.stdout, Expect: o.expect, Status: o.status, FailRate: o.failRate, Verbose: o.verbose}
	for _, secret := range o.secrets {
		s.Secrets = append(s.Secrets, relay.NewSecret(secret))
	}
	if _, err := webhook.ParseKeys(s.Secrets); err != nil {
		return usageErrorf("--secret: %w", err)
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	return s.Run(ctx)
}

// receiveFunc receives webhooks until it has what it waits for.
type receiveFunc func(ctx context.Context, o *receiveOptions) error
