package relay

import (
	"fmt"
	"strings"
	"time"
)

// ServerState is what a start has to know of the server, read before anything
// is changed.
type ServerState struct {
	SystemID uint64
	Timeline uint32
	// History holds where each earlier timeline of the current one ended.
	History  []TimelineSwitch
	Database string
	// Address is host and port as configured.
	Address string
	// Flush is the end of the durable WAL.
	Flush LSN
	// Slot is nil when there is none of the name.
	Slot *SlotState
}

// TimelineSwitch says at which position a timeline was left for the next.
type TimelineSwitch struct {
	Timeline uint32
	At       LSN
}

// SlotState is a replication slot.
type SlotState struct {
	Name, Plugin, Database string
	Physical               bool
	// ConfirmedFlush is 0 while another session is still creating the slot.
	ConfirmedFlush LSN
	// Lost is why nothing can be read from the slot any more, or "".
	Lost string
}

// Reset is a checkpoint reset: to an LSN, to "now" or to "earliest".
type Reset struct {
	Source string
	// From, when not 0, must be the present checkpoint.
	From LSN
	To   LSN // when Word is ""
	Word string
}

// The words a reset may name instead of an LSN.
const (
	ResetNow      = "now"
	ResetEarliest = "earliest"
)

// ParseReset parses SOURCE=[FROM..]LSN|now|earliest.
func ParseReset(s string) (Reset, error) {
	source, to, ok := strings.Cut(s, "=")
	if !ok || source == "" || to == "" {
		return Reset{}, fmt.Errorf("%q is not a reset: write SOURCE=LSN, SOURCE=now, SOURCE=earliest or SOURCE=FROM..TO", s)
	}
	r := Reset{Source: source}
	if from, rest, ok := strings.Cut(to, ".."); ok {
		var err error
		if r.From, err = ParseLSN(from); err != nil {
			return Reset{}, err
		}
		to = rest
	}
	if to == ResetNow || to == ResetEarliest {
		r.Word = to
		return r, nil
	}
	lsn, err := ParseLSN(to)
	if err != nil {
		return Reset{}, fmt.Errorf("%w, or the words now and earliest", err)
	}
	r.To = lsn
	return r, nil
}

// String returns the reset as ParseReset reads it.
func (r Reset) String() string {
	var b strings.Builder
	b.WriteString(r.Source + "=")
	if r.From != 0 {
		b.WriteString(r.From.String() + "..")
	}
	if r.Word != "" {
		b.WriteString(r.Word)
	} else {
		b.WriteString(r.To.String())
	}
	return b.String()
}

func (r Reset) target() string {
	if r.Word != "" {
		return r.Word
	}
	return r.To.String()
}

// StartAction is what has to be done to the slot before streaming.
type StartAction int

const (
	// StartStream: the slot is as it should be.
	StartStream StartAction = iota
	// StartCreate: create the slot; its consistent point becomes the checkpoint.
	StartCreate
	// StartRecreate: drop the slot that is there and create it.
	StartRecreate
)

// StartPlan is how a source starts.
type StartPlan struct {
	Action StartAction
	// State is to be stored before the slot is touched. With StartStream its LSN
	// is where streaming starts.
	State SourceState
	// Gap is to be recorded together with State.
	Gap *Gap
	// Replay says that the events of the log from ReplayFrom on are to be
	// delivered again; 0 is all of them.
	Replay     bool
	ReplayFrom LSN
	// Notes are for the log.
	Notes []string
}

// StartRefusal says why a source must not start as things are, what may be
// missing, and what accepts it.
type StartRefusal struct {
	// Reason is a word for metrics and status.
	Reason string
	Detail string
	Remedy string
}

func (e *StartRefusal) Error() string { return e.Detail + ". " + e.Remedy }

