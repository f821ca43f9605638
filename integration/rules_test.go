package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
)

// workbench is a folder in which somebody works on rules, with rowhook beside.
type workbench struct {
	t   *testing.T
	dir string
	env []string
}

// command returns a rowhook command in the folder.
func (w *workbench) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.t.Context(), harness.Binary(w.t), args...)
	cmd.Dir, cmd.Env = w.dir, append(os.Environ(), w.env...)
	return cmd
}

// run runs a command that has to end with the exit code, and returns what it
// printed, errors last.
func (w *workbench) run(code int, args ...string) string {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := w.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code {
		w.t.Fatalf("rowhook %s ended with %d, want %d:\n%s%s", strings.Join(args, " "), got, code, stdout.String(), stderr.String())
	}
	return stdout.String() + stderr.String()
}

// background starts a command and returns its output, which may be read while
// it grows.
func (w *workbench) background(args ...string) (*exec.Cmd, func() string) {
	w.t.Helper()
	out, err := os.CreateTemp(w.t.TempDir(), "output")
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := w.command(args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = out.Close()
	})
	return cmd, func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			w.t.Fatal(err)
		}
		return string(text)
	}
}

func (w *workbench) file(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func waitFor(t *testing.T, output func() string, what string) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error {
		if text := output(); !strings.Contains(text, what) {
			return fmt.Errorf("%q is not in:\n%s", what, text)
		}
		return nil
	})
}

const libraryTables = `
CREATE TYPE format AS ENUM ('paper', 'e-book');
CREATE SCHEMA "Back Office";
CREATE TABLE books (
  id bigint PRIMARY KEY, title text NOT NULL, format format NOT NULL DEFAULT 'paper', price numeric(10,2), tags text[],
  status text NOT NULL DEFAULT 'in', meta jsonb, changed_at timestamptz NOT NULL DEFAULT '2026-01-31 09:30:00+00'
);
CREATE TABLE members (id uuid PRIMARY KEY, email text NOT NULL, password_hash text NOT NULL, "The-Name" text);
CREATE TABLE "Back Office"."Fines!" (id int PRIMARY KEY, cents int NOT NULL);
CREATE TABLE log (line text);
CREATE TABLE schema_migrations (version text PRIMARY KEY);
CREATE VIEW titles AS SELECT title FROM books;
CREATE UNLOGGED TABLE sessions (id int PRIMARY KEY);
CREATE TABLE parted (id int PRIMARY KEY, d date) PARTITION BY HASH (id);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 1, REMAINDER 0);
`

