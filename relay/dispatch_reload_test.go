package relay_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// TestDispatcher_ReconfiguresInRandomWorlds lets endpoints be added, removed and changed while they
// deliver, fail and are slow, while events come, the ledger refuses and the dispatcher is killed. At
// the end all endpoints are there again, and each has got what the version of it in force wanted:
// every event of that once, in order per key, and nothing else.
func TestDispatcher_ReconfiguresInRandomWorlds(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newReloadWorld(t, seed).run() })
		})
	}
}

type reloadWorld struct {
	t        *testing.T
	seed     uint64
	rnd      *rand.Rand
	w        *writer
	l        *life
	lifeNo   int
	attempts int
	// config are the patterns of the endpoints there are; next, when not nil, those
	// that a reconfiguration under way may have put in force already.
	config, next map[string]string
	changing     chan struct{}
	keys         map[int64]string
	// must and may hold, by endpoint, what it has to get and what it may get.
	must, may map[string]map[int64]bool

	mu  sync.Mutex
	log map[string][]sentIn // by endpoint
}

func newReloadWorld(t *testing.T, seed uint64) *reloadWorld {
	rnd := rand.New(rand.NewPCG(seed, 2))
	return &reloadWorld{
		t: t, seed: seed, rnd: rnd, w: &writer{store: &relaytest.Memory{}}, attempts: 2 + rnd.IntN(3),
		config: map[string]string{"a": "**", "b": "order.**"}, keys: map[int64]string{},
		must: map[string]map[int64]bool{}, may: map[string]map[int64]bool{}, log: map[string][]sentIn{},
	}
}

func (rw *reloadWorld) send(id string) func(context.Context, relaytest.Sent) relay.Outcome {
	return func(ctx context.Context, s relaytest.Sent) relay.Outcome {
		note := func(e sentIn) {
			rw.mu.Lock()
			defer rw.mu.Unlock()
			e.life = rw.lifeNo
			rw.log[id] = append(rw.log[id], e)
		}
		note(sentIn{Sent: s, started: true})
		r := rand.New(rand.NewPCG(rw.seed, uint64(id[0])<<48|uint64(s.Seq)<<8|uint64(s.Attempt)))
		select {
		case <-time.After(time.Duration(r.IntN(80)) * time.Millisecond):
		case <-ctx.Done():
			return relay.Outcome{Result: relay.Cut}
		}
		var out relay.Outcome
		switch p := r.IntN(100); {
		case p < 70:
		case p < 92:
			out = failed([]relay.ErrorClass{relay.ErrStatus5, relay.ErrTimeout, relay.ErrConnect}[r.IntN(3)])
		default:
			out = relay.Outcome{Result: relay.Rejected, Class: relay.ErrPayload}
		}
		note(sentIn{Sent: s, delivered: out.Result == relay.Delivered || out.Result == relay.Rejected, dead: out.Result == relay.Failed && s.Attempt >= rw.attempts})
		return out
	}
}

func (rw *reloadWorld) endpoint(id, events string) *relay.Endpoint {
	return &relay.Endpoint{
		ID: id, Events: patterns(rw.t, strings.Fields(events)...), Sink: &relaytest.Sink{Script: rw.send(id)}, MaxInFlight: 1 + rw.rnd.IntN(6),
		Retry: relay.RetryPolicy{MaxAttempts: rw.attempts, Initial: 300 * time.Millisecond, Max: 2 * time.Second},
	}
}

func (rw *reloadWorld) begin() {
	var eps []*relay.Endpoint
	for _, id := range slices.Sorted(maps.Keys(rw.config)) {
		eps = append(eps, rw.endpoint(id, rw.config[id]))
	}
	rw.l = begin(rw.t, rw.w, eps...)
}

// event appends an event, and notes who has to get it: whoever wants it by the configuration in
// force, and by that which may be in force already.
func (rw *reloadWorld) event() {
	e := keyed(string(rune('k' + rw.rnd.IntN(4))))
	e.Type = []string{"order.paid", "user.new"}[rw.rnd.IntN(2)]
	rw.w.add(rw.t, e)
	rw.mu.Lock()
	defer rw.mu.Unlock()
	seq := rw.w.seq
	rw.keys[seq] = string(e.Key)
	wants := func(config map[string]string, id string) bool {
		events, ok := config[id]
		return ok && patterns(rw.t, strings.Fields(events)...).Match(e.Type, 1)
	}
	for _, id := range []string{"a", "b", "c"} {
		now, soon := wants(rw.config, id), wants(rw.config, id)
		if rw.next != nil {
			soon = wants(rw.next, id)
		}
		if rw.must[id] == nil {
			rw.must[id], rw.may[id] = map[int64]bool{}, map[int64]bool{}
		}
		if now && soon {
			rw.must[id][seq] = true
		}
		if now || soon {
			rw.may[id][seq] = true
		}
	}
}

