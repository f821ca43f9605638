package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// notifyPatience is how long a notification waits for a log that takes nothing
// before it is given up and a gap recorded: the server cannot keep it.
const notifyPatience = 5 * time.Second

// runNotify receives the notifications of the source until ctx is done.
func (s *source) runNotify(ctx context.Context) error {
	in, err := s.openNotify(ctx)
	for err != nil {
		s.log.Error("notifications cannot be stored, trying again", "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
		in, err = s.openNotify(ctx)
	}
	stop := s.runIngest(in)
	defer stop()
	listener := &cdc.Listener{Source: s.cfg.Name, URL: s.cfg.URL, Channels: s.rules.Channels(), Log: s.d.log}
	err = listener.Run(ctx, func(c *relay.Change) error {
		if full := in.Full(); full != nil {
			began := time.Now()
			select {
			case <-full:
			case <-time.After(notifyPatience):
				return s.gap(ctx, began, time.Now(), "a notification was given up: the log takes nothing")
			case <-ctx.Done():
				return nil
			}
		}
		return in.Change(c)
	}, func(from, to time.Time) error {
		return s.gap(ctx, from, to, "nothing listened")
	})
	if err == nil || ctx.Err() != nil {
		return nil
	}
	s.log.Error("notifications are not received until somebody does something", "err", err)
	s.setNotifyProblem(reasonText(err))
	if s.d.o.ExitOnSourceStop {
		return err
	}
	<-ctx.Done()
	return nil
}

func (s *source) openNotify(ctx context.Context) (*relay.Ingest, error) {
	st, err := s.d.store.SourceState(ctx, s.cfg.Name)
	if err != nil {
		return nil, err
	}
	ic := relay.IngestConfig{
		Stream: notifyStream(s.cfg.Name), Source: s.cfg.Name, Rules: s.rules, Log: s.d.store, Feed: s.d.feed,
		Logger: s.d.log, MaxFailures: -1, Stats: &s.notifyStats, Epoch: time.Now().UnixMicro(),
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
	if paused != "" {
		in.Pause(paused)
	}
	return in, nil
}

// gap records that notifications may be missing.
func (s *source) gap(ctx context.Context, from, to time.Time, why string) error {
	g := &relay.Gap{
		Source: s.cfg.Name, Generation: 1, At: to.UnixMicro(),
		Reason: fmt.Sprintf("notifications sent between %s and %s (%s) are lost: %s", from.UTC().Format(time.RFC3339Nano), to.UTC().Format(time.RFC3339Nano), to.Sub(from).Round(time.Millisecond), why),
	}
	s.log.Warn("gap in the notifications", "from", from, "to", to, "length", to.Sub(from), "reason", why)
	if err := s.d.store.PutSource(ctx, nil, g); err != nil {
		s.log.Error("gap cannot be recorded", "err", err)
		return nil
	}
	s.noteGap(g)
	return nil
}

func (s *source) setNotifyProblem(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notifyProblem = reason
}

func (s *source) channelStatus() []api.ChannelStatus {
	var out []api.ChannelStatus
	for _, name := range s.rules.Channels() {
		c := api.ChannelStatus{Name: name, Listening: s.notify != nil && s.notifyProblem == ""}
		for i, r := range s.rules.Rules() {
			if r.Channel == name {
				c.Notifications = max(c.Notifications, s.rules.Stats(i).Seen.Load())
			}
		}
		out = append(out, c)
	}
	return out
}
