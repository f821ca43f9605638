package relay

import (
	"sort"
	"sync"
)

const (
	// feedBytes bounds the recent blocks the feed keeps for each stream.
	feedBytes = 2 << 20
	// feedBlock is what a block counts for besides its data: thousands of blocks
	// of one event each would cost every garbage collection.
	feedBlock = 1 << 10
)

// Feed is where the two halves meet in memory: ingest publishes what has
// become visible, and cursors wait for it. Recent blocks are kept so that a
// cursor that is current need not read them back from the store.
type Feed struct {
	mu      sync.Mutex
	streams map[string]*feedStream
}

type feedStream struct {
	head int64
	// recent holds everything visible after floor.
	recent []*Block
	floor  int64
	bytes  int
	wake   chan struct{}
}

// NewFeed returns an empty feed.
func NewFeed() *Feed { return &Feed{streams: map[string]*feedStream{}} }

func (f *Feed) stream(name string) *feedStream {
	s := f.streams[name]
	if s == nil {
		s = &feedStream{wake: make(chan struct{})}
		f.streams[name] = s
	}
	return s
}

// Open says how far the stream is visible at start.
func (f *Feed) Open(stream string, head int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stream(stream)
	if head > s.head {
		// What became visible without being published: an append of which the
		// result was unknown.
		close(s.wake)
		s.wake = make(chan struct{})
	}
	s.head, s.floor, s.recent, s.bytes = head, head, nil, 0
}

// Publish says that the stream is visible up to head. The blocks are all that
// became visible; nil says that they must be read from the store.
func (f *Feed) Publish(stream string, blocks []*Block, head int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stream(stream)
	s.head = head
	if blocks == nil {
		s.recent, s.bytes, s.floor = nil, 0, head
	}
	for _, b := range blocks {
		s.recent = append(s.recent, b)
		s.bytes += feedBlock + len(b.Data)
	}
	for len(s.recent) > 0 && s.bytes > feedBytes {
		s.bytes -= feedBlock + len(s.recent[0].Data)
		s.floor = s.recent[0].Last
		s.recent[0] = nil
		s.recent = s.recent[1:]
	}
	close(s.wake)
	s.wake = make(chan struct{})
}

// After returns the blocks that end after the place, when the feed still has
// all of them; the visible head; and a channel that is closed when more is
// published. With head > after and no blocks, the store has to be read.
func (f *Feed) After(stream string, after int64) (blocks []*Block, head int64, wake <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stream(stream)
	if after >= s.floor {
		i := sort.Search(len(s.recent), func(i int) bool { return s.recent[i].Last > after })
		blocks = append(blocks, s.recent[i:]...)
	}
	return blocks, s.head, s.wake
}

// Head returns how far the stream is visible.
func (f *Feed) Head(stream string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stream(stream).head
}
