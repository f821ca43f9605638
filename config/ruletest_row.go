package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// testRelation is a table as a test file sees it.
type testRelation struct {
	*relay.Relation
	// inferred says that there is no catalogue that has the table: its columns
	// are those the rows of the file name.
	inferred bool
	source   string
	// first is where a column of an inferred relation was first given a value.
	first map[string]constant
}

// OIDs of the types that literals have where nothing else is known.
const (
	oidBool    = 16
	oidText    = 25
	oidNumeric = 1700
	oidJSONB   = 3802
)

// relation returns the table of a change, or nil when it has reported why
// there is none.
func (l *testLoader) relation(source string, label settingText) *testRelation {
	name, problem := parseTable(label.s)
	if problem != "" {
		l.errorf(label.at, "Invalid table name", "%s", problem)
		return nil
	}
	source, ok := l.sourceOf(source, label.at, label.s,
		func(r *rule) bool { return slices.Contains(r.Tables, name) },
		func(r *rule) (known []string) {
			for _, t := range r.Tables {
				known = append(known, writeTable(t))
			}
			return known
		})
	if !ok {
		return nil
	}
	at := sourceTable{source, name}
	if r := l.relations[at]; r != nil {
		return r
	}
	l.nextOID++
	r := &testRelation{source: source}
	if c := l.catalogs[source]; c != nil && c.Table(name) != nil {
		rel := c.Table(name).Relation
		rel.Types = c
		rel.OID = l.nextOID
		r.Relation = sent(&rel, c.Table(name))
	} else {
		r.inferred, r.first = true, map[string]constant{}
		r.Relation = &relay.Relation{OID: l.nextOID, Schema: name.Schema, Name: name.Name, Identity: relay.IdentityFull}
	}
	l.relations[at] = r
	return r
}

// sent is a relation as the stream has it: without generated columns.
func sent(rel *relay.Relation, t *relay.Table) *relay.Relation {
	out := *rel
	out.Columns, out.PrimaryKey = nil, nil
	place := map[int]int{}
	for i, c := range rel.Columns {
		if len(t.Generated) > i && t.Generated[i] != 0 {
			continue
		}
		place[i] = len(out.Columns)
		out.Columns = append(out.Columns, c)
	}
	for _, i := range rel.PrimaryKey {
		if n, ok := place[i]; ok {
			out.PrimaryKey = append(out.PrimaryKey, n)
		}
	}
	return &out
}

// complete adds to an inferred relation what rules read of it and no row names:
// it is null in every row.
func (r *testRelation) complete(rules []*rule) {
	if !r.inferred {
		return
	}
	for _, rule := range rules {
		if rule.Source != r.source || !slices.Contains(rule.Tables, r.Table()) {
			continue
		}
		for _, ref := range rule.Reads {
			if r.Column(ref.Name) < 0 {
				r.Columns = append(r.Columns, relay.Column{Name: ref.Name, TypeOID: oidText, TypeMod: -1, Identity: true})
			}
		}
	}
	for i := range r.Columns {
		if r.Columns[i].TypeOID == 0 { // null in every row
			r.Columns[i].TypeOID = oidText
		}
	}
	if id := r.Column("id"); id >= 0 {
		r.PrimaryKey = []int{id}
	}
}

// changeBody decodes a change as far as that is possible before the types of
// its columns are known.
func (l *testLoader) changeBody(source string, b *body) *changeBody {
	c := &changeBody{body: b, op: operations[b.def.Name]}
	label := b.labels[0]
	if label.s == "" {
		return nil
	}
	switch b.def.Name {
	case "notify":
		c.op = relay.Notify
		return l.about(c, source, func(r *rule) string { return r.Channel })
	case "message":
		c.op = relay.Message
		if label.s == "rowhook.context" {
			l.errorf(label.at, "Context as a message", "What messages with this prefix say is tx.context: write tx { context = { ... } } instead.")
			return nil
		}
		return l.about(c, source, func(r *rule) string { return r.Message })
	}
	if c.table = l.relation(source, label); c.table == nil {
		return nil
	}
	c.source = c.table.source
	c.old, c.new = l.values(c, "old"), l.values(c, "new")
	if c.table.inferred && b.def.argument("unchanged") != nil {
		for _, name := range get[[]settingText](b, "unchanged") {
			l.infer(c.table, name.s, constant{at: name.at})
		}
	}
	return c
}

// about finds the source of a notification or message, or returns nil when it
// has reported why there is none.
func (l *testLoader) about(c *changeBody, source string, subject func(*rule) string) *changeBody {
	label := c.labels[0]
	found, ok := l.sourceOf(source, label.at, label.s, func(r *rule) bool { return subject(r) == label.s }, func(r *rule) []string { return []string{subject(r)} })
	if !ok {
		return nil
	}
	c.source = found
	return c
}

