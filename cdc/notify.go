package cdc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
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
	Channels []string
	// MaxPause is the longest pause between two tries to connect; 0 is 30 s. A
	// longer one makes longer gaps.
	MaxPause time.Duration
	// Log is where the listener tells what it does; nil is nowhere.
	Log *slog.Logger
}

const (
	// listenPing is how long a session may be silent before it is asked for a sign
	// of life.
	listenPing = 10 * time.Second
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
	for _, channel := range l.Channels {
		if !ValidChannel(channel) {
			return &SetupError{Summary: fmt.Sprintf("%q cannot be the name of a channel: it must have 1 to 63 bytes", channel)}
		}
	}
	pauses := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(200*time.Millisecond), backoff.WithMaxElapsedTime(0), backoff.WithMaxInterval(30*time.Second))
	if l.MaxPause > 0 {
		pauses.MaxInterval = l.MaxPause
	}
	var alive time.Time // the last sign of life; zero before the first
	attempt := func() error {
		conn, early, err := l.listen(ctx)
		if err != nil {
			return permanently(err)
		}
		defer disconnect(conn)
		now := time.Now()
		if !alive.IsZero() {
			log.Warn("notifications may have been lost", "from", alive, "to", now, "gap", now.Sub(alive))
			if err := gap(alive, now); err != nil {
				return backoff.Permanent(byHandler(err))
			}
		}
		alive = now
		log.Info("listening", "channels", l.Channels)
		// A session that worked begins the pauses anew.
		defer pauses.Reset()
		return permanently(receive(ctx, conn, early, h, &alive))
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

// listen opens a session in autocommit (notifications do not arrive within a
// transaction) that listens, and has been seen to. early are the notifications
// that arrived meanwhile.
func (l *Listener) listen(ctx context.Context) (_ *pgx.Conn, early []*pgconn.Notification, err error) {
	conn, err := connect(ctx, l.URL, "listen", "")
	if err != nil {
		return nil, nil, err
	}
	probe := probePrefix + rand.Text()
	for _, channel := range append([]string{probe}, l.Channels...) {
		if _, err = conn.Exec(ctx, "LISTEN "+quoteIdent(channel)); err != nil {
			err = fmt.Errorf("listen to %s: %w", channel, err)
			break
		}
	}
	if err == nil {
		early, err = l.probe(ctx, conn, probe)
	}
	if sqlState(err) == codeReadOnly {
		err = &SetupError{Summary: "the source's url leads to a standby, where LISTEN is not possible: the primary is needed", Err: err}
	}
	if err != nil {
		disconnect(conn)
		return nil, nil, err
	}
	return conn, early, nil
}

// probe sends a notification from another session and waits for it. A pooler
// that gives each transaction another session takes LISTEN and then delivers
// nothing.
func (l *Listener) probe(ctx context.Context, conn *pgx.Conn, channel string) (early []*pgconn.Notification, err error) {
	other, err := connect(ctx, l.URL, "probe", "")
	if err != nil {
		return nil, err
	}
	_, err = other.Exec(ctx, "SELECT pg_catalog.pg_notify($1, '')", channel)
	disconnect(other)
	if err != nil {
		return nil, fmt.Errorf("notify: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(ctx)
		switch {
		case err != nil && pgconn.Timeout(err) && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return nil, &SetupError{
				Summary: "notifications do not arrive: the source's url leads to a connection pooler, and a direct connection to PostgreSQL is needed",
				Detail:  fmt.Sprintf("LISTEN succeeded, and a notification that was sent did not arrive within %s", probeWithin),
			}
		case err != nil:
			return nil, fmt.Errorf("listen: %w", err)
		case n.Channel == channel:
			_, err = conn.Exec(ctx, "UNLISTEN "+quoteIdent(channel))
			return early, err
		}
		early = append(early, n)
	}
}

// receive hands notifications on until something breaks, and asks a silent
// session for a sign of life.
func receive(ctx context.Context, conn *pgx.Conn, early []*pgconn.Notification, h func(*relay.Change) error, alive *time.Time) error {
	for _, n := range early {
		if err := notified(n, h); err != nil {
			return err
		}
	}
	for {
		wait, cancel := context.WithTimeout(ctx, listenPing)
		n, err := conn.WaitForNotification(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			if err := notified(n, h); err != nil {
				return err
			}
		case pgconn.Timeout(err):
			ping, cancel := context.WithTimeout(ctx, listenPing)
			err := conn.Ping(ping)
			cancel()
			if err != nil {
				return fmt.Errorf("listen: %w", err)
			}
		default:
			return fmt.Errorf("listen: %w", err)
		}
		*alive = time.Now()
	}
}

func notified(n *pgconn.Notification, h func(*relay.Change) error) error {
	return byHandler(h(&relay.Change{
		Op: relay.Notify, Name: n.Channel, Payload: []byte(n.Payload), PID: n.PID, Time: time.Now().UnixMicro(),
	}))
}
