package webhook

import (
	"net/netip"
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

func TestClassify(t *testing.T) {
	for _, tt := range []struct {
		status int
		result relay.Result
		class  relay.ErrorClass
	}{
		{200, relay.Delivered, relay.ErrNone},
		{204, relay.Delivered, relay.ErrNone},
		{299, relay.Delivered, relay.ErrNone},
		{300, relay.Failed, relay.ErrRedirect},
		{301, relay.Failed, relay.ErrRedirect},
		{304, relay.Failed, relay.ErrRedirect},
		{308, relay.Failed, relay.ErrRedirect},
		{400, relay.Failed, relay.ErrStatus4},
		{401, relay.Failed, relay.ErrStatus4},
		{404, relay.Failed, relay.ErrStatus4},
		{410, relay.Gone, relay.ErrGone},
		{413, relay.Failed, relay.ErrStatus4},
		{429, relay.Failed, relay.ErrThrottle},
		{499, relay.Failed, relay.ErrStatus4},
		{500, relay.Failed, relay.ErrStatus5},
		{503, relay.Failed, relay.ErrStatus5},
		{999, relay.Failed, relay.ErrStatus5},
	} {
		if result, class := classify(tt.status); result != tt.result || class != tt.class {
			t.Errorf("%d: got %d %q, want %d %q", tt.status, result, class, tt.result, tt.class)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		status int
		value  string
		want   time.Duration
	}{
		{429, "7", 7 * time.Second},
		{503, "120", 2 * time.Minute},
		{413, "1", time.Second},
		{429, "Sun, 01 Mar 2026 12:01:30 GMT", 90 * time.Second},
		{429, "Sunday, 01-Mar-26 12:01:30 GMT", 90 * time.Second},
		{429, "Sun Mar  1 12:01:30 2026", 90 * time.Second},
		{429, "86400", 24 * time.Hour},
		{429, "86401", 24 * time.Hour},
		{429, "999999999999999999", 24 * time.Hour},
		{429, "Sun, 01 Mar 2036 12:00:00 GMT", 24 * time.Hour},
		{429, "Sun, 01 Mar 2026 11:00:00 GMT", 0},
		{429, "0", 0},
		{429, "-5", 0},
		{429, "1.5", 0},
		{429, "soon", 0},
		{429, "", 0},
		{500, "7", 0},
		{302, "7", 0},
	} {
		if got := retryAfter(tt.status, tt.value, now); got != tt.want {
			t.Errorf("%d %q: got %s, want %s", tt.status, tt.value, got, tt.want)
		}
	}
}

func TestGuard(t *testing.T) {
	for _, a := range []string{
		"0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "172.31.255.255",
		"192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
		"240.0.0.1", "255.255.255.255", "168.63.129.16",
		"::", "::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1",
		"2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
	} {
		if guard.SafeAddr(netip.MustParseAddr(a)) == nil {
			t.Errorf("%s is allowed", a)
		}
	}
	for _, a := range []string{"8.8.8.8", "1.1.1.1", "172.32.0.1", "168.63.129.17", "2606:4700:4700::1111"} {
		if err := guard.SafeAddr(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
}
