package relay

import "sync"

// Recent remembers the last changes of a source in memory, so that a person can
// be told how rules judge them. It holds little more than twice RecentBytes, and
// adding to it allocates nothing once it has grown.
type Recent struct {
	mu sync.Mutex
	// older and newer are filled one after the other; the older one is forgotten
	// as a whole.
	older, newer recentHalf
	next         int64 // number of the next change
}

// RecentBytes is the size at which half of what is remembered is forgotten.
const RecentBytes = 512 << 10

// maxRecentValue bounds each value that is remembered, in bytes.
const maxRecentValue = 4 << 10

type recentHalf struct {
	changeBuffer
	first int64 // number of the first change
	count int64
}

// RecentChange is a change as Recent remembers it.
type RecentChange struct {
	// N rises from change to change, from 1.
	N      int64
	Change Change
	// Cut are columns whose value was too long to be remembered; they are unknown
	// in the rows.
	Cut []string
}

// Add remembers a row change.
func (r *Recent) Add(c *Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.newer.buf) >= RecentBytes {
		r.older, r.newer = r.newer, r.older
		r.newer.reset(2 * RecentBytes) // one very wide row must not stay for ever
		r.newer.count = 0
	}
	h := &r.newer
	r.next++
	if h.count == 0 {
		h.first = r.next
	}
	h.count++
	h.add(c, maxRecentValue)
}

// Of returns the remembered changes of a table, oldest first, from the number
// on. since is the commit time of the oldest change of any table that is
// remembered, in microseconds since the Unix epoch, 0 when there is none;
// forgotten says that there were older ones, and next is the number of the next
// change.
func (r *Recent) Of(table TableName, from int64) (changes []RecentChange, since int64, forgotten bool, next int64) {
	r.mu.Lock()
	halves := [2]recentHalf{r.older, r.newer}
	for i := range halves {
		halves[i].buf = append([]byte(nil), halves[i].buf...)
		halves[i].relations = append([]*Relation(nil), halves[i].relations...)
	}
	next = r.next + 1
	r.mu.Unlock()
	first := int64(0)
	for i := range halves {
		h := &halves[i]
		d := changeReader{rest: h.buf, relations: h.relations}
		for n := h.first; ; n++ {
			c := RecentChange{N: n}
			var ok bool
			if c.Cut, ok = d.next(&c.Change); !ok {
				break
			}
			if first == 0 {
				first, since = n, c.Change.Tx.CommitTime
			}
			if n >= from && c.Change.Relation.Table() == table {
				changes = append(changes, c)
			}
		}
	}
	return changes, since, first > 1, next
}
