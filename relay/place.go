package relay

import (
	"cmp"
	"slices"
)

// RulesPrefix is the prefix of the transactional logical message that marks the
// place in a source's WAL from which a rule set judges; its content is the ID of
// the set's record.
const RulesPrefix = "rowhook.rules"

// PastRules is how many records of the past a store keeps of a source.
const PastRules = 20

// RulesRecord says which rules judge the changes of a source, and from which
// place on. A source has one record in force, those of sets that wait for their
// place, and some of the past.
type RulesRecord struct {
	Source string
	// ID is unique; it is what the message of the place carries.
	ID string
	// Hash is that of the RuleSet.
	Hash string
	// Text is what the set can be made of again. A record of the past has none.
	Text string
	// Needs is what the set needs of the server.
	Needs Needs
	// At is when the set was loaded, in microseconds since the Unix epoch.
	At int64
	// From is the place: the set judges every transaction that commits at or
	// after it. 0 waits for the message.
	From LSN
	// Gap, when not nil, is recorded when the set comes into force, ending there.
	Gap *Gap
}

// RulesPlace says that the set of a record judges from a place on.
type RulesPlace struct {
	ID   string
	From LSN
}

// Needs is what rules need the server to send, by table.
type Needs []TableNeeds

// TableNeeds is what rules need of one table.
type TableNeeds struct {
	Table TableName
	Ops   Ops
	// All says that every column is read; then Columns and Old hold only what is
	// also read by name.
	All bool
	// Columns are read as new values, Old as values before the change; sorted.
	Columns, Old []string
}

// Needs returns what the rules of the set need of the server's WAL: not
// notifications, messages, which are always sent, and rows of backfills.
func (s *RuleSet) Needs() Needs {
	tables, _ := s.Tables()
	needs := make(Needs, 0, len(tables))
	for _, name := range tables {
		n := TableNeeds{Table: name}
		for _, i := range s.byTable[name] {
			r := s.rules[i]
			n.Ops |= r.Ops & OpsOf(Insert, Update, Delete, Truncate)
			n.All = n.All || r.All
			for _, ref := range r.Reads {
				if ref.Old {
					n.Old = append(n.Old, ref.Name)
				} else {
					n.Columns = append(n.Columns, ref.Name)
				}
			}
		}
		slices.Sort(n.Columns)
		slices.Sort(n.Old)
		n.Columns, n.Old = slices.Compact(n.Columns), slices.Compact(n.Old)
		needs = append(needs, n)
	}
	return needs
}

// Table returns what is needed of the table, or nil.
func (n Needs) Table(name TableName) *TableNeeds {
	for i := range n {
		if n[i].Table == name {
			return &n[i]
		}
	}
	return nil
}

// Ops returns what must be published. A publication has one set of operations
// for all its tables.
func (n Needs) Ops() (ops Ops) {
	for i := range n {
		ops |= n[i].Ops
	}
	return ops
}

// Tables returns the tables, in order.
func (n Needs) Tables() []TableName {
	out := make([]TableName, len(n))
	for i := range n {
		out[i] = n[i].Table
	}
	return out
}

// Reads returns the tables, in order, with the columns that are read of them.
func (n Needs) Reads() []TableColumns {
	out := make([]TableColumns, len(n))
	for i := range n {
		out[i] = TableColumns{TableName: n[i].Table, Columns: union(n[i].Columns, n[i].Old), All: n[i].All}
	}
	return out
}

// Cover reports whether what n needs includes all that m needs: then the server
// sent what m needs for as long as it has sent what n needs.
func (n Needs) Cover(m Needs) bool {
	for i := range m {
		w, h := &m[i], n.Table(m[i].Table)
		if h == nil || w.Ops&^h.Ops != 0 || w.All && !h.All || !subset(w.Old, h.Old) || !h.All && !subset(w.Columns, h.Columns) {
			return false
		}
	}
	return true
}

// Grows reports whether m needs a table or an operation that n does not.
func (n Needs) Grows(m Needs) bool {
	return m.Ops()&^n.Ops() != 0 || slices.ContainsFunc(m, func(w TableNeeds) bool { return n.Table(w.Table) == nil })
}

func subset(a, b []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

// Union returns what n and m need together.
func (n Needs) Union(m Needs) Needs {
	out := slices.Clone(n)
	for _, w := range m {
		h := out.Table(w.Table)
		if h == nil {
			out = append(out, w)
			continue
		}
		h.Ops |= w.Ops
		h.All = h.All || w.All
		h.Columns, h.Old = union(h.Columns, w.Columns), union(h.Old, w.Old)
	}
	slices.SortFunc(out, func(a, b TableNeeds) int {
		return cmp.Or(cmp.Compare(a.Table.Schema, b.Table.Schema), cmp.Compare(a.Table.Name, b.Table.Name))
	})
	return out
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}
