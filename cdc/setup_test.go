package cdc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/relay"
)

func TestIsTemporary(t *testing.T) {
	server := func(code string) error { return fmt.Errorf("stream: %w", &pgconn.PgError{Code: code}) }
	for _, err := range []error{
		server("57P01"), server("57P03"), server("55006"), server("55P03"), server("53300"), server("08006"), server("40001"),
		io.EOF, fmt.Errorf("receive: %w", io.ErrUnexpectedEOF), net.ErrClosed, context.DeadlineExceeded,
		&net.OpError{Op: "dial", Err: errors.New("connection refused")}, &net.DNSError{Err: "no such host"}, &temporaryError{msg: "later"},
	} {
		if !IsTemporary(err) {
			t.Errorf("%v is not temporary", err)
		}
	}
	for _, err := range []error{
		nil, errors.New("other"), server("42704"), server("55000"), server("28P01"), server("22021"), server("53400"), server("58P01"), server("08P01"),
		&SetupError{Summary: "x", Err: io.EOF}, &DecodeError{Kind: 'w'}, byHandler(io.EOF), fmt.Errorf("x: %w", ErrSlotLost), context.Canceled,
	} {
		if IsTemporary(err) {
			t.Errorf("%v is temporary", err)
		}
	}
}

func TestSetupError_SaysWhatToRun(t *testing.T) {
	err := &SetupError{Summary: "no", Detail: "because", SQL: []string{"A;", "B;"}, Err: io.EOF}
	if got := err.Error(); got != "no: EOF; because; run: A; B;" || !errors.Is(err, io.EOF) {
		t.Error(got)
	}
}