// The reasons of a StartRefusal.
const (
	RefuseCluster  = "wrong_cluster"
	RefuseDatabase = "wrong_database"
	RefuseAddress  = "address_changed"
	RefuseSlot     = "slot_unusable"
	RefuseForeign  = "slot_not_ours"
	RefuseMissing  = "slot_missing"
	RefuseLost     = "slot_lost"
	RefuseGap      = "gap"
	RefuseDiverged = "diverged"
	// RefuseNotPublished is found out while reading.
	RefuseNotPublished = "not_published"

	RefuseReset     = "reset_impossible"
	RefuseCompare   = "checkpoint_moved"
	refuseForSource = "--reset-checkpoint %s=%s"
)

// StartOptions are what a person has allowed or asked for.
type StartOptions struct {
	Source, Slot, Publication string
	Reset                     *Reset
	// AcceptAddress accepts that the database has another address.
	AcceptAddress bool
	// Adopt takes a slot that this store did not make, for sources whose slot a
	// person manages.
	Adopt bool
	// OtherHistory says that the server turned out not to have what the store has
	// read up to its checkpoint: see [OtherHistory].
	OtherHistory bool
	Now          time.Time
}

// PlanStart decides how a source starts, from what the store knows (nil when it
// does not know the source), what the server says, and what a person asked for.
// It returns a *StartRefusal when history may be missing and nobody has
// accepted that. It changes nothing.
func PlanStart(st *SourceState, sv *ServerState, o StartOptions) (*StartPlan, error) {
	s := starter{st: st, sv: sv, o: o, slot: sv.Slot}
	return s.plan()
}

type starter struct {
	st   *SourceState
	sv   *ServerState
	o    StartOptions
	slot *SlotState
}

func (s *starter) flag(to string) string { return fmt.Sprintf(refuseForSource, s.o.Source, to) }

func (s *starter) refuse(reason, remedy, detail string, args ...any) error {
	return &StartRefusal{Reason: reason, Detail: fmt.Sprintf("source %s: ", s.o.Source) + fmt.Sprintf(detail, args...), Remedy: remedy}
}

// known reports whether the store has a checkpoint of the source.
func (s *starter) known() bool { return s.st != nil && s.st.Phase == PhaseStreaming }

func (s *starter) plan() (*StartPlan, error) {
	if sl := s.slot; sl != nil {
		switch {
		case sl.Physical:
			return nil, s.refuse(RefuseSlot, "Name another slot.", "slot %s is a physical slot", sl.Name)
		case sl.Plugin != "pgoutput":
			return nil, s.refuse(RefuseSlot, "Name another slot.", "slot %s uses the plugin %s, not pgoutput", sl.Name, sl.Plugin)
		case sl.Database != s.sv.Database:
			return nil, s.refuse(RefuseSlot, "Name another slot, or connect to that database.", "slot %s belongs to database %s, the source to %s", sl.Name, sl.Database, s.sv.Database)
		}
	}
	if s.st != nil {
		if err := s.checkIdentity(); err != nil {
			return nil, err
		}
	}
	if r := s.o.Reset; r != nil {
		if r.From != 0 && (!s.known() || s.st.LSN != r.From) {
			at := "not set"
			if s.known() {
				at = s.st.LSN.String()
			}
			return nil, s.refuse(RefuseCompare, "Look at it with rowhook checkpoint show and decide again.",
				"the checkpoint is %s, not %s as the reset expects", at, r.From)
		}
		return s.reset(r)
	}
	if !s.known() {
		return s.first()
	}
	return s.resume()
}

// checkIdentity refuses another cluster, database or address than the store
// was made for. A reset to now accepts another cluster or database.
func (s *starter) checkIdentity() error {
	now := s.o.Reset != nil && s.o.Reset.Word == ResetNow
	switch {
	case s.st.SystemID != 0 && s.st.SystemID != s.sv.SystemID && !now:
		return s.refuse(RefuseCluster,
			"If the database has moved there for good, start once with "+s.flag(ResetNow)+": what was committed in between is not delivered.",
			"the store was made for the cluster with system identifier %d, and the server at %s has %d", s.st.SystemID, s.sv.Address, s.sv.SystemID)
	case s.st.Database != "" && s.st.Database != s.sv.Database && !now:
		return s.refuse(RefuseDatabase, "If that is meant, start once with "+s.flag(ResetNow)+".",
			"the store was made for database %s, and the source names %s", s.st.Database, s.sv.Database)
	case s.st.Address != "" && s.st.Address != s.sv.Address && !s.o.AcceptAddress && !now:
		return s.refuse(RefuseAddress, "If the database has moved, start once with --accept-address "+s.o.Source+".",
			"the store was made for the server at %s, and the source names %s: a copied store or a copied database must not deliver by accident", s.st.Address, s.sv.Address)
	}
	return nil
}

