package cdc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/rowhook/rowhook/relay"
)

const (
	// confirmWithin is how soon a status follows when more has become durable.
	confirmWithin = time.Second
	// replyGap is the least time between two replies to the server, which asks
	// again at once while it waits for us.
	replyGap = 100 * time.Millisecond
	// stopReplies is how many replies in a row may be asked for within replyGap of
	// the last one before we take it that the server is shutting down and waits
	// for what is not durable yet.
	stopReplies = 10
	// stayAway is how long not to come back to a server that is shutting down and
	// waits for us. One that has ended the stream itself does not wait any more.
	stayAway    = 10 * time.Second
	afterTheirs = time.Second
	// probeEvery is how often a paused stream looks whether the server is shutting
	// down.
	probeEvery = 5 * time.Second
	// goodbye bounds the end of the copy.
	goodbye = 2 * time.Second
	// batch is how many messages may be handled between two looks at the clock.
	batch = 64
)

// session is one replication connection after START_REPLICATION. One goroutine
// uses it; reads have deadlines, so that it wakes up to state its position
// however little or much the server sends.
type session struct {
	conn     net.Conn
	frontend *pgproto3.Frontend
	handler  Handler
	log      *slog.Logger
	acks     acks
	// seam is the transaction that has to come before anything else counts; zero
	// when it has.
	seam Seam
	read readBefore
	// interval is the longest time between two statuses, each of which asks for a
	// reply. After silence without a byte the connection is taken for dead.
	interval, silence time.Duration
	// stopping asks a server that is not being read, in another session, whether
	// it is shutting down. It may be nil.
	stopping func(ctx context.Context) bool
	// toUTF8 converts the content of a message, which the server sends as it is in
	// the database. It is nil where that is UTF-8.
	toUTF8 func(content []byte) ([]byte, error)

	decoder   decoder
	relations *relations
	tx        transaction
	change    relay.Change

	received   bool // since the last look at the clock
	heard      time.Time
	lastStatus time.Time
	owed       bool // a reply
	asked      int  // replies in a row, see stopReplies
	out        []byte
}

// readBefore is what was read before the session: everything up to start, whose
// last transaction committed at last (0 is unknown), which was known at the time.
type readBefore struct {
	start, last relay.LSN
	at          int64
}

// run receives until the context is done (nil), the server ends the stream or
// something breaks.
func (s *session) run(ctx context.Context) error {
	now := time.Now()
	s.heard = now
	// The reader sleeps until its deadline; the end of the context moves it here.
	defer context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })()
	if err := s.sendStatus(now, true); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if n%batch == 0 || s.frontend.ReadBufferLen() == 0 {
			n = 0
			if ctx.Err() != nil {
				return s.leave()
			}
			if err := s.tick(); err != nil {
				return err
			}
		}
		if full := s.handler.Full(); full != nil {
			if err := s.pause(ctx, full); err != nil {
				return err
			}
			n = -1
			continue
		}
		msg, err := s.frontend.Receive()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				n = -1
				continue
			}
			return receiveError(err)
		}
		s.received = true
		if err := s.handle(msg); err != nil {
			return err
		}
	}
}

func receiveError(err error) error {
	if _, ok := errors.AsType[*pgproto3.ExceededMaxBodyLenErr](err); ok {
		return &DecodeError{Kind: 'w', Msg: err.Error() + ": a row is larger than the source's limit for one message"}
	}
	return fmt.Errorf("receive: %w", err)
}

// tick does what is due now and sets the deadline of the next read.
func (s *session) tick() error {
	now := time.Now()
	if s.received {
		s.heard, s.received = now, false
	}
	if now.Sub(s.heard) > s.silence {
		return &temporaryError{msg: fmt.Sprintf("the server has been silent for %s", s.silence)}
	}
	wake, err := s.due(now)
	if err != nil {
		return err
	}
	if s.relations != nil && s.relations.idle != nil {
		s.relations.follow(now)
		s.relations.idle(now)
	}
	if err := s.conn.SetReadDeadline(wake); err != nil {
		return fmt.Errorf("set read deadline: %w", err)
	}
	return nil
}

