package cdc

import (
	"context"
	"fmt"
	"strings"

	"github.com/rowhook/rowhook/relay"
)

// ReadRow reads a row by its primary key, as a stream would send it: the values
// of several columns are joined by commas. It returns nil when there is no such
// row.
func ReadRow(ctx context.Context, url relay.Secret, t *relay.Table, key string) (relay.Row, error) {
	parts := []string{key}
	if n := len(t.PrimaryKey); n > 1 {
		if parts = strings.SplitN(key, ",", n); len(parts) != n {
			return nil, fmt.Errorf("the primary key of %s has %d columns, write their values joined by commas", t.Table(), n)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	conn, err := connect(ctx, url, "lookup", SessionOptions)
	if err != nil {
		return nil, err
	}
	defer disconnect(conn)
	args := make([][]byte, len(parts))
	for i, p := range parts {
		args[i] = []byte(p)
	}
	res := conn.PgConn().ExecParams(ctx, rowSQL(t), args, nil, nil, nil).Read()
	if res.Err != nil || len(res.Rows) == 0 {
		return nil, res.Err
	}
	row := make(relay.Row, len(t.Columns))
	for i, text := range res.Rows[0] {
		row[i].State = relay.Null
		if text != nil {
			row[i] = relay.Value{State: relay.Known, Text: text}
		}
	}
	return row, nil
}

// rowSQL selects all columns of the row with the primary key $1, $2 and so on.
func rowSQL(t *relay.Table) string {
	var columns, where []string
	for _, c := range t.Columns {
		columns = append(columns, quoteIdent(c.Name))
	}
	for n, i := range t.PrimaryKey {
		where = append(where, fmt.Sprintf("%s = $%d", quoteIdent(t.Columns[i].Name), n+1))
	}
	return "SELECT " + strings.Join(columns, ", ") + " FROM " + quoteTable(t.Table()) + " WHERE " + strings.Join(where, " AND ")
}
