package integration_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
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
	name    string
	pk      []modelColumn
	keyless bool // a unique index instead of a primary key
	least   bool // of a source with columns = "rules"
	renew   bool // the publication has to be altered after its partitions

	mu sync.RWMutex
	modelShape
	serial int

	era    int             // of its rule; 0: no rule names it
	read   []string        // the columns that its rule reads beside key and version, if least
	known  map[string]bool // what a rule has ever read
	strict bool            // a rule has named it from its first row on
	stale  bool            // what its rows look like changed without a change of theirs
	filled int64           // the backfill since then and since its rule, if one reads all rows
}

// modelShape is what DDL changes of a table.
type modelShape struct {
	columns  []modelColumn
	identity byte        // d, f or i, as pg_class.relreplident
	leaves   []modelLeaf // its two partitions, if it has
}

type modelLeaf struct {
	name     string
	detached bool
}

func (s modelShape) clone() modelShape {
	s.columns, s.leaves = slices.Clone(s.columns), slices.Clone(s.leaves)
	return s
}

// newModelTable makes a table. One without a primary key has a unique index instead.
func newModelTable(rng *rand.Rand, n int, least bool) *modelTable {
	t := &modelTable{name: fmt.Sprintf("t%d", n), keyless: rng.IntN(5) == 0, least: least, known: map[string]bool{}}
	if rng.IntN(3) == 0 {
		t.name = fmt.Sprintf(`Tä "%d"`, n)
	}
	number := modelColumn{"id", modelKind{"int", func(rng *rand.Rand) string { return fmt.Sprint(rng.IntN(30)) }}}
	word := modelColumn{"Wörd", modelKind{"text", func(rng *rand.Rand) string { return quoted(fmt.Sprintf("k'%d", rng.IntN(8))) }}}
	t.pk = [][]modelColumn{{number}, {word}, {number, word}}[rng.IntN(3)]
	for range 1 + rng.IntN(5) {
		t.addColumn(rng)
	}
	t.identity = t.anIdentity(rng)
	t.choose(rng)
	return t
}

// anIdentity is a replica identity that updates work with.
func (t *modelTable) anIdentity(rng *rand.Rand) byte {
	some := []byte{'i'}
	if !t.keyless {
		some = append(some, 'd', 'd')
	}
	if !t.least {
		some = append(some, 'f')
	}
	return some[rng.IntN(len(some))]
}

