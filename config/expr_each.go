package config

import (
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

// Bounds of what one change can make: a rule that goes beyond them fails on it.
const (
	maxEvents    = 1000
	maxEventData = maxText
)

// each makes an event of every element of for_each. When one of them fails, the
// rule fails on the change and makes none.
func (p *program) each(c *relay.Change, d *relay.Draft) (bool, error) {
	f := &p.frame
	list := f.known(p.forEach(f))
	switch {
	case list.kind == kindFailed:
		return false, p.failure(p.exprs.forEach)
	case list.kind == kindNull:
		return false, nil
	case list.kind != kindJSON:
		f.fail(p.exprs.forEach.rng, "for_each needs a list or an object, and this is "+list.kinds().String())
		return false, p.failure(p.exprs.forEach)
	}
	n, bytes := 0, 0
	for r, i := readJSON(list.text), 0; r.next(); i++ {
		f.vars[eachKeySlot] = intValue(int64(i))
		if r.key != nil {
			if r.again() {
				continue // as in jsonb, the last of several with one name counts
			}
			f.vars[eachKeySlot] = f.fromToken(r.key)
		}
		f.vars[eachValueSlot] = f.fromToken(r.val)
		item := d
		if n > 0 {
			item = d.Add()
		}
		if n++; n > maxEvents {
			f.fail(p.exprs.forEach.rng, fmt.Sprintf("for_each has more than %d elements", maxEvents))
			return false, p.failure(p.exprs.forEach)
		}
		if err := p.draft(c, item); err != nil {
			return false, fmt.Errorf("element %d of for_each: %w", i, err)
		}
		if bytes += len(item.Data); bytes > maxEventData {
			f.fail(p.exprs.forEach.rng, "the data of the events of one change is more than 64 MiB")
			return false, p.failure(p.exprs.forEach)
		}
	}
	return n > 0, nil
}
