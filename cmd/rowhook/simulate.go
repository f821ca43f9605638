package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// simulation is what simulate prints. The JSON is its interface.
type simulation struct {
	Sources []*simulatedSource `json:"sources"`
}

// simulatedSource is what the changed rules of one source would do.
type simulatedSource struct {
	Source string `json:"source"`
	// Changes were judged; they are of the times From to To.
	Changes int64     `json:"changes"`
	From    time.Time `json:"from,omitzero"`
	To      time.Time `json:"to,omitzero"`
	// InForce is the fingerprint of the rules that they are held against, Since
	// the LSN from which on these judge.
	InForce string `json:"in_force"`
	Since   string `json:"since"`
	// EventsBefore and EventsAfter are what the rules in force and the changed
	// ones make.
	EventsBefore int64 `json:"events_before"`
	EventsAfter  int64 `json:"events_after"`
	Removed      int64 `json:"removed"`
	Added        int64 `json:"added"`
	Changed      int64 `json:"changed"`
	Failures     int64 `json:"failures"`
	// Differences are the first of them, Omitted is how many more changes differ.
	Differences []*simulatedChange `json:"differences"`
	Omitted     int64              `json:"omitted"`
	// Unjudged are rules that could not be judged on all changes.
	Unjudged []*unjudgedRule `json:"unjudged"`
	Notes    []string        `json:"notes"`

	first, last int64 // microseconds
	tables      map[string]bool
}

// simulatedChange is a change on which the rules differ.
type simulatedChange struct {
	Time     time.Time          `json:"time"`
	Op       string             `json:"op"`
	Table    string             `json:"table,omitempty"`
	Key      string             `json:"key,omitempty"`
	Name     string             `json:"name,omitempty"` // of the channel, or the message's prefix
	LSN      string             `json:"lsn,omitempty"`
	XID      uint32             `json:"xid,omitempty"`
	Removed  []simulatedEvent   `json:"removed,omitempty"`
	Added    []simulatedEvent   `json:"added,omitempty"`
	Changed  []changedEvent     `json:"changed,omitempty"`
	Failures []simulatedFailure `json:"failures,omitempty"`
}

type simulatedEvent struct {
	ID     string          `json:"id,omitempty"`
	Type   string          `json:"type"`
	Rule   string          `json:"rule"`
	Key    *string         `json:"key"`
	Tenant *string         `json:"tenant,omitempty"`
	Data   json.RawMessage `json:"data"`
}

type changedEvent struct {
	Before simulatedEvent `json:"before"`
	After  simulatedEvent `json:"after"`
	Fields []changedField `json:"fields"`
}

