package relay

import (
	"fmt"
	"strconv"
	"strings"
)

// Patterns choose event types. A type is chosen when a pattern matches it and
// no excluding pattern does.
type Patterns struct {
	text []string
	want []pattern
	not  []pattern
}

type pattern struct {
	segments []string
	version  int // 0 is any
}

// ParsePatterns parses patterns over dotted event types: "*" is one segment,
// "**" any number of segments (also none), "@2" at the end asks for a version
// and "!" at the beginning excludes. Types under "rowhook." are operational
// events: only a pattern whose first segment is "rowhook" matches them.
func ParsePatterns(texts []string) (Patterns, error) {
	p := Patterns{text: texts}
	for _, t := range texts {
		body, exclude := strings.CutPrefix(t, "!")
		body, ver, hasVer := strings.Cut(body, "@")
		pt := pattern{segments: strings.Split(body, ".")}
		if hasVer {
			v, err := strconv.Atoi(ver)
			if err != nil || v < 1 {
				return Patterns{}, fmt.Errorf("%q: what follows @ is a version, a number from 1", t)
			}
			pt.version = v
		}
		for _, s := range pt.segments {
			if s != "*" && s != "**" && !isSegment(s) {
				return Patterns{}, fmt.Errorf("%q: a pattern is segments of a-z, 0-9 and _ joined by dots, where * stands for one segment and ** for any number", t)
			}
		}
		if exclude {
			p.not = append(p.not, pt)
		} else {
			p.want = append(p.want, pt)
		}
	}
	if len(p.want) == 0 {
		return Patterns{}, fmt.Errorf("no pattern chooses anything; [\"**\"] chooses every event")
	}
	return p, nil
}

func isSegment(s string) bool {
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return s != ""
}

// ValidType reports whether s may be the type of an event.
func ValidType(s string) bool {
	for seg := range strings.SplitSeq(s, ".") {
		if !isSegment(seg) {
			return false
		}
	}
	return true
}

// String returns the patterns as they were written, joined by commas.
func (p Patterns) String() string { return strings.Join(p.text, ",") }

// Match reports whether the patterns choose the event type in that version.
func (p Patterns) Match(typ string, version int) bool {
	segs := strings.Split(typ, ".")
	return anyMatch(p.want, segs, version) && !anyMatch(p.not, segs, version)
}

func anyMatch(ps []pattern, segs []string, version int) bool {
	for i := range ps {
		if ps[i].version != 0 && ps[i].version != max(version, 1) {
			continue
		}
		if segs[0] == "rowhook" && ps[i].segments[0] != "rowhook" {
			continue
		}
		if matchSegments(ps[i].segments, segs) {
			return true
		}
	}
	return false
}

func matchSegments(pat, segs []string) bool {
	for len(pat) > 0 {
		if pat[0] == "**" {
			for i := 0; i <= len(segs); i++ {
				if matchSegments(pat[1:], segs[i:]) {
					return true
				}
			}
			return false
		}
		if len(segs) == 0 || (pat[0] != "*" && pat[0] != segs[0]) {
			return false
		}
		pat, segs = pat[1:], segs[1:]
	}
	return len(segs) == 0
}
