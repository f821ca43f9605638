package config

import (
	"bytes"
	"fmt"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// program is a rule bound to one relation.
type program struct {
	exprs       *ruleExprs
	rel         *relay.Relation
	payloadText bool
	when        condFn
	forEach     evalFn // nil: one event of the change
	key, tenant evalFn
	data        emitFn
	schema      *schemaDecl // nil when there is none
	// noData says that the rule has no data of its own, and so a truncate,
	// which has no row, has none either.
	noData bool
	// keyColumns are the columns the key reads, to see whether it can be
	// computed for the old row too.
	keyColumns []int
	nulls      relay.Row
	unknowns   relay.Row
	// The errors of deciding on a column that is not known, made beforehand.
	oldUnknown, newUnknown []*evalError
	oldWhy                 string // why an old value is not known, in a few words
	numbers                pgvalue.Printer
	frame                  frame
}

// bind compiles the expressions for a relation, nil for channels and messages.
func (e *ruleExprs) bind(rel *relay.Relation) (relay.Program, error) {
	b := &binder{rel: rel, src: e.scope.source}
	p := &program{exprs: e, rel: rel, payloadText: e.scope.payloadText, schema: e.scope.schema, numbers: pgvalue.Printer{NumbersAsString: e.scope.numbersAsString}}
	p.frame.prog = p
	if e.when != nil {
		p.when = b.cond(e.when.node, "when")
	}
	if e.forEach != nil {
		p.forEach = b.eval(e.forEach.node)
		p.frame.vars = make([]value, eachSlots)
	}
	if e.key != nil {
		p.key = b.eval(e.key.node)
	}
	if e.tenant != nil {
		p.tenant = b.eval(e.tenant.node)
	}
	p.data = b.emit(e.data.node)
	p.noData = e.data.rng.Filename == ""
	if b.err != nil {
		return nil, b.err
	}
	if rel != nil {
		p.prepare(rel)
	}
	if e.key != nil && rel != nil {
		p.keyColumns = columnsOf(e.key.node, rel)
	}
	return p, nil
}

func (p *program) prepare(rel *relay.Relation) {
	n := len(rel.Columns)
	p.nulls, p.unknowns = make(relay.Row, n), make(relay.Row, n)
	p.oldUnknown, p.newUnknown = make([]*evalError, n), make([]*evalError, n)
	old := "the old value of column %s of %s was not sent, because the column is not in the replica identity: use REPLICA IDENTITY FULL, or USING INDEX with an index that has the column"
	p.oldWhy = "not sent: not in the replica identity"
	if rel.Identity == relay.IdentityFull {
		// Then the server sends it with every change: this is a row without one.
		old, p.oldWhy = "the old value of column %s of %s is known only of a change", "known only of a change"
	}
	for i, c := range rel.Columns {
		p.nulls[i].State = relay.Null
		p.oldUnknown[i] = &evalError{unknown: true, msg: fmt.Sprintf(old, c.Name, rel.Table())}
		p.newUnknown[i] = &evalError{unknown: true, msg: fmt.Sprintf("the value of column %s of %s was not sent, because it is stored out of line (TOAST) and did not change: a rule that decides on it needs REPLICA IDENTITY FULL", c.Name, rel.Table())}
	}
}

// columnsOf returns the places of the columns an expression reads.
func columnsOf(n node, rel *relay.Relation) []int {
	var cols []int
	each(n, func(n node) {
		switch n := n.(type) {
		case columnNode:
			cols = append(cols, rel.Column(n.name))
		case changedNode:
			cols = append(cols, rel.Column(n.name))
		case rowNode:
			for i := range rel.Columns {
				cols = append(cols, i)
			}
		}
	})
	return cols
}

// Eval judges a change.
func (p *program) Eval(c *relay.Change, d *relay.Draft) (bool, error) {
	f := &p.frame
	if err := p.begin(c); err != nil {
		return false, err
	}
	if p.when != nil {
		switch p.when(f) {
		case no:
			return false, nil
		case broken:
			return false, p.failure(p.exprs.when)
		}
	}
	if p.forEach != nil {
		return p.each(c, d)
	}
	if err := p.draft(c, d); err != nil {
		return false, err
	}
	return true, nil
}

// draft makes the event of a change that the rule matches.
func (p *program) draft(c *relay.Change, d *relay.Draft) error {
	f := &p.frame
	if p.key != nil {
		d.KeyKind = relay.KeyNone
		v := f.known(p.key(f))
		if v.kind == kindFailed {
			return p.failure(p.exprs.key)
		}
		if v.kind != kindNull {
			d.KeyKind = relay.KeySet
			d.Key = v.appendText(d.Key[:0])
		}
		if c.Op == relay.Update {
			p.oldKey(d)
		}
	}
	if p.tenant != nil {
		v := f.known(p.tenant(f))
		if v.kind == kindFailed {
			return p.failure(p.exprs.tenant)
		}
		if v.kind != kindNull {
			d.HasTenant = true
			d.Tenant = v.appendText(d.Tenant[:0])
		}
	}
	if p.noData && c.Op == relay.Truncate {
		d.Data = append(d.Data[:0], "null"...)
		return nil
	}
	f.printer = p.numbers
	f.unchanged = d.Unchanged[:0]
	d.Data = p.data(f, d.Data[:0])
	d.Unchanged = f.unchanged
	f.unchanged = nil
	if f.omit && f.err == nil {
		f.err = &evalError{msg: "the data is a column that was not sent, because it is stored out of line (TOAST) and did not change: put it into an object, where it can be left out"}
	}
	if p.schema != nil && f.err == nil {
		if why := f.misfit(p.schema.typ, d.Data, "data"); why != "" {
			f.fail(p.exprs.data.rng, why)
		}
	}
	if f.err != nil {
		return p.failure(p.exprs.data)
	}
	return nil
}

// begin sets the frame to a change.
func (p *program) begin(c *relay.Change) error {
	f := &p.frame
	f.change = c
	f.err, f.omit, f.strict, f.payloadRead = nil, false, 0, false
	if f.scratch, f.stack = f.scratch[:0], f.stack[:0]; cap(f.scratch) > keptMemory {
		f.scratch = nil
	}
	f.printer.NumbersAsString = false
	if p.rel == nil {
		return nil
	}
	n := len(p.rel.Columns)
	if c.New != nil && len(c.New) != n || c.Old != nil && len(c.Old) != n {
		return fmt.Errorf("%s has %d columns, and the change has another number of values", p.rel.Table(), n)
	}
	newRow, oldRow := c.New, c.Old
	if newRow == nil {
		newRow = p.nulls
	}
	if oldRow == nil {
		oldRow = p.nulls
		if c.Op == relay.Update || c.Op == relay.Delete {
			oldRow = p.unknowns // a source that was told nothing of the old row
		}
	}
	f.rowIsOld = c.Op == relay.Delete
	// One by one: a whole array would be made beside and copied.
	f.rows[sideNew] = newRow
	f.rows[sideOld] = oldRow
	if f.rowIsOld {
		newRow = oldRow
	}
	f.rows[sideRow] = newRow
	return nil
}

// oldKey computes the key for the row before an update, where all it reads is
// known. An error there is no error of the event: the key is then not known.
func (p *program) oldKey(d *relay.Draft) {
	f := &p.frame
	same := true
	for _, i := range p.keyColumns {
		o, n := &f.rows[sideOld][i], f.load(sideNew, i)
		if o.State == relay.Unknown {
			return
		}
		same = same && o.State == n.State && bytes.Equal(o.Text, n.Text)
	}
	if same {
		if d.KeyKind == relay.KeySet {
			d.HasOldKey = true
			d.OldKey = append(d.OldKey[:0], d.Key...)
		}
		return
	}
	rows := f.rows
	f.rows = [3]relay.Row{rows[sideOld], rows[sideOld], rows[sideOld]}
	v := f.known(p.key(f))
	f.rows = rows
	f.err = nil
	if v.kind != kindFailed && v.kind != kindNull {
		d.HasOldKey = true
		d.OldKey = v.appendText(d.OldKey[:0])
	}
}
