package webhook

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rowhook/rowhook/relay"
)

// The defaults of a Config.
const (
	DefaultTimeout        = 15 * time.Second
	DefaultConnectTimeout = 5 * time.Second
	DefaultMaxInFlight    = 64
	DefaultMaxBody        = 16 << 20
)

// FormatStandard is the body format of Standard Webhooks 1.0.
const FormatStandard = "standard"

// Config says where and how a Sink sends.
type Config struct {
	// URL is where events are posted to, http or https. User and password in it
	// become a Basic authorization header. It may be a secret as a whole: no
	// error, log or outcome shows more of it than scheme, host and port.
	URL relay.Secret
	// Secrets sign, every one of them; see [ParseKey]. To replace one, add the
	// new one, let the receiver learn it, then remove the old one.
	Secrets []relay.Secret
	// Unsigned allows Secrets to be empty.
	Unsigned bool
	// Format is the form of the body; "" is FormatStandard, the only one.
	Format string
	// Timeout bounds an attempt from the name lookup to the last byte read of
	// the answer; 0 is 15 s. A short one makes slow receivers get events twice, a
	// long one lets a receiver that hangs hold up its keys for as long.
	Timeout time.Duration
	// ConnectTimeout bounds the dial with its name lookup, and again the TLS
	// handshake, within Timeout; 0 is 5 s.
	ConnectTimeout time.Duration
	// Headers are sent with every request. Those that HTTP, the signature or
	// Rowhook need cannot be set.
	Headers map[string]relay.Secret
	// AllowPrivate allows receivers at loopback, private and other special
	// addresses: right for an endpoint the operator declared, wrong for one that
	// a customer did.
	AllowPrivate bool
	// CAFile is a PEM file of the certificate authorities to trust instead of
	// the system's; "" is the system's.
	CAFile string
	// UserAgent is "Rowhook/" and the version; "" is "Rowhook".
	UserAgent string
	// MaxInFlight is how many connections are kept for the next attempt; 0 is 64.
	// With fewer than there are attempts at once, connections are made and closed
	// all the time. It does not limit the attempts: the dispatcher does.
	MaxInFlight int
	// MaxBody is the size in bytes of an event's data past which the event is
	// rejected, unsent; 0 is 16 MiB. Each attempt under way holds its request in
	// memory.
	MaxBody int
}

// Sink sends events to one URL. It is safe for concurrent use.
type Sink struct {
	target  string
	timeout time.Duration
	connect time.Duration
	maxBody int
	keys    []Key
	head    []byte // what every request begins with
	headMax int
	hidden  *strings.Replacer
	dialer  *dialer
	pool    pool
}

var (
	_ relay.Sink   = (*Sink)(nil)
	_ relay.Prober = (*Sink)(nil)
)

// New returns a sink. It makes no connection. All that is wrong with the
// configuration is in the error, joined; none of it shows a secret.
func New(cfg Config) (*Sink, error) {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	s := &Sink{
		timeout: cfg.Timeout,
		connect: cfg.ConnectTimeout,
		maxBody: cfg.MaxBody,
	}
	if s.timeout < 0 || s.connect < 0 {
		wrong("a timeout is negative")
	}
	if s.timeout == 0 {
		s.timeout = DefaultTimeout
	}
	if s.connect == 0 {
		s.connect = DefaultConnectTimeout
	}
	if s.maxBody <= 0 {
		s.maxBody = DefaultMaxBody
	}
	if cfg.Format != "" && cfg.Format != FormatStandard {
		wrong("format %q is unknown; the format is %q", cfg.Format, FormatStandard)
	}
	keys, err := ParseKeys(cfg.Secrets)
	if err != nil {
		errs = append(errs, err)
	}
	s.keys = keys
	switch {
	case len(cfg.Secrets) == 0 && !cfg.Unsigned:
		wrong("no secret to sign with; set secrets, or unsigned = true to send without signatures")
	case len(cfg.Secrets) > 0 && cfg.Unsigned:
		wrong("unsigned is set together with secrets; remove one of them")
	}
	t, err := parseTarget(cfg.URL)
	if err != nil {
		errs = append(errs, err)
	}
	headers, err := checkHeaders(cfg.Headers, t.authorization != "")
	if err != nil {
		errs = append(errs, err)
	}
	agent := cfg.UserAgent
	if agent == "" {
		agent = "Rowhook"
	}
	if !isFieldValue(agent) {
		wrong("the user agent has a control character")
	}
	roots, err := cfg.roots()
	if err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s.pool.keep = cfg.MaxInFlight
	if s.pool.keep <= 0 {
		s.pool.keep = DefaultMaxInFlight
	}
	s.target = t.printable
	s.head = t.appendHead(nil, agent, headers)
	s.headMax = len(s.head) + maxAttemptHead + len(s.keys)*signatureLen
	s.hidden = hide(&t, cfg.Headers)
	s.dialer = newDialer(t.host, t.port, t.secure, cfg.AllowPrivate, roots, s.connect, s.pool.keep)
	return s, nil
}

