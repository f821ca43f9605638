package webhook

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/rowhook/rowhook/relay"
)

func mustKeys(t testing.TB, secrets ...string) []Key {
	t.Helper()
	var list []relay.Secret
	for _, s := range secrets {
		list = append(list, relay.NewSecret(s))
	}
	keys, err := ParseKeys(list)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// The vectors of the specification and of its libraries.
func TestSign_Vectors(t *testing.T) {
	for _, tt := range []struct {
		secret, id string
		timestamp  int64
		body, want string
	}{
		{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
			`{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
		{"whsec_plJ3nmyCDGBKInavdOK15jsl", "msg_loFOjxBNrRLzqYUf", 1731705121,
			`{"event_type":"ping","data":{"success":true}}`, "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="},
	} {
		if got := Sign(tt.id, tt.timestamp, []byte(tt.body), mustKeys(t, tt.secret)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.id, got, tt.want)
		}
	}
}

// Every secret signs, with one signer used again and again, and the official
// library verifies each of them.
func TestSign_OfficialLibraryVerifies(t *testing.T) {
	secrets := []string{NewSecret().Reveal(), NewSecret().Reveal(), "whsec_plJ3nmyCDGBKInavdOK15jsl"}
	s := newSigner(mustKeys(t, secrets...))
	now := time.Now().Unix()
	for i := range 3 {
		id := fmt.Sprintf("evt_%d", i)
		body := []byte(strings.Repeat("x", i*100))
		h := http.Header{}
		h.Set(HeaderID, id)
		h.Set(HeaderTimestamp, strconv.FormatInt(now, 10))
		h.Set(HeaderSignature, string(s.sign(nil, []byte(id), now, body)))
		for _, secret := range secrets {
			official, err := standard.NewWebhook(secret)
			if err != nil {
				t.Fatal(err)
			}
			if err := official.Verify(body, h); err != nil {
				t.Errorf("%s: %v", id, err)
			}
			if err := official.Verify(append(body, 'y'), h); err == nil {
				t.Errorf("%s: a changed body verifies", id)
			}
		}
	}
}

func TestVerify(t *testing.T) {
	secret, other := NewSecret().Reveal(), NewSecret().Reveal()
	keys := mustKeys(t, other, secret)
	now := time.Unix(1_760_000_000, 0)
	body := []byte(`{"a":1}`)
	official, err := standard.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	good, err := official.Sign("evt_1", now, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name                 string
		id, stamp, signature string
		body                 string
		keys                 []Key
		want                 error
	}{
		{"good", "evt_1", "1760000000", good, string(body), keys, nil},
		{"good among others", "evt_1", "1760000000", "v2,x v1a,y v1," + strings.Repeat("A", 43) + "= " + good, string(body), keys, nil},
		{"body changed", "evt_1", "1760000000", good, `{"a":2}`, keys, ErrSignature},
		{"id changed", "evt_2", "1760000000", good, string(body), keys, ErrSignature},
		{"time changed", "evt_1", "1760000001", good, string(body), keys, ErrSignature},
		{"cut", "evt_1", "1760000000", good[:20], string(body), keys, ErrSignature},
		{"empty", "evt_1", "1760000000", "v1,", string(body), keys, ErrSignature},
		{"version", "evt_1", "1760000000", strings.Replace(good, "v1", "v2", 1), string(body), keys, ErrSignature},
		{"no keys", "evt_1", "1760000000", good, string(body), nil, ErrSignature},
		{"other key", "evt_1", "1760000000", good, string(body), keys[:1], ErrSignature},
		{"old", "evt_1", "1759999699", good, string(body), keys, ErrTime},
		{"new", "evt_1", "1760000301", good, string(body), keys, ErrTime},
		{"far", "evt_1", "9223372036854775807", good, string(body), keys, ErrTime},
		{"no time", "evt_1", "", good, string(body), keys, ErrHeaders},
		{"time word", "evt_1", "now", good, string(body), keys, ErrHeaders},
		{"no id", "", "1760000000", good, string(body), keys, ErrHeaders},
		{"no signature", "evt_1", "1760000000", "", string(body), keys, ErrHeaders},
	} {
		h := http.Header{}
		h.Set(HeaderID, tt.id)
		h.Set(HeaderTimestamp, tt.stamp)
		h.Set(HeaderSignature, tt.signature)
		if err := Verify(h, []byte(tt.body), tt.keys, now, Tolerance); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestParseKey(t *testing.T) {
	for _, s := range []string{
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", " whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
		"whsec_QUFBQUFBQUFBQUFBQUFBQQ==", "whsec_QUFBQUFBQUFBQUFBQUFBQQ",
	} {
		if _, err := ParseKey(relay.NewSecret(s)); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "whsec_", "whsec_==", "hunter2hunter2hunter2!", "whsec_QUFBQQ==", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_",
		"whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKY qrTwjUPD8ILPZIo2LaLaSw"} {
		_, err := ParseKey(relay.NewSecret(s))
		if err == nil {
			t.Errorf("%q is accepted", s)
		} else if body := strings.TrimPrefix(s, keyPrefix); len(body) > 4 && strings.Contains(err.Error(), body) {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
	k := mustKeys(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")[0]
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, k); got != "[secret]" {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}
