package relay

// Catalog is what a source's database knows of the tables that rules name,
// read at one moment.
type Catalog struct {
	Source string
	Tables []*Table
	Types  map[uint32]Type
}

// Table is a table of the catalogue.
type Table struct {
	// Relation has all columns in the order of pg_attribute, including those a
	// publication may not send.
	Relation
	// Kind is pg_class.relkind: r table, p partitioned table, v view, m
	// materialized view, f foreign table and so on.
	Kind byte
	// Persistence is pg_class.relpersistence: p permanent, u unlogged, t
	// temporary.
	Persistence byte
	// NotNull and Generated have one entry a column. Generated is
	// pg_attribute.attgenerated: 0, 's' stored or 'v' virtual.
	NotNull   []bool
	Generated []byte
	// TypeNames has one entry a column: what format_type prints.
	TypeNames []string
	// Storage and Dims have one entry a column, or are empty where nobody read
	// them. Storage is pg_attribute.attstorage: p plain, m main, e external, x
	// extended; values of the last two may be stored out of line (TOAST). Dims is
	// pg_attribute.attndims, the dimensions an array column was declared with.
	Storage []byte
	Dims    []int
	// Owner is the owning role.
	Owner string
	// Ancestors are the tables that the table is a partition of, the nearest first.
	Ancestors []TableName
}

// Table returns the named table, or nil.
func (c *Catalog) Table(name TableName) *Table {
	for _, t := range c.Tables {
		if t.Schema == name.Schema && t.Name == name.Name {
			return t
		}
	}
	return nil
}

// ResolveType implements TypeResolver.
func (c *Catalog) ResolveType(oid uint32) (Type, bool) {
	t, ok := c.Types[oid]
	return t, ok
}

// Unsent reports whether the server may leave the column's value out of an
// update that does not change it: a TOAST value that no old row supplies.
func (t *Table) Unsent(column int) bool {
	return len(t.Storage) > 0 && (t.Storage[column] == 'e' || t.Storage[column] == 'x') && !t.OldKnown(column)
}

// OldKnown reports whether the value of the column before an update or delete
// is known under the table's replica identity.
func (t *Table) OldKnown(column int) bool {
	return t.Identity == IdentityFull || t.Columns[column].Identity
}
