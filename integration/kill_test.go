package integration_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/integration/harness"
)

// killsAndSeed are how often a kill test kills, and from what its dice are. A run with the seed of
// another makes the same transactions and kills after the same delays; where in them a kill falls is
// the machine's affair.
func killsAndSeed(t *testing.T, kills int) (int, uint64) {
	t.Helper()
	number := func(name string, value uint64) uint64 {
		text := os.Getenv(name)
		if text == "" {
			return value
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	kills = int(number("ROWHOOK_KILLS", uint64(kills)))
	seed := number("ROWHOOK_SEED", uint64(time.Now().UnixNano()%1_000_000_000))
	t.Logf("%d kills; again with: bash integration/kill.sh %d %d", kills, kills, seed)
	return kills, seed
}

func TestKill_RowhookLosesNothingAndKeepsOrder(t *testing.T) {
	kills, seed := killsAndSeed(t, 50)
	w := newKillWorld(t, seed, "")
	rng := rand.New(rand.NewPCG(seed, 1000))
	w.start()
	w.daemon.WaitReady()
	w.work(seed, 4)
	for range kills {
		w.untilKill(rng)
		w.daemon.Kill9()
		w.start()
	}
	w.rest()
	w.settle()
}

// untilKill waits for the moment of a kill: sometimes while the daemon starts, mostly when it works.
func (w *killWorld) untilKill(rng *rand.Rand) {
	w.t.Helper()
	if rng.IntN(4) == 0 {
		wait(w.t.Context(), time.Duration(rng.IntN(150))*time.Millisecond)
		return
	}
	w.delivering()
	wait(w.t.Context(), time.Duration(rng.ExpFloat64()*150)*time.Millisecond)
}

// The daemon sees its server die again and again and loses nothing; as it lives through all of it,
// it has no reason to send anything twice.
func TestKill_PostgreSQLLosesNothingAndRepeatsNothing(t *testing.T) {
	kills, seed := killsAndSeed(t, 50)
	w := newKillWorld(t, seed, "")
	rng := rand.New(rand.NewPCG(seed, 1001))
	w.start()
	w.daemon.WaitReady()
	w.work(seed, 4)
	for range max(kills/8, 3) {
		more := w.sinks[0].Count() + 1 + rng.IntN(200)
		w.arrived(more)
		w.cluster.Kill9()
		if err := w.cluster.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.rest()
	w.settle()
}

// Everything at once, on a program that says where it reads what another goroutine writes.
func TestKill_MixedUnderTheRaceDetector(t *testing.T) {
	kills, seed := killsAndSeed(t, 50)
	w := newKillWorld(t, seed, harness.RaceBinary(t))
	rng := rand.New(rand.NewPCG(seed, 1002))
	w.start()
	w.daemon.WaitReady()
	w.work(seed, 2)
	for i := range max(kills/5, 6) {
		w.untilKill(rng)
		switch i % 3 {
		case 0:
			w.daemon.Kill9()
			w.start()
		case 1:
			w.daemon.WaitReady() // it takes signals from then on
			if code := w.daemon.Term(); code != 0 {
				t.Errorf("SIGTERM: rowhook exited with %d", code)
			}
			w.start()
		case 2:
			w.cluster.Kill9()
			if err := w.cluster.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.rest()
	w.settle()
	w.daemon.WaitReady()
	if code := w.daemon.Term(); code != 0 {
		t.Errorf("SIGTERM: rowhook exited with %d", code)
	}
	if log := w.daemon.Log(); strings.Contains(log, "DATA RACE") {
		t.Error("the race detector has found something, see the log")
	}
}

// arrived waits until the first sink has accepted n events.
func (w *killWorld) arrived(n int) {
	w.t.Helper()
	w.sinks[0].Wait(harness.Patience, func() error {
		if got := w.sinks[0].Count(); got < n {
			return fmt.Errorf("%d of %d events have arrived", got, n)
		}
		return nil
	})
}
