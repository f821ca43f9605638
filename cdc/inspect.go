package cdc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/relay"
)

// minVersion is the oldest server_version_num that is read: 13 has no logical
// messages in pgoutput.
const minVersion = 140000

// ServerState is what a server is and has, read at one moment and without
// changing anything.
type ServerState struct {
	SystemID uint64
	Timeline uint32
	// History says where the timelines before the current one were left.
	History []TimelineSwitch
	// Database is the database of the session, Address host and port as
	// configured.
	Database string
	Address  string
	User     string
	// Version is server_version_num, 150018.
	Version  int
	WALLevel string
	// Flush is the end of the server's WAL: durably written, or replayed on a
	// standby.
	Flush      relay.LSN
	InRecovery bool
	// WALSenderTimeout is 0 when there is none.
	WALSenderTimeout time.Duration
	// SlotTimeout is idle_replication_slot_timeout (18 and later); 0 is none.
	SlotTimeout time.Duration
	// Slots of MaxSlots replication slots, and Senders of MaxSenders walsenders, are
	// in use.
	Slots, MaxSlots     int
	Senders, MaxSenders int
	// SlotKeepSize is max_slot_wal_keep_size in bytes: how much WAL a slot may pin
	// before it is lost. -1 is no bound.
	SlotKeepSize int64
	// Standbys read the server's WAL. StandbySlots is synchronized_standby_slots
	// (17 and later), the slots that failover slots wait for.
	Standbys     int
	StandbySlots string
	// Replicates says that the role may replicate, Pooled that the session leads
	// through a pooler.
	Replicates, Pooled bool
	// Service is the managed service the server belongs to, or "".
	Service Service
	// CanCreate says that the role may create a publication in the database.
	CanCreate   bool
	Slot        *SlotState        // nil when there is none of the name
	Publication *PublicationState // nil when there is none of the name
}

// failoverVersion is the first server_version_num that copies slots to standbys.
const failoverVersion = 170000

// CanFailover reports whether the server knows slots that standbys follow.
func (st *ServerState) CanFailover() bool { return st.Version >= failoverVersion }

// TimelineSwitch says at which position a timeline was left for the next.
type TimelineSwitch struct {
	Timeline uint32
	At       relay.LSN
}

// SlotState is a row of pg_replication_slots.
type SlotState struct {
	Name, Plugin, Database string
	Physical, Temporary    bool
	Active                 bool
	// ActivePID is the process that reads the slot, ActiveApplication what it calls
	// itself.
	ActivePID         int32
	ActiveApplication string
	// ConfirmedFlush is 0 while another session is still creating the slot.
	ConfirmedFlush relay.LSN
	// RestartLSN is the oldest WAL the slot pins, Retained its distance in bytes
	// from the end of the WAL.
	RestartLSN relay.LSN
	Retained   int64
	WALStatus  string // reserved, extended, unreserved, lost, or ""
	// SafeWALSize is how many bytes may be written before the slot is in danger,
	// -1 when there is no limit.
	SafeWALSize int64
	// Lost is why nothing can be read from the slot any more, or "".
	Lost string
	// Failover: standbys follow the slot (17 and later).
	Failover bool
}

// PublicationState is a row of pg_publication.
type PublicationState struct {
	Name  string
	Owner string
	// Ours says that the role may alter the publication.
	Ours      bool
	AllTables bool
	// ViaRoot publishes partitions as their root.
	ViaRoot bool
	Ops     relay.Ops
	// Tables are what it publishes, as pg_publication_tables says: with ViaRoot
	// the root stands for its partitions.
	Tables []PublishedTable
	// Members are the tables it names; Schemas says that it has whole schemas
	// beside them.
	Members []PublishedTable
	Schemas bool
	// Partitions lists those of the tables it names, by OID, on servers whose
	// streams do not notice that one is attached or detached (14): what they have
	// once seen as a table of its own they go on to take for one.
	Partitions string
}

// PublishedTable is a table of a publication.
type PublishedTable struct {
	relay.TableName
	// Columns are what a column list leaves, nil for all. RowFilter is the condition
	// of the rows that are sent, or "".
	Columns   []string
	RowFilter string
}

// member returns the table as the publication names it, or nil.
func (p *PublicationState) member(name relay.TableName) *PublishedTable {
	for i := range p.Members {
		if p.Members[i].TableName == name {
			return &p.Members[i]
		}
	}
	return nil
}

// Listed reports whether it sends only some columns of a table.
func (p *PublicationState) Listed() bool {
	return p != nil && slices.ContainsFunc(p.Tables, func(t PublishedTable) bool { return t.Columns != nil })
}

