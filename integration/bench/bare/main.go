// Bare is the yardstick of the benchmark: the least program that turns inserts into webhooks.
//
// It reads a slot with pglogrepl, writes JSON by hand, and posts each row with net/http from 16
// workers over connections that stay open. It keeps no log, no order and no positions, retries
// nothing, signs nothing, and acknowledges what it has read: whatever is in flight when it dies is
// lost. It imports nothing of Rowhook, so that no shortcut or fault of ours is in both.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	workers        = 16
	statusInterval = time.Second
)

func main() {
	db := flag.String("db", "", "connection string of the database")
	slot := flag.String("slot", "", "slot to read")
	publication := flag.String("publication", "", "publication to read")
	url := flag.String("url", "", "where to post")
	when := flag.String("when", "", "COLUMN=VALUE that a row must have to be posted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *db, *slot, *publication, *url, *when); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, db, slot, publication, url, when string) error {
	config, err := pgconn.ParseConfig(db)
	if err != nil {
		return err
	}
	config.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	err = pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{PluginArgs: []string{
		"proto_version '1'", "publication_names '" + publication + "'",
	}})
	if err != nil {
		return fmt.Errorf("start replication: %w", err)
	}
	p := newPoster(url)
	defer p.close()
	r := &reader{conn: conn, post: p.post, relations: map[uint32]*relation{}}
	r.whenColumn, r.whenValue, _ = strings.Cut(when, "=")
	return r.run(ctx)
}

// reader turns the replication stream into bodies.
type reader struct {
	conn       *pgconn.PgConn
	post       func(*bytes.Buffer)
	relations  map[uint32]*relation
	whenColumn string
	whenValue  string

	commit    pglogrepl.LSN // of the transaction being read
	committed string        // its time, as JSON
	row       int           // within the transaction
	done      pglogrepl.LSN // end of the last whole transaction that was read
	scratch   []byte
}

type relation struct {
	keys []string // `"name":`, one a column
	raw  []bool   // is the column's text JSON as it is?
	when int      // index of the column that decides; -1: every row is posted
}

func (r *reader) run(ctx context.Context) error {
	for {
		tick, cancel := context.WithTimeout(ctx, statusInterval)
		err := r.read(tick)
		cancel()
		if err != nil && !pgconn.Timeout(err) && !errors.Is(err, context.Canceled) {
			return err
		}
		if err := r.status(); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// status acknowledges what was read, with all three positions: pglogrepl takes a zero flush
// position for the write position.
func (r *reader) status() error {
	if r.done == 0 {
		return nil
	}
	return pglogrepl.SendStandbyStatusUpdate(context.Background(), r.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: r.done, WALFlushPosition: r.done, WALApplyPosition: r.done,
	})
}

// read reads until ctx ends.
func (r *reader) read(ctx context.Context) error {
	for {
		msg, err := r.conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CopyDone:
			return io.EOF
		case *pgproto3.CopyData:
			err = r.copyData(m.Data)
		}
		if err != nil {
			return err
		}
	}
}

func (r *reader) copyData(data []byte) error {
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return err
		}
		if r.commit == 0 && k.ServerWALEnd > r.done {
			r.done = k.ServerWALEnd // nothing is open: the WAL up to here holds nothing for us
		}
		if k.ReplyRequested {
			return r.status()
		}
		return nil
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return err
		}
		return r.message(x.WALData)
	}
	return nil
}

func (r *reader) message(data []byte) error {
	msg, err := pglogrepl.Parse(data)
	if err != nil {
		return err
	}
	switch m := msg.(type) {
	case *pglogrepl.BeginMessage:
		r.commit, r.row = m.FinalLSN, 0
		r.committed = string(m.CommitTime.UTC().AppendFormat(nil, `"2006-01-02T15:04:05.999999Z07:00"`))
	case *pglogrepl.CommitMessage:
		r.done, r.commit = m.TransactionEndLSN, 0
	case *pglogrepl.RelationMessage:
		r.relations[m.RelationID] = r.relation(m)
	case *pglogrepl.InsertMessage:
		rel := r.relations[m.RelationID]
		if rel == nil {
			return fmt.Errorf("row of unknown relation %d", m.RelationID)
		}
		r.row++
		if rel.when < 0 || string(m.Tuple.Columns[rel.when].Data) == r.whenValue {
			r.post(r.event(rel, m.Tuple.Columns))
		}
	}
	return nil
}

func (r *reader) relation(m *pglogrepl.RelationMessage) *relation {
	rel := &relation{when: -1}
	for i, c := range m.Columns {
		key := appendString(nil, []byte(c.Name))
		rel.keys = append(rel.keys, string(append(key, ':')))
		switch c.DataType {
		case 20, 21, 23, 114, 3802: // int8, int2, int4, json, jsonb
			rel.raw = append(rel.raw, true)
		default:
			rel.raw = append(rel.raw, false)
		}
		if r.whenColumn != "" && c.Name == r.whenColumn {
			rel.when = i
		}
	}
	return rel
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (r *reader) event(rel *relation, columns []*pglogrepl.TupleDataColumn) *bytes.Buffer {
	b := r.scratch[:0]
	b = append(b, `{"id":"`...)
	b = strconv.AppendUint(b, uint64(r.commit), 16)
	b = append(b, '-')
	b = strconv.AppendInt(b, int64(r.row), 10)
	b = append(b, `","type":"row.created","timestamp":`...)
	b = append(b, r.committed...)
	b = append(b, `,"data":{`...)
	for i, c := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, rel.keys[i]...)
		switch {
		case c.DataType != pglogrepl.TupleDataTypeText:
			b = append(b, "null"...)
		case rel.raw[i]:
			b = append(b, c.Data...)
		default:
			b = appendString(b, c.Data)
		}
	}
	b = append(b, "}}"...)
	r.scratch = b
	buf := buffers.Get().(*bytes.Buffer)
	buf.Reset()
	buf.Write(b)
	return buf
}

// appendString appends s as a JSON string.
func appendString(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i, c := range s {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		if c < ' ' {
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		} else {
			b = append(b, '\\', c)
		}
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

// poster posts bodies from its workers, in no order.
type poster struct {
	url    string
	client *http.Client
	bodies chan *bytes.Buffer
	wg     sync.WaitGroup
	failed atomic.Int64
}

func newPoster(url string) *poster {
	p := &poster{
		url:    url,
		bodies: make(chan *bytes.Buffer, 4*workers),
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			MaxIdleConns: workers, MaxIdleConnsPerHost: workers, MaxConnsPerHost: workers, DisableCompression: true,
		}},
	}
	for range workers {
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			for body := range p.bodies {
				if err := p.send(body.Bytes()); err != nil && p.failed.Add(1) == 1 {
					fmt.Fprintln(os.Stderr, "bare: first failed post:", err)
				}
				buffers.Put(body)
			}
		}()
	}
	return p
}

func (p *poster) post(body *bytes.Buffer) { p.bodies <- body }

func (p *poster) send(body []byte) error {
	req, err := http.NewRequest(http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	// A body that was not read to its end would cost the connection.
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if err == nil && resp.StatusCode/100 != 2 {
		err = errors.New(resp.Status)
	}
	return err
}

// close waits for what is in flight.
func (p *poster) close() {
	close(p.bodies)
	p.wg.Wait()
	if n := p.failed.Load(); n > 0 {
		fmt.Fprintln(os.Stderr, "bare: failed posts:", n)
	}
}
