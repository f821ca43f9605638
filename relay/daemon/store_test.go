package daemon

import (
	"errors"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// A command that works on the store of a stopped daemon must not keep one from starting.
func TestOpenStore_WaitsForACommand(t *testing.T) {
	o := sqlitestore.Options{Dir: t.TempDir()}
	command, err := sqlitestore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sqlitestore.Open(t.Context(), o); !errors.Is(err, relay.ErrStoreLocked) {
		t.Fatalf("the command does not hold the folder: %v", err)
	}
	done := make(chan error, 1)
	time.AfterFunc(100*time.Millisecond, func() { done <- command.Close() })
	store, err := openStore(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-done, store.Close()); err != nil {
		t.Error(err)
	}
}
