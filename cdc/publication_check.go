package cdc

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/relay"
)

// unpublishedSQL returns those of the tables under whose names no changes come,
// with the published table whose changes theirs come as, and whether it is
// their partitions that are published.
const unpublishedSQL = `WITH published AS (
  SELECT c.oid, p.schemaname || '.' || p.tablename AS name FROM pg_publication_tables p
  JOIN pg_namespace n ON n.nspname = p.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
  WHERE p.pubname = $3)
SELECT want.s, want.t, coalesce((SELECT p.name FROM pg_partition_ancestors(c.oid) a JOIN published p ON p.oid = a.relid LIMIT 1), ''),
  EXISTS (SELECT FROM pg_partition_tree(c.oid) l JOIN published p ON p.oid = l.relid)
FROM unnest($1::text[], $2::text[]) AS want(s, t)
LEFT JOIN pg_namespace n ON n.nspname = want.s
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = want.t
WHERE c.oid IS NULL OR c.oid NOT IN (SELECT oid FROM published)
ORDER BY 1, 2`

// CheckPublished returns a *SetupError when changes of one of the tables do not
// come under its name: the publication does not have it, or it is partitioned
// and its changes come as those of its root or of its partitions.
func CheckPublished(ctx context.Context, url relay.Secret, publication string, tables []relay.TableName) error {
	if len(tables) == 0 {
		return nil
	}
	conn, err := connect(ctx, url, "publication", SessionOptions)
	if err != nil {
		return err
	}
	defer disconnect(conn)
	var schemas, names []string
	for _, t := range tables {
		schemas, names = append(schemas, t.Schema), append(names, t.Name)
	}
	rows, err := conn.Query(ctx, unpublishedSQL, schemas, names, publication)
	if err != nil {
		return fmt.Errorf("check publication %s: %w", publication, err)
	}
	var errs []error
	var t relay.TableName
	var root string
	var parts bool
	alter := "ALTER PUBLICATION " + quoteIdent(publication)
	_, err = pgx.ForEachRow(rows, []any{&t.Schema, &t.Name, &root, &parts}, func() error {
		e := &SetupError{Summary: fmt.Sprintf("the publication does not have the table %s that rules name", t), SQL: []string{alter + " ADD TABLE " + quoteTable(t) + ";"}}
		switch {
		case root != "":
			e = &SetupError{
				Summary: fmt.Sprintf("the changes of %s come as those of %s, of which it is a partition: a rule that names it never matches", t, root),
				Detail:  "the publication has both, or all tables, with publish_via_partition_root: name the root in the rule, or take it out of the publication",
			}
		case parts:
			e = &SetupError{
				Summary: fmt.Sprintf("the changes of %s come as those of its partitions: a rule that names it never matches", t),
				SQL:     []string{alter + " SET (publish_via_partition_root = true);"},
			}
		}
		errs = append(errs, e)
		return nil
	})
	if err != nil {
		return fmt.Errorf("check publication %s: %w", publication, err)
	}
	return joined(errs)
}