// due sends a status if one is due and returns when to look again.
func (s *session) due(now time.Time) (wake time.Time, err error) {
	since := now.Sub(s.lastStatus)
	more := s.acks.flush(s.handler.Durable()) > s.acks.sent
	switch {
	case since >= s.interval:
		err = s.sendStatus(now, true)
	case s.owed && since >= replyGap, more && since >= confirmWithin:
		err = s.sendStatus(now, false)
	}
	wake = now.Add(confirmWithin)
	if s.acks.sent < s.acks.seen { // something is on its way to the disk
		wake = now.Add(confirmWithin / 4)
	}
	if s.owed {
		wake = s.lastStatus.Add(replyGap)
	}
	if next := s.lastStatus.Add(s.interval); next.Before(wake) {
		wake = next
	}
	return wake, err
}

func (s *session) sendStatus(now time.Time, reply bool) error {
	write, flush := s.acks.status(s.handler.Durable())
	s.owed, s.lastStatus = false, now
	return s.send(now, appendStatus(s.out[:0], write, flush, now, reply))
}

func (s *session) send(now time.Time, msg []byte) error {
	s.out = msg[:0]
	// A write that does not finish leaves the connection unusable.
	if err := s.conn.SetWriteDeadline(now.Add(s.silence)); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	if _, err := s.conn.Write(msg); err != nil {
		return fmt.Errorf("send status: %w", err)
	}
	return nil
}

// pause does not read until there is room again, and keeps the connection
// alive meanwhile. A server that shuts down waits for its readers, and says so
// only in what we do not read: that is found out in another session.
func (s *session) pause(ctx context.Context, full <-chan struct{}) error {
	from := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	var probed chan bool
	nextProbe := from.Add(probeEvery)
	defer func() {
		cancel()
		if probed != nil {
			<-probed
		}
		now := time.Now()
		s.heard, s.received = now, false
		if now.Sub(from) > probeEvery {
			s.log.Info("reading resumed", "after", now.Sub(from))
		}
	}()
	for {
		now := time.Now()
		wake, err := s.due(now)
		if err != nil {
			return err
		}
		if s.stopping != nil && probed == nil && !now.Before(nextProbe) {
			if now.Sub(from) < 2*probeEvery {
				s.log.Info("reading is paused", "until", s.handler.Waits())
			}
			probed = make(chan bool, 1)
			go func(to chan<- bool) { to <- s.stopping(ctx) }(probed)
			nextProbe = now.Add(probeEvery)
		}
		timer := time.NewTimer(wake.Sub(now))
		select {
		case <-full:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return nil // the caller sees the end of its own context
		case stops := <-probed:
			timer.Stop()
			probed = nil
			if stops {
				return &temporaryError{msg: "the server is shutting down", after: stayAway}
			}
		case <-timer.C:
		}
	}
}

// leave ends the stream: the last position, then the end of the copy.
func (s *session) leave() error {
	now := time.Now()
	if err := s.sendStatus(now, false); err != nil {
		return err
	}
	return s.endCopy(now)
}

// endCopy says that no more is wanted and waits a little until the server says
// the same, so that the slot is free when this returns.
func (s *session) endCopy(now time.Time) error {
	if err := s.send(now, []byte{'c', 0, 0, 0, 4}); err != nil {
		return err
	}
	if err := s.conn.SetReadDeadline(now.Add(goodbye)); err != nil {
		return fmt.Errorf("set read deadline: %w", err)
	}
	msg, gone := s.frontend.Receive()
	for ; gone == nil; msg, gone = s.frontend.Receive() {
		switch msg.(type) {
		case *pgproto3.CommandComplete, *pgproto3.ReadyForQuery, *pgproto3.ErrorResponse:
			return s.send(now, []byte{'X', 0, 0, 0, 4})
		}
	}
	return nil // it takes too long, or the server is gone: all that matters was said
}

func (s *session) handle(msg pgproto3.BackendMessage) error {
	switch msg := msg.(type) {
	case *pgproto3.CopyData:
		return s.copyData(msg.Data)
	case *pgproto3.ErrorResponse:
		return s.streamError(pgconn.ErrorResponseToPgError(msg))
	case *pgproto3.NoticeResponse:
		return s.notice(msg)
	case *pgproto3.CopyDone:
		_ = s.leave()
		return &temporaryError{msg: "the server ended the stream", after: afterTheirs}
	case *pgproto3.CommandComplete, *pgproto3.ReadyForQuery:
		return &temporaryError{msg: "the server ended the stream", after: afterTheirs}
	case *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		return nil // may come at any time
	}
	return &DecodeError{Msg: fmt.Sprintf("unexpected %T", msg)}
}

