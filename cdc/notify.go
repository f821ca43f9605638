package cdc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/relay"
)

// Listener receives notifications. They are lossy by nature: the server keeps
// nothing for a listener that is away.
type Listener struct {
	// Source is the source's name in log lines.
	Source string
	URL    relay.Secret
	// Channels are listened to under exactly these names, 1 to 63 bytes each.
	// While Run runs, SetChannels changes them.
	Channels []string
	// Since is when an earlier life was last seen to listen; zero is never. From
	// then on to the first LISTEN is a gap too.
	Since time.Time
	// Alive, when not nil, is told now and then that the listener has just been
	// seen to listen, and with a zero time that it does not any more. It must not
	// wait for long.
	Alive func(time.Time)
	// MaxPause is the longest pause between two tries to connect; 0 is 30 s. A
	// longer one makes longer gaps.
	MaxPause time.Duration
	// Log is where the listener tells what it does; nil is nowhere.
	Log *slog.Logger

	mu  sync.Mutex
	ear string // the probe's channel of the session that listens, "" when none does
}

// SetChannels makes a listener that runs listen to other channels, without a
// moment in which it hears nothing of those that stay. It returns when the
// session, if there is one, has been told to look.
func (l *Listener) SetChannels(ctx context.Context, channels []string) error {
	l.mu.Lock()
	l.Channels = channels
	ear := l.ear
	l.mu.Unlock()
	if ear == "" {
		return nil // the next session listens to them
	}
	return l.notify(ctx, ear)
}

func (l *Listener) channels() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Channels
}

func (l *Listener) setEar(channel string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ear = channel
}

const (
	// listenProbe is how often a session that listens is seen to listen, and the
	// server asked whether it is shutting down: a smart shutdown waits for us.
	listenProbe = 10 * time.Second
	// probeWithin bounds the wait for a notification of our own.
	probeWithin = 5 * time.Second
	// probePrefix begins the channel of the probe.
	probePrefix = "rowhook_probe_"
)

// ValidChannel reports whether the name can be listened to. PostgreSQL cuts a
// longer one without a word.
func ValidChannel(name string) bool { return len(name) >= 1 && len(name) <= 63 }

// Run listens until the context is done, which returns nil, or h or gap returns
// an error. It connects again as often as it takes, except when the server can
// never do what is asked. After each reconnect gap is called with the time of
// the last sign of life and the time from which on notifications come again:
// what was sent between is lost, and whether anything was, nobody knows.
//
// h must not wait for long, because the server cannot forget a notification of
// any database until every listener has taken it.
func (l *Listener) Run(ctx context.Context, h func(*relay.Change) error, gap func(from, to time.Time) error) error {
	log := l.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("source", l.Source)
	for _, channel := range l.channels() {
		if !ValidChannel(channel) {
			return &SetupError{Summary: fmt.Sprintf("%q cannot be the name of a channel: it must have 1 to 63 bytes", channel)}
		}
	}
	pauses := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(200*time.Millisecond), backoff.WithMaxElapsedTime(0), backoff.WithMaxInterval(30*time.Second))
	if l.MaxPause > 0 {
		pauses.MaxInterval = l.MaxPause
	}
	alive := l.Since
	attempt := func() error {
		s, early, err := l.listen(ctx)
		if err != nil {
			return permanently(err)
		}
		defer disconnect(s.conn)
		now := time.Now()
		if !alive.IsZero() {
			if err := gap(alive, now); err != nil {
				return backoff.Permanent(byHandler(err))
			}
		}
		s.alive = func(at time.Time) { alive = at }
		l.seen(s, now)
		log.Info("listening", "channels", s.channels)
		l.setEar(s.probe)
		defer l.setEar("")
		defer l.tell(time.Time{})
		// A session that worked begins the pauses anew.
		defer pauses.Reset()
		return permanently(l.receive(ctx, s, early, h))
	}
	err := backoff.RetryNotify(attempt, backoff.WithContext(pauses, ctx), func(err error, pause time.Duration) {
		log.Warn("listening interrupted", "err", err, "pause", pause)
	})
	return ended(ctx, err)
}

func permanently(err error) error {
	if IsTemporary(err) {
		return err
	}
	return backoff.Permanent(err)
}

// listening is a session in autocommit (notifications do not arrive within a
// transaction) that listens, also to a channel of its own.
type listening struct {
	conn *pgx.Conn
	// probe is the channel on which the session is seen to listen; nobody else
	// can know its name.
	probe    string
	channels []string
	alive    func(time.Time)
}

// listen opens a session that listens and has been seen to. early are the
// notifications that arrived meanwhile.
func (l *Listener) listen(ctx context.Context) (_ *listening, early []*pgconn.Notification, err error) {
	conn, err := connect(ctx, l.URL, "listen", "")
	if err != nil {
		return nil, nil, err
	}
	s := &listening{conn: conn, probe: probePrefix + rand.Text()}
	if err = s.exec(ctx, "LISTEN", s.probe); err == nil {
		err = s.follow(ctx, l.channels())
	}
	if err == nil {
		early, err = l.await(ctx, s)
	}
	if sqlState(err) == codeReadOnly {
		err = &SetupError{Summary: "the source's url leads to a standby, where LISTEN is not possible: the primary is needed", Err: err}
	}
	if err != nil {
		disconnect(conn)
		return nil, nil, err
	}
	return s, early, nil
}

