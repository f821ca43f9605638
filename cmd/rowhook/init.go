package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
)

// initOptions is what the flags of init say.
type initOptions struct {
	file     string
	database string
	webhook  string
}

func (p *program) initCommand() *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a first rule file",
		Long: `Init writes a first configuration, rowhook.hcl unless another name is given, with
comments that explain it. With --database it has an event for each table of that
database; columns that look like passwords or tokens are left out. The URL is not
written into the file: it reads DATABASE_URL.

It prints what to do next, with a new signing secret. It never overwrites a file.`,
		Example: `  rowhook init
  rowhook init --database "$DATABASE_URL"
  rowhook init --database "$DATABASE_URL" --webhook https://app.example.com/hooks`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.file = defaultConfig; len(args) > 0 {
				o.file = args[0]
			}
			if cmd.Flags().Changed("database") && o.database == "" {
				return usageErrorf("--database is empty: set DATABASE_URL=postgres://USER:PASSWORD@HOST:5432/DATABASE, or leave --database out")
			}
			return p.initialize(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.database, "database", "", "read the schema of the database with this `URL`")
	f.StringVar(&o.webhook, "webhook", "", "deliver to this `URL` (default: print the events)")
	return cmd
}

func (p *program) initialize(ctx context.Context, o *initOptions) error {
	if !strings.HasSuffix(o.file, ".hcl") || strings.HasSuffix(o.file, ".test.hcl") {
		return usageErrorf("%q is no name of a configuration, which ends with .hcl and not with .test.hcl", o.file)
	}
	if o.webhook != "" {
		if u, err := url.Parse(o.webhook); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return usageErrorf("--webhook is a URL such as https://app.example.com/hooks")
		}
	}
	if _, err := os.Lstat(o.file); err == nil {
		return fileExists(o.file)
	}
	starter := config.Starter{Webhook: o.webhook}
	if o.database != "" {
		starter.Source = databaseName(o.database)
		var err error
		if starter.Catalog, err = wholeCatalog(ctx, relay.NewSecret(o.database)); err != nil {
			return err
		}
	}
	if err := createFile(o.file, starter.Text()); err != nil {
		return err
	}
	p.nextSteps(o)
	return nil
}

func fileExists(name string) error {
	return fmt.Errorf("%s exists and is not overwritten: give another name", name)
}

// createFile writes a file that does not exist.
func createFile(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fileExists(name)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// wholeCatalog reads all tables of a database.
func wholeCatalog(ctx context.Context, url relay.Secret) (*relay.Catalog, error) {
	_, names, err := cdc.ReadCatalog(ctx, url, nil)
	if err != nil {
		return nil, err
	}
	catalog, _, err := cdc.ReadCatalog(ctx, url, names)
	return catalog, err
}

// databaseName returns the name of the database in a URL, or "".
func databaseName(database string) string {
	if u, err := url.Parse(database); err == nil && u.Host != "" {
		return strings.TrimPrefix(u.Path, "/")
	}
	for word := range strings.FieldsSeq(database) {
		if name, ok := strings.CutPrefix(word, "dbname="); ok {
			return strings.Trim(name, "'")
		}
	}
	return ""
}

// nextSteps says what to do with a first file.
func (p *program) nextSteps(o *initOptions) {
	flag := ""
	if o.file != defaultConfig {
		flag = " -c " + o.file
	}
	fmt.Fprintf(p.stdout, "wrote %s\n\nNext:\n", o.file)
	if p.getenv("DATABASE_URL") == "" {
		what := "postgres://USER:PASSWORD@HOST:5432/DATABASE"
		if o.database != "" {
			what = "...   # the URL you have just given"
		}
		fmt.Fprintf(p.stdout, "  export DATABASE_URL=%s\n", what)
	}
	fmt.Fprintf(p.stdout, "  export WEBHOOK_SECRET=%s   # new, and kept nowhere: it signs for a webhook\n", p.newSecret())
	fmt.Fprintf(p.stdout, "  rowhook check --database%s\n  rowhook plan%s\n  rowhook run%s\n", flag, flag, flag)
	fmt.Fprintf(p.stdout, "\nThen a first test, of a change that you make while this waits for it:\n  rowhook record%s --changes 1 --output %s\n  rowhook test%s\n",
		flag, filepath.Join(filepath.Dir(o.file), "first.test.hcl"), flag)
}

// newSigningSecret makes a secret as Standard Webhooks has them.
func newSigningSecret() string {
	var key [32]byte
	_, _ = rand.Read(key[:]) // it does not fail
	return "whsec_" + base64.StdEncoding.EncodeToString(key[:])
}
