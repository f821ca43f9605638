package integration_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rowhook/rowhook/integration/harness"
	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/api"
)

// promise is a test that shares a cluster with others.
type promise struct {
	name string // the database's name is made of it
	test func(t *testing.T, cluster *postgres.Cluster, db string)
}

func runPromises(t *testing.T, o postgres.Options, prefix string, list []promise) {
	t.Helper()
	cluster := postgres.New(t, o)
	for i, p := range list {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.test(t, cluster, fmt.Sprintf("%s%d", prefix, i))
		})
	}
}

func TestDelivery(t *testing.T) {
	runPromises(t, postgres.Options{Settings: map[string]string{"max_replication_slots": "60", "max_wal_senders": "60"}}, "delivery", []promise{
		{"a full log stops the reading, keeps the connection, and recovers", fullLogStops},
		{"a full log that expires keeps what the dead deliveries were", fullLogExpires},
		{"an endpoint that refuses leaves all else alone and is served within two seconds of its return", deadEndpointRefuses},
		{"an endpoint that hangs leaves all else alone and is served within two seconds of its return", deadEndpointHangs},
		{"an endpoint that swallows all that may be under way is served within two seconds of its return", deadEndpointSwallows},
		{"a slow key does not hold others, and keeps its own order", slowKey},
		{"the retry schedule outlives a crash", retryOutlivesCrash},
		{"retry-after holds the endpoint", retryAfter},
		{"410 disables and holds, enable releases in order", goneHolds},
		{"attempts used up make a dead letter that a person retries", deadLetter},
		{"misbehaving receivers cost an attempt and nothing else", hostileReceivers},
		{"proxies of the environment are ignored", proxiesIgnored},
		{"several secrets all sign", severalSecrets},
		{"the body has the fields of the wire", wireFields},
		{"truncate is a barrier", truncateBarrier},
		{"a key change belongs to both keys", keyChange},
		{"a vanished sink holds its deliveries and gets them when it is back", vanishedSink},
		{"order strict sends one at a time", orderStrict},
		{"order none waits for nothing", orderNone},
		{"on_failure park goes on within the key", parkGoesOn},
		{"on_failure block_endpoint holds everything", blockEndpoint},
	})
}

type row struct {
	ID int    `json:"id"`
	V  string `json:"v"`
}

func rowOf(q *harness.Request) row {
	var r row
	_ = json.Unmarshal(q.Data, &r) // a truncate has none
	return r
}

// story returns the accepted events as id and value, in order.
func story(hook *harness.Receiver) []string {
	var out []string
	for _, q := range hook.Events() {
		r := rowOf(q)
		out = append(out, fmt.Sprintf("%d%s", r.ID, r.V))
	}
	return out
}

func waitStory(t *testing.T, hook *harness.Receiver, want ...string) {
	t.Helper()
	hook.WaitCount(len(want))
	if got := story(hook); !slices.Equal(got, want) {
		t.Errorf("the order is %v, want %v", got, want)
	}
}

var unavailable = harness.Reply{Status: http.StatusServiceUnavailable}

// failing answers 503 the first n times that it is asked about a row.
func failing(id, n int) func(*harness.Request) harness.Reply {
	return func(q *harness.Request) harness.Reply {
		if rowID(q) == id && n > 0 {
			n--
			return unavailable
		}
		return harness.Reply{}
	}
}

func slowKey(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	others := 0
	s.hook.Handle(func(q *harness.Request) harness.Reply {
		if rowID(q) != 1 {
			others++
		} else if others < 30 {
			return unavailable // until all others have come, which never happens when it holds them
		}
		return harness.Reply{}
	})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, 'a'); UPDATE items SET v = 'b'; UPDATE items SET v = 'c'")
	for id := 2; id <= 31; id++ {
		s.put(id)
	}
	s.hook.WaitCount(33)
	var got []string
	for _, q := range s.hook.Events() {
		if r := rowOf(q); r.ID == 1 {
			got = append(got, r.V)
		}
	}
	if !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("the slow key got %v", got)
	}
}

