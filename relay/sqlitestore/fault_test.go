package sqlitestore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// appendUntil appends blocks until an append fails and returns the last place
// that was stored and the error.
func appendUntil(t *testing.T, s *store, first int64) (int64, error) {
	t.Helper()
	for last := first - 1; last < first+200_000; {
		b := blockOf("shop", last+1, 200)
		if err := s.Append(t.Context(), &relay.Append{Stream: "shop", Blocks: []*relay.Block{b}, Head: b.Last, Tail: b.Last, Source: sourceAt(b.Last)}); err != nil {
			return last, err
		}
		last = b.Last
	}
	t.Fatal("no append failed")
	return 0, nil
}

// holds checks that the log ends at the place, with the source's state.
func holds(t *testing.T, s *store, last int64) {
	t.Helper()
	st, err := s.Stream(t.Context(), "shop")
	check(t, err)
	src, err := s.SourceState(t.Context(), "shop")
	check(t, err)
	if st.Head != last || st.Tail != last || int64(src.LSN) != last {
		t.Fatalf("stream %+v and checkpoint %d, want %d", st, src.LSN, last)
	}
}

// With max_page_count reached an append fails as a whole, what needs little
// space still fits, and after trimming appends succeed without anybody's help.
func TestStore_FullRecoversWhenThereIsSpace(t *testing.T) {
	s := openStore(t, sqlitestore.Options{MaxPages: 400})
	last, err := appendUntil(t, s, 1)
	if !errors.Is(err, relay.ErrStoreFull) {
		t.Fatalf("full: %v", err)
	}
	holds(t, s, last)
	freed, err := s.Trim(t.Context(), relay.RetentionLimits{MaxBytes: 200_000}, map[string]int64{"shop": last})
	check(t, err)
	size, err := s.Size(t.Context())
	check(t, err)
	if freed < 500_000 || size > 200_000 || size == 0 {
		t.Fatalf("%d bytes freed, %d left", freed, size)
	}
	again, err := appendUntil(t, s, last+1)
	if again < last+1000 || !errors.Is(err, relay.ErrStoreFull) {
		t.Fatalf("after trimming the log grew from %d to %d: %v", last, again, err)
	}
	holds(t, s, again)
	s.Reopen(t)
	holds(t, s, again)
}

// A limit on file sizes shows as an I/O error of SQLite, and as a full store
// to callers.
func TestStore_FileSizeLimitIsFull(t *testing.T) {
	s := openStore(t, sqlitestore.Options{})
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var old syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old))
	limit := old
	limit.Cur = 1 << 20
	check(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	last, err := appendUntil(t, s, 1)
	check(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old))
	if !errors.Is(err, relay.ErrStoreFull) {
		t.Fatalf("at the limit: %v", err)
	}
	holds(t, s, last)
	b := blockOf("shop", last+1, 2000)
	check(t, s.Append(t.Context(), &relay.Append{Stream: "shop", Blocks: []*relay.Block{b}, Head: b.Last, Tail: b.Last, Source: sourceAt(b.Last)}))
	s.Reopen(t)
	holds(t, s, b.Last)
}

// Operations that share a commit do not share their failures: neither one that
// is refused, nor one that does not fit and with which SQLite gives up the
// transaction of all.
func TestStore_OneBadOperationLeavesTheOthers(t *testing.T) {
	t.Run("refused", func(t *testing.T) { testBadOperations(t, false) })
	t.Run("too large", func(t *testing.T) { testBadOperations(t, true) })
}