// state returns the row to store: same history, at the given position.
func (s *starter) state(phase Phase, lsn LSN) SourceState {
	n := SourceState{Generation: 1}
	if s.st != nil {
		n = *s.st
	}
	if n.Slot != s.o.Slot || n.Publication != s.o.Publication {
		n.ReadLSN, n.ReadAt = 0, 0 // another publication sends other transactions
	}
	n.Source, n.Slot, n.Publication = s.o.Source, s.o.Slot, s.o.Publication
	n.SystemID, n.Timeline, n.Database, n.Address = s.sv.SystemID, s.sv.Timeline, s.sv.Database, s.sv.Address
	n.Phase, n.LSN, n.UpdatedAt = phase, lsn, s.o.Now.UnixMicro()
	return n
}

// newGeneration plans a start with a break in the history.
func (s *starter) newGeneration(action StartAction, lsn, from, to LSN, reason string) *StartPlan {
	phase := PhaseStreaming
	if action != StartStream {
		phase = PhaseCreating
	}
	p := &StartPlan{Action: action, State: s.state(phase, lsn)}
	if s.st == nil && s.slot == nil {
		return p
	}
	if s.st != nil {
		p.State.Generation++
		p.State.Partial = nil
		p.State.ReadLSN, p.State.ReadAt = 0, 0
	}
	p.Gap = &Gap{Source: s.o.Source, Generation: p.State.Generation, At: s.o.Now.UnixMicro(), From: from, To: to, Reason: reason}
	p.Notes = append(p.Notes, fmt.Sprintf("%s: generation %d begins, what was committed between %s and %s may be missing", reason, p.State.Generation, orUnknown(from), orUnknown(to)))
	return p
}

func orUnknown(l LSN) string {
	if l == 0 {
		return "an unknown position"
	}
	return l.String()
}

// first plans the start of a source without a checkpoint.
func (s *starter) first() (*StartPlan, error) {
	creating := s.st != nil && s.st.Phase == PhaseCreating
	if s.slot == nil {
		return &StartPlan{Action: StartCreate, State: s.state(PhaseCreating, 0)}, nil
	}
	if s.slot.Lost != "" {
		if creating {
			return &StartPlan{Action: StartRecreate, State: s.state(PhaseCreating, 0)}, nil
		}
		return nil, s.lost(0)
	}
	if creating || s.o.Adopt {
		p := &StartPlan{Action: StartStream, State: s.state(PhaseStreaming, s.slot.ConfirmedFlush)}
		p.Notes = []string{fmt.Sprintf("slot %s is taken over at %s", s.slot.Name, s.slot.ConfirmedFlush)}
		return p, nil
	}
	return nil, s.refuse(RefuseForeign,
		"To go on from there, start once with "+s.flag(ResetEarliest)+"; to begin with what comes now, with "+s.flag(ResetNow)+".",
		"slot %s exists at %s, and this store did not make it: either the store was lost, with the events it had not delivered, or the slot belongs to somebody else", s.slot.Name, s.slot.ConfirmedFlush)
}

func (s *starter) since() string {
	return time.UnixMicro(s.st.UpdatedAt).UTC().Format(time.RFC3339)
}

func (s *starter) lost(p LSN) error {
	what := ""
	if s.known() {
		what = fmt.Sprintf(": what was committed after %s (%d bytes of WAL, since %s) may be missing", p, uint64(s.sv.Flush)-min(uint64(p), uint64(s.sv.Flush)), s.since())
	}
	return s.refuse(RefuseLost, "To accept that and go on with a new slot, start once with "+s.flag(ResetNow)+"; what was missed has to be delivered by other means.",
		"slot %s is lost (%s)%s", s.slot.Name, lostBecause(s.slot.Lost), what)
}

