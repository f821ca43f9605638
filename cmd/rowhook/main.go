// Command rowhook turns the commits of a PostgreSQL application into typed
// events and delivers them as signed webhooks.
//
// This package is the edge: one file a command, which reads its flags, calls
// the packages below and prints. What acts on a data folder goes through the
// socket of the daemon that has it, or, when none runs, works on the store
// itself; both are an admin.Actions.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
)

// Exit codes. They do not change.
const (
	exitOK      = 0
	exitFailure = 1 // it could not be done
	exitUsage   = 2 // the command line or the configuration is wrong
	// exitNotReady is of status: no daemon runs, or a source of it makes no
	// progress.
	exitNotReady = 3
	exitBreaks   = 3 // of types --compat: receivers may not survive a change
	// exitUnformatted is of fmt --check: a file is not in its canonical form.
	exitUnformatted = 3
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	// A limit of the file size is an error of the write, which the store deals
	// with; the signal that comes with it would end the process.
	signal.Ignore(syscall.SIGXFSZ)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		// The second signal is from somebody who does not want to wait.
		s := <-signals
		code := exitFailure
		if n, ok := s.(syscall.Signal); ok {
			code = 128 + int(n)
		}
		os.Exit(code)
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}

// run is the program: it runs one command and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	p := &program{
		stdin: stdin, stdout: stdout, stderr: stderr, getenv: getenv,
		now: time.Now, zone: time.Local, newSecret: newSigningSecret,
	}
	p.dataDir, p.offline = p.configuredDataDir, p.openStore
	p.daemon, p.check, p.plan, p.receive = p.runDaemon, p.checkConfig, p.planSources, p.runReceiver
	return p.run(ctx, args)
}

// program is what the commands share.
type program struct {
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	zone           *time.Location
	newSecret      func() string

	// dataDir returns the data folder of a configuration.
	dataDir func(paths []string) (string, error)
	// offline opens the store of a stopped daemon and takes its lock.
	offline func(ctx context.Context, dataDir string, configPaths []string) (backend, error)
	daemon  daemonFunc
	check   checkFunc
	plan    planFunc
	receive receiveFunc
}

// backend is what commands act on: a running daemon, or the store of a stopped
// one.
type backend interface {
	admin.Actions
	io.Closer
}

func (p *program) run(ctx context.Context, args []string) int {
	args = longFlags(args)
	p.args = args
	root := p.rootCommand()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var exit *exitError
	code := exitFailure
	switch {
	case errors.As(err, &exit):
		code = exit.code
		if exit.err == nil {
			return code
		}
	case errors.Is(err, api.ErrInvalid):
		code = exitUsage
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = errors.New("interrupted")
	}
	fmt.Fprintf(p.stderr, "rowhook: %v\n", err)
	if exit != nil && exit.usage {
		fmt.Fprintf(p.stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
	}
	return code
}

// longFlags lets the flags of fmt and test be written with one dash, as those
// of terraform fmt and go test are.
func longFlags(args []string) []string {
	if len(args) == 0 || args[0] != "fmt" && args[0] != "test" {
		return args
	}
	out := slices.Clone(args)
	for i, a := range out {
		name, _, _ := strings.Cut(a, "=")
		if slices.Contains([]string{"-check", "-diff", "-run", "-update", "-json", "-coverage", "-junit"}, name) {
			out[i] = "-" + a
		}
	}
	return out
}

// exitError ends the program with a code of its own.
type exitError struct {
	code  int
	err   error // nil: everything is said already
	usage bool  // of the command line
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageErrorf returns an error of the command line.
func usageErrorf(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...), usage: true}
}
