package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
)

// killSchema has two tables under rules, one with its whole old rows and one with the default
// replica identity, and a table that no rule names. Triggers give every row version a tag of its
// own and write into truth, in the same transaction, what was done.
//
// A place in truth is drawn while the row, the unique index or the message's advisory lock keeps
// every other writer of the key out until the commit record is written. So the places of a key rise
// in the order of its commits, and what was rolled back has none.
const killSchema = `
CREATE TABLE items (id int PRIMARY KEY, tag bigint NOT NULL, body text);
ALTER TABLE items REPLICA IDENTITY FULL;
CREATE TABLE accounts (id int PRIMARY KEY, tag bigint NOT NULL, body text);
CREATE TABLE noise (n int);
CREATE SEQUENCE tags;
CREATE SEQUENCE places;
CREATE TABLE truth (place bigint PRIMARY KEY, kind text NOT NULL, op text NOT NULL, old_id text, new_id text, tag bigint NOT NULL);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	NEW.tag := nextval('tags');
	RETURN NEW;
END $$;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF TG_OP = 'DELETE' THEN
		INSERT INTO truth VALUES (nextval('places'), TG_TABLE_NAME, 'delete', OLD.id, NULL, OLD.tag);
	ELSIF TG_OP = 'INSERT' THEN
		INSERT INTO truth VALUES (nextval('places'), TG_TABLE_NAME, 'insert', NULL, NEW.id, NEW.tag);
	ELSE
		INSERT INTO truth VALUES (nextval('places'), TG_TABLE_NAME, 'update', OLD.id, NEW.id, NEW.tag);
	END IF;
	RETURN NULL;
END $$;
CREATE FUNCTION memo(k int) RETURNS void LANGUAGE plpgsql AS $$ DECLARE tag bigint; BEGIN
	PERFORM pg_advisory_xact_lock(k);
	tag := nextval('tags');
	PERFORM pg_logical_emit_message(true, 'memo', json_build_object('op', 'memo', 'key', 'memo-' || k, 'tag', tag)::text);
	INSERT INTO truth VALUES (nextval('places'), 'memo', 'memo', NULL, k, tag);
END $$;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER tell AFTER INSERT OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION tell();`

// killRules: the two sinks want different events, so that their positions differ. Each start of the
// daemon is another life and says so in a header.
func killRules(first, second string, life int) string {
	sink := func(name, url, events string) string {
		return fmt.Sprintf(`
sink "webhook" %q {
  url     = %q
  events  = [%s]
  secrets = [%q]
  headers = { x-life = "%d" }
  retry {
    max_attempts = 1000
    initial      = "10ms"
    max          = "100ms"
  }
}
`, name, url, events, harness.Secret, life)
	}
	return `
source "postgres" "shop" { url = env("DATABASE_URL") }
event "item.changed" {
  table = "public.items"
  on    = ["insert", "update", "delete"]
  data  = { op = op, id = row.id, tag = row.tag, body = row.body }
}
event "item.even" {
  table = "public.items"
  on    = ["insert", "update"]
  when  = new.tag % 2 == 0
  data  = { op = op, tag = new.tag }
}
event "account.changed" {
  table = "public.accounts"
  on    = ["insert", "update"]
  data  = merge(row, { op = op })
}
event "memo" {
  message = "memo"
  key     = payload.key
  data    = payload
}
` + sink("first", first, `"**"`) + sink("second", second, `"item.even", "memo"`)
}

// killWorld is a database under a mixed workload, a daemon, and two receivers that fail.
type killWorld struct {
	t       *testing.T
	cluster *postgres.Cluster
	url     string
	daemon  *harness.Daemon
	sinks   [2]*harness.Receiver
	life    int

	stop     context.CancelFunc
	writers  sync.WaitGroup
	made     atomic.Int64 // events of the first sink, at least so many
	commits  atomic.Int64
	refused  atomic.Int64 // transactions that the server rolled back: deadlocks, duplicate keys
	rollback atomic.Int64 // transactions that the workload rolled back
	broken   atomic.Int64 // connections lost
}