// values reads a row as it was written, or returns nil when the change has no
// such row.
func (l *testLoader) values(c *changeBody, arg string) map[string]constant {
	if c.def.argument(arg) == nil || c.arg(arg) == nil || c.arg(arg).val == nil {
		return nil
	}
	v := c.arg(arg).val.(constant)
	if !l.plain(v) {
		return nil
	}
	row := make(map[string]constant, len(v.items))
	for i, key := range v.keys {
		if _, ok := row[key.text]; ok {
			l.errorf(key.at, "Duplicate entry", "The column %s is already there. Remove one of the two.", key.text)
		}
		row[key.text] = v.items[i]
		if c.table.inferred {
			l.infer(c.table, key.text, v.items[i])
		} else if c.table.Column(key.text) < 0 {
			var names []string
			for i := range c.table.Columns {
				names = append(names, c.table.Columns[i].Name)
			}
			l.errorf(key.at, "Unknown column", "The table %s has no column %s in the change stream.%s", c.table.Table(), key.text, didYouMean(key.text, names))
		}
	}
	return row
}

// infer gives a column of an inferred relation the type of a literal.
func (l *testLoader) infer(r *testRelation, column string, v constant) {
	typ := map[constKind]uint32{boolConst: oidBool, numberConst: oidNumeric, textConst: oidText, listConst: oidJSONB, objectConst: oidJSONB}[v.kind]
	i := r.Column(column)
	if i < 0 {
		r.Columns = append(r.Columns, relay.Column{Name: column, TypeOID: typ, TypeMod: -1, Identity: true})
		r.first[column] = v
		return
	}
	switch known := &r.Columns[i].TypeOID; {
	case *known == 0:
		*known, r.first[column] = typ, v
	case typ != 0 && *known != typ:
		l.errorf(v.at, "Column of two types", "%s.%s is %s here and %s in line %d, so its type is not known. Save the catalogue of the database (rowhook check --save-catalog), or write both in the same way.",
			r.Name, column, v.show(), r.first[column].show(), r.first[column].at.Start.Line)
	}
}

// change makes the change that the rules will see. Its place in the stream is
// set when it is run.
func (l *testLoader) change(t *RuleTest, b *changeBody) *relay.Change {
	if t.source == "" {
		t.source = b.source
	}
	if t.source != b.source {
		l.errorf(b.at, "Several sources", "The changes of one test are of one source; this one is of %s, others of %s. Divide the test.", b.source, t.source)
		return nil
	}
	c := &relay.Change{Op: b.op}
	switch b.op {
	case relay.Notify, relay.Message:
		c.Name = b.labels[0].s
		if b.op == relay.Message && get[bool](b.body, "transactional") {
			c.Tx = &t.tx
		}
		if s := b.arg("payload"); s != nil && s.val != nil && l.plain(s.val.(constant)) {
			if v := s.val.(constant); v.kind == textConst {
				c.Payload = []byte(v.text)
			} else {
				c.Payload = appendJSON(nil, v)
			}
		}
		return c
	}
	c.Relation, c.Tx = b.table.Relation, &t.tx
	if b.op == relay.Truncate {
		return c
	}
	for i := range c.Relation.Columns {
		l.column(b, c, i)
	}
	if b.def.argument("unchanged") != nil {
		for _, name := range get[[]settingText](b.body, "unchanged") {
			if c.Relation.Column(name.s) < 0 {
				l.errorf(name.at, "Unknown column", "The table %s has no column %s in the change stream.", c.Relation.Table(), name.s)
			}
		}
	}
	return c
}

// column sets the values of one column, old and new, as PostgreSQL would send
// them and as the cdc package completes them.
func (l *testLoader) column(b *changeBody, c *relay.Change, i int) {
	col := &c.Relation.Columns[i]
	newValue, hasNew := b.new[col.Name]
	oldValue, hasOld := b.old[col.Name]
	supplied := c.Relation.Identity == relay.IdentityFull || col.Identity
	if hasOld && !supplied {
		l.errorf(oldValue.at, "Old value not available", "The replica identity of %s does not carry %s, so PostgreSQL does not send its old value. Remove it here; or run ALTER TABLE %s REPLICA IDENTITY FULL, and save the catalogue anew.",
			c.Relation.Table(), col.Name, quoteTable(c.Relation.Table()))
		return
	}
	switch b.op {
	case relay.Insert, relay.Read:
		c.New = append(c.New, l.value(b, newValue, col))
	case relay.Delete:
		v := relay.Value{}
		if supplied {
			v = l.value(b, oldValue, col)
		}
		c.Old = append(c.Old, v)
	case relay.Update:
		var before, after relay.Value
		toast := slices.IndexFunc(get[[]settingText](b.body, "unchanged"), func(s settingText) bool { return s.s == col.Name })
		switch {
		case toast >= 0 && hasNew:
			l.errorf(newValue.at, "Unchanged value in the new row", "%s is listed in unchanged: PostgreSQL does not send its new value. Write it in old, or remove it there.", col.Name)
		case toast >= 0 && hasOld:
			before = l.value(b, oldValue, col)
			after = before // the old row has it
		case toast >= 0 && supplied && !b.table.inferred:
			l.errorf(get[[]settingText](b.body, "unchanged")[toast].at, "Missing old value", "Under the replica identity of %s the old row has %s, also when it did not change. Write it in old.", c.Relation.Table(), col.Name)
		case toast >= 0:
		default:
			if !hasNew {
				newValue = oldValue
			}
			if !hasOld {
				oldValue = newValue
			}
			after = l.value(b, newValue, col)
			if supplied {
				before = l.value(b, oldValue, col)
			}
		}
		c.Old, c.New = append(c.Old, before), append(c.New, after)
	}
}

