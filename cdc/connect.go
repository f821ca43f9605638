package cdc

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/relay"
)

// SessionOptions pins, as the startup parameter "options", every setting that
// changes how the server prints a value, because ALTER DATABASE and ALTER ROLE
// reach the session that streams. A session that reads the same values in
// another way (a backfill, a test that asks to_jsonb) has to use them too, with
// client_encoding UTF8, as every session of this package does.
const SessionOptions = "-c DateStyle=ISO,MDY -c IntervalStyle=iso_8601 -c TimeZone=UTC -c extra_float_digits=3 " +
	"-c bytea_output=hex -c lc_monetary=C -c search_path=pg_catalog -c quote_all_identifiers=off"

// applicationName begins the application_name of every session of ours, so
// that a walsender of ours can be told from someone else's.
const applicationName = "rowhook"

// connectTimeout bounds the making of a connection, over all hosts of the URL.
const connectTimeout = 30 * time.Second

// configure sets what all our sessions have. options is the startup parameter
// of that name; empty leaves what the URL says, which a pooler may accept.
func configure(c *pgconn.Config, use, options string) {
	c.RuntimeParams["application_name"] = applicationName + " " + use
	c.RuntimeParams["client_encoding"] = "UTF8" // the default is the database's own
	if options != "" {
		c.RuntimeParams["options"] = strings.TrimSpace(c.RuntimeParams["options"] + " " + options)
	}
	dialer := &net.Dialer{
		Timeout:         connectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4},
	}
	c.DialFunc = dialer.DialContext
}

// connect opens an ordinary session.
func connect(ctx context.Context, url relay.Secret, use, options string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url.Reveal())
	if err != nil {
		return nil, connectError("parse url", err)
	}
	configure(&config.Config, use, options)
	// Nothing here is asked twice in one session: do not prepare.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err == nil {
		err = leaveASCII(ctx, conn.PgConn())
	}
	if err != nil {
		return nil, connectError("connect", err)
	}
	return conn, nil
}

// leaveASCII leaves the bytes of a database in SQL_ASCII as they are. Nobody
// knows their encoding: the server cannot convert them, and would stop at the
// first that is not UTF-8, a stream for ever.
func leaveASCII(ctx context.Context, conn *pgconn.PgConn) error {
	if conn.ParameterStatus("server_encoding") != "SQL_ASCII" {
		return nil
	}
	err := conn.Exec(ctx, "SET client_encoding = 'SQL_ASCII'").Close()
	if err != nil {
		disconnect(conn)
	}
	return err
}

// disconnect closes a session politely, also when the caller's time is over.
func disconnect(conn interface{ Close(context.Context) error }) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// connectReplication opens a session that takes replication commands and SQL.
func connectReplication(ctx context.Context, url relay.Secret, use, options string, maxMessage int) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig(url.Reveal())
	if err != nil {
		return nil, connectError("parse url", err)
	}
	configure(config, use, options)
	config.RuntimeParams["replication"] = "database"
	config.MaxProtocolMessageBodyLen = maxMessage
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err == nil {
		err = leaveASCII(ctx, conn)
	}
	if err == nil {
		return conn, nil
	}
	err = connectError("connect for replication", err)
	if sqlState(err) == codePrivilege || strings.Contains(err.Error(), "permission denied to start WAL sender") ||
		strings.Contains(err.Error(), "must be superuser or replication role") {
		return nil, notReplicationRole(config.User, err)
	}
	return nil, err
}

func notReplicationRole(user string, cause error) error {
	return &SetupError{
		Summary: fmt.Sprintf("the role %q may not replicate", user),
		Detail:  "on managed services the right is given by a role: rds_replication, cloudsqlsuperuser and the like",
		SQL:     []string{"ALTER ROLE " + quoteIdent(user) + " WITH REPLICATION;"},
		Err:     cause,
	}
}

// ask runs one statement over a replication session, which knows only the
// simple protocol, and returns the rows as text. A null is an empty text.
func ask(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, result := range results {
		if result.Err != nil {
			return nil, result.Err
		}
		for _, row := range result.Rows {
			values := make([]string, len(row))
			for i := range row {
				values[i] = string(row[i])
			}
			rows = append(rows, values)
		}
	}
	return rows, nil
}

// serverVersion returns server_version_num as the session reports it: 150018,
// or only the major part of it for a version that is not a release.
func serverVersion(reported string) int {
	end := strings.IndexFunc(reported, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
	if end >= 0 {
		reported = reported[:end]
	}
	major, minor, _ := strings.Cut(reported, ".")
	a, err := strconv.Atoi(major)
	if err != nil {
		return 0
	}
	b, _ := strconv.Atoi(minor)
	return a*10000 + b
}

// quoteIdent quotes an identifier.
func quoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// quoteLiteral quotes a string where standard_conforming_strings or the
// replication grammar applies.
func quoteLiteral(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }

func quoteTable(t relay.TableName) string { return quoteIdent(t.Schema) + "." + quoteIdent(t.Name) }
