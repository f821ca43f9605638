package sqlitestore_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/sqlitestore"
)

// blockOf returns a block of n events from first on, of some 320 bytes each.
func blockOf(stream string, first int64, n int) *relay.Block {
	var b relay.BlockBuilder
	data := fmt.Appendf(nil, `{"order_id":%d,"note":"%0256d"}`, first, first)
	for i := range n {
		seq := first + int64(i)
		f := relay.IDFacts{CommitLSN: relay.LSN(seq * 100), Ordinal: uint32(i)}
		b.Add(&relay.Event{
			ID: f.ID(), Seq: seq, Stream: stream, Source: "shop", Type: "order.paid", Version: 1, Rule: "order.paid", Table: "public.orders",
			Op: relay.Update, Time: 1_700_000_000_000_000 + seq, Generation: 1, HasKey: true, Key: data[12:20], Data: data,
		})
	}
	return b.Finish()
}

func sourceAt(lsn int64) *relay.SourceState {
	return &relay.SourceState{Source: "shop", Generation: 1, Phase: relay.PhaseStreaming, Slot: "rowhook_shop", LSN: relay.LSN(lsn)}
}

// BenchmarkAppend stores blocks as ingest makes them: full ones under load (one
// commit of one block, and of eight), and one event when there is no load. Each
// commit is one fsync.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ blocks, events int }{{1, 200}, {8, 200}, {1, 1}} {
		b.Run(fmt.Sprintf("blocks=%d/events=%d", c.blocks, c.events), func(b *testing.B) {
			s := openStore(b, sqlitestore.Options{})
			var bytes int64
			seq := int64(0)
			next := func() *relay.Append {
				a := &relay.Append{Stream: "shop"}
				for range c.blocks {
					k := blockOf("shop", seq+1, c.events)
					a.Blocks = append(a.Blocks, k)
					seq = k.Last
					bytes += int64(len(k.Data))
				}
				a.Head, a.Tail, a.Source = seq, seq, sourceAt(seq)
				return a
			}
			for b.Loop() {
				b.StopTimer()
				a := next()
				b.StartTimer()
				if err := s.Append(context.Background(), a); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(seq), "µs/event")
			b.SetBytes(bytes / int64(b.N))
		})
	}
}

// BenchmarkSettle stores what the dispatcher decides: five hundred successes at
// once, and fifty retries of as many attempts.
func BenchmarkSettle(b *testing.B) {
	c := relay.CursorID{Endpoint: "billing", Stream: "shop"}
	run := func(b *testing.B, events int, settlement func(first int64) *relay.Settlement) {
		s := openStore(b, sqlitestore.Options{})
		if err := s.Append(context.Background(), &relay.Append{Stream: "shop", Head: 1 << 40, Tail: 1 << 40}); err != nil {
			b.Fatal(err)
		}
		first := int64(1)
		for b.Loop() {
			if err := s.Settle(context.Background(), settlement(first)); err != nil {
				b.Fatal(err)
			}
			first += int64(events)
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(first-1), "µs/event")
	}
	b.Run("successes=500", func(b *testing.B) {
		run(b, 500, func(first int64) *relay.Settlement {
			batch := relay.SuccessBatch{CursorID: c, Successes: make([]relay.Success, 500)}
			for i := range batch.Successes {
				seq := first + int64(i^3) // outcomes come a little out of order
				batch.Successes[i] = relay.Success{Seq: seq, Attempts: 1, At: 1_700_000_000_000_000 + seq*40, Duration: 900_000, Status: 200}
			}
			return &relay.Settlement{Routed: map[string]int64{"shop": first}, Successes: []relay.SuccessBatch{batch}}
		})
	})
	b.Run("retries=50", func(b *testing.B) {
		run(b, 50, func(first int64) *relay.Settlement {
			s := &relay.Settlement{Routed: map[string]int64{"shop": first}}
			for seq := first; seq < first+50; seq++ {
				f := relay.IDFacts{CommitLSN: relay.LSN(seq)}
				s.Put = append(s.Put, relay.OpenDelivery{
					CursorID: c, Seq: seq, EventID: f.ID(), Type: "order.paid", State: relay.StateRetrying, Attempts: 1, NextAt: seq, Lane: uint64(seq),
					Table: "public.orders", LastClass: relay.ErrStatus5, LastStatus: 503, LastError: "answered 503 Service Unavailable", UpdatedAt: seq,
				})
				s.Attempts = append(s.Attempts, relay.Attempt{
					CursorID: c, Seq: seq, N: 1, At: seq, Status: 503, Class: relay.ErrStatus5, Err: "answered 503 Service Unavailable", Response: []byte("try later"),
				})
			}
			return s
		})
	})
}

// BenchmarkBlocks reads a log from its beginning, as a dispatcher that is
// behind does.
func BenchmarkBlocks(b *testing.B) {
	s := openStore(b, sqlitestore.Options{})
	const blocks, events = 256, 200
	a := &relay.Append{Stream: "shop"}
	for i := range int64(blocks) {
		a.Blocks = append(a.Blocks, blockOf("shop", i*events+1, events))
	}
	a.Head, a.Tail = blocks*events, blocks*events
	if err := s.Append(context.Background(), a); err != nil {
		b.Fatal(err)
	}
	after, read := int64(0), 0
	for b.Loop() {
		got, err := s.Blocks(context.Background(), "shop", after, 1<<20)
		if err != nil {
			b.Fatal(err)
		}
		for _, k := range got {
			read += k.Count
		}
		if after = 0; len(got) > 0 {
			after = got[len(got)-1].Last
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(read), "µs/event")
}
