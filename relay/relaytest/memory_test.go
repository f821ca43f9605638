package relaytest_test

import (
	"testing"

	"github.com/rowhook/rowhook/relay/relaytest"
)

type memory struct{ relaytest.Memory }

func (*memory) Reopen(testing.TB) {}

func TestMemory(t *testing.T) {
	relaytest.TestStore(t, func(*testing.T) relaytest.Store { return &memory{} })
}
