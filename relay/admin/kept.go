package admin

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// keptPage is about how much of what is kept one answer has, in bytes, so that
// who reads a long window costs the daemon no memory to speak of.
const keptPage = 1 << 20

// Kept implements [Reads].
func (v *Views) Kept(ctx context.Context, req *api.KeptRequest) (*api.KeptChanges, error) {
	if err := v.knowsSource(ctx, req.Source); err != nil {
		return nil, err
	}
	stream := req.Source
	if req.Notifications {
		stream += "/notify"
	}
	runs, err := v.Store.Kept(ctx, relay.KeptQuery{Stream: stream, After: req.After, Since: micros(req.Since), MaxBytes: keptPage})
	if err != nil {
		return nil, err
	}
	res := &api.KeptChanges{Runs: []api.KeptRun{}, Tables: []api.KeptTable{}, Next: req.After}
	for i := range runs {
		res.Runs = append(res.Runs, api.KeptRun{Seq: runs[i].Seq, Data: runs[i].Data})
		res.Next = runs[i].Seq
	}
	tables, err := v.Store.KeptTables(ctx) // after the runs: none of theirs is missing
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		res.Tables = append(res.Tables, api.KeptTable{ID: t.ID, Definition: t.Definition})
	}
	records, err := v.Store.RulesRecords(ctx, req.Source)
	if err != nil {
		return nil, fmt.Errorf("read the rules in force: %w", err)
	}
	for _, r := range slices.Backward(records) {
		if r.From > 0 {
			res.Rules = &api.KeptRules{Fingerprint: r.Hash, Text: r.Text, From: r.From.String(), Loaded: time.UnixMicro(r.At).UTC()}
			break
		}
	}
	sources, err := v.Store.Sources(ctx)
	if err != nil {
		return nil, fmt.Errorf("read sources: %w", err)
	}
	for i := range sources {
		if sources[i].Source == req.Source {
			res.SystemID = sources[i].SystemID
		}
	}
	return res, nil
}