func (s *listening) exec(ctx context.Context, verb, channel string) error {
	if _, err := s.conn.Exec(ctx, verb+" "+quoteIdent(channel)); err != nil {
		return fmt.Errorf("%s %s: %w", verb, channel, err)
	}
	return nil
}

// follow makes the session listen to the channels, and to no others.
func (s *listening) follow(ctx context.Context, channels []string) error {
	for _, c := range channels {
		if !slices.Contains(s.channels, c) {
			if err := s.exec(ctx, "LISTEN", c); err != nil {
				return err
			}
		}
	}
	for _, c := range s.channels {
		if !slices.Contains(channels, c) {
			if err := s.exec(ctx, "UNLISTEN", c); err != nil {
				return err
			}
		}
	}
	s.channels = channels
	return nil
}

// await sends a notification from another session and waits for it.
func (l *Listener) await(ctx context.Context, s *listening) (early []*pgconn.Notification, err error) {
	if err := l.notify(ctx, s.probe); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	for {
		n, err := s.conn.WaitForNotification(ctx)
		switch {
		case err != nil && pgconn.Timeout(err) && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return nil, deaf()
		case err != nil:
			return nil, fmt.Errorf("listen: %w", err)
		case n.Channel == s.probe:
			return early, nil
		}
		early = append(early, n)
	}
}

// notify sends a notification from a session of its own.
func (l *Listener) notify(ctx context.Context, channel string) error {
	other, err := connect(ctx, l.URL, "probe", "")
	if err != nil {
		return err
	}
	defer disconnect(other)
	if _, err = other.Exec(ctx, "SELECT pg_catalog.pg_notify($1, '')", channel); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}

// deaf says what a listener means that hears nothing of its own. A pooler that
// gives each transaction another session takes LISTEN and then delivers nothing.
func deaf() error {
	return &SetupError{
		Summary: "notifications do not arrive: the source's url leads to a connection pooler, and a direct connection to PostgreSQL is needed",
		Detail:  fmt.Sprintf("LISTEN succeeded, and a notification that was sent did not arrive within %s", probeWithin),
	}
}

func (l *Listener) seen(s *listening, at time.Time) {
	s.alive(at)
	l.tell(at)
}

func (l *Listener) tell(at time.Time) {
	if l.Alive != nil {
		l.Alive(at)
	}
}

// receive hands notifications on until something breaks. From time to time it
// sends one to itself: one that does not come back, on a connection that seemed
// to work, is a session that no longer listens.
func (l *Listener) receive(ctx context.Context, s *listening, early []*pgconn.Notification, h func(*relay.Change) error) error {
	for _, n := range early {
		if err := notified(n, h); err != nil {
			return err
		}
	}
	next := time.Now().Add(listenProbe)
	var due time.Time // when the probe under way has to have come back; zero is none
	for {
		wake := next
		if !due.IsZero() {
			wake = due
		}
		wait, cancel := context.WithDeadline(ctx, wake)
		n, err := s.conn.WaitForNotification(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !pgconn.Timeout(err):
			return fmt.Errorf("listen: %w", err)
		case err != nil && !due.IsZero():
			return deaf()
		case err != nil: // time for the next probe
		case n.Channel == s.probe:
			due = time.Time{}
			if err := s.follow(ctx, l.channels()); err != nil {
				return err
			}
			l.seen(s, time.Now())
		default:
			began := time.Now()
			if err := notified(n, h); err != nil {
				return err
			}
			now := time.Now()
			if !due.IsZero() {
				due = due.Add(now.Sub(began)) // it may be here already
			}
			s.alive(now)
		}
		if due.IsZero() && !time.Now().Before(next) {
			next = time.Now().Add(listenProbe)
			if due, err = l.probe(ctx, s); err != nil {
				return err
			}
		}
	}
}

// probe sends the session a notification and returns when it has to have come;
// zero when the server has no room for another session, and this one lives. A
// server that takes no session because it is shutting down may be waiting for
// this one to go.
func (l *Listener) probe(ctx context.Context, s *listening) (due time.Time, err error) {
	err = l.notify(ctx, s.probe)
	switch {
	case err == nil:
		return time.Now().Add(probeWithin), nil
	case sqlState(err) == codeCannotConnectNow:
		return time.Time{}, &temporaryError{msg: "the server is shutting down", err: err}
	}
	ping, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	if dead := s.conn.Ping(ping); dead != nil {
		return time.Time{}, fmt.Errorf("listen: %w", dead)
	}
	return time.Time{}, nil
}

func notified(n *pgconn.Notification, h func(*relay.Change) error) error {
	return byHandler(h(&relay.Change{
		Op: relay.Notify, Name: n.Channel, Payload: []byte(n.Payload), PID: n.PID, Time: time.Now().UnixMicro(),
	}))
}