func retryOutlivesCrash(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{sinkMore: "retry {\n initial = \"4s\"\n jitter = 0\n max_attempts = 3\n}"})
	s.hook.Handle(failing(1, 1))
	s.d.StartReady()
	s.put(1)
	s.hook.WaitRequests(1)
	var planned time.Time
	s.eventually(func() error {
		list := readJSON[api.Deliveries](s, "deliveries", "list", "--state", "retrying").Deliveries
		if len(list) != 1 || list[0].Attempts != 1 || list[0].Next.IsZero() || list[0].Status != 503 || list[0].Class != "status_5xx" {
			return fmt.Errorf("retrying: %+v", list)
		}
		planned = list[0].Next
		return nil
	})
	s.d.Kill9()
	s.d.StartReady()
	list := readJSON[api.Deliveries](s, "deliveries", "list", "--state", "retrying").Deliveries
	if len(list) != 1 || !list[0].Next.Equal(planned) {
		t.Errorf("after the crash: %+v, want the next attempt at %s", list, planned)
	}
	s.put(2)
	s.expect(1, 2)
	all := s.hook.Requests()
	if len(all) != 3 || rowID(all[1]) != 2 {
		t.Fatalf("%d requests; the second is of row %d", len(all), rowID(all[1]))
	}
	again := all[2]
	if again.At.Before(planned) || again.Attempt != 2 || again.ID != all[0].ID {
		t.Errorf("attempt %d of %s at %s, planned for %s; the first was of %s", again.Attempt, again.ID, again.At, planned, all[0].ID)
	}
}

func retryAfter(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{sinkMore: "retry {\n initial = \"10ms\"\n max = \"10ms\"\n}"})
	asked := false
	s.hook.Handle(func(q *harness.Request) harness.Reply {
		if !asked {
			asked = true
			return harness.Reply{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"2"}}}
		}
		return harness.Reply{}
	})
	s.d.StartReady()
	s.put(1)
	s.hook.WaitRequests(1)
	s.put(2, 3)
	s.expect(1, 2, 3)
	first := s.hook.Requests()[0]
	for _, q := range s.hook.Requests()[1:] {
		if d := q.At.Sub(first.At); d < 1990*time.Millisecond {
			t.Errorf("row %d came %s after the request to wait 2 s", rowID(q), d)
		}
	}
}

func goneHolds(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	gone := func(*harness.Request) harness.Reply { return harness.Reply{Status: http.StatusGone} }
	s.hook.Handle(gone)
	s.d.StartReady()
	disabled := func() {
		t.Helper()
		s.eventually(func() error {
			list := readJSON[api.Endpoints](s, "endpoints", "list").Endpoints
			if len(list) != 1 || list[0].Status != "disabled" || !strings.Contains(list[0].Reason, "410") {
				return fmt.Errorf("endpoints: %+v", list)
			}
			return nil
		})
	}
	s.exec("INSERT INTO items VALUES (1, 'a')")
	disabled()
	s.exec("UPDATE items SET v = 'b'; UPDATE items SET v = 'c'")
	s.put(2)
	s.eventually(func() error {
		if e := s.endpoint("hook"); e.Held != 1 || e.Behind == 0 {
			return fmt.Errorf("%d held, behind by %d", e.Held, e.Behind)
		}
		return nil
	})
	s.d.Kill9()
	s.hook.Handle(harness.OK)
	s.d.StartReady()
	disabled()
	contains(t, "the held deliveries", s.must("deliveries", "list", "--state", "held"), "held", "410")
	if n := len(s.hook.Requests()); n != 1 {
		t.Errorf("%d requests at an endpoint that is gone", n)
	}
	if out := s.must("endpoints", "enable", "hook"); !strings.Contains(out, "hook is active") {
		t.Error(out)
	}
	s.hook.WaitCount(4)
	if got := slices.DeleteFunc(story(s.hook), func(e string) bool { return e == "2x" }); !slices.Equal(got, []string{"1a", "1b", "1c"}) {
		t.Errorf("released as %v", got)
	}
	// And the same on a stopped daemon.
	s.hook.Forget()
	s.must("endpoints", "disable", "hook", "--reason", "maintenance")
	s.exec("UPDATE items SET v = 'd' WHERE id = 1; UPDATE items SET v = 'e' WHERE id = 1")
	s.untilSourceThat("has read all", func(src *api.SourceStatus) bool { return src.Changes >= 2 })
	s.d.Term()
	contains(t, "a stopped daemon's endpoints", s.must("endpoints", "list"), "disabled", "maintenance")
	if n := len(s.hook.Requests()); n != 0 {
		t.Errorf("%d requests at a disabled endpoint", n)
	}
	s.must("endpoints", "enable", "hook")
	s.d.StartReady()
	waitStory(t, s.hook, "1d", "1e")
	if bad := s.command("endpoints", "enable", "hoook"); bad.Code != 1 || !strings.Contains(bad.Stderr, "hoook") {
		t.Errorf("an unknown endpoint: %+v", bad)
	}
}

