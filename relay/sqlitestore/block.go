package sqlitestore

import (
	"context"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

const sqlInsertBlock = `
INSERT INTO blocks (stream_id, first, last, count, first_time, last_time, first_place, last_place, size, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

func (w *writer) insertBlock(stream int64, b *relay.Block) error {
	_, err := w.conn.exec(sqlInsertBlock, stream, b.First, b.Last, b.Count, b.FirstTime, b.LastTime,
		int64(b.FirstPlace), int64(b.LastPlace), len(b.Data), b.Data)
	return err
}

// sqlBlocks reads forwards; the sizes stand before the data, so the reader can
// stop before it reads a block too many.
const sqlBlocks = `
SELECT b.first, b.last, b.count, b.first_time, b.last_time, b.first_place, b.last_place, b.data
FROM streams s JOIN blocks b ON b.stream_id = s.id AND b.last > ?2 AND b.last <= s.head
WHERE s.name = ?1
ORDER BY b.last
LIMIT ?3`

// blockPage is how many blocks one query returns at most.
const blockPage = 256

// Blocks returns visible blocks of the stream that end after the place, oldest
// first: at least one when there is one, and no more than about maxBytes.
func (s *Store) Blocks(ctx context.Context, stream string, after int64, maxBytes int) ([]*relay.Block, error) {
	rows, err := s.blocks.QueryContext(ctx, stream, after, blockPage)
	if err != nil {
		return nil, fmt.Errorf("read blocks of stream %s after %d: %w", stream, after, err)
	}
	defer rows.Close()
	var out []*relay.Block
	size := 0
	for rows.Next() {
		b := &relay.Block{Stream: stream}
		if err := scanBlock(rows, b); err != nil {
			return nil, fmt.Errorf("read blocks of stream %s after %d: %w", stream, after, err)
		}
		size += len(b.Data)
		if len(out) > 0 && size > maxBytes {
			break
		}
		out = append(out, b)
		if size >= maxBytes {
			break
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read blocks of stream %s after %d: %w", stream, after, err)
	}
	return out, nil
}

type scanner interface{ Scan(dest ...any) error }

func scanBlock(r scanner, b *relay.Block) error {
	var firstPlace, lastPlace int64
	err := r.Scan(&b.First, &b.Last, &b.Count, &b.FirstTime, &b.LastTime, &firstPlace, &lastPlace, &b.Data)
	b.FirstPlace, b.LastPlace = uint64(firstPlace), uint64(lastPlace)
	return err
}
