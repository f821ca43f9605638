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

// Service is a managed PostgreSQL, which gives no superuser: settings are
// changed beside SQL, and rights are given by roles of its own.
type Service string

// The services that are told apart, by a role each of them makes.
const (
	ServiceRDS      Service = "Amazon RDS"
	ServiceCloudSQL Service = "Google Cloud SQL"
	ServiceSupabase Service = "Supabase"
	ServiceAzure    Service = "Azure"
)

// pg_stat_replication shows the rows of others, without what is in them, to
// every role.
const serverSQL = `SELECT current_setting('server_version_num')::int, current_setting('wal_level'), pg_is_in_recovery(),
  (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'),
  extract(epoch FROM coalesce(current_setting('idle_replication_slot_timeout', true), '0')::interval)::bigint,
  (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
  (CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_flush_lsn() END)::text,
  (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int,
  (SELECT count(*) FROM pg_stat_replication), current_setting('max_wal_senders')::int,
  (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical'), coalesce(current_setting('synchronized_standby_slots', true), ''),
  current_database(), has_database_privilege(current_database(), 'CREATE'), pg_backend_pid(),
  (SELECT rolreplication OR rolsuper OR EXISTS (
      SELECT FROM pg_roles g WHERE g.rolname IN ('rds_replication', 'azure_pg_admin') AND pg_has_role(r.oid, g.oid, 'MEMBER'))
   FROM pg_roles r WHERE r.rolname = current_user),
  coalesce((SELECT rolname FROM pg_roles WHERE rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'supabase_admin', 'azure_pg_admin') ORDER BY 1 LIMIT 1), '')`

func (st *ServerState) readServer(ctx context.Context, conn *pgx.Conn) error {
	var timeout, slotTimeout int64
	var flush, marker string
	var pid uint32
	err := conn.QueryRow(ctx, serverSQL).Scan(&st.Version, &st.WALLevel, &st.InRecovery, &timeout, &slotTimeout, &st.SlotKeepSize, &flush,
		&st.Slots, &st.MaxSlots, &st.Senders, &st.MaxSenders, &st.Standbys, &st.StandbySlots,
		&st.Database, &st.CanCreate, &pid, &st.Replicates, &marker)
	if err != nil {
		return fmt.Errorf("inspect server: %w", err)
	}
	st.WALSenderTimeout, st.SlotTimeout = time.Duration(timeout)*time.Millisecond, time.Duration(slotTimeout)*time.Second
	if st.SlotKeepSize > 0 {
		st.SlotKeepSize <<= 20 // the setting is in megabytes
	}
	if st.Flush, err = relay.ParseLSN(flush); err != nil {
		return fmt.Errorf("inspect server: %w", err)
	}
	// A pooler makes up the key of a session that it does not own.
	st.Pooled = pid != conn.PgConn().PID()
	st.Service = map[string]Service{
		"rds_superuser": ServiceRDS, "cloudsqlsuperuser": ServiceCloudSQL, "supabase_admin": ServiceSupabase, "azure_pg_admin": ServiceAzure,
	}[marker]
	return nil
}

// problem is something about the server or the role without which nothing can
// be read.
type problem struct {
	Step
	// fatal says that no statement helps.
	fatal bool
}

func (p *problem) setupError() *SetupError {
	return &SetupError{Summary: p.Why, Detail: p.Detail, SQL: p.SQL}
}

// setupErrors says all of it at once, so that a DBA is asked once.
func setupErrors(problems []problem) *SetupError {
	e := problems[0].setupError()
	for i := range problems[1:] {
		p := &problems[1+i]
		e.Summary += ", and " + p.Why
		if p.Detail != "" && e.Detail != "" {
			e.Detail += "; "
		}
		e.Detail += p.Detail
		e.SQL = append(slices.Clip(e.SQL), p.SQL...)
	}
	return e
}

// problems returns what has to be changed before anything can be read, the
// gravest first.
func (st *ServerState) problems() []problem {
	fatal := func(why, detail string) []problem {
		return []problem{{fatal: true, Step: Step{Why: why, Detail: detail}}}
	}
	switch {
	case st.Pooled:
		return fatal("the source's url leads to a connection pooler: a direct connection to PostgreSQL is needed", "the session is not the one that the connection was given")
	case st.Version < minVersion:
		return fatal(fmt.Sprintf("PostgreSQL 14 or later is needed, the server has %d", st.Version/10000), "")
	}
	var out []problem
	if st.WALLevel != "logical" {
		out = append(out, st.setting("wal_level", "'logical'", fmt.Sprintf("wal_level is %s, logical replication needs logical", st.WALLevel)))
	}
	if st.MaxSenders == 0 {
		out = append(out, st.setting("max_wal_senders", "10", "the server allows no replication: max_wal_senders is 0"))
	}
	if st.MaxSlots == 0 {
		out = append(out, st.setting("max_replication_slots", "10", "the server allows no replication: max_replication_slots is 0"))
	}
	if !st.Replicates {
		out = append(out, problem{Step: st.replicationRole()})
	}
	return out
}

// setting is the step that changes a setting for which the server has to start
// again.
func (st *ServerState) setting(name, value, why string) problem {
	s := Step{Action: StepAlter, Kind: "setting", Name: name, Changes: []string{name + " = " + strings.Trim(value, "'")}, Why: why}
	on := name + " = " + strings.Trim(value, "'")
	switch st.Service {
	case ServiceRDS:
		if name == "wal_level" {
			on = "rds.logical_replication = 1"
		}
		s.Detail = "set " + on + " in the parameter group of the instance (on Aurora, of the cluster) and reboot it"
	case ServiceCloudSQL:
		if name == "wal_level" {
			on = "cloudsql.logical_decoding = on"
		}
		s.Detail = "set the flag " + on + " of the instance, which restarts it"
	case ServiceSupabase:
		s.Detail = "set " + on + " with 'supabase postgres-config update', which restarts the database"
	case ServiceAzure:
		s.Detail = "set the server parameter " + on + " and restart the server"
	default:
		s.Detail = "the setting takes effect after a restart of the server; on managed services it is a parameter such as rds.logical_replication"
		s.SQL = []string{"ALTER SYSTEM SET " + name + " = " + value + ";"}
	}
	return problem{Step: s}
}

// replicationRole is the step that lets the role replicate.
func (st *ServerState) replicationRole() Step {
	s := Step{
		Action: StepAlter, Kind: "role", Name: st.User, Changes: []string{"may replicate"},
		Why: fmt.Sprintf("the role %q may not replicate", st.User),
		SQL: []string{"ALTER ROLE " + quoteIdent(st.User) + " WITH REPLICATION;"},
	}
	switch st.Service {
	case ServiceRDS:
		s.SQL = []string{"GRANT rds_replication TO " + quoteIdent(st.User) + ";"}
		s.Detail = "the master user, a member of rds_superuser, can do it"
	case ServiceCloudSQL:
		s.Detail = "a member of cloudsqlsuperuser, such as postgres, can do it"
	case ServiceSupabase:
		s.Detail = "the role postgres can do it"
	case ServiceAzure:
		s.Detail = "a member of azure_pg_admin can do it"
	default:
		s.Detail = "on managed services the right is given by a role: rds_replication, cloudsqlsuperuser and the like"
	}
	return s
}
