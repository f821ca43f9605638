package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/rowhook/rowhook/config"
	"github.com/rowhook/rowhook/relay/api"
)

// matchedKey is the setting with the names of the rules that have matched since
// the store was made, a JSON list.
const matchedKey = "rules_matched"

// readMatched reads which rules have ever matched.
func (d *Daemon) readMatched(ctx context.Context) error {
	text, found, err := d.store.Setting(ctx, matchedKey)
	if err != nil || !found {
		return err
	}
	if err := json.Unmarshal([]byte(text), &d.matched); err != nil {
		return fmt.Errorf("setting %s: %w", matchedKey, err)
	}
	return nil
}

// noteMatched stores which rules have matched, when there are new ones.
func (d *Daemon) noteMatched(ctx context.Context) {
	d.mu.Lock()
	names, grown := slices.Clone(d.matched), false
	d.mu.Unlock()
	for _, s := range d.sources {
		rules := s.rules.Load()
		for i, r := range rules.Rules() {
			if rules.Stats(i).Matched.Load() > 0 && !slices.Contains(names, r.Name) {
				names, grown = append(names, r.Name), true
			}
		}
	}
	if !grown {
		return
	}
	text, err := json.Marshal(names)
	if err == nil {
		err = d.store.PutSetting(ctx, matchedKey, string(text))
	}
	if err != nil {
		d.log.Warn("which rules have matched cannot be stored", "err", err)
		return
	}
	d.mu.Lock()
	d.matched = names
	d.mu.Unlock()
}

// warnings are what is probably a mistake in the rules. matched are the rules
// that have matched before this process began.
func warnings(rules []api.RuleStatus, matched []string, sinks []config.Sink) []api.Warning {
	var out []api.Warning
	for i := range rules {
		r := &rules[i]
		if r.Matched == 0 && !slices.Contains(matched, r.Name) {
			text := fmt.Sprintf("rule %s has never matched: no change that it is about has come", r.Name)
			if r.Seen > 0 {
				text = fmt.Sprintf("rule %s has never matched, of %d changes it was asked about; 'rowhook explain' shows why", r.Name, r.Seen)
			}
			out = append(out, api.Warning{Kind: api.WarnNeverMatched, Rule: r.Name, Text: text})
		}
		if !slices.ContainsFunc(sinks, func(s config.Sink) bool { return s.Endpoint.Events.Match(r.Type, r.Version) }) {
			out = append(out, api.Warning{
				Kind: api.WarnUnwanted, Rule: r.Name,
				Text: fmt.Sprintf("no endpoint wants %s, which rule %s makes: no pattern in the events of a sink matches it", eventName(r.Type, r.Version), r.Name),
			})
		}
	}
	return out
}

func eventName(kind string, version int) string {
	if version > 1 {
		return fmt.Sprintf("%s@%d", kind, version)
	}
	return kind
}
