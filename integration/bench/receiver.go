package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// receiverCommand is the hidden subcommand under which the benchmark runs itself as the receiver,
// so that the receiver's CPU and memory are in nobody's figures.
const receiverCommand = "__receiver"

// tally is what the receiver knows of one measurement. Events are known by the id of the row in
// their data, which the benchmark numbers from 1.
type tally struct {
	arrivals []atomic.Int64 // by row id: Unix nanoseconds of the first arrival; 0: none yet
	want     int64
	delay    time.Duration
	first    atomic.Int64 // Unix nanoseconds
	last     atomic.Int64 // of the arrival that made it complete
	distinct atomic.Int64
	repeated atomic.Int64
	complete chan struct{}
}

// counts is a tally as the benchmark reads it.
type counts struct {
	Distinct, Repeated int64
	First, Last        int64 // Unix nanoseconds; 0: not yet
}

func (t *tally) counts() counts {
	return counts{Distinct: t.distinct.Load(), Repeated: t.repeated.Load(), First: t.first.Load(), Last: t.last.Load()}
}

// runReceiver serves until its standard input ends, as it does when the benchmark ends.
func runReceiver() error {
	events, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r := &receiver{}
	r.now.Store(newTally(0, 0, 0))
	fail := make(chan error, 2)
	go func() { fail <- (&http.Server{Handler: http.HandlerFunc(r.event)}).Serve(events) }()
	go func() { fail <- (&http.Server{Handler: r.control()}).Serve(control) }()
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		fail <- err
	}()
	fmt.Printf("%s %s\n", events.Addr(), control.Addr())
	return <-fail
}

type receiver struct{ now atomic.Pointer[tally] }

func newTally(rows, want int64, delay time.Duration) *tally {
	return &tally{arrivals: make([]atomic.Int64, rows+1), want: want, delay: delay, complete: make(chan struct{})}
}

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (r *receiver) event(w http.ResponseWriter, req *http.Request) {
	now := time.Now().UnixNano()
	t := r.now.Load()
	buf := bodies.Get().(*bytes.Buffer)
	defer bodies.Put(buf)
	buf.Reset()
	if _, err := buf.ReadFrom(req.Body); err != nil {
		return // the sender went away
	}
	id := rowID(buf.Bytes())
	if id <= 0 || id >= int64(len(t.arrivals)) {
		http.Error(w, "unknown row", http.StatusBadRequest)
		return
	}
	if t.arrivals[id].CompareAndSwap(0, now) {
		n := t.distinct.Add(1)
		if n == 1 {
			t.first.Store(now)
		}
		if n == t.want {
			t.last.Store(now)
			close(t.complete)
		}
	} else {
		t.repeated.Add(1)
	}
	if t.delay > 0 {
		time.Sleep(t.delay) // the receiver that takes its time is what is measured
	}
	w.WriteHeader(http.StatusNoContent)
}

// rowID finds the row's id in {..., "data":{"id":123,...}, ...}; -1 when there is none.
func rowID(body []byte) int64 {
	_, data, ok := bytes.Cut(body, []byte(`"data":`))
	if !ok {
		return -1
	}
	_, digits, ok := bytes.Cut(data, []byte(`"id":`))
	if !ok {
		return -1
	}
	id := int64(0)
	for _, c := range digits {
		if c < '0' || c > '9' {
			break
		}
		id = id*10 + int64(c-'0')
	}
	return id
}

func (r *receiver) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /reset", func(_ http.ResponseWriter, req *http.Request) {
		rows, _ := strconv.ParseInt(req.FormValue("rows"), 10, 64)
		want, _ := strconv.ParseInt(req.FormValue("want"), 10, 64)
		delay, _ := time.ParseDuration(req.FormValue("delay"))
		r.now.Store(newTally(rows, want, delay))
	})
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, req *http.Request) {
		t := r.now.Load()
		limit, _ := time.ParseDuration(req.FormValue("limit"))
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-t.complete:
		case <-timer.C:
		case <-req.Context().Done():
		}
		_ = json.NewEncoder(w).Encode(t.counts())
	})
	mux.HandleFunc("GET /arrivals", func(w http.ResponseWriter, _ *http.Request) {
		t := r.now.Load()
		out := bufio.NewWriter(w)
		for i := range t.arrivals {
			_ = binary.Write(out, binary.LittleEndian, t.arrivals[i].Load())
		}
		_ = out.Flush()
	})
	return mux
}

// receiverProcess is the benchmark's handle on its receiver.
type receiverProcess struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	url     string // where events go
	control string
}

func startReceiver() (*receiverProcess, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, receiverCommand)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &receiverProcess{cmd: cmd, stdin: stdin}
	var events, control string
	if _, err := fmt.Fscan(stdout, &events, &control); err != nil {
		r.stop()
		return nil, fmt.Errorf("start receiver: %w", err)
	}
	r.url, r.control = "http://"+events+"/events", "http://"+control
	return r, nil
}

func (r *receiverProcess) stop() {
	r.stdin.Close()
	_ = r.cmd.Wait()
}

// reset forgets what came and prepares for rows 1 to rows, of which want make the tally complete.
func (r *receiverProcess) reset(ctx context.Context, rows, want int, delay time.Duration) error {
	_, err := r.call(ctx, http.MethodPost, "/reset", url.Values{
		"rows": {strconv.Itoa(rows)}, "want": {strconv.Itoa(want)}, "delay": {delay.String()},
	})
	return err
}

// wait returns when the tally is complete, or after limit.
func (r *receiverProcess) wait(ctx context.Context, limit time.Duration) (counts, error) {
	var c counts
	body, err := r.call(ctx, http.MethodGet, "/wait", url.Values{"limit": {limit.String()}})
	if err == nil {
		err = json.Unmarshal(body, &c)
	}
	return c, err
}

// arrivals returns, by row id, the time of the first arrival.
func (r *receiverProcess) arrivals(ctx context.Context) ([]int64, error) {
	body, err := r.call(ctx, http.MethodGet, "/arrivals", nil)
	if err != nil {
		return nil, err
	}
	times := make([]int64, len(body)/8)
	for i := range times {
		times[i] = int64(binary.LittleEndian.Uint64(body[8*i:]))
	}
	return times, nil
}

func (r *receiverProcess) call(ctx context.Context, method, path string, q url.Values) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.control+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}
