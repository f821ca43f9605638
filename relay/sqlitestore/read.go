package sqlitestore

import (
	"context"
	"database/sql"
	"fmt"
)

// querier is the read pool or a transaction of it.
type querier interface {
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

// The planner knows nothing of how many rows a table has (ANALYZE is never
// run), so queries that must begin with the small tables say CROSS JOIN, which
// SQLite takes as the order to go by.

// collect runs a query and reads its rows into memory, so that the read
// transaction ends before anybody looks at them.
func collect[T any](ctx context.Context, db querier, what string, scan func(scanner) (T, error), text string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return out, nil
}