// reconfigure begins a change to other endpoints; the ledger may refuse for a while.
func (rw *reloadWorld) reconfigure(next map[string]string) {
	var put []*relay.Endpoint
	var remove []string
	for _, id := range []string{"a", "b", "c"} {
		_, had := rw.config[id]
		events, has := next[id]
		switch {
		case has && (!had || events != rw.config[id] || rw.rnd.IntN(2) == 0): // changed, or something else of it is
			put = append(put, rw.endpoint(id, events))
		case had && !has:
			remove = append(remove, id)
		}
	}
	if rw.rnd.IntN(3) == 0 {
		fault := rand.New(rand.NewPCG(rw.seed, uint64(rw.w.seq)))
		rw.w.store.Inject(func(step string) error { // called under the store's lock
			if (step == "settle" || step == "endpoint") && fault.IntN(2) == 0 {
				return relay.ErrStoreFull
			}
			return nil
		})
	}
	changing := make(chan struct{})
	rw.next, rw.changing = next, changing
	l := rw.l
	go func() {
		defer close(changing)
		held, err := l.Reconfigure(context.Background(), put, remove)
		if err != nil && !errors.Is(err, relay.ErrNotRunning) {
			rw.t.Errorf("reconfigure: %v", err)
		}
		if err == nil && len(held) != len(remove) {
			rw.t.Errorf("%d endpoints were removed, and what is held is %+v", len(remove), held)
		}
		for _, h := range held {
			rw.checkHeld(h)
		}
	}()
}

// checkHeld compares what is held for an endpoint with what it has not got. What
// came of an attempt before a kill may not be in the store, and a probe of an
// endpoint that is down is none that uses up a delivery.
func (rw *reloadWorld) checkHeld(h relay.Held) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	settled, before := map[int64]bool{}, map[int64]bool{}
	for _, s := range rw.log[h.Endpoint] {
		if s.delivered || s.dead {
			settled[s.Seq] = settled[s.Seq] || s.delivered && s.life == rw.lifeNo
			before[s.Seq] = true
		}
	}
	var least, most int64
	for seq := range rw.may[h.Endpoint] {
		if !settled[seq] {
			most++
		}
		if rw.must[h.Endpoint][seq] && !before[seq] {
			least++
		}
	}
	if h.More || h.Count < least || h.Count > most {
		rw.t.Errorf("%+v, and it has not got %d to %d", h, least, most)
	}
}

// done waits for the change under way.
func (rw *reloadWorld) done() {
	if rw.changing == nil {
		return
	}
	time.Sleep(time.Duration(rw.rnd.IntN(300)) * time.Millisecond)
	rw.w.store.Inject(nil)
	<-rw.changing
	rw.config, rw.next, rw.changing = rw.next, nil, nil
}

func (rw *reloadWorld) kill() {
	rw.l.kill(rw.t, rw.w.store)
	if rw.changing != nil {
		<-rw.changing
		rw.config, rw.next, rw.changing = rw.next, nil, nil // the files have it
	}
	rw.mu.Lock()
	rw.lifeNo++
	rw.mu.Unlock()
	rw.begin()
}

func (rw *reloadWorld) run() {
	rw.begin()
	selections := []string{"**", "order.**", "user.**"}
	for range 60 {
		switch p := rw.rnd.IntN(10); {
		case p < 7:
			rw.event()
		case p < 9:
			rw.done()
			next := map[string]string{}
			for _, id := range []string{"a", "b", "c"} {
				if rw.rnd.IntN(4) > 0 {
					next[id] = selections[rw.rnd.IntN(len(selections))]
				}
			}
			rw.reconfigure(next)
		case rw.rnd.IntN(3) == 0:
			rw.kill()
		}
		time.Sleep(time.Duration(rw.rnd.IntN(80)) * time.Millisecond)
	}
	rw.done()
	rw.reconfigure(map[string]string{"a": "**", "b": "**", "c": "**"})
	rw.done()
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	for _, s := range rw.l.Status() {
		if s.InFlight+s.Retrying+s.Held != 0 {
			rw.t.Errorf("not settled after ten minutes: %+v", s)
		}
	}
	rw.l.stop(rw.t)
	for _, id := range []string{"a", "b", "c"} {
		rw.check(id)
	}
}

// check holds what an endpoint got against what it had to get.
func (rw *reloadWorld) check(id string) {
	type in struct {
		life int
		seq  int64
	}
	settled, lanes := map[int64]int{}, map[string]int64{}
	over := map[in]bool{} // delivered or rejected in that life
	started := map[int64]bool{}
	for i, s := range rw.log[id] {
		switch {
		case s.started && !rw.may[id][s.Seq]:
			rw.t.Errorf("%s got event %d, which it did not want", id, s.Seq)
		case s.started && over[in{s.life, s.Seq}]:
			rw.t.Errorf("%s got event %d again", id, s.Seq)
		case s.started && !started[s.Seq]:
			started[s.Seq] = true
			key := rw.keys[s.Seq]
			if before := lanes[key]; before > s.Seq {
				rw.t.Errorf("%s: of key %s event %d came after %d", id, key, s.Seq, before)
			} else if _, ok := settled[before]; before > 0 && !ok {
				rw.t.Errorf("%s: of key %s event %d was sent before %d was settled", id, key, s.Seq, before)
			}
			lanes[key] = s.Seq
		case s.delivered || s.dead:
			settled[s.Seq] = i
			over[in{s.life, s.Seq}] = over[in{s.life, s.Seq}] || s.delivered
		}
	}
	for seq := range rw.must[id] {
		if _, ok := settled[seq]; !ok {
			rw.t.Errorf("%s did not get event %d", id, seq)
		}
	}
}

// A reload that comes while the daemon stops is told so, and does not wait for ever.
func TestDispatcher_ThatHasEndedTakesNoCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writer{store: &relaytest.Memory{}}
		l := begin(t, w, &relay.Endpoint{ID: "e", Events: patterns(t, "**"), Sink: &relaytest.Sink{}})
		l.stop(t)
		if _, err := l.Reconfigure(context.Background(), nil, []string{"e"}); !errors.Is(err, relay.ErrNotRunning) {
			t.Errorf("got %v", err)
		}
	})
}
