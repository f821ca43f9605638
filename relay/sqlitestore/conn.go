package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
)

// conn is one connection with its prepared statements. It is used by one
// goroutine. Its statements have no context: what is under way in the writer
// belongs to several callers.
type conn struct {
	db    *sql.DB
	c     *sql.Conn
	stmts map[string]*sql.Stmt
}

// pageSize: the CPU of an append is the same with 4, 8 and 16 KiB (about 1 µs
// an event in blocks of 200), and small commits write least with the smallest.
const pageSize = 4096

// writerDSN: auto_vacuum and page_size count only before the first table is
// made. temp_store keeps the few sorts of deletions out of the file system.
func writerDSN(path string, maxPages int64) string {
	q := url.Values{}
	q.Set("_auto_vacuum", "incremental")
	q.Set("_txlock", "immediate")
	q.Set("_foreign_keys", "1")
	q.Set("_journal_mode", "WAL")
	q.Set("_synchronous", "FULL")
	q.Set("_dqs", "0")
	for _, p := range []string{
		fmt.Sprintf("page_size(%d)", pageSize),
		"busy_timeout(5000)",
		"cache_size(-8192)",
		"temp_store(memory)",
		fmt.Sprintf("journal_size_limit(%d)", walLimit),
		"wal_autocheckpoint(0)", // see checkpointer
	} {
		q.Add("_pragma", p)
	}
	if maxPages > 0 {
		q.Add("_pragma", fmt.Sprintf("max_page_count(%d)", maxPages))
	}
	return dsn(path, q)
}

func checkpointDSN(path string) string {
	q := url.Values{}
	q.Set("_synchronous", "FULL")
	q.Add("_pragma", "cache_size(-256)")
	return dsn(path, q)
}

func readerDSN(path string) string {
	q := url.Values{}
	q.Set("_query_only", "1")
	q.Set("_dqs", "0")
	q.Add("_pragma", "busy_timeout(5000)")
	q.Add("_pragma", "cache_size(-1024)")
	return dsn(path, q)
}

func dsn(path string, q url.Values) string {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}
	return u.String()
}

// openConn opens the connection that writes.
func openConn(path string, maxPages int64) (*conn, error) {
	db, err := sql.Open("sqlite", writerDSN(path, maxPages))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	c, err := db.Conn(context.Background())
	if err != nil {
		db.Close()
		return nil, err
	}
	return &conn{db: db, c: c, stmts: make(map[string]*sql.Stmt)}, nil
}

func (c *conn) close() error {
	for _, s := range c.stmts {
		s.Close()
	}
	return errors.Join(c.c.Close(), c.db.Close())
}

// stmt returns the prepared statement of the text.
func (c *conn) stmt(text string) (*sql.Stmt, error) {
	if s, ok := c.stmts[text]; ok {
		return s, nil
	}
	s, err := c.c.PrepareContext(context.Background(), text)
	if err != nil {
		return nil, err
	}
	c.stmts[text] = s
	return s, nil
}

// exec runs a statement and returns how many rows it changed.
func (c *conn) exec(text string, args ...any) (int64, error) {
	s, err := c.stmt(text) //nolint:sqlclosecheck // it lives as long as the connection
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// script runs statements that are not worth preparing.
func (c *conn) script(text string) error {
	_, err := c.c.ExecContext(context.Background(), text)
	return err
}

// row is sql.Row with the error of preparing in it.
type row struct {
	r   *sql.Row
	err error
}

// Scan is sql.Row.Scan.
func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	return r.r.Scan(dest...)
}

// row runs a query of at most one row.
func (c *conn) row(text string, args ...any) row {
	s, err := c.stmt(text) //nolint:sqlclosecheck // it lives as long as the connection
	if err != nil {
		return row{err: err}
	}
	return row{r: s.QueryRowContext(context.Background(), args...)}
}

// rows runs a query.
func (c *conn) rows(text string, args ...any) (*sql.Rows, error) {
	s, err := c.stmt(text) //nolint:sqlclosecheck // it lives as long as the connection
	if err != nil {
		return nil, err
	}
	return s.QueryContext(context.Background(), args...)
}
