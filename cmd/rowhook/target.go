package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// target is the flags that say which data folder a command acts on.
type target struct {
	config  []string
	dataDir string
}

func (t *target) flags(cmd *cobra.Command) {
	configFlag(cmd, &t.config)
	cmd.Flags().StringVar(&t.dataDir, "data-dir", "", "data `folder` of the daemon (default: the configuration's)")
	_ = cmd.MarkFlagDirname("data-dir")
}

// defaultConfig is the configuration where none is named.
const defaultConfig = "rowhook.hcl"

func configFlag(cmd *cobra.Command, paths *[]string) {
	cmd.Flags().StringArrayVarP(paths, "config", "c", nil, "configuration `file or folder` of *.hcl; may be repeated (default "+defaultConfig+")")
}

// configPaths returns the paths that were given, or the default.
func configPaths(given []string) ([]string, error) {
	if len(given) > 0 {
		return given, nil
	}
	if _, err := os.Stat(defaultConfig); err != nil {
		return nil, usageErrorf("no configuration: there is no %s here; name one with -c", defaultConfig)
	}
	return []string{defaultConfig}, nil
}

// folder returns the data folder that is meant.
func (p *program) folder(t *target) (string, error) {
	if t.dataDir != "" {
		return t.dataDir, nil
	}
	paths, err := configPaths(t.config)
	if err != nil {
		return "", usageErrorf("%w, or the data folder with --data-dir", err)
	}
	return p.dataDir(paths)
}

// errNoFolder says that there is no data folder.
var errNoFolder = errors.New("no data folder")

// open returns the daemon that has the data folder, or its store when no daemon
// runs. The caller closes it.
func (p *program) open(ctx context.Context, t *target) (backend, error) {
	dir, err := p.folder(t)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s does not exist; 'rowhook run' makes it", errNoFolder, dir)
	} else if err != nil {
		return nil, fmt.Errorf("open data folder: %w", err)
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("open data folder: %s is not a folder", dir)
	}
	client := api.NewSocketClient(api.SocketPath(dir))
	_, err = client.Status(ctx, &api.StatusRequest{})
	if err == nil {
		return client, nil
	}
	_ = client.Close()
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("call the daemon: %w: only the user that it runs as may", err)
	}
	if !errors.Is(err, api.ErrNotRunning) {
		return nil, fmt.Errorf("call the daemon: %w", err)
	}
	paths := t.config
	if t.dataDir == "" {
		if paths, err = configPaths(t.config); err != nil {
			return nil, err
		}
	}
	b, err := p.offline(ctx, dir, paths)
	if errors.Is(err, relay.ErrStoreLocked) {
		return nil, fmt.Errorf("%w; its socket does not answer: a daemon that starts or stops, or another command, has it. Try again in a moment", err)
	}
	return b, err
}

// action runs f on what t means.
func (p *program) action(cmd *cobra.Command, t *target, f func(ctx context.Context, b backend) error) error {
	b, err := p.open(cmd.Context(), t)
	if err != nil {
		return err
	}
	err = f(cmd.Context(), b)
	if cerr := b.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close store: %w", cerr)
	}
	return err
}
