package cdc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/relay"
)

// Record reads changes from now on, for a while, through a publication and a
// slot of its own. The slot is temporary: it goes with the connection, however
// that ends, so nothing is left that could pin WAL. The publication is dropped
// when Record returns.
type Record struct {
	Source string
	URL    relay.Secret
	Want   Want
	// Ready is called when every change that commits from then on is recorded.
	Ready func()
}

// Run records until the context is done (nil), the handler returns an error or
// something breaks.
func (r *Record) Run(ctx context.Context, h Handler) (err error) {
	var random [4]byte
	_, _ = rand.Read(random[:]) // it does not fail
	name := "rowhook_record_" + hex.EncodeToString(random[:])
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		defer cancel()
		if derr := DropPublication(clean, r.URL, name); derr != nil {
			err = errors.Join(err, fmt.Errorf("the publication %s is left, and can be dropped: %w", name, derr))
		}
	}()
	if _, err := EnsurePublication(ctx, r.URL, name, r.Want); err != nil {
		return ended(ctx, err)
	}
	s := &Stream{Source: r.Source, URL: r.URL, Slot: name, Publication: name, temporary: true, ready: r.Ready}
	return s.Run(ctx, 0, h)
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