// publishes reports whether changes come under the table's name.
func (p *PublicationState) publishes(name relay.TableName) bool {
	return p.AllTables || slices.ContainsFunc(p.Tables, func(t PublishedTable) bool { return t.TableName == name })
}

// Inspect reads the state of the server that url leads to. A server, role or
// URL with which replication cannot work at all is a *SetupError that says what
// to run; a missing slot or publication is part of the state. slot and
// publication may be empty.
func Inspect(ctx context.Context, url relay.Secret, slot, publication string) (*ServerState, error) {
	st, err := inspect(ctx, url, slot, publication)
	if err != nil {
		return nil, err
	}
	repl, err := connectReplication(ctx, url, "inspect", "", 0)
	if err != nil {
		return nil, err
	}
	defer disconnect(repl)
	if err := st.readTimeline(ctx, repl); err != nil {
		return nil, err
	}
	return st, nil
}

// inspect reads what SQL tells.
func inspect(ctx context.Context, url relay.Secret, slot, publication string) (*ServerState, error) {
	if slot != "" {
		if err := validSlotName(slot); err != nil {
			return nil, err
		}
	}
	conn, err := connect(ctx, url, "inspect", SessionOptions)
	if err != nil {
		return nil, err
	}
	defer disconnect(conn)
	st := &ServerState{Address: address(conn.Config().Config), User: conn.Config().User}
	if err := st.readServer(ctx, conn); err != nil {
		return nil, err
	}
	if p := st.problems(); len(p) > 0 {
		return nil, setupErrors(p)
	}
	if slot != "" {
		if st.Slot, err = readSlot(ctx, conn, slot); err != nil {
			return nil, err
		}
	}
	if publication != "" {
		if st.Publication, err = readPublication(ctx, conn, st.Version, publication); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// Refresh reads the state again, but for system identifier and timeline, which
// do not change while a stream lives: it needs no second walsender, of which
// the server may have no more.
func (st *ServerState) Refresh(ctx context.Context, url relay.Secret, slot, publication string) (*ServerState, error) {
	now, err := inspect(ctx, url, slot, publication)
	if err != nil {
		return nil, err
	}
	now.SystemID, now.Timeline, now.History = st.SystemID, st.Timeline, st.History
	return now, nil
}

// address returns the hosts and ports as configured, the first one first.
func address(c pgconn.Config) string {
	hosts := []string{net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))}
	for _, f := range c.Fallbacks {
		a := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port)))
		if hosts[len(hosts)-1] != a { // a host is listed twice when TLS is only preferred
			hosts = append(hosts, a)
		}
	}
	return strings.Join(hosts, ",")
}

func (st *ServerState) readTimeline(ctx context.Context, conn *pgconn.PgConn) error {
	system, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return fmt.Errorf("identify system: %w", err)
	}
	if st.SystemID, err = strconv.ParseUint(system.SystemID, 10, 64); err != nil {
		return fmt.Errorf("identify system: %w", err)
	}
	st.Timeline, st.Flush = uint32(system.Timeline), relay.LSN(system.XLogPos)
	if st.Timeline <= 1 {
		return nil // the first timeline has no history file
	}
	history, err := pglogrepl.TimelineHistory(ctx, conn, system.Timeline)
	if err != nil {
		return fmt.Errorf("read history of timeline %d: %w", st.Timeline, err)
	}
	st.History, err = parseHistory(history.Content)
	return err
}

// parseHistory parses a timeline history file: a line for each timeline that
// was left, with its number, the position at which it was, and a reason.
func parseHistory(content []byte) ([]TimelineSwitch, error) {
	var switches []TimelineSwitch
	for line := range strings.Lines(string(content)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("timeline history: %q", line)
		}
		tli, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("timeline history: %w", err)
		}
		at, err := relay.ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("timeline history: %w", err)
		}
		switches = append(switches, TimelineSwitch{Timeline: uint32(tli), At: at})
	}
	return switches, nil
}

// The reason why a slot is invalid has moved from version to version.
const slotSQL = `SELECT coalesce(plugin, ''), coalesce(database, ''), slot_type = 'physical', temporary, active, coalesce(active_pid, 0),
  coalesce((SELECT application_name FROM pg_stat_activity a WHERE a.pid = s.active_pid), ''),
  coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(restart_lsn, '0/0')::text,
  coalesce(CASE WHEN pg_is_in_recovery() THEN 0 ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) END, 0)::bigint,
  coalesce(wal_status, ''), coalesce(safe_wal_size, -1)::bigint,
  coalesce(to_jsonb(s)->>'invalidation_reason', CASE WHEN (to_jsonb(s)->>'conflicting')::bool THEN 'conflicting' END,
    CASE WHEN wal_status = 'lost' THEN 'wal_removed' END, ''),
  coalesce((to_jsonb(s)->>'failover')::bool, false)
FROM pg_replication_slots s WHERE slot_name = $1`

