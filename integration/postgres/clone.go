package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Fetch returns the server programs of a major version, and has getpg.sh bring them where they are
// not on the machine. For tests of what only some versions have: unlike Find it takes another
// version than the one that ROWHOOK_PG_BIN names.
func Fetch(version string) (*Binaries, error) {
	root, err := repoRoot()
	if err != nil {
		return nil, err
	}
	var stderr strings.Builder
	cmd := exec.Command("bash", filepath.Join(root, "integration", "getpg.sh"), version)
	cmd.Stderr = &stderr
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ROWHOOK_PG_BIN=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL %s: %w: %s", version, err, stderr.String())
	}
	return open(strings.TrimSpace(string(out)))
}

// Set changes settings in postgresql.conf, for the next Run.
func (c *Cluster) Set(settings map[string]string) error {
	merged := map[string]string{}
	for name, value := range c.options.Settings {
		merged[name] = value
	}
	for name, value := range settings {
		merged[name] = value
	}
	c.options.Settings = merged
	return c.configure(c.options)
}

// Clone copies a stopped cluster file by file, slots and all: the same system identifier at another
// port, as a storage snapshot or a base backup would give. The copy does not run yet.
func (c *Cluster) Clone() (_ *Cluster, err error) {
	if c.PID() != 0 {
		return nil, errors.New("clone a cluster: it is running")
	}
	n := &Cluster{password: c.password, bin: c.bin, removeDir: true, options: c.options}
	if n.Dir, err = os.MkdirTemp("", "rowhook-pg-"); err != nil {
		return nil, err
	}
	if err = os.Chmod(n.Dir, 0o755); err == nil {
		err = handOver(n.Dir)
	}
	if err == nil {
		n.Port, err = freePort()
	}
	if err == nil {
		err = n.Restore(c)
	}
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Restore puts the files of another cluster, which is stopped too, in the place of a stopped
// cluster's own. Port and settings stay.
func (c *Cluster) Restore(from *Cluster) error {
	if c.PID() != 0 || from.PID() != 0 {
		return errors.New("restore a cluster: it is running")
	}
	if err := os.RemoveAll(c.data()); err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", from.data(), c.data()).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from.data(), err, out)
	}
	return c.configure(c.options)
}

// Signal makes an empty file in the data folder: standby.signal or recovery.signal.
func (c *Cluster) Signal(name string) error {
	path := filepath.Join(c.data(), name)
	if err := os.WriteFile(path, nil, 0o600); err != nil || os.Getuid() != 0 {
		return err
	}
	return os.Chown(path, nobody, nobody)
}
