package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
)

// captured is a handler that writes down what it is given, one line a call, and
// calls everything durable at once unless it is told not to.
type captured struct {
	mu      sync.Mutex
	lines   []string
	ids     map[string]int // of changes, to see that they are unique
	durable relay.LSN
	idle    relay.LSN
	hold    bool // durable does not move
	full    chan struct{}
	changed chan struct{} // capacity 1, poked at every call
	last    *relay.Relation
	rels    int // pointers seen
	seen    func(*relay.Change)
}

func newCaptured(start relay.LSN) *captured {
	return &captured{durable: start, ids: map[string]int{}, changed: make(chan struct{}, 1)}
}

func (c *captured) poke() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *captured) note(format string, args ...any) {
	c.lines = append(c.lines, fmt.Sprintf(format, args...))
	c.poke()
}

func (c *captured) Begin(tx *relay.Tx) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note("begin")
	return nil
}

func (c *captured) Change(ch *relay.Change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := fmt.Sprintf("%s/%s/%d", ch.Op, ch.LSN, ch.Ordinal)
	if ch.Tx != nil {
		id += fmt.Sprintf("/%s/%d", ch.Tx.CommitLSN, ch.Tx.XID)
	}
	c.ids[id]++
	if c.seen != nil {
		c.seen(ch)
	}
	if ch.Relation != nil && ch.Relation != c.last {
		c.last = ch.Relation
		c.rels++
	}
	switch ch.Op {
	case relay.Message, relay.Notify:
		context := ""
		if ch.Tx != nil {
			context = " tx " + string(ch.Tx.Context)
		}
		c.note("message %s %s%s", ch.Name, ch.Payload, context)
	default:
		line := fmt.Sprintf("%s %s", ch.Op, ch.Relation.Table())
		if ch.Old != nil {
			line += " old" + show(ch.Relation, ch.Old)
		}
		if ch.New != nil {
			line += " new" + show(ch.Relation, ch.New)
		}
		var key []string
		for _, i := range ch.Relation.PrimaryKey {
			key = append(key, ch.Relation.Columns[i].Name)
		}
		if len(key) > 0 {
			line += " key(" + strings.Join(key, ",") + ")"
		}
		if ch.Ordinal > 0 {
			line += fmt.Sprintf(" #%d", ch.Ordinal)
		}
		c.note("%s", line)
	}
	return nil
}

func show(rel *relay.Relation, row relay.Row) string {
	var b strings.Builder
	for i, v := range row {
		fmt.Fprintf(&b, " %s=", rel.Columns[i].Name)
		switch v.State {
		case relay.Unknown:
			b.WriteString("?")
		case relay.Null:
			b.WriteString("NULL")
		case relay.Known:
			text := v.Text
			if len(text) > 40 {
				text = fmt.Appendf(nil, "%s..%d", text[:4], len(text))
			}
			b.Write(text)
		}
	}
	return b.String()
}

func (c *captured) Commit(tx *relay.Tx, end relay.LSN) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hold {
		c.durable = end
	}
	c.note("commit")
	return nil
}

func (c *captured) Idle(lsn relay.LSN) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = lsn
	if !c.hold {
		c.durable = max(c.durable, lsn)
	}
	c.poke()
	return nil
}

func (c *captured) Durable() relay.LSN {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.durable
}

func (c *captured) Waits() string { return "the test goes on" }

func (c *captured) Full() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full == nil {
		return nil
	}
	return c.full
}

// wait returns when done says so.
func (c *captured) wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for {
		c.mu.Lock()
		ok := done()
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-c.changed:
		case <-late.C:
			c.mu.Lock()
			defer c.mu.Unlock()
			t.Fatalf("no %s in time; seen:\n%s", what, strings.Join(c.lines, "\n"))
		}
	}
}

