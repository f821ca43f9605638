package cdc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/rowhook/rowhook/relay"
)

// server is the other end of a session: it writes what the test says and notes
// what the session sends.
type server struct {
	t    *testing.T
	conn net.Conn
	end  chan error // of session.run
	log  bytes.Buffer

	mu       sync.Mutex
	statuses []statusSent // by the session
	left     bool         // the session has ended the copy
	nags     bool         // each status is answered by a question for the next
}

func (s *server) sent() []statusSent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.statuses)
}

func (s *server) hasLeft() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

type statusSent struct {
	at           time.Duration // since the start
	write, flush relay.LSN
	reply        bool
}

// handled is a Handler whose every answer the test decides.
type handled struct {
	seam    Seam // of the session
	read    readBefore
	mu      sync.Mutex
	calls   []string
	durable relay.LSN
	paused  bool // from the start
	full    chan struct{}
	err     error
	slow    time.Duration
}

func (h *handled) setDurable(lsn relay.LSN) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.durable = lsn
}

func (h *handled) resume() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.full)
	h.full = nil
}

func (h *handled) note(format string, args ...any) error {
	h.mu.Lock()
	h.calls = append(h.calls, fmt.Sprintf(format, args...))
	h.mu.Unlock()
	time.Sleep(h.slow)
	return h.err
}
func (h *handled) Begin(tx *relay.Tx) error                { return h.note("begin %s", tx.CommitLSN) }
func (h *handled) Commit(_ *relay.Tx, end relay.LSN) error { return h.note("commit %s", end) }
func (h *handled) Idle(lsn relay.LSN) error                { return h.note("idle %s", lsn) }
func (h *handled) Change(c *relay.Change) error {
	return h.note("%s %s %s #%d new%s old%s %s%s", c.Op, c.LSN, c.Name, c.Ordinal, show(c.New), show(c.Old), c.Payload, contextOf(c))
}

func (h *handled) Durable() relay.LSN {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.durable
}

func (h *handled) Waits() string { return "the test goes on" }

func (h *handled) Full() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full == nil {
		return nil
	}
	return h.full
}

func contextOf(c *relay.Change) string {
	if c.Tx == nil {
		return " outside"
	}
	return string(c.Tx.Context)
}

// play runs a session whose slot is confirmed at 0x100 against the test's
// server, in virtual time. interval is 10 s.
func play(t *testing.T, h *handled, f func(ctx context.Context, cancel func(), s *server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if h.paused {
			h.full = make(chan struct{})
		}
		ours, theirs := net.Pipe()
		srv := &server{t: t, conn: theirs, end: make(chan error, 1)}
		s := &session{
			conn: ours, frontend: pgproto3.NewFrontend(ours, ours), handler: h,
			log: slog.New(slog.NewTextHandler(&srv.log, nil)), acks: newAcks(0x100, 0x100), seam: h.seam, read: h.read,
			interval: 10 * time.Second, silence: 30 * time.Second, relations: newRelations(noKey, noTypes),
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		start := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			srv.read(start)
		}()
		go func() {
			srv.end <- s.run(ctx)
			ours.Close()
		}()
		f(ctx, cancel, srv)
		cancel()
		ours.Close()
		theirs.Close()
		<-done
	})
}

func (s *server) read(start time.Time) {
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(s.conn, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(s.conn, body); err != nil {
			return
		}
		switch {
		case head[0] == 'c':
			s.mu.Lock()
			s.left = true
			s.mu.Unlock()
			s.send('C', append([]byte("COPY 0"), 0))
		case head[0] == 'd' && len(body) == 34:
			s.mu.Lock()
			s.statuses = append(s.statuses, statusSent{
				at: time.Since(start), write: relay.LSN(binary.BigEndian.Uint64(body[1:])), flush: relay.LSN(binary.BigEndian.Uint64(body[9:])), reply: body[33] == 1,
			})
			nags := s.nags
			s.mu.Unlock()
			if nags {
				go s.keepalive(0x200, 1) // the session may be writing
			}
		}
	}
}

func (s *server) send(kind byte, body []byte) {
	msg := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))
	_, _ = s.conn.Write(append(msg, body...))
}

func (s *server) wal(lsn relay.LSN, msg wire) {
	s.send('d', append(wire{'w'}.u64(uint64(lsn)).u64(uint64(lsn)).u64(0), msg...))
}

