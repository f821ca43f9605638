package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
)

// explained is a source whose rules explain.
type explained struct {
	cfg    *config.Source
	rules  *relay.RuleSet
	recent *relay.Recent // nil: no daemon runs
}

// Explain implements admin.Reads.
func (d *Daemon) Explain(ctx context.Context, req *api.ExplainRequest) (*api.Explanation, error) {
	var sources []explained
	for _, s := range d.sources {
		sources = append(sources, explained{s.cfg, s.rules.Load().RuleSet, &s.recent})
	}
	return explain(ctx, d.Views, sources, d.config().Sinks, req)
}

// Explain implements admin.Reads: without a daemon there are the log and the row
// as it is now.
func (o *Offline) Explain(ctx context.Context, req *api.ExplainRequest) (*api.Explanation, error) {
	if o.cfg == nil {
		return nil, api.Errorf(api.CodeInvalid, "no daemon runs, and the rules are not known here: name the configuration with -c")
	}
	var sources []explained
	for i := range o.cfg.Sources {
		s := &o.cfg.Sources[i]
		sources = append(sources, explained{s, relay.NewRuleSet(s.Name, o.cfg.Rules), nil})
	}
	return explain(ctx, o.Views, sources, o.cfg.Sinks, req)
}

func explain(ctx context.Context, v *admin.Views, sources []explained, sinks []config.Sink, req *api.ExplainRequest) (*api.Explanation, error) {
	table, err := namedTable(sources, req.Table)
	if err != nil {
		return nil, err
	}
	res := &api.Explanation{Table: table.String(), Key: req.Key, Rows: []api.ExplainedRow{}}
	for i := range sources {
		if tables, _ := sources[i].rules.Tables(); !slices.Contains(tables, table) {
			continue
		}
		x := explainer{v: v, explained: &sources[i], sinks: sinks, table: table, req: req}
		row, err := x.row(ctx)
		if err != nil {
			return nil, err
		}
		res.Rows = append(res.Rows, *row)
	}
	return res, nil
}

