package daemon

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/rowhook/rowhook/cdc"
	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// Where rules take effect.
//
// The store records which rule set judges a source's transactions and from
// which place on; the same code decides that at a start and at a reload. A set
// that reads nothing the one in force does not read judges what follows the
// last whole transaction in the log: it needs nothing that the server did not
// send all the time, and a corrected rule helps at once, however much is left to
// read. A set that reads more (a table, an operation, a column, the old value of
// one) would judge changes that were made, or sent, without that. First the
// publication is altered, then a message is written into the WAL, and the set
// judges what commits after that message: that is its place. What commits before
// is judged by the set before it, also after a restart, for which its text is in
// the store; so is a transaction that commits before but is read afterwards. A
// transaction under way at the place commits after it, and is judged by the new
// set as a whole.

// narrowPatience bounds how long it is tried to take something out of a
// publication while a reload may wait for that to end; then it is tried later.
const narrowPatience = 5 * time.Second

// placing is the rules a session starts with.
type placing struct {
	rules   *relay.RuleSet
	waiting []relay.NextRules
}

// split returns the record in force, nil when there is none, and those that
// wait for their place after it.
func split(records []relay.RulesRecord) (inForce *relay.RulesRecord, waiting []relay.RulesRecord) {
	for i := range records {
		if records[i].From > 0 {
			inForce, waiting = &records[i], records[i+1:]
		}
	}
	if inForce == nil {
		waiting = records
	}
	return inForce, waiting
}

// all returns what the records need together.
func all(records []relay.RulesRecord) (needs relay.Needs) {
	for i := range records {
		needs = needs.Union(records[i].Needs)
	}
	return needs
}

func (s *source) records(ctx context.Context) (inForce *relay.RulesRecord, waiting []relay.RulesRecord, err error) {
	records, err := s.d.store.RulesRecords(ctx, s.cfg.Name)
	if err != nil {
		return nil, nil, stored(err)
	}
	inForce, waiting = split(records)
	return inForce, waiting, nil
}

// newRecord returns a record of the configured rules.
func (s *source) newRecord(rules *relay.RuleSet, text string, from relay.LSN) *relay.RulesRecord {
	return &relay.RulesRecord{
		Source: s.cfg.Name, ID: strings.ToLower(rand.Text()), Hash: rules.Hash(), Text: text, Needs: rules.Needs(),
		At: time.Now().UnixMicro(), From: from,
	}
}

// begin records that the configured rules judge everything from the position
// on: there is nothing before it.
func (s *source) begin(ctx context.Context, from relay.LSN) (placing, error) {
	c := s.rules.Load()
	return placing{rules: c.RuleSet}, stored(s.d.store.PutRules(ctx, s.newRecord(c.RuleSet, c.text, from)))
}

