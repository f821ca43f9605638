package integration_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/relay"
)

// call is a system call as strace saw it. Lines of a trace are in the order in which things
// happened, so their numbers are the time.
type call struct {
	name, target string // target is the file or the two ends of the connection
	data         []byte
	begun, ended int // lines; ended is -1 when it did not
	ok           bool
}

var (
	callBegins  = regexp.MustCompile(`^(\d+) +([a-z0-9]+)\(\d+<((?:->|[^>])*)>(?:, "((?:\\x[0-9a-f]{2})*)")?`)
	callResumes = regexp.MustCompile(`^(\d+) +<\.\.\. [a-z0-9]+ resumed>`)
	callResult  = regexp.MustCompile(`\) += (-?\d+)`)
	hexByte     = strings.NewReplacer(`\x`, "")
)

// readTrace reads the output of strace -f -yy -xx.
func readTrace(text string) ([]*call, error) {
	unhex := func(s string) ([]byte, error) { return hex.DecodeString(hexByte.Replace(s)) }
	under := map[string]*call{} // way, by thread
	var calls []*call
	n := 0
	for line := range strings.Lines(text) {
		n++
		var c *call
		if m := callBegins.FindStringSubmatch(line); m != nil {
			c = &call{name: m[2], target: m[3], begun: n, ended: -1}
			if strings.HasPrefix(c.target, `\x`) {
				path, err := unhex(c.target)
				if err != nil {
					return nil, fmt.Errorf("line %d: %w", n, err)
				}
				c.target = string(path)
			}
			var err error
			if c.data, err = unhex(m[4]); err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			calls = append(calls, c)
			under[m[1]] = c
		} else if m := callResumes.FindStringSubmatch(line); m != nil {
			c = under[m[1]]
		}
		if c == nil {
			continue
		}
		if m := callResult.FindStringSubmatch(line); m != nil {
			c.ended, c.ok = n, m[1][0] != '-'
		}
	}
	return calls, nil
}

// order is what a trace says of "write, fsync, confirm" and "write, fsync, send".
type order struct {
	confirmed []relay.LSN // the different positions of standby status updates
	sent      []string    // the markers of requests
	wrong     []string
}

var markerOf = regexp.MustCompile(`mark-\d{5}`)

// orderOf finds the standby status updates, the requests, and the writes and syncs of the store's
// write-ahead log. What is confirmed or sent must have been written to the log by a call that
// ended before a sync began that ended before.
func orderOf(calls []*call) (o order) {
	var writes, syncs []*call
	for _, c := range calls {
		if !strings.HasSuffix(c.target, "rowhook.db-wal") || !c.ok {
			continue
		}
		switch c.name {
		case "pwrite64", "write":
			writes = append(writes, c)
		case "fsync", "fdatasync":
			syncs = append(syncs, c)
		}
	}
	durableBefore := func(line int, needle []byte) bool {
		for _, w := range writes {
			if w.ended >= line || !bytes.Contains(w.data, needle) {
				continue
			}
			for _, s := range syncs {
				if s.begun > w.ended && s.ended < line {
					return true
				}
			}
		}
		return false
	}
	for _, c := range calls {
		if !strings.HasPrefix(c.target, "TCP:") {
			continue
		}
		// CopyData of a standby status update: 'd', length, 'r', written, flushed, applied, time, reply.
		for d := c.data; len(d) >= 39 && d[0] == 'd' && binary.BigEndian.Uint32(d[1:]) == 38 && d[5] == 'r'; d = d[39:] {
			flushed := relay.LSN(binary.BigEndian.Uint64(d[14:]))
			if applied := relay.LSN(binary.BigEndian.Uint64(d[22:])); applied > flushed {
				o.wrong = append(o.wrong, fmt.Sprintf("line %d: applied %s, flushed %s", c.begun, applied, flushed))
			}
			if !durableBefore(c.begun, sqliteInteger(uint64(flushed))) {
				o.wrong = append(o.wrong, fmt.Sprintf("line %d: %s is confirmed and was not durable", c.begun, flushed))
			}
			if !slices.Contains(o.confirmed, flushed) {
				o.confirmed = append(o.confirmed, flushed)
			}
		}
		if !bytes.HasPrefix(c.data, []byte("POST ")) {
			continue
		}
		marker := markerOf.Find(c.data)
		if marker == nil || !durableBefore(c.begun, marker) {
			o.wrong = append(o.wrong, fmt.Sprintf("line %d: %s is sent and was not durable", c.begun, marker))
		}
		o.sent = append(o.sent, string(marker))
	}
	return o
}

// sqliteInteger is a positive integer as a record of SQLite has it: big-endian, signed, in 1, 2, 3,
// 4, 6 or 8 bytes.
func sqliteInteger(n uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, n)
	for _, width := range []int{1, 2, 3, 4, 6} {
		if n < 1<<(8*width-1) {
			return b[8-width:]
		}
	}
	return b
}

