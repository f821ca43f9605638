package sqlitestore

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"time"
)

// checkpointEvery is how often what was committed is moved from the -wal into
// the database.
const checkpointEvery = 500 * time.Millisecond

// checkpointer moves pages from the -wal into the database on a connection of
// its own. A passive checkpoint waits for nobody and nobody waits for it, so
// that no commit pays for it: when the writer did it, one commit in a few
// hundred took many times as long as the others.
type checkpointer struct {
	store *Store
	db    *sql.DB
	dirty atomic.Bool // something was committed since the last checkpoint
	quit  chan struct{}
	mu    sync.Mutex // held by a checkpoint, here or of the writer
	done  sync.WaitGroup
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
		_, err := c.db.ExecContext(context.Background(), "PRAGMA wal_checkpoint(PASSIVE)")
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
