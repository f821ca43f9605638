package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
)

// checkOptions is what the flags of check say.
type checkOptions struct {
	config []string
	// database: the live databases are asked, those of the configuration or those
	// that urls names, as URL or SOURCE=URL.
	database       bool
	urls           []string
	catalog        string // a saved catalogue
	save           string // where to save one
	withoutSecrets bool
	json           bool
}

func (p *program) checkCommand() *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check [URL...]",
		Short: "Find every mistake in a configuration",
		Long: `Check reads a configuration and prints every mistake with its place and what to
write instead. It changes nothing.

With --database it also connects to the sources and holds the rules against their
tables: the columns, their types, what may be null and what the server sends. With
--save-catalog it writes what it learnt to a file, to stand beside the rules under
version control; with --catalog, or with catalog = "FILE" in the rowhook block, it
knows the tables from that file and needs no server. --database then also says
where the file has drifted from the database.

To check a migration before it is deployed, name a migrated copy of the database:
a URL after --database, or SOURCE=URL when there are several sources. Such a copy
needs no replication and no secrets. Give passwords in PGPASSWORD or a pgpass file,
since others can see command lines.

It ends with exit code 2 when there is a mistake.`,
		Example: `  rowhook check
  rowhook check -c /etc/rowhook --database --save-catalog catalog.json
  rowhook check -c rowhook.hcl --catalog catalog.json
  rowhook check -c rowhook.hcl --database postgres://localhost/shop_migrated
  rowhook check -c rowhook.hcl --json | jq '.diagnostics[].summary'`,
		Args: databaseURLs(&o.database),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.config, err = configPaths(o.config); err != nil {
				return err
			}
			if o.save != "" && !o.database {
				return usageErrorf("--save-catalog needs --database: it saves what the database says")
			}
			o.urls = args
			return p.check(cmd.Context(), &o)
		},
	}
	configFlag(cmd, &o.config)
	cmd.Flags().BoolVar(&o.database, "database", false, "also check against the live databases, or those of the URLs")
	cmd.Flags().StringVar(&o.catalog, "catalog", "", "check against a saved catalogue")
	cmd.Flags().StringVar(&o.save, "save-catalog", "", "write what the databases say of the rules' tables to this file")
	cmd.Flags().BoolVar(&o.withoutSecrets, "without-secrets", false, "do not mind when variables of env() and files of file() are missing")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// databaseURLs takes URLs as arguments where --database is given.
func databaseURLs(database *bool) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case !*database && len(args) > 0 && strings.Contains(args[0], "://"):
			return usageErrorf("the URL of a database needs --database") // it may hold a password
		case !*database:
			return maxArgs(0)(cmd, args)
		}
		for i, a := range args {
			if !strings.Contains(a, "://") && !strings.Contains(a, "=") {
				return maxArgs(i)(cmd, args)
			}
		}
		return nil
	}
}

// checkFunc checks a configuration and prints what it finds.
type checkFunc func(ctx context.Context, o *checkOptions) error
