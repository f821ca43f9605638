package main

import (
	"context"

	"github.com/spf13/cobra"
)

// checkOptions is what the flags of check say.
type checkOptions struct {
	config         []string
	database       bool
	withoutSecrets bool
	json           bool
}

func (p *program) checkCommand() *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Find every mistake in a configuration",
		Long: `Check reads a configuration and prints every mistake with its place and what to
write instead. With --database it also connects to the sources and holds the
rules against their tables. It changes nothing.

It ends with exit code 2 when there is a mistake.`,
		Example: `  rowhook check
  rowhook check -c /etc/rowhook --database
  rowhook check -c rowhook.hcl --json | jq '.diagnostics[].summary'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.config, err = configPaths(o.config); err != nil {
				return err
			}
			return p.check(cmd.Context(), &o)
		},
	}
	configFlag(cmd, &o.config)
	cmd.Flags().BoolVar(&o.database, "database", false, "also check against the live databases")
	cmd.Flags().BoolVar(&o.withoutSecrets, "without-secrets", false, "do not mind when variables of env() and files of file() are missing")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// checkFunc checks a configuration and prints what it finds.
type checkFunc func(ctx context.Context, o *checkOptions) error
