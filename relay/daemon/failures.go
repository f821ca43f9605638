package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// retriedStream is the stream of events made of failed changes later. They are
// outside the order of the changes.
func retriedStream(source string) string { return source + "/retried" }

// RetryFailures implements admin.Changes: the rules as they are now judge the
// changes again. An event that is made has the id it would have had at first.
func (d *Daemon) RetryFailures(ctx context.Context, req *api.RetryFailuresRequest) (*api.RetryFailuresResponse, error) {
	if (req.ID == 0) == (req.Rule == "") {
		return nil, api.Errorf(api.CodeInvalid, "name either a failure or a rule")
	}
	all, err := d.store.Failures(ctx, 1<<20)
	if err != nil {
		return nil, err
	}
	d.retrying.Lock()
	defer d.retrying.Unlock()
	res := &api.RetryFailuresResponse{Events: []string{}}
	found := false
	for i := len(all) - 1; i >= 0; i-- { // oldest first
		f := &all[i]
		if f.ID != req.ID && (req.Rule == "" || f.Rule != req.Rule) {
			continue
		}
		found = true
		ids, err := d.retryFailure(ctx, f)
		switch {
		case errors.Is(err, relay.ErrStillFails):
			res.Failing++
			res.Error = err.Error()
		case err != nil:
			return nil, fmt.Errorf("failure %d: %w", f.ID, err)
		case len(ids) == 0:
			res.Unmatched++
		default:
			res.Events = append(res.Events, ids...)
		}
	}
	if !found && req.ID != 0 {
		return nil, fmt.Errorf("failure %d: %w", req.ID, relay.ErrNotFound)
	}
	return res, nil
}

// retryFailure judges one change again and returns the ids of the events, none
// when the rule does not match. After a crash in between the events are made
// twice, with the same ids.
func (d *Daemon) retryFailure(ctx context.Context, f *relay.Failure) ([]string, error) {
	var s *source
	for _, x := range d.sources {
		if f.Stream == walStream(x.cfg.Name) || f.Stream == notifyStream(x.cfg.Name) {
			s = x
		}
	}
	if s == nil {
		return nil, fmt.Errorf("the source of stream %s is not in the configuration: %w", f.Stream, relay.ErrNotFound)
	}
	src, err := d.store.SourceState(ctx, s.cfg.Name)
	if err != nil || src == nil {
		return nil, errors.Join(err, errors.New("the source has no checkpoint yet"))
	}
	rel, err := s.tableOf(ctx, f)
	if err != nil {
		return nil, err
	}
	events, err := relay.Rejudge(s.rules.Load().RuleSet, f, src, rel)
	if err != nil {
		return nil, err
	}
	if len(events) == 0 {
		return nil, d.store.DropFailure(ctx, f.ID)
	}
	stream := retriedStream(s.cfg.Name)
	st, err := d.store.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	var b relay.BlockBuilder
	var ids []string
	tail := st.Tail
	for i := range events {
		tail++
		e := &events[i]
		e.Stream, e.Seq = stream, tail
		b.Add(e)
		ids = append(ids, e.ID.String())
	}
	a := &relay.Append{Stream: stream, Blocks: []*relay.Block{b.Finish()}, Head: tail, Tail: tail}
	if err := d.store.Append(ctx, a); err != nil {
		return nil, err
	}
	d.feed.Publish(stream, a.Blocks, a.Head)
	return ids, d.store.DropFailure(ctx, f.ID)
}

// tableOf returns the table of a failed change as it is now, nil when the
// change is of none.
func (s *source) tableOf(ctx context.Context, f *relay.Failure) (*relay.Relation, error) {
	if f.Table == "" {
		return nil, nil
	}
	tables, _ := s.rules.Load().Tables()
	for _, name := range tables {
		if name.String() != f.Table {
			continue
		}
		catalog, _, err := cdc.ReadCatalog(ctx, s.cfg.URL, []relay.TableName{name})
		if err != nil {
			return nil, err
		}
		if t := catalog.Table(name); t != nil {
			t.Types = catalog
			return &t.Relation, nil
		}
	}
	return nil, fmt.Errorf("table %s: %w", f.Table, relay.ErrNotFound)
}
