package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rowhook/rowhook/relay"
)

const (
	// maxGroup bounds the operations that share a commit.
	maxGroup = 64
	// walLimit is the size of the -wal file: it is given that size at once, begins
	// anew when so much of it is in use, and is cut to it where it grew beyond.
	walLimit = 16 << 20
	// idleAfter is how long nothing is written before the -wal begins anew.
	idleAfter = 5 * time.Second
	// lookEvery is after how many commits the size of the -wal file is read.
	lookEvery = 16
)

// operation is a change of the store that somebody waits for.
type operation struct {
	step  string
	run   func(*writer) error
	taken atomic.Bool // by the writer, or by a caller that gave up
	done  chan error
}

// writer owns the connection that writes. Everything but do and stop belongs to
// its goroutine.
type writer struct {
	store *Store
	hook  func(step string) error
	max   int64
	queue chan *operation

	mu     sync.RWMutex // held for reading while an operation is queued
	closed bool
	ended  chan struct{}

	conn *conn // nil after a failure, until the next operation
	// What the transaction knows; forgotten when any part of it is undone.
	size    int64
	cursors map[relay.CursorID]int64
	streams map[string]*streamRow

	packed   []byte // room for a record of successes
	commits  int    // so far
	emptied  bool   // nothing was written since the -wal was emptied
	tryAfter time.Time
}

func newWriter(s *Store, c *conn, o Options) *writer {
	w := &writer{store: s, hook: o.Hook, max: o.MaxPages, conn: c, queue: make(chan *operation, maxGroup), ended: make(chan struct{})}
	w.forget()
	return w
}

func (w *writer) forget() {
	w.cursors = make(map[relay.CursorID]int64)
	w.streams = make(map[string]*streamRow)
}

const sqlSize = `SELECT coalesce(sum(bytes), 0) FROM streams`

func (w *writer) loadSize() error { return w.conn.row(sqlSize).Scan(&w.size) }

// do hands the operation to the writer and returns when it is durable or has
// failed. A caller whose context ends while the operation waits takes it back;
// afterwards it gets the result, so that what the operation refers to is its
// own again.
func (s *Store) do(ctx context.Context, step string, run func(*writer) error) error {
	w := s.writer
	o := &operation{step: step, run: run, done: make(chan error, 1)}
	w.mu.RLock()
	if w.closed {
		w.mu.RUnlock()
		return fmt.Errorf("%s: %w", step, errClosed)
	}
	select {
	case w.queue <- o:
		w.mu.RUnlock()
	case <-ctx.Done():
		w.mu.RUnlock()
		return ctx.Err()
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		if o.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		return <-o.done
	}
}

// stop waits until the queue is done. It reports false when it was called
// before.
func (w *writer) stop() bool {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return false
	}
	w.closed = true
	close(w.queue)
	w.mu.Unlock()
	<-w.ended
	return true
}

func (w *writer) run() {
	defer close(w.ended)
	idle := time.NewTimer(idleAfter)
	defer idle.Stop()
	group := make([]*operation, 0, maxGroup)
	for {
		select {
		case o, ok := <-w.queue:
			if !ok {
				return
			}
			group = append(group[:0], o)
			group = w.gather(group)
			w.perform(group)
			clear(group)
			w.store.checkpoints.dirty.Store(true)
			w.boundWAL()
			idle.Reset(idleAfter)
		case <-idle.C:
			w.emptyWAL()
		}
	}
}

// gather takes what waits. Operations whose caller gave up are dropped.
func (w *writer) gather(group []*operation) []*operation {
	for len(group) < maxGroup {
		select {
		case o, ok := <-w.queue:
			if ok {
				group = append(group, o)
				continue
			}
		default:
		}
		break
	}
	n := 0
	for _, o := range group {
		if o.taken.CompareAndSwap(false, true) {
			group[n] = o
			n++
		}
	}
	return group[:n]
}

// perform runs the operations in one transaction and answers them. When one of
// them breaks the transaction before the commit, nothing of it can have been
// stored, and each runs again by itself: what does not fit on the disk must not
// take down what does.
func (w *writer) perform(group []*operation) {
	if len(group) == 0 {
		return
	}
	errs := make([]error, len(group))
	broken := w.transact(group, errs)
	if broken && len(group) > 1 {
		for i := range group {
			w.transact(group[i:i+1], errs[i:i+1])
		}
	}
	for i, o := range group {
		err := errs[i]
		if err != nil {
			err = fmt.Errorf("%s: %w", o.step, w.store.classify(err))
		}
		o.done <- err
	}
}

