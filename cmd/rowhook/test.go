package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
)

// testOptions is what the flags of test say.
type testOptions struct {
	config      []string
	files       []string // empty: those beside the configuration
	catalog     string   // a saved catalogue; empty: the configuration's
	run         string
	coverage    bool
	minCoverage float64
	json        bool
	junit       string
	update      bool
	verbose     bool
}

func (p *program) testCommand() *cobra.Command {
	var o testOptions
	cmd := &cobra.Command{
		Use:   "test [FILE or FOLDER...]",
		Short: "Run the tests of rules",
		Long: `Test runs the tests in *.test.hcl: each gives changes and says which events the
rules must make of them. It needs no database and no secrets. The files are those
beside the configuration, unless others are named. The types of columns are those
of the saved catalogue (rowhook check --save-catalog); without one they are those
of the literals, id is the primary key, and the replica identity is FULL. The types of columns are those of the
saved catalogue (rowhook check --save-catalog); without one they are those of the
literals, id is the primary key, and the replica identity is FULL.

  test "a paid order is announced once" {
    update "public.orders" {
      old = { id = 42, status = "pending" }
      new = { status = "paid", total = 1999 }
    }
    expect "order.paid" {
      key  = "public.orders/42"
      data = { order_id = 42, total = 1999 }
    }
  }

A test without an expect block expects that no event is made. With --update the
expect blocks are written anew as the rules have it: read the difference before
you commit it.

It ends with exit code 1 when a test fails or the coverage is too low, and with 2
when there is a mistake in a file, or no test.`,
		Example: `  rowhook test
  rowhook test -c /etc/rowhook --run 'paid|refund' --coverage
  rowhook test --min-coverage 100 --junit report.xml
  rowhook test --update orders.test.hcl`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.config, err = configPaths(o.config); err != nil {
				return err
			}
			if o.minCoverage < 0 || o.minCoverage > 100 {
				return usageErrorf("--min-coverage is a number of percent, from 0 to 100")
			}
			o.files = args
			return p.test(cmd.Context(), &o)
		},
	}
	configFlag(cmd, &o.config)
	f := cmd.Flags()
	f.StringVar(&o.catalog, "catalog", "", "saved catalogue with the types of columns (default: that of the rowhook block)")
	f.StringVar(&o.run, "run", "", "run only tests whose name matches this regular `expression`")
	f.BoolVar(&o.coverage, "coverage", false, "print which rules matched, and for which a condition did not hold")
	f.Float64Var(&o.minCoverage, "min-coverage", 0, "fail when fewer `percent` of the outcomes of rules were seen")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.StringVar(&o.junit, "junit", "", "also write a report in JUnit's XML to this `file`")
	f.BoolVar(&o.update, "update", false, "write the expect blocks anew, as the rules have it")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "also name the tests that pass")
	return cmd
}

// testRun is a run of all tests.
type testRun struct {
	tests    *config.Tests
	results  []*config.TestResult
	times    []time.Duration // of each test
	took     time.Duration
	coverage []config.Coverage
}

func (p *program) test(ctx context.Context, o *testOptions) error {
	run, err := p.runTests(ctx, o)
	if err != nil {
		return err
	}
	if o.update {
		changed := run.tests.Update(run.results)
		for name, text := range changed {
			if err := replaceFile(name, text); err != nil {
				return err
			}
		}
		if !o.json {
			for _, name := range sortedKeys(changed) {
				fmt.Fprintf(p.stdout, "updated %s\n", name)
			}
		}
		if run, err = p.runTests(ctx, o); err != nil {
			return err
		}
	}
	if o.junit != "" {
		if err := run.writeJUnit(o.junit); err != nil {
			return fmt.Errorf("write %s: %w", o.junit, err)
		}
	}
	if o.json {
		err = p.printJSON(run.json())
	} else {
		p.printTests(run, o)
	}
	if err != nil {
		return err
	}
	if run.failed() > 0 || run.covered() < o.minCoverage {
		return &exitError{code: exitFailure}
	}
	return nil
}

// runTests loads the rules and their tests, and runs them.
func (p *program) runTests(ctx context.Context, o *testOptions) (*testRun, error) {
	match, err := regexp.Compile(o.run)
	if err != nil {
		return nil, usageErrorf("--run: %w", err)
	}
	cfg, err := p.loadRules(o.config)
	if err != nil {
		return nil, err
	}
	paths := o.files
	if len(paths) == 0 {
		paths = config.TestFolders(o.config)
	}
	catalogs, err := savedCatalogs(cfg, o.catalog)
	if err != nil {
		return nil, err
	}
	tests, files, diags := config.LoadTests(cfg, catalogs, paths)
	if len(diags) > 0 {
		width, color := p.terminal(p.stderr)
		if err := files.Write(p.stderr, diags, width, color); err != nil {
			return nil, err
		}
	}
	if tests == nil {
		return nil, &exitError{code: exitUsage}
	}
	if len(tests.List) == 0 {
		return nil, &exitError{code: exitUsage, err: fmt.Errorf("no tests: there is no test block in a *.test.hcl of %s", plainList(paths))}
	}
	run := &testRun{tests: tests}
	began := p.now()
	for _, t := range tests.List {
		if !match.MatchString(t.Name) {
			continue
		}
		from := p.now()
		r, err := tests.Run(ctx, t)
		if err != nil {
			return nil, err
		}
		run.results, run.times = append(run.results, r), append(run.times, p.now().Sub(from))
	}
	run.took = p.now().Sub(began)
	if len(run.results) == 0 {
		return nil, &exitError{code: exitUsage, err: fmt.Errorf("no tests: none of %s has a name that matches %q", plural(int64(len(tests.List)), "test", "tests"), o.run)}
	}
	run.coverage = tests.Coverage()
	return run, nil
}

