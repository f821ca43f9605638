package config

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// Recording writes real changes as tests. Changes of one transaction become one
// test, or several when the context of the transaction changes within it.
type Recording struct {
	// Mask names columns whose values are replaced: equal values by equal ones,
	// so that keys still fit together. Columns that look like passwords and tokens
	// are masked too.
	Mask map[relay.TableName][]string
	// Source is written into the tests when it is not empty.
	Source string

	tests  []*recordedTest
	masked map[string]constant // by table, column and value
	// Hidden are the columns that were masked, "schema.table.column".
	hidden map[string]bool
}

type recordedTest struct {
	tx      relay.Tx
	changes []string // blocks
	what    []string // "update of public.orders"
}

// Add adds a change, and returns what it is: "update of public.orders". It keeps
// nothing of it.
func (r *Recording) Add(c *relay.Change) string {
	t := r.test(c)
	name, what := c.Name, c.Op.String()+" "+c.Name
	if c.Relation != nil {
		name = writeTable(c.Relation.Table())
		what = c.Op.String() + " of " + name
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %s %s {\n", c.Op, quoteHCL(name))
	switch c.Op {
	case relay.Message, relay.Notify:
		if len(c.Payload) > 0 {
			fmt.Fprintf(&b, "payload = %s\n", hclText(payloadValue(c.Payload), ""))
		}
		if c.Op == relay.Message && c.Tx == nil {
			b.WriteString("transactional = false\n")
		}
	default:
		r.rows(&b, c)
	}
	b.WriteString("  }\n")
	t.changes, t.what = append(t.changes, strings.Replace(b.String(), "{\n  }", "{}", 1)), append(t.what, what)
	return what
}

// test returns the test that the change belongs to.
func (r *Recording) test(c *relay.Change) *recordedTest {
	var tx relay.Tx
	if c.Tx != nil {
		tx = *c.Tx
	} else {
		tx = relay.Tx{CommitTime: c.Time, CommitLSN: c.LSN}
	}
	if n := len(r.tests); n > 0 {
		last := r.tests[n-1]
		if c.Tx != nil && last.tx.XID == tx.XID && last.tx.CommitLSN == tx.CommitLSN && bytes.Equal(last.tx.Context, tx.Context) {
			return last
		}
	}
	tx.Context = bytes.Clone(tx.Context)
	t := &recordedTest{tx: tx}
	r.tests = append(r.tests, t)
	return t
}

// payloadValue is a payload as a test writes it: JSON as an object or a list,
// anything else as the string it is.
func payloadValue(payload []byte) constant {
	if v, err := parseJSON(payload); err == nil && (v.kind == objectConst || v.kind == listConst) {
		return v
	}
	return constant{kind: textConst, text: string(payload)}
}

// rows writes old and new. Of the old row of an update it writes what differs:
// the rest is as in the new one.
func (r *Recording) rows(b *strings.Builder, c *relay.Change) {
	var unchanged []constant
	row := func(name string, of relay.Row, skip func(i int) bool) {
		object := constant{kind: objectConst}
		for i := range of {
			if of[i].State == relay.Unknown || skip(i) {
				continue
			}
			object.keys = append(object.keys, constant{kind: textConst, text: c.Relation.Columns[i].Name})
			object.items = append(object.items, r.column(c.Relation, i, of[i]))
		}
		if len(object.items) > 0 || name == "new" {
			fmt.Fprintf(b, "%s = %s\n", name, hclText(object, ""))
		}
	}
	if c.Old != nil {
		row("old", c.Old, func(i int) bool {
			return c.New != nil && c.Old[i].State == c.New[i].State && bytes.Equal(c.Old[i].Text, c.New[i].Text)
		})
	}
	if c.New == nil {
		return
	}
	row("new", c.New, func(int) bool { return false })
	for i := range c.New {
		if c.New[i].State == relay.Unknown {
			unchanged = append(unchanged, constant{kind: textConst, text: c.Relation.Columns[i].Name})
		}
	}
	if len(unchanged) > 0 {
		fmt.Fprintf(b, "unchanged = %s\n", hclText(constant{kind: listConst, items: unchanged}, ""))
	}
}

// column returns the value of a column as a test writes it, masked where that
// is asked for.
func (r *Recording) column(rel *relay.Relation, i int, v relay.Value) constant {
	if v.State == relay.Null {
		return constant{}
	}
	col := &rel.Columns[i]
	kind := pgvalue.KindOf(col.TypeOID, rel.Types)
	table := rel.Table()
	if slices.Contains(r.Mask[table], col.Name) || confidential.MatchString(col.Name) {
		return r.mask(table, col.Name, kind, v.Text)
	}
	return literalOf(kind, col, rel, v.Text)
}

// literalOf writes a value of PostgreSQL as the literal that means it, also
// where no catalogue says what type the column has.
func literalOf(kind pgvalue.Kind, col *relay.Column, rel *relay.Relation, text []byte) constant {
	plain := constant{kind: textConst, text: string(text)}
	switch kind {
	case pgvalue.Bool:
		return constant{kind: boolConst, bool: string(text) == "t"}
	case pgvalue.Number:
		if v, err := parseJSON(text); err == nil && v.kind == numberConst {
			return v
		}
	case pgvalue.JSON:
		if v, err := parseJSON(text); err == nil && (v.kind == objectConst || v.kind == listConst) {
			return v
		}
	case pgvalue.Array:
		v, err := parseJSON(pgvalue.AppendJSON(nil, col.TypeOID, text, rel.Types))
		if err == nil && !slices.ContainsFunc(v.items, func(i constant) bool { return i.kind == objectConst || i.kind == listConst }) {
			return v
		}
	}
	return plain
}

// mask returns what stands for a value.
func (r *Recording) mask(table relay.TableName, column string, kind pgvalue.Kind, text []byte) constant {
	if r.masked == nil {
		r.masked, r.hidden = map[string]constant{}, map[string]bool{}
	}
	r.hidden[table.String()+"."+column] = true
	of := fmt.Sprintf("%q %q", table, column)
	key := of + " " + string(text)
	if v, ok := r.masked[key]; ok {
		return v
	}
	n := 1
	for k := range r.masked {
		if strings.HasPrefix(k, of) {
			n++
		}
	}
	var v constant
	switch kind {
	case pgvalue.Text:
		v = constant{kind: textConst, text: "masked-" + strconv.Itoa(n)}
	case pgvalue.Number:
		v = constant{kind: numberConst, text: strconv.Itoa(n)}
	case pgvalue.Bool:
		v = constant{kind: boolConst}
	case pgvalue.JSON:
		v = constant{kind: objectConst}
	case pgvalue.Timestamp, pgvalue.TimestampTZ:
		v = constant{kind: textConst, text: time.Unix(int64(n), 0).UTC().Format("2006-01-02 15:04:05+00")}
	case pgvalue.Array:
		v = constant{kind: listConst}
	}
	r.masked[key] = v
	return v
}

// Masked returns the columns that were masked, "schema.table.column".
func (r *Recording) Masked() []string { return slices.Sorted(maps.Keys(r.hidden)) }

// Tests returns the number of tests and of changes.
func (r *Recording) Tests() (tests, changes int) {
	for _, t := range r.tests {
		changes += len(t.changes)
	}
	return len(r.tests), changes
}

// Text returns the tests as a file, with expect blocks of the events that the
// rules make of the changes now. A rule that fails on a change fails its test.
func (r *Recording) Text(ctx context.Context, cfg *Config, catalogs map[string]*relay.Catalog) ([]byte, error) {
	var b strings.Builder
	b.WriteString("# Recorded by rowhook record. rowhook test --update writes the expect blocks anew.\n")
	for n, t := range r.tests {
		fmt.Fprintf(&b, "\ntest %s {\n", quoteHCL(t.name(n+1)))
		if r.Source != "" {
			fmt.Fprintf(&b, "source = source.%s\n", r.Source)
		}
		b.WriteString("  tx {\n")
		if t.tx.XID != 0 {
			fmt.Fprintf(&b, "xid = %d\n", t.tx.XID)
		}
		if t.tx.CommitLSN != 0 {
			fmt.Fprintf(&b, "lsn = %s\n", quoteHCL(t.tx.CommitLSN.String()))
		}
		fmt.Fprintf(&b, "commit_time = %s\n", quoteHCL(string(relay.AppendTime(nil, t.tx.CommitTime))))
		if c, err := parseJSON(t.tx.Context); err == nil && c.kind == objectConst {
			fmt.Fprintf(&b, "context = %s\n", hclText(c, ""))
		}
		b.WriteString("  }\n" + strings.Join(t.changes, "") + "}\n")
	}
	return expected(ctx, cfg, catalogs, hclwrite.Format([]byte(b.String())))
}

// name says what happened, at most three kinds of it.
func (t *recordedTest) name(n int) string {
	kinds := unique(t.what)
	if len(kinds) > 3 {
		kinds = append(kinds[:2], fmt.Sprintf("%d more kinds of changes", len(kinds)-2))
	}
	return fmt.Sprintf("recorded %d: %s", n, list(kinds, "and"))
}

// expected adds the expect blocks to the text of a test file.
func expected(ctx context.Context, cfg *Config, catalogs map[string]*relay.Catalog, src []byte) ([]byte, error) {
	const name = "recorded.test.hcl"
	p, files := &problems{}, &Files{files: map[string]*hcl.File{}}
	files.parse(p, name, src)
	tests, _, diags := loadTests(p, files, cfg, catalogs)
	if tests == nil {
		return nil, fmt.Errorf("the changes cannot be written as tests: %w", diags)
	}
	var results []*TestResult
	for _, t := range tests.List {
		result, err := tests.Run(ctx, t)
		if err != nil {
			return nil, err
		}
		results = append(results, result)
	}
	if out, ok := tests.Update(results)[name]; ok {
		return out, nil
	}
	return src, nil
}
