package integration_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/relay"
)

const stopRules = `
source "postgres" "shop" { url = env("DATABASE_URL") }
event "row.made" {
  table = "public.rows"
  on    = ["insert"]
  data  = { n = new.n }
}
sink "webhook" "receiver" {
  url    = "URL"
  events = ["**"]
  retry {
    initial = "10ms"
    max     = "100ms"
  }
}
`

const stopSchema = "CREATE TABLE rows (n int PRIMARY KEY)"

// SIGTERM in the middle of work: what was read is stored, what was stored is confirmed, what was
// sent is recorded. So the next start sends nothing again.
func TestCrash_SIGTERMStoresAndConfirms(t *testing.T) {
	b := newCrashBed(t, stopSchema, stopRules, harness.DaemonOptions{}, nil)
	b.receiver.Handle(func(*harness.Request) harness.Reply { return harness.Reply{Delay: 20 * time.Millisecond} })
	b.daemon.StartReady()
	rows := 0
	var committed relay.LSN
	for round := range 3 {
		for range 200 {
			rows++
			b.exec(fmt.Sprintf("INSERT INTO rows VALUES (%d)", rows))
		}
		committed = b.written()
		if round == 0 {
			b.receiver.WaitRequests(20) // in the middle of delivering
		}
		if code := b.daemon.Term(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		sent := len(b.receiver.Requests())
		if accepted := b.receiver.Count(); accepted != sent {
			t.Errorf("round %d: %d requests, %d events: an attempt was given up, or made twice", round, sent, accepted)
		}
		if p, _ := b.checkpoint(); p != b.confirmed() {
			t.Errorf("round %d: stored up to %s, confirmed %s", round, p, b.confirmed())
		}
		b.daemon.StartReady()
		b.receiver.WaitCount(rows)
		if n := len(b.receiver.Requests()); n != rows {
			t.Errorf("round %d: %d requests for %d events", round, n, rows)
		}
	}
	// Everything was delivered, so everything up to the last commit is stored and confirmed.
	if code := b.daemon.Term(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if p, _ := b.checkpoint(); p != b.confirmed() || p < committed {
		t.Errorf("stored up to %s, confirmed %s, all was committed at %s", p, b.confirmed(), committed)
	}
}

// Attempts that do not end within the grace period are released: they count neither as failed nor
// as delivered, and are made again after the next start.
func TestCrash_SIGTERMReleasesWhatHangs(t *testing.T) {
	b := newCrashBed(t, stopSchema, stopRules, harness.DaemonOptions{Settings: `shutdown_grace = "1s"`}, nil)
	b.receiver.Handle(func(*harness.Request) harness.Reply { return harness.Reply{Fault: harness.Hang} })
	b.daemon.StartReady()
	b.exec("INSERT INTO rows SELECT generate_series(1, 10)")
	b.receiver.WaitRequests(10)
	began := time.Now()
	if code := b.daemon.Term(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took < 900*time.Millisecond || took > 10*time.Second {
		t.Errorf("it ended after %s, with a grace period of 1 s", took)
	}
	if p, _ := b.checkpoint(); p != b.confirmed() {
		t.Errorf("stored up to %s, confirmed %s", p, b.confirmed())
	}
	before := b.receiver.Requests()
	b.receiver.Handle(harness.OK)
	b.daemon.StartReady()
	b.receiver.WaitCount(10)
	ids := map[string]bool{}
	for _, q := range before {
		ids[q.ID] = true
	}
	for _, q := range b.receiver.Events() {
		if !ids[q.ID] || q.Attempt > 1 {
			t.Errorf("%s, attempt %d: was sent before: %v", q.ID, q.Attempt, ids[q.ID])
		}
	}
}

func TestCrash_SecondSignalExitsAtOnce(t *testing.T) {
	b := newCrashBed(t, stopSchema, stopRules, harness.DaemonOptions{Settings: `shutdown_grace = "1h"`}, nil)
	b.receiver.Handle(func(*harness.Request) harness.Reply { return harness.Reply{Fault: harness.Hang} })
	b.daemon.StartReady()
	b.exec("INSERT INTO rows VALUES (1)")
	b.receiver.WaitRequests(1)
	b.daemon.Signal(syscall.SIGTERM)
	b.daemon.WaitLog(`msg=stopping`)
	if !b.daemon.Running() {
		t.Error("the first signal did not wait for the attempt under way")
	}
	began := time.Now()
	b.daemon.Signal(syscall.SIGTERM)
	if code := b.daemon.Wait(harness.Patience); code != 128+int(syscall.SIGTERM) {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	b.receiver.Handle(harness.OK)
	b.daemon.StartReady()
	b.receiver.WaitCount(1)
}

const deliveredRules = `
source "postgres" "shop" {
  url     = env("DATABASE_URL")
  confirm = "delivered"
}
event "row.made" {
  table = "public.rows"
  on    = ["insert"]
  data  = { n = new.n }
}
sink "webhook" "receiver" {
  url    = "URL"
  events = ["**"]
  from   = "earliest"
  retry {
    initial = "10ms"
    max     = "100ms"
    max_attempts = 1000
  }
}
`

// confirm = "delivered": the server keeps what has not reached the endpoint, so that the loss of the
// data folder costs nothing but repeats.
func TestCrash_ConfirmDeliveredSurvivesTheLossOfTheStore(t *testing.T) {
	b := newCrashBed(t, stopSchema, deliveredRules, harness.DaemonOptions{}, nil)
	b.daemon.StartReady()
	b.exec("INSERT INTO rows SELECT generate_series(1, 99)")
	delivered := b.written() // the row after it takes the position past it
	b.exec("INSERT INTO rows VALUES (100)")
	b.receiver.WaitCount(100)
	harness.Eventually(t, harness.Patience, func() error {
		if c := b.confirmed(); c < delivered {
			return fmt.Errorf("confirmed %s, and everything up to %s is delivered", c, delivered)
		}
		return nil
	})

	b.receiver.Handle(func(*harness.Request) harness.Reply { return harness.Reply{Status: 503} })
	undelivered := b.written()
	for n := 101; n < 120; n++ {
		b.exec(fmt.Sprintf("INSERT INTO rows VALUES (%d)", n))
	}
	b.exec("SELECT pg_switch_wal(); CHECKPOINT")
	stored := b.written()
	b.exec("INSERT INTO rows VALUES (120)")
	harness.Eventually(t, harness.Patience, func() error {
		if p, _ := b.checkpoint(); p < stored {
			return fmt.Errorf("stored up to %s, want %s", p, stored)
		}
		return nil
	})
	sent := map[string]string{} // data by id
	b.receiver.Wait(harness.Patience, func() error {
		for _, q := range b.receiver.Requests() {
			if q.Status == 503 {
				sent[string(q.Data)] = q.ID
			}
		}
		if len(sent) < 5 { // not all of them: an endpoint that is down is only probed
			return fmt.Errorf("%d events were tried", len(sent))
		}
		return nil
	})
	// Stopping stores and confirms what may be confirmed: not this.
	if code := b.daemon.Term(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if c := b.confirmed(); c > undelivered {
		t.Fatalf("confirmed %s, and nothing after %s is delivered", c, undelivered)
	}
	if c := b.lsn("SELECT restart_lsn::text FROM pg_replication_slots"); c > undelivered {
		t.Fatalf("WAL is kept from %s on, and nothing after %s is delivered", c, undelivered)
	}

	b.loseStore()
	b.receiver.Handle(harness.OK)
	b.daemon.Start()
	b.daemon.WaitLog("--reset-checkpoint shop=earliest")
	if n := b.receiver.Count(); n != 100 {
		t.Errorf("%d events were delivered while the source refused to start", n-100)
	}
	b.daemon.Kill9()
	b.daemon.StartReady("--reset-checkpoint", "shop=earliest")
	b.receiver.Wait(harness.Patience, func() error {
		for _, q := range b.receiver.Events() {
			if id, known := sent[string(q.Data)]; known && id != q.ID {
				t.Fatalf("%s had the id %s and comes with %s", q.Data, id, q.ID)
			}
		}
		if n := b.receiver.Count(); n < 120 {
			return fmt.Errorf("%d of 120 events", n)
		}
		return nil
	})
	b.exec("INSERT INTO rows VALUES (121)")
	b.receiver.WaitCount(121)
}

// loseStore does what the loss of a disk does, to a daemon that does not run.
func (b *crashBed) loseStore() {
	b.t.Helper()
	if _, err := os.Stat(b.daemon.DataDir); err != nil {
		b.t.Fatal(err)
	}
	if err := os.RemoveAll(b.daemon.DataDir); err != nil {
		b.t.Fatal(err)
	}
}