// place decides where the configured rules take effect and sees to it. Without
// an ingest, at the start of a session, from is the checkpoint and the result is
// what the session starts with; else the ingest is told. grown says that the
// publication has just been altered for them, with the lock that waits for
// writers. The caller holds s.placing.
func (s *source) place(ctx context.Context, sv *cdc.ServerState, from relay.LSN, in *relay.Ingest, grown bool) (placing, error) {
	inForce, waiting, err := s.records(ctx)
	if err != nil {
		return placing{}, err
	}
	c := s.rules.Load()
	next := c.Needs()
	if inForce == nil {
		if _, err := s.publish(ctx, sv, nil, next); err != nil {
			return placing{}, err
		}
		return s.begin(ctx, from)
	}
	var gap *relay.Gap
	if in == nil && !sv.InRecovery { // a standby takes no message: a gap would have no end
		if gap, err = s.unsent(ctx, sv.Publication.Lacks(inForce.Needs), from); err != nil {
			return placing{}, err
		}
	}
	for i := range waiting { // an earlier start found it, and the place has not come
		if waiting[i].Gap != nil {
			gap = waiting[i].Gap
			break
		}
	}
	if gap == nil && inForce.Hash == c.Hash() && len(waiting) == 0 {
		_, err := s.publish(ctx, sv, nil, next)
		return placing{rules: c.RuleSet}, err
	}
	old := c.RuleSet
	if in == nil && inForce.Hash != c.Hash() {
		if old, err = s.compile(inForce); err != nil {
			s.log.Error("the rules that were in force cannot be read, the configured ones judge from the checkpoint on", "lsn", from.String(), "err", err)
		}
	}
	if err != nil || gap == nil && (inForce.Needs.Cover(next) || sv.InRecovery) {
		return s.follow(ctx, sv, from, in, all(waiting).Union(inForce.Needs))
	}
	p := placing{rules: old}
	last := len(waiting) - 1
	rec := s.newRecord(c.RuleSet, c.text, 0)
	rec.Gap = gap
	again := last >= 0 && waiting[last].Hash == rec.Hash && waiting[last].Gap == gap
	for i := range waiting {
		n := relay.NextRules{ID: waiting[i].ID, Rules: c.RuleSet, Gap: waiting[i].Gap}
		if waiting[i].Hash != c.Hash() && in == nil {
			if n.Rules, err = s.compile(&waiting[i]); err != nil {
				s.log.Error("rules that wait for their place cannot be read, the ones before them stay in force until the configured ones follow", "err", err)
				continue
			}
		}
		p.waiting = append(p.waiting, n)
	}
	// Also where it was altered for this set before: rules that came into force
	// meanwhile may have narrowed it again.
	done, err := s.publish(ctx, sv, all(waiting).Union(inForce.Needs), next)
	if err != nil {
		return placing{}, err
	}
	grown = grown || len(done) > 0 || gap == nil && !s.grows(inForce.Needs, next)
	if again {
		rec = &waiting[last]
	} else {
		if err := s.d.store.PutRules(ctx, rec); err != nil {
			return placing{}, stored(err)
		}
		n := relay.NextRules{ID: rec.ID, Rules: c.RuleSet, Gap: gap}
		p.waiting = append(p.waiting, n)
		if in != nil {
			in.AwaitRules(n)
		}
	}
	if gap != nil { // it is recorded
		if err := s.d.store.PutSetting(ctx, leftKey(s.cfg.Name), ""); err != nil {
			return placing{}, stored(err)
		}
	}
	// The same message again does no harm when the first was written after all:
	// the first one that is read is the place.
	if s.unmarked == nil || s.unmarked.ID != rec.ID {
		s.unmarked = &cdc.RulesMark{ID: rec.ID, Writers: !grown}
	}
	if err := s.mark(ctx); err != nil && !temporary(err) {
		return placing{}, err
	}
	return p, nil
}

// unsent returns the gap of a publication that lacks what the rules in force
// need, or was seen to before this session; nil when it sent all of it.
func (s *source) unsent(ctx context.Context, lacks []string, from relay.LSN) (*relay.Gap, error) {
	left, err := s.left(ctx)
	if err != nil || left == 0 && len(lacks) == 0 {
		return nil, err
	}
	if left != 0 {
		from = min(from, left)
	}
	if len(lacks) == 0 {
		lacks = []string{"it lacked something for a time"}
	}
	s.log.Warn("the publication did not send what the rules need", "publication", s.cfg.Publication, "lacks", lacks, "lsn", from.String())
	return &relay.Gap{
		Source: s.cfg.Name, At: time.Now().UnixMicro(), From: from,
		Reason: "the publication was altered by somebody else: " + strings.Join(lacks, ", "),
	}, nil
}

// mark writes the message of the last place, if it is not written yet. The
// caller holds s.placing.
func (s *source) mark(ctx context.Context) error {
	m := s.unmarked
	if m == nil {
		return nil
	}
	if err := m.Write(ctx, s.cfg.URL); err != nil {
		s.log.Warn("the place of the rules is not marked yet, it will be tried again", "err", err)
		return err
	}
	s.unmarked = nil
	s.log.Info("the rules take effect at their place in the stream", "id", m.ID)
	return nil
}

// grows reports whether the publication has more to send for next than it had:
// then transactions under way may have written before it did. Where nobody may
// have listed columns, a column more is not.
func (s *source) grows(needs, next relay.Needs) bool {
	if s.cfg.Manage && s.cfg.Columns != config.ColumnsRules {
		return needs.Grows(next)
	}
	return !needs.Cover(next)
}

// follow puts the configured rules in force at the next boundary. until is what
// the sets before need.
func (s *source) follow(ctx context.Context, sv *cdc.ServerState, from relay.LSN, in *relay.Ingest, until relay.Needs) (placing, error) {
	s.unmarked = nil
	c := s.rules.Load()
	if in == nil {
		s.log.Info("rules in force", "rules", c.Hash(), "lsn", from.String())
		p, err := s.begin(ctx, from)
		if err == nil {
			_, err = s.publish(ctx, sv, nil, c.Needs())
		}
		return p, err
	}
	if _, err := s.publish(ctx, sv, until, c.Needs()); err != nil {
		return placing{}, err
	}
	rec := s.newRecord(c.RuleSet, c.text, 0)
	if err := s.d.store.PutRules(ctx, rec); err != nil {
		return placing{}, stored(err)
	}
	in.SetRules(relay.NextRules{ID: rec.ID, Rules: c.RuleSet})
	return placing{rules: c.RuleSet}, nil
}