// TestRules_FromASchemaToTestsAndEvents is the first hour of somebody new: init,
// check, record, test and run, with a database of some variety.
func TestRules_FromASchemaToTestsAndEvents(t *testing.T) {
	cluster := postgres.New(t, postgres.Options{})
	url := cluster.Database(t, "library")
	sql := func(statements string) {
		t.Helper()
		if err := cluster.Exec(t.Context(), "library", statements); err != nil {
			t.Fatal(err)
		}
	}
	sql(libraryTables)
	w := &workbench{t: t, dir: t.TempDir(), env: []string{"DATABASE_URL=" + url}}

	said := w.run(0, "init", "--database", url)
	contains(t, "init", said, "wrote rowhook.hcl", "export WEBHOOK_SECRET=whsec_", "rowhook run")
	rules := w.file("rowhook.hcl")
	for _, has := range []string{
		`source "postgres" "library"`, `event "books.changed"`, `event "members.changed"`, `event "back_office.fines.changed"`,
		`table = "Back Office.Fines!"`, `event "parted.changed"`, `omit(row, "password_hash")`, "#   public.log",
	} {
		if !strings.Contains(rules, has) {
			t.Errorf("%s is not in the first rules:\n%s", has, rules)
		}
	}
	for _, lacks := range []string{"schema_migrations", "titles", "sessions", "parted_0", "row.password_hash", url} {
		if strings.Contains(rules, lacks) {
			t.Errorf("%s is in the first rules:\n%s", lacks, rules)
		}
	}
	contains(t, "a second init", w.run(1, "init"), "exists and is not overwritten")
	w.run(0, "fmt", "-check")
	contains(t, "plan", w.run(2, "plan"), "CREATE PUBLICATION")
	if said := w.run(0, "check", "--database", "--save-catalog", "catalog.json"); strings.Contains(said, "Warning") {
		t.Errorf("check warns of the first rules:\n%s", said)
	}

	// Record what an application does, with a daemon's slot nowhere near.
	record, output := w.background("record", "--changes", "8", "--output", "library.test.hcl", "--mask", "public.members.email")
	waitFor(t, output, "change something now")
	sql(`INSERT INTO books (id, title, price, tags, meta) VALUES (1, 'Dune ${x}', 12.50, '{a,"b \"c\""}', '{"pages": 412, "in": [1, null]}')`)
	sql(`BEGIN;
		SELECT pg_logical_emit_message(true, 'rowhook.context', '{"user": "ada"}');
		UPDATE books SET status = 'out' WHERE id = 1;
		UPDATE books SET id = 2 WHERE id = 1;
		INSERT INTO members VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'ada@example.com', 'secret-hash', 'Ada'),
			('b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'bob@example.com', 'secret-hash', NULL);
		COMMIT`)
	sql(`DELETE FROM books`)
	sql(`INSERT INTO "Back Office"."Fines!" VALUES (1, 250); INSERT INTO parted VALUES (1, '2026-01-31'), (2, NULL)`)
	if err := record.Wait(); err != nil {
		t.Fatalf("record: %v\n%s", err, output())
	}
	recorded := w.file("library.test.hcl")
	contains(t, "the recording", recorded, `user = "ada"`, `email`, `"masked-1"`, `"masked-2"`, `12.50`, `2026-01-31 09:30:00+00`, `$${x}`)
	for _, lacks := range []string{"ada@example.com", "secret-hash"} {
		if strings.Contains(recorded, lacks) {
			t.Errorf("the recording has %s:\n%s", lacks, recorded)
		}
	}
	contains(t, "record", output(), "masked: public.members.email, public.members.password_hash", "recorded 9 changes as 4 tests")
	nothingLeft(t, cluster, "library")

	// The same rules make the same of it without a server, with and without the
	// catalogue.
	w.run(0, "fmt", "-check")
	w.env = nil
	w.run(0, "test", "--min-coverage", "100")
	contains(t, "test with the catalogue", w.run(1, "test", "--catalog", "catalog.json"), `+   changed_at = "2026-01-31T09:30:00+00:00"`)
	w.run(0, "test", "--catalog", "catalog.json", "--update")
	w.run(0, "test", "--catalog", "catalog.json")

	// An interrupt writes what there is; kill -9 leaves no slot either.
	w.env = []string{"DATABASE_URL=" + url}
	record, output = w.background("record", "--output", "more.test.hcl", "--table", "public.members")
	waitFor(t, output, "change something now")
	sql(`INSERT INTO books (id, title) VALUES (3, 'not asked for'); DELETE FROM members WHERE "The-Name" = 'Ada'`)
	waitFor(t, output, "delete of public.members")
	if err := record.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := record.Wait(); err != nil {
		t.Fatalf("record after an interrupt: %v\n%s", err, output())
	}
	contains(t, "the second recording", w.file("more.test.hcl"), `delete "public.members"`)
	nothingLeft(t, cluster, "library")
	record, output = w.background("record")
	waitFor(t, output, "change something now")
	if err := record.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	conn, err := cluster.Conn(t.Context(), "library")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	noSlots(t, conn)
	recordsNotifications(t, w, conn)

	// The first file runs as it is.
	port := freePort(t)
	if err := os.WriteFile(filepath.Join(w.dir, "machine.hcl"), fmt.Appendf(nil, "rowhook {\n  listen = \"127.0.0.1:%d\"\n}\n", port), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon, output := w.background("run", "-c", "rowhook.hcl", "-c", "machine.hcl")
	waitFor(t, output, "streaming")
	sql(`UPDATE books SET status = 'lost' WHERE id = 3`)
	waitFor(t, output, `"type":"books.changed"`)
	if err := daemon.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("run: %v\n%s", err, output())
	}
}

