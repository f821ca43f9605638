package integration_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
)

// modelColumn is a column beside the primary key and the version.
type modelColumn struct {
	name string
	kind modelKind
}

// modelKind is a type and a way to write random values of it in SQL.
type modelKind struct {
	sql   string
	value func(*rand.Rand) string
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// modelText is short, or so long that PostgreSQL stores it out of line.
func modelText(rng *rand.Rand) string {
	n := rng.IntN(30)
	if rng.IntN(4) == 0 {
		n = 2100 + rng.IntN(4000)
	}
	var b strings.Builder
	for range n {
		b.WriteRune([]rune(`abcXYZ 019"\'{},é€😀`)[rng.IntN(19)])
	}
	return quoted(b.String())
}

var modelKinds = []modelKind{
	{"int", func(rng *rand.Rand) string { return fmt.Sprint(rng.IntN(1000) - 500) }},
	{"bigint", func(rng *rand.Rand) string { return fmt.Sprint(rng.Int64() - rng.Int64()) }},
	{"text", modelText},
	{"text", modelText}, // twice as often: unchanged values out of line are what goes wrong
	{"numeric", func(rng *rand.Rand) string {
		return []string{"1.50", "'NaN'", "123456789012345678901234567890.10", "-0.001"}[rng.IntN(4)]
	}},
	{"bool", func(rng *rand.Rand) string { return fmt.Sprint(rng.IntN(2) == 0) }},
	{"timestamptz", func(rng *rand.Rand) string {
		return []string{"now()", "'infinity'", "'0044-03-15 01:02:03 BC'", "'2024-02-29 23:59:59.999999+05:30'"}[rng.IntN(4)]
	}},
	{"jsonb", func(rng *rand.Rand) string {
		return fmt.Sprintf("jsonb_build_object('n', %d, 'list', jsonb_build_array(1.50, null, %s::text))", rng.IntN(9), modelText(rng))
	}},
	{"text[]", func(rng *rand.Rand) string { return fmt.Sprintf("array[%s, null, %s]", modelText(rng), modelText(rng)) }},
	{"bytea", func(rng *rand.Rand) string { return fmt.Sprintf(`'\x%08x'`, rng.Uint32()) }},
	{"float8", func(rng *rand.Rand) string { return []string{"0.1", "1e300", "'-0'", "'NaN'"}[rng.IntN(4)] }},
}

// modelTable is a table of the random schema. Every row has a version v, which begins at 1 and is
// one more after every update, so that a receiver sees what is lost, invented or out of order.
type modelTable struct {
	name string
	pk   []modelColumn
	full bool // REPLICA IDENTITY FULL
	// split: it has partitions. A row that moves to another one is deleted and inserted.
	split bool

	mu      sync.RWMutex
	columns []modelColumn
	serial  int

	era    int  // of its rule; 0: no rule names it
	strict bool // a rule has named it from its first row on
	stale  bool // DDL changed what its rows look like, which makes no change
}

func newModelTable(rng *rand.Rand, n int) *modelTable {
	t := &modelTable{name: fmt.Sprintf("t%d", n), full: rng.IntN(5) < 2}
	if rng.IntN(3) == 0 {
		t.name = fmt.Sprintf(`Tä "%d"`, n)
	}
	number := modelColumn{"id", modelKind{"int", func(rng *rand.Rand) string { return fmt.Sprint(rng.IntN(30)) }}}
	word := modelColumn{"Wörd", modelKind{"text", func(rng *rand.Rand) string { return quoted(fmt.Sprintf("k'%d", rng.IntN(8))) }}}
	t.pk = [][]modelColumn{{number}, {word}, {number, word}}[rng.IntN(3)]
	for range 1 + rng.IntN(5) {
		t.addColumn(rng)
	}
	return t
}

func (t *modelTable) addColumn(rng *rand.Rand) modelColumn {
	t.serial++
	c := modelColumn{fmt.Sprintf("c%d", t.serial), modelKinds[rng.IntN(len(modelKinds))]}
	t.columns = append(t.columns, c)
	return c
}

func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (t *modelTable) sql() string { return ident(t.name) }

func (t *modelTable) keyNames() (names []string) {
	for _, c := range t.pk {
		names = append(names, ident(c.name))
	}
	return names
}

// create is the DDL of the table.
func (t *modelTable) create(rng *rand.Rand) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE %s (v bigint NOT NULL", t.sql())
	for _, c := range slices.Concat(t.pk, t.columns) {
		fmt.Fprintf(&b, ", %s %s", ident(c.name), c.kind.sql)
	}
	fmt.Fprintf(&b, ", PRIMARY KEY (%s))", strings.Join(t.keyNames(), ", "))
	leaves := []string{t.sql()}
	if rng.IntN(4) == 0 {
		t.split = true
		leaves = append(leaves, ident(t.name+"_0"), ident(t.name+"_1"))
		fmt.Fprintf(&b, " PARTITION BY HASH (%s);\n", ident(t.pk[0].name))
		for i, leaf := range leaves[1:] {
			fmt.Fprintf(&b, "CREATE TABLE %s PARTITION OF %s FOR VALUES WITH (MODULUS 2, REMAINDER %d);\n", leaf, t.sql(), i)
		}
	}
	b.WriteString(";\n")
	if t.full {
		for _, leaf := range leaves {
			fmt.Fprintf(&b, "ALTER TABLE %s REPLICA IDENTITY FULL;\n", leaf)
		}
	}
	return b.String()
}

// event is the label of the table's rule in its era.
func (t *modelTable) event(n int) string { return fmt.Sprintf("m.t%d_%d", n, t.era) }

// rule is the event block of the table in its era.
func (t *modelTable) rule(n int) string {
	var old []string
	for _, c := range t.pk {
		old = append(old, fmt.Sprintf("%q = old[%q]", c.name, c.name))
	}
	return fmt.Sprintf(`
event %q {
  table = %q
  on    = ["insert", "update", "delete", "truncate", "read"]
  data  = { t = %d, era = %d, op = op, row = row, old = { %s } }
}
`, t.event(n), "public."+t.name, n, t.era, strings.Join(old, ", "))
}

// The statements. Each changes v as the mirror expects it; columns may be gone by the time it runs,
// which is refused and rolled back as in any application.

func (t *modelTable) key(rng *rand.Rand) (where string, values []string) {
	var parts []string
	for _, c := range t.pk {
		v := c.kind.value(rng)
		parts = append(parts, ident(c.name)+" = "+v)
		values = append(values, v)
	}
	return strings.Join(parts, " AND "), values
}

// set changes some of the columns, and always the version.
func (t *modelTable) set(rng *rand.Rand, columns []modelColumn) string {
	parts := []string{"v = " + t.sql() + ".v + 1"}
	for _, c := range columns {
		if rng.IntN(2) == 0 {
			parts = append(parts, ident(c.name)+" = "+maybeNull(rng, c))
		}
	}
	return strings.Join(parts, ", ")
}

func maybeNull(rng *rand.Rand, c modelColumn) string {
	if rng.IntN(8) == 0 {
		return "NULL"
	}
	return c.kind.value(rng)
}

func (t *modelTable) statement(rng *rand.Rand) string {
	t.mu.RLock()
	columns := slices.Clone(t.columns)
	t.mu.RUnlock()
	where, values := t.key(rng)
	switch n := rng.IntN(100); {
	case n < 45:
		names, row := append(t.keyNames(), "v"), append(values, "1")
		for _, c := range columns {
			names, row = append(names, ident(c.name)), append(row, maybeNull(rng, c))
		}
		return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s) ON CONFLICT (%s) DO UPDATE SET %s", t.sql(),
			strings.Join(names, ", "), strings.Join(row, ", "), strings.Join(t.keyNames(), ", "), t.set(rng, columns))
	case n < 65:
		return fmt.Sprintf("UPDATE %s SET %s WHERE %s", t.sql(), t.set(rng, columns), where)
	case n < 75:
		return fmt.Sprintf("DELETE FROM %s WHERE %s", t.sql(), where)
	case n < 87: // another key; a taken one is refused
		c := t.pk[rng.IntN(len(t.pk))]
		return fmt.Sprintf("UPDATE %s SET %s, %s = %s WHERE %s", t.sql(), t.set(rng, columns), ident(c.name), c.kind.value(rng), where)
	case n < 97:
		return fmt.Sprintf("UPDATE %s SET %s WHERE v %% 3 = %d", t.sql(), t.set(rng, columns), rng.IntN(3))
	case n < 99:
		return fmt.Sprintf("DELETE FROM %s WHERE v %% 2 = 0", t.sql())
	default:
		return "TRUNCATE " + t.sql()
	}
}

