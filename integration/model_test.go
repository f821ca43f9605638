package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

// TestModel_AMirrorOfTheEventsIsTheDatabase makes random schemas, transactions, DDL, rule edits,
// backfills and kills. A receiver that applies the events to tables of its own must see each
// version of each row once and in order, and end with what PostgreSQL has. A seed gives the same
// schema, statements and actions; where they meet is the machine's affair.
func TestModel_AMirrorOfTheEventsIsTheDatabase(t *testing.T) {
	seeds, first := modelNumber(t, "ROWHOOK_MODEL_SEEDS", 3), modelNumber(t, "ROWHOOK_MODEL_FIRST", uint64(time.Now().UnixNano()%1_000_000_000))
	cluster := postgres.New(t, postgres.Options{Settings: map[string]string{
		"deadlock_timeout": "50ms", "max_prepared_transactions": "10", "lock_timeout": "2s",
	}})
	for seed := first; seed < first+seeds; seed++ {
		if !t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { model(t, cluster, seed) }) {
			t.Logf("again with: bash integration/model.sh 1 %d", seed)
		}
	}
}

func modelNumber(t *testing.T, name string, value uint64) uint64 {
	t.Helper()
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

// modelWorld is a database, its daemon, and the receiver with the mirror.
type modelWorld struct {
	t       *testing.T
	rng     *rand.Rand
	cluster *postgres.Cluster
	url     string
	least   bool // columns = "rules"
	tables  []*modelTable
	daemon  *harness.Daemon
	sink    *harness.Receiver
	mirror  *modelMirror
	done    map[string]int // actions

	writers  sync.WaitGroup
	stop     context.CancelFunc
	prepared atomic.Int64
	commits  atomic.Int64
	refused  atomic.Int64
	copied   atomic.Int64   // committed rows of COPY
	asked    sync.WaitGroup // commands under way
}

func model(t *testing.T, cluster *postgres.Cluster, seed uint64) {
	w := newModelWorld(t, cluster, seed)
	w.daemon.StartReady()
	ctx, cancel := context.WithCancel(t.Context())
	w.stop = cancel
	for i := range 2 {
		rng := rand.New(rand.NewPCG(seed, uint64(10+i)))
		w.writers.Go(func() { w.write(ctx, rng) })
	}
	for range 5 + w.rng.IntN(8) {
		wait(ctx, time.Duration(w.rng.IntN(400))*time.Millisecond)
		w.act()
	}
	w.stop()
	w.writers.Wait()
	w.finish()
}

func newModelWorld(t *testing.T, cluster *postgres.Cluster, seed uint64) *modelWorld {
	t.Helper()
	w := &modelWorld{t: t, rng: rand.New(rand.NewPCG(seed, 1)), cluster: cluster, done: map[string]int{}}
	w.url = w.cluster.Database(t, "model")
	w.least = w.cluster.Major() >= 15 && w.rng.IntN(4) == 0
	for n := range 2 + w.rng.IntN(2) {
		table := newModelTable(w.rng, n, w.least)
		table.renew = w.cluster.Major() < 15
		if err := w.cluster.Exec(t.Context(), "model", strings.Join(table.create(w.rng), ";\n")); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s (columns = rules: %t): key %v, keyless %t, identity %c, partitions %v", table.name, w.least, table.keyNames(), table.keyless, table.identity, table.leaves)
		if n == 0 || w.rng.IntN(3) > 0 {
			table.era, table.strict = 1, true
		}
		w.tables = append(w.tables, table)
	}
	w.mirror = newModelMirror(w.tables)
	w.sink = harness.NewReceiver(t)
	fail := rand.New(rand.NewPCG(seed, 2))
	w.sink.Handle(func(q *harness.Request) harness.Reply {
		if fail.IntN(100) < 6 {
			return harness.Reply{Status: 500}
		}
		w.mirror.apply(q)
		return harness.Reply{}
	})
	w.daemon = harness.NewDaemon(t, harness.DaemonOptions{DatabaseURL: w.url, Rules: w.rules()})
	return w
}

func (w *modelWorld) rules() string {
	var b strings.Builder
	columns := map[bool]string{true: "rules", false: "all"}[w.least]
	fmt.Fprintf(&b, "source \"postgres\" \"shop\" {\n  url     = env(\"DATABASE_URL\")\n  columns = %q\n}\n", columns)
	for n, t := range w.tables {
		if t.era > 0 {
			b.WriteString(t.rule(n))
		}
	}
	fmt.Fprintf(&b, `
sink "webhook" "mirror" {
  url     = %q
  events  = ["**"]
  secrets = [%q]
  retry {
    max_attempts = 1000
    initial      = "10ms"
    max          = "100ms"
  }
}
`, w.sink.URL, harness.Secret)
	return b.String()
}

// write runs random transactions, through every loss of the connection.
func (w *modelWorld) write(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		db, err := pgx.Connect(ctx, w.url)
		for err == nil && ctx.Err() == nil {
			err = w.transaction(ctx, db, rng)
			wait(ctx, time.Duration(rng.IntN(12))*time.Millisecond)
		}
		if db != nil {
			_ = db.Close(context.Background())
		}
		wait(ctx, 20*time.Millisecond)
	}
}

