package sqlitestore

import (
	"context"
	"database/sql"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// checkpointEvery is how often what was committed is moved from the -wal into
// the database.
const checkpointEvery = 500 * time.Millisecond

// frameHeader is what a page in the -wal has before it, in bytes.
const frameHeader = 24

// makeRoom gives the -wal file its size, with zeros, which SQLite takes for the
// end of the log. Commits then overwrite what the file has, which makes the
// slowest one in a hundred about a third faster. A disk without the space does
// without.
func makeRoom(path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return
	}
	zeros := make([]byte, 1<<20)
	for at := info.Size(); at < walLimit; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros, at); err != nil {
			_ = f.Truncate(info.Size())
			return
		}
	}
	_ = f.Sync()
}

// checkpointer moves pages from the -wal into the database on a connection of
// its own. A passive checkpoint waits for nobody and nobody waits for it, so
// that no commit pays for it: when the writer did it, one commit in a few
// hundred took many times as long as the others.
type checkpointer struct {
	store *Store
	db    *sql.DB
	dirty atomic.Bool // something was committed since the last checkpoint
	// used is how many bytes of the -wal are in use, as of the last checkpoint.
	used atomic.Int64
	quit chan struct{}
	mu   sync.Mutex // held by a checkpoint, here or of the writer
	done sync.WaitGroup
}

func newCheckpointer(s *Store) (*checkpointer, error) {
	db, err := sql.Open("sqlite", checkpointDSN(s.path))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	db.SetConnMaxIdleTime(time.Minute)
	c := &checkpointer{store: s, db: db, quit: make(chan struct{})}
	c.done.Go(c.run)
	return c, nil
}

func (c *checkpointer) run() {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.quit:
			return
		}
		if !c.dirty.Swap(false) {
			continue
		}
		// A failure does no harm: the -wal holds everything, and the next
		// checkpoint tries again.
		c.mu.Lock()
		var busy, frames, moved int64
		err := c.db.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &frames, &moved)
		if err == nil {
			c.used.Store(frames * (pageSize + frameHeader))
		}
		c.mu.Unlock()
		if err != nil {
			c.store.log.Debug("checkpoint of the store", "err", err)
		}
	}
}

func (c *checkpointer) close() error {
	close(c.quit)
	c.done.Wait()
	return c.db.Close()
}
