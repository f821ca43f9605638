package relay

// defaultKeys appends the default key of a row event, its table and primary
// key, and, when an update changed it, the key before. Both stay empty when
// the event has no row or the table no primary key.
//
// The form is "schema.table/value" for a key of one column and
// "schema.table/["a","b"]" for several, so that no two keys look alike.
func defaultKeys(c *Change, key, old []byte) ([]byte, []byte) {
	rel := c.Relation
	if rel == nil || len(rel.PrimaryKey) == 0 {
		return key, old
	}
	row := c.New
	if row == nil {
		row = c.Old
	}
	if row == nil {
		return key, old
	}
	key = appendRowKey(key, rel, row)
	if c.Op == Update && c.Old != nil && keyKnown(rel, c.Old) {
		old = appendRowKey(old, rel, c.Old)
	}
	return key, old
}

// HasRowKey reports whether the row has the primary key that is written as text:
// the value of the one column, or those of several joined by commas, or what
// follows the table in the default key of an event.
func HasRowKey(rel *Relation, row Row, text string) bool {
	if row == nil || len(rel.PrimaryKey) == 0 || !keyKnown(rel, row) {
		return false
	}
	joined := ""
	for n, i := range rel.PrimaryKey {
		joined += ","[:min(n, 1)] + string(row[i].Text)
	}
	return joined == text || string(appendRowKey(nil, rel, row)) == rel.Table().String()+"/"+text
}

func keyKnown(rel *Relation, row Row) bool {
	for _, i := range rel.PrimaryKey {
		if row[i].State != Known {
			return false
		}
	}
	return true
}

func appendRowKey(dst []byte, rel *Relation, row Row) []byte {
	if !keyKnown(rel, row) {
		return dst
	}
	dst = append(dst, rel.Schema...)
	dst = append(dst, '.')
	dst = append(dst, rel.Name...)
	dst = append(dst, '/')
	if len(rel.PrimaryKey) == 1 {
		return append(dst, row[rel.PrimaryKey[0]].Text...)
	}
	for n, i := range rel.PrimaryKey {
		dst = append(dst, "[,"[min(n, 1)], '"')
		for _, b := range row[i].Text {
			if b == '"' || b == '\\' {
				dst = append(dst, '\\')
			}
			dst = append(dst, b)
		}
		dst = append(dst, '"')
	}
	return append(dst, ']')
}
