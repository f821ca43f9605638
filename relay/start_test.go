package relay_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

// The world of these tests: checkpoint 0/300, server at 0/500.
func storeAt(lsn relay.LSN) *relay.SourceState {
	return &relay.SourceState{
		Source: "shop", Generation: 3, SystemID: 7, Timeline: 1, Database: "app", Address: "db:5432",
		Slot: "rowhook_shop", Phase: relay.PhaseStreaming, LSN: lsn, UpdatedAt: 1,
	}
}

func slotAt(cf relay.LSN) *relay.SlotState {
	return &relay.SlotState{Name: "rowhook_shop", Plugin: "pgoutput", Database: "app", ConfirmedFlush: cf}
}

func lostSlot() *relay.SlotState {
	s := slotAt(0x200)
	s.Lost = "wal_removed"
	return s
}

func server(slot *relay.SlotState) *relay.ServerState {
	return &relay.ServerState{SystemID: 7, Timeline: 1, Database: "app", Address: "db:5432", Flush: 0x500, Slot: slot}
}

func TestPlanStart_EveryCellOfSlotStoreAndReset(t *testing.T) {
	const none = relay.LSN(0)
	creating := storeAt(0)
	creating.Phase = relay.PhaseCreating
	type want struct {
		refuse string // reason, or ""
		action relay.StartAction
		lsn    relay.LSN
		gen    uint32
		gap    bool
		replay bool
		from   relay.LSN
	}
	stream := func(lsn relay.LSN, gen uint32, gap bool) want {
		return want{action: relay.StartStream, lsn: lsn, gen: gen, gap: gap}
	}
	create := func(gen uint32, gap bool) want { return want{action: relay.StartCreate, gen: gen, gap: gap} }
	recreate := func(gen uint32, gap bool) want { return want{action: relay.StartRecreate, gen: gen, gap: gap} }
	replay := func(from relay.LSN) want {
		return want{action: relay.StartStream, lsn: 0x300, gen: 3, replay: true, from: from}
	}
	refuse := func(reason string) want { return want{refuse: reason} }

	stores := map[string]*relay.SourceState{"missing": nil, "creating": creating, "fine": storeAt(0x300), "older": storeAt(0x100)}
	slots := map[string]*relay.SlotState{"fine": slotAt(0x200), "missing": nil, "lost": lostSlot()}
	cases := []struct {
		store, slot, reset string
		want               want
	}{
		{"missing", "missing", "", create(1, false)},
		{"missing", "fine", "", refuse(relay.RefuseForeign)},
		{"missing", "lost", "", refuse(relay.RefuseLost)},
		{"missing", "missing", "now", create(1, false)},
		{"missing", "fine", "now", stream(0x500, 1, true)},
		{"missing", "lost", "now", recreate(1, true)},
		{"missing", "missing", "earliest", create(1, false)},
		{"missing", "fine", "earliest", stream(0x200, 1, true)},
		{"missing", "lost", "earliest", refuse(relay.RefuseReset)},
		{"missing", "fine", "0/400", stream(0x400, 1, true)},
		{"missing", "fine", "0/100", refuse(relay.RefuseReset)},
		{"missing", "lost", "0/400", refuse(relay.RefuseReset)},

		{"creating", "missing", "", create(3, false)},
		{"creating", "fine", "", stream(0x200, 3, false)},
		{"creating", "lost", "", recreate(3, false)},

		{"fine", "fine", "", stream(0x300, 3, false)},
		{"fine", "missing", "", refuse(relay.RefuseMissing)},
		{"fine", "lost", "", refuse(relay.RefuseLost)},
		{"fine", "fine", "now", stream(0x500, 4, true)},
		{"fine", "missing", "now", create(4, true)},
		{"fine", "lost", "now", recreate(4, true)},
		{"fine", "fine", "earliest", replay(none)},
		{"fine", "missing", "earliest", refuse(relay.RefuseReset)},
		{"fine", "lost", "earliest", refuse(relay.RefuseReset)},
		{"fine", "fine", "0/400", stream(0x400, 4, true)},
		{"fine", "fine", "0/250", replay(0x250)},
		{"fine", "fine", "0/100", replay(0x100)},
		{"fine", "fine", "0/600", refuse(relay.RefuseReset)},
		{"fine", "missing", "0/250", refuse(relay.RefuseReset)},
		{"fine", "lost", "0/400", refuse(relay.RefuseReset)},
		{"fine", "fine", "0/300..0/400", stream(0x400, 4, true)},
		{"fine", "fine", "0/299..0/400", refuse(relay.RefuseCompare)},

		// A store older than the slot: CF is ahead of P.
		{"older", "fine", "", refuse(relay.RefuseGap)},
		{"older", "missing", "", refuse(relay.RefuseMissing)},
		{"older", "lost", "", refuse(relay.RefuseLost)},
		{"older", "fine", "now", stream(0x500, 4, true)},
		{"older", "missing", "now", create(4, true)},
		{"older", "lost", "now", recreate(4, true)},
		{"older", "fine", "earliest", stream(0x200, 4, true)},
		{"older", "fine", "0/250", stream(0x250, 4, true)},
		{"older", "fine", "0/150", refuse(relay.RefuseReset)},
		{"older", "fine", "0/600", refuse(relay.RefuseReset)},
		{"older", "lost", "earliest", refuse(relay.RefuseReset)},
		{"older", "lost", "0/250", refuse(relay.RefuseReset)},
	}
	for _, c := range cases {
		t.Run("store="+c.store+"/slot="+c.slot+"/reset="+c.reset, func(t *testing.T) {
			o := relay.StartOptions{Source: "shop", Slot: "rowhook_shop", Now: time.Unix(100, 0)}
			if c.reset != "" {
				r, err := relay.ParseReset("shop=" + c.reset)
				if err != nil {
					t.Fatal(err)
				}
				o.Reset = &r
			}
			checkPlan(t, stores[c.store], server(slots[c.slot]), o, c.want.refuse, func(p *relay.StartPlan) {
				w := c.want
				if p.Action != w.action || p.State.LSN != w.lsn || p.State.Generation != w.gen || (p.Gap != nil) != w.gap || p.Replay != w.replay || p.ReplayFrom != w.from {
					t.Errorf("got action %d, lsn %s, generation %d, gap %+v, replay %v from %s; want %+v", p.Action, p.State.LSN, p.State.Generation, p.Gap, p.Replay, p.ReplayFrom, w)
				}
				wantPhase := relay.PhaseStreaming
				if w.action != relay.StartStream {
					wantPhase = relay.PhaseCreating
				}
				if p.State.Phase != wantPhase {
					t.Errorf("phase %s, want %s", p.State.Phase, wantPhase)
				}
			})
		})
	}
}