// namedTable returns the table of the rules that a person means.
func namedTable(sources []explained, name string) (relay.TableName, error) {
	var all, found []relay.TableName
	for i := range sources {
		tables, _ := sources[i].rules.Tables()
		for _, t := range tables {
			if t.String() == name {
				return t, nil
			}
			if t.Name == name && !slices.Contains(found, t) {
				found = append(found, t)
			}
			all = append(all, t)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var names []string
	for _, t := range all {
		names = append(names, t.String())
	}
	switch {
	case len(found) > 1:
		return relay.TableName{}, api.Errorf(api.CodeInvalid, "%s is in several schemas: write one of %s", name, strings.Join(names, ", "))
	case len(all) == 0:
		return relay.TableName{}, api.Errorf(api.CodeNotFound, "no rule is about table %s, nor about any other", name)
	}
	return relay.TableName{}, api.Errorf(api.CodeNotFound, "no rule is about table %s; there are rules about %s", name, strings.Join(names, ", "))
}

// explainer explains one row of one source.
type explainer struct {
	v *admin.Views
	*explained
	sinks []config.Sink
	table relay.TableName
	req   *api.ExplainRequest

	system uint64
	made   map[string]bool // the events that the changes made
}

func (x *explainer) row(ctx context.Context) (*api.ExplainedRow, error) {
	res := &api.ExplainedRow{Source: x.cfg.Name, Changes: []api.ExplainedChange{}}
	x.made = map[string]bool{}
	states, err := x.v.Store.Sources(ctx)
	if err != nil {
		return nil, fmt.Errorf("read sources: %w", err)
	}
	for i := range states {
		if states[i].Source == x.cfg.Name {
			x.system = states[i].SystemID
		}
	}
	for _, r := range x.about() {
		res.Rules = append(res.Rules, api.RuleSubject{Rule: r.Name, Type: eventName(r.Type, max(r.Version, 1)), On: operations(r.Ops)})
	}
	x.changes(ctx, res)
	if x.req.From > 0 {
		return res, nil
	}
	rel, row := x.current(ctx, res)
	if rel != nil {
		if err := x.past(ctx, res, rel); err != nil {
			return nil, err
		}
	}
	if row != nil && len(res.Changes) == 0 {
		now := x.change(ctx, &relay.Change{Op: relay.Update, Relation: rel, New: row}, res)
		res.Now = &now
	}
	return res, nil
}

// about returns the rules about the table.
func (x *explainer) about() []*relay.Rule {
	var rules []*relay.Rule
	for _, r := range x.rules.Rules() {
		if slices.Contains(r.Tables, x.table) {
			rules = append(rules, r)
		}
	}
	return rules
}

func operations(ops relay.Ops) []string {
	var words []string
	for _, op := range []relay.Op{relay.Insert, relay.Update, relay.Delete, relay.Truncate, relay.Read} {
		if ops.Has(op) {
			words = append(words, op.String())
		}
	}
	return words
}

// changes explains those that are remembered. One that came twice, because the
// connection broke, counts once.
func (x *explainer) changes(ctx context.Context, res *api.ExplainedRow) {
	if x.recent == nil {
		res.Notes = append(res.Notes, "no daemon runs, so no change is remembered")
		return
	}
	recent, since, forgotten, next := x.recent.Of(x.table, x.req.From)
	res.Forgotten, res.Next = forgotten, next
	if since > 0 {
		res.Remembered = time.UnixMicro(since).UTC()
	}
	type place struct {
		commit, lsn relay.LSN
		ordinal     uint32
		op          relay.Op
	}
	seen := map[place]bool{}
	for i := range recent {
		c := &recent[i].Change
		at := place{c.Tx.CommitLSN, c.LSN, c.Ordinal, c.Op}
		mine := c.Op == relay.Truncate || relay.HasRowKey(c.Relation, c.New, x.req.Key) || relay.HasRowKey(c.Relation, c.Old, x.req.Key)
		if !mine || seen[at] || time.UnixMicro(c.Tx.CommitTime).Before(x.req.Since) {
			continue
		}
		seen[at] = true
		e := x.change(ctx, c, res)
		e.N, e.Cut = recent[i].N, recent[i].Cut
		e.Time, e.LSN, e.XID = time.UnixMicro(c.Tx.CommitTime).UTC(), c.Tx.CommitLSN.String(), c.Tx.XID
		res.Changes = append(res.Changes, e)
	}
}

// change says how each rule judges a change.
func (x *explainer) change(ctx context.Context, c *relay.Change, res *api.ExplainedRow) api.ExplainedChange {
	e := api.ExplainedChange{Op: c.Op.String(), Changed: changed(c)}
	for _, r := range x.about() {
		j := relay.Judge(r, c, x.system)
		out := api.ExplainedRule{Rule: r.Name, Outcome: api.RuleNotMatched, When: clause(j.When)}
		switch {
		case !j.About:
			out.Outcome = api.RuleNotAbout
		case j.Err != nil:
			out.Outcome, out.Error = api.RuleFailed, j.Err.Error()
		case j.Matched:
			out.Outcome = api.RuleMatched
		}
		for i := range j.Events {
			out.Events = append(out.Events, x.event(ctx, &j.Events[i], res))
		}
		e.Rules = append(e.Rules, out)
	}
	return e
}

// changed lists the columns of an update with another value than before.
func changed(c *relay.Change) []string {
	if c.Op != relay.Update || c.New == nil || c.Old == nil {
		return nil
	}
	var names []string
	for i := range c.New {
		n, o := &c.New[i], &c.Old[i]
		if n.State != relay.Unknown && o.State != relay.Unknown && (n.State != o.State || !bytes.Equal(n.Text, o.Text)) {
			names = append(names, c.Relation.Columns[i].Name)
		}
	}
	return names
}

func clause(c *relay.Clause) *api.Clause {
	if c == nil {
		return nil
	}
	out := &api.Clause{Text: c.Text, Outcome: c.Outcome, Error: c.Error, Operator: c.Operator}
	for _, v := range c.Values {
		out.Values = append(out.Values, api.NamedValue(v))
	}
	for i := range c.Parts {
		out.Parts = append(out.Parts, *clause(&c.Parts[i]))
	}
	return out
}

// event says where an event went.
func (x *explainer) event(ctx context.Context, e *relay.Event, res *api.ExplainedRow) api.MadeEvent {
	id := e.ID.String()
	x.made[id] = true
	out := api.MadeEvent{ID: id, Type: eventName(e.Type, e.Version), Time: time.UnixMicro(e.Time).UTC()}
	detail, err := x.v.Event(ctx, &api.EventRequest{ID: id})
	var known *api.Error
	switch {
	case errors.As(err, &known) && known.Code == api.CodeNotFound:
		return out
	case err != nil:
		res.Notes = append(res.Notes, fmt.Sprintf("event %s cannot be read: %v", id, err))
		return out
	}
	out.Logged = true
	for i := range detail.Deliveries {
		out.Deliveries = append(out.Deliveries, detail.Deliveries[i].Delivery)
	}
	if len(out.Deliveries) == 0 {
		out.Unwanted = x.unwanted(e.Type, e.Version)
	}
	return out
}

// unwanted says why no endpoint has a delivery of an event.
func (x *explainer) unwanted(kind string, version int) string {
	var wants, others []string
	for _, s := range x.sinks {
		if s.Endpoint.Events.Match(kind, version) {
			wants = append(wants, s.Endpoint.ID)
		} else {
			others = append(others, fmt.Sprintf("%s wants %s", s.Endpoint.ID, s.Endpoint.Events))
		}
	}
	switch {
	case len(wants) > 0:
		return fmt.Sprintf("%s wants it now, and did not when it was made", strings.Join(wants, ", "))
	case len(others) == 0:
		return "there is no sink"
	}
	return "no endpoint wants it: " + strings.Join(others, "; ")
}

// current reads the table and the row as they are now. What it cannot read is
// in the notes.
func (x *explainer) current(ctx context.Context, res *api.ExplainedRow) (*relay.Relation, relay.Row) {
	note := func(format string, args ...any) { res.Notes = append(res.Notes, fmt.Sprintf(format, args...)) }
	if x.cfg.URL.IsZero() {
		note("the database cannot be asked: its URL is not known here")
		return nil, nil
	}
	catalog, _, err := cdc.ReadCatalog(ctx, x.cfg.URL, []relay.TableName{x.table})
	if err != nil {
		note("the database cannot be asked: %v", err)
		return nil, nil
	}
	t := catalog.Table(x.table)
	if t == nil {
		note("the database has no table %s", x.table)
		return nil, nil
	}
	t.Types = catalog
	if len(t.PrimaryKey) == 0 {
		note("%s has no primary key, so its rows cannot be told apart", x.table)
		return &t.Relation, nil
	}
	row, err := cdc.ReadRow(ctx, x.cfg.URL, t, x.req.Key)
	switch {
	case err != nil:
		note("the row cannot be read: %v", err)
	case row == nil:
		note("there is no such row in the database now")
	}
	return &t.Relation, row
}

// maxPast bounds the events and failures of the past that are shown.
const maxPast = 20

// past adds what the log has of the row beyond the changes that are remembered.
func (x *explainer) past(ctx context.Context, res *api.ExplainedRow, rel *relay.Relation) error {
	events, err := x.v.Events(ctx, &api.EventsRequest{Source: x.cfg.Name, Key: x.eventKey(rel), After: x.req.Since, Limit: maxPast})
	if err != nil {
		var known *api.Error
		if !errors.As(err, &known) {
			return err
		}
		events = &api.Events{}
	}
	for i := range events.Events {
		e := &events.Events[i]
		if id, err := relay.ParseEventID(e.ID); err == nil && !x.made[e.ID] {
			res.Events = append(res.Events, x.event(ctx, &relay.Event{ID: id, Type: e.Type, Version: e.Version, Time: e.Time.UnixMicro()}, res))
		}
	}
	failures, err := x.v.Store.Failures(ctx, 1<<20)
	if err != nil {
		return fmt.Errorf("read failures: %w", err)
	}
	for i := range failures {
		f := &failures[i]
		if len(res.Failures) < maxPast && f.Stream == walStream(x.cfg.Name) && relay.FailedRow(f, rel, x.req.Key) && !time.UnixMicro(f.At).Before(x.req.Since) {
			res.Failures = append(res.Failures, admin.Failure(f))
		}
	}
	return nil
}

// eventKey is the default key of events of the row.
func (x *explainer) eventKey(rel *relay.Relation) string {
	row := make(relay.Row, len(rel.Columns))
	parts := []string{x.req.Key}
	if len(rel.PrimaryKey) > 1 {
		parts = strings.SplitN(x.req.Key, ",", len(rel.PrimaryKey))
	}
	if len(parts) != len(rel.PrimaryKey) {
		return x.table.String() + "/" + x.req.Key
	}
	for n, i := range rel.PrimaryKey {
		row[i] = relay.Value{State: relay.Known, Text: []byte(parts[n])}
	}
	return relay.DefaultKey(rel, row)
}