func newKillWorld(t *testing.T, seed uint64, binary string) *killWorld {
	t.Helper()
	w := &killWorld{t: t}
	w.cluster = postgres.New(t, postgres.Options{Settings: map[string]string{"deadlock_timeout": "50ms"}})
	w.url = w.cluster.Database(t, "shop")
	if err := w.cluster.Exec(t.Context(), "shop", killSchema); err != nil {
		t.Fatal(err)
	}
	for i := range w.sinks {
		w.sinks[i] = harness.NewReceiver(t)
		rng := rand.New(rand.NewPCG(seed, uint64(100+i)))
		w.sinks[i].Handle(func(*harness.Request) harness.Reply {
			reply := harness.Reply{Delay: time.Duration(rng.IntN(3000)) * time.Microsecond}
			switch n := rng.IntN(100); {
			case n < 8:
				reply.Status = 500
			case n < 10:
				reply.Fault = harness.Reset
			}
			return reply
		})
	}
	w.daemon = harness.NewDaemon(t, harness.DaemonOptions{DatabaseURL: w.url, Binary: binary, Rules: killRules(w.sinks[0].URL, w.sinks[1].URL, 0)})
	return w
}

// start begins another life of the daemon.
func (w *killWorld) start() {
	w.life++
	w.daemon.SetRules(killRules(w.sinks[0].URL, w.sinks[1].URL, w.life))
	w.daemon.Start()
}

// delivering waits until the daemon has sent something in this life.
func (w *killWorld) delivering() {
	w.t.Helper()
	life := fmt.Sprint(w.life)
	from := 0
	w.sinks[0].Wait(harness.Patience, func() error {
		all := w.sinks[0].Requests()
		for ; from < len(all); from++ {
			if all[from].Header.Get("x-life") == life {
				return nil
			}
		}
		return fmt.Errorf("nothing was sent in life %s", life)
	})
}

