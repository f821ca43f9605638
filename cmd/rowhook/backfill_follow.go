package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rowhook/rowhook/relay/api"
)

const (
	// followEvery is how often a backfill that is waited for is looked at.
	followEvery = 200 * time.Millisecond
	// saidAfter is how often in a row the same reason has to be seen before it is
	// printed: most are gone in a moment.
	saidAfter = 5
)

// followBackfill waits for the end of a backfill, with a bar on a terminal, and
// says what it waits for.
func (p *program) followBackfill(ctx context.Context, b backend, job *api.Backfill, asJSON bool) error {
	f := follower{out: p.stderr, said: map[string]bool{}}
	f.width, _ = p.terminal(p.stderr)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for !job.HasEnded() {
		f.show(job)
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.clear()
			fmt.Fprintf(p.stderr, "backfill %d goes on; see 'rowhook backfill show %d', or end it with 'rowhook backfill cancel %d'\n", job.ID, job.ID, job.ID)
			return ctx.Err()
		}
		res, err := b.Backfills(ctx, &api.BackfillsRequest{ID: job.ID})
		if err != nil && ctx.Err() == nil {
			f.clear()
			return err
		}
		if err == nil {
			job = &res.Backfills[0]
		}
	}
	f.clear()
	if err := p.printBackfill(job, asJSON); err != nil {
		return err
	}
	if job.State != api.BackfillDone {
		return &exitError{code: exitFailure}
	}
	return nil
}

// follower shows how a backfill goes on.
type follower struct {
	out io.Writer
	// width is that of the terminal, 0 for something else, which gets no bar.
	width  int
	bar    string // as it is shown
	reason string
	times  int // the reason was seen, in a row
	said   map[string]bool
}

func (f *follower) show(b *api.Backfill) {
	if f.times++; b.Reason != f.reason {
		f.reason, f.times = b.Reason, 1
	}
	if f.reason != "" && f.times >= saidAfter && !f.said[f.reason] {
		f.said[f.reason] = true
		f.clear()
		fmt.Fprintf(f.out, "backfill %d is %s: %s\n", b.ID, b.State, paragraph(b.Reason, "  "))
	}
	if bar := progressBar(b, f.width-1); f.width > 0 && bar != f.bar {
		f.bar = bar
		fmt.Fprintf(f.out, "\r\x1b[K%s", bar)
	}
}

// clear takes the bar away.
func (f *follower) clear() {
	if f.width > 0 {
		fmt.Fprint(f.out, "\r\x1b[K")
		f.bar = ""
	}
}

// barWidth is that of the bar between its brackets.
const barWidth = 20

// progressBar draws how far a backfill is in a line of at most so many columns,
// with as much as there is room for.
func progressBar(b *api.Backfill, width int) string {
	speed := ""
	switch {
	case b.State == api.BackfillWaiting || b.Reason != "":
		speed = ", waits"
	case b.RowsPerSecond > 0:
		speed = fmt.Sprintf(", %.0f rows/s", b.RowsPerSecond)
	}
	events := ", " + plural(b.Events, "event", "events")
	rows, bar := plural(b.Rows, "row", "rows"), ""
	if b.Estimate > 0 {
		read := min(b.Rows, b.Estimate)
		full := int(barWidth * read / b.Estimate)
		bar = fmt.Sprintf("[%s%s] %3d%%  ", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), 100*read/b.Estimate)
		rows = fmt.Sprintf("%d of about %s", b.Rows, plural(b.Estimate, "row", "rows"))
	}
	for _, line := range []string{bar + rows + events + speed, bar + rows + speed, bar + rows, rows + speed} {
		if len(line) <= width {
			return line
		}
	}
	return short(rows, max(width, 1))
}
