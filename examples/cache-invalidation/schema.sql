-- The catalogue of a shop, of which pages are cached in many places.
CREATE TABLE products (
  id          bigint PRIMARY KEY,
  category_id bigint NOT NULL,
  name        text   NOT NULL,
  visible     boolean NOT NULL DEFAULT true,
  view_count  bigint NOT NULL DEFAULT 0
);

CREATE TABLE prices (
  product_id bigint  NOT NULL REFERENCES products ON DELETE CASCADE,
  region     text    NOT NULL,
  cents      integer NOT NULL,
  PRIMARY KEY (product_id, region)
);

CREATE TABLE translations (
  product_id bigint NOT NULL REFERENCES products ON DELETE CASCADE,
  language   text   NOT NULL,
  text       text   NOT NULL,
  PRIMARY KEY (product_id, language)
);

-- Only the rule on products asks for old values other than keys, and that table is read often and
-- written seldom.
ALTER TABLE products REPLICA IDENTITY FULL;