// lostBecause says in words why the server took a slot's history away, by
// pg_replication_slots.invalidation_reason.
func lostBecause(reason string) string {
	why := map[string]string{
		"wal_removed":            "it kept more WAL than max_slot_wal_keep_size allows, and the server removed it",
		"idle_timeout":           "nothing read it for longer than idle_replication_slot_timeout",
		"rows_removed":           "the primary removed rows of the catalogue that it needed: hot_standby_feedback was off or its connection broken",
		"wal_level_insufficient": "wal_level of the primary was below logical",
		"conflicting":            "it was in conflict with recovery on a standby",
	}[reason]
	if why == "" {
		return reason
	}
	return reason + ": " + why
}

// NotPublished is the refusal of a source whose publication was missing when a
// change was made, at the checkpoint st and the end of the server's WAL.
func NotPublished(st *SourceState, flush LSN) *StartRefusal {
	s := starter{st: st, o: StartOptions{Source: st.Source}}
	return &StartRefusal{
		Reason: RefuseNotPublished,
		Detail: fmt.Sprintf("source %s: the publication %s was missing when changes were made: what was committed after %s (%d bytes of WAL, since %s) cannot be read",
			st.Source, st.Publication, st.LSN, uint64(max(flush, st.LSN)-st.LSN), s.since()),
		Remedy: "To accept that and go on with what comes now, start once with " + s.flag(ResetNow) + "; what was missed has to be delivered by other means.",
	}
}

// OtherHistory is the refusal of a source whose server has other WAL before the
// checkpoint st than the one that was read. why says how that was seen.
func OtherHistory(st *SourceState, why string) *StartRefusal {
	s := starter{st: st, o: StartOptions{Source: st.Source}}
	return &StartRefusal{
		Reason: RefuseDiverged,
		Detail: fmt.Sprintf("source %s: the WAL of the server is not the one that events were made of, up to %s, %s: it was put back to an earlier state and has gone on since (%s)",
			st.Source, st.LSN, s.since(), why),
		Remedy: "To go on where its slot is, start once with " + s.flag(ResetEarliest) + "; to begin with what comes now, with " + s.flag(ResetNow) + ".",
	}
}

// diverged returns a refusal when the checkpoint lies on a history that the
// server does not have.
func (s *starter) diverged() error {
	if s.st.SystemID != 0 && s.st.SystemID != s.sv.SystemID {
		return nil // accepted by now, see checkIdentity
	}
	p := s.st.LSN
	if s.st.Timeline == s.sv.Timeline || s.st.Timeline == 0 {
		if p > s.sv.Flush {
			return s.refuse(RefuseDiverged, "If the server was restored from a backup, start once with "+s.flag(ResetNow)+" or an LSN from which to go on.",
				"the checkpoint %s is beyond the end of the server's WAL at %s", p, s.sv.Flush)
		}
		return nil
	}
	for _, h := range s.sv.History {
		if h.Timeline != s.st.Timeline {
			continue
		}
		if p <= h.At {
			return nil
		}
		return s.refuse(RefuseDiverged, "To go on where the histories part, start once with "+s.flag(h.At.String())+".",
			"the server is on timeline %d, which left timeline %d at %s, and events up to %s were made of the old one: those after %s describe commits that the failover undid", s.sv.Timeline, s.st.Timeline, h.At, p, h.At)
	}
	return s.refuse(RefuseDiverged, "If that is meant, start once with "+s.flag(ResetNow)+".",
		"the server is on timeline %d, which does not descend from timeline %d of the checkpoint", s.sv.Timeline, s.st.Timeline)
}

