package relay

import "hash/fnv"

// item is a delivery in the dispatcher's memory. Its endpoint's mutex guards
// it, except that the worker that sends it may read its event.
type item struct {
	cur   *cursor
	event Event
	// loaded says that the event has its data. An item that waits for long
	// gives its data up and reads it again from the log.
	loaded bool

	state    itemState
	waits    int // lanes in which it is not first, plus one behind a barrier
	lanes    [2]*lane
	next     [2]*item
	hash     [2]uint64
	counted  bool // counted in its table's active deliveries
	bytes    int  // counted in its cursor's window
	attempts int
	nextAt   int64 // when the next attempt is due, microseconds; 0 is now
	due      int   // index in the endpoint's heap of retries, -1 when not in it
	started  int64 // when the attempt under way began, microseconds
	probe    bool  // the attempt under way is a probe and does not count
	again    bool
	dirty    bool // in the endpoint's list of rows to write
	row      bool // has an open row in the store, or in the settlement under way
	outcome  Outcome
}

type itemState uint8

const (
	itemWaiting  itemState = iota // behind others, or until nextAt
	itemReady                     // in the ready queue
	itemSending                   // a worker has it
	itemSettled                   // delivered
	itemDead                      // needs a person
	itemHeld                      // its endpoint is disabled
	itemReleased                  // retrying, and no longer holding up anything
)

// lane is the deliveries of one key at one endpoint in the order of the
// stream. Only the first may be sent.
type lane struct {
	key        uint64
	head, tail *item
}

func laneHash(key []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(key)
	return max(h.Sum64(), 1)
}

// laneSet is the lanes of one cursor, and the barriers of its tables.
type laneSet struct {
	lanes  map[uint64]*lane
	tables map[string]*tableLane
}

// tableLane orders barriers with the other deliveries of their table: a
// barrier waits until all before it are settled, and all after it wait for it.
type tableLane struct {
	active  int     // deliveries under way, or the barrier
	waiting []*item // a barrier and what came after it
}

func newLaneSet() laneSet {
	return laneSet{map[uint64]*lane{}, map[string]*tableLane{}}
}

// add puts the item last in its lanes and counts what it has to wait for.
func (s *laneSet) add(it *item) {
	for i, h := range it.hash {
		if h == 0 || i == 1 && h == it.hash[0] {
			continue
		}
		l := s.lanes[h]
		if l == nil {
			l = &lane{key: h}
			s.lanes[h] = l
		}
		it.lanes[i] = l
		if l.tail == nil {
			l.head = it
		} else {
			l.tail.next[l.slot(l.tail)] = it
			it.waits++
		}
		l.tail = it
	}
	if it.event.Table == "" {
		return
	}
	t := s.tables[it.event.Table]
	if t == nil {
		t = &tableLane{}
		s.tables[it.event.Table] = t
	}
	if len(t.waiting) > 0 || it.event.Barrier && t.active > 0 {
		t.waiting = append(t.waiting, it)
		it.waits++
		return
	}
	t.active++
	it.counted = true
	if it.event.Barrier {
		// What comes after has to wait: a barrier stands first in the queue while
		// it is under way.
		t.waiting = append(t.waiting, it)
	}
}

// slot is which of the item's two links belongs to the lane.
func (l *lane) slot(it *item) int {
	if it.lanes[0] == l {
		return 0
	}
	return 1
}

// remove takes the item, which is first in its lanes, out of them and calls
// free for every item that has nothing to wait for any more.
func (s *laneSet) remove(it *item, free func(*item)) {
	for i, l := range it.lanes {
		if l == nil {
			continue
		}
		l.head = it.next[i]
		it.lanes[i], it.next[i] = nil, nil
		if l.head == nil {
			delete(s.lanes, l.key)
			continue
		}
		s.free(l.head, free)
	}
	if !it.counted {
		return
	}
	it.counted = false
	t := s.tables[it.event.Table]
	t.active--
	if it.event.Barrier {
		t.waiting = t.waiting[1:]
	}
	for len(t.waiting) > 0 {
		n := t.waiting[0]
		if n.event.Barrier && t.active > 0 || n.counted {
			return
		}
		t.active++
		n.counted = true
		if !n.event.Barrier {
			t.waiting = t.waiting[1:]
		}
		s.free(n, free)
	}
	if t.active == 0 {
		delete(s.tables, it.event.Table)
	}
}

func (s *laneSet) free(it *item, free func(*item)) {
	if it.waits--; it.waits == 0 {
		free(it)
	}
}

// retryHeap orders items by when they are due.
type retryHeap []*item

func (h retryHeap) Len() int           { return len(h) }
func (h retryHeap) Less(i, j int) bool { return h[i].nextAt < h[j].nextAt }
func (h retryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].due, h[j].due = i, j
}

// Push implements heap.Interface.
func (h *retryHeap) Push(x any) {
	it := x.(*item)
	it.due = len(*h)
	*h = append(*h, it)
}

// Pop implements heap.Interface.
func (h *retryHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	it.due = -1
	return it
}

// queue is a first-in, first-out list of items.
type queue struct {
	items []*item
	head  int
}

func (q *queue) len() int { return len(q.items) - q.head }

func (q *queue) push(it *item) {
	if q.head > 64 && q.head*2 > len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, it)
}

func (q *queue) front() *item { return q.items[q.head] }

func (q *queue) pop() *item {
	it := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return it
}

// remove takes the item out of the queue and reports whether it was there.
func (q *queue) remove(it *item) bool {
	for i := q.head; i < len(q.items); i++ {
		if q.items[i] == it {
			copy(q.items[i:], q.items[i+1:])
			q.items[len(q.items)-1] = nil
			q.items = q.items[:len(q.items)-1]
			return true
		}
	}
	return false
}