func (w *modelWorld) transaction(ctx context.Context, db *pgx.Conn, rng *rand.Rand) error {
	lines := []string{"BEGIN"}
	add := func() { lines = append(lines, w.tables[rng.IntN(len(w.tables))].statement(rng)...) }
	for range 1 + rng.IntN(4) {
		add()
		if rng.IntN(5) == 0 {
			lines = append(lines, "SAVEPOINT s")
			add()
			lines = append(lines, []string{"ROLLBACK TO s", "RELEASE s"}[rng.IntN(2)])
		}
	}
	switch rng.IntN(20) {
	case 0:
		lines = append(lines, "ROLLBACK")
	case 1:
		id := quoted(fmt.Sprintf("m%d", w.prepared.Add(1)))
		lines = append(lines, "PREPARE TRANSACTION "+id, []string{"ROLLBACK PREPARED ", "COMMIT PREPARED "}[rng.IntN(2)]+id)
	default:
		lines = append(lines, "COMMIT")
	}
	var rows bytes.Buffer
	var copied int64
	for _, sql := range lines {
		n, err := modelExec(ctx, db.PgConn(), sql, &rows)
		copied += n
		var server *pgconn.PgError
		if errors.As(err, &server) && !db.IsClosed() {
			w.refused.Add(1)
			_, err = db.Exec(ctx, "ROLLBACK")
			return err
		}
		if err != nil {
			return err
		}
	}
	w.commits.Add(1)
	w.copied.Add(copied)
	return nil
}

// modelExec runs a statement, and returns how many rows COPY brought. One COPY writes rows, the next
// reads them.
func modelExec(ctx context.Context, db *pgconn.PgConn, sql string, rows *bytes.Buffer) (int64, error) {
	switch {
	case strings.HasSuffix(sql, "TO STDOUT"):
		_, err := db.CopyTo(ctx, rows, sql)
		return 0, err
	case strings.HasSuffix(sql, "FROM STDIN"):
		tag, err := db.CopyFrom(ctx, rows, sql)
		return tag.RowsAffected(), err
	default:
		_, err := db.Exec(ctx, sql).ReadAll()
		return 0, err
	}
}

// act does something to the world.
func (w *modelWorld) act() {
	w.t.Helper()
	n := w.rng.IntN(100)
	table := w.rng.IntN(len(w.tables))
	switch {
	case n < 22:
		w.did("kill rowhook", "")
		w.daemon.Kill9()
		w.daemon.Start()
	case n < 31:
		w.did("kill PostgreSQL", "")
		w.cluster.Kill9()
		w.runServer()
	case n < 37:
		w.did("stop rowhook", "")
		w.daemon.WaitReady()
		if code := w.daemon.Term(); code != 0 {
			w.t.Errorf("SIGTERM: rowhook exited with %d", code)
		}
		w.daemon.Start()
	case n < 64:
		w.ddl(table)
	case n < 80:
		w.edit(table)
	default:
		w.backfill(table)
	}
}

