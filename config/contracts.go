package config

import (
	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay"
)

// Events returns the contract of all events: their types are those of the
// schema blocks, and else what the expressions and the catalogues say. What is
// not known can be anything. Rules that make the same version of an event are
// one.
func Events(cfg *Config, known map[string]Known) []contract.Event {
	var events []contract.Event
	for _, r := range cfg.rules {
		tables := []*relay.Table{nil}
		if len(r.Tables) > 0 {
			tables = tables[:0]
			for _, name := range r.Tables {
				var t *relay.Table
				if c := known[r.Source].Catalog; c != nil {
					t = c.Table(name)
				}
				tables = append(tables, t)
			}
		}
		for _, t := range tables {
			events = append(events, r.contract(t))
		}
	}
	return contract.Join(events)
}

// contract is the rule's event for one of its tables.
func (r *rule) contract(t *relay.Table) contract.Event {
	in := r.exprs.infer(t)
	e := contract.Event{Type: r.Type, Version: max(r.Version, 1), Description: r.Description, Key: in.key, Tenant: in.tenant}
	if r.exprs.key == nil {
		e.Key = defaultKey(t, r.Ops)
	}
	if len(r.Tables) > 0 {
		e.Ops = opNames(r.Ops)
		for _, name := range r.Tables {
			if t == nil || t.Table() == name {
				e.Tables = append(e.Tables, name.String())
			}
		}
	}
	data := in.data
	if s := r.exprs.scope.schema; s != nil {
		declared := s.typ
		declared.Unsent = data.AllUnsent() // the envelope still says what was left out
		data = declared
	}
	e.Data = contract.Published(data, r.exprs.scope.numbersAsString)
	return e
}

// defaultKey is the table and its primary key, where both are known.
func defaultKey(t *relay.Table, ops relay.Ops) contract.Type {
	key := contract.Of(isString)
	if t == nil || len(t.PrimaryKey) == 0 || ops.Has(relay.Truncate) {
		return key.Nullable()
	}
	for _, i := range t.PrimaryKey {
		if ops.Has(relay.Delete) && !t.OldKnown(i) {
			return key.Nullable()
		}
	}
	return key
}
