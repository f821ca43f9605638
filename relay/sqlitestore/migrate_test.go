package sqlitestore

import (
	"path/filepath"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

// A store of every earlier version opens, with what is in it, and goes on.
func TestOpen_BringsOlderStoresUpToDate(t *testing.T) {
	all := migrations
	for version := 1; version < len(all); version++ {
		dir := t.TempDir()
		path := filepath.Join(dir, FileName)
		c, err := openConn(path, 0)
		if err != nil {
			t.Fatal(err)
		}
		migrations = all[:version]
		err = migrate(t.Context(), c)
		migrations = all
		if err == nil {
			err = c.script(`INSERT INTO streams (name, head, tail, routed) VALUES ('shop', 7, 9, 5);
				INSERT INTO settings (key, value) VALUES ('a', 'b')`)
		}
		if err == nil {
			err = c.close()
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), Options{Dir: dir})
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if st, err := s.Stream(t.Context(), "shop"); err != nil || st != (relay.StreamState{Head: 7, Tail: 9}) {
			t.Errorf("version %d: %+v, %v", version, st, err)
		}
		if v, _, err := s.Setting(t.Context(), "a"); err != nil || v != "b" {
			t.Errorf("version %d: setting %q, %v", version, v, err)
		}
		a := &relay.Append{Stream: "shop", Head: 9, Tail: 9, Kept: &relay.Kept{Whole: &relay.KeptChanges{At: 1, Data: []byte("x")}}}
		if err := s.Append(t.Context(), a); err != nil {
			t.Errorf("version %d: %v", version, err)
		}
		if k, err := s.Kept(t.Context(), relay.KeptQuery{Stream: "shop", MaxBytes: 1}); err != nil || len(k) != 1 {
			t.Errorf("version %d: %+v, %v", version, k, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
