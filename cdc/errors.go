package cdc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// SetupError is something about the server, the database or the role that a
// person has to change. Trying again does not help.
type SetupError struct {
	// Summary says what is wrong, in one line.
	Summary string
	// Detail says why, and what else to do.
	Detail string
	// SQL are statements that put it right, for someone with the privileges.
	SQL []string
	// Err is the cause, or nil.
	Err error
}

func (e *SetupError) Error() string {
	var b strings.Builder
	b.WriteString(e.Summary)
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Detail != "" {
		b.WriteString("; " + e.Detail)
	}
	if len(e.SQL) > 0 {
		b.WriteString("; run: " + strings.Join(e.SQL, " "))
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *SetupError) Unwrap() error { return e.Err }

// temporaryError is a reason to connect again.
type temporaryError struct {
	msg   string
	err   error
	after time.Duration // not before
}

func (e *temporaryError) Error() string {
	if e.err != nil {
		return e.msg + ": " + e.err.Error()
	}
	return e.msg
}

func (e *temporaryError) Unwrap() error { return e.err }

// RetryAfter returns how long to wait at least before the next try after err.
// A server that is shutting down waits for its readers, so they stay away for a
// while.
func RetryAfter(err error) time.Duration {
	if t, ok := errors.AsType[*temporaryError](err); ok {
		return t.after
	}
	return 0
}

// SQLSTATEs that this package branches on, by their name in the documentation.
const (
	codeUndefinedObject     = "42704"
	codeUndefinedTable      = "42P01"
	codeUndefinedSchema     = "3F000"
	codeDuplicateObject     = "42710"
	codeInUse               = "55006" // object_in_use
	codeNotInState          = "55000" // object_not_in_prerequisite_state
	codeLockNotAvailable    = "55P03"
	codeDeadlock            = "40P01"
	codePrivilege           = "42501"
	codeAdminShutdown       = "57P01"
	codeCrashShutdown       = "57P02"
	codeCannotConnectNow    = "57P03"
	codeQueryCanceled       = "57014"
	codeReadOnly            = "25006"
	codeFeature             = "0A000"
	codeConfigurationLimit  = "53400"
	codeProtocolViolation   = "08P01"
	codeInvalidPassword     = "28P01"
	codeInvalidAuth         = "28000"
	codeUndefinedDatabase   = "3D000"
	codeCharacterNotInTable = "22021" // character_not_in_repertoire
	codeUntranslatable      = "22P05" // untranslatable_character
)

func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// IsTemporary reports whether it makes sense to connect again, with backoff,
// after err: the server is down, starting, stopping or out of connections, the
// slot is in use, the network broke. Everything else (a [*SetupError], a
// [*DecodeError], a lost slot, an error of the handler) stays the same however
// often it is tried.
func IsTemporary(err error) bool {
	if err == nil {
		return false
	}
	if _, ok := errors.AsType[*SetupError](err); ok {
		return false
	}
	if _, ok := errors.AsType[*DecodeError](err); ok {
		return false
	}
	if _, ok := errors.AsType[*handlerError](err); ok {
		return false
	}
	if _, ok := errors.AsType[*temporaryError](err); ok {
		return true
	}
	if code := sqlState(err); code != "" {
		switch code {
		case codeInUse, codeLockNotAvailable, codeAdminShutdown, codeCrashShutdown, codeCannotConnectNow, codeQueryCanceled:
			return true
		case codeProtocolViolation, codeConfigurationLimit:
			return false
		}
		// connection_exception, transaction_rollback, insufficient_resources
		return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "40") || strings.HasPrefix(code, "53")
	}
	if _, ok := errors.AsType[net.Error](err); ok { // timeouts, refused connections, unknown hosts
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, pgconn.ErrConnClosed)
}

// handlerError is an error that the handler returned, so that IsTemporary does
// not take a full disk for a broken network.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }
func (e *handlerError) Unwrap() error { return e.err }

// byHandler marks an error of the handler.
func byHandler(err error) error {
	if err == nil {
		return nil
	}
	return &handlerError{err}
}

// connectError says in our words what a failed connection means to the person
// who wrote the URL. The server's own message never holds the password.
func connectError(doing string, err error) error {
	err = &connectFailure{err}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
			// The text of a parse error may hold what it could not parse.
			return &SetupError{Summary: "the source's url is not a valid connection string", Detail: "the form is postgres://user:password@host:5432/database, or host=... user=... dbname=..."}
		}
		if strings.Contains(err.Error(), "ValidateConnect failed") {
			return &temporaryError{msg: "no server of the source's url is the one that target_session_attrs asks for", err: err}
		}
		return fmt.Errorf("%s: %w", doing, err)
	}
	switch {
	case strings.Contains(pg.Message, "unsupported startup parameter"):
		return &SetupError{
			Summary: "the source's url leads to a connection pooler: a direct connection to PostgreSQL is needed",
			Detail:  "logical replication, LISTEN and session settings do not pass through it",
			Err:     err,
		}
	case pg.Code == codeInvalidPassword || pg.Code == codeInvalidAuth:
		return &SetupError{Summary: "the server does not accept the credentials of the source's url",
			Detail: "a password from env() is read when rowhook starts: where it has changed, start it again (that of a passfile is read at every connection); a role for it is made with: CREATE ROLE ... LOGIN REPLICATION PASSWORD '...' (on Amazon RDS: LOGIN PASSWORD '...', and GRANT rds_replication TO ...)", Err: err}
	case pg.Code == codeUndefinedDatabase:
		return &SetupError{Summary: "the database of the source's url does not exist", Err: err}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// connectFailure is what pgconn says of a connection, on one line: it tries each
// address with TLS and without, and has a line for each attempt.
type connectFailure struct{ err error }

func (e *connectFailure) Error() string {
	head, rest, _ := strings.Cut(e.err.Error(), "\n")
	var attempts []string
	for line := range strings.SplitSeq(rest, "\n") {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(attempts, line) {
			attempts = append(attempts, line)
		}
	}
	if plain := slices.DeleteFunc(slices.Clone(attempts), refusedTLS); len(plain) > 0 {
		attempts = plain
	}
	return strings.TrimSpace(head + " " + strings.Join(attempts, ", "))
}

func refusedTLS(line string) bool { return strings.HasSuffix(line, "server refused TLS connection") }

func (e *connectFailure) Unwrap() error { return e.err }
