package contract

import (
	"fmt"
	"slices"
	"strings"
)

// Break is a change of a contract that receivers may not survive.
type Break struct {
	Event string `json:"event"` // TYPE@VERSION
	Path  string `json:"path"`  // of the body: data.total, data.items[].sku; "" is the event
	// Why says what was true before and is no more.
	Why string `json:"why"`
}

// String prints the break as one line.
func (b Break) String() string {
	if b.Path == "" {
		return b.Event + ": " + b.Why
	}
	return b.Event + ": " + b.Path + " " + b.Why
}

// Compare returns the breaks between the contract that receivers have, as
// [ReadJSONSchema] returns it, and the events as they are now. New events, new
// versions and new attributes break nobody. Whatever else may be sent that could
// not be sent before does: also a value more of an enum, since receivers switch
// over those.
func Compare(old map[string]Type, now []Event) []Break {
	var breaks []Break
	for name, want := range old {
		i := slices.IndexFunc(now, func(e Event) bool { return e.Name() == name })
		if i < 0 {
			breaks = append(breaks, Break{Event: name, Why: "is not made any more" + instead(name, now)})
			continue
		}
		for _, m := range Fit(now[i].Envelope(), want, false) {
			breaks = append(breaks, Break{Event: name, Path: m.Path, Why: m.Why})
		}
	}
	slices.SortFunc(breaks, func(a, b Break) int {
		return slices.Compare([]string{a.Event, a.Path, a.Why}, []string{b.Event, b.Path, b.Why})
	})
	return breaks
}

// instead names the versions of an event that there are.
func instead(name string, now []Event) string {
	typ, _, _ := strings.Cut(name, "@")
	var others []string
	for i := range now {
		if now[i].Type == typ {
			others = append(others, now[i].Name())
		}
	}
	if others == nil {
		return ""
	}
	return fmt.Sprintf("; there is %s. Keep the old version beside it until nobody receives it", strings.Join(others, " and "))
}
