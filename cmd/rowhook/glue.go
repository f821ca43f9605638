package main

import (
	"context"
	"errors"

	"github.com/rowhook/rowhook/config"
)

var errNotYet = errors.New("not built yet")

// openStore opens the store of a stopped daemon.
func (p *program) openStore(context.Context, string, []string) (backend, error) {
	return nil, errNotYet
}

// startDaemon runs the daemon until ctx is done.
func (p *program) startDaemon(context.Context, *config.Config, *runOptions) error {
	return errNotYet
}
