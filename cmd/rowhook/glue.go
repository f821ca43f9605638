package main

import (
	"context"
	"errors"
	"runtime/debug"

	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/daemon"
)

// openStore opens the store of a stopped daemon. The configuration is needed
// only by what talks to a database.
func (p *program) openStore(ctx context.Context, dir string, paths []string) (backend, error) {
	var cfg *config.Config
	if len(paths) > 0 {
		var err error
		if cfg, err = p.loadConfig(paths, true); err != nil {
			return nil, err
		}
	}
	return daemon.OpenOffline(ctx, dir, readBuild().Version, cfg, nil)
}

// startDaemon runs the daemon until ctx is done.
func (p *program) startDaemon(ctx context.Context, cfg *config.Config, files *config.Files, o *runOptions) error {
	if p.getenv("GOGC") == "" {
		// The live heap is small and little garbage is made: half the usual
		// headroom costs a percent of CPU.
		debug.SetGCPercent(50)
	}
	opts := daemon.Options{
		Config: cfg, Logger: o.logger, Version: readBuild().Version, AcceptAddress: o.acceptAddress,
		ExitOnSourceStop: o.exitOnSourceStop, Stdout: p.stdout,
	}
	for _, r := range o.resets {
		text := r.Source + "="
		if r.From != "" {
			text += r.From + ".."
		}
		reset, err := relay.ParseReset(text + r.To)
		if err != nil {
			return usageErrorf("--reset-checkpoint: %w", err)
		}
		opts.Resets = append(opts.Resets, reset)
	}
	d, err := daemon.New(ctx, opts)
	if err != nil {
		return err
	}
	err = d.Run(ctx)
	var wrong *daemon.ConfigError
	if errors.As(err, &wrong) {
		width, color := p.terminal(p.stderr)
		if werr := files.Write(p.stderr, config.Check(cfg, wrong.Known), width, color); werr != nil {
			return werr
		}
		return &exitError{code: exitUsage, err: wrong}
	}
	return err
}
