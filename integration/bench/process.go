package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a relay that runs.
type process struct {
	cmd     *exec.Cmd
	log     string
	started time.Time
	exited  chan struct{}
	err     error // of Wait; read after exited
}

// launch runs a program in the background, its output in the file log.
func launch(log string, env []string, path string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	p := &process{cmd: cmd, log: log, started: time.Now(), exited: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// stop asks the program to end, and returns the CPU time that it took from its start to its end.
func (p *process) stop() (time.Duration, error) {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	select {
	case <-p.exited:
	case <-late.C:
		_ = p.cmd.Process.Kill()
		<-p.exited
		return 0, p.trouble(errors.New("still there a minute after SIGTERM"))
	}
	if p.err != nil {
		return 0, p.trouble(p.err)
	}
	state := p.cmd.ProcessState
	return state.UserTime() + state.SystemTime(), nil
}

// kill ends the program if it still runs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// memory reads a field of /proc/PID/status in MiB: VmRSS, or VmHWM, its peak. The peak of rusage
// would not do: it begins with that of the program that forked.
func (p *process) memory(field string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, p.trouble(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n"+field+":")
	words := strings.Fields(rest)
	if !ok || len(words) == 0 {
		return 0, p.trouble(fmt.Errorf("no %s in /proc/PID/status", field))
	}
	kib, err := strconv.ParseFloat(words[0], 64)
	return kib / 1024, err
}

// alive reports that the program has not ended.
func (p *process) alive() error {
	select {
	case <-p.exited:
		return p.trouble(fmt.Errorf("it ended: %w", errors.Join(p.err, errors.New("unasked"))))
	default:
		return nil
	}
}

// trouble adds the end of the program's output to an error.
func (p *process) trouble(err error) error {
	text, _ := os.ReadFile(p.log)
	if len(text) > 4000 {
		text = text[len(text)-4000:]
	}
	return fmt.Errorf("%s: %w\n%s", p.cmd.Path, err, bytes.TrimSpace(text))
}

// until polls check until it says true, the program ends, or a minute has passed.
func (p *process) until(ctx context.Context, what string, check func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := check()
		if ok {
			return nil
		}
		select {
		case <-p.exited:
			return p.alive()
		case <-ctx.Done():
			return p.trouble(fmt.Errorf("wait for %s: %w", what, errors.Join(ctx.Err(), err)))
		case <-tick.C:
		}
	}
}
