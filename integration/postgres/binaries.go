package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Binaries is a folder that holds PostgreSQL's server programs.
type Binaries struct {
	Dir   string // holds initdb and postgres
	Major int    // 15, for example; 0 is not a value

	// libraryPath is what LD_LIBRARY_PATH must say for binaries unpacked from
	// distribution packages, whose libraries lie beside them; empty otherwise.
	libraryPath string
}

// ErrNoBinaries is returned by Find when no folder holds server programs of the wanted version.
var ErrNoBinaries = errors.New("no PostgreSQL server binaries (initdb, postgres) found; " +
	"set ROWHOOK_PG_BIN to a folder that holds them, or run integration/getpg.sh, which brings some")

// Find looks for server binaries: in the folder that ROWHOOK_PG_BIN names, then in Debian's
// places, then where pg_config points, then in the checkout's .cache, where getpg.sh puts what it
// fetches. The version is a major version ("16"); empty takes the newest of the first place that
// has any. ROWHOOK_PG_BIN is taken as it is: a version that does not fit is an error, because
// falling back to another server would test something that nobody asked for.
func Find(version string) (*Binaries, error) {
	if dir := os.Getenv("ROWHOOK_PG_BIN"); dir != "" {
		b, err := open(dir)
		if err != nil {
			return nil, fmt.Errorf("ROWHOOK_PG_BIN: %w", err)
		}
		if version != "" && strconv.Itoa(b.Major) != version {
			return nil, fmt.Errorf("ROWHOOK_PG_BIN: %s holds PostgreSQL %d, not %s", dir, b.Major, version)
		}
		return b, nil
	}
	places := [][]string{glob("/usr/lib/postgresql/*/bin"), pgConfig(), cached()}
	for _, dirs := range places {
		var newest *Binaries
		for _, dir := range dirs {
			b, err := open(dir)
			if err != nil || version != "" && strconv.Itoa(b.Major) != version {
				continue
			}
			if newest == nil || b.Major > newest.Major {
				newest = b
			}
		}
		if newest != nil {
			return newest, nil
		}
	}
	if version != "" {
		return nil, fmt.Errorf("PostgreSQL %s: %w", version, ErrNoBinaries)
	}
	return nil, ErrNoBinaries
}

// open checks that dir holds server binaries and asks them for their version.
func open(dir string) (*Binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	b := &Binaries{Dir: dir, libraryPath: unpackedLibraries(dir)}
	cmd := exec.Command(filepath.Join(dir, "postgres"), "--version")
	cmd.Env = b.env()
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", cmd.Path, err)
	}
	// postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1), or 18beta1
	_, rest, ok := strings.Cut(string(out), "(PostgreSQL) ")
	if !ok {
		return nil, fmt.Errorf("%s --version printed %q", cmd.Path, out)
	}
	digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	if b.Major, err = strconv.Atoi(digits); err != nil {
		return nil, fmt.Errorf("%s --version printed %q", cmd.Path, out)
	}
	return b, nil
}

// env is the environment server programs run in: the caller's, without the PG* variables that
// would change what initdb and postgres do, and with the path of unpacked libraries.
func (b *Binaries) env() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && (b.libraryPath == "" || !strings.HasPrefix(kv, "LD_LIBRARY_PATH=")) {
			env = append(env, kv)
		}
	}
	if b.libraryPath != "" {
		env = append(env, "LD_LIBRARY_PATH="+b.libraryPath)
	}
	return env
}

// unpackedLibraries finds the library folders beside binaries that came out of Debian packages
// with dpkg -x: PREFIX/usr/lib/postgresql/N/bin with PREFIX/usr/lib/TRIPLET.
func unpackedLibraries(bin string) string {
	lib := filepath.Dir(filepath.Dir(filepath.Dir(bin))) // PREFIX/usr/lib
	if filepath.Base(filepath.Dir(filepath.Dir(bin))) != "postgresql" || lib == "/usr/lib" {
		return ""
	}
	dirs := glob(filepath.Join(lib, "*-linux-gnu"))
	dirs = append(dirs, glob(filepath.Join(lib, "..", "..", "lib", "*-linux-gnu"))...)
	return strings.Join(dirs, ":")
}

func pgConfig() []string {
	out, err := exec.Command("pg_config", "--bindir").Output()
	if err != nil {
		return nil
	}
	return []string{strings.TrimSpace(string(out))}
}

func cached() []string {
	root, err := repoRoot()
	if err != nil {
		return nil
	}
	dirs := glob(filepath.Join(root, ".cache", "pg*", "native", "bin"))
	return append(dirs, glob(filepath.Join(root, ".cache", "pg*", "usr", "lib", "postgresql", "*", "bin"))...)
}

// repoRoot is the nearest folder above the working directory with a go.mod.
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

func glob(pattern string) []string {
	found, _ := filepath.Glob(pattern) // the only error is a malformed pattern
	sort.Strings(found)
	return found
}