// choose makes the rule read some of the columns, where the publication follows that.
func (t *modelTable) choose(rng *rand.Rand) {
	if !t.least {
		return
	}
	t.read = []string{}
	for _, c := range t.columns {
		if rng.IntN(3) > 0 {
			t.read, t.known[c.name] = append(t.read, c.name), true
		}
	}
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

// create is the DDL of the table and its partitions.
func (t *modelTable) create(rng *rand.Rand) []string {
	if rng.IntN(3) > 0 {
		return t.createOne(rng, t.name, "")
	}
	lines := t.createOne(rng, t.name, " PARTITION BY HASH ("+ident(t.pk[0].name)+")")
	t.leaves = make([]modelLeaf, 2)
	for i := range t.leaves {
		lines = append(append(lines, t.createLeaf(rng, i)...), t.attach(i))
	}
	return lines
}

// createOne is the DDL of the table, or of one of its partitions, with the columns in any order.
func (t *modelTable) createOne(rng *rand.Rand, name, partition string) []string {
	columns := []string{"v bigint NOT NULL"}
	for _, c := range t.pk {
		columns = append(columns, ident(c.name)+" "+c.kind.sql+" NOT NULL")
	}
	for _, c := range t.columns {
		columns = append(columns, ident(c.name)+" "+c.kind.sql)
	}
	rng.Shuffle(len(columns), func(i, j int) { columns[i], columns[j] = columns[j], columns[i] })
	unique := t.keyNames() // for ON CONFLICT, or with the version
	if !t.keyless {
		columns = append(columns, "PRIMARY KEY ("+strings.Join(unique, ", ")+")")
		unique = append(unique, "v")
	}
	return []string{
		fmt.Sprintf("CREATE TABLE %s (%s)%s", ident(name), strings.Join(columns, ", "), partition),
		fmt.Sprintf("CREATE UNIQUE INDEX %s ON %s (%s)", ident(name+"_u"), ident(name), strings.Join(unique, ", ")),
		identify(name, t.identity),
	}
}

func identify(name string, identity byte) string {
	is := map[byte]string{'d': "DEFAULT", 'f': "FULL", 'i': "USING INDEX " + ident(name+"_u")}[identity]
	return "ALTER TABLE " + ident(name) + " REPLICA IDENTITY " + is
}

// createLeaf is the DDL of a new table for a partition.
func (t *modelTable) createLeaf(rng *rand.Rand, i int) []string {
	t.serial++
	t.leaves[i] = modelLeaf{name: fmt.Sprintf("%s_%d_%d", t.name, i, t.serial)}
	return t.createOne(rng, t.leaves[i].name, "")
}

func (t *modelTable) attach(i int) string {
	return fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES WITH (MODULUS 2, REMAINDER %d)", t.sql(), ident(t.leaves[i].name), i)
}

// event is the label of the table's rule in its era.
func (t *modelTable) event(n int) string { return fmt.Sprintf("m.t%d_%d", n, t.era) }

// rule is the event block of the table in its era. Without a primary key there is no default key,
// and so no order.
func (t *modelTable) rule(n int) string {
	var old []string
	row := []string{"row", `"v"`}
	for _, c := range t.pk {
		old = append(old, fmt.Sprintf("%q = old[%q]", c.name, c.name))
		row = append(row, strconv.Quote(c.name))
	}
	for _, name := range t.read {
		row = append(row, strconv.Quote(name))
	}
	whole, key := "row", ""
	if t.least {
		whole = "pick(" + strings.Join(row, ", ") + ")"
	}
	if t.keyless {
		key = fmt.Sprintf("  key   = \"t%d\"\n", n)
	}
	return fmt.Sprintf(`
event %q {
  table = %q
  on    = ["insert", "update", "delete", "truncate", "read"]
%s  data  = { t = %d, era = %d, op = op, row = %s, old = { %s } }
}
`, t.event(n), "public."+t.name, key, n, t.era, whole, strings.Join(old, ", "))
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

// some is a condition that holds for some of the rows.
func (t *modelTable) some(rng *rand.Rand) string {
	c := t.pk[rng.IntN(len(t.pk))]
	return []string{"v % 2 = 0", ident(c.name) + " > " + c.kind.value(rng)}[rng.IntN(2)]
}

// set changes some of the columns, and always the version.
func (t *modelTable) set(rng *rand.Rand, columns []modelColumn) string {
	parts := []string{"v = x.v + 1"}
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

func (t *modelTable) statement(rng *rand.Rand) []string {
	t.mu.RLock()
	shape := t.clone()
	t.mu.RUnlock()
	columns, table := shape.columns, t.sql()
	if len(shape.leaves) > 0 && rng.IntN(4) == 0 { // a row of the other partition is refused
		table = ident(shape.leaves[rng.IntN(2)].name)
	}
	where, values := t.key(rng)
	switch n := rng.IntN(105); {
	case n < 45:
		names, row := append(t.keyNames(), "v"), append(values, "1")
		for _, c := range columns {
			names, row = append(names, ident(c.name)), append(row, maybeNull(rng, c))
		}
		return []string{fmt.Sprintf("INSERT INTO %s AS x (%s) VALUES (%s) ON CONFLICT (%s) DO UPDATE SET %s", table,
			strings.Join(names, ", "), strings.Join(row, ", "), strings.Join(t.keyNames(), ", "), t.set(rng, columns))}
	case n < 65:
		return []string{fmt.Sprintf("UPDATE %s AS x SET %s WHERE %s", table, t.set(rng, columns), where)}
	case n < 75:
		return []string{fmt.Sprintf("DELETE FROM %s WHERE %s", table, where)}
	case n < 87: // another key; a taken one is refused
		c := t.pk[rng.IntN(len(t.pk))]
		return []string{fmt.Sprintf("UPDATE %s AS x SET %s, %s = %s WHERE %s", table, t.set(rng, columns), ident(c.name), c.kind.value(rng), where)}
	case n < 97:
		return []string{fmt.Sprintf("UPDATE %s AS x SET %s WHERE v %% 3 = %d", table, t.set(rng, columns), rng.IntN(3))}
	case n < 99:
		return []string{fmt.Sprintf("DELETE FROM %s WHERE v %% 2 = 0", table)}
	case n < 104:
		return t.copyRows(rng, columns, table)
	default: // of a partition alone it makes no event
		return []string{"TRUNCATE " + t.sql()}
	}
}

// copyRows replaces rows by COPY. The server writes what it then reads.
func (t *modelTable) copyRows(rng *rand.Rand, columns []modelColumn, table string) []string {
	names := append(t.keyNames(), "v")
	for _, c := range columns {
		names = append(names, ident(c.name))
	}
	var rows, keys []string
	for range 1 + rng.IntN(20) {
		_, row := t.key(rng)
		if slices.Contains(keys, row[0]) {
			continue
		}
		keys = append(keys, row[0])
		row = append(row, "1")
		for _, c := range columns {
			row = append(row, "("+maybeNull(rng, c)+")::"+c.kind.sql)
		}
		rows = append(rows, "SELECT "+strings.Join(row, ", "))
	}
	return []string{
		fmt.Sprintf("DELETE FROM %s WHERE %s IN (%s)", t.sql(), ident(t.pk[0].name), strings.Join(keys, ", ")),
		"COPY (" + strings.Join(rows, " UNION ALL ") + ") TO STDOUT",
		fmt.Sprintf("COPY %s (%s) FROM STDIN", table, strings.Join(names, ", ")),
	}
}
