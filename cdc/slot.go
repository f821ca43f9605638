package cdc

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/relay"
)

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// ValidSlotName reports whether PostgreSQL takes the name for a slot.
func ValidSlotName(name string) bool { return slotName.MatchString(name) }

func validSlotName(name string) error {
	if !ValidSlotName(name) {
		return &SetupError{
			Summary: fmt.Sprintf("%q cannot be the name of a slot", name),
			Detail:  "a slot's name has 1 to 63 lower-case letters, digits and underscores",
		}
	}
	return nil
}

// SlotOptions are the choices at the making of a slot.
type SlotOptions struct {
	// Failover has standbys follow the slot, so that it survives a promotion. It
	// needs PostgreSQL 17.
	Failover bool
	// LockTimeout bounds the wait for transactions that are under way, on the
	// whole cluster: a slot begins where none is. 0 is a minute.
	LockTimeout time.Duration
	// Exported, when not nil, gets the name of a snapshot of the database as it is
	// at the slot's consistent point. The snapshot can be taken over until Exported
	// returns.
	Exported func(ctx context.Context, snapshot string, point relay.LSN)

	// Waits, when not nil, is called now and then while the slot waits for
	// transactions to end, with those that are open.
	Waits func(open string)

	// temporary has the slot go with the connection that makes it.
	temporary bool
}

// CreateSlot makes a permanent pgoutput slot and returns its consistent point,
// where its history begins. The publication has to exist before. A timeout
// names what is in the way, and is temporary.
func CreateSlot(ctx context.Context, url relay.Secret, slot string, o SlotOptions) (relay.LSN, error) {
	if err := validSlotName(slot); err != nil {
		return 0, err
	}
	wait := o.LockTimeout
	if wait == 0 {
		wait = time.Minute
	}
	conn, err := connectReplication(ctx, url, "create slot", fmt.Sprintf("-c lock_timeout=%d", wait.Milliseconds()), 0)
	if err != nil {
		return 0, err
	}
	defer disconnect(conn)
	command, err := createSlotCommand(slot, serverVersion(conn.ParameterStatus("server_version")), o)
	if err != nil {
		return 0, err
	}
	// When the caller gives up, the server must: a walsender that nobody listens
	// to would go on waiting and make the slot after all.
	stop := context.AfterFunc(ctx, func() {
		cancel, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer done()
		_ = conn.CancelRequest(cancel)
	})
	defer stop()
	bounded, done := context.WithTimeout(context.WithoutCancel(ctx), wait+connectTimeout)
	defer done()
	told := tellWaits(bounded, url, conn.PID(), o.Waits)
	rows, err := ask(bounded, conn, command)
	told()
	switch {
	case err == nil && len(rows) == 1 && len(rows[0]) > 2:
		point, err := relay.ParseLSN(rows[0][1])
		if err == nil && o.Exported != nil {
			o.Exported(ctx, rows[0][2], point)
		}
		return point, err
	case err == nil:
		return 0, errors.New("create slot: the server did not say where the slot begins")
	case ctx.Err() != nil:
		return 0, fmt.Errorf("create slot %s: %w", slot, ctx.Err())
	}
	if sqlState(err) == codeLockNotAvailable {
		blockers := slotBlockers(ctx, url)
		return 0, &temporaryError{err: err, msg: fmt.Sprintf(
			"create slot %s: it waits for every transaction that has written, of any database of the cluster, to end; after %s these are open: %s", slot, wait, blockers)}
	}
	return 0, slotError(slot, err)
}