// transact runs the group in one transaction and sets the error of each. It
// reports whether one of them broke the transaction of all before the commit
// was tried.
func (w *writer) transact(group []*operation, errs []error) (broken bool) {
	clear(errs)
	fail := func(err error) {
		w.undo()
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err
			}
		}
	}
	if err := w.begin(); err != nil {
		fail(err)
		return false
	}
	good := 0
	for i, o := range group {
		err := w.part(o, len(group) > 1)
		switch {
		case err == nil:
			good++
		case ordinary(err):
			errs[i] = err
		default:
			clear(errs)
			fail(err)
			return true
		}
	}
	if good == 0 {
		w.forget()
		if err := w.conn.script("ROLLBACK"); err != nil {
			w.undo()
		}
		if w.conn != nil && w.loadSize() != nil {
			w.undo()
		}
		return false
	}
	if err := w.judge("commit"); err != nil {
		fail(err)
		return false
	}
	if _, err := w.conn.exec("COMMIT"); err != nil {
		fail(err)
		return false
	}
	if err := w.judge("committed"); err != nil {
		fail(err)
		return false
	}
	w.emptied = false
	w.store.size.Store(w.size)
	return false
}

// begin opens the connection if need be and starts a transaction.
func (w *writer) begin() error {
	if w.conn == nil {
		c, err := openConn(w.store.path, w.max)
		if err != nil {
			return err
		}
		w.conn = c
		if err := w.loadSize(); err != nil {
			return err
		}
		w.store.size.Store(w.size)
		w.store.log.Info("store reopened")
	}
	if err := w.judge("begin"); err != nil {
		return err
	}
	_, err := w.conn.exec("BEGIN IMMEDIATE")
	return err
}

// part runs one operation, under a savepoint when it shares the transaction.
// Alone it needs none: the transaction is undone with it.
func (w *writer) part(o *operation, shared bool) error {
	if err := w.judge(o.step); err != nil {
		return err
	}
	if !shared {
		return o.run(w)
	}
	if _, err := w.conn.exec("SAVEPOINT part"); err != nil {
		return err
	}
	size := w.size
	err := o.run(w)
	if err == nil {
		_, err = w.conn.exec("RELEASE part")
		return err
	}
	if !ordinary(err) {
		return err
	}
	w.size = size
	w.forget()
	for _, back := range []string{"ROLLBACK TO part", "RELEASE part"} {
		if _, e := w.conn.exec(back); e != nil {
			return errors.Join(err, errBroken, e)
		}
	}
	return err
}

// undo gives up the connection, and with it whatever the transaction did.
func (w *writer) undo() {
	w.forget()
	if w.conn == nil {
		return
	}
	w.store.size.Store(-1)
	_ = w.conn.script("ROLLBACK") // fails where there is no transaction
	if err := w.conn.close(); err != nil {
		w.store.log.Warn("store connection closed badly", "err", err)
	}
	w.conn = nil
}

func (w *writer) judge(step string) error {
	if w.hook == nil {
		return nil
	}
	return w.hook(step)
}

// boundWAL keeps the -wal file bounded under a load that never lets SQLite
// start it anew: readers that overlap always leave one that needs it.
func (w *writer) boundWAL() {
	w.commits++
	if w.conn == nil {
		return
	}
	if w.store.checkpoints.used.Load() < walLimit && (w.commits%lookEvery != 0 || fileSize(w.store.path+"-wal") < 2*walLimit) {
		return
	}
	if now := time.Now(); now.After(w.tryAfter) {
		w.tryAfter = now.Add(time.Second)
		w.emptyWAL()
	}
}

// emptyWAL moves the -wal into the database and lets it begin anew, unless a
// reader needs it for longer than a moment. The file keeps its size: a commit
// that makes the file grow waits for the file system's journal as well. A failure does no harm: the next
// commit or the next quiet time tries again.
func (w *writer) emptyWAL() {
	if w.emptied || w.conn == nil {
		return
	}
	w.emptied = true
	w.store.checkpoints.mu.Lock()
	defer w.store.checkpoints.mu.Unlock()
	for _, text := range []string{
		"PRAGMA busy_timeout = 250",
		"PRAGMA wal_checkpoint(RESTART)",
		"PRAGMA busy_timeout = 5000",
		"PRAGMA shrink_memory",
	} {
		if err := w.conn.script(text); err != nil {
			w.store.log.Debug("checkpoint of the store", "err", err)
		}
	}
	w.store.checkpoints.used.Store(0)
}