func (s *session) streamError(err *pgconn.PgError) error {
	if err.Code == codeUndefinedObject && strings.Contains(err.Message, "publication") {
		return fmt.Errorf("%w: %w", ErrNotPublished, err)
	}
	if err.Code == codeCharacterNotInTable || err.Code == codeUntranslatable {
		return &SetupError{
			Summary: "the server cannot convert a text of a change to UTF-8",
			Detail: fmt.Sprintf("the database has a character in it that UTF-8 has not; what the WAL holds cannot be mended, so after the row is, the stream has to go on "+
				"behind the transaction, with a reset of the checkpoint (%s)", err.Where),
			Err: err,
		}
	}
	return fmt.Errorf("stream: %w", err)
}

// notice watches for the one warning that means lost changes: since 18 the
// server skips a publication that does not exist and goes on.
func (s *session) notice(n *pgproto3.NoticeResponse) error {
	severity := n.SeverityUnlocalized
	if severity == "" {
		severity = n.Severity
	}
	if severity == "WARNING" && n.Code == codeNotInState {
		return fmt.Errorf("%w: it said: %s", ErrNotPublished, n.Message)
	}
	s.log.Warn("notice of the server", "severity", severity, "code", n.Code, "message", n.Message)
	return nil
}

func (s *session) copyData(data []byte) error {
	if len(data) == 0 {
		return &DecodeError{Msg: "empty copy data"}
	}
	switch data[0] {
	case 'w':
		if len(data) < 25 {
			return &DecodeError{Kind: 'w', Msg: "short"}
		}
		s.asked = 0
		return s.walData(relay.LSN(binary.BigEndian.Uint64(data[1:])), data[25:])
	case 'k':
		if len(data) != 18 {
			return &DecodeError{Kind: 'k', Msg: "wrong length"}
		}
		return s.keepalive(relay.LSN(binary.BigEndian.Uint64(data[1:])), data[17] != 0)
	}
	return &DecodeError{Kind: data[0], Msg: "unknown kind of copy data"}
}

// keepalive tells the handler the position, which is safe to confirm once all
// before it is durable, unless a transaction is open: then it is that
// transaction's own.
func (s *session) keepalive(lsn relay.LSN, reply bool) error {
	switch {
	case s.tx.open:
	case s.seam.LSN == 0:
		s.acks.sawEnd(lsn)
		if err := s.handler.Idle(lsn); err != nil {
			return byHandler(err)
		}
	default:
		if err := s.beyondSeam(lsn); err != nil {
			return err
		}
	}
	if !reply {
		return nil
	}
	now := time.Now()
	if now.Sub(s.lastStatus) >= replyGap {
		s.asked = 0
		return s.sendStatus(now, false)
	}
	s.owed = true
	if s.asked++; s.asked > stopReplies && s.acks.flush(s.handler.Durable()) < s.acks.seen {
		_ = s.leave()
		return &temporaryError{msg: "the server is shutting down and waits for what is not stored yet", after: stayAway}
	}
	return nil
}

func (s *session) walData(lsn relay.LSN, msg []byte) error {
	kind, err := s.decoder.decode(msg)
	if err != nil {
		return err
	}
	s.acks.saw(lsn)
	d := &s.decoder
	if kind != 'R' && kind != 'Y' { // a type of the partition may come in between
		s.relations.root = nil
	}
	switch kind {
	case 'I', 'U', 'D':
		return s.row(kind, lsn)
	case 'B':
		if s.tx.open {
			return &DecodeError{Kind: kind, Msg: "begin within a transaction"}
		}
		if err := s.meet(Seam{d.begin.final, d.begin.time}); err != nil {
			return err
		}
		s.tx.begin(d.begin.xid, d.begin.final, d.begin.time)
		return byHandler(s.handler.Begin(&s.tx.Tx))
	case 'C':
		if !s.tx.open || d.commit.lsn != s.tx.CommitLSN {
			return &DecodeError{Kind: kind, Msg: "commit of another transaction"}
		}
		s.tx.open = false
		s.acks.sawEnd(d.commit.end)
		return byHandler(s.handler.Commit(&s.tx.Tx, d.commit.end))
	case 'R':
		return s.relations.put(&d.relation)
	case 'Y':
		s.relations.forgetType(d.typeOID)
	case 'T':
		return s.truncate(lsn)
	case 'M':
		return s.message()
	}
	return nil // 'O', an origin, says nothing about the change
}

