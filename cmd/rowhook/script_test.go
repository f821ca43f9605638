package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
)

var update = flag.Bool("update", false, "write the scripts in testdata anew")

// A script in testdata is a transcript: each line that begins with "$ " is a
// command, and what follows is what came of it: its standard output, lines of
// its standard error after "! ", the requests it made after "> ", and its exit
// code when that is not 0. DATA stands for the data folder.
func TestScripts(t *testing.T) {
	for name, b := range map[string]*fake{
		"running":  {running: true},
		"waiting":  {running: true, state: api.SourceWaiting},
		"stopped":  {},
		"usage":    {running: true},
		"plan":     {},
		"simulate": {},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := &program{now: func() time.Time { return noon }, zone: time.UTC, stdin: strings.NewReader(""), getenv: func(string) string { return "" }}
			p.offline = func(context.Context, string, []string) (backend, error) { return b, nil }
			p.dataDir = func([]string) (string, error) { return dir, nil }
			p.daemon = func(_ context.Context, o *runOptions) error {
				b.note("run", map[string]any{"config": o.config, "resets": o.resets, "exit": o.exitOnSourceStop, "accept": o.acceptAddress})
				return nil
			}
			p.check = func(_ context.Context, o *checkOptions) error { b.note("check", fmt.Sprintf("%+v", *o)); return nil }
			p.plan = func(_ context.Context, o *planOptions) ([]sourcePlan, error) {
				b.note("plan", fmt.Sprintf("%+v", *o))
				return b.plan(o), nil
			}
			p.receive = func(_ context.Context, o *receiveOptions) error {
				b.note("receive", fmt.Sprintf("%+v", *o))
				return nil
			}
			if b.running {
				serve(t, dir, b)
				p.offline = func(context.Context, string, []string) (backend, error) { return nil, relay.ErrStoreLocked }
			}
			play(t, filepath.Join("testdata", name+".txt"), dir, p, b)
		})
	}
}

// serve makes b the daemon of the folder.
func serve(t *testing.T, dir string, b *fake) {
	t.Helper()
	ln, err := api.ListenSocket(t.Context(), api.SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- (&admin.Server{Actions: b}).Run(ctx, nil, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func play(t *testing.T, file, dir string, p *program, b *fake) {
	t.Helper()
	script, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(string(script)) {
		line = strings.TrimSuffix(line, "\n")
		command, ok := strings.CutPrefix(line, "$ rowhook")
		if !ok {
			continue
		}
		if got.Len() > 0 {
			got.WriteString("\n")
		}
		fmt.Fprintln(&got, line)
		var stdout, stderr strings.Builder
		p.stdout, p.stderr = &stdout, &stderr
		code := p.run(t.Context(), words(strings.ReplaceAll(command, "DATA", dir)))
		for _, c := range b.taken() {
			fmt.Fprintf(&got, "> %s\n", c)
		}
		got.WriteString(trimmed(stdout.String(), ""))
		got.WriteString(trimmed(stderr.String(), "! "))
		if code != 0 {
			fmt.Fprintf(&got, "exit code %d\n", code)
		}
	}
	text := strings.ReplaceAll(got.String(), dir, "DATA")
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != string(script) {
		t.Errorf("%s differs (-update writes it):\n%s", file, difference(string(script), text))
	}
}

// trimmed returns the lines of s after a prefix, without blanks at their ends.
func trimmed(s, prefix string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.TrimRight(prefix+strings.TrimSuffix(line, "\n"), " ") + "\n")
	}
	return b.String()
}

// words splits a command line as a shell does, with single quotes alone.
func words(s string) []string {
	var out []string
	var word strings.Builder
	quoted, open := false, false
	for _, r := range s {
		switch {
		case r == '\'':
			quoted, open = !quoted, true
		case r == ' ' && !quoted:
			if open {
				out = append(out, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if open {
		out = append(out, word.String())
	}
	return out
}

// difference returns the first lines that differ.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		a, b := "(end)", "(end)"
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s", i+1, a, b)
		}
	}
	return "(nothing)"
}
