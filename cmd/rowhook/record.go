package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
)

// recordOptions is what the flags of record say.
type recordOptions struct {
	config  []string
	source  string
	tables  []string
	masks   []string
	changes int
	limit   time.Duration
	output  string
}

func (p *program) recordCommand() *cobra.Command {
	var o recordOptions
	cmd := &cobra.Command{
		Use:   "record",
		Short: "Record real changes of a database as tests of rules",
		Long: `Record reads the changes of a source that rules are about, rows, logical
messages and notifications, from now on, and writes them as a test file, with the events that the
rules make of them as what is expected. It takes whole transactions and ends
after --changes, after --for, or when it is interrupted, and then writes what it
has.

It reads through a temporary slot, which goes with its connection, so that nothing
is left that pins WAL, and through a publication of its own, which it drops; if it
is killed, the next recording of the database does. A
daemon of the same source is not disturbed.

--mask replaces the values of a column: equal ones by equal ones. Columns that look
like passwords or tokens are masked in any case. Payloads are not
masked: read the file before you commit it.`,
		Example: `  rowhook record --output orders.test.hcl
  rowhook record --for 1m --table public.orders --mask public.orders.email >orders.test.hcl
  rowhook record --changes 3 --source shop`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.config, err = configPaths(o.config); err != nil {
				return err
			}
			if o.changes < 1 || o.changes > maxRecorded {
				return usageErrorf("--changes is a number from 1 to %d", maxRecorded)
			}
			return p.record(cmd.Context(), &o)
		},
	}
	configFlag(cmd, &o.config)
	f := cmd.Flags()
	f.StringVar(&o.source, "source", "", "the `source` to read (needed when there are several)")
	f.StringArrayVar(&o.tables, "table", nil, "only changes of this `table`, as in public.orders; may be repeated (default: all that rules name)")
	f.StringArrayVar(&o.masks, "mask", nil, "replace the values of this `column`, as in public.users.email; may be repeated")
	f.IntVar(&o.changes, "changes", 10, "end after so many changes, with their transaction")
	f.DurationVar(&o.limit, "for", 0, "end after that long (default: no limit)")
	f.StringVar(&o.output, "output", "", "write to this `file`, which must not exist (default: the standard output)")
	return cmd
}

// maxRecorded bounds the changes of a recording, which is for people to read.
const maxRecorded = 1000

func (p *program) record(ctx context.Context, o *recordOptions) error {
	cfg, err := p.loadConfig(o.config, false)
	if err != nil {
		return err
	}
	src, err := recordedSource(cfg, o.source)
	if err != nil {
		return err
	}
	catalogs, err := savedCatalogs(cfg, "")
	if err != nil {
		return err
	}
	r := &recorder{limit: o.changes, progress: p.stderr, recording: config.Recording{Mask: map[relay.TableName][]string{}}}
	if len(cfg.Sources) > 1 {
		r.recording.Source = src.Name
	}
	want, err := r.want(cfg, src.Name, o)
	if err != nil {
		return err
	}
	if err := p.capture(ctx, &cdc.Record{Source: src.Name, URL: src.URL, Want: want, Channels: r.channels}, r, o); err != nil {
		return err
	}
	tests, changes := r.recording.Tests()
	if tests == 0 {
		return errors.New("no change came")
	}
	// What was recorded is written also after an interrupt.
	rules, err := p.loadRules(o.config)
	if err != nil {
		return err
	}
	text, err := r.recording.Text(context.WithoutCancel(ctx), rules, catalogs)
	if err != nil {
		return err
	}
	if o.output == "" {
		_, err = p.stdout.Write(text)
	} else {
		err = createFile(o.output, text)
	}
	if err != nil {
		return err
	}
	p.recorded(r, o, tests, changes)
	return nil
}

// capture records until there is enough, or the time is over.
func (p *program) capture(ctx context.Context, record *cdc.Record, r *recorder, o *recordOptions) error {
	record.Ready = func() {
		what := "changes of " + strings.Join(r.tables, ", ")
		if len(r.tables) == 0 {
			what = "messages and notifications"
		}
		fmt.Fprintf(p.stderr, "recording %s of source %s; change something now (Ctrl-C ends it)\n", what, record.Source)
	}
	if o.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.limit)
		defer cancel()
	}
	if err := record.Run(ctx, r); err != nil && !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