// resume plans the start of a source with a checkpoint.
func (s *starter) resume() (*StartPlan, error) {
	p := s.st.LSN
	if err := s.diverged(); err != nil {
		return nil, err
	}
	switch {
	case s.slot == nil:
		return nil, s.refuse(RefuseMissing, "To accept that and go on with a new slot, start once with "+s.flag(ResetNow)+"; what was missed has to be delivered by other means.",
			"slot %s does not exist any more: what was committed after %s (%d bytes of WAL, since %s) may be missing", s.o.Slot, p, uint64(s.sv.Flush-p), s.since())
	case s.slot.Lost != "":
		return nil, s.lost(p)
	case s.slot.ConfirmedFlush > p:
		return nil, s.refuse(RefuseGap, "To accept that and go on where the slot is, start once with "+s.flag(ResetEarliest)+".",
			"slot %s was moved to %s by somebody else, or the store is an older copy: what was committed between %s and there (%d bytes of WAL, since %s) cannot be read any more", s.slot.Name, s.slot.ConfirmedFlush, p, uint64(s.slot.ConfirmedFlush-p), s.since())
	}
	plan := &StartPlan{Action: StartStream, State: s.state(PhaseStreaming, p)}
	if s.st.Timeline != 0 && s.st.Timeline != s.sv.Timeline {
		plan.Notes = append(plan.Notes, fmt.Sprintf("timeline %d follows timeline %d, nothing is missing", s.sv.Timeline, s.st.Timeline))
	}
	if s.st.Partial != nil && s.st.Timeline != s.sv.Timeline {
		plan.State.Partial = nil
	}
	return plan, nil
}

// reset plans a start with a reset.
func (s *starter) reset(r *Reset) (*StartPlan, error) {
	var p, cf LSN
	if s.known() {
		p = s.st.LSN
	}
	usable := s.slot != nil && s.slot.Lost == ""
	if usable {
		cf = s.slot.ConfirmedFlush
	}
	// What is missing begins at the checkpoint, also when the slot was moved past
	// it; a store without one only knows what the slot can give.
	missingFrom := p
	if !s.known() {
		missingFrom = cf
	}
	if r.Word == ResetNow {
		switch {
		case s.slot == nil:
			return s.newGeneration(StartCreate, 0, p, 0, "reset to now with a new slot"), nil
		case !usable:
			return s.newGeneration(StartRecreate, 0, p, 0, "reset to now with a new slot"), nil
		}
		return s.newGeneration(StartStream, s.sv.Flush, missingFrom, s.sv.Flush, "reset to now"), nil
	}
	if !usable {
		if s.slot == nil && !s.known() {
			plan, err := s.first()
			if err == nil {
				plan.Notes = append(plan.Notes, "there is neither a checkpoint nor a slot yet: the reset to "+r.target()+" has nothing to go back to, and the source begins with what comes now")
			}
			return plan, err
		}
		if s.slot == nil {
			return nil, s.refuse(RefuseReset, "Start once with "+s.flag(ResetNow)+".",
				"slot %s does not exist, so that nothing before now can be read", s.o.Slot)
		}
		return nil, s.refuse(RefuseReset, "Start once with "+s.flag(ResetNow)+".",
			"slot %s is lost (%s), so that nothing before now can be read", s.slot.Name, lostBecause(s.slot.Lost))
	}
	var broken error
	if s.known() {
		broken = s.diverged()
	}
	healthy := s.known() && broken == nil && !s.o.OtherHistory && cf <= p
	if r.Word == ResetEarliest {
		if healthy {
			plan, err := s.resume()
			if err == nil {
				plan.Replay = true
			}
			return plan, err
		}
		return s.newGeneration(StartStream, cf, p, cf, "slot taken over where it is"), nil
	}
	switch {
	case r.To > s.sv.Flush:
		return nil, s.refuse(RefuseReset, "Give a position up to there.", "%s is beyond the end of the server's WAL at %s", r.To, s.sv.Flush)
	case healthy && r.To <= p:
		plan, err := s.resume()
		if err == nil {
			plan.Replay, plan.ReplayFrom = true, r.To
		}
		return plan, err
	case r.To < cf:
		return nil, s.refuse(RefuseReset, "Start once with "+s.flag(ResetEarliest)+" to go on from there.",
			"slot %s is at %s and the server cannot go back before it to %s", s.slot.Name, cf, r.To)
	}
	return s.newGeneration(StartStream, r.To, missingFrom, r.To, "reset to "+r.To.String()), nil
}
