package receiver

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode"
)

// printable quotes what would move the cursor or change the colour of a
// terminal, and shortens what is very long: requests come from anywhere.
func printable(s string) string {
	if r := []rune(s); len(r) > 100 {
		s = string(r[:99]) + "…"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}

// short returns the end of an id, which differs where the beginnings of
// neighbours do not.
func short(id string) string {
	const n = 12
	if len(id) > n {
		id = "…" + id[len(id)-n:]
	}
	return printable(id)
}

// indent returns JSON for reading. Control characters cannot be in it: JSON
// strings hold them escaped.
func indent(data json.RawMessage) string {
	var b bytes.Buffer
	if json.Indent(&b, data, "    ", "  ") != nil {
		return printable(string(data))
	}
	// The one-byte controls of ISO 8859-1 are legal in JSON, and some terminals
	// obey them.
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return unicode.ReplacementChar
		}
		return r
	}, b.String())
}
