package cdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/rowhook/rowhook/relay"
)

// Handler receives what a stream reads, in the order of the stream, from one
// goroutine. What it is given is valid only until the call returns, except the
// transaction, which is valid until its commit. A call must not wait for long:
// the goroutine also keeps the connection alive. A handler that has no room
// says so in Full instead. An error ends the stream and is returned from Run.
type Handler interface {
	// Begin opens a transaction. Every transaction is resent whole.
	Begin(tx *relay.Tx) error
	// Change is called for each row change, each table of a truncate, and each
	// logical message. A message outside a transaction has no Tx and comes
	// between transactions.
	Change(c *relay.Change) error
	// Commit ends the transaction. end is the position that confirms it; the
	// transaction's CommitLSN would have it sent again.
	Commit(tx *relay.Tx, end relay.LSN) error
	// Idle says that the server has nothing more for us before lsn. It is not
	// called while a transaction is open. The position may be confirmed once all
	// that was received is durable, which frees WAL that holds nothing for us. It
	// may come a thousand times a second, also with a position that came before: a
	// sign of life.
	Idle(lsn relay.LSN) error
	// Durable returns the position up to which everything is stored durably; 0 is
	// none. It is called often, also while Full.
	Durable() relay.LSN
	// Full returns nil when there is room for more, and otherwise a channel that
	// is closed when there is room again. It is called once a message.
	Full() <-chan struct{}
	// Waits says, to a person, what has to happen before there is room again.
	Waits() string
}

// Stream reads one slot.
type Stream struct {
	// Source is the source's name in log lines.
	Source string
	URL    relay.Secret
	// Slot and Publication exist: see [CreateSlot] and [EnsurePublication].
	Slot        string
	Publication string
	// SystemID and Timeline are what the caller has decided to read from; a server
	// that has others (a failover since) is a temporary error, so that the caller
	// inspects it anew. Zero is not checked.
	SystemID uint64
	Timeline uint32
	// Last is the last transaction that is known, which ended before the start. If
	// the slot still has it, it is asked for again, and nothing is read or confirmed
	// unless it comes: a server whose files were put back to an earlier state, and
	// that has gone on since, has other WAL at the same positions. Zero is not
	// checked.
	Last Seam
	// ReadLSN is the commit LSN of the last transaction that was read before the
	// start, and ReadAt when the start was reached, in microseconds since the Unix
	// epoch. What the slot still has behind ReadLSN is asked for: a younger
	// transaction in there is one of other WAL, as above. It finds out what Last
	// cannot, when the positions were moved by what is not ours. 0 is not checked.
	ReadLSN relay.LSN
	ReadAt  int64
	// MaxMessage bounds the bytes of one message, and with it of one row and of
	// the read buffer. 0 is 256 MiB. A larger row ends the stream.
	MaxMessage int
	// Log is where the stream tells what it does; nil is nowhere.
	Log *slog.Logger

	// temporary makes a slot of that name which lives as long as the connection,
	// and starts where it begins; ready is called then. See [Record].
	temporary bool
	ready     func()
}

// Seam identifies a transaction by its commit LSN and the time of its commit,
// in microseconds since the Unix epoch.
type Seam struct {
	LSN  relay.LSN
	Time int64
}

const (
	defaultMaxMessage = 256 << 20
	longestInterval   = 10 * time.Second
	// lookupTimeout bounds one question to the catalogue, during which the
	// connection is not served.
	lookupTimeout = 5 * time.Second
)

// streamOptions are those of a session that streams: the server has to be able
// to warn of a publication that it skips.
const streamOptions = SessionOptions + " -c client_min_messages=warning"