// meet compares the first transaction that comes with the one that has to, and
// every one before the start with what was read up to there.
func (s *session) meet(tx Seam) error {
	if s.seam.LSN != 0 && s.seam != tx {
		return fmt.Errorf("%w: it has no transaction that committed at %s, %s; the next one is at %s, %s", ErrOtherHistory,
			s.seam.LSN, atMicros(s.seam.Time), tx.LSN, atMicros(tx.Time))
	}
	s.seam = Seam{}
	if r := &s.read; r.last != 0 && r.last < tx.LSN && tx.LSN < r.start && tx.Time > r.at {
		return fmt.Errorf("%w: it has a transaction that committed at %s, %s, which was not read; all up to %s was, at %s", ErrOtherHistory,
			tx.LSN, atMicros(tx.Time), r.start, atMicros(r.at))
	}
	return nil
}

// beyondSeam is an error when the server has passed the transaction that has
// not come.
func (s *session) beyondSeam(lsn relay.LSN) error {
	if s.seam.LSN != 0 && lsn > s.seam.LSN {
		return fmt.Errorf("%w: it has no transaction that committed at %s, %s", ErrOtherHistory, s.seam.LSN, atMicros(s.seam.Time))
	}
	return nil
}

func atMicros(t int64) string { return time.UnixMicro(t).UTC().Format(time.RFC3339Nano) }

func (s *session) row(kind byte, lsn relay.LSN) error {
	if !s.tx.open {
		return &DecodeError{Kind: kind, Msg: "change outside a transaction"}
	}
	d := &s.decoder
	rel, err := s.relations.get(kind, d.relOID)
	if err != nil {
		return err
	}
	c := &s.change
	*c = relay.Change{Op: relay.Op(kind), Relation: rel, LSN: lsn, Tx: &s.tx.Tx}
	switch kind {
	case 'I':
		if len(d.new) != len(rel.Columns) {
			return columnsError(kind, rel, len(d.new))
		}
		c.New = d.new
	case 'U':
		if d.old, err = complete(rel, d.oldKind, d.old, d.new); err != nil {
			return err
		}
		c.Old, c.New = d.old, d.new
	case 'D':
		if d.old, err = complete(rel, d.oldKind, d.old, nil); err != nil {
			return err
		}
		c.Old = d.old
	}
	c.Ordinal = s.tx.ordinals.next(c.Op, lsn)
	return byHandler(s.handler.Change(c))
}

func (s *session) truncate(lsn relay.LSN) error {
	if !s.tx.open {
		return &DecodeError{Kind: 'T', Msg: "change outside a transaction"}
	}
	for _, oid := range s.decoder.truncated {
		rel, err := s.relations.get('T', oid)
		if err != nil {
			return err
		}
		s.change = relay.Change{
			Op: relay.Truncate, Relation: rel, LSN: lsn, Tx: &s.tx.Tx, Ordinal: s.tx.ordinals.next(relay.Truncate, lsn),
		}
		if err := s.handler.Change(&s.change); err != nil {
			return byHandler(err)
		}
	}
	return nil
}

func (s *session) message() error {
	m := &s.decoder.message
	if s.toUTF8 != nil && !ascii(m.content) {
		var err error
		if m.content, err = s.toUTF8(m.content); err != nil {
			return err
		}
	}
	c := &s.change
	*c = relay.Change{Op: relay.Message, LSN: m.lsn, Name: string(m.prefix), Payload: m.content}
	if m.transactional {
		if !s.tx.open {
			return &DecodeError{Kind: 'M', Msg: "transactional message outside a transaction"}
		}
		if c.Name == contextPrefix {
			if err := s.tx.addContext(m.content); err != nil {
				s.log.Warn("message left out of tx.context", "lsn", m.lsn, "xid", s.tx.XID, "err", err)
			}
		}
		c.Tx = &s.tx.Tx
		c.Ordinal = s.tx.ordinals.next(relay.Message, m.lsn)
	} else {
		c.Time = time.Now().UnixMicro()
		if err := s.beyondSeam(m.lsn); err != nil {
			return err
		}
		if !s.tx.open {
			s.acks.sawEnd(m.lsn)
		}
	}
	return byHandler(s.handler.Change(c))
}

func ascii(text []byte) bool {
	for _, c := range text {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
