# Which cached things are stale: an event says the keys to drop, and nothing of the data. It comes
# only after the commit, so that whoever reads the database on it reads what is new.

rowhook {
  catalog = "catalog.json" # made by: rowhook check --database --save-catalog catalog.json
}

source "postgres" "shop" {
  url = env("DATABASE_URL")
}

event "cache.product_stale" {
  description = "Pages of a product, and of its category, are stale."
  table       = "public.products"
  on          = ["insert", "update", "delete"]

  # Every view counts itself in this table. That makes nothing stale.
  when = op != "update" || changed.name || changed.visible || changed.category_id
  key  = "product/${row.id}"
  data = {
    drop = distinct([
      "product:${row.id}",
      "category:${row.category_id}",
      # A product that moves leaves a stale category behind.
      "category:${op == "update" ? old.category_id : row.category_id}",
    ])
  }
}

# One rule for several tables: all of them have the column that it reads, in the primary key, which
# PostgreSQL sends with every change.
event "cache.product_part_stale" {
  description = "What belongs to a product has changed."
  tables      = ["public.prices", "public.translations"]
  on          = ["insert", "update", "delete"]
  key         = "product/${row.product_id}"
  data = {
    drop = ["product:${row.product_id}"]
  }
}

# TRUNCATE has no rows to speak of. Its event is a barrier: at an endpoint, what came before of this
# table is delivered before it, and what comes after it, after it.
event "cache.all_stale" {
  description = "Everything is stale."
  tables      = ["public.products", "public.prices", "public.translations"]
  on          = ["truncate"]
  data        = { drop = ["*"] }
}

# A cache that is away for an hour does not need what it has missed for days: few attempts, soon.
sink "webhook" "caches" {
  url        = env("WEBHOOK_URL")
  events     = ["cache.*"]
  secrets    = [env("WEBHOOK_SECRET")]
  on_failure = "park"
  timeout    = "2s"
  retry {
    max_attempts = 5
    initial      = "1s"
    multiplier   = 2
    max          = "30s"
  }
}
