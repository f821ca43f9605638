package sqlitestore

import (
	"context"
	"fmt"

	"github.com/rowhook/rowhook/relay"
)

// applicationID marks the file as a store of Rowhook ("Rowh").
const applicationID = 0x526f7768

// migrations lead from each version of the schema to the next; the version is
// PRAGMA user_version. They go forward only. A released one is never changed.
var migrations = []string{schema1, schema2, schema3, schema4, schema5}

const schema1 = `
-- One ordered series of events. What is at or below head is visible; what lies
-- between head and tail is the stored part of a transaction whose end has not
-- come.
CREATE TABLE streams (
	id      INTEGER PRIMARY KEY,
	name    TEXT    NOT NULL UNIQUE CHECK (name <> ''),
	head    INTEGER NOT NULL DEFAULT 0,
	tail    INTEGER NOT NULL DEFAULT 0,
	-- every cursor without a position of its own has come this far
	routed  INTEGER NOT NULL DEFAULT 0,
	-- up to here blocks were deleted by retention
	trimmed INTEGER NOT NULL DEFAULT 0,
	-- sum of blocks.size
	bytes   INTEGER NOT NULL DEFAULT 0,
	-- no block spans more places than this: bounds the search for an event id
	width   INTEGER NOT NULL DEFAULT 0,
	CHECK (0 <= trimmed AND trimmed <= head AND head <= tail),
	CHECK (0 <= routed AND routed <= head),
	CHECK (bytes >= 0 AND width >= 0)
) STRICT;

-- A packed run of events. data comes last, so that scanning the other columns
-- does not touch its overflow pages.
CREATE TABLE blocks (
	id          INTEGER PRIMARY KEY,
	stream_id   INTEGER NOT NULL REFERENCES streams (id),
	first       INTEGER NOT NULL CHECK (first > 0),
	last        INTEGER NOT NULL,
	count       INTEGER NOT NULL,
	first_time  INTEGER NOT NULL,
	last_time   INTEGER NOT NULL,
	first_place INTEGER NOT NULL,
	last_place  INTEGER NOT NULL,
	size        INTEGER NOT NULL,
	data        BLOB    NOT NULL,
	CHECK (first <= last AND count BETWEEN 1 AND last - first + 1),
	CHECK (first_time <= last_time AND first_place <= last_place),
	CHECK (size = length(data))
) STRICT;
CREATE UNIQUE INDEX blocks_by_last ON blocks (stream_id, last);
CREATE INDEX blocks_by_place ON blocks (stream_id, first_place, last_place);

-- Changes on which a rule failed.
CREATE TABLE failures (
	id        INTEGER PRIMARY KEY,
	stream_id INTEGER NOT NULL REFERENCES streams (id),
	seq       INTEGER NOT NULL CHECK (seq > 0),
	rule      TEXT    NOT NULL,
	at        INTEGER NOT NULL,
	lsn       INTEGER NOT NULL,
	xid       INTEGER NOT NULL,
	relation  TEXT    NOT NULL,
	change    BLOB,
	error     TEXT    NOT NULL
) STRICT;
CREATE UNIQUE INDEX failures_by_seq ON failures (stream_id, seq);

CREATE TABLE sources (
	name        TEXT    PRIMARY KEY CHECK (name <> ''),
	generation  INTEGER NOT NULL,
	system_id   INTEGER NOT NULL,
	timeline    INTEGER NOT NULL,
	database    TEXT    NOT NULL,
	address     TEXT    NOT NULL,
	slot        TEXT    NOT NULL,
	publication TEXT    NOT NULL,
	phase       TEXT    NOT NULL CHECK (phase IN ('creating', 'streaming')),
	-- the checkpoint
	lsn         INTEGER NOT NULL,
	-- the half-stored transaction as JSON
	partial     TEXT    CHECK (partial IS NULL OR json_valid(partial)),
	updated_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE gaps (
	id         INTEGER PRIMARY KEY,
	source     TEXT    NOT NULL,
	generation INTEGER NOT NULL,
	at         INTEGER NOT NULL,
	from_lsn   INTEGER NOT NULL,
	to_lsn     INTEGER NOT NULL,
	reason     TEXT    NOT NULL
) STRICT;

CREATE TABLE endpoints (
	id         TEXT    PRIMARY KEY CHECK (id <> ''),
	kind       TEXT    NOT NULL,
	target     TEXT    NOT NULL,
	status     TEXT    NOT NULL CHECK (status IN ('active', 'disabled', 'vanished')),
	reason     TEXT    NOT NULL,
	created_at INTEGER NOT NULL,
	versions   TEXT    NOT NULL CHECK (json_valid(versions))
) STRICT, WITHOUT ROWID;

CREATE TABLE replays (
	id         INTEGER PRIMARY KEY AUTOINCREMENT,
	endpoint   TEXT    NOT NULL,
	stream_id  INTEGER NOT NULL REFERENCES streams (id),
	first      INTEGER NOT NULL,
	last       INTEGER NOT NULL,
	created_at INTEGER NOT NULL,
	reason     TEXT    NOT NULL,
	done       INTEGER NOT NULL CHECK (done IN (0, 1))
) STRICT;

-- One pass of an endpoint over a stream. Without a position it is current: at
-- streams.routed (or, for a replay, done).
CREATE TABLE cursors (
	id        INTEGER PRIMARY KEY,
	endpoint  TEXT    NOT NULL CHECK (endpoint <> ''),
	stream_id INTEGER NOT NULL REFERENCES streams (id),
	replay    INTEGER NOT NULL,
	position  INTEGER CHECK (position >= 0),
	-- no success record spans more than this: bounds the search for one
	width     INTEGER NOT NULL DEFAULT 0 CHECK (width >= 0),
	UNIQUE (endpoint, stream_id, replay)
) STRICT;

-- Deliveries that did not succeed at once and are not delivered.
CREATE TABLE deliveries (
	cursor_id   INTEGER NOT NULL REFERENCES cursors (id),
	seq         INTEGER NOT NULL CHECK (seq > 0),
	event_id    BLOB    NOT NULL CHECK (length(event_id) = 20),
	type        TEXT    NOT NULL,
	state       TEXT    NOT NULL CHECK (state IN ('pending', 'retrying', 'dead', 'held', 'cancelled')),
	attempts    INTEGER NOT NULL CHECK (attempts >= 0),
	-- when the next attempt is due; 0 waits behind another of its lane
	next_at     INTEGER NOT NULL,
	lane        INTEGER NOT NULL,
	old_lane    INTEGER NOT NULL,
	relation    TEXT    NOT NULL,
	barrier     INTEGER NOT NULL CHECK (barrier IN (0, 1)),
	again       INTEGER NOT NULL CHECK (again IN (0, 1)),
	last_class  TEXT    NOT NULL,
	last_status INTEGER NOT NULL,
	last_error  TEXT    NOT NULL,
	updated_at  INTEGER NOT NULL,
	PRIMARY KEY (cursor_id, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_by_state ON deliveries (cursor_id, state, updated_at);
CREATE INDEX deliveries_by_event ON deliveries (event_id);

-- Attempts recorded in full.
CREATE TABLE attempts (
	id        INTEGER PRIMARY KEY,
	cursor_id INTEGER NOT NULL REFERENCES cursors (id),
	seq       INTEGER NOT NULL,
	n         INTEGER NOT NULL CHECK (n > 0),
	at        INTEGER NOT NULL,
	duration  INTEGER NOT NULL,
	status    INTEGER NOT NULL,
	class     TEXT    NOT NULL,
	error     TEXT    NOT NULL,
	response  BLOB    CHECK (length(response) <= 4096)
) STRICT;
CREATE UNIQUE INDEX attempts_by_delivery ON attempts (cursor_id, seq, n);

-- Packed records of deliveries that succeeded; see success.go for the form.
CREATE TABLE successes (
	id        INTEGER PRIMARY KEY,
	cursor_id INTEGER NOT NULL REFERENCES cursors (id),
	first_seq INTEGER NOT NULL,
	last_seq  INTEGER NOT NULL,
	last_at   INTEGER NOT NULL,
	data      BLOB    NOT NULL,
	CHECK (first_seq <= last_seq)
) STRICT;
CREATE INDEX successes_by_seq ON successes (cursor_id, last_seq);
CREATE INDEX successes_by_time ON successes (cursor_id, last_at);

-- Small facts about the store as a whole.
CREATE TABLE settings (
	key   TEXT PRIMARY KEY,
	value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
`