// value writes a value as PostgreSQL prints one of the column's type. The zero
// constant is null.
func (l *testLoader) value(b *changeBody, v constant, col *relay.Column) relay.Value {
	if v.kind == nullConst {
		return relay.Value{State: relay.Null}
	}
	text, want := pgText(v, pgvalue.KindOf(col.TypeOID, b.table.Types))
	if want != "" && !b.table.inferred { // then it is a column of two types, and reported
		l.errorf(v.at, "Wrong type of value", "The column %s of %s cannot be %s. Write %s.", col.Name, b.table.Table(), v.show(), want)
	}
	return relay.Value{State: relay.Known, Text: text}
}

// pgText returns a value in PostgreSQL's text form, or what to write instead.
func pgText(v constant, kind pgvalue.Kind) (text []byte, want string) {
	switch kind {
	case pgvalue.Bool:
		switch {
		case v.kind == boolConst && v.bool:
			return []byte("t"), ""
		case v.kind == boolConst:
			return []byte("f"), ""
		}
		return nil, "true or false, without quotes"
	case pgvalue.Number:
		switch text := []byte(v.text); {
		case v.kind == numberConst:
			return []byte(numberText(v)), ""
		case v.kind == textConst && (pgvalue.IsNumber(text) || pgvalue.IsSpecial(text)):
			return text, ""
		}
		return nil, "a number, such as 42 or, with all its digits, \"12.50\""
	case pgvalue.JSON:
		if v.kind != textConst {
			return appendJSON(nil, v), ""
		}
		if text := []byte(v.text); pgvalue.ValidJSON(text) {
			return text, ""
		}
		return nil, fmt.Sprintf("an object or a list, or JSON as text: %q", `"`+v.text+`"`)
	case pgvalue.Timestamp, pgvalue.TimestampTZ:
		if v.kind == textConst {
			return []byte(pgTimestamp(v.text, kind)), ""
		}
		return nil, "a time in quotes, such as \"2026-01-31 09:30:00+00\""
	case pgvalue.Array:
		if v.kind == listConst {
			return appendArray(nil, v)
		}
	}
	if v.kind != textConst {
		return nil, "a string in quotes, as PostgreSQL prints the value"
	}
	return []byte(v.text), ""
}

// pgTimestamp turns RFC 3339 into what PostgreSQL prints in UTC. Anything else
// is taken as PostgreSQL's own.
func pgTimestamp(s string, kind pgvalue.Kind) string {
	t, err := time.Parse(time.RFC3339Nano, s)
	switch {
	case err != nil && kind == pgvalue.Timestamp:
		return strings.Replace(s, "T", " ", 1)
	case err != nil:
		return s
	case kind == pgvalue.Timestamp:
		return t.UTC().Format("2006-01-02 15:04:05.999999")
	}
	return t.UTC().Format("2006-01-02 15:04:05.999999") + "+00"
}

// appendArray appends a list as the text of an array. Elements are quoted,
// which every element type reads.
func appendArray(dst []byte, v constant) (text []byte, want string) {
	dst = append(dst, '{')
	for i, item := range v.items {
		if i > 0 {
			dst = append(dst, ',')
		}
		switch item.kind {
		case nullConst:
			dst = append(dst, "NULL"...)
		case boolConst:
			dst = append(dst, item.show()[0])
		case numberConst:
			dst = append(dst, numberText(item)...)
		case textConst:
			dst = append(dst, '"')
			dst = append(dst, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(item.text)...)
			dst = append(dst, '"')
		case listConst:
			if dst, want = appendArray(dst, item); want != "" {
				return nil, want
			}
		default:
			return nil, "the array as PostgreSQL prints it: \"{...}\""
		}
	}
	return append(dst, '}'), ""
}
