-- The orders of a shop, and their lines.
CREATE TABLE orders (
  id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer_id  bigint      NOT NULL,
  status       text        NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'shipped', 'cancelled')),
  total_cents  integer     NOT NULL DEFAULT 0,
  currency     char(3)     NOT NULL DEFAULT 'EUR',
  tracking     text,
  cancelled_by text,
  placed_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE order_lines (
  order_id    bigint  NOT NULL REFERENCES orders ON DELETE CASCADE,
  line        integer NOT NULL,
  sku         text    NOT NULL,
  quantity    integer NOT NULL CHECK (quantity > 0),
  price_cents integer NOT NULL,
  PRIMARY KEY (order_id, line)
);

-- The rules ask what a row was before: whether an order was paid already, how many of a line there
-- were. PostgreSQL sends old values only as far as the replica identity goes.
ALTER TABLE orders      REPLICA IDENTITY FULL;
ALTER TABLE order_lines REPLICA IDENTITY FULL;
