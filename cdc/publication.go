package cdc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/relay"
)

// lockTries and lockWait bound the wait for writers when a publication grows.
// While it waits for a lock, the application's new writers wait behind it, so
// each wait is short and there is a pause between two.
const (
	lockTries = 6
	lockWait  = "2s"

	setLockTimeout = "SET LOCAL lock_timeout = '" + lockWait + "'"
)

// Want is what the rules of a source need of its publication.
type Want struct {
	// Tables are those that rules name, with the columns the rules read of each.
	Tables []relay.TableColumns
	Ops    relay.Ops
	// Keep are tables that stay as they are where the publication has them.
	Keep []relay.TableName
	// Least has the publication send nothing that no rule needs: no other table than
	// those of Keep, and of each table only the columns that rules read, its replica identity and
	// its primary key, which default keys are made of. It needs PostgreSQL 15.
	Least bool
}

// EnsurePublication makes or alters the publication so that it sends what is
// wanted, and returns the statements it ran. Call it before the slot is made:
// on a server before 18 a slot cannot be read across a time without its
// publication.
//
// A new publication sends only the operations asked for: a publication has one
// set for all its tables, and a table without a replica identity in a
// publication that sends updates fails the application's own updates. Where
// that would happen the result is a *SetupError and nothing was changed. Without
// Want.Least an existing publication is only ever extended, never narrowed.
//
// A table or column is added under a lock that waits for the writers already
// under way, because what they wrote before would be missing and what they
// write afterwards would not. A list that only narrows waits for no writer. When
// a lock cannot be had for a while, the error is temporary.
func EnsurePublication(ctx context.Context, url relay.Secret, name string, want Want) (done []string, err error) {
	conn, err := connect(ctx, url, "publication", SessionOptions)
	if err != nil {
		return nil, err
	}
	defer disconnect(conn)
	plan, err := readPublicationPlan(ctx, conn, name, want)
	if err != nil || len(plan.statements) == 0 {
		return nil, err
	}
	if len(plan.rights) > 0 {
		return nil, &SetupError{
			Summary: fmt.Sprintf("the role %q may not make or change the publication %q", conn.Config().User, name),
			Detail:  strings.Join(plan.rights, "; "), SQL: plan.script(),
		}
	}
	pauses := backoff.NewExponentialBackOff(backoff.WithInitialInterval(500 * time.Millisecond))
	err = backoff.Retry(func() error {
		err := changePublication(ctx, conn, slices.Concat(plan.lock, plan.statements))
		if code := sqlState(err); err != nil && code != codeLockNotAvailable && code != codeDeadlock {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(backoff.WithMaxRetries(pauses, lockTries-1), ctx))
	if err != nil {
		return nil, publicationError(name, plan, err)
	}
	return plan.statements, nil
}

// changePublication runs the statements in one transaction. They lock their
// tables against other DDL, and against VACUUM and CREATE INDEX CONCURRENTLY,
// which can take hours.
func changePublication(ctx context.Context, conn *pgx.Conn, statements []string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range slices.Concat([]string{setLockTimeout}, statements) {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

func publicationError(name string, plan *publicationPlan, err error) error {
	switch sqlState(err) {
	case codeLockNotAvailable:
		return &temporaryError{err: err, msg: fmt.Sprintf(
			"change publication %s: a lock on its tables is not to be had, because transactions that write to them stay open, or DDL, VACUUM or CREATE INDEX runs; it was tried %d times for %s", name, lockTries, lockWait)}
	case codePrivilege:
		return &SetupError{
			Summary: fmt.Sprintf("the role may not change the publication %q", name),
			Detail:  "the owner of the tables, or a superuser, has to",
			SQL:     plan.script(), Err: err,
		}
	}
	return fmt.Errorf("change publication %s: %w", name, err)
}

// DropPublication drops the publication if it exists.
func DropPublication(ctx context.Context, url relay.Secret, name string) error {
	conn, err := connect(ctx, url, "publication", SessionOptions)
	if err != nil {
		return err
	}
	defer disconnect(conn)
	if _, err := conn.Exec(ctx, "DROP PUBLICATION IF EXISTS "+quoteIdent(name)); err != nil {
		return fmt.Errorf("drop publication %s: %w", name, err)
	}
	return nil
}