// Run reads from start until the context is done, which returns nil after a
// last status and the end of the copy, or until something breaks: see
// [IsTemporary]. start is the checkpoint, never 0. A start that the slot or the
// server cannot honour is refused, because the server would not refuse it: it
// forwards an earlier one without a word and skips to a later one.
func (s *Stream) Run(ctx context.Context, start relay.LSN, h Handler) error {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("source", s.Source, "slot", s.Slot)
	if err := validSlotName(s.Slot); err != nil {
		return err
	}
	if start == 0 && !s.temporary {
		return errors.New("start stream: no position to start at")
	}
	maxMessage := s.MaxMessage
	if maxMessage == 0 {
		maxMessage = defaultMaxMessage
	}
	conn, err := connectReplication(ctx, s.URL, "stream", streamOptions, maxMessage)
	if err != nil {
		return ended(ctx, err)
	}
	defer disconnect(conn)
	if s.temporary {
		if start, err = s.createTemporary(ctx, conn); err != nil {
			return ended(ctx, err)
		}
		s.ready()
	}
	confirmed, interval, err := s.prepare(ctx, conn, start)
	if err != nil {
		return ended(ctx, err)
	}
	look := &lookups{ctx: ctx, url: s.URL}
	defer look.close()
	acks, from := newAcks(confirmed, start), start
	seam := s.Last
	if seam.LSN < confirmed || seam.LSN >= start {
		seam = Seam{}
	}
	switch {
	case seam.LSN != 0:
		acks.seen, from = confirmed, seam.LSN
	case s.ReadLSN != 0 && confirmed < start:
		acks.seen, from = confirmed, max(confirmed, min(s.ReadLSN, start))
	}
	session, err := s.start(ctx, conn, from)
	if err != nil {
		return ended(ctx, err)
	}
	defer session.conn.Close()
	session.handler, session.log = h, log
	session.acks, session.seam = acks, seam
	session.read = readBefore{start: start, last: s.ReadLSN, at: s.ReadAt}
	session.interval, session.silence = interval.ping, interval.silence
	session.relations = newRelations(look.primaryKey, look.types)
	session.relations.partitionOf, session.relations.idle = look.partitionOf, look.idle
	if encoding := conn.ParameterStatus("server_encoding"); encoding != "UTF8" && encoding != "SQL_ASCII" {
		session.toUTF8 = look.toUTF8
	}
	session.stopping = s.stopping
	log.Info("streaming", "lsn", start, "confirmed", confirmed)
	return ended(ctx, session.run(ctx))
}

// ended returns nil for an error that the end of the context explains.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (IsTemporary(err) || errors.Is(err, ctx.Err())) {
		return nil
	}
	return err
}

type intervals struct{ ping, silence time.Duration }

// intervalsOf derives the stream's timers from wal_sender_timeout, 0 being
// none. The server must hear from us well within it. It may be silent for half
// of it and a little, while it decodes a transaction that holds nothing for
// us, and is taken for dead only when it would have taken us for dead.
func intervalsOf(timeout time.Duration) intervals {
	ping := longestInterval
	if timeout > 0 {
		ping = min(ping, timeout/3)
	}
	return intervals{ping: ping, silence: max(3*ping, timeout+ping)}
}

const slotPositionSQL = `SELECT confirmed_flush_lsn, wal_status, plugin, database = current_database() AS here
FROM pg_catalog.pg_replication_slots WHERE slot_name = `

const walSenderTimeoutSQL = `SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'`

// prepare checks, in the session that will stream, what the server would not.
func (s *Stream) prepare(ctx context.Context, conn *pgconn.PgConn, start relay.LSN) (confirmed relay.LSN, _ intervals, err error) {
	fail := func(doing string, err error) (relay.LSN, intervals, error) {
		return 0, intervals{}, fmt.Errorf("%s: %w", doing, err)
	}
	system, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return fail("identify system", err)
	}
	id, err := strconv.ParseUint(system.SystemID, 10, 64)
	if err != nil {
		return fail("identify system", err)
	}
	if (s.SystemID != 0 && id != s.SystemID) || (s.Timeline != 0 && uint32(system.Timeline) != s.Timeline) {
		return 0, intervals{}, &temporaryError{msg: fmt.Sprintf(
			"the server is not the one that was inspected: system %d timeline %d, now system %d timeline %d", s.SystemID, s.Timeline, id, system.Timeline)}
	}
	if relay.LSN(system.XLogPos) < start {
		return fail("start stream", fmt.Errorf("%w: it is %s, the server's log ends at %s", ErrStartBeyondServer, start, relay.LSN(system.XLogPos)))
	}
	rows, err := ask(ctx, conn, slotPositionSQL+quoteLiteral(s.Slot))
	if err != nil {
		return fail("read slot", err)
	}
	if len(rows) == 0 {
		return fail("read slot", fmt.Errorf("%w: %s", ErrSlotMissing, s.Slot))
	}
	slot := rows[0]
	switch {
	case slot[1] == "lost":
		return fail("read slot", fmt.Errorf("%w: %s", ErrSlotLost, s.Slot))
	case slot[2] != "pgoutput" || slot[3] != "t":
		return 0, intervals{}, &SetupError{Summary: fmt.Sprintf("the slot %q is not a pgoutput slot of this database", s.Slot)}
	case slot[0] == "":
		return 0, intervals{}, &temporaryError{msg: fmt.Sprintf("slot %s is still being created", s.Slot)}
	}
	if confirmed, err = relay.ParseLSN(slot[0]); err != nil {
		return fail("read slot", err)
	}
	if confirmed > start {
		return fail("start stream", fmt.Errorf("%w: it is %s, the slot begins at %s", ErrStartBeforeSlot, start, confirmed))
	}
	if rows, err = ask(ctx, conn, walSenderTimeoutSQL); err != nil || len(rows) != 1 {
		return fail("read wal_sender_timeout", err)
	}
	ms, err := strconv.Atoi(rows[0][0])
	if err != nil {
		return fail("read wal_sender_timeout", err)
	}
	return confirmed, intervalsOf(time.Duration(ms) * time.Millisecond), nil
}

