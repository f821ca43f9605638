package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// FileName is the name of the database in the data folder.
const FileName = "rowhook.db"

// readers is how many reads run at once.
const readers = 4

// Options say where the store is. Only Dir is required.
type Options struct {
	// Dir is the data folder. It is made when it does not exist.
	Dir string
	// Logger hears what retention removed and that the store was reopened; nil
	// is silence.
	Logger *slog.Logger
	// MaxPages bounds the database to this many pages of 4 KiB; 0 is no bound.
	// Beyond it calls fail with relay.ErrStoreFull.
	MaxPages int64
	// Now is the clock of retention; nil is time.Now.
	Now func() time.Time
	// Hook, in tests, judges every step of the writer: "begin", the name of each
	// operation ("append", "settle", "source", ...), "commit", and "committed",
	// whose failure makes the result of a commit that happened unknown. It is
	// called by the writer's goroutine.
	Hook func(step string) error
}

// Store implements relay.Log, relay.Ledger and relay.Queries. Its methods may
// be called from any goroutine.
type Store struct {
	dir, path   string
	log         *slog.Logger
	now         func() time.Time
	lock        *os.File
	read        *sql.DB
	blocks      *sql.Stmt // of read, the one query that runs all the time
	checkpoints *checkpointer
	writer      *writer
	size        atomic.Int64 // bytes of block data, as of the last commit; -1 is unknown
}

// Open takes the lock of the data folder, brings the database to the newest
// form and starts the writer. Its errors wrap relay.ErrStoreLocked,
// relay.ErrStoreVersion and relay.ErrStoreFull where they apply.
func Open(ctx context.Context, o Options) (*Store, error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open store in %s: %w%s", o.Dir, err, remedy(err))
	}
	return s, nil
}

func open(ctx context.Context, o Options) (_ *Store, err error) {
	if o.Dir == "" {
		return nil, errors.New("no data folder is named")
	}
	s := &Store{dir: o.Dir, path: filepath.Join(o.Dir, FileName), log: o.Logger, now: o.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.makeFolder(); err != nil {
		return nil, err
	}
	if s.lock, err = lockFolder(s.dir, s.now()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.lock.Close()
		}
	}()
	if err := s.makeFile(); err != nil {
		return nil, err
	}
	c, err := openConn(s.path, o.MaxPages)
	if err != nil {
		return nil, s.classify(err)
	}
	if err := migrate(ctx, c); err != nil {
		_ = c.close()
		return nil, s.classify(err)
	}
	makeRoom(s.path + "-wal")
	if s.read, err = sql.Open("sqlite", readerDSN(s.path)); err != nil {
		_ = c.close()
		return nil, err
	}
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	s.read.SetConnMaxIdleTime(time.Minute)
	s.writer = newWriter(s, c, o)
	if err = s.writer.loadSize(); err == nil {
		s.blocks, err = s.read.PrepareContext(ctx, sqlBlocks)
	}
	if err != nil {
		_ = c.close()
		s.read.Close()
		return nil, s.classify(err)
	}
	s.size.Store(s.writer.size)
	if s.checkpoints, err = newCheckpointer(s); err != nil {
		_ = c.close()
		s.read.Close()
		return nil, s.classify(err)
	}
	go s.writer.run()
	return s, nil
}

// makeFolder makes the data folder, open to nobody else. A folder of others'
// making that cannot be closed to them (a mounted volume) is used as it is: the
// files in it are closed.
func (s *Store) makeFolder() error {
	made := false
	info, err := os.Stat(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return err
		}
		made = true
		info, err = os.Stat(s.dir)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", s.dir)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		if err := os.Chmod(s.dir, 0o700); err != nil {
			s.log.Warn("data folder is open to others", "dir", s.dir, "mode", mode.String(), "err", err)
		}
	}
	if made {
		return syncFolder(filepath.Dir(s.dir))
	}
	return nil
}

// makeFile makes an empty database file that only the owner may read, and
// makes its name durable, which SQLite does only for the files beside it.
func (s *Store) makeFile() error {
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	return syncFolder(s.dir)
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func fileSize(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// Close ends the store when every operation that was handed to it is done, and
// lets go of the data folder.
func (s *Store) Close() error {
	if !s.writer.stop() {
		return nil
	}
	err := errors.Join(s.checkpoints.close(), s.read.Close())
	// The last connection to close moves what is left in the -wal into the
	// database.
	if s.writer.conn != nil {
		err = errors.Join(err, s.writer.conn.close())
	}
	return errors.Join(err, s.lock.Close())
}

// Size returns the bytes of block data. It costs nothing but after a commit of
// which the result is unknown.
func (s *Store) Size(ctx context.Context) (int64, error) {
	if n := s.size.Load(); n >= 0 {
		return n, nil
	}
	var n int64
	if err := s.read.QueryRowContext(ctx, sqlSize).Scan(&n); err != nil {
		return 0, fmt.Errorf("read size of the log: %w", err)
	}
	return n, nil
}
