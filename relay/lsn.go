package relay

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a byte position in the write-ahead log of a PostgreSQL cluster. Zero
// is no position ("InvalidXLogRecPtr").
type LSN uint64

// String returns the position as PostgreSQL's pg_lsn prints it, "16/B374D848".
func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

// MarshalText returns what [LSN.String] returns.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is the reverse of MarshalText, as strict as [ParseLSN].
func (l *LSN) UnmarshalText(text []byte) error {
	v, err := ParseLSN(string(text))
	if err != nil {
		return err
	}
	*l = v
	return nil
}

// ParseLSN parses what pg_lsn prints: two hexadecimal numbers of at most eight
// digits joined by a slash. Unlike pglogrepl's parser it refuses anything that
// stands before, between or after them.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if ok && isHex(hi) && isHex(lo) {
		h, herr := strconv.ParseUint(hi, 16, 32)
		l, lerr := strconv.ParseUint(lo, 16, 32)
		if herr == nil && lerr == nil {
			return LSN(h<<32 | l), nil
		}
	}
	return 0, fmt.Errorf("%q is not an LSN: two hexadecimal numbers joined by a slash, such as 16/B374D848", s)
}

func isHex(s string) bool {
	for _, c := range s {
		if !strings.ContainsRune("0123456789abcdefABCDEF", c) {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 8
}
