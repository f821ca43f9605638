package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// The clock was an hour ahead in an earlier life: what comes now has later places
// in the stream nevertheless, and a gap is not shorter than nothing.
func TestNotify_PlacesRiseAcrossALifeWhoseClockWasAhead(t *testing.T) {
	store, err := sqlitestore.Open(t.Context(), sqlitestore.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	s := &source{
		d:   &Daemon{store: store, feed: relay.NewFeed(), log: slog.New(slog.DiscardHandler)},
		cfg: &config.Source{Name: "shop"}, log: slog.New(slog.DiscardHandler),
	}
	s.rules.Store(&configured{RuleSet: relay.NewRuleSet("shop", nil)})
	now := time.Now()
	for _, at := range []time.Time{now.Add(time.Hour), now} {
		n, err := s.openNotify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n.gap(now.Add(30*time.Minute), at, 0, "a test")
		stop := s.runIngest(n.in)
		stop()
	}
	blocks, err := store.Blocks(context.Background(), notifyStream("shop"), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var sequences []string
	for _, b := range blocks {
		r := b.Reader()
		for e := (relay.Event{}); r.Next(&e); {
			sequences = append(sequences, e.Sequence())
			var data struct{ Seconds float64 }
			if err := json.Unmarshal(e.Data, &data); err != nil || data.Seconds < 0 {
				t.Errorf("%s, %v", e.Data, err)
			}
		}
	}
	if len(sequences) != 2 || sequences[0] >= sequences[1] {
		t.Errorf("sequences are %q", sequences)
	}
}