// tellWaits tells what the session waits for, again and again until the returned
// function is called.
func tellWaits(ctx context.Context, url relay.Secret, pid uint32, tell func(open string)) (stop func()) {
	if tell == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(waitTells)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if !blocked(ctx, url, pid) {
				continue
			}
			if open := slotBlockers(ctx, url); ctx.Err() == nil {
				tell(open)
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// blocked reports whether a session is known to wait for the end of a transaction.
func blocked(ctx context.Context, url relay.Secret, pid uint32) (is bool) {
	conn, err := connect(ctx, url, "inspect", SessionOptions)
	if err != nil {
		return false
	}
	defer disconnect(conn)
	err = conn.QueryRow(ctx, blockedSQL, pid).Scan(&is)
	return is && err == nil
}

// slotError explains why a slot could not be created.
func slotError(slot string, err error) error {
	switch sqlState(err) {
	case codeConfigurationLimit:
		return &SetupError{
			Summary: "all replication slots of the server are in use",
			Detail:  "raise max_replication_slots, which takes a restart, or drop a slot that nobody reads (pg_replication_slots)", Err: err,
		}
	case codeNotInState:
		return &SetupError{
			Summary: "the server does not write what logical replication needs",
			Detail:  "wal_level takes effect after a restart of the server", SQL: []string{"ALTER SYSTEM SET wal_level = 'logical';"}, Err: err,
		}
	}
	return fmt.Errorf("create slot %s: %w", slot, err)
}

func createSlotCommand(slot string, version int, o SlotOptions) (string, error) {
	command := "CREATE_REPLICATION_SLOT " + quoteIdent(slot) + " LOGICAL pgoutput "
	if o.temporary {
		command = "CREATE_REPLICATION_SLOT " + quoteIdent(slot) + " TEMPORARY LOGICAL pgoutput "
	}
	before15, snapshot := "NOEXPORT_SNAPSHOT", "SNAPSHOT 'nothing'"
	if o.Exported != nil {
		before15, snapshot = "EXPORT_SNAPSHOT", "SNAPSHOT 'export'"
	}
	switch {
	case o.Failover && version < failoverVersion:
		return "", &SetupError{Summary: "a failover slot needs PostgreSQL 17"}
	case o.Failover:
		return command + "(" + snapshot + ", FAILOVER true)", nil
	case version < 150000:
		return command + before15, nil
	}
	return command + "(" + snapshot + ")", nil
}

// SetFailover changes whether standbys follow the slot, which nobody may be
// reading. It needs PostgreSQL 17.
func SetFailover(ctx context.Context, url relay.Secret, slot string, on bool) error {
	conn, err := connectReplication(ctx, url, "alter slot", "", 0)
	if err != nil {
		return err
	}
	defer disconnect(conn)
	if _, err := ask(ctx, conn, alterFailover(slot, on)); err != nil {
		return fmt.Errorf("alter slot %s: %w", slot, err)
	}
	return nil
}

func alterFailover(slot string, on bool) string {
	return fmt.Sprintf("ALTER_REPLICATION_SLOT %s (FAILOVER %t)", quoteIdent(slot), on)
}

const slotBlockersSQL = `SELECT 'pid ' || pid || ' (' || coalesce(datname, '') || ', ' || coalesce(usename, '') || ', ' || coalesce(state, '')
  || ', since ' || to_char(xact_start, 'YYYY-MM-DD HH24:MI:SS') || ')'
FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL
SELECT 'prepared transaction ' || quote_literal(gid) || ' (' || database || ', ' || owner || ', since ' || to_char(prepared, 'YYYY-MM-DD HH24:MI:SS') || ')'
FROM pg_catalog.pg_prepared_xacts
LIMIT 20`

// slotBlockers says which transactions a new slot waits for.
func slotBlockers(ctx context.Context, url relay.Secret) string {
	var blockers []string
	conn, err := connect(ctx, url, "inspect", SessionOptions)
	if err == nil {
		defer disconnect(conn)
		var rows pgx.Rows
		if rows, err = conn.Query(ctx, slotBlockersSQL); err == nil {
			blockers, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
	}
	switch {
	case err != nil:
		return "(cannot be read: " + err.Error() + ")"
	case len(blockers) == 0:
		return "none any more"
	}
	return strings.Join(blockers, "; ")
}

const (
	slotHolderSQL = `SELECT coalesce(s.active_pid, 0), coalesce(a.application_name, '')
FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid
WHERE s.slot_name = $1`
	dropSlotSQL   = `SELECT pg_catalog.pg_drop_replication_slot($1)`
	endSessionSQL = `SELECT pg_catalog.pg_terminate_backend($1)`
)

// dropTries and dropPause bound the wait for a slot's reader to go.
const (
	dropTries = 50
	dropPause = 200 * time.Millisecond
)

// DropSlot drops the slot, so that the server may forget. One that does not
// exist is dropped already. One that a session of ours reads is taken from it;
// one that someone else reads stays, and the error says who.
func DropSlot(ctx context.Context, url relay.Secret, slot string) error {
	conn, err := connect(ctx, url, "drop slot", SessionOptions)
	if err != nil {
		return err
	}
	defer disconnect(conn)
	for try := 0; ; try++ {
		_, err = conn.Exec(ctx, dropSlotSQL, slot)
		switch sqlState(err) {
		case "":
			if err == nil {
				return nil
			}
		case codeUndefinedObject:
			return nil
		case codeInUse:
			if try < dropTries {
				if err := freeSlot(ctx, conn, slot); err != nil {
					return fmt.Errorf("drop slot %s: %w", slot, err)
				}
				continue
			}
		}
		return fmt.Errorf("drop slot %s: %w", slot, err)
	}
}

// freeSlot ends the session of ours that holds the slot and waits a little.
func freeSlot(ctx context.Context, conn *pgx.Conn, slot string) error {
	var pid int32
	var application string
	err := conn.QueryRow(ctx, slotHolderSQL, slot).Scan(&pid, &application)
	if errors.Is(err, pgx.ErrNoRows) || (err == nil && pid == 0) {
		return nil
	}
	if err != nil {
		return err
	}
	if !strings.HasPrefix(application, applicationName) {
		return &SetupError{
			Summary: fmt.Sprintf("the slot is read by process %d (application %q), which is not rowhook", pid, application),
			SQL:     []string{fmt.Sprintf("SELECT pg_terminate_backend(%d);", pid)},
		}
	}
	if _, err := conn.Exec(ctx, endSessionSQL, pid); err != nil {
		return err
	}
	timer := time.NewTimer(dropPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
