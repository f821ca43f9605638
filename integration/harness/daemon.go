package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Patience is how long the harness waits for what ought to take a moment, on a busy machine.
const Patience = 60 * time.Second

// DaemonOptions says how rowhook is run. Rules and DatabaseURL are what a test nearly always gives.
type DaemonOptions struct {
	Rules       string // HCL: source, event and sink blocks
	Settings    string // HCL within the rowhook block, beside listen and data_dir
	DatabaseURL string // what env("DATABASE_URL") is

	Env    []string // NAME=value, beside the environment of the test
	Args   []string // after "run -c FOLDER"
	Binary string   // empty: Binary(t)

	// Wrap is a command that runs rowhook, such as strace with its flags; it gets the program and
	// its arguments at the end. Signals go to the whole process group.
	Wrap []string
}

// Daemon is "rowhook run" with a data folder and an address that stay the same over restarts. It
// is not safe for use by several goroutines.
type Daemon struct {
	Dir     string // config/, data/ and log are in here
	DataDir string
	Addr    string // of health, metrics and API: 127.0.0.1:PORT

	t      testing.TB
	o      DaemonOptions
	cmd    *exec.Cmd // nil: not running
	exited chan struct{}
}

// NewDaemon writes the configuration; Start runs it. At the end of the test the daemon is killed,
// and its log printed if the test failed.
func NewDaemon(t testing.TB, o DaemonOptions) *Daemon {
	t.Helper()
	if o.Binary == "" {
		o.Binary = Binary(t)
	}
	// Not t.TempDir: the data folder holds a Unix socket, whose path has 107 bytes at most.
	dir, err := os.MkdirTemp("", "rowhook-test-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{t: t, o: o, Dir: dir, DataDir: filepath.Join(dir, "data"), Addr: l.Addr().String()}
	_ = l.Close()
	t.Cleanup(func() {
		d.Kill9()
		if t.Failed() {
			t.Logf("the log of rowhook, its end:\n%s", lastLines(d.Log(), 200))
		}
		_ = os.RemoveAll(dir)
	})
	if err := os.Mkdir(d.configDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	d.SetRules(o.Rules)
	return d
}

func (d *Daemon) configDir() string { return filepath.Join(d.Dir, "config") }
func (d *Daemon) logFile() string   { return filepath.Join(d.Dir, "log") }

// SetRules writes new rules, for the next start or a reload.
func (d *Daemon) SetRules(rules string) {
	d.t.Helper()
	own := fmt.Sprintf("rowhook {\n  listen   = %q\n  data_dir = %q\n%s\n}\n", d.Addr, d.DataDir, d.o.Settings)
	for name, text := range map[string]string{"daemon.hcl": own, "rules.hcl": rules} {
		// In one step: a daemon that starts meanwhile must not read half a file.
		path := filepath.Join(d.configDir(), name)
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			d.t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *Daemon) env() []string {
	return append(append(os.Environ(), "DATABASE_URL="+d.o.DatabaseURL), d.o.Env...)
}

// Start runs the daemon and returns at once; more arguments hold for this start only.
func (d *Daemon) Start(args ...string) {
	d.t.Helper()
	if d.cmd != nil {
		d.t.Fatal("start rowhook: it is running")
	}
	log, err := os.OpenFile(d.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	line := append(append([]string{}, d.o.Wrap...), d.o.Binary, "run", "-c", d.configDir())
	line = append(append(line, d.o.Args...), args...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Dir, cmd.Env = d.Dir, d.env()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	exited, started := make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig fires at the end of the thread that forked
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // told by ProcessState
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		d.t.Fatalf("start rowhook: %v", err)
	}
	d.cmd, d.exited = cmd, exited
}

// StartReady runs the daemon and waits until it is ready.
func (d *Daemon) StartReady(args ...string) {
	d.t.Helper()
	d.Start(args...)
	d.WaitReady()
}

// WaitReady waits until /readyz answers 200.
func (d *Daemon) WaitReady() {
	d.t.Helper()
	Eventually(d.t, Patience, func() error {
		if !d.Running() {
			d.t.Fatalf("rowhook exited with %d before it was ready", d.Wait(0))
		}
		status, body, err := d.Get("/readyz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("/readyz: %d: %s", status, body)
		}
		return err
	})
}

// Running reports whether the daemon has been started and has not ended.
func (d *Daemon) Running() bool {
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// PID of the daemon, or of what wraps it.
func (d *Daemon) PID() int {
	if d.cmd == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

// Signal sends a signal to the daemon, if it runs.
func (d *Daemon) Signal(sig syscall.Signal) {
	d.t.Helper()
	if !d.Running() {
		return
	}
	if err := syscall.Kill(-d.PID(), sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		d.t.Fatalf("signal rowhook: %v", err)
	}
}

// Kill9 ends the daemon with SIGKILL and waits until it is gone.
func (d *Daemon) Kill9() {
	if d.cmd == nil {
		return
	}
	_ = syscall.Kill(-d.PID(), syscall.SIGKILL)
	<-d.exited
	d.cmd = nil
}

// Term ends the daemon with SIGTERM, and returns its exit code.
func (d *Daemon) Term() int {
	d.t.Helper()
	d.Signal(syscall.SIGTERM)
	return d.Wait(Patience)
}

// Wait waits until the daemon has ended, and returns its exit code; -1 after a signal.
func (d *Daemon) Wait(within time.Duration) int {
	d.t.Helper()
	if d.cmd == nil {
		d.t.Fatal("wait for rowhook: it was not started")
	}
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-d.exited:
	default:
		select {
		case <-d.exited:
		case <-late.C:
			d.t.Fatalf("rowhook did not end within %s", within)
		}
	}
	code := d.cmd.ProcessState.ExitCode()
	d.cmd = nil
	return code
}

// Get asks the daemon over HTTP.
func (d *Daemon) Get(path string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Addr+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// Metric is the sum of the samples of a metric whose labels contain all of the given ones, each
// written as it is in /metrics: `rule="order.paid"`. A metric without samples is an error.
func (d *Daemon) Metric(name string, labels ...string) (float64, error) {
	status, text, err := d.Get("/metrics")
	if err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("/metrics: %d: %w", status, err)
	}
	return sumSamples(text, name, labels)
}

func sumSamples(text, name string, labels []string) (float64, error) {
	sum, found := 0.0, false
samples:
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue samples
			}
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, fmt.Errorf("no sample of %s with %v", name, labels)
	}
	return sum, nil
}

// Result is what a command printed and how it ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Command runs another rowhook command with the daemon's environment, in its folder. The word
// CONFIG among the arguments stands for the folder of the configuration, DATA for the data folder.
func (d *Daemon) Command(args ...string) Result {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, d.o.Binary, d.folders(args)...)
	cmd.Dir, cmd.Env = d.Dir, d.env()
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		d.t.Fatalf("rowhook %s: %v", strings.Join(args, " "), errors.Join(err, ctx.Err()))
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// folders returns the arguments with the folders that CONFIG and DATA stand for.
func (d *Daemon) folders(args []string) []string {
	args = slices.Clone(args)
	for i := range args {
		switch args[i] {
		case "CONFIG":
			args[i] = d.configDir()
		case "DATA":
			args[i] = d.DataDir
		}
	}
	return args
}

// Log is all that the daemon has written to its standard streams, over all its starts.
func (d *Daemon) Log() string {
	text, err := os.ReadFile(d.logFile())
	if err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	return string(text)
}

// WaitLog waits until the log holds a text.
func (d *Daemon) WaitLog(text string) {
	d.t.Helper()
	Eventually(d.t, Patience, func() error {
		if !strings.Contains(d.Log(), text) {
			return fmt.Errorf("the log has no %q", text)
		}
		return nil
	})
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