func TestSetupErrors_SayAllAtOnce(t *testing.T) {
	st := &ServerState{Version: 150000, WALLevel: "replica", MaxSenders: 10, MaxSlots: 10, User: "app"}
	got := setupErrors(st.problems()).Error()
	for _, want := range []string{"wal_level is replica", `the role "app" may not replicate`, "run: ALTER SYSTEM SET wal_level = 'logical'; ALTER ROLE \"app\" WITH REPLICATION;"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
}

// pgconn tries each address with TLS and without, and says so on lines.
func TestConnectError_IsOneLine(t *testing.T) {
	const head, tls = "failed to connect to `user=app database=shop`:", "\n\t127.0.0.1:1 (127.0.0.1): tls error: server refused TLS connection"
	const refused = "\n\t127.0.0.1:1 (127.0.0.1): dial error: connection refused"
	for text, want := range map[string]string{
		head + refused + refused:                                     head + " 127.0.0.1:1 (127.0.0.1): dial error: connection refused",
		head + tls + "\n\t127.0.0.1:1 (127.0.0.1): server error: no": head + " 127.0.0.1:1 (127.0.0.1): server error: no",
		head + tls:                   head + " 127.0.0.1:1 (127.0.0.1): tls error: server refused TLS connection",
		"one line without addresses": "one line without addresses",
	} {
		cause := errors.New(text)
		got := connectError("connect", cause)
		if got.Error() != "connect: "+want || !errors.Is(got, cause) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// D5: names are carried raw, and quoted twice where a literal holds them.
func TestStartCommand_Quotes(t *testing.T) {
	got := startCommand("1slot", `My"Pub's,x`, 0x16B374D848)
	if want := `START_REPLICATION SLOT "1slot" LOGICAL 16/B374D848 (proto_version '1', publication_names '"My""Pub''s,x"', messages 'true')`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// B3
func TestValidSlotName(t *testing.T) {
	for _, name := range []string{"1slot", "select", "a_b", strings.Repeat("x", 63)} {
		if !ValidSlotName(name) {
			t.Errorf("%q is refused", name)
		}
	}
	for _, name := range []string{"", "My-Slot", "Slot", "slöt", "a b", "a\n", strings.Repeat("x", 64)} {
		if ValidSlotName(name) {
			t.Errorf("%q is taken", name)
		}
	}
	if err := (&Stream{Slot: "My-Slot"}).Run(t.Context(), 1, nil); !isSetup(err) {
		t.Errorf("stream: %v", err)
	}
	if err := (&Stream{Slot: "s"}).Run(t.Context(), 0, nil); err == nil || IsTemporary(err) {
		t.Errorf("stream from nowhere: %v", err)
	}
}

func TestCreateSlotCommand_FitsTheVersion(t *testing.T) {
	for _, test := range []struct {
		version  int
		failover bool
		want     string
	}{
		{140005, false, `CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput NOEXPORT_SNAPSHOT`},
		{150018, false, `CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput (SNAPSHOT 'nothing')`},
		{170001, true, `CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER true)`},
		{160001, true, ""},
	} {
		got, err := createSlotCommand("s", test.version, SlotOptions{Failover: test.failover})
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%+v: %s, %v", test, got, err)
		}
	}
}

func TestIntervalsOf(t *testing.T) {
	for _, test := range []struct{ timeout, ping, silence time.Duration }{
		{0, 10 * time.Second, 30 * time.Second},
		{time.Minute, 10 * time.Second, 70 * time.Second},
		{3 * time.Second, time.Second, 4 * time.Second},
	} {
		if got := intervalsOf(test.timeout); got.ping != test.ping || got.silence != test.silence {
			t.Errorf("%s: %+v", test.timeout, got)
		}
	}
}

func TestServerVersion(t *testing.T) {
	for reported, want := range map[string]int{
		"15.18 (Debian 15.18-0+deb12u1)": 150018, "18.4": 180004, "19devel": 190000, "18beta1": 180000, "": 0, "x": 0,
	} {
		if got := serverVersion(reported); got != want {
			t.Errorf("%q is %d, want %d", reported, got, want)
		}
	}
}

func TestParseHistory(t *testing.T) {
	got, err := parseHistory([]byte("1\t0/1775068\tno recovery target specified\n\n# comment\n2\t1A/0\tbefore 2000-01-01 # x\n"))
	if err != nil || !slices.Equal(got, []TimelineSwitch{{1, 0x1775068}, {2, 0x1A00000000}}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"1", "x\t0/1", "1\tx", "-1\t0/1"} {
		if _, err := parseHistory([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzParseHistory(f *testing.F) {
	f.Add([]byte("1\t0/1775068\tno recovery target specified\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		switches, err := parseHistory(content)
		if err != nil && switches != nil {
			t.Error("a result with an error")
		}
		if len(switches) > strings.Count(string(content), "\n")+1 {
			t.Error("more switches than lines")
		}
	})
}

// planned is an ordinary table of the columns id (its key), a, b and c, of
// which rules read the given ones.
func planned(name string, reads ...string) publishable {
	t := relay.TableName{Schema: "s", Name: name}
	return publishable{
		TableColumns: relay.TableColumns{TableName: t, Columns: reads, All: len(reads) == 0},
		exists:       true, kind: 'r', persistence: 'p', owned: true, canCreate: true, columns: []string{"id", "a", "b", "c"}, key: []string{"id"},
		parts: []part{{TableName: t, identity: 'd', hasIdentity: true, columns: []string{"id"}}},
	}
}

func membersOf(tables ...PublishedTable) *PublicationState {
	return &PublicationState{
		Ours: true, ViaRoot: true, Ops: relay.OpsOf(relay.Insert, relay.Update, relay.Delete, relay.Truncate), Tables: tables, Members: tables,
	}
}

func TestPlanPublication_ChangesNothingItNeedNot(t *testing.T) {
	plan := func(pub *PublicationState, ops relay.Ops, tables ...publishable) (*publicationPlan, error) {
		return planPublication("p", "u", 150000, pub, tables, Want{Ops: ops})
	}
	all := relay.OpsOf(relay.Insert, relay.Update, relay.Delete, relay.Truncate)
	pub := membersOf(PublishedTable{TableName: relay.TableName{Schema: "s", Name: "a"}})
	got, err := plan(pub, relay.OpsOf(relay.Insert), planned("a"))
	if err != nil || len(got.statements) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = plan(pub, all, planned("a"), planned("b"))
	if err != nil || !slices.Equal(got.lock, []string{`SET LOCAL lock_timeout = '2s'`, `LOCK TABLE ONLY "s"."b" IN SHARE ROW EXCLUSIVE MODE`}) ||
		!slices.Equal(got.statements, []string{`ALTER PUBLICATION "p" ADD TABLE ONLY "s"."b"`}) {
		t.Errorf("%+v, %v", got, err)
	}
	// More operations concern every table, so writers of every table are waited for.
	pub.Ops = relay.OpsOf(relay.Insert)
	got, err = plan(pub, relay.OpsOf(relay.Delete), planned("a"), planned("b"))
	if err != nil || !slices.Contains(got.lock, `LOCK TABLE ONLY "s"."a", ONLY "s"."b" IN SHARE ROW EXCLUSIVE MODE`) || len(got.statements) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	generated := planned("g")
	generated.parts[0].unsent = true
	if _, err = plan(nil, all, generated); !isSetup(err) {
		t.Errorf("generated column in the identity: %v", err)
	}
	if _, err = plan(nil, relay.OpsOf(relay.Insert), generated); err != nil {
		t.Errorf("inserts alone: %v", err)
	}
	// A source of messages and channels only.
	got, err = plan(nil, 0)
	if err != nil || !slices.Equal(got.statements, []string{`CREATE PUBLICATION "p" WITH (publish = 'insert', publish_via_partition_root = true)`}) {
		t.Errorf("%+v, %v", got, err)
	}
	// A list that someone made stays, and grows by what the rules need.
	pub = membersOf(PublishedTable{TableName: relay.TableName{Schema: "s", Name: "a"}, Columns: []string{"id", "b"}, RowFilter: "(id > 1)"})
	if got, err = plan(pub, all, planned("a", "b")); err != nil || len(got.statements) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = plan(pub, all, planned("a", "a"))
	if err != nil || !slices.Equal(got.statements, []string{
		`ALTER PUBLICATION "p" DROP TABLE "s"."a"`, `ALTER PUBLICATION "p" ADD TABLE ONLY "s"."a" ("id", "a", "b") WHERE ((id > 1))`,
	}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPlanPublication_SendsTheLeast(t *testing.T) {
	all := relay.OpsOf(relay.Insert, relay.Update, relay.Delete, relay.Truncate)
	plan := func(version int, pub *PublicationState, ops relay.Ops, tables ...publishable) ([]string, error) {
		p, err := planPublication("p", "u", version, pub, tables, Want{Ops: ops, Least: true})
		if err != nil {
			return nil, err
		}
		return p.statements, nil
	}
	got, err := plan(150000, nil, all, planned("a", "c", "b"), planned("whole"))
	if want := []string{`CREATE PUBLICATION "p" FOR TABLE ONLY "s"."a" ("id", "b", "c"), ONLY "s"."whole" WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)`}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	pub := membersOf(
		PublishedTable{TableName: relay.TableName{Schema: "s", Name: "a"}},
		PublishedTable{TableName: relay.TableName{Schema: "s", Name: "same"}, Columns: []string{"b", "id"}},
		PublishedTable{TableName: relay.TableName{Schema: "s", Name: "unread"}},
	)
	got, err = plan(150000, pub, all, planned("a", "b"), planned("same", "b"))
	if want := []string{`ALTER PUBLICATION "p" DROP TABLE "s"."a", "s"."unread"`, `ALTER PUBLICATION "p" ADD TABLE ONLY "s"."a" ("id", "b")`}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}

	full := planned("f", "a")
	full.parts[0].identity, full.parts[0].columns = relay.IdentityFull, nil
	leaf := planned("root", "a")
	leaf.kind = 'p'
	leaf.parts = append(leaf.parts, part{TableName: relay.TableName{Schema: "s", Name: "leaf"}, identity: relay.IdentityFull, hasIdentity: true})
	generated := planned("g", "a")
	generated.generated, generated.parts[0].columns, generated.parts[0].unsent = []string{"c"}, []string{"c"}, true
	nothing := planned("n", "x")
	nothing.key, nothing.parts[0].columns = nil, nil
	for what, test := range map[string]struct {
		version int
		pub     *PublicationState
		ops     relay.Ops
		table   publishable
		words   string // "" is taken
	}{
		"before 15":                      {140000, nil, all, planned("a", "a"), "needs PostgreSQL 15"},
		"for all tables":                 {150000, &PublicationState{AllTables: true}, all, planned("a", "a"), "for all tables"},
		"of a schema":                    {150000, &PublicationState{Schemas: true}, all, planned("a", "a"), "whole schemas"},
		"full":                           {150000, nil, all, full, "the table s.f has REPLICA IDENTITY FULL"},
		"full, inserts alone":            {150000, nil, relay.OpsOf(relay.Insert), full, ""},
		"full, inserts alone are wanted": {150000, membersOf(), relay.OpsOf(relay.Insert), full, "REPLICA IDENTITY FULL"},
		"a partition is full":            {150000, nil, all, leaf, "the partition s.leaf of s.root has REPLICA IDENTITY FULL"},
		"generated before 18":            {170000, nil, all, generated, "since PostgreSQL 18"},
		"generated on 18":                {180000, nil, all, generated, ""},
		"no column":                      {150000, nil, relay.OpsOf(relay.Insert), nothing, "a list cannot be empty"},
	} {
		_, err := plan(test.version, test.pub, test.ops, test.table)
		if test.words == "" && err != nil || test.words != "" && (!isSetup(err) || !strings.Contains(err.Error(), test.words)) {
			t.Errorf("%s: %v, want %q", what, err, test.words)
		}
	}
}