// recordsNotifications records what is no row change, after a recording that was
// killed: its publication goes, and nothing of the new one stays.
func recordsNotifications(t *testing.T, w *workbench, conn *pgx.Conn) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error { // the server has noticed
		var held int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'`).Scan(&held)
		if err == nil && held > 0 {
			err = errors.New("the killed recording still holds its mark")
		}
		return err
	})
	left := func() (n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_publication WHERE pubname LIKE 'rowhook_record_%'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if left() != 1 {
		t.Fatalf("the killed recording left %d publications, and the test is about one", left())
	}
	notes := filepath.Join(w.dir, "notes")
	if err := os.Mkdir(notes, 0o700); err != nil {
		t.Fatal(err)
	}
	rules := `source "postgres" "library" {
  url = env("DATABASE_URL")
}
event "export" {
  channel = "exports"
  data    = { format = payload.format }
}
event "signup" {
  message           = "signup"
  non_transactional = true
  data              = payload
}
event "book" {
  table = "public.books"
  on    = ["insert"]
  data  = { id = new.id, by = tx.context.user }
}
`
	if err := os.WriteFile(filepath.Join(notes, "notes.hcl"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	record, output := w.background("record", "-c", "notes", "--changes", "5", "--output", "notes/notes.test.hcl")
	waitFor(t, output, "change something now")
	if n := left(); n != 1 {
		t.Errorf("%d publications of recordings while one records, which drops what was left", n)
	}
	for _, sql := range []string{
		`NOTIFY exports, '{"format": "csv"}'`,
		`NOTIFY others, 'nobody asked'`,
		`SELECT pg_logical_emit_message(false, 'signup', '{"id": 1}')`,
		`SELECT pg_logical_emit_message(true, 'rowhook.context', '{"user": "eve"}'), pg_logical_emit_message(true, 'signup', '{"id": 2}')`,
		`WITH c AS (SELECT pg_logical_emit_message(true, 'rowhook.context', '{"user": "bob"}')) INSERT INTO books (id, title) SELECT 77, 'x' FROM c`,
		`NOTIFY exports, '{"format": "pdf"}'`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := record.Wait(); err != nil {
		t.Fatalf("record: %v\n%s", err, output())
	}
	contains(t, "the recording", w.file("notes/notes.test.hcl"), `notify "exports"`, `format = "csv"`, `message "signup"`, "transactional = false", `insert "public.books"`)
	contains(t, "record", output(), "recorded 5 changes")
	w.run(0, "test", "-c", "notes")
	if n := left(); n != 0 {
		t.Errorf("%d publications of recordings are left", n)
	}
	if _, err := conn.Exec(t.Context(), `DELETE FROM books WHERE id = 77`); err != nil {
		t.Fatal(err)
	}
}

// freePort returns a loopback port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// nothingLeft fails when a recording has left a publication, or a slot that
// does not go with the session that the server is ending.
func nothingLeft(t *testing.T, cluster *postgres.Cluster, database string) {
	t.Helper()
	conn, err := cluster.Conn(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var publications int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_publication`).Scan(&publications); err != nil || publications > 0 {
		t.Errorf("the recording has left %d publications, %v", publications, err)
	}
	noSlots(t, conn)
}

func noSlots(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error {
		var slots int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_replication_slots`).Scan(&slots)
		if err == nil && slots > 0 {
			err = fmt.Errorf("%d slots are left", slots)
		}
		return err
	})
}
