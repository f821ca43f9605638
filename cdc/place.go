package cdc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/relay"
)

const (
	// writersWait bounds the wait for transactions older than a place.
	writersWait = 15 * time.Second
	writersPoll = 100 * time.Millisecond
	markTimeout = 30 * time.Second
)

// RulesMark is the message that marks the place of a rule set in the WAL, in a
// transaction of its own: the set judges what commits after it. It writes
// nothing else and needs no right but to connect.
//
// A transaction that is under way meanwhile commits after the place and is
// judged by the set as a whole. It must not have changed a table before the
// publication had it. EnsurePublication sees to that, because it waits for the
// writers of a table while it holds its lock; where somebody else altered the
// publication, Writers makes Write wait until every transaction has ended that
// was under way when it was first called.
type RulesMark struct {
	ID      string
	Writers bool

	newest int64 // the first transaction that need not be waited for, 0 before it is known
}

// Write writes the message. Where transactions that it waits for do not end for
// a while the error is temporary; the next call waits for the same ones, so that
// others may go on to overlap for ever.
func (m *RulesMark) Write(ctx context.Context, url relay.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	conn, err := connect(ctx, url, "rules", SessionOptions)
	if err != nil {
		return err
	}
	defer disconnect(conn)
	if m.Writers {
		if err := m.awaitWriters(ctx, conn); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2::text)", relay.RulesPrefix, m.ID); err != nil {
		return fmt.Errorf("mark the place of the rules: %w", err)
	}
	return nil
}

const (
	// Takes a number of its own: the xmax of a snapshot is behind the last
	// transaction that has ended, and those under way may have higher ones.
	sqlNewestWriter = `SELECT pg_catalog.pg_current_xact_id()::text::bigint`
	sqlOldestWriter = `SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint`
)

// awaitWriters waits until every transaction has ended that had written
// something when it was first called, also a prepared one.
func (m *RulesMark) awaitWriters(ctx context.Context, conn *pgx.Conn) error {
	if m.newest == 0 {
		if err := conn.QueryRow(ctx, sqlNewestWriter).Scan(&m.newest); err != nil {
			return fmt.Errorf("wait for writers: %w", err)
		}
	}
	var oldest int64
	for began := time.Now(); ; {
		if err := conn.QueryRow(ctx, sqlOldestWriter).Scan(&oldest); err != nil {
			return fmt.Errorf("wait for writers: %w", err)
		}
		if oldest >= m.newest {
			return nil
		}
		if time.Since(began) > writersWait {
			return &temporaryError{msg: fmt.Sprintf(
				"transaction %d has been writing since before the publication was altered, and the rules wait for its end (pg_stat_activity.backend_xid, pg_prepared_xacts)", oldest)}
		}
		select {
		case <-time.After(writersPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Lacks says what the publication, nil when there is none, does not send of
// what is needed, each in a few words; none when it sends everything.
func (p *PublicationState) Lacks(needs relay.Needs) []string {
	if len(needs) == 0 {
		return nil
	}
	if p == nil {
		return []string{"it does not exist"}
	}
	var out []string
	for i := range needs {
		n := &needs[i]
		member := p.member(n.Table)
		switch {
		case !p.publishes(n.Table) && member == nil:
			out = append(out, "it does not have the table "+n.Table.String())
		case member == nil || member.Columns == nil:
		case n.All:
			out = append(out, "it lists only some columns of "+n.Table.String())
		default:
			for _, c := range slices.Concat(n.Columns, n.Old) {
				if text := "it does not list the column " + c + " of " + n.Table.String(); !slices.Contains(member.Columns, c) && !slices.Contains(out, text) {
					out = append(out, text)
				}
			}
		}
	}
	if ops := needs.Ops() &^ p.Ops; ops != 0 {
		out = append(out, "it does not publish "+opList(ops))
	}
	return out
}

// ShrinkPublication takes out of the publication what was needed once and is
// not any more: tables, and operations when it has just those that once were
// needed. What somebody else put in stays. It returns the statements it ran.
func ShrinkPublication(ctx context.Context, url relay.Secret, name string, once, now relay.Needs) (done []string, err error) {
	conn, err := connect(ctx, url, "publication", SessionOptions)
	if err != nil {
		return nil, err
	}
	defer disconnect(conn)
	pub, err := readPublication(ctx, conn, serverVersion(conn.PgConn().ParameterStatus("server_version")), name)
	if err != nil || pub == nil {
		return nil, err
	}
	if done = pub.shrink(name, once, now); len(done) == 0 {
		return nil, nil
	}
	if err := changePublication(ctx, conn, done); err != nil {
		return nil, fmt.Errorf("shrink publication %s: %w", name, err)
	}
	return done, nil
}

// shrink plans ShrinkPublication.
func (p *PublicationState) shrink(name string, once, now relay.Needs) (statements []string) {
	set := "ALTER PUBLICATION " + quoteIdent(name) + " "
	var drop []string
	for i := range once {
		t := once[i].Table
		if now.Table(t) == nil && p.member(t) != nil {
			drop = append(drop, "ONLY "+quoteTable(t))
		}
	}
	if len(drop) > 0 {
		statements = append(statements, set+"DROP TABLE "+strings.Join(drop, ", "))
	}
	if ops := now.Ops(); ops != 0 && p.Ops == once.Ops()|ops && p.Ops != ops {
		statements = append(statements, set+"SET (publish = '"+opList(ops)+"')")
	}
	return statements
}
