package config

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// rootNames are the names an expression may begin with.
func (c *compiler) rootNames() []string {
	var names []string
	for _, v := range c.vars {
		if v.name != "" {
			names = append(names, v.name)
		}
	}
	switch c.scope.kind {
	case ruleTable:
		names = append(names, "new", "old", "row", "changed", "table")
	default:
		names = append(names, "payload")
	}
	if c.scope.forEach != nil {
		names = append(names, "each")
	}
	return append(names, "op", "source", "tx", "local")
}

// rootName is a name that an expression may begin with.
type rootName struct{ name, in, doc string }

var rootDocs = []rootName{
	{"new", "tables", "The row after the change, as new.COLUMN. After a delete, and of a truncate, every column is null."},
	{"old", "tables", "The row before the change, as old.COLUMN. Known are the columns of the table's replica identity, all of them with REPLICA IDENTITY FULL. Before an insert every column is null."},
	{"row", "tables", "new, or old on delete."},
	{"changed", "tables", "changed.COLUMN is whether an update gave the column another value."},
	{"table", "tables", "The table as \"schema.name\"."},
	{"payload", "channels, messages", "What the notification or message carries: a JSON value, or the text with payload_format = \"text\"."},
	{"op", "all", "What happened: insert, update, delete, truncate, read, notify or message."},
	{"source", "all", "The name of the source."},
	{"tx", "all", "The transaction, null outside of one: tx.xid, tx.lsn, tx.commit_time, and tx.context, an object merged from logical messages with the prefix rowhook.context that the transaction sent before the change."},
	{"local", "all", "local.NAME is an expression of a locals block. It means what it would mean where it is used."},
	{"each", "events with for_each", "each.key is the index or name of an element and each.value the element, in key, tenant and data."},
}

var allRoots = func() (names []string) {
	for _, r := range rootDocs {
		names = append(names, r.name)
	}
	return names
}()

var txNames = []string{"xid", "lsn", "commit_time", "context"}

// traversal resolves a name with what follows it.
func (c *compiler) traversal(t hcl.Traversal, rng hcl.Range) node {
	root := t.RootName()
	for i := len(c.vars) - 1; i >= 0; i-- {
		if c.vars[i].name == root {
			return c.path(varNode{at{t[0].SourceRange()}, c.vars[i].slot, root}, t[1:], rng)
		}
	}
	if n := c.minus(t); n != nil {
		return n
	}
	if !slices.Contains(allRoots, root) {
		return c.unknownRoot(t)
	}
	if !slices.Contains(c.rootNames(), root) {
		return c.notHere(root, t[0].SourceRange())
	}
	attr, hasAttr := "", false
	if len(t) > 1 {
		if a, ok := t[1].(hcl.TraverseAttr); ok {
			attr, hasAttr = a.Name, true
		} else if i, ok := t[1].(hcl.TraverseIndex); ok && i.Key.Type().FriendlyName() == "string" {
			attr, hasAttr = i.Key.AsString(), true
		}
	}
	switch root {
	case "new", "old", "row":
		s := map[string]side{"new": sideNew, "old": sideOld, "row": sideRow}[root]
		if len(t) == 1 {
			c.uses = append(c.uses, exprUse{side: s, rng: rng, outer: c.outer})
		}
		return c.path(rowNode{at{t[0].SourceRange()}, s}, t[1:], rng)
	case "changed":
		if !hasAttr {
			return c.report(rng, sumUnsupported, "changed needs a column, as in changed.status.")
		}
		return c.path(c.column(sideChanged, attr, rng), t[2:], rng)
	case "each":
		return c.each(t, attr, rng)
	case "tx":
		if !hasAttr {
			return c.report(rng, sumUnsupported, "tx needs one of its attributes: %s.", strings.Join(txNames, ", "))
		}
		i := slices.Index(txNames, attr)
		if i < 0 {
			return c.report(rng, sumUnknownName, "tx has no attribute %s; it has %s.%s", attr, strings.Join(txNames, ", "), didYouMean(attr, txNames))
		}
		return c.path(factNode{at{rng}, factXID + fact(i), "tx." + attr}, t[2:], rng)
	case "local":
		if !hasAttr {
			return c.report(rng, sumUnsupported, "local needs the name of a local, as in local.vip.")
		}
		return c.path(c.local(attr, rng), t[2:], rng)
	}
	facts := map[string]fact{"op": factOp, "table": factTable, "source": factSource, "payload": factPayload}
	return c.path(factNode{at{rng}, facts[root], root}, t[1:], rng)
}

