package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

// PutSource writes the state and the gap durably; either may be nil.
func (s *Store) PutSource(ctx context.Context, st *relay.SourceState, gap *relay.Gap) error {
	return s.do(ctx, "source", func(w *writer) error { return w.putSource(st, gap) })
}

const (
	sqlPutSource = `
INSERT INTO sources (name, generation, system_id, timeline, database, address, slot, publication, phase, lsn, partial, read_lsn, read_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
	generation = excluded.generation, system_id = excluded.system_id, timeline = excluded.timeline,
	database = excluded.database, address = excluded.address, slot = excluded.slot, publication = excluded.publication,
	phase = excluded.phase, lsn = excluded.lsn, partial = excluded.partial, read_lsn = excluded.read_lsn, read_at = excluded.read_at,
	updated_at = excluded.updated_at`
	sqlPutGap = `INSERT INTO gaps (source, generation, at, from_lsn, to_lsn, reason) VALUES (?, ?, ?, ?, ?, ?)`
)

func (w *writer) putSource(st *relay.SourceState, gap *relay.Gap) error {
	if st != nil {
		var partial any
		if st.Partial != nil {
			text, err := json.Marshal(st.Partial)
			if err != nil {
				return err
			}
			partial = string(text)
		}
		_, err := w.conn.exec(sqlPutSource, st.Source, st.Generation, int64(st.SystemID), st.Timeline, st.Database, st.Address,
			st.Slot, st.Publication, string(st.Phase), int64(st.LSN), partial, int64(st.ReadLSN), st.ReadAt, st.UpdatedAt)
		if err != nil {
			return fmt.Errorf("state of source %s: %w", st.Source, err)
		}
	}
	if gap != nil {
		if _, err := w.conn.exec(sqlPutGap, gap.Source, gap.Generation, gap.At, int64(gap.From), int64(gap.To), gap.Reason); err != nil {
			return fmt.Errorf("gap of source %s: %w", gap.Source, err)
		}
	}
	return nil
}

const sqlSources = `
SELECT name, generation, system_id, timeline, database, address, slot, publication, phase, lsn, partial, read_lsn, read_at, updated_at
FROM sources
WHERE ?1 = '' OR name = ?1
ORDER BY name`

// Sources returns the states of all sources, by name.
func (s *Store) Sources(ctx context.Context) ([]relay.SourceState, error) { return s.sources(ctx, "") }

// SourceState returns the state, or nil when the store does not know the
// source.
func (s *Store) SourceState(ctx context.Context, source string) (*relay.SourceState, error) {
	all, err := s.sources(ctx, source)
	if err != nil || len(all) == 0 || source == "" {
		return nil, err
	}
	return &all[0], nil
}

func (s *Store) sources(ctx context.Context, name string) ([]relay.SourceState, error) {
	return collect(ctx, s.read, "read sources", func(r scanner) (relay.SourceState, error) {
		var st relay.SourceState
		var system, lsn, read int64
		var partial sql.NullString
		err := r.Scan(&st.Source, &st.Generation, &system, &st.Timeline, &st.Database, &st.Address, &st.Slot, &st.Publication,
			&st.Phase, &lsn, &partial, &read, &st.ReadAt, &st.UpdatedAt)
		st.SystemID, st.LSN, st.ReadLSN = uint64(system), relay.LSN(lsn), relay.LSN(read)
		if err == nil && partial.Valid {
			st.Partial = new(relay.PartialTx)
			err = json.Unmarshal([]byte(partial.String), st.Partial)
		}
		return st, err
	}, sqlSources, name)
}

const sqlGaps = `
SELECT source, generation, at, from_lsn, to_lsn, reason
FROM gaps
WHERE ?1 = '' OR source = ?1
ORDER BY id`

// Gaps returns the gaps of a source, or of all when it is empty, oldest first.
func (s *Store) Gaps(ctx context.Context, source string) ([]relay.Gap, error) {
	return collect(ctx, s.read, "read gaps", func(r scanner) (relay.Gap, error) {
		var g relay.Gap
		var from, to int64
		err := r.Scan(&g.Source, &g.Generation, &g.At, &from, &to, &g.Reason)
		g.From, g.To = relay.LSN(from), relay.LSN(to)
		return g, err
	}, sqlGaps, source)
}

const sqlSetting = `SELECT value FROM settings WHERE key = ?`

// Setting returns a small fact about the store, and whether it is known.
func (s *Store) Setting(ctx context.Context, key string) (string, bool, error) {
	var value string
	err := s.read.QueryRowContext(ctx, sqlSetting, key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read setting %s: %w", key, err)
	}
	return value, true, nil
}

const sqlPutSetting = `
INSERT INTO settings (key, value) VALUES (?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value`

// PutSetting writes a small fact about the store durably.
func (s *Store) PutSetting(ctx context.Context, key, value string) error {
	return s.do(ctx, "setting", func(w *writer) error {
		_, err := w.conn.exec(sqlPutSetting, key, value)
		return err
	})
}
