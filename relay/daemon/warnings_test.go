package daemon

import (
	"strings"
	"testing"

	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

func TestWarnings_AreOfRulesThatDoNothing(t *testing.T) {
	patterns, err := relay.ParsePatterns([]string{"order.**", "!order.lost", "item.sold@2"})
	if err != nil {
		t.Fatal(err)
	}
	sinks := []config.Sink{{Endpoint: relay.Endpoint{ID: "a", Events: patterns}}}
	rules := []api.RuleStatus{
		{Name: "order.paid", Type: "order.paid", Version: 1, Seen: 9, Matched: 3},
		{Name: "order.sent", Type: "order.sent", Version: 1, Seen: 7},
		{Name: "order.old", Type: "order.old", Version: 1},
		{Name: "order.new", Type: "order.new", Version: 1},
		{Name: "order.lost", Type: "order.lost", Version: 1, Matched: 1},
		{Name: "sold", Type: "item.sold", Version: 1, Matched: 1},
		{Name: "sold2", Type: "item.sold", Version: 2, Matched: 1},
	}
	var got []string
	for _, w := range warnings(rules, []string{"order.old"}, sinks) {
		got = append(got, w.Kind+" "+w.Rule+" "+w.Text)
	}
	want := []string{
		"never_matched order.sent rule order.sent has never matched, of 7 changes",
		"never_matched order.new rule order.new has never matched: no change",
		"unwanted order.lost no endpoint wants order.lost, which rule order.lost makes",
		"unwanted sold no endpoint wants item.sold, which rule sold makes",
	}
	if len(got) != len(want) {
		t.Fatalf("%d warnings, want %d: %q", len(got), len(want), got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
}