func testBadOperations(t *testing.T, tooLarge bool) {
	s := openStore(t, sqlitestore.Options{MaxPages: 300})
	queued := make(chan struct{})
	held := make(chan struct{})
	var once sync.Once
	var commits atomic.Int32
	s.Inject(func(step string) error {
		switch step {
		case "begin": // the first transaction waits until the rest is queued
			once.Do(func() { close(held); <-queued })
		case "commit":
			commits.Add(1)
		}
		return nil
	})
	var wg sync.WaitGroup
	operations := 0
	run := func(want bool, f func() error) {
		operations++
		wg.Go(func() {
			if err := f(); (err == nil) != want {
				t.Errorf("stored: %v, want %v: %v", err == nil, want, err)
			}
		})
	}
	appendTo := func(stream string, n int, src *relay.SourceState) func() error {
		return func() error {
			b := blockOf(stream, 1, n)
			return s.Append(context.Background(), &relay.Append{Stream: stream, Blocks: []*relay.Block{b}, Head: b.Last, Tail: b.Last, Source: src})
		}
	}
	run(true, func() error { return s.PutSetting(context.Background(), "first", "1") })
	<-held
	operations = 0
	for i := range 5 {
		run(true, func() error { return s.PutSetting(context.Background(), fmt.Sprint(i), "x") })
		run(false, func() error {
			return s.PutEndpoint(context.Background(), &relay.EndpointRow{ID: "bad", Status: "unheard of"})
		})
		// Refused when its blocks are already written.
		run(false, appendTo("bad", 100, &relay.SourceState{Source: "bad"}))
		if tooLarge {
			run(false, appendTo("large", 10_000, nil))
		}
	}
	run(true, appendTo("good", 10, nil))
	for s.Queued() < operations {
		runtime.Gosched()
	}
	close(queued)
	wg.Wait()
	if n := commits.Load(); !tooLarge && n != 2 {
		t.Errorf("%d commits, want one for the first and one for all others", n)
	}
	for i := range 5 {
		if _, ok, err := s.Setting(t.Context(), fmt.Sprint(i)); !ok || err != nil {
			t.Errorf("setting %d: %v, %v", i, ok, err)
		}
	}
	for _, stream := range []string{"large", "bad"} {
		if st, err := s.Stream(t.Context(), stream); err != nil || st != (relay.StreamState{}) {
			t.Errorf("stream %s: %+v, %v", stream, st, err)
		}
	}
	want := int64(len(blockOf("good", 1, 10).Data))
	for range 2 {
		if n, err := s.Size(t.Context()); n != want || err != nil {
			t.Errorf("size %d, want %d: %v", n, want, err)
		}
		s.Reopen(t)
	}
}

// A caller that gives up while its operation waits takes it back.
func TestStore_GivesBackWhatWaits(t *testing.T) {
	s := openStore(t, sqlitestore.Options{})
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.Inject(func(step string) error {
		once.Do(func() { close(held); <-release })
		return nil
	})
	done := make(chan error, 1)
	go func() { done <- s.PutSetting(context.Background(), "first", "1") }()
	<-held
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.PutSetting(ctx, "second", "2"); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	close(release)
	check(t, <-done)
	check(t, s.PutSetting(t.Context(), "third", "3"))
	if _, ok, err := s.Setting(t.Context(), "second"); ok || err != nil {
		t.Errorf("what was taken back is stored: %v, %v", ok, err)
	}
}

func TestOpen_SecondProcessLearnsWhoHoldsTheFolder(t *testing.T) {
	s := openStore(t, sqlitestore.Options{})
	_, err := sqlitestore.Open(t.Context(), sqlitestore.Options{Dir: s.options.Dir})
	host, _ := os.Hostname()
	if !errors.Is(err, relay.ErrStoreLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d on host %s since 2", os.Getpid(), host)) {
		t.Fatalf("second: %v", err)
	}
	check(t, s.PutSetting(t.Context(), "still", "works"))
}

func TestOpen_RefusesWhatIsNotItsStore(t *testing.T) {
	for name, c := range map[string]struct {
		sql  string
		is   error
		says string
	}{
		"newer":   {"PRAGMA user_version = 99", relay.ErrStoreVersion, "version 99, made by a newer rowhook; this one knows versions up to "},
		"foreign": {"PRAGMA application_id = 7", nil, "not a store of rowhook"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := sqlitestore.Open(t.Context(), sqlitestore.Options{Dir: dir})
			check(t, err)
			check(t, s.Close())
			version := raw(t, filepath.Join(dir, sqlitestore.FileName), "PRAGMA user_version")
			raw(t, filepath.Join(dir, sqlitestore.FileName), c.sql)
			_, err = sqlitestore.Open(t.Context(), sqlitestore.Options{Dir: dir})
			if err == nil || (c.is != nil && !errors.Is(err, c.is)) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("opened: %v", err)
			}
			// The refusal let go of the folder.
			raw(t, filepath.Join(dir, sqlitestore.FileName), "PRAGMA user_version = "+version+"; PRAGMA application_id = 0x526f7768")
			s, err = sqlitestore.Open(t.Context(), sqlitestore.Options{Dir: dir})
			check(t, err)
			check(t, s.Close())
		})
	}
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, sqlitestore.FileName), []byte(strings.Repeat("not a database. ", 100)), 0o600))
	if _, err := sqlitestore.Open(t.Context(), sqlitestore.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "bring back a backup, or move the file away") {
		t.Errorf("opened a text file: %v", err)
	}
}

