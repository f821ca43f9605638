package integration_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// pair is a primary and a standby that follows it. The shop's URL names both and asks for the one that
// takes writes.
type pair struct {
	*shop
	standby *postgres.Cluster
}

// newPair makes a pair of servers of a major version, or of the one at hand.
func newPair(t *testing.T, name, version, source string) *pair {
	t.Helper()
	o := postgres.Options{}
	if version != "" {
		bin, err := postgres.Fetch(version)
		if err != nil {
			t.Fatal(err)
		}
		o.Binaries = bin
	}
	primary := postgres.New(t, o)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(primary.Exec(t.Context(), "postgres", "SELECT pg_create_physical_replication_slot('standby', true)"))
	must(primary.Stop(postgres.Fast))
	standby := clone(t, primary)
	must(standby.Set(map[string]string{
		"primary_conninfo":  fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable", primary.Port),
		"primary_slot_name": "standby", "hot_standby_feedback": "on", "wal_receiver_status_interval": "1s", "wal_retrieve_retry_interval": "100ms",
	}))
	must(standby.Signal("standby.signal"))
	must(primary.Run(t.Context()))
	must(standby.Run(t.Context()))
	u, err := url.Parse(primary.URL(name))
	must(err)
	u.Host += fmt.Sprintf(",127.0.0.1:%d", standby.Port)
	u.RawQuery += "&target_session_attrs=read-write"
	return &pair{newShop(t, primary, name, shopOptions{url: u.String(), source: source}), standby}
}

// clone copies a stopped cluster, and removes the copy after the test.
func clone(t *testing.T, of *postgres.Cluster) *postgres.Cluster {
	t.Helper()
	c, err := of.Clone()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of the copied PostgreSQL:\n%s", c.LogTail())
		}
		c.Close()
	})
	return c
}

// onStandby runs a query on the standby and returns the one text it gives.
func (p *pair) onStandby(sql string) string {
	p.t.Helper()
	conn, err := p.standby.Conn(p.t.Context(), "postgres")
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var text *string
	if err := conn.QueryRow(p.t.Context(), sql).Scan(&text); err != nil {
		p.t.Fatalf("on the standby: %s: %v", sql, err)
	}
	if text == nil {
		return ""
	}
	return *text
}

// syncSlot waits until the standby has a copy of the slot that would survive a promotion.
func (p *pair) syncSlot() {
	p.t.Helper()
	conn, err := p.standby.Conn(p.t.Context(), "postgres")
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	p.eventually(func() error {
		p.exec("CHECKPOINT") // writes which transactions run, by which slots move
		if _, err := conn.Exec(p.t.Context(), "SELECT pg_sync_replication_slots()"); err != nil {
			return err
		}
		var n int
		err := conn.QueryRow(p.t.Context(), "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary AND invalidation_reason IS NULL").Scan(&n)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d slots are on the standby", n)
		}
		return err
	})
}

// promote makes the standby the primary that the shop writes to.
func (p *pair) promote() {
	p.t.Helper()
	if p.onStandby("SELECT pg_promote()::text") != "true" {
		p.t.Fatal("the standby was not promoted")
	}
	p.cluster = p.standby
	p.reconnect()
}

// A slot made before 17, or without FAILOVER, stays behind on the old primary.
func TestFailover_WithoutTheSlotIsSaid(t *testing.T) {
	t.Parallel()
	p := newPair(t, "left", "", strings.Replace(shopSource, "SLOT\"", "SLOT\"\n  failover = false", 1))
	p.d.StartReady()
	p.put(1)
	p.expect(1)
	p.stopCluster(postgres.Fast) // waits until the standby has all
	p.promote()
	p.put(2)
	at := p.checkpoint().LSN
	contains(t, "the reason", p.untilSource(api.SourceStopped).Reason, "slot rowhook_left does not exist any more", at, "bytes of WAL, since ", flagNow)
	contains(t, "the reset", p.must("checkpoint", "reset", "shop", "now"), "generation 2")
	p.untilSource(api.SourceStreaming)
	p.put(3)
	p.expect(1, 3)
	if src := p.source(); src.Timeline != 2 || src.Gaps != 1 {
		t.Errorf("source: %+v", src)
	}
	p.d.Term()
}