// Target returns scheme, host and port of the URL, and "/..." for a path: the
// paths of many webhook receivers are their passwords.
func (s *Sink) Target() string { return s.target }

// String returns what Target does.
func (s *Sink) String() string { return s.target }

// GoString returns what Target does.
func (s *Sink) GoString() string { return s.target }

// Close closes the kept connections. Attempts under way go on, and further ones
// work, on connections of their own. A sink that is not closed loses its
// connections after 90 seconds without an attempt.
func (s *Sink) Close() { s.pool.close() }

// Probe reports whether the receiver accepts a connection, with its TLS
// handshake, and keeps it for the next attempt. Nothing is sent.
func (s *Sink) Probe(ctx context.Context) error {
	c, err := s.dial(ctx, time.Now().Add(s.timeout))
	if err != nil {
		return err
	}
	s.pool.put(c, time.Now())
	return nil
}

// Send makes one attempt; see [relay.Sink] and the package comment.
func (s *Sink) Send(ctx context.Context, d *relay.Delivery) relay.Outcome {
	start := time.Now()
	if size := len(d.Event.Data) + len(d.Event.Key) + len(d.Event.Tenant); size > s.maxBody {
		return relay.Outcome{
			Result: relay.Rejected, Class: relay.ErrPayload,
			Err: fmt.Sprintf("the event has %d bytes; the limit is %d", size, s.maxBody),
		}
	}
	if ctx.Err() != nil {
		return cutOutcome(start)
	}
	res, err := s.attempt(ctx, d, start.Add(s.timeout))
	if err != nil {
		if ctx.Err() != nil {
			return cutOutcome(start)
		}
		var f *failure
		if !errors.As(err, &f) {
			f = brokenFailure(err)
		}
		return relay.Outcome{Result: relay.Failed, Class: f.class, Err: f.text, Duration: time.Since(start)}
	}
	now := time.Now()
	out := relay.Outcome{Status: res.status, Duration: now.Sub(start)}
	out.Result, out.Class = classify(res.status)
	if out.Result != relay.Delivered {
		out.RetryAfter = retryAfter(res.status, res.retryAfter, now)
		out.Err = statusText(res.status)
		out.Response = []byte(s.hidden.Replace(string(res.kept)))
	}
	return out
}

func cutOutcome(start time.Time) relay.Outcome {
	return relay.Outcome{Result: relay.Cut, Class: relay.ErrShutdown, Err: "cut by shutdown", Duration: time.Since(start)}
}

// raceWindow is how long after the write the end of a kept connection is still
// taken for the race with the receiver's idle timeout.
const raceWindow = time.Second

// attempt sends the delivery over a kept connection, if there is one that is
// not stale, or a new one. See the package comment for when it sends twice.
func (s *Sink) attempt(ctx context.Context, d *relay.Delivery, deadline time.Time) (response, error) {
	c := s.pool.take(ctx)
	kept := c != nil
	var req *request
	for {
		if c == nil {
			var err error
			if c, err = s.dial(ctx, deadline); err != nil {
				return response{}, err
			}
		}
		if kept && !c.drained() {
			s.pool.drop(c)
			c = s.pool.take(ctx)
			kept = c != nil
			continue
		}
		begun := time.Now()
		if req == nil {
			if req = c.req; req == nil {
				req = s.newRequest()
			}
			req.build(s, d, begun)
		}
		c.req = req
		c.nc.SetDeadline(deadline) //nolint:errcheck // on a closed connection the next call says so
		if err := ctx.Err(); err != nil {
			// The end of ctx may have come before the deadline was set.
			s.pool.drop(c)
			return response{}, err
		}
		res, err := c.roundTrip(req.bytes(), kept)
		if err == nil {
			if res.reusable {
				s.pool.put(c, begun)
			} else {
				s.pool.drop(c)
			}
			return res, nil
		}
		silent := !c.rd.any
		s.pool.drop(c)
		switch {
		case errors.Is(err, errStale):
			// Nothing was written: any other connection will do.
			c = s.pool.take(ctx)
			kept = c != nil
		case kept && silent && closedByPeer(err) && time.Since(begun) < raceWindow && ctx.Err() == nil:
			c, kept = nil, false
		default:
			return response{}, err
		}
	}
}

// dial makes a connection, busy for an attempt of ctx.
func (s *Sink) dial(ctx context.Context, deadline time.Time) (*conn, error) {
	nc, tcp, err := s.dialer.dial(ctx, deadline)
	if err != nil {
		return nil, err
	}
	c := newConn(nc, tcp, time.Now())
	s.pool.add(ctx, c)
	return c, nil
}