func deadLetter(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{sinkMore: "retry {\n initial = \"50ms\"\n max_attempts = 2\n}"})
	s.hook.Handle(func(q *harness.Request) harness.Reply {
		if rowOf(q).V == "bad" {
			return harness.Reply{Status: http.StatusInternalServerError, Body: []byte("database is on fire")}
		}
		return harness.Reply{}
	})
	s.d.StartReady()
	dead := func(n int) []api.Delivery {
		t.Helper()
		var list []api.Delivery
		s.eventually(func() error {
			list = readJSON[api.Deliveries](s, "deliveries", "list", "--endpoint", "hook", "--state", "dead").Deliveries
			if len(list) != n {
				return fmt.Errorf("%d dead deliveries, want %d: %+v", len(list), n, list)
			}
			return nil
		})
		return list
	}
	s.exec("INSERT INTO items VALUES (1, 'bad'); UPDATE items SET v = 'good'")
	waitStory(t, s.hook, "1good") // the key goes on after a death
	one := dead(1)[0]
	if one.Attempts != 2 || one.Status != 500 || one.Class != "status_5xx" || one.Type != "item" {
		t.Errorf("dead: %+v", one)
	}
	show := s.must("deliveries", "show", one.Event)
	contains(t, "deliveries show", show, "hook: dead", "database is on fire", "500 status_5xx")
	detail := readJSON[api.DeliveryDetails](s, "deliveries", "show", one.Event, "--endpoint", "hook").Deliveries
	if len(detail) != 1 || len(detail[0].Log) != 2 || detail[0].Log[1].N != 2 {
		t.Errorf("attempts: %+v", detail)
	}
	good := s.hook.Events()[0].ID
	s.recorded("hook", 1)
	if bad := s.command("deliveries", "retry", good, "--endpoint", "hook"); bad.Code != 1 || !strings.Contains(bad.Stderr, "only a dead one can be retried") && !strings.Contains(bad.Stderr, "not found") {
		t.Errorf("retry of what is delivered: %+v", bad)
	}
	s.hook.Handle(harness.OK)
	contains(t, "retry", s.must("deliveries", "retry", one.Event, "--endpoint", "hook"), "1 dead delivery of hook")
	s.hook.WaitCount(2)
	last := s.hook.Events()[1]
	if last.ID != one.Event || last.Header.Get("rowhook-replay") == "" {
		t.Errorf("retried: %s, marked %q; want %s", last.ID, last.Header.Get("rowhook-replay"), one.Event)
	}
	dead(0)

	// On the store of a stopped daemon.
	s.hook.Forget()
	s.hook.Handle(func(*harness.Request) harness.Reply { return harness.Reply{Status: http.StatusBadGateway} })
	s.put(2, 3)
	dead(2)
	s.hook.Handle(harness.OK)
	s.d.Term()
	list := dead(2)
	contains(t, "deliveries show", s.must("deliveries", "show", list[0].Event), "hook: dead", "502 status_5xx")
	contains(t, "retry", s.must("deliveries", "retry", "--endpoint", "hook", "--all-dead"), "2 dead deliveries of hook")
	if n := len(s.hook.Events()); n != 0 {
		t.Errorf("%d events from a stopped daemon", n)
	}
	s.d.StartReady()
	s.expect(2, 3)
	dead(0)
}

