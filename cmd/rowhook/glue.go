package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
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
		Load: func() (*config.Config, *config.Files, config.Diagnostics) {
			return config.Load(o.config, config.Options{Getenv: p.lookupEnv})
		},
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
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	d, err := daemon.New(ctx, opts)
	if err != nil {
		return err
	}
	defer reloadOnHangup(ctx, d, hangups)()
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

// reloadOnHangup has the daemon read its configuration again at every SIGHUP,
// until the returned function is called. What comes of it is in the log.
func reloadOnHangup(ctx context.Context, d *daemon.Daemon, hangups <-chan os.Signal) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-hangups:
				_, _ = d.Reload(ctx, &api.ReloadRequest{}) // logged
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