func checkPlan(t *testing.T, st *relay.SourceState, sv *relay.ServerState, o relay.StartOptions, refuse string, check func(*relay.StartPlan)) {
	t.Helper()
	p, err := relay.PlanStart(st, sv, o)
	if refuse == "" {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		check(p)
		return
	}
	var r *relay.StartRefusal
	if !errors.As(err, &r) {
		t.Fatalf("got plan %+v and error %v, want a refusal %s", p, err, refuse)
	}
	if r.Reason != refuse {
		t.Errorf("refused because of %s, want %s: %v", r.Reason, refuse, err)
	}
	if r.Remedy == "" {
		t.Errorf("the refusal names no remedy: %v", err)
	}
}

// A gap says what is missing, or one believes the rest to be there.
func TestPlanStart_TheGapBeginsAtTheCheckpoint(t *testing.T) {
	for _, c := range []struct {
		st       *relay.SourceState
		cf       relay.LSN
		reset    string
		from, to relay.LSN
	}{
		{storeAt(0x300), 0x200, "now", 0x300, 0x500},
		{storeAt(0x300), 0x400, "now", 0x300, 0x500},
		{storeAt(0x300), 0x400, "0/450", 0x300, 0x450},
		{storeAt(0x300), 0x400, "earliest", 0x300, 0x400},
		{nil, 0x400, "now", 0x400, 0x500},
		{nil, 0x400, "0/450", 0x400, 0x450},
		{nil, 0x400, "earliest", 0, 0x400},
	} {
		r, err := relay.ParseReset("shop=" + c.reset)
		if err != nil {
			t.Fatal(err)
		}
		p, err := relay.PlanStart(c.st, server(slotAt(c.cf)), relay.StartOptions{Source: "shop", Slot: "rowhook_shop", Reset: &r, Now: time.Unix(100, 0)})
		if err != nil || p.Gap == nil || p.Gap.From != c.from || p.Gap.To != c.to {
			t.Errorf("store %v, slot at %s, reset to %s: plan %+v, %v; want a gap from %s to %s", c.st != nil, c.cf, c.reset, p, err, c.from, c.to)
		}
	}
}