// recorded says what has been written, and what to do with it.
func (p *program) recorded(r *recorder, o *recordOptions, tests, changes int) {
	fmt.Fprintf(p.stderr, "recorded %s as %s\n", plural(int64(changes), "change", "changes"), plural(int64(tests), "test", "tests"))
	if masked := r.recording.Masked(); len(masked) > 0 {
		fmt.Fprintf(p.stderr, "masked: %s\n", strings.Join(masked, ", "))
	}
	if r.left > 0 {
		fmt.Fprintf(p.stderr, "left out: %s of a transaction with more than %d\n", plural(int64(r.left), "change", "changes"), maxRecorded)
	}
	if o.output != "" {
		fmt.Fprintf(p.stderr, "wrote %s; read it, and run: rowhook test\n", o.output)
	}
}

func recordedSource(cfg *config.Config, name string) (*config.Source, error) {
	if name == "" && len(cfg.Sources) == 1 {
		return &cfg.Sources[0], nil
	}
	if src := cfg.Source(name); src != nil {
		return src, nil
	}
	var names []string
	for _, s := range cfg.Sources {
		names = append(names, s.Name)
	}
	if name == "" {
		return nil, usageErrorf("which source? Name it with --source: %s", strings.Join(names, ", "))
	}
	return nil, usageErrorf("--source: the configuration has no source %q; it has %s", name, strings.Join(names, ", "))
}

// want returns what the publication has to send, and prepares the recorder for
// it.
func (r *recorder) want(cfg *config.Config, source string, o *recordOptions) (cdc.Want, error) {
	set := relay.NewRuleSet(source, cfg.Rules)
	all, ops := set.Tables()
	var known []string
	for _, t := range all {
		known = append(known, t.String())
	}
	for _, name := range o.tables {
		if !slices.Contains(known, name) {
			return cdc.Want{}, usageErrorf("--table: no rule of source %s names %s; rules name %s", source, name, strings.Join(known, ", "))
		}
	}
	want := cdc.Want{Ops: ops}
	for _, t := range all {
		if len(o.tables) == 0 || slices.Contains(o.tables, t.String()) {
			want.Tables = append(want.Tables, relay.TableColumns{TableName: t, All: true})
			r.tables = append(r.tables, t.String())
		}
	}
	for _, rule := range set.Rules() {
		if rule.Message != "" && len(o.tables) == 0 {
			r.messages = append(r.messages, rule.Message)
		}
	}
	if len(o.tables) == 0 {
		r.channels = set.Channels()
	}
	for _, mask := range o.masks {
		dot := strings.LastIndexByte(mask, '.')
		i := -1
		if dot > 0 {
			i = slices.Index(known, mask[:dot])
		}
		if i < 0 {
			return cdc.Want{}, usageErrorf("--mask: %q is no column of a table that rules name, as in public.users.email; rules name %s", mask, strings.Join(known, ", "))
		}
		r.recording.Mask[all[i]] = append(r.recording.Mask[all[i]], mask[dot+1:])
	}
	return want, nil
}

// errEnough ends a recording.
var errEnough = errors.New("enough was recorded")

// recorder is the cdc.Handler of a recording.
type recorder struct {
	recording config.Recording
	progress  io.Writer
	tables    []string
	messages  []string // prefixes
	channels  []string
	limit     int
	changes   int
	left      int // changes beyond maxRecorded
	end       relay.LSN
}

var _ cdc.Handler = (*recorder)(nil)

// Begin implements cdc.Handler.
func (r *recorder) Begin(*relay.Tx) error { return nil }

// Change implements cdc.Handler.
func (r *recorder) Change(c *relay.Change) error {
	switch {
	case c.Op == relay.Message && !slices.Contains(r.messages, c.Name):
		return nil
	case r.changes >= maxRecorded:
		r.left++
		return nil
	}
	fmt.Fprintf(r.progress, "  %s\n", printable(r.recording.Add(c)))
	r.changes++
	if c.Tx == nil {
		return r.enough()
	}
	return nil
}

// Commit implements cdc.Handler.
func (r *recorder) Commit(_ *relay.Tx, end relay.LSN) error {
	r.end = end
	return r.enough()
}

func (r *recorder) enough() error {
	if r.changes >= r.limit {
		return errEnough
	}
	return nil
}

// Idle implements cdc.Handler.
func (r *recorder) Idle(lsn relay.LSN) error {
	r.end = lsn
	return nil
}

// Durable implements cdc.Handler: what was read is not read again.
func (r *recorder) Durable() relay.LSN { return r.end }

// Full implements cdc.Handler: there is always room.
func (r *recorder) Full() <-chan struct{} { return nil }

func (r *recorder) Waits() string { return "" }