// B7, 17 and later: the slot follows, and nothing happened on the old primary that the new one does not
// have. Nobody has to do anything.
func TestFailover_TheSlotFollows(t *testing.T) {
	t.Parallel()
	p := newPair(t, "follows", "18", shopSource)
	p.d.StartReady()
	p.put(1)
	p.expect(1)
	p.syncSlot()
	p.put(2)
	p.expect(1, 2)
	p.stopCluster(postgres.Fast)
	p.untilSource(api.SourceWaiting)
	if got := p.onStandby("SELECT pg_is_in_recovery()::text"); got != "true" {
		t.Fatal("the standby is none")
	}
	p.promote()
	p.put(3)
	p.expect(1, 2, 3)
	p.d.WaitLog("timeline 2 follows timeline 1, nothing is missing")
	p.unbroken()
	p.once()
	if src := p.source(); src.Timeline != 2 {
		t.Errorf("source: %+v", src)
	}
	p.d.Term()
}

// B7: the old primary had commits that the new one does not have, and they were delivered. LSNs are
// used again for others: that is said, with the position at which the histories part, and the new
// commits get ids of their own.
func TestFailover_DivergenceIsSaid(t *testing.T) {
	t.Parallel()
	p := newPair(t, "parts", "18", shopSource)
	p.d.StartReady()
	p.put(1)
	p.expect(1)
	p.syncSlot()
	// The standby falls behind.
	for _, sql := range []string{"ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"} {
		if err := p.standby.Exec(t.Context(), "postgres", sql); err != nil {
			t.Fatal(err)
		}
	}
	p.eventually(func() error {
		if n := p.onStandby("SELECT count(*)::text FROM pg_stat_wal_receiver"); n != "0" {
			return fmt.Errorf("the standby still follows")
		}
		return nil
	})
	p.put(500, 501)
	p.expect(1, 500, 501)
	at := p.checkpoint().LSN
	p.cluster.Kill9()
	p.promote()
	p.exec("INSERT INTO items VALUES (600, 'x')")
	reason := p.untilSource(api.SourceStopped).Reason
	contains(t, "the reason", reason, "the server is on timeline 2, which left timeline 1 at ", at, "describe commits that the failover undid", "--reset-checkpoint shop=")
	_, parts, _ := strings.Cut(reason, "--reset-checkpoint shop=")
	parts = strings.TrimSuffix(strings.TrimSpace(parts), ".")
	if lsnOf(t, parts) >= lsnOf(t, at) {
		t.Fatalf("the histories part at %s, and we were at %s", parts, at)
	}
	contains(t, "the reset", p.must("checkpoint", "reset", "shop", parts), "generation 2")
	p.expect(1, 500, 501, 600)
	p.once()
	events := p.hook.Events()
	if last := events[len(events)-1]; sequenceLSN(t, last.Sequence) > lsnOf(t, at) {
		t.Errorf("row 600 committed at %s, after %s: no LSN was used again", last.Sequence, at)
	}
	p.d.Term()
}

// H8: a standby takes no LISTEN. That is said to a person, and after its promotion the listener hears.
func TestFailover_AStandbyTakesNoListen(t *testing.T) {
	t.Parallel()
	p := newPair(t, "unheard", "", shopSource)
	got := make(chan string, 1)
	listen := func(ctx context.Context) error {
		l := cdc.Listener{URL: relay.NewSecret(p.standby.URL("unheard")), Channels: []string{"hints"}}
		l.Alive = func(at time.Time) {
			if at.IsZero() {
				return
			}
			if err := p.standby.Exec(ctx, "unheard", "SELECT pg_notify('hints', 'promoted')"); err != nil {
				t.Error(err)
			}
		}
		return l.Run(ctx, func(c *relay.Change) error {
			got <- string(c.Payload)
			return nil
		}, func(time.Time, time.Time) error { return nil })
	}
	p.eventually(func() error {
		if n := p.onStandby("SELECT count(*)::text FROM pg_database WHERE datname = 'unheard'"); n != "1" {
			return fmt.Errorf("%s databases of the name are on the standby", n)
		}
		return nil
	})
	wantSetup(t, listen(t.Context()), "leads to a standby", "the primary is needed")
	p.promote()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- listen(ctx) }()
	select {
	case text := <-got:
		if text != "promoted" {
			t.Errorf("heard %q", text)
		}
	case err := <-done:
		t.Fatalf("on the promoted server: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
