package cdc

import (
	"context"
	"errors"
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
)

// EnsurePublication makes or extends the publication so that it sends the
// operations on the whole tables, and returns the statements it ran. Call it
// before the slot is made: on a server before 18 a slot cannot be read across a
// time without its publication.
//
// A new publication sends only the operations asked for: a publication has one
// set for all its tables, and a table without a replica identity in a
// publication that sends updates fails the application's own updates. Where
// that would happen the result is a *SetupError and nothing was changed. An
// existing publication is only ever extended, never narrowed.
//
// A table is added under a lock that waits for the writers already under way,
// because what they wrote before would be missing and what they write
// afterwards would not. When the lock cannot be had for a while, the error is
// temporary.
func EnsurePublication(ctx context.Context, url relay.Secret, name string, tables []relay.TableName, ops relay.Ops) (done []string, err error) {
	conn, err := connect(ctx, url, "publication", SessionOptions)
	if err != nil {
		return nil, err
	}
	defer disconnect(conn)
	pub, err := readPublication(ctx, conn, serverVersion(conn.PgConn().ParameterStatus("server_version")), name)
	if err != nil {
		return nil, err
	}
	found, err := readPublishable(ctx, conn, name, tables)
	if err != nil {
		return nil, err
	}
	plan, err := planPublication(name, conn.Config().User, pub, found, ops)
	if err != nil || len(plan.statements) == 0 {
		return nil, err
	}
	if len(plan.lock) == 0 {
		for _, sql := range plan.statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return done, publicationError(name, plan, err)
			}
			done = append(done, sql)
		}
		return done, nil
	}
	pauses := backoff.NewExponentialBackOff(backoff.WithInitialInterval(500 * time.Millisecond))
	err = backoff.Retry(func() error {
		err := growPublication(ctx, conn, plan)
		if err != nil && sqlState(err) != codeLockNotAvailable {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(backoff.WithMaxRetries(pauses, lockTries-1), ctx))
	if err != nil {
		return nil, publicationError(name, plan, err)
	}
	return plan.statements, nil
}

func growPublication(ctx context.Context, conn *pgx.Conn, plan publicationPlan) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range slices.Concat([]string{"SET LOCAL lock_timeout = '" + lockWait + "'"}, plan.lock, plan.statements) {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

func publicationError(name string, plan publicationPlan, err error) error {
	switch sqlState(err) {
	case codeLockNotAvailable:
		return &temporaryError{err: err, msg: fmt.Sprintf(
			"extend publication %s: transactions that write to its tables stay open; it was tried %d times for %s", name, lockTries, lockWait)}
	case codePrivilege:
		return &SetupError{
			Summary: fmt.Sprintf("the role may not change the publication %q", name),
			Detail:  "the owner of the tables, or a superuser, has to",
			SQL:     terminated(plan.statements), Err: err,
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

// publishable is what decides whether and how a table can be published.
type publishable struct {
	relay.TableName
	exists      bool
	kind        byte // pg_class.relkind
	persistence byte
	identity    byte
	// hasIdentity says that updates and deletes find the row: a primary key under
	// the default identity, the index under index, anything under full.
	hasIdentity bool
	// generated says that the identity has a generated column, which is not
	// published, so that 18 refuses updates.
	generated bool
	owner     string
	owned     bool // by the role, which may publish it
	member    bool // of the publication, by name
	canCreate bool // a publication in this database
}

const publishableSQL = `SELECT want.s, want.t, c.oid IS NOT NULL, coalesce(c.relkind::text, ' '), coalesce(c.relpersistence::text, ' '),
  coalesce(c.relreplident::text, ' '),
  coalesce(CASE c.relreplident WHEN 'f' THEN true
    WHEN 'd' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
    WHEN 'i' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident) END, false),
  current_setting('server_version_num')::int >= 180000 AND EXISTS (
    SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped AND (
      c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY(i.indkey)
        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END))),
  coalesce(pg_get_userbyid(c.relowner), ''), coalesce(pg_has_role(c.relowner, 'USAGE'), false),
  has_database_privilege(current_database(), 'CREATE'),
  EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $3 AND r.prrelid = c.oid)
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS want(s, t, n)
LEFT JOIN pg_namespace ns ON ns.nspname = want.s
LEFT JOIN pg_class c ON c.relnamespace = ns.oid AND c.relname = want.t
ORDER BY want.n`

func readPublishable(ctx context.Context, conn *pgx.Conn, publication string, tables []relay.TableName) ([]publishable, error) {
	var schemas, names []string
	for _, t := range tables {
		schemas, names = append(schemas, t.Schema), append(names, t.Name)
	}
	rows, err := conn.Query(ctx, publishableSQL, schemas, names, publication)
	if err != nil {
		return nil, fmt.Errorf("read tables to publish: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p publishable, err error) {
		var kind, persistence, identity string
		err = row.Scan(&p.Schema, &p.Name, &p.exists, &kind, &persistence, &identity, &p.hasIdentity, &p.generated, &p.owner, &p.owned, &p.canCreate, &p.member)
		if err == nil {
			p.kind, p.persistence, p.identity = kind[0], persistence[0], identity[0]
		}
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("read tables to publish: %w", err)
	}
	return found, nil
}

// publicationPlan is what has to be run: statements, under locks when not
// empty.
type publicationPlan struct {
	lock       []string
	statements []string
}

// planPublication decides what makes the publication send ops on the tables.
func planPublication(name, user string, pub *PublicationState, tables []publishable, ops relay.Ops) (publicationPlan, error) {
	ops &= relay.OpsOf(relay.Insert, relay.Update, relay.Delete, relay.Truncate)
	have := relay.Ops(0)
	if pub != nil {
		have = pub.Ops
	}
	if err := preflight(tables, ops|have); err != nil {
		return publicationPlan{}, err
	}
	var plan publicationPlan
	if pub == nil {
		plan.statements = []string{createPublication(name, tables, ops)}
		return plan, mayPublish(name, user, nil, tables, plan)
	}
	var missing []publishable
	partitioned := false
	for _, t := range tables {
		partitioned = partitioned || t.kind == 'p'
		// A root that is published without via_root is listed as its partitions.
		if !pub.AllTables && !t.member && !slices.ContainsFunc(pub.Tables, func(p PublishedTable) bool { return p.TableName == t.TableName }) {
			missing = append(missing, t)
		}
	}
	if partitioned && !pub.ViaRoot {
		plan.statements = append(plan.statements, "ALTER PUBLICATION "+quoteIdent(name)+" SET (publish_via_partition_root = true)")
	}
	locked := missing
	if ops&^have != 0 {
		plan.statements = append(plan.statements, "ALTER PUBLICATION "+quoteIdent(name)+" SET (publish = '"+opList(ops|have)+"')")
		locked = tables
	}
	if len(missing) > 0 {
		plan.statements = append(plan.statements, "ALTER PUBLICATION "+quoteIdent(name)+" ADD TABLE "+tableList(missing))
	}
	if len(plan.statements) == 0 {
		return plan, nil
	}
	if len(locked) > 0 {
		plan.lock = []string{"LOCK TABLE " + tableList(locked) + " IN SHARE ROW EXCLUSIVE MODE"}
	}
	return plan, mayPublish(name, user, pub, missing, plan)
}

func createPublication(name string, tables []publishable, ops relay.Ops) string {
	sql := "CREATE PUBLICATION " + quoteIdent(name)
	if len(tables) > 0 {
		sql += " FOR TABLE " + tableList(tables)
	}
	if ops == 0 { // messages do not depend on it; an empty list is no list
		ops = relay.OpsOf(relay.Insert)
	}
	return sql + " WITH (publish = '" + opList(ops) + "', publish_via_partition_root = true)"
}

// tableList names the tables. ONLY keeps inheriting tables out, which are other
// tables to a rule; it does not apply to partitions.
func tableList(tables []publishable) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = quoteTable(t.TableName)
		if t.kind != 'p' {
			names[i] = "ONLY " + names[i]
		}
	}
	return strings.Join(names, ", ")
}

func opList(ops relay.Ops) string {
	var words []string
	for _, op := range []relay.Op{relay.Insert, relay.Update, relay.Delete, relay.Truncate} {
		if ops.Has(op) {
			words = append(words, op.String())
		}
	}
	return strings.Join(words, ", ")
}

// mayPublish checks what the server would refuse halfway, so that everything a
// DBA has to do is said at once.
func mayPublish(name, user string, pub *PublicationState, tables []publishable, plan publicationPlan) error {
	var why []string
	if pub != nil && !pub.Ours {
		why = append(why, fmt.Sprintf("it belongs to %s", pub.Owner))
	}
	if pub == nil && len(tables) > 0 && !tables[0].canCreate {
		why = append(why, fmt.Sprintf("the role has no CREATE privilege on the database (GRANT CREATE ON DATABASE ... TO %s)", quoteIdent(user)))
	}
	for _, t := range tables {
		if !t.owned {
			why = append(why, fmt.Sprintf("the table %s belongs to %s", t.TableName, t.owner))
		}
	}
	if len(why) == 0 {
		return nil
	}
	return &SetupError{
		Summary: fmt.Sprintf("the role %q may not make or change the publication %q", user, name),
		Detail:  strings.Join(why, "; "),
		SQL:     terminated(plan.statements),
	}
}

func terminated(statements []string) []string {
	var out []string
	for _, s := range statements {
		out = append(out, s+";")
	}
	return out
}

// preflight refuses tables that cannot be published, and those whose updates
// and deletes would fail in the application once they are.
func preflight(tables []publishable, ops relay.Ops) error {
	var errs []error
	for _, t := range tables {
		switch {
		case !t.exists:
			errs = append(errs, &SetupError{Summary: fmt.Sprintf("the table %s does not exist", t.TableName)})
		case t.kind != 'r' && t.kind != 'p':
			errs = append(errs, &SetupError{Summary: fmt.Sprintf("%s is %s, which has no changes to read", t.TableName, kindName(t.kind))})
		case t.persistence != 'p':
			errs = append(errs, &SetupError{
				Summary: fmt.Sprintf("the table %s is %s, and its changes are not in the WAL", t.TableName, persistenceName(t.persistence)),
			})
		case !ops.Has(relay.Update) && !ops.Has(relay.Delete):
		case !t.hasIdentity:
			errs = append(errs, &SetupError{
				Summary: fmt.Sprintf("the table %s has no replica identity: once it is published with updates and deletes, those of the application itself would fail", t.TableName),
				Detail:  "give it a primary key, or one of these (full writes the whole old row to the WAL); or let no rule of this source ask for updates or deletes",
				SQL: []string{
					"ALTER TABLE " + quoteTable(t.TableName) + " REPLICA IDENTITY FULL;",
					"ALTER TABLE " + quoteTable(t.TableName) + " REPLICA IDENTITY USING INDEX a_unique_index_on_not_null_columns;",
				},
			})
		case t.generated:
			errs = append(errs, &SetupError{
				Summary: fmt.Sprintf("the replica identity of the table %s has a generated column, which is not published: the application's own updates and deletes would fail", t.TableName),
				Detail:  "use the primary key or an index without generated columns",
				SQL:     []string{"ALTER TABLE " + quoteTable(t.TableName) + " REPLICA IDENTITY DEFAULT;"},
			})
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

func kindName(kind byte) string {
	switch kind {
	case 'v':
		return "a view"
	case 'm':
		return "a materialized view"
	case 'f':
		return "a foreign table"
	case 'S':
		return "a sequence"
	}
	return "not a table"
}

func persistenceName(persistence byte) string {
	if persistence == 'u' {
		return "unlogged"
	}
	return "temporary"
}
