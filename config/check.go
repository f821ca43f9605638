package config

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

// Known is what is known of a source's database.
type Known struct {
	// Catalog has the tables that the source's rules name, as far as they exist.
	Catalog *relay.Catalog
	// Tables are the names of all tables, for suggestions. It may be nil.
	Tables []relay.TableName
	// Saved is the file the catalogue was read from, "" when it is live.
	Saved string
}

// Check holds the rules against the catalogues of their sources, by the
// source's name. Rules of a source that is not in known are not judged.
func Check(cfg *Config, known map[string]Known) hcl.Diagnostics {
	p := &problems{}
	published := map[string]relay.Ops{}             // by source, as rowhook's publication has it
	named := map[string]map[relay.TableName]*rule{} // by source and table, a rule on it
	for _, r := range cfg.rules {
		published[r.Source] |= r.Ops
		for _, ref := range r.tables {
			if named[r.Source] == nil {
				named[r.Source] = map[relay.TableName]*rule{}
			}
			named[r.Source][ref.name] = r
		}
	}
	for _, r := range cfg.rules {
		k, ok := known[r.Source]
		if !ok || k.Catalog == nil {
			continue
		}
		var judged []hcl.Diagnostics // by table
		for _, ref := range r.tables {
			t := k.Catalog.Table(ref.name)
			if t == nil && k.Saved != "" {
				p.errorf(ref.at, "Table not in the saved catalogue", "%s has no table %s of the source %s.%s If the table is there, save the catalogue again: rowhook check --database --save-catalog %s", k.Saved, ref.name, r.Source, tableHint(ref.name, tablesOf(k.Catalog)), k.Saved)
				continue
			}
			if t == nil {
				p.errorf(ref.at, "Unknown table", "The database of source %s has no table %s, or its user may not see it.%s", r.Source, ref.name, tableHint(ref.name, k.Tables))
				continue
			}
			for _, root := range t.Ancestors {
				if other := named[r.Source][root]; other != nil {
					p.errorf(ref.at, "Rule never matches", "%s is a partition of %s, which the rule %s is on. The changes of both come under the name of %s: name that one here.", ref.name, root, other.Name, root)
					break
				}
			}
			if p.checkTable(t, ref.at, r, published, cfg.Source(r.Source)) {
				judged = append(judged, r.exprs.check(t))
			}
		}
		p.list = append(p.list, ofTables(judged)...)
	}
	return p.sorted()
}

// Hazards divides what [Check] found into what makes a rule impossible or
// plainly wrong, and errors that come up with some rows only: null where a
// value is needed, a value that was not sent. For check both are errors. The
// daemon goes on with the second kind: the rule fails on those rows, which
// become dead letters, and stopping a source would hold back all other events.
func Hazards(diags hcl.Diagnostics) (certain, hazards hcl.Diagnostics) {
	for _, d := range diags {
		switch {
		case d.Severity == hcl.DiagError && d.Extra == someRows:
			hazards = append(hazards, d)
		case d.Severity == hcl.DiagError:
			certain = append(certain, d)
		}
	}
	return certain, hazards
}

func tablesOf(c *relay.Catalog) []relay.TableName {
	var names []relay.TableName
	for _, t := range c.Tables {
		names = append(names, t.Table())
	}
	return names
}

// tableHint suggests a table for one that does not exist. Another case or
// another schema is likelier than a typo.
func tableHint(name relay.TableName, all []relay.TableName) string {
	suggest := func(t relay.TableName) string {
		return fmt.Sprintf(` Did you mean "%s"?`, escapeHCL(writeTable(t)))
	}
	var names []string
	byName := map[string]relay.TableName{}
	for _, t := range all {
		if strings.EqualFold(t.String(), name.String()) {
			return suggest(t) + " Names are literal, case and all."
		}
		names = append(names, t.String())
		byName[t.String()] = t
	}
	for _, t := range all {
		if strings.EqualFold(t.Name, name.Name) {
			return suggest(t)
		}
	}
	if n := nearest(name.String(), names); n != "" {
		return suggest(byName[n])
	}
	return ""
}

// noTable says of a relkind why a rule cannot be about it.
var noTable = map[byte]string{
	'v': "a view: its changes are those of the tables under it. Name these",
	'm': "a materialized view, which PostgreSQL does not replicate. Name the tables under it",
	'f': "a foreign table: its changes happen in another database. Make that one a source",
	'i': "an index", 'I': "an index", 'S': "a sequence, which PostgreSQL does not replicate",
	'c': "a composite type", 't': "a TOAST table",
}

// checkTable reports a table whose changes PostgreSQL does not send. It returns
// whether the rule's expressions can be judged.
func (p *problems) checkTable(t *relay.Table, at hcl.Range, r *rule, published map[string]relay.Ops, src *Source) bool {
	name := t.Table()
	if t.Kind != 'r' && t.Kind != 'p' {
		what := noTable[t.Kind]
		if what == "" {
			what = fmt.Sprintf("of the kind %q, which PostgreSQL does not replicate", t.Kind)
		}
		p.errorf(at, "Not a table", "%s is %s.", name, what)
		return false
	}
	switch t.Persistence {
	case 'u':
		p.errorf(at, "Table is not in the WAL", "%s is unlogged: PostgreSQL does not write its changes to the WAL, so no event can come. Run: ALTER TABLE %s SET LOGGED", name, quoteTable(name))
		return false
	case 't':
		p.errorf(at, "Table is not in the WAL", "%s is a temporary table, of one session only; PostgreSQL does not replicate it.", name)
		return false
	}
	if t.Kind == 'r' && !identified(t) {
		p.checkIdentity(t, at, r.Ops, published[r.Source], src.Columns)
	}
	return true
}

// identified reports whether the table's replica identity names its rows.
func identified(t *relay.Table) bool {
	switch t.Identity {
	case relay.IdentityFull:
		return true
	case relay.IdentityNothing:
		return false
	}
	for _, c := range t.Columns {
		if c.Identity {
			return true
		}
	}
	return false
}

// checkIdentity reports a table without a replica identity: as soon as it is in
// a publication that publishes updates or deletes, PostgreSQL refuses those of
// the application. A publication has one set of operations for all its tables.
func (p *problems) checkIdentity(t *relay.Table, at hcl.Range, ops, published relay.Ops, columns Columns) {
	if !published.Has(relay.Update) && !published.Has(relay.Delete) {
		return
	}
	name := t.Table()
	why := ""
	if !ops.Has(relay.Update) && !ops.Has(relay.Delete) {
		why = " This rule needs neither, but other rules of the source do, and a publication has one set of operations for all its tables."
	}
	cure := fmt.Sprintf("Add a primary key, or run: ALTER TABLE %s REPLICA IDENTITY FULL", quoteTable(name))
	switch {
	case len(t.PrimaryKey) > 0:
		cure = fmt.Sprintf("Run: ALTER TABLE %s REPLICA IDENTITY DEFAULT", quoteTable(name))
	case columns == ColumnsRules: // which FULL does not go with
		cure = "Add a primary key."
	}
	p.errorf(at, "Table has no replica identity", "PostgreSQL refuses UPDATE and DELETE on %s as soon as they are published, because nothing says which row they change.%s %s", name, why, cure)
}
