package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// TestMain also plays a daemon: one that is ready when it is asked for the second time, and ends
// with 7 on SIGTERM.
func TestMain(m *testing.M) {
	if addr := os.Getenv("ROWHOOK_TEST_DAEMON"); addr != "" {
		fakeDaemon()
	}
	os.Exit(m.Run())
}

func fakeDaemon() {
	if os.Args[1] != "run" {
		fmt.Println(strings.Join(os.Args[1:], " "))
		os.Exit(3)
	}
	config, err := os.ReadFile(filepath.Join(os.Args[3], "daemon.hcl"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, rest, _ := strings.Cut(string(config), `listen   = "`)
	addr, _, _ := strings.Cut(rest, `"`)
	asked := 0
	go func() {
		_ = http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked++; r.URL.Path == "/readyz" && asked == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			fmt.Fprintln(w, `rowhook_seen_total{rule="a",op="x"} 2`)
			fmt.Fprintln(w, `rowhook_seen_total{rule="a",op="y"} 3`)
			fmt.Fprintln(w, `rowhook_seen_total{rule="b",op="y"} 5`)
			fmt.Fprintln(w, `rowhook_seen_total_more 100`)
		}))
	}()
	fmt.Println("fake daemon started, database", os.Getenv("DATABASE_URL"))
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	os.Exit(7)
}

func TestDaemon_StartsDiesAndComesBackAtOneAddress(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := NewDaemon(t, DaemonOptions{Binary: exe, Env: []string{"ROWHOOK_TEST_DAEMON=1"}, DatabaseURL: "postgres://here"})
	d.StartReady()
	pid := d.PID()
	d.WaitLog("database postgres://here")
	if v, err := d.Metric("rowhook_seen_total", `rule="a"`); err != nil || v != 5 {
		t.Errorf("metric: %v, %v", v, err)
	}
	if _, err := d.Metric("rowhook_seen_total", `rule="c"`); err == nil {
		t.Error("a metric without samples is no error")
	}
	if res := d.Command("status", "-c", "CONFIG"); res.Code != 3 || res.Stdout != "status -c "+d.configDir()+"\n" {
		t.Errorf("command: %+v", res)
	}
	d.Kill9()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the daemon is still there: %v", err)
	}
	d.StartReady()
	if code := d.Term(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	if n := strings.Count(d.Log(), "fake daemon started"); n != 2 {
		t.Errorf("the log has %d starts, want 2", n)
	}
}

// post sends a webhook as rowhook would.
func post(t *testing.T, url, secret, id, body string) (*http.Response, error) {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signature, err := wh.Sign(id, now, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
	req.Header.Set("webhook-signature", signature)
	req.Header.Set(AttemptHeader, "2")
	client := http.Client{Timeout: 5 * time.Second}
	return client.Do(req)
}

const event = `{"id":"evt_1","type":"order.paid","source":"shop","key":"k1","sequence":"0001","timestamp":"2026-01-02T03:04:05Z","data":{"n":1}}`

func TestReceiver_RemembersAndCountsAnEventOnce(t *testing.T) {
	r := NewReceiver(t)
	fail := true
	r.Handle(func(q *Request) Reply {
		if fail {
			fail = false
			return Reply{Status: 503, Header: http.Header{"Retry-After": {"1"}}}
		}
		return Reply{}
	})
	for i, want := range []int{503, 204, 204} {
		resp, err := post(t, r.URL, Secret, "evt_1", event)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("request %d was answered %d, want %d", i, resp.StatusCode, want)
		}
	}
	r.WaitCount(1)
	r.WaitRequests(3)
	q := r.Events()[0]
	if q.N != 1 || q.ID != "evt_1" || q.Type != "order.paid" || q.Key != "k1" || q.Sequence != "0001" || q.Attempt != 2 || string(q.Data) != `{"n":1}` {
		t.Errorf("request: %+v", q)
	}
}

