package main

import (
	"context"
	"errors"
)

var errNotYet = errors.New("not built yet")

func (p *program) configuredDataDir([]string) (string, error) { return "", errNotYet }

func (p *program) openStore(context.Context, string, []string) (backend, error) {
	return nil, errNotYet
}

func (p *program) runDaemon(context.Context, *runOptions) error { return errNotYet }

func (p *program) checkConfig(context.Context, *checkOptions) error { return errNotYet }

func (p *program) runReceiver(context.Context, *receiveOptions) error { return errNotYet }