func readSlot(ctx context.Context, conn *pgx.Conn, name string) (*SlotState, error) {
	s := &SlotState{Name: name}
	var confirmed, restart string
	err := conn.QueryRow(ctx, slotSQL, name).Scan(&s.Plugin, &s.Database, &s.Physical, &s.Temporary, &s.Active, &s.ActivePID, &s.ActiveApplication,
		&confirmed, &restart, &s.Retained, &s.WALStatus, &s.SafeWALSize, &s.Lost, &s.Failover)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read slot %s: %w", name, err)
	}
	if s.ConfirmedFlush, err = relay.ParseLSN(confirmed); err != nil {
		return nil, fmt.Errorf("read slot %s: %w", name, err)
	}
	if s.RestartLSN, err = relay.ParseLSN(restart); err != nil {
		return nil, fmt.Errorf("read slot %s: %w", name, err)
	}
	return s, nil
}

const publicationSQL = `SELECT pg_get_userbyid(pubowner), pg_has_role(pubowner, 'USAGE'), puballtables, pubviaroot,
  pubinsert, pubupdate, pubdelete, pubtruncate
FROM pg_publication WHERE pubname = $1`

// From 15 on a table of a publication may have a column list and a row filter,
// and a publication whole schemas.
const (
	publicationTables14SQL = `SELECT schemaname, tablename, NULL::text[], ''
FROM pg_publication_tables WHERE pubname = $1 ORDER BY 1, 2`
	publicationTablesSQL = `SELECT t.schemaname, t.tablename,
  CASE WHEN r.prattrs IS NULL THEN NULL ELSE t.attnames::text[] END, coalesce(t.rowfilter, '')
FROM pg_publication_tables t
LEFT JOIN pg_publication p ON p.pubname = t.pubname
LEFT JOIN pg_class c ON c.relname = t.tablename AND c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = t.schemaname)
LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
WHERE t.pubname = $1 ORDER BY 1, 2`
	publicationMembers14SQL = `SELECT n.nspname, c.relname, NULL::text[], ''
FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = $1 ORDER BY 1, 2`
	publicationPartitions14SQL = `SELECT coalesce(string_agg(t.relid::oid::text, ',' ORDER BY t.relid::oid), '')
FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
CROSS JOIN LATERAL pg_partition_tree(r.prrelid) t
WHERE p.pubname = $1`
	publicationMembersSQL = `SELECT n.nspname, c.relname,
  CASE WHEN r.prattrs IS NOT NULL THEN ARRAY(
    SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(r.prattrs) ORDER BY a.attnum) END,
  coalesce(pg_get_expr(r.prqual, r.prrelid), '')
FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = $1 ORDER BY 1, 2`
	publicationSchemasSQL = `SELECT EXISTS (SELECT FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid WHERE p.pubname = $1)`
)

func readPublication(ctx context.Context, conn *pgx.Conn, version int, name string) (*PublicationState, error) {
	p := &PublicationState{Name: name}
	var insert, update, del, truncate bool
	err := conn.QueryRow(ctx, publicationSQL, name).Scan(&p.Owner, &p.Ours, &p.AllTables, &p.ViaRoot, &insert, &update, &del, &truncate)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read publication %s: %w", name, err)
	}
	for op, published := range map[relay.Op]bool{relay.Insert: insert, relay.Update: update, relay.Delete: del, relay.Truncate: truncate} {
		if published {
			p.Ops |= relay.OpsOf(op)
		}
	}
	tables, members := publicationTablesSQL, publicationMembersSQL
	if version < 150000 {
		tables, members = publicationTables14SQL, publicationMembers14SQL
		if err := conn.QueryRow(ctx, publicationPartitions14SQL, name).Scan(&p.Partitions); err != nil {
			return nil, fmt.Errorf("read partitions of publication %s: %w", name, err)
		}
	} else if err := conn.QueryRow(ctx, publicationSchemasSQL, name).Scan(&p.Schemas); err != nil {
		return nil, fmt.Errorf("read publication %s: %w", name, err)
	}
	if p.Tables, err = readPublished(ctx, conn, tables, name); err != nil {
		return nil, fmt.Errorf("read publication %s: %w", name, err)
	}
	if p.Members, err = readPublished(ctx, conn, members, name); err != nil {
		return nil, fmt.Errorf("read publication %s: %w", name, err)
	}
	return p, nil
}

func readPublished(ctx context.Context, conn *pgx.Conn, sql, publication string) ([]PublishedTable, error) {
	rows, err := conn.Query(ctx, sql, publication)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t PublishedTable, err error) {
		err = row.Scan(&t.Schema, &t.Name, &t.Columns, &t.RowFilter)
		return t, err
	})
}
