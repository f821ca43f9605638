-- An application in which it matters who did what: members of a team and their rights.
CREATE TABLE members (
  id            bigint  PRIMARY KEY,
  email         text    NOT NULL,
  role          text    NOT NULL DEFAULT 'reader' CHECK (role IN ('reader', 'editor', 'owner')),
  password_hash text    NOT NULL,
  last_seen_at  timestamptz
);

CREATE TABLE settings (
  name  text PRIMARY KEY,
  value jsonb NOT NULL
);

-- An audit wants the whole row as it was.
ALTER TABLE members  REPLICA IDENTITY FULL;
ALTER TABLE settings REPLICA IDENTITY FULL;

-- Who it is that acts, and why: the application says it once, at the beginning of a transaction.
-- Nothing is stored in the database; the message is in the WAL, and is tx.context in rules.
CREATE FUNCTION acting(actor text, reason text DEFAULT NULL) RETURNS void
LANGUAGE sql AS $$
  SELECT pg_logical_emit_message(true, 'rowhook.context',
    jsonb_build_object('actor', actor, 'reason', reason)::text);
$$;
