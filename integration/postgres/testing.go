package postgres

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
)

// New runs a cluster for one test and removes it afterwards. A failed test prints the end of the
// server's log.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	c, err := Start(context.Background(), o)
	if err != nil {
		t.Fatalf("private PostgreSQL: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PostgreSQL's log:\n%s", c.LogTail())
		}
		c.Close()
	})
	return c
}

// Main is the body of a TestMain whose tests share one cluster:
//
//	var cluster *postgres.Cluster
//
//	func TestMain(m *testing.M) { os.Exit(postgres.Main(m, postgres.Options{}, &cluster)) }
func Main(m *testing.M, o Options, shared **Cluster) int {
	c, err := Start(context.Background(), o)
	if err != nil {
		fmt.Fprintf(os.Stderr, "private PostgreSQL: %v\n", err)
		return 1
	}
	defer c.Close()
	*shared = c
	return m.Run()
}

// dropSlots frees a database of its slots. Walsenders are ended first and
// given until the slot is free; a slot of another database is not touched.
const dropSlots = `
DO $$
DECLARE s record;
BEGIN
  FOR i IN 1..500 LOOP
    PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database() AND active;
    EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database() AND active);
    PERFORM pg_sleep(0.01);
  END LOOP;
  FOR s IN SELECT slot_name FROM pg_replication_slots WHERE database = current_database() LOOP
    PERFORM pg_drop_replication_slot(s.slot_name);
  END LOOP;
END $$`

// Database makes an empty database for one test, and drops it with its slots afterwards. It
// returns the URL. A prepared transaction that a test leaves behind fails the test, because it
// would block every later slot of the cluster. The options are those of CREATE DATABASE.
func (c *Cluster) Database(t testing.TB, name string, options ...string) string {
	t.Helper()
	ctx := context.Background()
	if err := c.CreateDatabase(ctx, name, options...); err != nil {
		t.Fatalf("create database %s: %v", name, err)
	}
	t.Cleanup(func() {
		if c.PID() == 0 {
			return // the test stopped the cluster, for good
		}
		var left int
		conn, err := c.Conn(ctx, name)
		if err == nil {
			err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()`).Scan(&left)
			_ = conn.Close(ctx)
		}
		if err == nil && left > 0 {
			t.Errorf("the test left %d prepared transactions in %s", left, name)
			return
		}
		if err == nil {
			err = c.DropDatabase(ctx, name)
		}
		if err != nil {
			t.Errorf("drop database %s: %v", name, err)
		}
	})
	return c.URL(name)
}

// DropDatabase drops a database, its slots and its sessions.
func (c *Cluster) DropDatabase(ctx context.Context, name string) error {
	if err := c.Exec(ctx, name, dropSlots); err != nil {
		return err
	}
	return c.Exec(ctx, "postgres", "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
}
