package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

const (
	// notifyPatience is how long a notification waits for a log that takes
	// nothing before it is given up: the server cannot keep it.
	notifyPatience = 5 * time.Second
	// aliveInterval is how often the store is told that the source listens. By so
	// much the gap of a restart may be recorded too long.
	aliveInterval = time.Minute
	// deafRetry is how long to wait before a server is asked again that cannot do
	// what LISTEN needs.
	deafRetry = 5 * time.Second
	// notifyGapType is the type of the event that tells of lost notifications.
	notifyGapType = "rowhook.notify_gap"
)

// aliveKey is the setting that says when the source was last seen to listen.
func aliveKey(source string) string { return "notify.alive." + source }

// runNotify receives the notifications of the source until ctx is done.
func (s *source) runNotify(ctx context.Context) error {
	for len(s.rules.Load().Channels()) == 0 {
		select {
		case <-s.channels:
		case <-ctx.Done():
			return nil
		}
	}
	n, err := s.openNotify(ctx)
	for err != nil {
		s.log.Error("notifications cannot be stored, trying again", "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
		n, err = s.openNotify(ctx)
	}
	stop := s.runIngest(n.in)
	defer stop()
	defer n.close(ctx)
	listener := &cdc.Listener{
		Source: s.cfg.Name, URL: s.cfg.URL, Channels: s.rules.Load().Channels(), Log: s.d.log, Since: n.since, Alive: n.listens,
	}
	s.mu.Lock()
	s.listener = listener
	s.mu.Unlock()
	// A reload may have come meanwhile.
	_ = listener.SetChannels(ctx, s.rules.Load().Channels()) // fails only while it listens
	for {
		err := listener.Run(ctx, func(c *relay.Change) error { return n.take(ctx, c) }, func(from, to time.Time) error {
			n.gap(from, to, 0, "nothing listened")
			return nil
		})
		if err == nil || ctx.Err() != nil {
			return nil
		}
		s.log.Error("notifications are not received until somebody does something", "err", err)
		s.setNotifyProblem(reasonText(err))
		if s.d.o.ExitOnSourceStop {
			return err
		}
		select {
		case <-time.After(deafRetry):
		case <-ctx.Done():
			return nil
		}
		listener.Since = n.lastAlive()
	}
}

// notifications hands what a source's channels bring to the log, and accounts
// for what they do not.
type notifications struct {
	s  *source
	in *relay.Ingest
	// since is when an earlier life of the daemon was last seen to listen.
	since time.Time

	mu    sync.Mutex
	alive time.Time // last seen to listen
	told  time.Time // when the store was told
	// While the log takes nothing: since when, and how many were given up.
	refused time.Time
	lost    int
	waiting sync.WaitGroup // for room
}

func (s *source) openNotify(ctx context.Context) (*notifications, error) {
	st, err := s.d.store.SourceState(ctx, s.cfg.Name)
	if err != nil {
		return nil, err
	}
	alive, _, err := s.d.store.Setting(ctx, aliveKey(s.cfg.Name))
	if err != nil {
		return nil, err
	}
	last, err := s.d.lastEvent(ctx, notifyStream(s.cfg.Name))
	if err != nil {
		return nil, err
	}
	ic := relay.IngestConfig{
		Stream: notifyStream(s.cfg.Name), Source: s.cfg.Name, Rules: s.rules.Load().RuleSet, Log: s.d.store, Feed: s.d.feed,
		Logger: s.d.log, MaxFailures: -1, Stats: &s.notifyStats, Epoch: time.Now().UnixMicro(), LastNotify: int64(last.Place),
		Keep: s.cfg.KeepChanges > 0,
	}
	if st != nil {
		ic.SystemID = st.SystemID
	}
	in, err := relay.NewIngest(ctx, ic, nil)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.notify = in
	paused := s.paused
	s.mu.Unlock()
	if now := s.rules.Load().RuleSet; now != ic.Rules {
		in.SetRules(relay.NextRules{Rules: now}) // a reload came meanwhile
	}
	if paused != "" {
		in.Pause(paused)
	}
	n := &notifications{s: s, in: in}
	if alive != "" {
		if n.since, err = time.Parse(time.RFC3339Nano, alive); err != nil {
			return nil, fmt.Errorf("setting %s: %w", aliveKey(s.cfg.Name), err)
		}
	}
	return n, nil
}

// take hands a notification to the log. When the log takes nothing, the first
// one waits a little; it and those after it are given up, until there is room.
func (n *notifications) take(ctx context.Context, c *relay.Change) error {
	full := n.in.Full()
	if full == nil {
		n.roomAgain()
		return n.in.Change(c)
	}
	n.mu.Lock()
	refusing := !n.refused.IsZero()
	n.mu.Unlock()
	if !refusing {
		began := time.Now()
		patience := time.NewTimer(notifyPatience)
		defer patience.Stop()
		select {
		case <-full:
			return n.in.Change(c)
		case <-patience.C:
		case <-ctx.Done():
			return nil
		}
		n.s.log.Error("notifications are given up: the log takes nothing")
		n.mu.Lock()
		n.refused = began
		n.mu.Unlock()
		n.waiting.Go(func() {
			select {
			case <-full:
				n.roomAgain()
			case <-ctx.Done():
			}
		})
	}
	n.mu.Lock()
	n.lost++
	n.mu.Unlock()
	return nil
}

// roomAgain ends a time in which the log took nothing.
func (n *notifications) roomAgain() {
	n.mu.Lock()
	from, lost := n.refused, n.lost
	n.refused, n.lost = time.Time{}, 0
	n.mu.Unlock()
	if !from.IsZero() {
		n.gap(from, time.Now(), lost, "the log took nothing")
	}
}

// gap records that notifications are missing, or may be, as a gap of the source
// and as an event. lost is how many are known to be; 0 is unknown.
func (n *notifications) gap(from, to time.Time, lost int, why string) {
	from, to = from.UTC().Round(0), to.UTC().Round(0) // the length is that of the times that are said
	if from.After(to) {
		from = to // the clock was set back
	}
	s, length := n.s, to.Sub(from)
	if lost > 0 {
		why = fmt.Sprintf("%s, %d were given up", why, lost)
	}
	data, err := json.Marshal(struct {
		Channels []string  `json:"channels"`
		From     time.Time `json:"from"`
		To       time.Time `json:"to"`
		Seconds  float64   `json:"seconds"`
		Lost     int       `json:"lost,omitempty"`
		Reason   string    `json:"reason"`
	}{s.rules.Load().Channels(), from, to, length.Seconds(), lost, why})
	if err != nil {
		s.log.Error("gap in the notifications cannot be recorded", "err", err)
		return
	}
	g := &relay.Gap{
		Source: s.cfg.Name, Generation: 1, At: to.UnixMicro(),
		Reason: fmt.Sprintf("notifications sent between %s and %s (%s) are lost: %s", from.UTC().Format(time.RFC3339Nano), to.UTC().Format(time.RFC3339Nano), length.Round(time.Millisecond), why),
	}
	s.log.Warn("gap in the notifications", "from", from, "to", to, "length", length, "reason", why)
	n.in.Gap(g, notifyGapType, data)
	s.notifyGaps.Add(1)
	s.notifyGapMicros.Add(length.Microseconds())
	s.noteGap(g)
}

// listens notes that the source was seen to listen, and that what it heard had
// room; at a zero time, that it does not listen any more.
func (n *notifications) listens(at time.Time) {
	n.s.setListening(!at.IsZero())
	if at.IsZero() {
		return
	}
	n.mu.Lock()
	if !n.refused.IsZero() {
		n.mu.Unlock()
		return
	}
	n.alive = at
	due := at.Sub(n.told) >= aliveInterval
	if due {
		n.told = at
	}
	n.mu.Unlock()
	if due {
		n.tell(context.Background(), at)
	}
}

func (n *notifications) lastAlive() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.alive.IsZero() {
		return n.since
	}
	return n.alive
}

