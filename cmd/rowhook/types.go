package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay"
)

// typesOptions is what the flags of types say.
type typesOptions struct {
	config   []string
	format   string
	database bool
	urls     []string
	catalog  string
	compat   string
	pkg      string
	title    string
	output   string
	json     bool
}

var typesFormats = []string{"jsonschema", "typescript", "go", "asyncapi"}

func (p *program) typesCommand() *cobra.Command {
	var o typesOptions
	cmd := &cobra.Command{
		Use:   "types [URL...]",
		Short: "Print the events for those who receive them",
		Long: `Types prints what the bodies of the webhooks are, envelope and data: as JSON Schema
(2020-12), as TypeScript, as Go structs or as an AsyncAPI 3.0 document. The types of
the data are those of the schema blocks, and else what the expressions say of the
columns. It knows these from --catalog, from catalog = "FILE" in the rowhook block,
or from the databases with --database; what it does not know can be anything.

The JSON Schema is also the form in which a contract is kept. --compat OLD compares
the events with a schema that was printed before and lists what breaks receivers: an
event or an attribute that is gone, that may be null or left out, that may be of
another type, or a value more of an enum, since receivers switch over those. New
events, new versions and new attributes break nobody. To change more, make a new
version of the event beside the old one: version = 2.

It ends with exit code 2 when the configuration is wrong, and with --compat with
exit code 3 when something breaks receivers.`,
		Example: `  rowhook types > events.schema.json
  rowhook types --format typescript -o web/src/events.ts
  rowhook types --format go --package events -o events/events.go
  rowhook types --compat events.schema.json`,
		Args: databaseURLs(&o.database),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.config, err = configPaths(o.config); err != nil {
				return err
			}
			if !slices.Contains(typesFormats, o.format) {
				return usageErrorf("--format is %s, not %q", strings.Join(typesFormats, ", "), o.format)
			}
			if !packageForm.MatchString(o.pkg) {
				return usageErrorf("--package %q is no name of a Go package", o.pkg)
			}
			o.urls = args
			return p.types(cmd.Context(), &o)
		},
	}
	configFlag(cmd, &o.config)
	cmd.Flags().StringVar(&o.format, "format", "jsonschema", "jsonschema, typescript, go or asyncapi")
	cmd.Flags().BoolVar(&o.database, "database", false, "ask the live databases, or those of the URLs, for the columns")
	cmd.Flags().StringVar(&o.catalog, "catalog", "", "know the columns from a saved catalogue")
	cmd.Flags().StringVar(&o.compat, "compat", "", "compare with a JSON Schema that was printed before")
	cmd.Flags().StringVar(&o.pkg, "package", "events", "the name of the Go package")
	cmd.Flags().StringVar(&o.title, "title", "Events", "the title of the AsyncAPI document")
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "write to this file")
	cmd.Flags().BoolVar(&o.json, "json", false, "print what --compat finds as JSON")
	return cmd
}

var packageForm = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func (p *program) types(ctx context.Context, o *typesOptions) error {
	events, err := p.events(ctx, o)
	if err != nil {
		return err
	}
	if o.compat != "" {
		return p.compareTypes(o, events)
	}
	var text []byte
	switch o.format {
	case "jsonschema":
		text = contract.JSONSchema(events)
	case "typescript":
		text = contract.TypeScript(events)
	case "asyncapi":
		text = contract.AsyncAPI(events, o.title)
	case "go":
		if text, err = contract.Go(events, o.pkg); err != nil {
			return fmt.Errorf("print Go: %w", err)
		}
	}
	if o.output != "" {
		return os.WriteFile(o.output, text, 0o644)
	}
	_, err = p.stdout.Write(text)
	return err
}

// events returns the contract of a configuration. Rules that cannot be right
// have none; those that fail on some rows do.
func (p *program) events(ctx context.Context, o *typesOptions) ([]contract.Event, error) {
	cfg, files, err := p.loadFiles(o.config, !o.database || len(o.urls) > 0)
	if err != nil {
		return nil, err
	}
	var known map[string]config.Known
	file := cmp.Or(o.catalog, cfg.Settings.Catalog)
	switch {
	case o.database:
		known, err = p.catalogs(ctx, cfg, o.urls)
	case file != "":
		if known, _, err = config.LoadCatalog(file, cfg); err != nil {
			err = usageErrorf("%w", err)
		}
	case slices.ContainsFunc(cfg.Rules, func(r *relay.Rule) bool { return len(r.Tables) > 0 }):
		fmt.Fprintln(p.stderr, "rowhook: the columns are not known, so what is made of them can be anything: name a saved catalogue with --catalog, or ask the database with --database")
	}
	if err != nil {
		return nil, err
	}
	if certain, _ := config.Hazards(config.Check(cfg, known)); len(certain) > 0 {
		width, color := p.terminal(p.stderr)
		if err := files.Write(p.stderr, certain, width, color); err != nil {
			return nil, err
		}
		return nil, &exitError{code: exitUsage}
	}
	return config.Events(cfg, known), nil
}

// compareTypes prints what breaks receivers.
func (p *program) compareTypes(o *typesOptions, events []contract.Event) error {
	text, err := os.ReadFile(o.compat)
	if err != nil {
		return usageErrorf("--compat: %w", err)
	}
	old, err := contract.ReadJSONSchema(text)
	if err != nil {
		return usageErrorf("--compat %s: %w", o.compat, err)
	}
	breaks := contract.Compare(old, events)
	switch {
	case o.json:
		enc := json.NewEncoder(p.stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(map[string]any{"compatible": len(breaks) == 0, "breaks": append([]contract.Break{}, breaks...)}); err != nil {
			return err
		}
	case len(breaks) == 0:
		fmt.Fprintf(p.stdout, "nothing breaks receivers: %s before, %s now\n", plural(int64(len(old)), "event", "events"), plural(int64(len(events)), "event", "events"))
	default:
		for _, b := range breaks {
			fmt.Fprintln(p.stdout, b)
		}
	}
	if len(breaks) > 0 {
		return &exitError{code: exitBreaks, err: fmt.Errorf("%s of the contract that receivers may not survive; a new version of the event beside the old one is for that", plural(int64(len(breaks)), "change", "changes"))}
	}
	return nil
}
