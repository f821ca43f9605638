package integration_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/rowhook/rowhook/integration/postgres"
)

// C8: a table is a partition from when it is attached on, also where the stream has
// seen it before. PostgreSQL 14 does not notice until the stream begins anew.
func TestCapture_AnAttachedTableIsAPartition(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "attach", shopOptions{schema: `CREATE TABLE items (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
		CREATE TABLE low PARTITION OF items FOR VALUES FROM (0) TO (10); CREATE TABLE q (v text, id int PRIMARY KEY)`})
	s.d.StartReady()
	s.exec("INSERT INTO q VALUES ('before', 10)")
	s.put(1)
	s.expect(1)
	s.exec("ALTER TABLE items ATTACH PARTITION q FOR VALUES FROM (10) TO (100000)")
	id := 10
	s.eventually(func() error {
		id++
		s.put(id)
		if !slices.ContainsFunc(idsAt(s.hook), func(id int) bool { return id > 10 }) {
			return fmt.Errorf("no change of the attached table came, up to row %d", id)
		}
		return nil
	})
	s.put(100_000 - 1)
	s.eventually(func() error {
		if !slices.Contains(idsAt(s.hook), 100_000-1) {
			return fmt.Errorf("events of rows %v", idsAt(s.hook))
		}
		return nil
	})
	s.unbroken()
}