func (n *notifications) tell(ctx context.Context, at time.Time) {
	err := n.s.d.store.PutSetting(ctx, aliveKey(n.s.cfg.Name), at.UTC().Format(time.RFC3339Nano))
	if err != nil {
		n.s.log.Warn("the store cannot note that notifications are received", "err", err)
	}
}

// close tells the store how far the notifications were received, for the gap
// that the next start records.
func (n *notifications) close(ctx context.Context) {
	n.waiting.Wait()
	if at := n.lastAlive(); !at.IsZero() {
		n.tell(context.WithoutCancel(ctx), at)
	}
}

// reloadNotify makes the rules judge the notifications from now on.
func (s *source) reloadNotify(ctx context.Context, next *relay.RuleSet) error {
	s.mu.Lock()
	in, listener := s.notify, s.listener
	s.mu.Unlock()
	if in != nil {
		in.SetRules(relay.NextRules{Rules: next})
	}
	if listener != nil {
		return listener.SetChannels(ctx, next.Channels())
	}
	select {
	case s.channels <- struct{}{}:
	default:
	}
	return nil
}

func (s *source) setListening(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listening = on
	if on {
		s.notifyProblem = ""
	}
}

func (s *source) setNotifyProblem(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notifyProblem = reason
}

func (s *source) channelStatus() []api.ChannelStatus {
	var out []api.ChannelStatus
	rules := s.rules.Load()
	for _, name := range rules.Channels() {
		c := api.ChannelStatus{Name: name, Listening: s.listening}
		for i, r := range rules.Rules() {
			if r.Channel == name {
				c.Notifications = max(c.Notifications, rules.Stats(i).Seen.Load())
			}
		}
		out = append(out, c)
	}
	return out
}
