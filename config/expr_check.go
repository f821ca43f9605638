package config

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

// check holds the expressions against a table of the catalogue.
func (e *ruleExprs) check(t *relay.Table) hcl.Diagnostics {
	var diags hcl.Diagnostics
	seen := map[string]bool{} // one report a place, also when a local is used twice
	for _, u := range e.uses {
		place := fmt.Sprint(u.side, u.name, u.rng)
		if seen[place] {
			continue
		}
		seen[place] = true
		if d := checkUse(t, &e.scope, u); d != nil {
			diags = append(diags, d)
		}
	}
	for _, d := range e.infer(t).diags {
		if !e.reported[placeOf(d)] {
			diags = append(diags, d)
		}
	}
	return diags
}

func checkUse(t *relay.Table, scope *exprScope, u exprUse) *hcl.Diagnostic {
	ops := scope.ops
	if u.name == "" {
		if u.side == sideOld && t.Identity != relay.IdentityFull && (ops.Has(relay.Update) || ops.Has(relay.Delete)) && !allKnown(t) {
			cure := "Name the columns that are needed, as in { id = old.id }."
			if !scope.listed {
				cure = fmt.Sprintf("To have it, run:\n  ALTER TABLE %s REPLICA IDENTITY FULL;\nOr name the columns that are needed, as in { id = old.id }.", quoteTable(t.Table()))
			}
			return exprDiag(u.rng, u.outer, sumOldMissing, "The whole old row of %s is not sent by the server, because its replica identity does not have all columns. %s%s", t.Table(), cure, scope.noFull())
		}
		return nil
	}
	col := t.Column(u.name)
	if col < 0 {
		var names []string
		for _, c := range t.Columns {
			names = append(names, c.Name)
		}
		hint := didYouMean(u.name, names)
		if strings.Contains(u.name, "-") {
			hint += " For a subtraction write spaces around the minus."
		}
		return exprDiag(u.rng, u.outer, sumUnknownColumn, "The table %s has no column %s.%s", t.Table(), u.name, hint)
	}
	if len(t.Generated) > col && t.Generated[col] != 0 {
		return exprDiag(u.rng, u.outer, sumGenerated, "The column %s of %s is generated, and PostgreSQL does not send generated columns. Compute it here, from the columns it is made of.", u.name, t.Table())
	}
	var reads string // which change needs the old value
	switch {
	case u.named, t.OldKnown(col):
	case u.side == sideOld && ops.Has(relay.Update):
		reads = "an update"
	case u.side == sideOld && ops.Has(relay.Delete):
		reads = "a delete"
	case u.side == sideRow && ops.Has(relay.Delete):
		reads = "a delete, where row is the old row"
	case u.side == sideChanged && ops.Has(relay.Update):
		reads = "an update"
	case u.side == sideChanged && ops.Has(relay.Delete):
		reads = "a delete"
	}
	if reads != "" {
		return exprDiag(u.rng, u.outer, sumOldMissing, "The old value of the column %s of %s is not sent by the server with %s, because the column is not in the table's replica identity. To have it, %swith a unique index on not-null columns that has this column:\n  ALTER TABLE %s REPLICA IDENTITY USING INDEX ...;%s",
			u.name, t.Table(), reads, scope.orFull(t), quoteTable(t.Table()), scope.noFull())
	}
	if u.side == sideChanged && !ops.Has(relay.Update) {
		d := exprDiag(u.rng, u.outer, sumChanged, "changed.%s compares the row before and after an update, and the rule is not about updates. Add \"update\" to on, or remove the condition.", u.name)
		d.Severity = hcl.DiagWarning
		return d
	}
	return nil
}

// orFull begins the cure of a value that is not sent: with REPLICA IDENTITY
// FULL, or as what follows says it. columns = "rules" leaves only the latter.
func (s *exprScope) orFull(t *relay.Table) string {
	if s.listed {
		return "run, "
	}
	return fmt.Sprintf("either run:\n  ALTER TABLE %s REPLICA IDENTITY FULL;\nor, ", quoteTable(t.Table()))
}

// noFull says why the cure that many know is not named.
func (s *exprScope) noFull() string {
	if !s.listed {
		return ""
	}
	return " REPLICA IDENTITY FULL needs columns = \"all\" in the source: with \"rules\" the application's own updates would then fail."
}

func allKnown(t *relay.Table) bool {
	for i := range t.Columns {
		if !t.OldKnown(i) {
			return false
		}
	}
	return true
}

func quoteTable(n relay.TableName) string { return quoteName(n.Schema) + "." + quoteName(n.Name) }

func quoteName(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// placeOf tells a diagnostic from others.
func placeOf(d *hcl.Diagnostic) string { return fmt.Sprint(d.Subject, d.Summary, d.Detail) }

// ofTables joins the diagnostics of a rule's tables: each once, and those that
// count only where every table has them.
func ofTables(tables []hcl.Diagnostics) hcl.Diagnostics {
	at := func(d *hcl.Diagnostic) string { return fmt.Sprint(d.Subject, d.Summary) }
	count := map[string]int{}
	for _, diags := range tables {
		for _, d := range diags {
			count[at(d)]++
		}
	}
	var joined hcl.Diagnostics
	seen := map[string]bool{}
	for _, diags := range tables {
		for _, d := range diags {
			place := placeOf(d)
			if d.Extra == everyTable {
				if count[at(d)] < len(tables) {
					continue
				}
				place = at(d) // the first table's words do for all
			}
			if !seen[place] {
				seen[place] = true
				joined = append(joined, d)
			}
		}
	}
	return joined
}