// changedField has no value on the side on which the field is not there.
type changedField struct {
	Field  string          `json:"field"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

type simulatedFailure struct {
	Rule   string `json:"rule"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

type unjudgedRule struct {
	Rule    string   `json:"rule"`
	InForce bool     `json:"in_force"` // it is one of the rules in force
	Missing []string `json:"missing"`
	Changes int64    `json:"changes"`
}

// simulateOptions is what the flags of simulate say.
type simulateOptions struct {
	target
	source string // "" is all
	since  time.Time
	types  *relay.Patterns
	limit  int
}

func (p *program) simulateCommand() *cobra.Command {
	var o simulateOptions
	var asJSON bool
	var since string
	var types []string
	cmd := &cobra.Command{
		Use:   "simulate [SOURCE]",
		Short: "What would changed rules have made of the changes of the last while?",
		Long: `Simulate judges the changes that a source has kept, once by the rules in force
and once by those of the given configuration, and prints where the events
differ. It changes nothing and makes no event; it asks a running daemon for the
changes, or reads the store when none runs. The sources keep their changes when
their block says so (keep_changes = "24h").

  -  an event that only the rules in force make
  +  an event that only the changed rules make
  ~  an event of both that differs, with what differs: key, tenant, data, ...
  !  a rule that fails, or fails in another way, or no longer

Events of one change and type belong together, in their order. All changes are
held against the rules in force now, also those that came before these were.
Keys of hmacsha256 that come from env() or file() are replaced on both sides.

What was not kept cannot be judged: changes of tables that no rule was about,
operations that were not published, with columns = "rules" the columns that no
rule read, and values of more than 1 MiB. It is said which.

It ends with exit code 0 when nothing differs, 2 when something does or could
not be judged, and 1 after an error, also one of the command line or the
configuration, and where nothing is kept.`,
		Example: `  rowhook simulate -c rowhook.hcl                      # edited, not yet reloaded
  rowhook simulate -c new/ --data-dir /var/lib/rowhook --since 1h
  rowhook simulate --event 'order.**' --json | jq '.sources[].differences[]'`,
		Args: func(_ *cobra.Command, args []string) error { return planError(maxArgs(1)(nil, args)) },
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.source = args[0]
			}
			var err error
			if o.since, err = p.parseTime("since", since); err != nil {
				return planError(err)
			}
			if len(types) > 0 {
				patterns, err := relay.ParsePatterns(types)
				if err != nil {
					return planError(usageErrorf("--event: %w", err))
				}
				o.types = &patterns
			}
			if o.config, err = configPaths(o.config); err != nil {
				return planError(err)
			}
			differs, err := p.runSimulation(cmd, &o, asJSON)
			if err == nil && differs {
				return &exitError{code: exitChanges}
			}
			return planError(err)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return planError(usageErrorf("%w", err)) })
	o.flags(cmd)
	cmd.Flags().StringVar(&since, "since", "", "only changes after the `time`: 2h (ago), 2026-01-31, or 2026-01-31T10:00:00Z")
	cmd.Flags().StringArrayVar(&types, "event", nil, "only events of the `type`, as a sink's events choose them; may be repeated")
	cmd.Flags().IntVar(&o.limit, "limit", 100, "show this many changes that differ; all are counted. 0 shows all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (p *program) runSimulation(cmd *cobra.Command, o *simulateOptions, asJSON bool) (differs bool, err error) {
	cfg, err := p.loadConfig(o.config, true)
	if err != nil {
		return false, err
	}
	if o.source != "" && cfg.Source(o.source) == nil {
		return false, usageErrorf("the configuration has no source %q", o.source)
	}
	out := simulation{Sources: []*simulatedSource{}}
	err = p.action(cmd, &o.target, func(ctx context.Context, b backend) error {
		var nothing error
		for i := range cfg.Sources {
			name := cfg.Sources[i].Name
			if o.source != "" && name != o.source {
				continue
			}
			s := newSimulator(p, o, b, name, !asJSON)
			err := s.run(ctx, cfg.RulesText(name))
			switch {
			case errors.Is(err, errNothingKept) && o.source == "":
				nothing = err // another source may keep some
				continue
			case err != nil:
				return err
			}
			out.Sources = append(out.Sources, s.out)
		}
		if len(out.Sources) == 0 {
			return cmp.Or(nothing, errNothingKept)
		}
		return nil
	})
	if err == nil && asJSON {
		err = p.printJSON(out)
	}
	if err != nil {
		return false, err
	}
	for _, s := range out.Sources {
		if s.Removed+s.Added+s.Changed+s.Failures > 0 || len(s.Unjudged) > 0 {
			return true, nil
		}
	}
	return false, nil
}

var errNothingKept = errors.New("nothing is kept")

// simulator simulates the rules of one source.
type simulator struct {
	p      *program
	o      *simulateOptions
	b      backend
	print  bool // changes as they are found
	out    *simulatedSource
	sim    *relay.Simulation
	reader *relay.KeptReader
	color  bool
	// before and after are what the rules need of the server.
	before, after relay.Needs
}