// raw runs SQL on the file behind the store's back and returns the first
// value, if there is one.
func raw(t testing.TB, path, text string) (value string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	check(t, err)
	defer db.Close()
	if strings.HasPrefix(text, "PRAGMA user_version = ") || strings.Contains(text, "= ") {
		_, err = db.Exec(text)
	} else {
		err = db.QueryRow(text).Scan(&value)
	}
	check(t, err)
	return value
}

func TestOpen_ClosesTheFolderToOthers(t *testing.T) {
	for _, exists := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "a", "b")
		if exists {
			check(t, os.MkdirAll(dir, 0o755))
		}
		s := openStore(t, sqlitestore.Options{Dir: dir})
		check(t, s.PutSetting(t.Context(), "a", "b"))
		for _, name := range []string{"", sqlitestore.FileName, sqlitestore.FileName + "-wal", "rowhook.lock"} {
			info, err := os.Stat(filepath.Join(dir, name))
			check(t, err)
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%q has mode %v", name, info.Mode())
			}
		}
	}
}

func TestOpen_SetsWhatCannotBeSetLater(t *testing.T) {
	s := openStore(t, sqlitestore.Options{})
	check(t, s.PutSetting(t.Context(), "a", "b"))
	path := filepath.Join(s.options.Dir, sqlitestore.FileName)
	for pragma, want := range map[string]string{
		"auto_vacuum": "2", "journal_mode": "wal", "application_id": "1383036776", "user_version": fmt.Sprint(sqlitestore.SchemaVersion()), "integrity_check": "ok",
	} {
		if have := raw(t, path, "PRAGMA "+pragma); have != want {
			t.Errorf("%s is %s, want %s", pragma, have, want)
		}
	}
}

func TestStore_ClosedSaysSo(t *testing.T) {
	s, err := sqlitestore.Open(t.Context(), sqlitestore.Options{Dir: t.TempDir()})
	check(t, err)
	check(t, s.Close())
	check(t, s.Close())
	if err := s.PutSetting(t.Context(), "a", "b"); err == nil {
		t.Error("a closed store takes writes")
	}
}

// The -wal file stays bounded when there is always a reader that needs some of
// it, and begins anew in a file of its usual size when nothing is left to do.
func TestStore_WALStaysBounded(t *testing.T) {
	s := openStore(t, sqlitestore.Options{})
	path := filepath.Join(s.options.Dir, sqlitestore.FileName)
	var commits atomic.Int64
	stop := readWithoutPause(t, path, &commits)
	last, largest := int64(0), int64(0)
	for range 60 {
		a := &relay.Append{Stream: "shop"}
		for range 16 {
			b := blockOf("shop", last+1, 200)
			last = b.Last
			a.Blocks = append(a.Blocks, b)
		}
		a.Head, a.Tail = last, last
		check(t, s.Append(t.Context(), a))
		commits.Add(1)
		info, err := os.Stat(path + "-wal")
		check(t, err)
		largest = max(largest, info.Size())
	}
	stop()
	if size, _ := s.Size(t.Context()); largest > size*3/4 {
		t.Errorf("the -wal grew to %d bytes while %d were stored", largest, size)
	}
	defer s.Idle()()
	db, err := sql.Open("sqlite", path)
	check(t, err)
	defer db.Close()
	var busy, frames, moved int64
	check(t, db.QueryRow("PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &frames, &moved))
	if busy != 0 || frames != moved {
		t.Errorf("%d of %d pages of the -wal of an idle store are in the database, busy %d", moved, frames, busy)
	}
}

// readWithoutPause reads until it is stopped, so that a read transaction begins
// before the one before it ends and lasts for two commits, or for some time
// when there are none.
func readWithoutPause(t *testing.T, path string, commits *atomic.Int64) (stop func()) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	look := func(tx *sql.Tx) {
		var n int
		if err := tx.QueryRow("SELECT count(*) FROM streams").Scan(&n); err != nil {
			t.Error(err)
		}
	}
	begin := func() *sql.Tx {
		tx, err := db.Begin()
		if err != nil {
			t.Error(err)
			return nil
		}
		look(tx)
		return tx
	}
	var wg sync.WaitGroup
	before := begin()
	wg.Go(func() {
		for ctx.Err() == nil && before != nil {
			seen := commits.Load()
			for n := 0; n < 500 && commits.Load() < seen+2; n++ {
				look(before)
			}
			next := begin()
			_ = before.Rollback()
			before = next
		}
	})
	return func() {
		cancel()
		wg.Wait()
		if before != nil {
			_ = before.Rollback()
		}
		check(t, db.Close())
	}
}