// minus finds new.total-old.total, which HCL reads as the attribute total-old
// of new and its attribute total.
func (c *compiler) minus(t hcl.Traversal) node {
	for i, step := range t {
		var name string
		switch s := step.(type) {
		case hcl.TraverseRoot:
			name = s.Name
		case hcl.TraverseAttr:
			name = s.Name
		}
		dash := strings.LastIndexByte(name, '-')
		if dash < 1 || i+1 == len(t) || !slices.Contains(allRoots, name[dash+1:]) {
			continue
		}
		return c.report(step.SourceRange(), sumMinus, "%s is read as one name, because a name may contain a minus. For a subtraction write spaces around the minus: %s - %s. For an attribute of that name write [\"%s\"].",
			name, name[:dash], name[dash+1:], name)
	}
	return nil
}

func (c *compiler) unknownRoot(t hcl.Traversal) node {
	root := t.RootName()
	known := c.rootNames()
	hint := didYouMean(root, known)
	switch {
	case strings.Contains(root, "-"):
		hint = " For a subtraction write spaces around the minus."
	case hint != "":
	case len(t) == 1 && c.scope.kind == ruleTable:
		hint = " A column is written new." + root + ", old." + root + " or row." + root + ", and a string stands in quotes."
	case len(t) == 1:
		hint = " A part of the payload is written payload." + root + ", and a string stands in quotes."
	}
	return c.report(t[0].SourceRange(), sumUnknownName, "There is nothing named %s; expressions begin with one of %s.%s", root, strings.Join(known, ", "), hint)
}

// each resolves each.key and each.value.
func (c *compiler) each(t hcl.Traversal, attr string, rng hcl.Range) node {
	i := slices.Index([]string{"key", "value"}, attr)
	switch {
	case i < 0:
		return c.report(rng, sumUnknownName, "each has two attributes: each.key, the index or name of the element, and each.value, the element.")
	case c.argument == "when":
		return c.report(rng, sumNotHere, "when judges the change as a whole, before for_each takes its elements. To choose among these, filter: for_each = [for x in ... : x if ...].")
	case c.argument == "for_each":
		return c.report(rng, sumNotHere, "for_each is what each is made of.")
	}
	return c.path(varNode{at{rng}, eachKeySlot + i, "each." + attr}, t[2:], rng)
}

func (c *compiler) notHere(root string, rng hcl.Range) node {
	switch {
	case root == "each":
		return c.report(rng, sumNotHere, "each is an element of for_each, and this event has none. For one event of each element of a list: for_each = new.items.")
	case root == "payload":
		return c.report(rng, sumNotHere, "A rule on a table has no payload. Its data is in new, old and row.")
	case c.scope.kind == ruleChannel:
		return c.report(rng, sumNotHere, "A notification is not about a row, so there is no %s. What it carries is in payload.", root)
	}
	return c.report(rng, sumNotHere, "A logical message is not about a row, so there is no %s. What it carries is in payload.", root)
}

// local compiles a local where it is first used. It is the same everywhere in
// the event, except inside a for expression, whose variables it does not see.
func (c *compiler) local(name string, rng hcl.Range) node {
	if n, ok := c.localNodes[name]; ok {
		return n
	}
	expr, ok := c.scope.locals[name]
	if !ok {
		var known []string
		for k := range c.scope.locals {
			known = append(known, k)
		}
		slices.Sort(known)
		return c.report(rng, sumUnknownName, "There is no local named %s. Locals are defined in a locals block.%s", name, didYouMean(name, known))
	}
	if slices.Contains(c.localStack, name) {
		return c.report(rng, sumLocalCircle, "The value of local.%s depends on itself: %s.", name, strings.Join(append(c.localStack, name), " -> "))
	}
	c.localStack = append(c.localStack, name)
	vars, outer := c.vars, c.outer
	c.vars, c.outer = nil, expr.Range()
	n := c.compile(expr)
	c.vars, c.outer = vars, outer
	c.localStack = c.localStack[:len(c.localStack)-1]
	c.localNodes[name] = n
	return n
}