const schema2 = `
-- Runs over the rows that exist. progress is what was read, as JSON.
CREATE TABLE backfills (
	id         INTEGER PRIMARY KEY AUTOINCREMENT,
	source     TEXT    NOT NULL,
	rule       TEXT    NOT NULL,
	condition  TEXT    NOT NULL,
	rate       INTEGER NOT NULL CHECK (rate >= 0),
	initial    INTEGER NOT NULL CHECK (initial IN (0, 1)),
	state      TEXT    NOT NULL CHECK (state IN ('open', 'done', 'cancelled', 'failed')),
	reason     TEXT    NOT NULL,
	created_at INTEGER NOT NULL,
	ended_at   INTEGER NOT NULL,
	progress   TEXT    NOT NULL CHECK (json_valid(progress))
) STRICT;
`

const schema3 = `
-- Which rules judge a source's changes, and from which place on.
CREATE TABLE rule_sets (
	id       INTEGER PRIMARY KEY,
	source   TEXT    NOT NULL CHECK (source <> ''),
	-- what the message of the place carries
	marker   TEXT    NOT NULL UNIQUE CHECK (marker <> ''),
	hash     TEXT    NOT NULL,
	text     TEXT    NOT NULL,
	needs    TEXT    NOT NULL CHECK (json_valid(needs)),
	at       INTEGER NOT NULL,
	-- the place; 0 waits for it
	from_lsn INTEGER NOT NULL,
	gap      TEXT    CHECK (gap IS NULL OR json_valid(gap))
) STRICT;
CREATE INDEX rule_sets_by_source ON rule_sets (source, id);
`