// withOther is a shop with a second sink that has slow retries, so that only the way back of an
// endpoint explains that it is served soon.
func withOther(t *testing.T, cluster *postgres.Cluster, db string, more ...string) (*shop, *harness.Receiver) {
	t.Helper()
	hook, other := harness.NewReceiver(t), harness.NewReceiver(t)
	more = append(more, "retry {\n initial = \"30s\"\n max = \"30s\"\n}")
	s := newShop(t, cluster, db, shopOptions{sinks: sinkTo("hook", hook.URL) + sinkTo("other", other.URL, more...)})
	s.hook = hook
	return s, other
}

// leavesAlone puts rows while the other endpoint is dead and sees everything else go on.
func leavesAlone(s *shop, from, to int) {
	s.t.Helper()
	var ids []int
	for id := from; id <= to; id++ {
		ids = append(ids, id)
	}
	s.put(ids...)
	at := s.wal()
	s.expect(ids...)
	s.eventually(func() error {
		if cf := s.confirmed(); cf < at {
			return fmt.Errorf("confirmed up to %s, and the rows end at %s", cf, at)
		}
		return nil
	})
	s.untilSource(api.SourceStreaming)
}

// back waits for the first event at a receiver that works again since the given time.
func back(t *testing.T, other *harness.Receiver, since time.Time) {
	t.Helper()
	other.Wait(harness.Patience, func() error {
		if other.Count() == 0 {
			return fmt.Errorf("nothing came")
		}
		return nil
	})
	if d := other.Events()[0].At.Sub(since); d > 2*time.Second {
		t.Errorf("the first delivery followed %s after the return", d)
	}
}

func deadEndpointRefuses(t *testing.T, cluster *postgres.Cluster, db string) {
	s, other := withOther(t, cluster, db)
	other.Down()
	s.d.StartReady()
	leavesAlone(s, 1, 100)
	s.eventually(func() error {
		if e := s.endpoint("other"); e.Breaker.State == api.BreakerClosed || e.Behind == 0 {
			return fmt.Errorf("other: %+v", e)
		}
		return nil
	})
	contains(t, "status", s.must("status"), "other", "unreachable")
	since := time.Now()
	other.Up()
	back(t, other, since)
	var all []int
	for id := 1; id <= 100; id++ {
		all = append(all, id)
	}
	expectAt(t, other, all...)
}

func deadEndpointHangs(t *testing.T, cluster *postgres.Cluster, db string) {
	s, other := withOther(t, cluster, db, `timeout = "900ms"`)
	other.Handle(func(*harness.Request) harness.Reply { return harness.Reply{Fault: harness.Hang} })
	s.d.StartReady()
	leavesAlone(s, 1, 40)
	s.eventually(func() error {
		if e := s.endpoint("other"); e.Breaker.State == api.BreakerClosed || e.Attempts["timeout"] < 40 {
			return fmt.Errorf("other: %+v", e)
		}
		return nil
	})
	since := time.Now()
	other.Handle(harness.OK)
	back(t, other, since)
	var all []int
	for id := 1; id <= 40; id++ {
		all = append(all, id)
	}
	expectAt(t, other, all...)
}

