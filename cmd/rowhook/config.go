package main

import (
	"cmp"
	"context"
	"fmt"
	"golang.org/x/term"
	"io"
	"os"
	"strings"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
)

// lookupEnv is what env() in a configuration asks.
func (p *program) lookupEnv(name string) (string, bool) {
	v := p.getenv(name)
	return v, v != ""
}

// loadConfig loads a configuration and prints its diagnostics. After a mistake
// the error has been told.
func (p *program) loadConfig(paths []string, withoutSecrets bool) (*config.Config, error) {
	cfg, _, err := p.loadFiles(paths, withoutSecrets)
	return cfg, err
}

// loadFiles is loadConfig for who prints more diagnostics later.
func (p *program) loadFiles(paths []string, withoutSecrets bool) (*config.Config, *config.Files, error) {
	cfg, files, diags := config.Load(paths, config.Options{Getenv: p.lookupEnv, WithoutSecrets: withoutSecrets})
	if withoutSecrets && cfg != nil {
		return cfg, files, nil // its warnings are of no interest to who does not ask for secrets
	}
	width, color := p.terminal(p.stderr)
	if err := files.Write(p.stderr, diags, width, color); err != nil {
		return nil, nil, err
	}
	if cfg == nil {
		return nil, nil, &exitError{code: exitUsage}
	}
	return cfg, files, nil
}

// terminal returns the width of w, 0 when it is no terminal, and whether
// colours are welcome there.
func (p *program) terminal(w io.Writer) (width int, color bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		width = 80
	}
	return width, p.getenv("NO_COLOR") == "" && p.getenv("TERM") != "dumb"
}

// configuredDataDir returns the data folder of a configuration. The secrets of
// the daemon need not be at hand.
func (p *program) configuredDataDir(paths []string) (string, error) {
	cfg, err := p.loadConfig(paths, true)
	if err != nil {
		return "", err
	}
	return cfg.Settings.DataDir, nil
}

func (p *program) runDaemon(ctx context.Context, o *runOptions) error {
	cfg, files, err := p.loadFiles(o.config, false)
	if err != nil {
		return err
	}
	for _, r := range o.resets {
		if cfg.Source(r.Source) == nil {
			return usageErrorf("--reset-checkpoint: the configuration has no source %q", r.Source)
		}
	}
	for _, s := range o.acceptAddress {
		if cfg.Source(s) == nil {
			return usageErrorf("--accept-address: the configuration has no source %q", s)
		}
	}
	return p.startDaemon(ctx, cfg, files, o)
}

func (p *program) checkConfig(ctx context.Context, o *checkOptions) error {
	// Who names another database need not have the daemon's secrets.
	cfg, files, diags := config.Load(o.config, config.Options{Getenv: p.lookupEnv, WithoutSecrets: o.withoutSecrets || len(o.urls) > 0})
	if len(o.urls) > 0 && !diags.HasErrors() {
		diags = nil
	}
	if cfg != nil {
		more, err := p.checkCatalog(ctx, cfg, o)
		if err != nil {
			return err
		}
		diags = append(diags, more...)
	}
	var err error
	if o.json {
		_, err = p.stdout.Write(files.DiagsJSON(diags))
	} else {
		width, color := p.terminal(p.stderr)
		err = files.Write(p.stderr, diags, width, color)
	}
	switch {
	case err != nil:
		return err
	case diags.HasErrors():
		return &exitError{code: exitUsage}
	case !o.json:
		fmt.Fprintf(p.stdout, "no mistake found: %s, %s, %s\n", plural(int64(len(cfg.Sources)), "source", "sources"),
			plural(int64(len(cfg.Rules)), "rule", "rules"), plural(int64(len(cfg.Sinks)), "sink", "sinks"))
	}
	return nil
}

// checkCatalog holds the rules against the databases, or against a saved
// catalogue where there is one, and saves what the databases say.
func (p *program) checkCatalog(ctx context.Context, cfg *config.Config, o *checkOptions) (config.Diagnostics, error) {
	file := cmp.Or(o.catalog, cfg.Settings.Catalog)
	var saved map[string]*relay.Catalog
	var known map[string]config.Known
	var err error
	if file != "" && o.save == "" {
		if known, saved, err = config.LoadCatalog(file, cfg); err != nil {
			return nil, usageErrorf("%w", err)
		}
	}
	if !o.database {
		return config.Check(cfg, known), nil
	}
	if known, err = p.catalogs(ctx, cfg, o.urls); err != nil {
		return nil, err
	}
	diags := config.Check(cfg, known)
	if saved != nil {
		diags = append(diags, config.Drift(cfg, saved, known)...)
	}
	if o.save == "" {
		return diags, nil
	}
	catalogs := map[string]*relay.Catalog{}
	for name, k := range known {
		catalogs[name] = k.Catalog
	}
	return diags, os.WriteFile(o.save, config.WriteCatalog(catalogs), 0o644)
}

// catalogs reads what the databases know of the tables that rules name: those
// of the configuration, or those that urls name.
func (p *program) catalogs(ctx context.Context, cfg *config.Config, urls []string) (map[string]config.Known, error) {
	others, err := namedURLs(cfg, urls)
	if err != nil {
		return nil, err
	}
	known := map[string]config.Known{}
	for i := range cfg.Sources {
		src := &cfg.Sources[i]
		url := src.URL
		if len(urls) > 0 {
			url = others[src.Name]
		}
		if url.IsZero() {
			continue // a check without secrets, or of another source
		}
		if len(urls) == 0 {
			if _, err := cdc.Inspect(ctx, url, src.Slot, src.Publication); err != nil {
				return nil, fmt.Errorf("check source %s: %w", src.Name, err)
			}
		}
		k, err := p.catalog(ctx, cfg, src.Name, url)
		if err != nil {
			return nil, fmt.Errorf("check source %s: %w", src.Name, err)
		}
		known[src.Name] = k
	}
	return known, nil
}

// namedURLs reads URL, of the only source, or SOURCE=URL.
func namedURLs(cfg *config.Config, urls []string) (map[string]relay.Secret, error) {
	named := map[string]relay.Secret{}
	for _, u := range urls {
		name, rest, ok := strings.Cut(u, "=")
		switch {
		case ok && cfg.Source(name) != nil:
			u = rest
		case len(cfg.Sources) == 1:
			name = cfg.Sources[0].Name
		default:
			return nil, usageErrorf("there are several sources: name one of them, as in %s=postgres://...", cfg.Sources[0].Name)
		}
		if _, twice := named[name]; twice {
			return nil, usageErrorf("the source %s has two URLs", name)
		}
		named[name] = relay.NewSecret(u)
	}
	return named, nil
}

// catalog reads what a database knows of the tables that its rules name.
func (p *program) catalog(ctx context.Context, cfg *config.Config, source string, url relay.Secret) (config.Known, error) {
	var tables []relay.TableName
	for _, r := range cfg.Rules {
		if r.Source == source {
			tables = append(tables, r.Tables...)
		}
	}
	catalog, all, err := cdc.ReadCatalog(ctx, url, tables)
	return config.Known{Catalog: catalog, Tables: all}, err
}
