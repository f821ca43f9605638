package admin

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// Backfills implements [Reads].
func (v *Views) Backfills(ctx context.Context, req *api.BackfillsRequest) (*api.Backfills, error) {
	all, err := v.Store.Backfills(ctx)
	if err != nil {
		return nil, fmt.Errorf("read backfills: %w", err)
	}
	res := &api.Backfills{Backfills: []api.Backfill{}}
	for i := range slices.Backward(all) {
		if req.ID == 0 || req.ID == all[i].ID {
			res.Backfills = append(res.Backfills, Backfill(&all[i]))
		}
	}
	if req.ID != 0 && len(res.Backfills) == 0 {
		return nil, fmt.Errorf("backfill %d: %w", req.ID, relay.ErrNotFound)
	}
	return res, nil
}

// Backfill returns a backfill as the store knows it.
func Backfill(b *relay.Backfill) api.Backfill {
	out := api.Backfill{
		ID: b.ID, Event: b.Rule, Source: b.Source, Where: b.Where, Rate: b.Rate, Initial: b.Initial, State: string(b.State), Reason: b.Reason,
		Rows: b.Progress.Rows, Events: b.Progress.Events, Estimate: b.Progress.Estimate, Created: time.UnixMicro(b.CreatedAt).UTC(),
	}
	if b.State == relay.BackfillOpen {
		out.State = api.BackfillWaiting
	}
	if b.EndedAt != 0 {
		out.Ended = time.UnixMicro(b.EndedAt).UTC()
	}
	return out
}
