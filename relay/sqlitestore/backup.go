package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Backup writes a copy of the database as of one moment to the path while the
// store is in use. It refuses a path at which something exists. The copy
// appears under its name only when it is whole and durable; in a folder of its
// own, named rowhook.db, it opens with Open. Until it is done the -wal file of
// the store grows with what is written meanwhile.
func (s *Store) Backup(ctx context.Context, path string) error {
	if err := s.backup(ctx, path); err != nil {
		return fmt.Errorf("back up to %s: %w", path, s.classify(err))
	}
	return nil
}

func (s *Store) backup(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return err
	}
	dir := filepath.Dir(path)
	room, err := os.MkdirTemp(dir, ".rowhook-backup-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(room)
	part := filepath.Join(room, FileName)
	// A connection of its own: those that read refuse whatever writes.
	db, err := sql.Open("sqlite", dsn(s.path, nil))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", part); err != nil {
		return err
	}
	// VACUUM INTO does not call fsync.
	f, err := os.OpenFile(part, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = errors.Join(f.Chmod(0o600), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	// A link, unlike a rename, never replaces what has come to be at the path.
	if err := os.Link(part, path); err != nil {
		return err
	}
	return syncFolder(dir)
}