// loadRules loads a configuration for tests, which mean the same on every
// machine: no variable is set and no file of a secret is there. The key of
// hmacsha256 is then its default, or empty.
func (p *program) loadRules(paths []string) (*config.Config, error) {
	cfg, files, diags := config.Load(paths, config.Options{
		Getenv:         func(string) (string, bool) { return "", false },
		ReadFile:       func(string) ([]byte, error) { return nil, fs.ErrNotExist },
		WithoutSecrets: true,
	})
	if cfg == nil {
		return nil, p.refuse(files, diags)
	}
	return cfg, nil
}

// savedCatalogs reads a saved catalogue, that of the configuration when none is
// named; without one the result is nil.
func savedCatalogs(cfg *config.Config, file string) (map[string]*relay.Catalog, error) {
	if file = cmp.Or(file, cfg.Settings.Catalog); file == "" {
		return nil, nil
	}
	_, saved, err := config.LoadCatalog(file, cfg)
	return saved, err
}

func plainList(paths []string) string {
	s := ""
	for i, path := range paths {
		if i > 0 {
			s += ", "
		}
		s += path
	}
	return s
}

func sortedKeys(m map[string][]byte) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (r *testRun) failed() int {
	n := 0
	for _, result := range r.results {
		if len(result.Problems) > 0 {
			n++
		}
	}
	return n
}

// outcomes counts what rules can do, and what of it was seen: to match and,
// where there is a condition, not to match.
func (r *testRun) outcomes() (seen, all int) {
	for _, c := range r.coverage {
		all++
		if c.Matched {
			seen++
		}
		if c.Conditional {
			all++
			if c.Missed {
				seen++
			}
		}
	}
	return seen, all
}

// covered is the share of the outcomes that was seen, in percent.
func (r *testRun) covered() float64 {
	seen, all := r.outcomes()
	if all == 0 {
		return 100
	}
	return 100 * float64(seen) / float64(all)
}

// printTests prints a run for people.
func (p *program) printTests(run *testRun, o *testOptions) {
	_, color := p.terminal(p.stdout)
	for i, r := range run.results {
		switch {
		case len(r.Problems) > 0:
			fmt.Fprintf(p.stdout, "%s  %s\n", paint(color, colorRed+colorBold, "FAIL"), paint(color, colorBold, printable(r.Test.Name)))
			p.printProblems(r, color)
		case o.verbose:
			fmt.Fprintf(p.stdout, "%s    %s %s\n", paint(color, colorGreen, "ok"), printable(r.Test.Name),
				paint(color, colorDim, "("+filepath.Base(r.Test.File)+", "+run.times[i].Round(10*time.Microsecond).String()+")"))
		}
	}
	if o.coverage {
		p.printCoverage(run, color)
	}
	failed := run.failed()
	verdict := paint(color, colorGreen, "ok")
	if failed > 0 {
		verdict = paint(color, colorRed+colorBold, "FAIL")
	}
	fmt.Fprintf(p.stdout, "%s: %s, %d passed, %d failed (%s)\n", verdict, plural(int64(len(run.results)), "test", "tests"), len(run.results)-failed, failed, run.took.Round(10*time.Microsecond))
	if run.covered() < o.minCoverage {
		fmt.Fprintf(p.stdout, "%s: the tests show %.1f%% of the outcomes of the rules, and --min-coverage asks for %g%%\n", paint(color, colorRed+colorBold, "FAIL"), run.covered(), o.minCoverage)
	}
}

func (p *program) printProblems(r *config.TestResult, color bool) {
	for _, problem := range r.Problems {
		fmt.Fprintf(p.stdout, "      %s %s\n", paint(color, colorDim, fmt.Sprintf("%s:%d:", r.Test.File, problem.Line)), printable(problem.Summary))
		if problem.Want != nil || problem.Got != nil {
			fmt.Fprintf(p.stdout, "        %s %s\n", paint(color, colorRed, "- expected"), paint(color, colorGreen, "+ made"))
			writeDiff(p.stdout, diffLines(problem.Want, problem.Got), 3, "        ", color)
		}
	}
	fmt.Fprintln(p.stdout)
}

func (p *program) printCoverage(run *testRun, color bool) {
	word := func(seen, possible bool) string {
		switch {
		case !possible:
			return "-"
		case seen:
			return "yes"
		}
		return "NO"
	}
	t := newTable(p.stdout, "RULE", "MATCHED", "DID NOT MATCH", "WHERE")
	for _, c := range run.coverage {
		t.row(c.Rule, word(c.Matched, true), word(c.Missed, c.Conditional), fmt.Sprintf("%s:%d", c.File, c.Line))
	}
	_ = t.flush()
	seen, all := run.outcomes()
	code := colorGreen
	if seen < all {
		code = colorRed
	}
	fmt.Fprintf(p.stdout, "%s of the outcomes of rules, %d of %d, were seen\n\n", paint(color, code, fmt.Sprintf("%.1f%%", run.covered())), seen, all)
}

// writeJUnit writes the report of a run.
func (r *testRun) writeJUnit(file string) error {
	text, err := r.junit()
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}
