package cdc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/relay"
)

// Record reads changes from now on, for a while, through a publication and a
// slot of its own. The slot is temporary: it goes with the connection, however
// that ends, so nothing is left that could pin WAL. The publication is dropped
// when Run returns; one that a killed process left is dropped by the next Record
// of the database.
type Record struct {
	Source string
	URL    relay.Secret
	Want   Want
	// Channels are listened to as well. Their notifications come to the handler
	// between transactions.
	Channels []string
	// Ready is called when every change that commits from then on is recorded.
	Ready func()
}

// Run records until the context is done (nil), the handler returns an error or
// something breaks.
func (r *Record) Run(ctx context.Context, h Handler) (err error) {
	var random [4]byte
	_, _ = rand.Read(random[:]) // it does not fail
	name := recordPrefix + hex.EncodeToString(random[:])
	mark, err := r.mark(ctx, name)
	if err != nil {
		return ended(ctx, err)
	}
	defer disconnect(mark)
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		defer cancel()
		if derr := DropPublication(clean, r.URL, name); derr != nil {
			err = errors.Join(err, fmt.Errorf("the publication %s is left; the next recording drops it, or DROP PUBLICATION %s: %w", name, quoteIdent(name), derr))
		}
	}()
	if _, err := EnsurePublication(ctx, r.URL, name, r.Want); err != nil {
		return ended(ctx, err)
	}
	s := &Stream{Source: r.Source, URL: r.URL, Slot: name, Publication: name, temporary: true, ready: r.Ready}
	if len(r.Channels) == 0 {
		return s.Run(ctx, 0, h)
	}
	return r.withNotifications(ctx, s, h)
}

const recordPrefix = "rowhook_record_"

const (
	// recordMarkSQL is held by a recording as long as its process lives, and so
	// tells its publication from those that were left.
	recordMarkSQL   = "SELECT pg_try_advisory_lock(hashtext('rowhook record'), hashtext($1))"
	recordUnmarkSQL = "SELECT pg_advisory_unlock(hashtext('rowhook record'), hashtext($1))"
	// recordLeftSQL lists the publications of recordings that the role may drop.
	recordLeftSQL = "SELECT pubname::text FROM pg_catalog.pg_publication WHERE pubname ~ '^rowhook_record_[0-9a-f]{8}$' AND pg_catalog.pg_has_role(pubowner, 'USAGE')"
)

// mark holds the name of a recording by a connection, and drops the publications
// of those that nobody holds.
func (r *Record) mark(ctx context.Context, name string) (*pgx.Conn, error) {
	conn, err := connect(ctx, r.URL, "record", SessionOptions)
	if err != nil {
		return nil, err
	}
	if err := markRecord(ctx, conn, name); err != nil {
		disconnect(conn)
		return nil, fmt.Errorf("look for publications of earlier recordings: %w", err)
	}
	return conn, nil
}

func markRecord(ctx context.Context, conn *pgx.Conn, name string) error {
	if _, err := conn.Exec(ctx, recordMarkSQL, name); err != nil {
		return err
	}
	rows, err := conn.Query(ctx, recordLeftSQL)
	if err != nil {
		return err
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, old := range left {
		var dead bool
		if err := conn.QueryRow(ctx, recordMarkSQL, old).Scan(&dead); err != nil {
			return err
		}
		if !dead {
			continue
		}
		if _, err := conn.Exec(ctx, "DROP PUBLICATION IF EXISTS "+quoteIdent(old)); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, recordUnmarkSQL, old); err != nil {
			return err
		}
	}
	return nil
}

// withNotifications runs the stream and a listener, whose notifications pass
// between transactions. It is ready when both are, and ends when one does.
func (r *Record) withNotifications(ctx context.Context, s *Stream, h Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	turns := &turns{Handler: h, turn: make(chan struct{}, 1)}
	var waiting atomic.Int32
	waiting.Store(2)
	ready := func() {
		if waiting.Add(-1) == 0 && r.Ready != nil {
			r.Ready()
		}
	}
	s.ready = ready
	var once sync.Once
	l := &Listener{Source: r.Source, URL: r.URL, Channels: r.Channels, Alive: func(at time.Time) {
		if !at.IsZero() {
			once.Do(ready)
		}
	}}
	heard := make(chan error, 1)
	go func() {
		defer cancel()
		heard <- l.Run(ctx, func(c *relay.Change) error {
			select {
			case turns.turn <- struct{}{}:
				defer turns.end()
				return h.Change(c)
			case <-ctx.Done():
				return ctx.Err()
			}
		}, func(_, _ time.Time) error {
			return errors.New("the connection that listens was lost, and notifications with it; record again")
		})
	}()
	err := s.Run(ctx, 0, turns)
	cancel()
	if lerr := <-heard; err == nil && !errors.Is(lerr, context.Canceled) {
		err = lerr
	}
	return err
}

// turns lets a handler hear of one transaction or one other change at a time.
type turns struct {
	Handler
	turn chan struct{}
	open bool // a transaction has the turn
}

func (t *turns) end() { <-t.turn }

// Begin implements Handler.
func (t *turns) Begin(tx *relay.Tx) error {
	if !t.open {
		t.turn <- struct{}{}
		t.open = true
	}
	return t.Handler.Begin(tx)
}

// Change implements Handler.
func (t *turns) Change(c *relay.Change) error {
	if !t.open {
		t.turn <- struct{}{}
		defer t.end()
	}
	return t.Handler.Change(c)
}

// Commit implements Handler.
func (t *turns) Commit(tx *relay.Tx, end relay.LSN) error {
	if t.open {
		t.open = false
		defer t.end()
	}
	return t.Handler.Commit(tx, end)
}

// createTemporary makes a slot that lives as long as the connection and returns
// where it begins.
func (s *Stream) createTemporary(ctx context.Context, conn *pgconn.PgConn) (relay.LSN, error) {
	command, err := createSlotCommand(s.Slot, serverVersion(conn.ParameterStatus("server_version")), SlotOptions{temporary: true})
	if err != nil {
		return 0, err
	}
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rows, err := ask(wait, conn, command)
	switch {
	case err == nil && len(rows) == 1 && len(rows[0]) > 1:
		return relay.ParseLSN(rows[0][1])
	case err == nil:
		return 0, errors.New("create slot: the server did not say where the slot begins")
	case ctx.Err() == nil && wait.Err() != nil:
		return 0, fmt.Errorf("create slot: it waits for every transaction that has written to end; after a minute these are open: %s", slotBlockers(ctx, s.URL))
	}
	return 0, slotError(s.Slot, err)
}
