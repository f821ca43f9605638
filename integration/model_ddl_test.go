package integration_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// ddl changes the table's shape and returns the statements, which are one transaction, with writes
// among them. rows says that rows come without a change of theirs.
func (t *modelTable) ddl(rng *rand.Rand) (lines []string, rows bool) {
	update := func(odd int) {
		if rng.IntN(2) == 0 {
			lines = append(lines, fmt.Sprintf("UPDATE %s SET v = v + 1 WHERE v %% 2 = %d", t.sql(), odd))
		}
	}
	update(1)
	kinds := 5
	if len(t.leaves) > 0 {
		kinds = 8
	}
	switch n := rng.IntN(kinds); n {
	default:
		lines = append(lines, t.alterColumn(rng, n))
		t.stale, t.filled = true, 0
	case 4:
		t.identity = t.anIdentity(rng)
		for _, leaf := range t.leaves {
			lines = append(lines, identify(leaf.name, t.identity))
			update(1)
		}
		lines = append(lines, identify(t.name, t.identity))
	case 5, 6, 7:
		i := rng.IntN(2)
		var more []string
		switch {
		case t.leaves[i].detached:
			more, rows = t.newLeaf(rng, i), true
		case n == 5:
			more = t.detachLeaf(i)
		default:
			more = t.swapLeaf(rng, i)
		}
		if lines = append(lines, more...); t.renew { // see TestCapture_PartitionsAttachedAndDetachedInMidStream
			lines = append(lines, "ALTER PUBLICATION rowhook_shop SET (publish_via_partition_root = true)")
		}
	}
	update(0)
	return lines, rows
}

// alterColumn adds (0), drops, renames or retypes a column.
func (t *modelTable) alterColumn(rng *rand.Rand, n int) string {
	alter := "ALTER TABLE " + t.sql() + " "
	i := rng.IntN(len(t.columns) + 1)
	if i == len(t.columns) || n == 2 && t.known[t.columns[i].name] { // the rule would have to follow
		n = 0
	}
	switch n {
	case 0:
		c := t.addColumn(rng)
		def := ""
		if rng.IntN(2) == 0 {
			def = " DEFAULT " + c.kind.value(rng)
		}
		return alter + "ADD COLUMN " + ident(c.name) + " " + c.kind.sql + def
	case 1:
		name := t.columns[i].name
		t.columns = slices.Delete(t.columns, i, i+1)
		return alter + "DROP COLUMN " + ident(name)
	case 2:
		t.serial++
		was, name := t.columns[i].name, fmt.Sprintf("r%d", t.serial)
		t.columns[i].name = name
		return alter + "RENAME COLUMN " + ident(was) + " TO " + ident(name)
	default:
		t.columns[i].kind = modelKinds[2]
		return alter + "ALTER COLUMN " + ident(t.columns[i].name) + " TYPE text USING " + ident(t.columns[i].name) + "::text"
	}
}

// swapLeaf puts a copy of a partition, whose columns have another order, in its place. The rows stay
// as they are.
func (t *modelTable) swapLeaf(rng *rand.Rand, i int) []string {
	was := ident(t.leaves[i].name)
	lines := append([]string{"LOCK TABLE " + t.sql() + " IN ACCESS EXCLUSIVE MODE"}, t.createLeaf(rng, i)...)
	names := append(t.keyNames(), "v")
	for _, c := range t.columns {
		names = append(names, ident(c.name))
	}
	list := strings.Join(names, ", ")
	return append(lines,
		fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s", ident(t.leaves[i].name), list, list, was),
		fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", t.sql(), was),
		"DROP TABLE "+was,
		t.attach(i))
}

// detachLeaf makes a partition a table of its own, without rows: rows that leave with it would make
// no change. What the writers put into it then is nobody's.
func (t *modelTable) detachLeaf(i int) []string {
	leaf := ident(t.leaves[i].name)
	t.leaves[i].detached = true
	return []string{
		"LOCK TABLE " + t.sql() + " IN ACCESS EXCLUSIVE MODE",
		"DELETE FROM " + leaf,
		fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", t.sql(), leaf),
	}
}

// newLeaf attaches a table with rows, which make no change.
func (t *modelTable) newLeaf(rng *rand.Rand, i int) []string {
	was := ident(t.leaves[i].name)
	lines := append([]string{"DROP TABLE " + was}, t.createLeaf(rng, i)...)
	leaf := ident(t.leaves[i].name)
	lines = append(lines, t.loneRows(rng, leaf))
	if rng.IntN(2) == 0 { // those that belong into the other partition
		lines = append(lines, fmt.Sprintf("DELETE FROM %s WHERE NOT satisfies_hash_partition(%s::regclass, 2, %d, %s)", leaf, quoted(t.sql()), i, ident(t.pk[0].name)))
	} else {
		lines = append(lines, "TRUNCATE "+leaf)
	}
	return append(lines, t.attach(i))
}

// loneRows writes rows to a table that is no partition.
func (t *modelTable) loneRows(rng *rand.Rand, leaf string) string {
	_, values := t.key(rng)
	return fmt.Sprintf("INSERT INTO %s (%s, v) VALUES (%s, 1000)", leaf, strings.Join(t.keyNames(), ", "), strings.Join(values, ", "))
}