func newSimulator(p *program, o *simulateOptions, b backend, source string, print bool) *simulator {
	s := &simulator{p: p, o: o, b: b, print: print}
	_, s.color = p.terminal(p.stdout)
	s.out = &simulatedSource{
		Source: source, Differences: []*simulatedChange{}, Unjudged: []*unjudgedRule{}, Notes: []string{}, tables: map[string]bool{},
	}
	return s
}

// run judges all that is kept, first what came through the WAL, then the
// notifications.
func (s *simulator) run(ctx context.Context, text string) error {
	for _, notifications := range []bool{false, true} {
		req := &api.KeptRequest{Source: s.out.Source, Notifications: notifications, Since: s.o.since}
		for {
			page, err := s.b.Kept(ctx, req)
			if err != nil {
				return err
			}
			if s.sim == nil {
				if err := s.begin(page, text); err != nil {
					return err
				}
			}
			if len(page.Runs) == 0 {
				break
			}
			if err := s.judge(page); err != nil {
				return err
			}
			req.After = page.Next
		}
	}
	if s.out.Changes == 0 {
		when := ""
		if !s.o.since.IsZero() {
			when = " since " + s.p.clock(s.o.since)
		}
		return fmt.Errorf("%w: source %s keeps no changes%s. Set keep_changes = \"24h\" in its block, start the daemon with it, and wait for changes", errNothingKept, s.out.Source, when)
	}
	s.out.From, s.out.To = time.UnixMicro(s.out.first).UTC(), time.UnixMicro(s.out.last).UTC()
	s.notSent()
	if s.print {
		s.printTotals()
	}
	return nil
}

// begin compiles both rule sets from their text in the same way. What they read
// of the surroundings is replaced, since those of this command need not be the
// daemon's.
func (s *simulator) begin(page *api.KeptChanges, text string) error {
	if page.Rules == nil {
		return fmt.Errorf("%w: source %s was never read", errNothingKept, s.out.Source)
	}
	s.out.InForce, s.out.Since = page.Rules.Fingerprint, page.Rules.From
	opts := config.Options{
		Getenv:   func(name string) (string, bool) { return "the value of " + name, true },
		ReadFile: func(path string) ([]byte, error) { return []byte("the content of " + path), nil },
	}
	var sets [2]*relay.RuleSet
	for i, text := range []string{page.Rules.Text, text} {
		rules, err := config.LoadRules(s.out.Source, text, opts)
		if err != nil {
			return err
		}
		if s.o.types != nil {
			rules = slices.DeleteFunc(rules, func(r *relay.Rule) bool { return !s.o.types.Match(r.Type, max(r.Version, 1)) })
		}
		sets[i] = relay.NewRuleSet(s.out.Source, rules)
	}
	s.before, s.after = sets[0].Needs(), sets[1].Needs()
	s.sim = relay.NewSimulation(sets[0], sets[1], page.SystemID)
	return nil
}