func (s *server) keepalive(lsn relay.LSN, reply byte) {
	s.send('d', wire{'k'}.u64(uint64(lsn)).u64(0).u8(reply))
}

func (s *server) expect(h *handled, want ...string) {
	s.t.Helper()
	synctest.Wait()
	if !slices.Equal(h.calls, want) {
		s.t.Errorf("calls:\n%s\nwant:\n%s", strings.Join(h.calls, "\n"), strings.Join(want, "\n"))
	}
}

func (s *server) ended() error {
	s.t.Helper()
	select {
	case err := <-s.end:
		return err
	case <-time.After(time.Hour): // virtual
		s.t.Fatal("the session does not end")
		return nil
	}
}

func TestSession_TellsTheHandlerInOrder(t *testing.T) {
	h := &handled{}
	play(t, h, func(_ context.Context, cancel func(), s *server) {
		s.keepalive(0x110, 0)
		s.wal(0, begin(7, 0x190))
		s.wal(0, relation(1, 'd', "*id", "v"))
		s.wal(0x120, insert(1, "t1", "n"))
		s.wal(0x120, insert(1, "t2", "n"))
		s.keepalive(0x190, 0) // within the transaction: it is the transaction's own
		s.wal(0x130, wire{'M', 1}.u64(0x130).text(contextPrefix).bytes(`{"a":1}`))
		s.wal(0x130, wire{'U'}.u32(1).u8('N').tuple("t1", "u"))
		s.wal(0x140, wire{'T'}.u32(1).u8(0).u32(1))
		s.wal(0x1a0, commit(0x190, 0x1a0))
		s.wal(0x1c0, wire{'M', 0}.u64(0x1c0).text("p").bytes("x"))
		s.keepalive(0x1d0, 0)
		s.expect(h, "idle 0/110", "begin 0/190",
			"insert 0/120  #0 new[\"1\"][null] old ", "insert 0/120  #1 new[\"2\"][null] old ",
			"message 0/130 rowhook.context #0 new old {\"a\":1}{\"a\":1}",
			"update 0/130  #0 new[\"1\"][unknown] old[\"1\"][unknown] {\"a\":1}", "truncate 0/140  #0 new old {\"a\":1}",
			"commit 0/1A0", "message 0/1C0 p #0 new old x outside", "idle 0/1D0")
		h.setDurable(0x1a0)
		cancel()
		if err := s.ended(); err != nil {
			t.Errorf("run: %v", err)
		}
		sent := s.sent()
		last := sent[len(sent)-1]
		if last.flush != 0x1a0 || last.write != 0x1d0 || !s.hasLeft() {
			t.Errorf("last status is %+v, end of the copy %t", last, s.hasLeft())
		}
	})
}

// A1, A2, A3, A7: which positions are stated.
func TestSession_ConfirmsWhatIsDurableAndSeen(t *testing.T) {
	h := &handled{}
	play(t, h, func(_ context.Context, _ func(), s *server) {
		s.wal(0, begin(7, 0x190))
		s.wal(0x1a0, commit(0x190, 0x1a0))
		time.Sleep(25 * time.Second)
		s.keepalive(0x1a0, 0)
		for _, sent := range s.sent() {
			if sent.flush != 0x100 {
				t.Errorf("%+v, and nothing is durable", sent)
			}
		}
		h.setDurable(0x10000000) // a handler gone mad
		time.Sleep(2 * time.Second)
		h.setDurable(0x50)
		time.Sleep(20 * time.Second)
		for _, sent := range s.sent()[len(s.sent())-2:] {
			if sent.flush != 0x1a0 {
				t.Errorf("%+v, want what was seen", sent)
			}
		}
	})
}

func TestSession_ConfirmsSoonAfterMoreIsDurable(t *testing.T) {
	h := &handled{}
	play(t, h, func(_ context.Context, _ func(), s *server) {
		s.wal(0, begin(7, 0x190))
		s.wal(0x1a0, commit(0x190, 0x1a0))
		time.Sleep(3 * time.Second)
		from := len(s.sent())
		h.setDurable(0x1a0)
		time.Sleep(confirmWithin)
		synctest.Wait()
		if len(s.sent()) != from+1 || s.sent()[from].flush != 0x1a0 {
			t.Errorf("statuses %+v", s.sent()[from:])
		}
	})
}