const straceRules = `
source "postgres" "shop" { url = env("DATABASE_URL") }
event "row.made" {
  table = "public.rows"
  on    = ["insert"]
  # Twice, so that an end of a page of the store cannot cut both.
  data  = { marker = new.m, filler = "..............................", again = new.m }
}
sink "webhook" "receiver" {
  url    = "URL"
  events = ["**"]
}
`

// Seen from outside, by the system calls of the program: nothing is confirmed to the server, and
// nothing sent to an endpoint, before the store's log has it and fsync has returned. The disk is
// slow, so that whoever does not wait for it is seen.
func TestStrace_WriteThenFsyncThenConfirmAndSend(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace")
	b := newCrashBed(t, "CREATE TABLE rows (m text PRIMARY KEY)", straceRules, harness.DaemonOptions{Wrap: []string{
		"strace", "-f", "-yy", "-xx", "-s", "1000000", "-e", "trace=write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync",
		"-e", "inject=fsync,fdatasync:delay_enter=200000", "-o", trace,
	}}, nil)
	b.daemon.StartReady()
	rows := 0
	insert := func() {
		rows++
		b.exec(fmt.Sprintf("INSERT INTO rows VALUES ('mark-%05d')", rows))
	}
	for range 3 { // one at a time
		// Statuses have a distance. After it, one that does not wait for the disk goes out at once.
		wait(t.Context(), 1200*time.Millisecond)
		before := b.written()
		insert()
		b.receiver.WaitCount(rows)
		harness.Eventually(t, harness.Patience, func() error {
			if c := b.confirmed(); c <= before {
				return fmt.Errorf("confirmed %s, waiting for what came after %s", c, before)
			}
			return nil
		})
	}
	for range 150 { // as fast as it goes, so that several share a commit of the store
		insert()
	}
	b.receiver.WaitCount(rows)
	b.daemon.Kill9()
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	calls, err := readTrace(string(text))
	if err != nil {
		t.Fatal(err)
	}
	o := orderOf(calls)
	for i, w := range o.wrong {
		if i < 20 {
			t.Error(w)
		}
	}
	if len(o.confirmed) < 4 || len(o.sent) != rows {
		t.Errorf("the trace shows %d positions and %d requests of %d", len(o.confirmed), len(o.sent), rows)
	}
	t.Logf("%d calls: %d positions confirmed, %d requests", len(calls), len(o.confirmed), len(o.sent))
}

// What reads the trace must see the wrong order.
func TestStrace_ReaderSeesTheWrongOrder(t *testing.T) {
	hexOf := func(s string) string {
		var b strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		}
		return b.String()
	}
	const lsn = 0x1922620
	wal := "9<" + hexOf("/data/rowhook.db-wal") + ">"
	status := binary.BigEndian.AppendUint32([]byte{'d'}, 38)
	status = append(status, 'r')
	for _, v := range []uint64{lsn, lsn, lsn, 0} {
		status = binary.BigEndian.AppendUint64(status, v)
	}
	status = append(status, 0)
	write := fmt.Sprintf(`10 pwrite64(%s, "%s", 9, 0) = 9`, wal, hexOf("..\x01\x92\x26\x20..mark-00001"))
	begin := fmt.Sprintf(`10 fsync(%s <unfinished ...>`, wal)
	end := `10 <... fsync resumed>)           = 0`
	bad := `10 <... fsync resumed>)           = -1 EIO (Input/output error)`
	other := fmt.Sprintf(`12 fsync(8<%s>) = 0`, hexOf("/data/rowhook.db"))
	confirm := fmt.Sprintf(`11 write(5<TCP:[127.0.0.1:1->127.0.0.1:2]>, "%s", 39) = 39`, hexOf(string(status)))
	send := fmt.Sprintf(`11 write(6<TCP:[127.0.0.1:3->127.0.0.1:4]>, "%s", 9) = 9`, hexOf("POST / HTTP/1.1\r\n\r\nmark-00001"))
	for name, c := range map[string]struct {
		lines []string
		wrong int
	}{
		"right":               {[]string{write, begin, end, confirm, send}, 0},
		"no sync":             {[]string{write, other, confirm, send}, 2},
		"sync goes on":        {[]string{write, begin, confirm, send, end}, 2},
		"sync fails":          {[]string{write, begin, bad, confirm, send}, 2},
		"sync before write":   {[]string{begin, end, write, confirm, send}, 2},
		"sync begins earlier": {[]string{begin, write, end, confirm, send}, 2},
		"confirmed too early": {[]string{write, confirm, begin, end, send}, 1},
		"sent too early":      {[]string{write, begin, send, end, confirm}, 1},
		"never written":       {[]string{begin, end, confirm, send}, 2},
	} {
		calls, err := readTrace(strings.Join(c.lines, "\n"))
		if err != nil {
			t.Fatal(err)
		}
		if o := orderOf(calls); len(o.wrong) != c.wrong || len(o.confirmed) != 1 || o.confirmed[0] != lsn || len(o.sent) != 1 {
			t.Errorf("%s: %+v, want %d wrong", name, o, c.wrong)
		}
	}
}
