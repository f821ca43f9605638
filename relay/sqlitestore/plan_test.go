package sqlitestore

import (
	"regexp"
	"testing"
)

// No query of every day reads the whole of a table that grows with the log.
func TestQueries_ScanNoLargeTable(t *testing.T) {
	s, err := Open(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	large := regexp.MustCompile(`SCAN (b|p|a|d|blocks|successes|attempts|deliveries|failures|k|kept_changes)\b`)
	for name, text := range map[string]string{
		"Stream": sqlStreamStates, "Blocks": sqlBlocks, "Events": sqlBlocksBack, "Event": sqlBlocksAround, "place": sqlBlockAt,
		"OpenDeliveries": sqlOpenDeliveries, "SettledAfter": sqlSettledAfter, "dead after": sqlDeadAfter,
		"successes of a place": sqlSuccessesOfPlace, "attempts of a place": sqlAttemptsOfPlace, "rows of an event": sqlRowsOfEvent,
		"recent rows": sqlRecentRows, "recent successes": sqlRecentSuccesses, "Cursors": sqlCursors,
		"oldest open": sqlOldestOpen, "oldest blocks": sqlOldestBlocks, "drop blocks": sqlDropBlocks, "drop dead": sqlDropDead,
		"drop attempts": sqlDropAttempts, "drop successes": sqlDropSuccesses, "drop failures": sqlDropOldFailures,
		"tail": sqlTailBytes, "drop tail": sqlDropTail, "drop tail's failures": sqlDropFailures, "around the head": sqlAround,
		"RetryDead": sqlDeadDelivery, "HoldEndpoint": sqlHold, "CancelEndpoint": sqlCancel,
		"Kept": sqlKept, "kept tail": sqlKeptTailBytes, "drop kept tail": sqlDropKeptTail, "oldest kept": sqlOldestKept, "kept streams": sqlKeptStreams, "drop kept": sqlDropKept,
	} {
		plan, err := collect(t.Context(), s.read, name, func(r scanner) (step string, err error) {
			var a, b, c int
			err = r.Scan(&a, &b, &c, &step)
			return step, err
		}, "EXPLAIN QUERY PLAN "+text, 1, 1, 1, 1, 1) // more values than a statement has places for do no harm
		if err != nil || len(plan) == 0 {
			t.Errorf("%s: plan %v, %v", name, plan, err)
		}
		for _, step := range plan {
			if large.MatchString(step) {
				t.Errorf("%s: %s", name, step)
			}
		}
	}
}