func hostileReceivers(t *testing.T, cluster *postgres.Cluster, db string) {
	elsewhere := harness.NewReceiver(t)
	first := map[string]harness.Reply{
		"hang":         {Fault: harness.Hang},
		"drip_headers": {Fault: harness.DripHeaders},
		"drip_body":    {Fault: harness.DripBody, Status: http.StatusInternalServerError},
		"reset":        {Fault: harness.Reset},
		"redirect":     harness.Redirect(elsewhere.URL),
		"huge":         {Fault: harness.HugeBody, Status: http.StatusInternalServerError},
		"huge_ok":      {Fault: harness.HugeBody},
	}
	// The class of the first attempt; "" is success.
	classes := map[string][]string{
		"hang": {"timeout"}, "drip_headers": {"timeout"}, "drip_body": {"status_5xx", "timeout"}, "reset": {"reset"},
		"redirect": {"redirect"}, "huge": {"status_5xx"}, "huge_ok": {""},
	}
	sinks := ""
	hooks := map[string]*harness.Receiver{}
	for name, reply := range first {
		hook := harness.NewReceiver(t)
		hooks[name] = hook
		hook.Handle(func(q *harness.Request) harness.Reply {
			if q.Attempt == 1 {
				return reply
			}
			return harness.Reply{}
		})
		sinks += sinkTo(name, hook.URL, `timeout = "1s"`)
	}
	s := newShop(t, cluster, db, shopOptions{sinks: sinks})
	s.d.StartReady()
	s.put(1)
	for _, hook := range hooks {
		hook.WaitCount(1)
	}
	if n := len(elsewhere.Requests()); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
	event := hooks["hang"].Events()[0].ID
	for name := range hooks {
		s.recorded(name, 1)
		detail := readJSON[api.DeliveryDetails](s, "deliveries", "show", event, "--endpoint", name).Deliveries
		if len(detail) != 1 || detail[0].State != "delivered" || len(detail[0].Log) == 0 {
			t.Errorf("%s: %+v", name, detail)
			continue
		}
		log := detail[0].Log
		if !slices.Contains(classes[name], log[0].Class) {
			t.Errorf("%s: the first attempt is %q, want one of %q", name, log[0].Class, classes[name])
		}
		if want := len(hooks[name].Requests()); len(log) != want || want > 2 {
			t.Errorf("%s: %d attempts on record, %d requests", name, len(log), want)
		}
		if len(log[0].Response) > 64<<10 {
			t.Errorf("%s: %d bytes of the answer are kept", name, len(log[0].Response))
		}
		if log[0].DurationMS > 2000 {
			t.Errorf("%s: an attempt with a deadline of one second took %v ms", name, log[0].DurationMS)
		}
	}
	if kb := peakRSS(t, s.d.PID()); kb > 128<<10 {
		t.Errorf("the daemon took %d KiB of memory", kb)
	}
}

// peakRSS returns the most memory that a process had, in KiB.
func peakRSS(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	var kb int
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb
}

// The name does not exist: only a proxy could take the request. Loopback addresses would show
// nothing, since programs that do heed the variables do not for those.
func proxiesIgnored(t *testing.T, cluster *postgres.Cluster, db string) {
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	var calls atomic.Int64
	go func() {
		for {
			c, err := proxy.Accept()
			if err != nil {
				return
			}
			calls.Add(1)
			_ = c.Close()
		}
	}()
	var env []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		env = append(env, name+"=http://"+proxy.Addr().String())
	}
	s := newShop(t, cluster, db, shopOptions{env: env, sinks: sinkTo("hook", "http://receiver.invalid/hooks")})
	s.d.StartReady()
	s.put(1)
	s.eventually(func() error {
		if e := s.endpoint("hook"); e.Attempts["dns"] == 0 {
			return fmt.Errorf("attempts: %v", e.Attempts)
		}
		return nil
	})
	if n := calls.Load(); n != 0 {
		t.Errorf("the proxy was called %d times", n)
	}
}

func severalSecrets(t *testing.T, cluster *postgres.Cluster, db string) {
	hook := harness.NewReceiver(t, harness.Secret, spareSecret) // wants both
	sink := strings.Replace(sinkTo("hook", hook.URL), `[env("HOOK_SECRET")]`, `[env("HOOK_SECRET"), env("SPARE_SECRET")]`, 1)
	s := newShop(t, cluster, db, shopOptions{sinks: sink})
	s.d.StartReady()
	s.exec(`INSERT INTO items VALUES (1, 'näïve "quoted" \ </script> ☃')`)
	s.put(2)
	expectAt(t, hook, 1, 2)
	for _, secret := range []string{harness.Secret, spareSecret} {
		if err := harness.VerifyInJavaScript(t, secret, hook.Requests()); err != nil {
			t.Errorf("the JavaScript library: %v", err)
		}
	}
	if n := len(strings.Fields(hook.Requests()[0].Header.Get("webhook-signature"))); n != 2 {
		t.Errorf("%d signatures", n)
	}
}