func (s *simulator) judge(page *api.KeptChanges) error {
	tables := make([]relay.KeptTable, len(page.Tables))
	for i, t := range page.Tables {
		tables[i] = relay.KeptTable{ID: t.ID, Definition: t.Definition}
	}
	if s.reader == nil {
		s.reader = &relay.KeptReader{}
	}
	if err := s.reader.Learn(tables); err != nil {
		return err
	}
	for _, run := range page.Runs {
		if err := s.reader.Open(&relay.KeptChanges{Seq: run.Seq, Data: run.Data}); err != nil {
			return err
		}
		for {
			var c relay.Change
			cut, ok := s.reader.Next(&c)
			if !ok {
				break
			}
			s.compare(&c, cut)
		}
		if err := s.reader.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (s *simulator) compare(c *relay.Change, cut []string) {
	at := c.Time
	if c.Tx != nil {
		at = c.Tx.CommitTime
	}
	if !s.o.since.IsZero() && at < s.o.since.UnixMicro() {
		return // of a run that goes on after it
	}
	out := s.out
	out.Changes++
	if out.first == 0 || at < out.first {
		out.first = at
	}
	out.last = max(out.last, at)
	if c.Relation != nil {
		out.tables[c.Relation.Table().String()] = true
	}
	d := s.sim.Compare(c, cut)
	out.EventsBefore += int64(d.Before)
	out.EventsAfter += int64(d.After)
	for _, u := range d.Unjudged {
		out.unjudged(u)
	}
	if !d.Any() {
		return
	}
	out.Removed += int64(len(d.Removed))
	out.Added += int64(len(d.Added))
	out.Changed += int64(len(d.Changed))
	out.Failures += int64(len(d.Failures))
	if s.o.limit > 0 && len(out.Differences) >= s.o.limit {
		out.Omitted++
		return
	}
	x := simulated(c, at, &d)
	if s.print {
		s.printChange(x)
		x = nil // only the number counts
	}
	out.Differences = append(out.Differences, x)
}

// unjudged counts a rule that could not be judged.
func (s *simulatedSource) unjudged(u relay.UnjudgedRule) {
	for _, known := range s.Unjudged {
		if known.Rule == u.Rule && known.InForce == !u.After && slices.Equal(known.Missing, u.Missing) {
			known.Changes++
			return
		}
	}
	s.Unjudged = append(s.Unjudged, &unjudgedRule{Rule: u.Rule, InForce: !u.After, Missing: u.Missing, Changes: 1})
}

// notSent notes what the changed rules are about and the server did not send for
// those in force.
func (s *simulator) notSent() {
	for _, n := range s.after {
		name := n.Table.String()
		if s.before.Table(n.Table) == nil && !s.out.tables[name] {
			s.out.Notes = append(s.out.Notes, fmt.Sprintf("no change of table %s is kept: no rule in force is about it", name))
		}
	}
	var ops []string
	for _, op := range []relay.Op{relay.Insert, relay.Update, relay.Delete, relay.Truncate} {
		if (s.after.Ops() &^ s.before.Ops()).Has(op) {
			ops = append(ops, op.String())
		}
	}
	if len(ops) > 0 {
		s.out.Notes = append(s.out.Notes, fmt.Sprintf("the rules in force are not about %s: where rowhook manages the publication it does not send them", strings.Join(ops, ", ")))
	}
}

func simulated(c *relay.Change, at int64, d *relay.Difference) *simulatedChange {
	x := &simulatedChange{Time: time.UnixMicro(at).UTC(), Op: c.Op.String(), Name: c.Name}
	if c.Relation != nil {
		x.Table = c.Relation.Table().String()
		row := c.New
		if row == nil {
			row = c.Old
		}
		if row != nil {
			x.Key = strings.TrimPrefix(relay.DefaultKey(c.Relation, row), x.Table+"/")
		}
	}
	switch {
	case c.Tx != nil:
		x.LSN, x.XID = c.Tx.CommitLSN.String(), c.Tx.XID
	case c.Op == relay.Message:
		x.LSN = c.LSN.String()
	}
	for i := range d.Removed {
		x.Removed = append(x.Removed, newSimulatedEvent(&d.Removed[i]))
	}
	for i := range d.Added {
		x.Added = append(x.Added, newSimulatedEvent(&d.Added[i]))
	}
	for i := range d.Changed {
		e := &d.Changed[i]
		y := changedEvent{Before: newSimulatedEvent(&e.Before), After: newSimulatedEvent(&e.After)}
		for _, f := range e.Fields {
			y.Fields = append(y.Fields, changedField(f))
		}
		x.Changed = append(x.Changed, y)
	}
	for _, f := range d.Failures {
		x.Failures = append(x.Failures, simulatedFailure(f))
	}
	return x
}

func newSimulatedEvent(e *relay.Event) simulatedEvent {
	x := simulatedEvent{Type: e.Type, Rule: e.Rule, Data: e.Data}
	if e.Version > 1 {
		x.Type = fmt.Sprintf("%s@%d", e.Type, e.Version)
	}
	if e.ID != (relay.EventID{}) {
		x.ID = e.ID.String()
	}
	if e.HasKey {
		key := string(e.Key)
		x.Key = &key
	}
	if e.Tenant != nil {
		tenant := string(e.Tenant)
		x.Tenant = &tenant
	}
	return x
}

func (s *simulator) printChange(x *simulatedChange) {
	w := s.p.stdout
	what := x.Op
	switch {
	case x.Table != "":
		what += " of " + x.Table
		if x.Key != "" {
			what += " " + x.Key
		}
	case x.Name != "":
		what += " " + x.Name
	}
	if x.XID != 0 {
		what += fmt.Sprintf(", transaction %d", x.XID)
	}
	if x.LSN != "" {
		what += " at " + x.LSN
	}
	fmt.Fprintf(w, "%s  %s\n", s.p.clock(x.Time), printable(what))
	line := func(color, sign, text string) { fmt.Fprintf(w, "  %s %s\n", paint(s.color, color, sign), text) }
	event := func(color, sign string, e *simulatedEvent) {
		by := ""
		if e.Rule != strings.Split(e.Type, "@")[0] {
			by = ", rule " + e.Rule
		}
		line(color, sign, printable(e.Type+by)+"  "+oneLine(short(string(e.Data), maxShownData)))
	}
	for i := range x.Removed {
		event(colorRed, "-", &x.Removed[i])
	}
	for i := range x.Added {
		event(colorGreen, "+", &x.Added[i])
	}
	for i := range x.Changed {
		line(colorBold, "~", printable(x.Changed[i].After.Type))
		for _, f := range x.Changed[i].Fields {
			fmt.Fprintf(w, "      %s: %s -> %s\n", printable(f.Field), shown(f.Before), shown(f.After))
		}
	}
	for _, f := range x.Failures {
		switch {
		case f.Before == "":
			line(colorRed, "!", "rule "+f.Rule+" would fail: "+oneLine(f.After))
		case f.After == "":
			line(colorGreen, "!", "rule "+f.Rule+" would not fail any more: "+oneLine(f.Before))
		default:
			line(colorRed, "!", "rule "+f.Rule+" would fail otherwise: "+oneLine(f.After)+" (it fails: "+oneLine(f.Before)+")")
		}
	}
	fmt.Fprintln(w)
}

// maxShownData is how much of a value is shown, in bytes.
const maxShownData = 300

func shown(v json.RawMessage) string {
	if v == nil {
		return "(not there)"
	}
	return oneLine(short(string(v), maxShownData))
}

func (s *simulator) printTotals() {
	w, x := s.p.stdout, s.out
	if x.Omitted > 0 {
		fmt.Fprintf(w, "(%s; --limit 0 shows all)\n\n", plural(x.Omitted, "more change differs", "more changes differ"))
	}
	fmt.Fprintf(w, "source %s: %s from %s to %s, against the rules in force since %s\n", printable(x.Source), plural(x.Changes, "change", "changes"), s.p.clock(x.From), s.p.clock(x.To), x.Since)
	fmt.Fprintf(w, "  events: %d by the rules in force, %d by the changed ones\n", x.EventsBefore, x.EventsAfter)
	if x.Removed+x.Added+x.Changed+x.Failures == 0 {
		fmt.Fprintln(w, "  nothing differs")
	} else {
		fmt.Fprintf(w, "  %d removed, %d added, %d changed; %s\n", x.Removed, x.Added, x.Changed, plural(x.Failures, "failure differs", "failures differ"))
	}
	for _, u := range x.Unjudged {
		which := "changed"
		if u.InForce {
			which = "in force"
		}
		fmt.Fprintf(w, "  not judged: rule %s (%s) on %s, which lack %s\n", u.Rule, which, plural(u.Changes, "change", "changes"), printable(strings.Join(u.Missing, ", ")))
	}
	for _, n := range x.Notes {
		fmt.Fprintf(w, "  note: %s\n", printable(n))
	}
}
