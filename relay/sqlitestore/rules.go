package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

const sqlRules = `
SELECT source, marker, hash, text, needs, at, from_lsn, gap
FROM rule_sets
WHERE source = ?
ORDER BY id`

// RulesRecords returns the records of a source's rule sets, in the order in
// which they were written first.
func (s *Store) RulesRecords(ctx context.Context, source string) ([]relay.RulesRecord, error) {
	return collect(ctx, s.read, "read rule sets", func(r scanner) (relay.RulesRecord, error) {
		var rec relay.RulesRecord
		var needs string
		var from int64
		var gap sql.NullString
		err := r.Scan(&rec.Source, &rec.ID, &rec.Hash, &rec.Text, &needs, &rec.At, &from, &gap)
		rec.From = relay.LSN(from)
		if err == nil {
			err = json.Unmarshal([]byte(needs), &rec.Needs)
		}
		if err == nil && gap.Valid {
			rec.Gap = new(relay.Gap)
			err = json.Unmarshal([]byte(gap.String), rec.Gap)
		}
		return rec, err
	}, sqlRules, source)
}

const (
	sqlPutRules = `
INSERT INTO rule_sets (source, marker, hash, text, needs, at, from_lsn, gap)
VALUES (?, ?, ?, ?, ?, ?, 0, ?)
ON CONFLICT (marker) DO UPDATE SET
	hash = excluded.hash, text = excluded.text, needs = excluded.needs, at = excluded.at, gap = excluded.gap`
	sqlPlaceRules  = `UPDATE rule_sets SET from_lsn = ? WHERE marker = ?`
	sqlDropWaiting = `
DELETE FROM rule_sets
WHERE from_lsn = 0
	AND source = (SELECT source FROM rule_sets WHERE marker = ?1)
	AND id < (SELECT id FROM rule_sets WHERE marker = ?1)`
	sqlRulesOfPast = `
UPDATE rule_sets SET text = ''
WHERE text <> ''
	AND source = (SELECT source FROM rule_sets WHERE marker = ?1)
	AND id < (SELECT id FROM rule_sets WHERE marker = ?1)`
	sqlForgetRules = `
DELETE FROM rule_sets
WHERE id IN (
	SELECT id FROM rule_sets
	WHERE source = (SELECT source FROM rule_sets WHERE marker = ?1)
		AND id < (SELECT id FROM rule_sets WHERE marker = ?1)
	ORDER BY id DESC
	LIMIT -1 OFFSET ?2)`
)

// PutRules writes the record of a rule set durably.
func (s *Store) PutRules(ctx context.Context, r *relay.RulesRecord) error {
	needs, err := json.Marshal(r.Needs)
	if err != nil {
		return err
	}
	var gap any
	if r.Gap != nil {
		text, err := json.Marshal(r.Gap)
		if err != nil {
			return err
		}
		gap = string(text)
	}
	return s.do(ctx, "rules", func(w *writer) error {
		if _, err := w.conn.exec(sqlPutRules, r.Source, r.ID, r.Hash, r.Text, string(needs), r.At, gap); err != nil {
			return fmt.Errorf("rules of source %s: %w", r.Source, err)
		}
		if r.From == 0 {
			return nil
		}
		return w.placeRules(relay.RulesPlace{ID: r.ID, From: r.From})
	})
}

// placeRules puts the rule set of a record in force.
func (w *writer) placeRules(p relay.RulesPlace) error {
	for _, q := range []struct {
		text string
		args []any
	}{
		{sqlPlaceRules, []any{int64(p.From), p.ID}},
		{sqlDropWaiting, []any{p.ID}},
		{sqlRulesOfPast, []any{p.ID}},
		{sqlForgetRules, []any{p.ID, relay.PastRules}},
	} {
		if _, err := w.conn.exec(q.text, q.args...); err != nil {
			return fmt.Errorf("place of rules: %w", err)
		}
	}
	return nil
}
