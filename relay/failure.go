package relay

import "encoding/json"

// storedChange is the JSON form of a change in a dead letter: enough for a
// person to see what happened and for a corrected rule to judge it again.
type storedChange struct {
	Op         string             `json:"op"`
	Table      string             `json:"table,omitempty"`
	Name       string             `json:"name,omitempty"`
	LSN        LSN                `json:"lsn"`
	Ordinal    uint32             `json:"ordinal,omitempty"`
	XID        uint32             `json:"xid,omitempty"`
	CommitLSN  LSN                `json:"commit_lsn,omitempty"`
	CommitTime int64              `json:"commit_time,omitempty"`
	New        map[string]*string `json:"new,omitempty"`
	Old        map[string]*string `json:"old,omitempty"`
	Payload    string             `json:"payload,omitempty"`
	Context    json.RawMessage    `json:"context,omitempty"`
}

// maxStoredValue bounds each value kept in a dead letter, in bytes.
const maxStoredValue = 64 << 10

// EncodeChange returns the change as JSON: rows as objects of the values'
// text, null for null, without the columns whose value is unknown. Values are
// cut at 64 KiB.
func EncodeChange(c *Change) []byte {
	s := storedChange{Op: c.Op.String(), Name: c.Name, LSN: c.LSN, Ordinal: c.Ordinal, Payload: cut(c.Payload)}
	if c.Relation != nil {
		s.Table = c.Relation.Table().String()
		s.New = storedRow(c.Relation, c.New)
		s.Old = storedRow(c.Relation, c.Old)
	}
	if c.Tx != nil {
		s.XID, s.CommitLSN, s.CommitTime = c.Tx.XID, c.Tx.CommitLSN, c.Tx.CommitTime
		if json.Valid(c.Tx.Context) {
			s.Context = c.Tx.Context
		}
	}
	out, err := json.Marshal(s)
	if err != nil {
		// Strings, numbers and valid JSON always marshal.
		panic(err)
	}
	return out
}

func storedRow(rel *Relation, row Row) map[string]*string {
	if row == nil {
		return nil
	}
	m := make(map[string]*string, len(row))
	for i := range row {
		switch row[i].State {
		case Null:
			m[rel.Columns[i].Name] = nil
		case Known:
			v := cut(row[i].Text)
			m[rel.Columns[i].Name] = &v
		}
	}
	return m
}

func cut(b []byte) string {
	if len(b) > maxStoredValue {
		return string(b[:maxStoredValue]) + "..."
	}
	return string(b)
}