// ddl changes the table's columns and returns the statements.
func (t *modelTable) ddl(rng *rand.Rand) []string {
	alter := "ALTER TABLE " + t.sql() + " "
	out := []string{}
	if rng.IntN(2) == 0 { // writes of the same transaction before and after it
		out = append(out, fmt.Sprintf("UPDATE %s SET v = v + 1 WHERE v %% 2 = 1", t.sql()))
	}
	n := rng.IntN(4)
	if len(t.columns) == 0 {
		n = 0
	}
	i := 0
	if n > 0 {
		i = rng.IntN(len(t.columns))
	}
	switch n {
	case 0:
		c := t.addColumn(rng)
		def := ""
		if rng.IntN(2) == 0 {
			def = " DEFAULT " + c.kind.value(rng)
		}
		out = append(out, alter+"ADD COLUMN "+ident(c.name)+" "+c.kind.sql+def)
	case 1:
		out = append(out, alter+"DROP COLUMN "+ident(t.columns[i].name))
		t.columns = slices.Delete(slices.Clone(t.columns), i, i+1)
	case 2:
		t.serial++
		name := fmt.Sprintf("r%d", t.serial)
		out = append(out, alter+"RENAME COLUMN "+ident(t.columns[i].name)+" TO "+ident(name))
		t.columns = slices.Clone(t.columns)
		t.columns[i].name = name
	case 3:
		out = append(out, alter+"ALTER COLUMN "+ident(t.columns[i].name)+" TYPE text USING "+ident(t.columns[i].name)+"::text")
		t.columns = slices.Clone(t.columns)
		t.columns[i].kind = modelKinds[2]
	}
	if rng.IntN(2) == 0 {
		out = append(out, fmt.Sprintf("UPDATE %s SET v = v + 1 WHERE v %% 2 = 0", t.sql()))
	}
	return out
}