func TestPlanStart_TimelinesClustersAndAddresses(t *testing.T) {
	promoted := func(at relay.LSN) *relay.ServerState {
		sv := server(slotAt(0x200))
		sv.Timeline = 2
		sv.History = []relay.TimelineSwitch{{Timeline: 1, At: at}}
		return sv
	}
	opts := func(reset string, accept bool) relay.StartOptions {
		o := relay.StartOptions{Source: "shop", Slot: "rowhook_shop", Now: time.Unix(100, 0), AcceptAddress: accept}
		if reset != "" {
			r, err := relay.ParseReset("shop=" + reset)
			if err != nil {
				t.Fatal(err)
			}
			o.Reset = &r
		}
		return o
	}
	at := func(lsn relay.LSN, gen, tli uint32) func(*relay.StartPlan) {
		return func(p *relay.StartPlan) {
			t.Helper()
			if p.State.LSN != lsn || p.State.Generation != gen || p.State.Timeline != tli {
				t.Errorf("got %s generation %d timeline %d, want %s, %d, %d", p.State.LSN, p.State.Generation, p.State.Timeline, lsn, gen, tli)
			}
		}
	}
	checkPlan(t, storeAt(0x300), promoted(0x300), opts("", false), "", at(0x300, 3, 2))
	checkPlan(t, storeAt(0x300), promoted(0x2ff), opts("", false), relay.RefuseDiverged, nil)
	checkPlan(t, storeAt(0x300), promoted(0x2ff), opts("0/2FF", false), "", at(0x2ff, 4, 2))
	unrelated := promoted(0x300)
	unrelated.History = nil
	checkPlan(t, storeAt(0x300), unrelated, opts("", false), relay.RefuseDiverged, nil)
	checkPlan(t, storeAt(0x600), server(slotAt(0x200)), opts("", false), relay.RefuseDiverged, nil)

	other := server(slotAt(0x200))
	other.SystemID = 8
	checkPlan(t, storeAt(0x300), other, opts("", false), relay.RefuseCluster, nil)
	checkPlan(t, storeAt(0x300), other, opts("0/400", false), relay.RefuseCluster, nil)
	checkPlan(t, storeAt(0x300), other, opts("now", false), "", at(0x500, 4, 1))
	renamed := server(slotAt(0x200))
	renamed.Database, renamed.Slot.Database = "copy", "copy"
	checkPlan(t, storeAt(0x300), renamed, opts("", false), relay.RefuseDatabase, nil)
	moved := server(slotAt(0x200))
	moved.Address = "staging:5432"
	checkPlan(t, storeAt(0x300), moved, opts("", false), relay.RefuseAddress, nil)
	checkPlan(t, storeAt(0x300), moved, opts("", true), "", at(0x300, 3, 1))

	for _, bad := range []*relay.SlotState{
		{Name: "s", Physical: true}, {Name: "s", Plugin: "wal2json", Database: "app"}, {Name: "s", Plugin: "pgoutput", Database: "other"},
	} {
		checkPlan(t, storeAt(0x300), server(bad), opts("", false), relay.RefuseSlot, nil)
	}
	o := opts("", false)
	o.Adopt = true
	checkPlan(t, nil, server(slotAt(0x200)), o, "", at(0x200, 1, 1))
}

func TestParseReset_RefusesWhatItDoesNotUnderstand(t *testing.T) {
	for _, good := range []string{"shop=0/16B3748", "shop=now", "shop=earliest", "shop=0/1..0/2", "shop=0/1..now"} {
		r, err := relay.ParseReset(good)
		if err != nil || r.String() != good {
			t.Errorf("%s: got %v, %v", good, r, err)
		}
	}
	for _, bad := range []string{"", "shop", "shop=", "=now", "shop=later", "shop=0/1..", "shop=x..now", "shop=0/123456789", "shop=0/1 "} {
		if r, err := relay.ParseReset(bad); err == nil {
			t.Errorf("%q was read as %v", bad, r)
		} else if strings.TrimSpace(err.Error()) == "" {
			t.Errorf("%q: the error says nothing", bad)
		}
	}
}

// A server that was found to have another history is not healthy, whatever its
// positions say: a reset goes by its slot, not by the log.
func TestPlanStart_AnotherHistoryIsTakenOverWhereItsSlotIs(t *testing.T) {
	r, err := relay.ParseReset("shop=earliest")
	if err != nil {
		t.Fatal(err)
	}
	for other, want := range map[bool]relay.LSN{false: 0x300, true: 0x200} {
		plan, err := relay.PlanStart(storeAt(0x300), server(slotAt(0x200)), relay.StartOptions{Source: "shop", Slot: "s", Reset: &r, OtherHistory: other})
		if err != nil {
			t.Fatal(err)
		}
		if plan.State.LSN != want || plan.Replay == other || (plan.Gap != nil) != other {
			t.Errorf("other history %t: %+v", other, plan)
		}
	}
}

// What was read last says what must not come before the checkpoint: not in
// another generation, and not of another publication.
func TestPlanStart_ForgetsWhatWasReadWhereItSaysNothing(t *testing.T) {
	for name, test := range map[string]struct {
		reset, publication string
		known              bool
	}{
		"the same":            {"", "p", true},
		"delivered again":     {"shop=earliest", "p", true},
		"another publication": {"", "q", false},
		"a new generation":    {"shop=now", "p", false},
	} {
		st := storeAt(0x300)
		st.Publication, st.ReadLSN, st.ReadAt = "p", 0x280, 9
		o := relay.StartOptions{Source: "shop", Slot: "rowhook_shop", Publication: test.publication, Now: time.UnixMicro(99)}
		if test.reset != "" {
			r, err := relay.ParseReset(test.reset)
			if err != nil {
				t.Fatal(err)
			}
			o.Reset = &r
		}
		plan, err := relay.PlanStart(st, server(slotAt(0x200)), o)
		if err != nil {
			t.Fatal(err)
		}
		want := relay.SourceState{}
		if test.known {
			want.ReadLSN, want.ReadAt = 0x280, 9
		}
		if plan.State.ReadLSN != want.ReadLSN || plan.State.ReadAt != want.ReadAt {
			t.Errorf("%s: %s at %d", name, plan.State.ReadLSN, plan.State.ReadAt)
		}
	}
}