// Reasons why a stream cannot start where it should. None of them is temporary.
var (
	// ErrSlotMissing: the slot does not exist, so its history is gone.
	ErrSlotMissing = errors.New("the slot does not exist")
	// ErrSlotLost: the server has removed WAL that the slot needs.
	ErrSlotLost = errors.New("the slot has lost its WAL")
	// ErrStartBeforeSlot: someone else has confirmed what was not read here.
	ErrStartBeforeSlot = errors.New("the slot has moved past the position to start at")
	// ErrStartBeyondServer: the server's log ends before the position: it is a
	// copy of an earlier state, or another server.
	ErrStartBeyondServer = errors.New("the position to start at is not in the server's log yet")
	// ErrOtherHistory: the server does not have the last transaction that was read.
	ErrOtherHistory = errors.New("the server's WAL is not the one that was read before")
	// ErrNotPublished: the publication did not exist when a change was made. The
	// server evaluates it as it was at each change, so one that was dropped, or made
	// after the slot, cannot be read across: up to 17 the server refuses, since 18 it
	// skips the changes.
	ErrNotPublished = errors.New("a change was made while the publication did not exist")
)

// startCommand is the START_REPLICATION command. publication_names is a list
// of identifiers within a literal: unquoted ones would be folded and split.
func startCommand(slot, publication string, start relay.LSN) string {
	return fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL %s (proto_version '1', publication_names %s, messages 'true')",
		quoteIdent(slot), start, quoteLiteral(quoteIdent(publication)))
}

// start takes the connection over from pgconn, which would interrupt a read by
// breaking writes too, and allocates for each message. Hijack is outside of
// pgx's promise of stability: it is used here only. After an error the
// connection is of no use, because a ReadyForQuery is left unread.
func (s *Stream) start(ctx context.Context, conn *pgconn.PgConn, start relay.LSN) (*session, error) {
	if err := conn.SyncConn(ctx); err != nil {
		return nil, fmt.Errorf("start stream: %w", err)
	}
	raw, err := conn.Hijack()
	if err != nil {
		return nil, fmt.Errorf("start stream: %w", err)
	}
	session := &session{conn: raw.Conn, frontend: raw.Frontend}
	stop := context.AfterFunc(ctx, func() { _ = raw.Conn.SetDeadline(time.Unix(1, 0)) })
	err = session.startCopy(startCommand(s.Slot, s.Publication, start))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Conn.Close()
		return nil, s.startError(err)
	}
	return session, nil
}

func (s *session) startCopy(command string) error {
	if err := s.conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return err
	}
	s.frontend.SendQuery(&pgproto3.Query{String: command})
	if err := s.frontend.Flush(); err != nil {
		return err
	}
	for {
		msg, err := s.frontend.Receive()
		if err != nil {
			return err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return s.conn.SetDeadline(time.Time{})
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(msg)
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		default:
			return &DecodeError{Msg: fmt.Sprintf("unexpected %T", msg)}
		}
	}
}

func (s *Stream) startError(err error) error {
	switch sqlState(err) {
	case codeUndefinedObject:
		return fmt.Errorf("start stream: %w: %w", ErrSlotMissing, err)
	case codeNotInState:
		return fmt.Errorf("start stream: %w: %w", ErrSlotLost, err)
	}
	return fmt.Errorf("start stream: %w", err)
}

// stopping reports whether the server turns new sessions away because it is
// shutting down.
func (s *Stream) stopping(ctx context.Context) bool {
	conn, err := connect(ctx, s.URL, "probe", "")
	if err == nil {
		disconnect(conn)
	}
	return sqlState(err) == codeCannotConnectNow
}
