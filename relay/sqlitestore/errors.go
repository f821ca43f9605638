package sqlitestore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/rowhook/rowhook/relay"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

var (
	errClosed = errors.New("store is closed")
	// errBroken marks an error after which the transaction cannot go on.
	errBroken = errors.New("transaction is broken")
)

// code returns SQLite's extended result code, or 0 for other errors.
func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return 0
}

// ordinary reports whether the error is about the operation alone, so that
// rolling back to its savepoint leaves a transaction in which others can go on.
// After the rest SQLite may have rolled back the whole transaction by itself.
func ordinary(err error) bool {
	if errors.Is(err, errBroken) {
		return false
	}
	switch code(err) & 0xff {
	case 0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_TOOBIG:
		return true
	}
	return false
}

// classify makes an error for want of space one that wraps relay.ErrStoreFull.
func (s *Store) classify(err error) error {
	if err == nil || errors.Is(err, relay.ErrStoreFull) {
		return err
	}
	c := code(err)
	switch {
	case c&0xff == sqlite3.SQLITE_FULL,
		c&0xff == sqlite3.SQLITE_IOERR && s.noSpace():
		return fmt.Errorf("%w: %w", relay.ErrStoreFull, err)
	}
	return err
}

// noSpace reports whether a write may just have failed for want of space that
// SQLite sees only as an I/O error: it knows a full disk, but neither a quota
// nor a limit on the size of files.
func (s *Store) noSpace() bool {
	const little = 256 << 10
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_FSIZE, &lim) == nil && int64(lim.Cur) >= 0 {
		for _, name := range []string{s.path, s.path + "-wal"} {
			if fileSize(name)+little > int64(lim.Cur) {
				return true
			}
		}
	}
	f, err := os.CreateTemp(s.dir, "space-*.probe")
	if err == nil {
		_, err = f.Write(make([]byte, little))
		f.Close()
		os.Remove(f.Name())
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// remedy says what to do about a store that does not open.
func remedy(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "; the folder has to belong to the user that runs the daemon: be that user, or name another one with rowhook { data_dir }"
	case errors.Is(err, relay.ErrStoreVersion):
		return "; run that one, or bring back a backup made before it"
	case code(err)&0xff == sqlite3.SQLITE_NOTADB:
		return "; bring back a backup, or move the file away and begin anew, without what was not delivered"
	}
	return ""
}
