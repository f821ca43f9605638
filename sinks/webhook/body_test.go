package webhook

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func testEvent() *relay.Event {
	return &relay.Event{
		ID: relay.EventID{0, 0, 0, 0, 1, 0x6b, 0x37, 0x48, 9, 8, 7}, Seq: 7, Stream: "shop", Source: "shop",
		Type: "order.paid", Version: 1, Rule: "order.paid", Table: "public.orders", Op: relay.Update,
		Time: 1_760_000_000_123_456, Generation: 1, Place: 0x16b3748, Index: 2,
		HasKey: true, Key: []byte(`public.orders/42`),
		Data: []byte(`{"order_id":42,"total":1250.00,"customer":"c_9"}`),
	}
}

func TestBody_Standard(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*relay.Event)
		want string
	}{
		{"row", func(*relay.Event) {}, `{"id":"evt_000000g1d6t4g2883g0000000000000g","type":"order.paid","version":1,"timestamp":"2025-10-09T08:53:20.123456Z","source":"shop","key":"public.orders/42","sequence":"0001-00000000016b3748-00000002","table":"public.orders","op":"update","data":{"order_id":42,"total":1250.00,"customer":"c_9"}}`},
		{"everything", func(e *relay.Event) {
			e.Tenant, e.Unchanged = []byte("acme"), []string{"bio", `a"b`}
		}, `{"id":"evt_000000g1d6t4g2883g0000000000000g","type":"order.paid","version":1,"timestamp":"2025-10-09T08:53:20.123456Z","source":"shop","key":"public.orders/42","tenant":"acme","sequence":"0001-00000000016b3748-00000002","table":"public.orders","op":"update","unchanged":["bio","a\"b"],"data":{"order_id":42,"total":1250.00,"customer":"c_9"}}`},
		{"message without key", func(e *relay.Event) {
			e.Op, e.Table, e.HasKey, e.Key, e.Data = relay.Message, "", false, nil, nil
		}, `{"id":"evt_000000g1d6t4g2883g0000000000000g","type":"order.paid","version":1,"timestamp":"2025-10-09T08:53:20.123456Z","source":"shop","key":null,"sequence":"0001-00000000016b3748-00000002","data":null}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := testEvent()
			tt.edit(e)
			got := AppendBody([]byte("x"), e)
			var m map[string]any
			if err := json.Unmarshal(got[1:], &m); err != nil {
				t.Fatalf("not JSON: %v\n%s", err, got)
			}
			if m["id"] != e.ID.String() {
				t.Errorf("id is %v", m["id"])
			}
			m["id"] = "x"
			if want := tt.want; !bytes.Equal(stripID(got[1:]), stripID([]byte(want))) {
				t.Errorf("got  %s\nwant %s", got[1:], want)
			}
		})
	}
}

// stripID cuts the id, whose form is the domain's business.
func stripID(b []byte) []byte { return b[bytes.Index(b, []byte(`"type"`)):] }

// Numbers reach the receiver with every digit, and odd spacing stays.
func TestBody_DataIsByteExact(t *testing.T) {
	e := testEvent()
	e.Data = []byte(`{ "n": 123456789012345678901234567890.10, "e":"é" }`)
	got := AppendBody(nil, e)
	if !bytes.HasSuffix(got, append(append([]byte(`,"data":`), e.Data...), '}')) {
		t.Errorf("data changed: %s", got)
	}
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", "a\"b\\c", "\x00\x1f\x7f\b\f\n\r\t", "é€😀", "\xff\xc0\xaf", "a\xe2\x80", "\u2028\u2029", "<&>", "\xed\xa0\x80", "\xf0\x9f\x98"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(s); err != nil {
			t.Fatal(err)
		}
		got := appendString([]byte("x"), s)[1:]
		if !bytes.Equal(got, bytes.TrimSuffix(want.Bytes(), []byte("\n"))) {
			t.Fatalf("%q: got %s, want %s", s, got, want.Bytes())
		}
		if other := appendString(nil, []byte(s)); !bytes.Equal(other, got) {
			t.Fatalf("%q: as bytes %s", s, other)
		}
	})
}
