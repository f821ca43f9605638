package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	core "github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// backfill measures how fast the rows of a table come into the log, which no endpoint reads. What it
// is compared with, in the yardstick's column, is the log's own rate of appending the same events.
func backfill(ctx context.Context, b *bench, r relay, p place) (values, error) {
	rows := b.drain
	own, ok := r.(*rowhook)
	if !ok {
		rate, err := appendRate(ctx, filepath.Join(p.dir, "log"), rows)
		return values{"backfill_rate": rate}, err
	}
	proc, err := own.start(p)
	if err != nil {
		return nil, err
	}
	defer proc.kill()
	if err := own.ready(ctx, p, proc); err != nil {
		return nil, err
	}
	out, err := own.command(ctx, p, "backfill", "row.created", "--wait", "--json", "-c", filepath.Join(p.dir, "rowhook.hcl"))
	if err != nil {
		return nil, err
	}
	var done struct {
		Rows           int
		Created, Ended time.Time
	}
	if err := json.Unmarshal(out, &done); err != nil {
		return nil, err
	}
	if done.Rows != rows {
		return nil, fmt.Errorf("%d of %d rows were read", done.Rows, rows)
	}
	peak, err := proc.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	if _, err := proc.stop(); err != nil {
		return nil, err
	}
	return values{"backfill_rate": float64(rows) / done.Ended.Sub(done.Created).Seconds(), "backfill_peak_rss": peak}, nil
}

// appendRate appends events like those of the rows to a new log, as the daemon does: blocks of 64 KiB,
// a MiB in one store transaction, and while one is stored the next is packed.
func appendRate(ctx context.Context, dir string, events int) (float64, error) {
	store, err := sqlitestore.Open(ctx, sqlitestore.Options{Dir: dir})
	if err != nil {
		return 0, err
	}
	defer func() { _ = store.Close() }()
	appends := make(chan *core.Append, 1)
	go func() {
		defer close(appends)
		packEvents(ctx, events, appends)
	}()
	began := time.Now()
	for a := range appends {
		if err := store.Append(ctx, a); err != nil {
			return 0, err
		}
	}
	return float64(events) / time.Since(began).Seconds(), ctx.Err()
}

func packEvents(ctx context.Context, events int, to chan<- *core.Append) {
	var builder core.BlockBuilder
	next := &core.Append{Stream: "bench"}
	size := 0
	for i := 1; i <= events; i++ {
		f := core.IDFacts{CommitLSN: core.LSN(i), Kind: core.Read, Rule: "row.created"}
		builder.Add(&core.Event{
			ID: f.ID(), Seq: int64(i), Stream: "bench", Source: "bench", Type: "row.created", Version: 1, Rule: "row.created", Table: "public.items",
			Op: core.Read, Time: int64(i), Generation: 1, Place: uint64(i), HasKey: true, Key: fmt.Appendf(nil, "public.items/%d", i),
			Data: fmt.Appendf(nil, `{"id":%d,"customer_id":%d,"kind":"miss","status":"pending","total_cents":%d,"created_at":"2026-01-01T00:00:00.000000+00:00","note":"%096d"}`, i, i%1000, i%100000, i),
		})
		if builder.Len() >= 64<<10 || i == events {
			block := builder.Finish()
			next.Blocks = append(next.Blocks, block)
			size += len(block.Data)
		}
		if size >= 1<<20 || i == events {
			next.Head, next.Tail = int64(i), int64(i)
			select {
			case to <- next:
			case <-ctx.Done():
				return
			}
			next, size = &core.Append{Stream: "bench"}, 0
		}
	}
}
