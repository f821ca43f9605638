package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Binary is the rowhook program under test: the one that ROWHOOK_BIN names, or one that is built
// once for the test run, static, as users get it.
func Binary(t testing.TB) string {
	t.Helper()
	return must(t, ordinary)
}

// RaceBinary is rowhook under the race detector, whose reports make it exit with 66.
// ROWHOOK_RACE_BIN names one that is there already.
func RaceBinary(t testing.TB) string {
	t.Helper()
	return must(t, raced)
}

var (
	ordinary = sync.OnceValues(func() (string, error) {
		return built("ROWHOOK_BIN", "rowhook", "CGO_ENABLED=0", "-trimpath", "-ldflags=-s -w")
	})
	raced = sync.OnceValues(func() (string, error) {
		return built("ROWHOOK_RACE_BIN", "rowhook-race", "CGO_ENABLED=1", "-race")
	})
)

func must(t testing.TB, get func() (string, error)) string {
	t.Helper()
	bin, err := get()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func built(variable, name, cgo string, flags ...string) (string, error) {
	if bin := os.Getenv(variable); bin != "" {
		bin, err := filepath.Abs(bin)
		if err == nil {
			_, err = os.Stat(bin)
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", variable, err)
		}
		return bin, nil
	}
	root, err := repoRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".cache", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Under a name of this process's own first: another test program may be running the old one.
	own := filepath.Join(dir, fmt.Sprintf("%s.%d", name, os.Getpid()))
	args := append([]string{"build", "-o", own}, flags...)
	cmd := exec.Command("go", append(args, "./cmd/rowhook")...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/rowhook: %w\n%s", err, out)
	}
	bin := filepath.Join(dir, name)
	return bin, os.Rename(own, bin)
}

func repoRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = up
	}
}
