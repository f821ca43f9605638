package cdc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/relay"
)

// Snapshots makes snapshots whose place in the stream is known exactly. Only
// the making of a logical slot gives one: its consistent point is the position
// before which every commit is in the snapshot and after which none is. A
// position that is merely read beside a snapshot is wrong, because the order in
// which commits become visible is not that of their records: a commit that
// waits for a standby is streamed long before anybody sees it.
//
// The slots are temporary and live for a moment. One goroutine uses a Snapshots.
type Snapshots struct {
	URL relay.Secret
	// Slot is the source's slot: the temporary ones are named after it.
	Slot string

	maker  *pgconn.PgConn // a replication session, which makes the slots
	reader *reader
	side   *pgx.Conn // looks at the maker while that waits
}

// Close ends the sessions.
func (s *Snapshots) Close() {
	if s.maker != nil {
		disconnect(s.maker)
		s.maker = nil
	}
	if s.reader != nil {
		disconnect(s.reader.conn)
		s.reader = nil
	}
	if s.side != nil {
		disconnect(s.side)
		s.side = nil
	}
}

// Snapshot is what the database held at a point of the stream.
type Snapshot struct {
	// Point: what committed before it is in the snapshot, the rest is not.
	Point relay.LSN
	// At is when it was made by the server's clock, in microseconds since the Unix
	// epoch.
	At     int64
	reader *reader
	// now asks about the present, in a session that does not read the snapshot.
	now func(ctx context.Context, sql string) ([][]string, error)
}

// Close ends the snapshot, so that the server may clean up what it kept for it.
func (s *Snapshot) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := s.reader.conn.Exec(ctx, "ROLLBACK"); err != nil {
		disconnect(s.reader.conn)
	}
}

const positionsSQL = `SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END,
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END`

// Positions returns where the server's WAL ends at the moment, written and
// flushed. The point of a snapshot that is taken afterwards is not before
// either.
func (s *Snapshots) Positions(ctx context.Context) (written, flushed relay.LSN, err error) {
	if err := s.openMaker(ctx); err != nil {
		return 0, 0, err
	}
	rows, err := ask(ctx, s.maker, positionsSQL)
	if err == nil && (len(rows) != 1 || len(rows[0]) != 2) {
		err = errors.New("no position")
	}
	if err != nil {
		s.Close()
		return 0, 0, fmt.Errorf("read the end of the WAL: %w", err)
	}
	if written, err = relay.ParseLSN(rows[0][0]); err == nil {
		flushed, err = relay.ParseLSN(rows[0][1])
	}
	return written, flushed, err
}

func (s *Snapshots) openMaker(ctx context.Context) (err error) {
	if s.maker == nil || s.maker.IsClosed() {
		s.maker, err = connectReplication(ctx, s.URL, "backfill", readOptions, 0)
	}
	return err
}

// SnapshotWait says what the making of a snapshot waits for.
type SnapshotWait struct {
	// Before is a position that the point will not be before, when it is not 0:
	// the stream may go on up to there.
	Before relay.LSN
	// Blockers are the transactions that have to end, "" when they are not known
	// (yet).
	Blockers string
}

// How often a snapshot that is being made is looked at, and from when on it is
// said what it waits for.
const (
	waitPoll  = 100 * time.Millisecond
	waitTells = time.Second
)

// Take makes a snapshot. A slot, and so a snapshot, begins where none of the
// transactions is open that were under way; Take waits for them, as long as it
// takes, and calls waits now and then meanwhile.
func (s *Snapshots) Take(ctx context.Context, waits func(SnapshotWait) error) (*Snapshot, error) {
	snap, err := s.take(ctx, waits)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("make a snapshot: %w", err)
	}
	return snap, nil
}