// A16, A17: read deadlines that pass in the midst of a message.
func TestSession_ATimeoutWithinAMessageLosesNothing(t *testing.T) {
	h := &handled{durable: 0x300}
	play(t, h, func(_ context.Context, _ func(), s *server) {
		var msg []byte
		for _, lsn := range []relay.LSN{0x200, 0x300} {
			msg = append(wire(msg).u8('d').u32(4+18).u8('k'), wire{}.u64(uint64(lsn)).u64(0).u8(0)...)
		}
		for _, b := range msg {
			if _, err := s.conn.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(700 * time.Millisecond)
		}
		s.expect(h, "idle 0/200", "idle 0/300")
	})
}

// A11: a thousand keepalives a second that ask nothing are answered by the timer.
func TestSession_IsNotDrivenByKeepalives(t *testing.T) {
	h := &handled{}
	play(t, h, func(_ context.Context, _ func(), s *server) {
		for i := range 10000 {
			s.keepalive(relay.LSN(0x200+i), 0)
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := len(s.sent()); n > 2 {
			t.Errorf("%d statuses in 10 s", n)
		}
		if n := len(h.calls); n != 10000 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestSession_RepliesAtOnceButNotInAFlood(t *testing.T) {
	h := &handled{durable: 0x10000}
	play(t, h, func(_ context.Context, _ func(), s *server) {
		time.Sleep(5 * time.Second)
		from := len(s.sent())
		s.keepalive(0x200, 1)
		synctest.Wait()
		if len(s.sent()) != from+1 || s.sent()[from].at != 5*time.Second || s.sent()[from].flush != 0x200 {
			t.Errorf("statuses %+v", s.sent()[from:])
		}
		for range 1000 {
			s.keepalive(0x200, 1)
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := len(s.sent()) - from; n < 9 || n > 12 {
			t.Errorf("%d replies in a second of a thousand questions", n)
		}
	})
}

// A12: a handler without room is not given more, and the server still hears
// from us.
func TestSession_KeepsTheConnectionAliveWhilePaused(t *testing.T) {
	h := &handled{paused: true}
	play(t, h, func(_ context.Context, _ func(), s *server) {
		written := make(chan struct{})
		go func() {
			defer close(written)
			s.keepalive(0x200, 0)
		}()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if len(h.calls) != 0 {
			t.Errorf("calls while full: %v", h.calls)
		}
		if n := len(s.sent()); n < 30 || n > 32 {
			t.Errorf("%d statuses in 5 minutes", n)
		}
		h.resume()
		<-written
		s.expect(h, "idle 0/200")
	})
}

func TestSession_NoticesAShutdownWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handled{full: make(chan struct{})}
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		asked := 0
		s := &session{
			conn: ours, frontend: pgproto3.NewFrontend(ours, ours), handler: h, log: slog.New(slog.DiscardHandler), acks: newAcks(1, 1),
			interval: 10 * time.Second, silence: 30 * time.Second,
			stopping: func(context.Context) bool { asked++; return asked == 3 },
		}
		from := time.Now()
		err := s.run(t.Context())
		if !IsTemporary(err) || RetryAfter(err) != stayAway || time.Since(from) != 3*probeEvery {
			t.Errorf("after %s: %v", time.Since(from), err)
		}
		ours.Close()
	})
}

// A14: a peer that says nothing, not even to our pings, is dead.
func TestSession_GivesUpASilentServer(t *testing.T) {
	h := &handled{}
	play(t, h, func(_ context.Context, _ func(), s *server) {
		s.keepalive(0x200, 0)
		if err := s.ended(); !IsTemporary(err) || !strings.Contains(err.Error(), "silent") {
			t.Errorf("run: %v", err)
		}
		for i, sent := range s.sent() {
			if !sent.reply || sent.at != time.Duration(i)*10*time.Second {
				t.Errorf("ping %d: %+v", i, sent)
			}
		}
		if len(s.sent()) != 4 && len(s.sent()) != 3 {
			t.Errorf("%d pings", len(s.sent()))
		}
	})
}

func TestSession_ASlowHandlerIsNotTheServersSilence(t *testing.T) {
	h := &handled{slow: 45 * time.Second}
	play(t, h, func(_ context.Context, _ func(), s *server) {
		s.keepalive(0x200, 0)
		s.keepalive(0x300, 0)
		synctest.Wait()
		time.Sleep(60 * time.Second) // 15 s after the second call
		s.expect(h, "idle 0/200", "idle 0/300")
		select {
		case err := <-s.end:
			t.Errorf("run: %v", err)
		default:
		}
	})
}

// A15: a server that shuts down asks again and again for what is not durable.
func TestSession_LeavesAServerThatWaitsForIt(t *testing.T) {
	h := &handled{}
	play(t, h, func(_ context.Context, _ func(), s *server) {
		time.Sleep(time.Second)
		s.mu.Lock()
		s.nags = true
		s.mu.Unlock()
		s.keepalive(0x200, 1)
		from := time.Now()
		if err := s.ended(); !IsTemporary(err) || RetryAfter(err) != stayAway {
			t.Errorf("run: %v", err)
		}
		if took := time.Since(from); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
		if !s.hasLeft() {
			t.Error("it left without a word")
		}
	})
}

// B6: nothing is confirmed, and nothing goes to the handler, before the last
// transaction that is known has come again.
func TestSession_TheLastTransactionHasToComeAgain(t *testing.T) {
	last := Seam{LSN: 0x180, Time: 1000 + unixEpoch}
	for name, test := range map[string]struct {
		do    func(s *server)
		other bool
	}{
		"it comes": {func(s *server) {
			s.keepalive(0x100, 0) // where the slot is
			s.wal(0x180, begin(1, 0x180))
			s.wal(0x180, commit(0x180, 0x190))
			s.keepalive(0x200, 0)
		}, false},
		"another comes":          {func(s *server) { s.wal(0x170, begin(1, 0x1a0)) }, true},
		"one of another time":    {func(s *server) { s.wal(0x180, wire{'B'}.u64(0x180).u64(1001).u32(1)) }, true},
		"the server is past it":  {func(s *server) { s.keepalive(0x200, 0) }, true},
		"a message is past it":   {func(s *server) { s.wal(0x190, wire{'M', 0}.u64(0x190).text("p").bytes("")) }, true},
		"a keepalive at the LSN": {func(s *server) { s.keepalive(0x180, 0); s.keepalive(0x181, 0) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := &handled{seam: last}
			play(t, h, func(_ context.Context, _ func(), s *server) {
				test.do(s)
				if !test.other {
					s.expect(h, "begin 0/180", "commit 0/190", "idle 0/200")
					return
				}
				if err := s.ended(); !errors.Is(err, ErrOtherHistory) || IsTemporary(err) {
					t.Errorf("run: %v", err)
				}
				s.expect(h)
				for _, st := range s.sent() {
					if st.flush > 0x100 {
						t.Errorf("confirmed %s of another history", st.flush)
					}
				}
			})
		})
	}
}

// B6: what comes again before the start has been read, or it is of another history: younger than all
// that was read, and behind the last of it.
func TestSession_ATransactionBeforeTheStartWasReadOrIsOfAnotherHistory(t *testing.T) {
	at := func(lsn uint64, time uint64) func(s *server) {
		return func(s *server) {
			s.wal(relay.LSN(lsn), wire{'B'}.u64(lsn).u64(time).u32(1))
			s.wal(relay.LSN(lsn), commit(relay.LSN(lsn), relay.LSN(lsn+0x10)))
			s.keepalive(0x400, 0)
		}
	}
	for name, test := range map[string]struct {
		do    func(s *server)
		other bool
	}{
		"the last one":                {at(0x180, 999), false},
		"one before it":               {at(0x170, 5000), false},
		"an older one that was not":   {at(0x190, 1000), false},
		"a younger one":               {at(0x190, 1001), true},
		"a younger one at the end":    {at(0x1ff, 1001), true},
		"a younger one at the start":  {at(0x200, 1001), false},
		"a younger one after others":  {func(s *server) { at(0x180, 999)(s); at(0x1a0, 2000)(s) }, true},
		"nothing, and then the start": {func(s *server) { s.keepalive(0x190, 0); at(0x210, 1001)(s) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := &handled{read: readBefore{start: 0x200, last: 0x180, at: 1000 + unixEpoch}}
			play(t, h, func(_ context.Context, _ func(), s *server) {
				test.do(s)
				if !test.other {
					synctest.Wait()
					if len(h.calls) == 0 || h.calls[len(h.calls)-1] != "idle 0/400" {
						t.Errorf("calls: %v", h.calls)
					}
					return
				}
				if err := s.ended(); !errors.Is(err, ErrOtherHistory) || IsTemporary(err) {
					t.Errorf("run: %v", err)
				}
			})
		})
	}
}

// A19: what may come in the midst of the stream.
func TestSession_TakesWhatMayComeInBetween(t *testing.T) {
	h := &handled{}
	play(t, h, func(_ context.Context, _ func(), s *server) {
		s.send('S', wire{}.text("TimeZone").text("UTC"))
		s.send('A', wire{}.u32(1).text("c").text("p"))
		s.send('N', wire{'S'}.text("NOTICE").u8('C').text("00000").u8('M').text("hello").u8(0))
		s.keepalive(0x200, 0)
		s.expect(h, "idle 0/200")
	})
}

func TestSession_EndsWithTheRightError(t *testing.T) {
	pgError := func(code, message string) wire {
		return wire{'S'}.text("FATAL").u8('V').text("FATAL").u8('C').text(code).u8('M').text(message).u8(0)
	}
	handlers := errors.New("disk full")
	for _, test := range []struct {
		name      string
		do        func(s *server)
		err       error
		temporary bool
		check     func(error) bool
	}{
		{"admin shutdown", func(s *server) { s.send('E', pgError(codeAdminShutdown, "terminating")) }, nil, true, nil},
		{"publication missing before 18", func(s *server) { s.send('E', pgError(codeUndefinedObject, `publication "p" does not exist`)) }, nil, false, isNotPublished},
		{"D2: publication skipped by 18", func(s *server) {
			s.send('N', wire{'S'}.text("WARNUNG").u8('V').text("WARNING").u8('C').text("55000").u8('M').text(`skipped loading publication "p"`).u8(0))
		}, nil, false, isNotPublished},
		{"E5: undecodable text", func(s *server) { s.send('E', pgError("22021", "invalid byte sequence")) }, nil, false, isSetup},
		{"end of the copy", func(s *server) { s.send('c', nil) }, nil, true, nil},
		{"end of the command", func(s *server) { s.send('C', wire{}.text("COPY 0")) }, nil, true, nil},
		{"end of the connection", func(s *server) { s.conn.Close() }, nil, true, nil},
		{"unknown message", func(s *server) { s.wal(1, wire{'Z'}) }, nil, false, isDecode},
		{"unknown copy data", func(s *server) { s.send('d', wire{'z'}) }, nil, false, isDecode},
		{"no copy data", func(s *server) { s.send('d', nil) }, nil, false, isDecode},
		{"short data", func(s *server) { s.send('d', wire{'w', 0}) }, nil, false, isDecode},
		{"short keepalive", func(s *server) { s.send('d', wire{'k', 0}) }, nil, false, isDecode},
		{"change outside a transaction", func(s *server) { s.wal(1, insert(1, "n")) }, nil, false, isDecode},
		{"truncate outside a transaction", func(s *server) { s.wal(1, wire{'T'}.u32(1).u8(0).u32(1)) }, nil, false, isDecode},
		{"message outside its transaction", func(s *server) { s.wal(1, wire{'M', 1}.u64(9).text("p").bytes("")) }, nil, false, isDecode},
		{"begin in a transaction", func(s *server) { s.wal(1, begin(1, 2)); s.wal(1, begin(1, 2)) }, nil, false, isDecode},
		{"commit of another transaction", func(s *server) { s.wal(1, begin(1, 2)); s.wal(1, commit(3, 4)) }, nil, false, isDecode},
		{"change of an unknown relation", func(s *server) { s.wal(1, begin(1, 2)); s.wal(1, insert(1, "n")) }, nil, false, isDecode},
		{"change with other columns", func(s *server) {
			s.wal(1, begin(1, 2))
			s.wal(0, relation(1, 'd', "*id"))
			s.wal(1, insert(1, "t1", "n"))
		}, nil, false, isDecode},
		{"handler", func(s *server) { s.keepalive(0x200, 0) }, handlers, false, func(err error) bool { return errors.Is(err, handlers) }},
		{"handler with a temporary error", func(s *server) { s.keepalive(0x200, 0) }, io.EOF, false, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := &handled{err: test.err}
			play(t, h, func(_ context.Context, _ func(), s *server) {
				synctest.Wait()
				test.do(s)
				err := s.ended()
				if err == nil || IsTemporary(err) != test.temporary || (test.check != nil && !test.check(err)) {
					t.Errorf("run: %v", err)
				}
			})
		})
	}
}

func isNotPublished(err error) bool { return errors.Is(err, ErrNotPublished) }

func isSetup(err error) bool  { _, ok := errors.AsType[*SetupError](err); return ok }
func isDecode(err error) bool { _, ok := errors.AsType[*DecodeError](err); return ok }