func wireFields(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{rules: `
event "item" {
  table   = "public.items"
  on      = ["insert", "update"]
  version = 3
  tenant  = new.v
  data    = row
}`})
	s.d.StartReady()
	before := time.Now()
	s.exec("INSERT INTO items VALUES (1, 'acme'); INSERT INTO items VALUES (2, 'acme')")
	s.hook.WaitCount(2)
	q := s.hook.Events()[0]
	var body map[string]json.RawMessage
	if err := json.Unmarshal(q.Body, &body); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"id": `"` + q.ID + `"`, "type": `"item"`, "version": "3", "source": `"shop"`, "tenant": `"acme"`,
		"table": `"public.items"`, "op": `"insert"`, "data": fmt.Sprintf(`{"id":%d,"v":"acme"}`, rowID(q)),
	} {
		if got := string(body[name]); strings.ReplaceAll(got, " ", "") != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for _, name := range []string{"timestamp", "key", "sequence"} {
		if len(body[name]) < 3 {
			t.Errorf("%s is %s", name, body[name])
		}
	}
	if len(body) != 11 {
		t.Errorf("there are %d fields: %s", len(body), q.Body)
	}
	if !strings.HasPrefix(q.ID, "evt_") || q.Header.Get("webhook-id") != q.ID || q.Header.Get("content-type") != "application/json" {
		t.Errorf("headers: %v", q.Header)
	}
	if q.Timestamp.Before(before.Add(-time.Second)) || q.Timestamp.After(q.At.Add(time.Second)) {
		t.Errorf("the commit was at %s, and is said to be at %s", before, q.Timestamp)
	}
	events := map[int]*harness.Request{}
	for _, q := range s.hook.Events() {
		events[rowID(q)] = q
	}
	if a, b := events[1].Sequence, events[2].Sequence; a >= b || len(a) != len(b) {
		t.Errorf("sequences %s and %s do not rise", a, b)
	}
	if events[1].Key == events[2].Key {
		t.Errorf("two rows have the key %s", events[1].Key)
	}
}

func truncateBarrier(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{rules: itemRule + `
event "emptied" {
  table = "public.items"
  on    = ["truncate"]
  data  = { table = table }
}`})
	fails := map[int]int{2: 3, 5: 2}
	s.hook.Handle(func(q *harness.Request) harness.Reply {
		if id := rowID(q); q.Type == "item" && fails[id] > 0 {
			fails[id]--
			return unavailable
		}
		return harness.Reply{}
	})
	s.d.StartReady()
	s.put(1, 2, 3, 4, 5)
	s.exec("TRUNCATE items")
	s.put(1, 2, 3, 4, 5)
	s.hook.WaitCount(11)
	if q := s.hook.Events()[5]; q.Type != "emptied" {
		var types []string
		for _, q := range s.hook.Events() {
			types = append(types, q.Type)
		}
		t.Errorf("the truncate is not between what was before and after it: %v", types)
	}
}

func keyChange(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{})
	// The row leaves key 1 for key 9, and both keys go on: nothing overtakes.
	first := 2
	s.hook.Handle(func(q *harness.Request) harness.Reply {
		if r := rowOf(q); r.V == "a" && first > 0 || r.V == "moved" && q.Attempt == 1 {
			first--
			return unavailable
		}
		return harness.Reply{}
	})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, 'a'); UPDATE items SET id = 9, v = 'moved'")
	s.exec("UPDATE items SET v = 'after' WHERE id = 9; INSERT INTO items VALUES (1, 'new')")
	s.hook.WaitCount(4)
	got := story(s.hook)
	if !slices.Equal(got[:2], []string{"1a", "9moved"}) {
		t.Errorf("the order is %v", got)
	}
}