func TestReceiver_TakesNoBadSignature(t *testing.T) {
	r := NewReceiver(t, Secret, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	resp, err := post(t, r.URL, Secret, "evt_1", event) // signed by one secret of two
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized || len(r.Requests()) != 0 {
		t.Errorf("answered %d, %d requests", resp.StatusCode, len(r.Requests()))
	}
	if r.TakeWrong() == nil {
		t.Error("the test would not fail for a bad signature")
	}
}

func TestReceiver_ComesBackWhereItWas(t *testing.T) {
	r := NewReceiver(t)
	r.Down()
	if _, err := post(t, r.URL, Secret, "evt_1", event); err == nil {
		t.Error("a receiver that is down answered")
	}
	r.Up()
	resp, err := post(t, r.URL, Secret, "evt_1", event)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	r.WaitCount(1)
}

func TestReceiver_Faults(t *testing.T) {
	// What a client with a deadline of 300 ms sees of each.
	client := func(url string) (head int, n int64, err error) {
		wh, err := standardwebhooks.NewWebhook(Secret)
		if err != nil {
			return 0, 0, err
		}
		now := time.Now()
		signature, err := wh.Sign("evt_1", now, []byte(event))
		if err != nil {
			return 0, 0, err
		}
		req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(event))
		if err != nil {
			return 0, 0, err
		}
		req.Header.Set("webhook-id", "evt_1")
		req.Header.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
		req.Header.Set("webhook-signature", signature)
		c := http.Client{Timeout: 300 * time.Millisecond}
		resp, err := c.Do(req)
		if err != nil {
			return 0, 0, err
		}
		defer resp.Body.Close()
		n, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, n, err
	}
	timedOut := func(err error) bool {
		var e net.Error
		return errors.As(err, &e) && e.Timeout()
	}
	for name, c := range map[string]struct {
		fault Fault
		fits  func(head int, n int64, err error) bool
	}{
		"hang":         {Hang, func(head int, _ int64, err error) bool { return head == 0 && timedOut(err) }},
		"reset":        {Reset, func(head int, _ int64, err error) bool { return head == 0 && errors.Is(err, syscall.ECONNRESET) }},
		"drip headers": {DripHeaders, func(head int, _ int64, err error) bool { return head == 0 && timedOut(err) }},
		"drip body":    {DripBody, func(head int, n int64, err error) bool { return head == 200 && n > 0 && timedOut(err) }},
		"huge body":    {HugeBody, func(head int, n int64, _ error) bool { return head == 200 && n > 1<<20 }},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReceiver(t)
			r.Handle(func(*Request) Reply { return Reply{Fault: c.fault} })
			head, n, err := client(r.URL)
			if !c.fits(head, n, err) {
				t.Errorf("the client saw status %d, %d bytes, %v", head, n, err)
			}
			if got := len(r.Requests()); got != 1 {
				t.Errorf("%d requests", got)
			}
		})
	}
}

func TestEventually_IsPatientAndNotForEver(t *testing.T) {
	n := 0
	Eventually(t, time.Second, func() error {
		if n++; n < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	var said bytes.Buffer
	failed := make(chan struct{})
	go func() {
		defer close(failed)
		Eventually(&recorder{TB: t, out: &said}, 20*time.Millisecond, func() error { return errors.New("the last word") })
	}()
	<-failed
	if !strings.Contains(said.String(), "the last word") {
		t.Errorf("it said %q", said.String())
	}
}

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	out io.Writer
}

func (*recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	fmt.Fprintf(r.out, format, args...)
	runtime.Goexit()
}

func TestVerifyInJavaScript_KnowsGoodFromBad(t *testing.T) {
	r := NewReceiver(t)
	resp, err := post(t, r.URL, Secret, "evt_1", event)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	requests := r.Requests()
	if err := VerifyInJavaScript(t, Secret, requests); err != nil {
		t.Error(err)
	}
	requests[0].Body = append(requests[0].Body, ' ')
	if err := VerifyInJavaScript(t, Secret, requests); err == nil || !strings.Contains(err.Error(), "evt_1") {
		t.Errorf("a changed body is verified: %v", err)
	}
}