func (s *Snapshots) take(ctx context.Context, waits func(SnapshotWait) error) (*Snapshot, error) {
	if err := s.openMaker(ctx); err != nil {
		return nil, err
	}
	if err := s.openReader(ctx); err != nil {
		return nil, err
	}
	slot := fmt.Sprintf("%.48s_read_%d", s.Slot, s.maker.PID())
	command := "CREATE_REPLICATION_SLOT " + quoteIdent(slot) + " TEMPORARY LOGICAL pgoutput "
	if serverVersion(s.maker.ParameterStatus("server_version")) < 150000 {
		command += "EXPORT_SNAPSHOT"
	} else {
		command += "(SNAPSHOT 'export')"
	}
	row, err := s.make(ctx, command, waits)
	if err != nil {
		return nil, err
	}
	snap := &Snapshot{reader: s.reader, now: func(ctx context.Context, sql string) ([][]string, error) { return ask(ctx, s.maker, sql) }}
	if snap.Point, err = relay.ParseLSN(row[1]); err != nil {
		return nil, err
	}
	if snap.At, err = s.reader.begin(ctx, row[2]); err != nil {
		return nil, err
	}
	// The session that has imported the snapshot keeps it.
	if _, err := ask(ctx, s.maker, "DROP_REPLICATION_SLOT "+quoteIdent(slot)); err != nil {
		return nil, err
	}
	return snap, nil
}

// Adopt takes over a snapshot that the making of another slot has exported.
func (s *Snapshots) Adopt(ctx context.Context, snapshot string, point relay.LSN) (*Snapshot, error) {
	snap := &Snapshot{Point: point, now: func(ctx context.Context, sql string) ([][]string, error) {
		if err := s.openMaker(ctx); err != nil {
			return nil, err
		}
		return ask(ctx, s.maker, sql)
	}}
	err := s.openReader(ctx)
	if err == nil {
		snap.reader = s.reader
		snap.At, err = s.reader.begin(ctx, snapshot)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("take over the snapshot of the slot: %w", err)
	}
	return snap, nil
}

func (s *Snapshots) openReader(ctx context.Context) (err error) {
	if s.reader == nil || s.reader.conn.IsClosed() {
		s.reader, err = newReader(ctx, s.URL)
	}
	return err
}

// make runs the command that makes the slot and returns its row.
func (s *Snapshots) make(ctx context.Context, command string, waits func(SnapshotWait) error) ([]string, error) {
	type answer struct {
		rows [][]string
		err  error
	}
	done := make(chan answer, 1)
	maker := s.maker
	go func() {
		rows, err := ask(context.WithoutCancel(ctx), maker, command)
		done <- answer{rows, err}
	}()
	began := time.Now()
	poll := time.NewTicker(waitPoll)
	defer poll.Stop()
	for {
		var err error
		select {
		case a := <-done:
			if a.err == nil && (len(a.rows) != 1 || len(a.rows[0]) < 3) {
				a.err = errors.New("the server did not say where the slot begins")
			}
			if a.err != nil {
				return nil, snapshotError(a.err)
			}
			return a.rows[0], nil
		case <-ctx.Done():
			err = ctx.Err()
		case <-poll.C:
			var w SnapshotWait
			if w, err = s.waitsFor(ctx, time.Since(began) > waitTells); err == nil {
				err = waits(w)
			}
		}
		if err != nil {
			// The server must give up too: a walsender that nobody listens to would go on
			// waiting.
			cancel, release := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			_ = maker.CancelRequest(cancel)
			select {
			case <-done:
			case <-cancel.Done():
			}
			release()
			return nil, err
		}
	}
}

func snapshotError(err error) error {
	if sqlState(err) == codeConfigurationLimit {
		return &SetupError{
			Summary: "all replication slots of the server are in use, and a backfill needs one for a moment",
			Detail:  "raise max_replication_slots, which takes a restart, or drop a slot that nobody reads (pg_replication_slots)", Err: err,
		}
	}
	return err
}

// blockedSQL tells whether a session waits for the end of a transaction.
const blockedSQL = `SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE pid = $1 AND locktype = 'transactionid' AND NOT granted)`

// waitsFor looks at what the maker waits for. While it waits for a transaction,
// the record that will be its point is not written yet: the point is not before
// the position that was read first.
func (s *Snapshots) waitsFor(ctx context.Context, tell bool) (w SnapshotWait, err error) {
	if s.side == nil {
		if s.side, err = connect(ctx, s.URL, "backfill", SessionOptions); err != nil {
			return w, err
		}
	}
	var written, flushed string
	if err = s.side.QueryRow(ctx, positionsSQL).Scan(&written, &flushed); err != nil {
		return w, err
	}
	var blocked bool
	if err = s.side.QueryRow(ctx, blockedSQL, s.maker.PID()).Scan(&blocked); err != nil || !blocked {
		return w, err
	}
	if w.Before, err = relay.ParseLSN(written); err != nil {
		return w, err
	}
	if tell {
		w.Blockers = slotBlockers(ctx, s.URL)
	}
	return w, nil
}
