package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var daysForm = regexp.MustCompile(`^([0-9]{1,4})\s*(d|day|days|w|week|weeks)$`)

// parseDuration reads a duration. The hint, when not empty, is how to write
// what was probably meant.
func parseDuration(s string) (d time.Duration, hint string, ok bool) {
	d, err := time.ParseDuration(s)
	if err == nil {
		return d, "", true
	}
	if m := daysForm.FindStringSubmatch(strings.TrimSpace(s)); m != nil {
		n, _ := strconv.Atoi(m[1]) // four digits at most
		hours := n * 24
		if m[2][0] == 'w' {
			hours *= 7
		}
		return 0, fmt.Sprintf("%dh", hours), false
	}
	if compact := strings.ReplaceAll(s, " ", ""); compact != s {
		if _, err := time.ParseDuration(compact); err == nil {
			return 0, compact, false
		}
	}
	if _, err := strconv.ParseUint(s, 10, 32); err == nil {
		return 0, s + "s", false
	}
	return 0, "", false
}

var sizeForm = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)$`)

var sizeUnits = map[string]float64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

// parseSize reads a number of bytes with a unit. The hint is as in
// parseDuration.
func parseSize(s string) (bytes int64, hint string, ok bool) {
	if s == "0" {
		return 0, "", true
	}
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, "", false
	}
	unit, known := sizeUnits[m[2]]
	if !known || strings.ContainsAny(s, " \t") {
		letter := strings.ToUpper(m[2])
		if letter == "" {
			return 0, m[1] + "B", false
		}
		for u := range sizeUnits {
			if strings.EqualFold(u, m[2]) || (len(u) == 3 && u[0] == letter[0] && (len(letter) == 1 || letter[1:] == "B")) {
				return 0, m[1] + u, false
			}
		}
		return 0, "", false
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil || n*unit >= math.MaxInt64 {
		return 0, "", false
	}
	return int64(n * unit), "", true
}

// formatSize writes a number of bytes as a file would have it.
func formatSize(n float64) string {
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if n >= sizeUnits[u] && math.Mod(n, sizeUnits[u]) == 0 {
			return strconv.FormatFloat(n/sizeUnits[u], 'f', -1, 64) + u
		}
	}
	return strconv.FormatFloat(n, 'f', -1, 64) + "B"
}
