package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// runLine runs the program as main does.
func runLine(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs, func(string) string { return "" })
	return out.String(), errs.String(), code
}

func TestTypoUnderAGroupIsAnError(t *testing.T) {
	root := (&program{}).rootCommand()
	n := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.HasSubCommands() && !strings.Contains(c.Use, " ") { // a group that takes no argument itself
			n++
			args := append(strings.Fields(c.CommandPath())[1:], "bogus")
			if stdout, stderr, code := runLine(t, args...); code != exitUsage || stdout != "" || !strings.Contains(stderr, `"bogus"`) {
				t.Errorf("rowhook %s: exit code %d, %q, %q", strings.Join(args, " "), code, stdout, stderr)
			}
			if stdout, _, code := runLine(t, args[:len(args)-1]...); code != exitOK || !strings.Contains(stdout, "Usage:") {
				t.Errorf("rowhook %s: exit code %d, no help", strings.Join(args[:len(args)-1], " "), code)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if n < 7 {
		t.Errorf("%d groups only", n)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", path, c.Short)
		}
		ours := !strings.HasPrefix(path, "rowhook completion") && !strings.HasPrefix(path, "rowhook help")
		if !c.HasSubCommands() && ours {
			if c.Example == "" {
				t.Errorf("%s has no example", path)
			}
			for line := range strings.Lines(c.Example) {
				if !strings.HasPrefix(line, "  "+path) {
					t.Errorf("%s: the example %q is of something else", path, line)
				}
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&program{}).rootCommand())
}

func TestVersion(t *testing.T) {
	stdout, _, code := runLine(t, "version", "--json")
	var b build
	if err := json.Unmarshal([]byte(stdout), &b); err != nil || code != 0 || b.Version == "" || !strings.HasPrefix(b.Go, "go") {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
	if stdout, _, _ := runLine(t, "version"); !strings.HasPrefix(stdout, "rowhook ") {
		t.Errorf("got %q", stdout)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if stdout, stderr, code := runLine(t, "completion", shell); code != 0 || !strings.Contains(stdout, "rowhook") {
			t.Errorf("%s: exit code %d, %s", shell, code, stderr)
		}
	}
	if stdout, _, _ := runLine(t, "__complete", "deliveries", "list", "--state", "de"); !strings.HasPrefix(stdout, "dead\n") && !strings.Contains(stdout, "\ndead\n") {
		t.Errorf("got %q", stdout)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{errors.New("disk I/O error"), exitFailure},
		{api.Errorf(api.CodeInvalid, "no such pattern"), exitUsage},
		{api.Errorf(api.CodeNotFound, "none"), exitFailure},
		{relay.ErrStoreLocked, exitFailure},
		{&exitError{code: exitUsage}, exitUsage},
	} {
		var out, errs strings.Builder
		p := &program{stdout: &out, stderr: &errs, daemon: func(context.Context, *runOptions) error { return c.err }}
		if got := p.run(t.Context(), []string{"run", "-c", "x.hcl"}); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
		var silent *exitError
		if said := errs.Len() > 0; said == (c.err == nil || errors.As(c.err, &silent)) {
			t.Errorf("%v: standard error %q", c.err, errs.String())
		}
	}
}

func TestInterruptedCommandSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var errs strings.Builder
	p := &program{stdout: &errs, stderr: &errs, daemon: func(ctx context.Context, _ *runOptions) error {
		cancel()
		return ctx.Err()
	}}
	if got := p.run(ctx, []string{"run", "-c", "x.hcl"}); got != exitFailure || errs.String() != "rowhook: interrupted\n" {
		t.Errorf("exit code %d, %q", got, errs.String())
	}
}

func TestLockedFolderWithoutADaemonIsExplained(t *testing.T) {
	var out, errs strings.Builder
	p := &program{stdout: &out, stderr: &errs}
	p.offline = func(context.Context, string, []string) (backend, error) { return nil, relay.ErrStoreLocked }
	if got := p.run(t.Context(), []string{"events", "list", "--data-dir", t.TempDir()}); got != exitFailure || !strings.Contains(errs.String(), "its socket does not answer") {
		t.Errorf("exit code %d, %q", got, errs.String())
	}
}

func TestPrintableObeysNothing(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ünïcode ✓": "plain, ünïcode ✓",
		"a\x1b[2Jb":        `a\u001b[2Jb`,
		"two\nlines":       `two\nlines`,
		"\xff\uFFFD":       `\xff` + "\uFFFD",
		"a\u202Eb":         `a\u202eb`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestTimesAndSizesForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "now", 999 * time.Millisecond: "now", 3 * time.Second: "3s ago", -90 * time.Second: "in 1m30s",
		26 * time.Hour: "1d2h ago", 2*time.Hour + 5*time.Minute: "2h5m ago",
	} {
		if got := ago(noon.Add(-d), noon); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 10 << 30: "10.0 GiB", 5 << 40: "5.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func FuzzParseReset(f *testing.F) {
	for _, s := range []string{"shop=now", "shop=earliest", "shop=0/16B3748", "shop=0/1..0/2", "shop=0/1..now", "=now", "shop=", "shop=..", "a=b=c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseReset(s)
		if err != nil {
			return
		}
		place := r.To
		if r.From != "" {
			place = r.From + ".." + r.To
		}
		if r.Source == "" || r.Source+"="+place != s {
			t.Errorf("%q was read as %+v", s, r)
		}
		if _, err := relay.ParseLSN(r.To); err != nil && r.To != "now" && r.To != "earliest" {
			t.Errorf("%q was taken with the position %q", s, r.To)
		}
	})
}
