package config

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay"
)

const sumDrift = "Catalogue has drifted"

// Drift says where the live catalogues differ from saved ones in what a rule
// depends on: the tables it names, the columns it reads, what of the old row is
// known, and, where the key is the primary key, that. What no rule depends on
// may differ. The diagnostics are warnings: [Check] with the live catalogue
// tells whether the rules still hold.
func Drift(cfg *Config, saved map[string]*relay.Catalog, live map[string]Known) hcl.Diagnostics {
	p := &problems{}
	seen := map[string]bool{}
	for _, r := range cfg.rules {
		l, ok := live[r.Source]
		if !ok || l.Catalog == nil {
			continue
		}
		for _, ref := range r.tables {
			t := l.Catalog.Table(ref.name)
			if t == nil {
				continue // Check says so
			}
			var was *relay.Table
			if c := saved[r.Source]; c != nil {
				was = c.Table(ref.name)
			}
			for _, d := range driftOf(r, was, t) {
				if text := r.Name + d; !seen[text] {
					seen[text] = true
					p.warnf(ref.at, sumDrift, "Rule %s: %s. Save the catalogue again with rowhook check --database --save-catalog FILE, and look at what changed.", r.Name, d)
				}
			}
		}
	}
	return p.sorted()
}

func driftOf(r *rule, was, is *relay.Table) []string {
	name := is.Table().String()
	if was == nil {
		return []string{fmt.Sprintf("the saved catalogue has no table %s", name)}
	}
	var diffs []string
	add := func(format string, args ...any) { diffs = append(diffs, fmt.Sprintf(format, args...)) }
	if was.Kind != is.Kind || was.Persistence != is.Persistence {
		add("%s is another kind of table than it was", name)
	}
	if r.exprs.key == nil && keyText(was) != keyText(is) {
		add("the primary key of %s was %s, and is %s", name, keyText(was), keyText(is))
	}
	for _, c := range readColumns(r, was, is) {
		add := func(format string, args ...any) { add("%s.%s "+format, append([]any{name, c.name}, args...)...) }
		i, j := was.Column(c.name), is.Column(c.name)
		switch {
		case i < 0 && j < 0:
			continue // Check says so
		case i < 0:
			add("is new (%s)", is.TypeNames[j])
			continue
		case j < 0:
			add("is gone (%s)", was.TypeNames[i])
			continue
		}
		if was.TypeNames[i] != is.TypeNames[j] {
			add("was %s, and is %s", was.TypeNames[i], is.TypeNames[j])
		} else if a, b := columnType(was, i).NotNull(), columnType(is, j).NotNull(); contract.Signature(a) != contract.Signature(b) {
			add("(%s) was %s, and is %s", is.TypeNames[j], a, b)
		}
		if was.NotNull[i] != is.NotNull[j] {
			add("%s", map[bool]string{true: "was nullable, and is not", false: "was not nullable, and is"}[is.NotNull[j]])
		}
		if (was.Generated[i] != 0) != (is.Generated[j] != 0) {
			add("%s", map[bool]string{true: "is generated now, and is not sent", false: "is not generated any more"}[is.Generated[j] != 0])
		}
		if c.old && was.OldKnown(i) != is.OldKnown(j) {
			add("%s", map[bool]string{true: "is part of the replica identity now", false: "is not part of the replica identity any more"}[is.OldKnown(j)])
		} else if r.Ops.Has(relay.Update) && was.Unsent(i) != is.Unsent(j) {
			add("%s", map[bool]string{true: "may be left out of updates now (TOAST)", false: "is always sent with updates now"}[is.Unsent(j)])
		}
	}
	return diffs
}

type readColumn struct {
	name string
	old  bool
}

// readColumns returns the columns that a rule reads, of either state of a table.
func readColumns(r *rule, was, is *relay.Table) []readColumn {
	var cols []readColumn
	at := map[string]int{}
	add := func(name string, old bool) {
		if i, ok := at[name]; ok {
			cols[i].old = cols[i].old || old
			return
		}
		at[name] = len(cols)
		cols = append(cols, readColumn{name, old})
	}
	for _, ref := range r.Reads {
		add(ref.Name, ref.Old)
	}
	if r.All {
		oldRow := false
		for _, u := range r.exprs.uses {
			oldRow = oldRow || u.name == "" && (u.side == sideOld || u.side == sideRow && r.Ops.Has(relay.Delete))
		}
		for _, t := range []*relay.Table{was, is} {
			for _, c := range t.Columns {
				add(c.Name, oldRow)
			}
		}
	}
	return cols
}

func keyText(t *relay.Table) string {
	if len(t.PrimaryKey) == 0 {
		return "none"
	}
	var names []string
	for _, i := range t.PrimaryKey {
		names = append(names, t.Columns[i].Name)
	}
	return "(" + strings.Join(names, ", ") + ")"
}