func (w *modelWorld) did(what, detail string) {
	w.done[what]++
	w.t.Logf("%s %s (%d events so far)", what, detail, w.sink.Count())
}

// runServer starts PostgreSQL again, and ends the prepared transactions whose writer it killed.
func (w *modelWorld) runServer() {
	w.t.Helper()
	if err := w.cluster.Run(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.endPrepared()
}

func (w *modelWorld) endPrepared() {
	w.t.Helper()
	db := w.connect()
	defer db.Close(context.Background())
	result, _ := db.Query(w.t.Context(), "SELECT gid FROM pg_prepared_xacts")
	ids, err := pgx.CollectRows(result, pgx.RowTo[string])
	if err != nil {
		w.t.Fatal(err)
	}
	for _, id := range ids { // its writer may be quicker
		_, _ = db.Exec(w.t.Context(), []string{"ROLLBACK PREPARED ", "COMMIT PREPARED "}[w.rng.IntN(2)]+quoted(id))
	}
}

func (w *modelWorld) connect() *pgx.Conn {
	w.t.Helper()
	db, err := w.cluster.Conn(w.t.Context(), "model")
	if err != nil {
		w.t.Fatal(err)
	}
	return db
}

// ddl changes a table in mid-stream. A refused change is none: what the table has is told by the
// statements that went through.
func (w *modelWorld) ddl(n int) {
	w.t.Helper()
	if w.least { // the server refuses to drop what is listed; what rules are about to read is not yet
		w.daemon.WaitReady()
	}
	t := w.tables[n]
	db := w.connect()
	defer db.Close(context.Background())
	t.mu.Lock()
	defer t.mu.Unlock()
	before, stale, filled := t.clone(), t.stale, t.filled
	lines, rows := t.ddl(w.rng)
	tx, err := db.Begin(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, sql := range lines {
		if _, err = tx.Exec(w.t.Context(), sql); err != nil {
			break
		}
	}
	if err == nil {
		err = tx.Commit(w.t.Context())
	}
	if err != nil {
		_ = tx.Rollback(w.t.Context())
		t.modelShape, t.stale, t.filled = before, stale, filled
		w.did("refused DDL", err.Error())
		return
	}
	if rows {
		t.stale, t.strict, t.filled = true, false, 0
		w.mirror.relax(n)
	}
	w.did("DDL", strings.Join(lines, "; "))
}

// edit gives a table another rule, its first one, or none, and has the daemon reload it; every
// third time the daemon is killed over it.
func (w *modelWorld) edit(n int) {
	w.t.Helper()
	t := w.tables[n]
	switch {
	case t.era > 0 && n > 0 && w.rng.IntN(4) == 0:
		t.era, t.strict = -t.era, false
		w.mirror.relax(n)
	default:
		t.era = max(t.era, -t.era) + 1
		t.choose(w.rng)
		t.stale = t.stale || w.least
	}
	t.filled = 0
	w.did("edit", fmt.Sprintf("table %d in era %d", n, t.era))
	w.daemon.SetRules(w.rules())
	if w.rng.IntN(3) == 0 {
		w.asked.Go(func() { w.daemon.Command("reload", "-c", "CONFIG") })
		wait(w.t.Context(), time.Duration(w.rng.IntN(150))*time.Millisecond)
		w.daemon.Kill9()
		w.daemon.Start()
		return
	}
	w.reload()
}

func (w *modelWorld) reload() {
	w.t.Helper()
	w.daemon.WaitReady()
	if r := w.daemon.Command("reload", "-c", "CONFIG"); r.Code != 0 {
		w.t.Fatalf("reload: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// backfill asks for the rows of a table, and does not wait for them. A rule whose place has not come
// cannot be asked for.
func (w *modelWorld) backfill(n int) {
	w.t.Helper()
	t := w.tables[n]
	if t.era <= 0 {
		return
	}
	w.daemon.WaitReady()
	args := []string{"backfill", t.event(n), "--json", "-c", "CONFIG"}
	if w.rng.IntN(2) == 0 { // chunks of so few rows that much happens between them
		args = append(args, "--rate", "20")
	}
	all := w.rng.IntN(3) > 0
	if !all {
		args = append(args, "--where", t.some(w.rng))
	}
	r := w.daemon.Command(args...)
	if r.Code != 0 {
		w.did("refused backfill", r.Stderr)
		return
	}
	job := w.job(r)
	if all {
		t.filled = job.ID
	}
	w.did("backfill", fmt.Sprintf("%d: %q", job.ID, args))
}

func (w *modelWorld) job(r harness.Result) (b api.Backfill) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), &b); err != nil || r.Code != 0 {
		w.t.Fatalf("backfill: exit %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	return b
}

// resync reads the rows of which the events so far cannot tell all.
func (w *modelWorld) resync() {
	w.t.Helper()
	for n, t := range w.tables {
		if t.era <= 0 || t.strict && !t.stale {
			continue
		}
		if t.filled > 0 {
			w.job(w.daemon.Command("backfill", "show", fmt.Sprint(t.filled), "--wait", "--json", "-c", "CONFIG"))
			continue
		}
		harness.Eventually(w.t, harness.Patience, func() error { // the last reload's place may be to come
			if r := w.daemon.Command("backfill", t.event(n), "--wait", "-c", "CONFIG"); r.Code != 0 {
				return fmt.Errorf("backfill of table %d: exit %d\n%s%s", n, r.Code, r.Stdout, r.Stderr)
			}
			return nil
		})
	}
}

// readSome reads the rows for which a condition holds, while nothing changes them.
func (w *modelWorld) readSome(db *pgx.Conn) {
	w.t.Helper()
	n := w.rng.IntN(len(w.tables))
	t := w.tables[n]
	if t.era <= 0 {
		return
	}
	where, want := t.some(w.rng), int64(0)
	if err := db.QueryRow(w.t.Context(), "SELECT count(*) FROM "+t.sql()+" WHERE "+where).Scan(&want); err != nil {
		w.t.Fatal(err)
	}
	got := w.job(w.daemon.Command("backfill", t.event(n), "--where", where, "--wait", "--json", "-c", "CONFIG"))
	if got.Rows != want || got.Events != want {
		w.t.Errorf("table %d where %s: %d rows read, %d events, want %d", n, where, got.Rows, got.Events, want)
	}
}

// finish waits until everything has arrived, and compares.
func (w *modelWorld) finish() {
	w.t.Helper()
	w.endPrepared()
	w.asked.Wait()
	w.daemon.WaitReady()
	w.resync()
	db := w.connect()
	defer db.Close(context.Background())
	if _, err := db.Exec(w.t.Context(), "SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = hex", pgx.QueryExecModeSimpleProtocol); err != nil {
		w.t.Fatal(err)
	}
	w.readSome(db)
	harness.Eventually(w.t, harness.Patience, func() error {
		for n, t := range w.tables {
			if t.era <= 0 {
				continue
			}
			if err := w.mirror.compare(w.t.Context(), db, n, t); err != nil {
				return err
			}
		}
		return nil
	})
	if strings.Contains(w.daemon.Log(), "a rule failed on a change") {
		w.t.Error("a rule failed on a change: see the log")
	}
	w.mirror.mu.Lock()
	defer w.mirror.mu.Unlock()
	for i, text := range w.mirror.wrong {
		if i == 20 {
			w.t.Errorf("and %d more", len(w.mirror.wrong)-i)
			break
		}
		w.t.Error(text)
	}
	w.t.Logf("%d transactions committed (%d rows of COPY), %d refused, %d events (%d read by backfills), %v", w.commits.Load(), w.copied.Load(), w.refused.Load(), w.mirror.events, w.mirror.reads, w.done)
}
