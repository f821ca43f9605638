package sqlitestore_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/rowhook/rowhook/relay/relaytest"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// store is a Store that can be opened again and whose steps can fail.
type store struct {
	*sqlitestore.Store
	options sqlitestore.Options
	fault   atomic.Pointer[func(step string) error]
}

func (s *store) Inject(f func(step string) error) {
	if f == nil {
		s.fault.Store(nil)
		return
	}
	s.fault.Store(&f)
}

func (s *store) judge(step string) error {
	if f := s.fault.Load(); f != nil {
		return (*f)(step)
	}
	return nil
}

func (s *store) Reopen(t testing.TB) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.open(t)
}

func (s *store) open(t testing.TB) {
	t.Helper()
	var err error
	if s.Store, err = sqlitestore.Open(context.Background(), s.options); err != nil {
		t.Fatal(err)
	}
}

// openStore returns an empty store in a folder of its own.
func openStore(t testing.TB, o sqlitestore.Options) *store {
	t.Helper()
	s := &store{options: o}
	if s.options.Dir == "" {
		s.options.Dir = t.TempDir()
	}
	s.options.Hook = s.judge
	s.open(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	relaytest.TestStore(t, func(t *testing.T) relaytest.Store { return openStore(t, sqlitestore.Options{}) })
}
