package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

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
	cfg, files, diags := config.Load(o.config, config.Options{Getenv: p.lookupEnv, WithoutSecrets: o.withoutSecrets})
	if o.database && cfg != nil {
		known, err := p.catalogs(ctx, cfg)
		if err != nil {
			return err
		}
		diags = append(diags, config.Check(cfg, known)...)
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

// catalogs reads what the databases know of the tables that rules name.
func (p *program) catalogs(ctx context.Context, cfg *config.Config) (map[string]config.Known, error) {
	known := map[string]config.Known{}
	for i := range cfg.Sources {
		src := &cfg.Sources[i]
		if src.URL.IsZero() {
			continue // a check without secrets
		}
		var tables []relay.TableName
		for _, r := range cfg.Rules {
			if r.Source == src.Name {
				tables = append(tables, r.Tables...)
			}
		}
		if _, err := cdc.Inspect(ctx, src.URL, src.Slot, src.Publication); err != nil {
			return nil, fmt.Errorf("check source %s: %w", src.Name, err)
		}
		catalog, all, err := cdc.ReadCatalog(ctx, src.URL, tables)
		if err != nil {
			return nil, fmt.Errorf("check source %s: %w", src.Name, err)
		}
		known[src.Name] = config.Known{Catalog: catalog, Tables: all}
	}
	return known, nil
}
