package main

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay/api"
)

// runOptions is what the flags of run say.
type runOptions struct {
	config           []string
	resets           []*api.ResetRequest
	exitOnSourceStop bool
	acceptAddress    []string
	logger           *slog.Logger
}

func (p *program) runCommand() *cobra.Command {
	var o runOptions
	var resets []string
	var format, level string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon",
		Long: `Run reads the sources, makes events by the rules, and delivers them, until it
gets SIGTERM or SIGINT; then it stops reading, ends attempts under way within
the grace period, and stores how far it is. A second signal ends it at once;
nothing is lost by that, but some deliveries may be sent again.

A source that cannot go on stops alone: status and /readyz say why, deliveries
and other sources go on. Where accepting a loss is the only way on, the reason
names the --reset-checkpoint that accepts it. Such a flag is applied once; left
in a unit file, it does nothing at the next start.`,
		Example: `  rowhook run -c rowhook.hcl
  rowhook run -c /etc/rowhook --log-format json
  rowhook run -c /etc/rowhook --reset-checkpoint shop=now`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range resets {
				r, err := parseReset(s)
				if err != nil {
					return usageErrorf("--reset-checkpoint: %w", err)
				}
				o.resets = append(o.resets, r)
			}
			for _, s := range o.acceptAddress {
				if strings.Contains(s, "=") || s == "" {
					return usageErrorf("--accept-address %q: give the name of a source", s)
				}
			}
			var err error
			if o.logger, err = newLogger(p.stderr, format, level); err != nil {
				return err
			}
			if o.config, err = configPaths(o.config); err != nil {
				return err
			}
			return p.daemon(cmd.Context(), &o)
		},
	}
	configFlag(cmd, &o.config)
	f := cmd.Flags()
	f.StringArrayVar(&resets, "reset-checkpoint", nil, "move the checkpoint of a source, once: `SOURCE=[FROM..]LSN`, or now or earliest in place of the LSN; may be repeated")
	f.BoolVar(&o.exitOnSourceStop, "exit-on-source-stop", false, "end with exit code 1 when a source stops")
	f.StringArrayVar(&o.acceptAddress, "accept-address", nil, "accept that the `SOURCE` has another host or database than the store was made for; may be repeated")
	f.StringVar(&format, "log-format", "text", "form of the log on standard error: text or json")
	f.StringVar(&level, "log-level", "info", "least level that is logged: debug, info, warn or error")
	_ = cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// newLogger returns the daemon's logger.
func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	switch strings.ToLower(level) {
	case "debug", "info", "warn", "error":
		_ = l.UnmarshalText([]byte(level)) // it knows these
	default:
		return nil, usageErrorf("--log-level %q is none of debug, info, warn, error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, usageErrorf("--log-format %q is neither text nor json", format)
}

// daemonFunc runs the daemon until ctx is done.
type daemonFunc func(ctx context.Context, o *runOptions) error
