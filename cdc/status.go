package cdc

import (
	"encoding/binary"
	"time"

	"github.com/rowhook/rowhook/relay"
)

// acks decides which positions a status may state. The server believes any
// position it is told, even one past the end of its log, and forgets what is
// before it, so nothing is stated that this connection has not seen.
type acks struct {
	// seen is the highest end of a transaction or keepalive received, written the
	// highest position of any message.
	seen, written relay.LSN
	// sent is the flush position last stated. It begins as the slot's confirmed
	// position, which says nothing new, so that a zero is never stated.
	sent relay.LSN
}

func newAcks(confirmed, start relay.LSN) acks {
	return acks{seen: start, written: start, sent: confirmed}
}

// sawEnd notes the end of a transaction, or a keepalive's position.
func (a *acks) sawEnd(lsn relay.LSN) {
	a.seen = max(a.seen, lsn)
	a.written = max(a.written, lsn)
}

// saw notes the position of any other message.
func (a *acks) saw(lsn relay.LSN) { a.written = max(a.written, lsn) }

// flush returns the position that may be confirmed when the handler's durable
// position is p: never above p (or what is confirmed already), never above what
// was seen, never below what was stated before.
func (a *acks) flush(p relay.LSN) relay.LSN { return max(a.sent, min(p, a.seen)) }

// status returns the positions to state now, and takes them as stated.
func (a *acks) status(p relay.LSN) (write, flush relay.LSN) {
	a.sent = a.flush(p)
	return max(a.written, a.sent), a.sent
}

// statusLen is a standby status update: kind, three positions, time, and
// whether a reply is asked for.
const statusLen = 1 + 8 + 8 + 8 + 8 + 1

// appendStatus appends a CopyData message with a standby status update. Flush
// and apply are the same: what is durable here will not be asked for again.
func appendStatus(b []byte, write, flush relay.LSN, now time.Time, reply bool) []byte {
	b = append(b, 'd')
	b = binary.BigEndian.AppendUint32(b, 4+statusLen)
	b = append(b, 'r')
	b = binary.BigEndian.AppendUint64(b, uint64(write))
	b = binary.BigEndian.AppendUint64(b, uint64(flush))
	b = binary.BigEndian.AppendUint64(b, uint64(flush))
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixMicro()-unixEpoch))
	if reply {
		return append(b, 1)
	}
	return append(b, 0)
}
