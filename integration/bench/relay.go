package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/rowhook/rowhook/integration/postgres"
)

// place is what a relay is given for one scenario: a database of its own slots, a folder, and
// where to post.
type place struct {
	cluster *postgres.Cluster
	db      string
	dir     string
	url     string
	kind    string // only rows of the kind become events; "" is all
	read    bool   // rows that are read become events, which no endpoint wants
}

func (p place) databaseURL() string { return p.cluster.URL(p.db) }

// relay is a program under measurement.
type relay interface {
	name() string

	// prepare makes the slot: what is committed from here on is the relay's to deliver.
	prepare(ctx context.Context, p place) error

	// start runs the program and returns at once; ready returns when it reads its slot.
	start(p place) (*process, error)
	ready(ctx context.Context, p place, proc *process) error
}

// slotIsRead reports whether a process reads the slot.
func slotIsRead(ctx context.Context, p place, slot string) (bool, error) {
	conn, err := p.cluster.Conn(ctx, p.db)
	if err != nil {
		return false, err
	}
	defer conn.Close(ctx)
	var active bool
	err = conn.QueryRow(ctx, `SELECT active FROM pg_replication_slots WHERE slot_name = $1`, slot).Scan(&active)
	return active, err
}

// bare is the yardstick; see its package.
type bare struct{ bin string }

const bareSlot = "bare"

func (b bare) name() string { return "bare" }

func (b bare) prepare(ctx context.Context, p place) error {
	if err := p.cluster.Exec(ctx, p.db, `CREATE PUBLICATION bare FOR TABLE items WITH (publish = 'insert')`); err != nil {
		return err
	}
	return p.cluster.Exec(ctx, p.db, `SELECT pg_create_logical_replication_slot('bare', 'pgoutput')`)
}

func (b bare) start(p place) (*process, error) {
	args := []string{"-db", p.databaseURL(), "-slot", bareSlot, "-publication", "bare", "-url", p.url}
	if p.kind != "" {
		args = append(args, "-when", "kind="+p.kind)
	}
	return launch(filepath.Join(p.dir, "bare.log"), nil, b.bin, args...)
}

func (b bare) ready(ctx context.Context, p place, proc *process) error {
	return proc.until(ctx, "bare to read its slot", func() (bool, error) { return slotIsRead(ctx, p, bareSlot) })
}

// rowhook is the real binary with everything on: log, order by key, retries, signatures.
type rowhook struct {
	bin    string
	listen string // for health; the same in every run
}

const rowhookConfig = `
rowhook {
  data_dir = %q
  listen   = %q
}

source "postgres" "bench" {
  url = env("DATABASE_URL")
}

event "row.created" {
  table = "public.items"
  on    = [%q]
  %s
  data  = row
}

sink "webhook" "rx" {
  url     = %q
  events  = [%q]
  secrets = [env("RX_SECRET")]
}
`

func newRowhook(bin string) (*rowhook, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &rowhook{bin: bin, listen: l.Addr().String()}, l.Close()
}

func (r *rowhook) name() string { return "rowhook" }

// prepare runs the daemon until it is ready, which makes slot and publication, and ends it.
func (r *rowhook) prepare(ctx context.Context, p place) error {
	on, when, events := "insert", "", "**"
	if p.kind != "" {
		when = fmt.Sprintf("when  = new.kind == %q", p.kind)
	}
	if p.read {
		on, events = "read", "nothing.**"
	}
	config := fmt.Sprintf(rowhookConfig, filepath.Join(p.dir, "data"), r.listen, on, when, p.url, events)
	if err := os.WriteFile(filepath.Join(p.dir, "rowhook.hcl"), []byte(config), 0o600); err != nil {
		return err
	}
	proc, err := r.start(p)
	if err != nil {
		return err
	}
	if err := r.ready(ctx, p, proc); err != nil {
		proc.kill()
		return err
	}
	_, err = proc.stop()
	return err
}

func (r *rowhook) start(p place) (*process, error) {
	return launch(filepath.Join(p.dir, "rowhook.log"), r.env(p), r.bin, "run", "-c", filepath.Join(p.dir, "rowhook.hcl"))
}

func (r *rowhook) env(p place) []string {
	return []string{
		"DATABASE_URL=" + p.databaseURL(),
		"RX_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", // the specification's example
	}
}

// command runs another command of the program and returns its standard output.
func (r *rowhook) command(ctx context.Context, p place, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, r.bin, args...)
	cmd.Env = append(os.Environ(), r.env(p)...)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("rowhook %s: %w: %s", args[0], err, exit.Stderr)
	}
	return out, err
}

func (r *rowhook) ready(ctx context.Context, p place, proc *process) error {
	err := proc.until(ctx, "rowhook to be ready", func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.listen+"/readyz", nil)
		if err != nil {
			return false, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK, fmt.Errorf("/readyz: %s", resp.Status)
	})
	if err != nil {
		return err
	}
	return proc.until(ctx, "rowhook to read its slot", func() (bool, error) { return slotIsRead(ctx, p, "rowhook_bench") })
}

// build compiles a static program of this module.
func build(ctx context.Context, dir, pkg string) (string, error) {
	bin := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return bin, nil
}