func vanishedSink(t *testing.T, cluster *postgres.Cluster, db string) {
	hook, other := harness.NewReceiver(t), harness.NewReceiver(t)
	rules := strings.ReplaceAll(shopSource, "SLOT", "rowhook_"+db) + itemRule
	both := sinkTo("hook", hook.URL) + sinkTo("other", other.URL)
	s := newShop(t, cluster, db, shopOptions{sinks: both})
	other.Handle(func(*harness.Request) harness.Reply { return unavailable })
	s.d.StartReady()
	s.put(1, 2, 3)
	expectAt(t, hook, 1, 2, 3)
	other.WaitRequests(3)
	s.d.Term()
	s.d.SetRules(rules + sinkTo("hook", hook.URL))
	s.d.StartReady()
	s.put(4)
	expectAt(t, hook, 1, 2, 3, 4)
	e := s.endpoint("other")
	if e.Status != "vanished" || e.Held != 3 {
		t.Errorf("other is %s with %d held", e.Status, e.Held)
	}
	contains(t, "the log", s.d.Log(), "no longer in the configuration")
	s.d.Term()
	other.Forget()
	other.Handle(harness.OK)
	s.d.SetRules(rules + both)
	s.d.StartReady()
	s.put(5)
	expectAt(t, hook, 1, 2, 3, 4, 5)
	expectAt(t, other, 1, 2, 3, 5) // 4 was made while there was no such sink
	if e := s.endpoint("other"); e.Status != "active" {
		t.Errorf("other is %s", e.Status)
	}
}

func orderStrict(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{sinkMore: `order = "strict"`})
	s.hook.Handle(failing(2, 3))
	s.d.StartReady()
	s.put(1, 2, 3, 4, 5)
	waitStory(t, s.hook, "1x", "2x", "3x", "4x", "5x")
	if n := len(s.hook.Requests()); n != 8 {
		t.Errorf("%d requests for five events and three failures: something went beside", n)
	}
}

func orderNone(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{sinkMore: `order = "none"`})
	overtaken := false
	s.hook.Handle(func(q *harness.Request) harness.Reply {
		if v := rowOf(q).V; v == "b" {
			overtaken = true
		} else if v == "a" && !overtaken {
			return unavailable
		}
		return harness.Reply{}
	})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, 'a'); UPDATE items SET v = 'b'")
	waitStory(t, s.hook, "1b", "1a")
}

func parkGoesOn(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{sinkMore: `on_failure = "park"`})
	var tried, overtaken bool
	s.hook.Handle(func(q *harness.Request) harness.Reply {
		switch v := rowOf(q).V; {
		case v == "b" && !tried:
			t.Error("the second went before the first was tried")
		case v == "b":
			overtaken = true
		case !overtaken:
			tried = true
			return unavailable
		}
		return harness.Reply{}
	})
	s.d.StartReady()
	s.exec("INSERT INTO items VALUES (1, 'a'); UPDATE items SET v = 'b'")
	waitStory(t, s.hook, "1b", "1a")
}

func blockEndpoint(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{sinkMore: `on_failure = "block_endpoint"`})
	s.hook.Handle(failing(1, 4))
	s.d.StartReady()
	s.put(1)
	s.hook.WaitRequests(1)
	// The endpoint is blocked once the failure is on record.
	s.eventually(func() error {
		if e := s.endpoint("hook"); e.Retrying != 1 {
			return fmt.Errorf("%d retrying", e.Retrying)
		}
		return nil
	})
	s.put(2, 3)
	s.expect(1, 2, 3)
	for i, q := range s.hook.Requests()[:5] {
		if rowID(q) != 1 {
			t.Errorf("request %d is of row %d, and row 1 was not delivered", i, rowID(q))
		}
	}
}

// fill inserts about two MiB that do not compress, beginning with an id.
func (s *shop) fill(from int) {
	s.t.Helper()
	s.exec(fmt.Sprintf(`INSERT INTO items SELECT i, (SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 300) j) FROM generate_series(%d, %d) i`, from, from+199))
}

