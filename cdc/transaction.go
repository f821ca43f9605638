package cdc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

// contextPrefix is the prefix of logical messages whose payload becomes part of
// tx.context, contextLimit the bytes that one transaction's context may have.
const (
	contextPrefix = "rowhook.context"
	contextLimit  = 64 << 10
)

// transaction is the state of the transaction that is being received.
type transaction struct {
	relay.Tx
	open     bool
	ordinals ordinals
	context  map[string]json.RawMessage
}

func (t *transaction) begin(xid uint32, final relay.LSN, time int64) {
	t.Tx = relay.Tx{XID: xid, CommitLSN: final, CommitTime: time}
	t.open = true
	t.ordinals.reset()
	t.context = nil
}

var errContextLimit = fmt.Errorf("the transaction's context would exceed %d bytes", contextLimit)

// addContext merges a payload into the transaction's context; of equal names
// the later wins. After an error the context is as it was.
func (t *transaction) addContext(payload []byte) error {
	if len(payload) > contextLimit {
		return errContextLimit
	}
	var add map[string]json.RawMessage
	if err := json.Unmarshal(payload, &add); err != nil || add == nil {
		return errors.New("the payload is not a JSON object")
	}
	merged := make(map[string]json.RawMessage, len(t.context)+len(add))
	for k, v := range t.context {
		merged[k] = v
	}
	for k, v := range add {
		merged[k] = v
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(merged); err != nil {
		return err
	}
	text := bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	if len(text) > contextLimit {
		return errContextLimit
	}
	t.context, t.Context = merged, text
	return nil
}

// ordinals counts the changes of a transaction that have the same operation and
// position: the rows of one COPY share theirs.
//
// The positions of one operation do not fall within a transaction, because the
// server merges a transaction's changes by position; so one count for each
// operation is enough. One change is an exception: an INSERT ... ON CONFLICT is
// placed where it began and sent when it is settled, and what ran in between
// (a function of an index that writes) is sent before it. Such a change counts
// from fallen on, in a map of its own. A resent transaction has the same
// changes in the same order, so its ordinals are the same again.
type ordinals struct {
	last   [5]position // insert, update, delete, truncate, message
	fallen map[positionOf]uint32
}

// fallenFrom keeps the two ways to count apart.
const fallenFrom = 1 << 31

type position struct {
	lsn   relay.LSN
	count uint32 // of the changes there so far
}

type positionOf struct {
	op  relay.Op
	lsn relay.LSN
}

func (o *ordinals) reset() {
	o.last = [5]position{}
	o.fallen = nil
}

func (o *ordinals) next(op relay.Op, lsn relay.LSN) uint32 {
	var p *position
	switch op {
	case relay.Insert:
		p = &o.last[0]
	case relay.Update:
		p = &o.last[1]
	case relay.Delete:
		p = &o.last[2]
	case relay.Truncate:
		p = &o.last[3]
	default:
		p = &o.last[4]
	}
	if lsn > p.lsn || p.count == 0 {
		*p = position{lsn: lsn}
	}
	if lsn < p.lsn {
		if o.fallen == nil {
			o.fallen = make(map[positionOf]uint32)
		}
		at := positionOf{op, lsn}
		k := o.fallen[at]
		o.fallen[at]++
		return fallenFrom + k
	}
	p.count++
	return p.count - 1
}
