package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/config"
)

// formatOptions is what the flags of fmt say.
type formatOptions struct {
	paths []string
	check bool
	diff  bool
}

func (p *program) formatCommand() *cobra.Command {
	var o formatOptions
	cmd := &cobra.Command{
		Use:   "fmt [FILE or FOLDER...]",
		Short: "Bring rule files into their canonical form",
		Long: `Fmt indents rule files and their tests in the one way, and aligns the equals
signs of neighbouring lines. It changes nothing but spaces, and prints the name
of each file it has changed. Of a folder it takes all *.hcl, but no folder
inside; without a name it takes the working directory. - is the standard input,
printed to the standard output.

A file with a syntax error is never touched: it is reported, and the exit code
is 2. With --check nothing is written, and the exit code is 3 when a file is not
in its canonical form.`,
		Example: `  rowhook fmt
  rowhook fmt --check --diff /etc/rowhook
  rowhook fmt - <rules.hcl`,
		Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if o.paths = args; len(args) == 0 {
				o.paths = []string{"."}
			}
			return p.format(&o)
		},
	}
	cmd.Flags().BoolVar(&o.check, "check", false, "write nothing; exit code 3 when a file is not in its canonical form")
	cmd.Flags().BoolVar(&o.diff, "diff", false, "print what changes")
	return cmd
}

func (p *program) format(o *formatOptions) error {
	if len(o.paths) == 1 && o.paths[0] == "-" {
		return p.formatInput(o)
	}
	names, files, diags := config.FormatFiles(o.paths)
	if len(diags) > 0 {
		return p.refuse(files, diags)
	}
	changed, broken := 0, false
	for _, name := range names {
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		out, err := p.formatted(name, src)
		if err != nil {
			var exit *exitError
			if !errors.As(err, &exit) {
				return err
			}
			broken = true // and said; the others are formatted all the same
			continue
		}
		if bytes.Equal(src, out) {
			continue
		}
		changed++
		fmt.Fprintln(p.stdout, name)
		if o.diff {
			p.printDiff(src, out)
		}
		if !o.check {
			if err := replaceFile(name, out); err != nil {
				return err
			}
		}
	}
	switch {
	case broken:
		return &exitError{code: exitUsage}
	case o.check && changed > 0:
		return &exitError{code: exitUnformatted}
	}
	return nil
}

// formatInput formats the standard input.
func (p *program) formatInput(o *formatOptions) error {
	src, err := io.ReadAll(p.stdin)
	if err != nil {
		return fmt.Errorf("read the standard input: %w", err)
	}
	out, err := p.formatted("<stdin>", src)
	if err != nil {
		return err
	}
	switch {
	case o.diff:
		p.printDiff(src, out)
	case !o.check:
		if _, err := p.stdout.Write(out); err != nil {
			return err
		}
	}
	if o.check && !bytes.Equal(src, out) {
		return &exitError{code: exitUnformatted}
	}
	return nil
}

// formatted returns the canonical form of a text. A syntax error has been told.
func (p *program) formatted(name string, src []byte) ([]byte, error) {
	out, files, diags := config.Format(name, src)
	if diags.HasErrors() {
		return nil, p.refuse(files, diags)
	}
	return out, nil
}

// refuse prints diagnostics and returns the error of a wrong configuration.
func (p *program) refuse(files *config.Files, diags config.Diagnostics) error {
	width, color := p.terminal(p.stderr)
	if err := files.Write(p.stderr, diags, width, color); err != nil {
		return err
	}
	return &exitError{code: exitUsage}
}

func (p *program) printDiff(before, after []byte) {
	_, color := p.terminal(p.stdout)
	lines := func(b []byte) []string { return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") }
	writeDiff(p.stdout, diffLines(lines(before), lines(after)), 2, "", color)
}

// replaceFile gives a file new content, whole or not at all, and keeps its
// mode. A link stays a link: what it leads to is replaced.
func replaceFile(name string, content []byte) (err error) {
	if name, err = filepath.EvalSymlinks(name); err != nil {
		return err
	}
	// Whoever made the file read-only does not want it replaced.
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".rowhook-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(info.Mode().Perm()), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
