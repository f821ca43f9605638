package cdc

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rowhook/rowhook/relay"
)

// TestAcks_NeverConfirmsWhatIsNotDurableOrNotSeen holds for every order of
// events, also for a handler whose durable position is wrong.
func TestAcks_NeverConfirmsWhatIsNotDurableOrNotSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lsn := rapid.Map(rapid.Uint64Range(0, 50), func(v uint64) relay.LSN { return relay.LSN(v) })
		confirmed := lsn.Draw(t, "confirmed") + 1
		start := confirmed + lsn.Draw(t, "start")
		a := newAcks(confirmed, start)
		seen, durable, sent, written := start, relay.LSN(0), confirmed, relay.LSN(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			v := lsn.Draw(t, "lsn") + confirmed - 1
			switch rapid.IntRange(0, 3).Draw(t, "event") {
			case 0:
				a.sawEnd(v)
				seen = max(seen, v)
			case 1:
				a.saw(v + 1000) // a change's position confirms nothing
			case 2:
				durable = v // may fall: a handler starts anew with 0
			case 3:
				write, flush := a.status(durable)
				if flush == 0 || flush < sent || flush > seen || flush > max(durable, sent) || write < flush || write < written {
					t.Fatalf("write %s flush %s: seen %s durable %s before %s %s", write, flush, seen, durable, written, sent)
				}
				if durable > sent && durable <= seen && flush != durable {
					t.Fatalf("flush %s, and %s is durable and seen", flush, durable)
				}
				sent, written = flush, write
			}
		}
	})
}

func TestAppendStatus_StatesAllThreePositions(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC)
	got := appendStatus(nil, 0x30, 0x10, now, true)
	want := wire{'d'}.u32(4 + 34).u8('r').u64(0x30).u64(0x10).u64(0x10).u64(1000000).u8(1)
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, []byte(want))
	}
	if binary.BigEndian.Uint32(got[1:])+1 != uint32(len(got)) {
		t.Error("wrong length")
	}
}
