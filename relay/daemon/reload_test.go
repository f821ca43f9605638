package daemon

import (
	"slices"
	"testing"

	"github.com/rowhook/rowhook/config"
)

func TestReload_NamesWhatItCannotChange(t *testing.T) {
	old := &config.Config{Sources: []config.Source{{Name: "shop", Slot: "a"}, {Name: "gone"}}}
	if got := fixedChanges(old, old); len(got) > 0 {
		t.Errorf("nothing has changed: %v", got)
	}
	now := &config.Config{Sources: []config.Source{{Name: "shop", Slot: "b"}, {Name: "new"}}}
	now.Settings.Listen = "127.0.0.1:1"
	want := []string{"listen", "slot of source shop", "source gone (removed)", "source new (added)"}
	if got := fixedChanges(old, now); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
