package sqlitestore_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// keptSeqs returns the first and last of what is kept of the stream, and its
// bytes.
func keptSeqs(t *testing.T, s *store, stream string) (first, last, bytes int64) {
	t.Helper()
	runs, err := s.Kept(t.Context(), relay.KeptQuery{Stream: stream, MaxBytes: 1 << 30})
	check(t, err)
	for i := range runs {
		if i > 0 && runs[i].Seq != runs[i-1].Seq+1 {
			t.Fatalf("run %d follows %d", runs[i].Seq, runs[i-1].Seq)
		}
		bytes += int64(len(runs[i].Data))
	}
	if len(runs) > 0 {
		first, last = runs[0].Seq, runs[len(runs)-1].Seq
	}
	return first, last, bytes
}

// The window has a length and a size, and there is none where nothing is to be
// kept. More runs go than one transaction of retention removes.
func TestTrimKept_KeepsWithinItsLimits(t *testing.T) {
	const runs, size = 2500, 100
	now := then
	s := openStore(t, sqlitestore.Options{Now: func() time.Time { return now }})
	data := []byte(strings.Repeat("x", size))
	k := &relay.Kept{Whole: &relay.KeptChanges{At: then.Add(time.Second).UnixMicro(), Data: data}, Tables: []relay.KeptTable{{ID: "t", Definition: []byte("{}")}}}
	check(t, s.Append(t.Context(), &relay.Append{Stream: "shop", Kept: k}))
	// The others are as the first, a second apart.
	raw(t, filepath.Join(s.options.Dir, sqlitestore.FileName), fmt.Sprintf(`
		WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO kept_changes (stream_id, seq, at, size, data)
		SELECT k.stream_id, n.i, k.at + (n.i - 1) * 1000000, k.size, k.data FROM n, kept_changes k WHERE k.seq = 1;
		UPDATE streams SET kept_head = %[1]d, kept_tail = %[1]d, kept_bytes = %[1]d * kept_bytes`, runs))
	s.Reopen(t)
	check(t, s.Append(t.Context(), &relay.Append{Stream: "stock", Kept: &relay.Kept{Whole: &relay.KeptChanges{At: then.UnixMicro(), Data: data}}}))
	trim := func(limits map[string]relay.RetentionLimits, first, last, freed int64) {
		t.Helper()
		n, err := s.TrimKept(t.Context(), limits)
		check(t, err)
		a, b, bytes := keptSeqs(t, s, "shop")
		if a != first || b != last || n != freed || last > 0 && bytes != size*(last-first+1) {
			t.Errorf("from %d to %d with %d bytes, %d freed; want %d to %d and %d freed", a, b, bytes, n, first, last, freed)
		}
	}
	limits := map[string]relay.RetentionLimits{"shop": {Age: time.Hour}, "stock": {Age: time.Hour}}
	trim(limits, 1, runs, 0)
	now = then.Add(time.Hour + 1201*time.Second)
	trim(limits, 1201, runs, 1201*size) // and that of stock
	trim(map[string]relay.RetentionLimits{"shop": {Age: time.Hour, MaxBytes: 100*size + 1}}, runs-99, runs, 1200*size)
	trim(limits, runs-99, runs, 0)
	trim(nil, 0, 0, 100*size)
	if tables, err := s.KeptTables(t.Context()); err != nil || len(tables) != 0 {
		t.Errorf("tables of nothing: %v, %v", tables, err)
	}
	// Places go on after what is gone.
	check(t, s.Append(t.Context(), &relay.Append{Stream: "shop", Kept: &relay.Kept{Whole: &relay.KeptChanges{At: now.UnixMicro(), Data: data}}}))
	if first, last, _ := keptSeqs(t, s, "shop"); first != runs+1 || last != runs+1 {
		t.Errorf("after all went, from %d to %d", first, last)
	}
}

// A transaction that is larger than the limit and not at its end goes as well.
func TestTrimKept_BoundsTheHalfStoredTransaction(t *testing.T) {
	s := openStore(t, sqlitestore.Options{Now: func() time.Time { return then }})
	half := sourceAt(5)
	half.Partial = &relay.PartialTx{CommitLSN: 9}
	open := func(i int) *relay.Kept {
		return &relay.Kept{Open: &relay.KeptChanges{At: then.UnixMicro(), Data: fmt.Appendf(nil, "%010d", i)}}
	}
	for i := range 10 {
		check(t, s.Append(t.Context(), &relay.Append{Stream: "shop", Source: half, Kept: open(i)}))
	}
	limits := map[string]relay.RetentionLimits{"shop": {Age: time.Hour, MaxBytes: 50}}
	if n, err := s.TrimKept(t.Context(), limits); n != 50 || err != nil {
		t.Fatalf("freed %d, %v", n, err)
	}
	check(t, s.Append(t.Context(), &relay.Append{Stream: "shop", Source: half, DiscardTail: true, Kept: open(10)}))
	if n, err := s.TrimKept(t.Context(), limits); n != 0 || err != nil {
		t.Fatalf("freed %d, %v", n, err)
	}
	check(t, s.Append(t.Context(), &relay.Append{Stream: "shop", Source: sourceAt(10)}))
	if first, last, bytes := keptSeqs(t, s, "shop"); first != 1 || last != 1 || bytes != 10 {
		t.Errorf("from %d to %d, %d bytes", first, last, bytes)
	}
}