const schema4 = `
-- The commit LSN of the last transaction that was read, and when the checkpoint
-- was moved last by what was read.
ALTER TABLE sources ADD COLUMN read_lsn INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sources ADD COLUMN read_at  INTEGER NOT NULL DEFAULT 0;
`

const schema5 = `
-- Changes as they came, in packed runs. Those above streams.kept_head are of
-- the half-stored transaction.
CREATE TABLE kept_changes (
	id        INTEGER PRIMARY KEY,
	stream_id INTEGER NOT NULL REFERENCES streams (id),
	seq       INTEGER NOT NULL CHECK (seq > 0),
	-- the time of the last change
	at        INTEGER NOT NULL,
	size      INTEGER NOT NULL,
	data      BLOB    NOT NULL,
	CHECK (size = length(data))
) STRICT;
CREATE UNIQUE INDEX kept_changes_by_seq ON kept_changes (stream_id, seq);

-- The tables that they name.
CREATE TABLE kept_tables (
	digest     TEXT PRIMARY KEY CHECK (digest <> ''),
	definition TEXT NOT NULL CHECK (json_valid(definition))
) STRICT, WITHOUT ROWID;

ALTER TABLE streams ADD COLUMN kept_head  INTEGER NOT NULL DEFAULT 0 CHECK (kept_head >= 0);
ALTER TABLE streams ADD COLUMN kept_tail  INTEGER NOT NULL DEFAULT 0 CHECK (kept_tail >= kept_head);
-- sum of kept_changes.size
ALTER TABLE streams ADD COLUMN kept_bytes INTEGER NOT NULL DEFAULT 0 CHECK (kept_bytes >= 0);
`

// migrate brings the schema to the newest version. It refuses a store of a
// newer program and a database that is not a store.
func migrate(ctx context.Context, c *conn) error {
	var version, app, tables int
	if err := c.row("PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if err := c.row("PRAGMA application_id").Scan(&app); err != nil {
		return err
	}
	if err := c.row("SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if app != applicationID && tables > 0 {
		return fmt.Errorf("it is an SQLite database, but not a store of rowhook (application_id %#x)", app)
	}
	if version > len(migrations) {
		return fmt.Errorf("%w: it has version %d, made by a newer rowhook; this one knows versions up to %d", relay.ErrStoreVersion, version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		script := fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT",
			migrations[version], applicationID, version+1)
		if err := c.script(script); err != nil {
			return fmt.Errorf("migrate to version %d: %w", version+1, err)
		}
	}
	return nil
}
