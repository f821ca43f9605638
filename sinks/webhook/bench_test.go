//go:build unix

package webhook

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

const receiverEnv = "ROWHOOK_BENCH_RECEIVER"

func TestMain(m *testing.M) {
	if os.Getenv(receiverEnv) != "" {
		benchReceiver()
		return
	}
	os.Exit(m.Run())
}

// benchReceiver answers 204 until its standard input ends.
func benchReceiver() {
	l := listen(nil)
	fmt.Println(l.Addr())
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:errcheck // ends with the process
		io.Copy(io.Discard, r.Body) //nolint:errcheck // the sender sees it
		w.WriteHeader(http.StatusNoContent)
	}))
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck // its end is what counts
}

// startReceiver runs the receiver as another process, so that the CPU time of
// this one is the sender's.
func startReceiver(b *testing.B) string {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), receiverEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		cmd.Wait() //nolint:errcheck // it is no longer needed
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return "http://" + address[:len(address)-1] + "/hooks"
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u) //nolint:errcheck // it has no way to fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchEvent() *relay.Event {
	e := testEvent()
	e.Data = []byte(`{"order_id":42,"note":"` + string(bytes.Repeat([]byte("x"), 350)) + `"}`)
	return e
}

// parallel runs send in 64 goroutines and reports the CPU time of one.
func parallel(b *testing.B, send func()) {
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			send()
		}
	})
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/op")
}

func BenchmarkSend(b *testing.B) {
	s, err := New(Config{URL: relay.NewSecret(startReceiver(b)), Secrets: []relay.Secret{NewSecret()}, AllowPrivate: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e := benchEvent()
	parallel(b, func() {
		d := relay.Delivery{Event: e, Attempt: 1}
		if out := s.Send(ctx, &d); out.Result != relay.Delivered {
			b.Error(out)
		}
	})
}

// BenchmarkNetHTTP is the yardstick: the same request through net/http, its
// body and signature made once.
func BenchmarkNetHTTP(b *testing.B) {
	url := startReceiver(b)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
	body := AppendBody(nil, benchEvent())
	stamp := time.Now().Unix()
	signature := Sign("evt_x", stamp, body, mustKeys(b, NewSecret().Reveal()))
	parallel(b, func() {
		req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			b.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(HeaderID, "evt_x")
		req.Header.Set(HeaderTimestamp, strconv.FormatInt(stamp, 10))
		req.Header.Set(HeaderSignature, signature)
		res, err := client.Do(req)
		if err != nil {
			b.Error(err)
			return
		}
		io.Copy(io.Discard, res.Body) //nolint:errcheck // the status is what counts
		res.Body.Close()
	})
}

// BenchmarkBuild is what of BenchmarkSend is body, signature and head.
func BenchmarkBuild(b *testing.B) {
	s, err := New(Config{URL: relay.NewSecret("http://127.0.0.1/hooks"), Secrets: []relay.Secret{NewSecret()}, AllowPrivate: true})
	if err != nil {
		b.Fatal(err)
	}
	req := s.newRequest()
	d := &relay.Delivery{Event: benchEvent(), Attempt: 1}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		req.build(s, d, now)
	}
}
