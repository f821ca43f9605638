-- A shop's orders, as any application might have them.
CREATE TABLE orders (
  id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id  bigint      NOT NULL,
  customer_id bigint      NOT NULL,
  status      text        NOT NULL DEFAULT 'pending',
  total_cents integer     NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now()
);

-- The rule order.paid asks what the status was *before* an update. PostgreSQL logs the old values
-- of a row only as far as the table's replica identity goes, and by default that is the primary
-- key. FULL logs the whole old row, on every update and delete.
ALTER TABLE orders REPLICA IDENTITY FULL;

-- Where that is too much WAL, a unique index over the columns that rules compare does it too, as
-- long as they are NOT NULL. A delete then knows only these two columns of the row:
--
--   CREATE UNIQUE INDEX orders_identity ON orders (id, status);
--   ALTER TABLE orders REPLICA IDENTITY USING INDEX orders_identity;
