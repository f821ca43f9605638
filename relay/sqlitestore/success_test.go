package sqlitestore

import (
	"testing"
	"time"

	"github.com/rowhook/rowhook/relay"
)

func TestPackSuccesses_ASuccessTakesFewBytes(t *testing.T) {
	all := make([]relay.Success, 500)
	for i := range all {
		all[i] = relay.Success{Seq: 9000 + int64(i), Attempts: 1, At: 1_700_000_000_000_000 + int64(i)*40, Duration: 900 * time.Microsecond, Status: 200}
	}
	if n := len(packSuccesses(nil, all, 9000, all[499].At)); n > 500*8 {
		t.Errorf("500 successes take %d bytes", n)
	}
}

// Whatever bytes a record has, reading it ends, and what was read packs to
// something that reads the same.
func FuzzUnpackSuccesses(f *testing.F) {
	f.Add([]byte{}, int64(0), int64(0))
	f.Add([]byte{2}, int64(1), int64(1))
	f.Add([]byte{successFormat, 0x80}, int64(1), int64(1))
	f.Add(packSuccesses(nil, []relay.Success{{Seq: 5, Attempts: 2, At: 70, Duration: time.Second, Status: 204}, {Seq: 9, At: 3}}, 5, 70), int64(5), int64(70))
	f.Add([]byte("\x01000\xba\xba\xba\xba\xba\xba\xba00"), int64(-15), int64(115)) // a duration beyond what fits
	f.Fuzz(func(t *testing.T, d []byte, seq, at int64) {
		var read []relay.Success
		if unpackSuccesses(d, seq, at, func(s relay.Success) { read = append(read, s) }) != nil {
			return
		}
		i := 0
		err := unpackSuccesses(packSuccesses(nil, read, seq, at), seq, at, func(s relay.Success) {
			if s != read[i] {
				t.Fatalf("success %d: %+v, want %+v", i, s, read[i])
			}
			i++
		})
		if err != nil || i != len(read) {
			t.Fatalf("%d of %d read: %v", i, len(read), err)
		}
	})
}