// compile makes the rule set of a record. Its rules count on where those of the
// configured set are.
func (s *source) compile(r *relay.RulesRecord) (*relay.RuleSet, error) {
	rules, err := config.LoadRules(s.cfg.Name, r.Text, config.Options{})
	if err != nil {
		return nil, err
	}
	set := relay.NewRuleSet(s.cfg.Name, rules)
	if set.Hash() != r.Hash {
		return nil, fmt.Errorf("the rules in force have the fingerprint %s now, and %s when they were loaded", set.Hash(), r.Hash)
	}
	set.Inherit(s.rules.Load().RuleSet)
	return set, nil
}

// grow alters the publication for rules that are about to be loaded, so that
// what can fail does so before anything has changed. It reports whether it did,
// with the lock that waits for writers.
func (s *source) grow(ctx context.Context, sv *cdc.ServerState, next relay.Needs) (grown bool, done []string, err error) {
	inForce, waiting, err := s.records(ctx)
	if err != nil || inForce == nil {
		return false, nil, err
	}
	done, err = s.publish(ctx, sv, all(waiting).Union(inForce.Needs), next)
	return len(done) > 0 || !s.grows(inForce.Needs, next), done, err
}

// ungrow takes back what grow did for rules that are not loaded after all,
// because the reload is refused. had is the publication before.
func (s *source) ungrow(ctx context.Context, had *cdc.PublicationState, next relay.Needs) error {
	s.placing.Lock()
	defer s.placing.Unlock()
	inForce, waiting, err := s.records(ctx)
	if err != nil || inForce == nil || had == nil {
		return err
	}
	needs := all(waiting).Union(inForce.Needs)
	keep := needs
	if s.cfg.Columns != config.ColumnsRules {
		for _, m := range had.Members { // whoever put it in
			keep = keep.Union(relay.Needs{{Table: m.TableName}})
		}
	}
	return s.narrow(ctx, needs.Union(next), keep)
}

// shrink takes out of the publication what no rule set needs any more: the
// sets before the one in force have judged all they are to judge, and that is
// in the log.
func (s *source) shrink(ctx context.Context) error {
	s.placing.Lock()
	defer s.placing.Unlock()
	records, err := s.d.store.RulesRecords(ctx, s.cfg.Name)
	if err != nil {
		return err
	}
	inForce, waiting := split(records)
	s.setRulesStatus(inForce, waiting)
	if err := s.readGaps(ctx); err != nil { // a place may end one
		return err
	}
	if !s.cfg.Manage || len(records) < 2 || inForce == nil {
		return nil
	}
	return s.narrow(ctx, all(records), all(waiting).Union(inForce.Needs))
}

// narrow has the publication send no more of what was needed once than what is
// needed now. The caller holds s.placing.
func (s *source) narrow(ctx context.Context, once, now relay.Needs) error {
	ctx, cancel := context.WithTimeout(ctx, narrowPatience)
	defer cancel()
	if s.cfg.Columns == config.ColumnsRules {
		if _, err := s.publish(ctx, nil, nil, now); err != nil {
			return err
		}
	}
	if now.Cover(once) {
		return nil
	}
	done, err := cdc.ShrinkPublication(ctx, s.cfg.URL, s.cfg.Publication, once, now)
	if len(done) > 0 {
		s.log.Info("publication shrunk, no rules in force need what left it", "sql", done)
	}
	return err
}

// placed says that rules have come into force durably.
func (s *source) placed() {
	select {
	case s.shrinks <- struct{}{}:
	default:
	}
}

// setRulesStatus keeps for the status which rules judge the source.
func (s *source) setRulesStatus(inForce *relay.RulesRecord, waiting []relay.RulesRecord) {
	st := api.SourceRules{}
	if inForce != nil {
		st.Fingerprint, st.From, st.Loaded = inForce.Hash, inForce.From.String(), time.UnixMicro(inForce.At).UTC()
	}
	if len(waiting) > 0 {
		w := waiting[len(waiting)-1]
		st.Waiting, st.WaitingSince = w.Hash, time.UnixMicro(w.At).UTC()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rulesStatus = st
}