// source is a database with a publication and a slot, and a stream that reads
// it.
type source struct {
	t      *testing.T
	db     *pgx.Conn
	url    relay.Secret
	name   string
	start  relay.LSN
	log    bytes.Buffer
	stream cdc.Stream
	got    *captured
	cancel context.CancelFunc
	done   chan error
	marks  int
}

// newSource runs schema in a new database and makes publication and slot for
// the tables.
func newSource(t *testing.T, cluster *postgres.Cluster, name, schema string, tables ...string) *source {
	t.Helper()
	return sourceIn(t, cluster, cluster.Database(t, name), name, schema, tables...)
}

// sourceIn is newSource in a database that is there.
func sourceIn(t *testing.T, cluster *postgres.Cluster, database, name, schema string, tables ...string) *source {
	t.Helper()
	url := relay.NewSecret(database)
	s := &source{t: t, url: url, name: name}
	conn, err := cluster.Conn(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	s.db = conn
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	s.exec(schema)
	ops := relay.OpsOf(relay.Insert, relay.Update, relay.Delete, relay.Truncate)
	if _, err := cdc.EnsurePublication(t.Context(), url, "Pub,"+name, whole(ops, tables...)); err != nil {
		t.Fatal(err)
	}
	if s.start, err = cdc.CreateSlot(t.Context(), url, name, cdc.SlotOptions{}); err != nil {
		t.Fatal(err)
	}
	s.stream = cdc.Stream{
		Source: name, URL: url, Slot: name, Publication: "Pub," + name,
		Log: slog.New(slog.NewTextHandler(&s.log, nil)),
	}
	s.got = newCaptured(s.start)
	return s
}

func (s *source) exec(sql string) {
	s.t.Helper()
	if _, err := s.db.PgConn().Exec(s.t.Context(), sql).ReadAll(); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// query returns one value as text.
func (s *source) query(sql string, args ...any) string {
	s.t.Helper()
	var v *string
	if err := s.db.QueryRow(s.t.Context(), sql, args...).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	if v == nil {
		return ""
	}
	return *v
}

// run starts the stream at the durable position; stop or end ends it.
func (s *source) run() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan error, 1)
	go func(done chan<- error) { done <- s.stream.Run(ctx, s.got.Durable(), s.got) }(s.done)
	s.t.Cleanup(cancel)
}

func (s *source) stop() {
	s.t.Helper()
	s.cancel()
	if err := s.end(); err != nil {
		s.t.Fatalf("stream: %v", err)
	}
}

// end waits for the stream to end by itself.
func (s *source) end() error {
	s.t.Helper()
	select {
	case err := <-s.done:
		return err
	case <-time.After(90 * time.Second):
		s.t.Fatalf("the stream does not end:\n%s", s.log.String())
		return nil
	}
}

// settle waits until everything committed so far has been received, and
// returns what was since the last time, without the marks.
func (s *source) settle() []string {
	s.t.Helper()
	s.marks++
	mark := fmt.Sprintf("message mark %d", s.marks)
	s.exec(fmt.Sprintf("SELECT pg_logical_emit_message(false, 'mark', '%d')", s.marks))
	s.got.wait(s.t, mark, func() bool { return len(s.got.lines) > 0 && s.got.lines[len(s.got.lines)-1] == mark })
	s.got.mu.Lock()
	defer s.got.mu.Unlock()
	var lines []string
	for _, line := range s.got.lines {
		if !strings.HasPrefix(line, "message mark ") { // also of a stream before this one
			lines = append(lines, line)
		}
	}
	s.got.lines = nil
	return lines
}

// expect settles and compares with the wanted lines. A transaction without
// anything in it (14 sends those) is left out.
func (s *source) expect(want ...string) {
	s.t.Helper()
	got := strings.Join(s.settle(), "\n")
	got = strings.TrimSuffix(strings.ReplaceAll(got+"\n", "begin\ncommit\n", ""), "\n")
	if w := strings.Join(want, "\n"); got != w {
		s.t.Errorf("got:\n%s\nwant:\n%s", got, w)
	}
}
