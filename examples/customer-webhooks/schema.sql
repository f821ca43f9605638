-- A billing service with many customers (accounts), each of which sees its own invoices only.
CREATE TABLE accounts (
  id   text PRIMARY KEY,
  name text NOT NULL
);

CREATE TABLE invoices (
  id            uuid          PRIMARY KEY,
  account_id    text          NOT NULL REFERENCES accounts,
  number        text          NOT NULL,
  status        text          NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'sent', 'paid', 'void')),
  amount        numeric(12,2) NOT NULL,
  currency      char(3)       NOT NULL,
  payer_email   text          NOT NULL,
  lines         jsonb         NOT NULL DEFAULT '[]',
  internal_note text,
  live          boolean       NOT NULL DEFAULT true,
  paid_at       timestamptz
);

ALTER TABLE invoices REPLICA IDENTITY FULL;
