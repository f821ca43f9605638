package config

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"1h30m": 90 * time.Minute, "0s": 0, "500ms": 500 * time.Millisecond, "-5s": -5 * time.Second} {
		if got, _, ok := parseDuration(in); !ok || got != want {
			t.Errorf("%s is %v", in, got)
		}
	}
	for in, want := range map[string]string{"7d": "168h", "1 day": "24h", "2w": "336h", "30": "30s", "10 m": "10m", "soon": "", "": "", "99999d": ""} {
		if _, hint, ok := parseDuration(in); ok || hint != want {
			t.Errorf("%q: hint %q, want %q", in, hint, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "10GiB": 10 << 30, "1.5KiB": 1536, "7B": 7, "1TiB": 1 << 40} {
		if got, _, ok := parseSize(in); !ok || got != want {
			t.Errorf("%s is %d", in, got)
		}
	}
	for in, want := range map[string]string{"10GB": "10GiB", "10g": "10GiB", "10 GiB": "10GiB", "5mb": "5MiB", "100": "100B", "10kib": "10KiB", "x": "", "10XB": "", "-1GiB": "", "99999999TiB": "", "": ""} {
		if _, hint, ok := parseSize(in); ok || hint != want {
			t.Errorf("%q: hint %q, want %q", in, hint, want)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for in, want := range map[float64]string{1 << 20: "1MiB", 1536: "1536B", 3 << 30: "3GiB"} {
		if got := formatSize(in); got != want {
			t.Errorf("%v is %s, want %s", in, got, want)
		}
	}
}
