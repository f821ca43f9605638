-- An outbox without a table: the application says what happened with a logical message, in the
-- transaction in which it happens. The message is in the WAL if and only if the transaction
-- commits, needs no clean-up, and no table grows.
CREATE TABLE baskets (
  id         uuid PRIMARY KEY,
  user_id    bigint NOT NULL,
  ordered_at timestamptz
);

-- What the application calls. The event and its data are decided here, in its own words, and not
-- read out of columns.
CREATE FUNCTION announce(event text, subject text, data jsonb) RETURNS void
LANGUAGE sql AS $$
  SELECT pg_logical_emit_message(true, 'outbox',
    jsonb_build_object('event', event, 'subject', subject, 'data', data)::text);
$$;