// work runs the writers until rest is called.
func (w *killWorld) work(seed uint64, writers int) {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.stop = cancel
	for i := range writers {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		next := 1000 * (i + 1) * 1000
		w.writers.Go(func() {
			for ctx.Err() == nil {
				if err := w.session(ctx, rng, &next); err != nil && ctx.Err() == nil {
					w.broken.Add(1)
					wait(ctx, 20*time.Millisecond)
				}
			}
		})
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// rest ends the writers.
func (w *killWorld) rest() {
	w.stop()
	w.writers.Wait()
}

// session runs transactions until the connection breaks.
func (w *killWorld) session(ctx context.Context, rng *rand.Rand, next *int) error {
	db, err := pgx.Connect(ctx, w.url)
	if err != nil {
		return err
	}
	defer db.Close(context.Background())
	for ctx.Err() == nil {
		// The receivers set the pace: what piles up would only make the run long.
		if got := int64(w.sinks[0].Count()); got > w.made.Load() {
			w.made.Store(got)
		} else if w.made.Load() > got+1500 {
			wait(ctx, 5*time.Millisecond)
			continue
		}
		n, err := w.transaction(ctx, db, rng, next)
		var server *pgconn.PgError
		switch {
		case err == nil:
			w.made.Add(int64(n))
		case errors.As(err, &server) && !db.IsClosed():
			w.refused.Add(1)
			if _, err := db.Exec(ctx, "ROLLBACK"); err != nil {
				return err
			}
		default:
			return err
		}
		if rng.IntN(20) == 0 {
			wait(ctx, time.Duration(rng.IntN(60))*time.Millisecond) // quiet enough to be current
		}
	}
	return nil
}

// transaction is one under way. After an error nothing more is done in it.
type transaction struct {
	ctx     context.Context
	db      *pgx.Conn
	rng     *rand.Rand
	changes int // about: what statements say they changed
	err     error
}

func (x *transaction) exec(sql string, args ...any) {
	if x.err == nil {
		var tag pgconn.CommandTag
		tag, x.err = x.db.Exec(x.ctx, sql, args...)
		x.changes += int(tag.RowsAffected())
	}
}

func (x *transaction) copyItems(rows [][]any) {
	if x.err == nil {
		var n int64
		n, x.err = x.db.CopyFrom(x.ctx, pgx.Identifier{"items"}, []string{"id", "tag", "body"}, pgx.CopyFromRows(rows))
		x.changes += int(n)
	}
}

// transaction runs one transaction of a few statements, and returns how many changes it committed.
func (w *killWorld) transaction(ctx context.Context, db *pgx.Conn, rng *rand.Rand, next *int) (int, error) {
	x := &transaction{ctx: ctx, db: db, rng: rng}
	x.exec("BEGIN")
	for range 1 + rng.IntN(4) {
		x.statement(next)
		if rng.IntN(6) == 0 {
			before := x.changes
			x.exec("SAVEPOINT s")
			x.statement(next)
			if rng.IntN(3) > 0 {
				x.exec("ROLLBACK TO s")
				x.changes = before
			} else {
				x.exec("RELEASE s")
			}
		}
	}
	if rng.IntN(10) == 0 {
		x.exec("ROLLBACK")
		w.rollback.Add(1)
		return 0, x.err
	}
	x.exec("COMMIT")
	if x.err == nil {
		w.commits.Add(1)
	}
	return x.changes, x.err
}

// statement changes something; every second time under one of four hot keys.
func (x *transaction) statement(next *int) {
	rng := x.rng
	id := 1 + rng.IntN(4)
	if rng.IntN(2) == 0 {
		id = 1 + rng.IntN(60)
	}
	body := strings.Repeat("x", 1+rng.IntN(200))
	if rng.IntN(50) == 0 {
		body = strings.Repeat("y", 3000+rng.IntN(9000))
	}
	switch n := rng.IntN(100); {
	case n < 25:
		x.exec("INSERT INTO items VALUES ($1, 0, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body", id, body)
	case n < 40:
		x.exec("UPDATE items SET body = $2 WHERE id = $1", id, body)
	case n < 50:
		x.exec("DELETE FROM items WHERE id = $1", id)
	case n < 60: // the primary key changes; sometimes to one that is taken, which is refused
		x.exec("UPDATE items SET id = $2 WHERE id = $1", id, 1+rng.IntN(60))
	case n < 65:
		x.exec("UPDATE accounts SET id = $2 WHERE id = $1 AND NOT EXISTS (SELECT FROM accounts WHERE id = $2)", id, 1+rng.IntN(60))
	case n < 80:
		x.exec("INSERT INTO accounts VALUES ($1, 0, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body", id, body)
	case n < 90:
		x.exec("SELECT memo($1)", 1+rng.IntN(5))
	case n < 93: // out of every rule's sight: outside the transaction, another prefix, a table without a rule
		x.exec(`SELECT pg_logical_emit_message(false, 'memo', '{"op": "memo", "key": "never", "tag": -1}'), pg_logical_emit_message(true, 'other', 'x')`)
		before := x.changes - 1
		x.exec("INSERT INTO noise VALUES ($1)", id)
		x.changes = before
	case n < 97:
		x.exec("DELETE FROM items WHERE id IN (SELECT id FROM items WHERE id >= 1000 ORDER BY id LIMIT 12)")
	default:
		var rows [][]any
		for range 5 + rng.IntN(20) {
			*next++
			rows = append(rows, []any{*next, 0, body})
		}
		x.copyItems(rows)
	}
}

// settle waits until everything that was committed has arrived, and judges how.
func (w *killWorld) settle() {
	w.t.Helper()
	rows := w.truth()
	for i, r := range w.sinks {
		wants := killWants[i]
		want := len(expectedOf(rows, wants))
		r.Wait(3*time.Minute, func() error {
			if got := r.Count(); got < want {
				return fmt.Errorf("sink %d: %d of %d events have arrived", i, got, want)
			}
			return nil
		})
		report, wrong := judge(expectedOf(rows, wants), arrivalsOf(r.Requests()))
		for n, text := range wrong {
			if n == 20 {
				w.t.Errorf("sink %d: and %d more", i, len(wrong)-n)
				break
			}
			w.t.Errorf("sink %d: %s", i, text)
		}
		w.t.Logf("sink %d: %s", i, report)
	}
	w.t.Logf("%d transactions committed, %d rolled back, %d refused, %d connections lost, %d changes under rules",
		w.commits.Load(), w.rollback.Load(), w.refused.Load(), w.broken.Load(), len(rows))
}

var killWants = [2]func(string) bool{
	func(string) bool { return true },
	func(typ string) bool { return typ == "item.even" || typ == "memo" },
}

// truth reads what was committed.
func (w *killWorld) truth() []truthRow {
	w.t.Helper()
	db, err := w.cluster.Conn(w.t.Context(), "shop")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close(context.Background())
	result, err := db.Query(w.t.Context(), "SELECT kind, op, coalesce(old_id, ''), coalesce(new_id, ''), tag FROM truth ORDER BY place")
	if err != nil {
		w.t.Fatal(err)
	}
	rows, err := pgx.CollectRows(result, pgx.RowToStructByPos[truthRow])
	if err != nil {
		w.t.Fatal(err)
	}
	return rows
}
