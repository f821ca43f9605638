package relay

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// EventID identifies an event for ever. Its first eight bytes are the commit
// LSN of the transaction that made the event (or, for kinds outside the WAL,
// the time in microseconds), so that an id leads to its place in the log; the
// other twelve are a hash of the facts of the event. See [IDFacts].
type EventID [20]byte

var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

const idPrefix = "evt_"

// String returns "evt_" and the id in lower-case base32hex, 36 characters in
// all, in the order of the ids.
func (id EventID) String() string { return string(id.Append(nil)) }

// Append appends what String returns.
func (id EventID) Append(dst []byte) []byte {
	dst = append(dst, idPrefix...)
	n := len(dst)
	dst = idEncoding.AppendEncode(dst, id[:])
	for i := n; i < len(dst); i++ {
		if 'A' <= dst[i] && dst[i] <= 'Z' {
			dst[i] += 'a' - 'A'
		}
	}
	return dst
}

// Place returns the first eight bytes: a commit LSN or a time.
func (id EventID) Place() uint64 { return binary.BigEndian.Uint64(id[:8]) }

// MarshalText returns what String returns.
func (id EventID) MarshalText() ([]byte, error) { return id.Append(nil), nil }

// UnmarshalText is the reverse of MarshalText.
func (id *EventID) UnmarshalText(text []byte) error {
	v, err := ParseEventID(string(text))
	if err == nil {
		*id = v
	}
	return err
}

// ParseEventID parses what [EventID.String] prints.
func ParseEventID(s string) (EventID, error) {
	var id EventID
	rest, ok := strings.CutPrefix(s, idPrefix)
	if ok && len(rest) == 32 {
		if b, err := idEncoding.DecodeString(strings.ToUpper(rest)); err == nil {
			copy(id[:], b)
			return id, nil
		}
	}
	return id, fmt.Errorf("%q is not an event id: evt_ and 32 characters of 0-9 and a-v", s)
}

// IDFacts are what an event's id is made of. For a row change or a logical
// message all of them come from the WAL, so the same change gives the same id
// after any crash, resend, replay or reset, and another one after a failover
// reused LSNs, since the commit time differs.
//
// A notification has no place in the WAL: CommitLSN is the time of receipt in
// microseconds made to rise strictly, XID the sending backend's process id and
// CommitTime the time at which the listener was connected; its id is a fact of
// the log, not of PostgreSQL.
//
// Neither has a row that a backfill read: CommitLSN and ChangeLSN are the last
// byte before the point of its chunk's snapshot, XID and CommitTime the number
// and the creation of the backfill, Ordinal the row's number in the chunk. Since
// what was read is recorded with its events, a row is read again only by another
// backfill, which makes another id.
type IDFacts struct {
	SystemID   uint64
	CommitLSN  LSN
	XID        uint32
	CommitTime int64
	Kind       Op
	ChangeLSN  LSN
	Ordinal    uint32
	Rule       string
	Item       uint32
}

// ID computes the event id: the commit LSN and the first twelve bytes of the
// SHA-256 of the facts in a fixed-width form. Changing this form breaks every
// receiver's deduplication.
func (f *IDFacts) ID() EventID {
	var buf [128]byte
	b := buf[:0]
	b = binary.BigEndian.AppendUint64(b, f.SystemID)
	b = binary.BigEndian.AppendUint64(b, uint64(f.CommitLSN))
	b = binary.BigEndian.AppendUint32(b, f.XID)
	b = binary.BigEndian.AppendUint64(b, uint64(f.CommitTime))
	b = append(b, byte(f.Kind))
	b = binary.BigEndian.AppendUint64(b, uint64(f.ChangeLSN))
	b = binary.BigEndian.AppendUint32(b, f.Ordinal)
	b = binary.BigEndian.AppendUint32(b, f.Item)
	b = append(b, f.Rule...)
	sum := sha256.Sum256(b)
	var id EventID
	binary.BigEndian.PutUint64(id[:8], uint64(f.CommitLSN))
	copy(id[8:], sum[:12])
	return id
}

// Event is the typed, immutable fact a rule made of a change. An event read
// from a [Block] points into the block's bytes and lives as long as those do.
type Event struct {
	ID EventID
	// Seq is the place in the stream. It rises, with gaps.
	Seq     int64
	Stream  string
	Source  string
	Type    string
	Version int
	Rule    string
	// Table is the qualified name of the table, empty for other events. Barriers
	// act on it.
	Table string
	Op    Op
	// Time is the commit time (for notifications the time of receipt) in
	// microseconds since the Unix epoch.
	Time int64
	// Generation, Place and Index make the event's sequence: the generation of
	// its source, its commit LSN (or time), and its number among the events of
	// its transaction.
	Generation uint32
	Place      uint64
	Index      uint32
	// HasKey says whether the event has a key. Without one no order is promised.
	HasKey bool
	Key    []byte
	// OldKey is the key before an update that changed it, else nil. The event
	// belongs to the lanes of both.
	OldKey []byte
	// Tenant is nil when the rule names none.
	Tenant []byte
	// Barrier says that the event is ordered with every event of its Table.
	Barrier bool
	// Unchanged are the columns left out of a passed-through row because the
	// server did not send them (unchanged TOAST values).
	Unchanged []string
	// Data is the event's data as JSON.
	Data []byte
}

// Sequence returns the wire form of the event's place: three hexadecimal
// numbers of fixed width, so that within a stream the order of the strings is
// the order of the events, also across generations.
func (e *Event) Sequence() string { return string(e.AppendSequence(nil)) }

// AppendSequence appends what Sequence returns.
func (e *Event) AppendSequence(dst []byte) []byte {
	dst = appendHex(dst, uint64(e.Generation), 4)
	dst = append(dst, '-')
	dst = appendHex(dst, e.Place, 16)
	dst = append(dst, '-')
	return appendHex(dst, uint64(e.Index), 8)
}

func appendHex(dst []byte, v uint64, width int) []byte {
	for i := width - 1; i >= 0; i-- {
		dst = append(dst, "0123456789abcdef"[v>>(4*i)&15])
	}
	return dst
}

// AppendTime appends a time of microseconds since the Unix epoch as RFC 3339
// in UTC with six digits of a second.
func AppendTime(dst []byte, micros int64) []byte {
	return time.UnixMicro(micros).UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000Z")
}