func fullLogStops(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{settings: "log {\n max_size = \"1MiB\"\n}"})
	s.hook.Down()
	s.d.StartReady()
	s.fill(1)
	src := s.untilSource(api.SourcePaused)
	contains(t, "the reason", src.Reason, "the log holds", "max_size")
	if st := s.status(); !st.Log.Full || st.Log.MaxBytes != 1<<20 {
		t.Errorf("log: %+v", st.Log)
	}
	if full, err := s.d.Metric("rowhook_log_full"); err != nil || full != 1 {
		t.Errorf("rowhook_log_full is %v, %v", full, err)
	}
	status, body, err := s.d.Get("/readyz")
	if err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d, %v", status, err)
	}
	contains(t, "/readyz", body, "paused")
	s.put(1001)
	at := s.wal()
	pid := s.walsender()
	// The server hears of us while nothing is read: two replies after now.
	for range 2 {
		now := s.ask("SELECT clock_timestamp()::text")
		s.eventually(func() error {
			if s.ask("SELECT (reply_time > $1::timestamptz)::text FROM pg_stat_replication WHERE pid = "+pid, now) != "true" {
				return fmt.Errorf("the server hears nothing")
			}
			return nil
		})
	}
	if cf := s.confirmed(); cf >= at {
		t.Errorf("confirmed up to %s, and what is at %s cannot have been stored", cf, at)
	}
	s.hook.Up()
	s.untilSource(api.SourceStreaming)
	s.hook.Wait(harness.Patience, func() error {
		if n := s.hook.Count(); n < 201 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	if s.walsender() != pid {
		t.Error("the connection was lost meanwhile")
	}
	contains(t, "the log", s.d.Log(), "the log is full, reading stops", "the log has room again")
}

// walsender returns the process of the server that sends to the shop's slot.
func (s *shop) walsender() string {
	s.t.Helper()
	var pid string
	s.eventually(func() error {
		if pid = s.ask("SELECT COALESCE(max(active_pid), 0)::text FROM pg_replication_slots WHERE slot_name = $1", "rowhook_"+s.name); pid == "0" {
			return fmt.Errorf("nobody reads the slot")
		}
		return nil
	})
	return pid
}

func fullLogExpires(t *testing.T, cluster *postgres.Cluster, db string) {
	s := newShop(t, cluster, db, shopOptions{settings: "log {\n max_size = \"1MiB\"\n on_full = \"expire\"\n}"})
	s.hook.Down()
	s.d.StartReady()
	s.fill(1)
	var list []api.Delivery
	s.eventually(func() error {
		list = readJSON[api.Deliveries](s, "deliveries", "list", "--state", "dead", "-n", "1000").Deliveries
		if len(list) == 0 {
			return fmt.Errorf("nothing is dead")
		}
		return nil
	})
	for _, d := range list {
		if _, err := relay.ParseEventID(d.Event); err != nil || d.Class != "expired" || d.Type != "item" || d.Endpoint != "hook" || !strings.Contains(d.Error, "on_full") {
			t.Fatalf("dead: %+v", d)
		}
	}
	contains(t, "deliveries show", s.must("deliveries", "list", "--state", "dead"), "expired", "item")
	s.eventually(func() error {
		if n, err := s.d.Metric("rowhook_log_bytes"); err != nil || n > 1<<20 {
			return fmt.Errorf("the log has %v bytes, %w", n, err)
		}
		return nil
	})
	s.hook.Up()
	s.put(1001)
	s.hook.Wait(harness.Patience, func() error {
		if ids := idsAt(s.hook); !slices.Contains(ids, 1001) {
			return fmt.Errorf("%d events came, not the last", len(ids))
		}
		return nil
	})
	s.untilSource(api.SourceStreaming)
	// Every event is either delivered or a dead letter that a person sees.
	s.eventually(func() error {
		dead := readJSON[api.Deliveries](s, "deliveries", "list", "--state", "dead", "-n", "1000").Deliveries
		if n := s.hook.Count() + len(dead); n < 201 {
			return fmt.Errorf("%d delivered, %d dead, of 201", s.hook.Count(), len(dead))
		}
		return nil
	})
}

// Every attempt that is allowed at once hangs, and hangs for much longer than two seconds.
func deadEndpointSwallows(t *testing.T, cluster *postgres.Cluster, db string) {
	hook, other := harness.NewReceiver(t), harness.NewReceiver(t)
	other.Handle(func(*harness.Request) harness.Reply { return harness.Reply{Fault: harness.Hang} })
	s := newShop(t, cluster, db, shopOptions{sinks: sinkTo("hook", hook.URL) +
		sinkTo("other", other.URL, `timeout = "6s"`, "max_in_flight = 30", "retry {\n initial = \"100ms\"\n max = \"100ms\"\n max_attempts = 500\n}")})
	s.hook = hook
	s.d.StartReady()
	leavesAlone(s, 1, 60)
	other.WaitRequests(45) // the first 30 have timed out, and the next hang
	other.Handle(harness.OK)
	since := time.Now()
	back(t, other, since)
}
