# From the orders of a shop to signed webhooks. run.sh runs this against a PostgreSQL of its own;
# with your database in DATABASE_URL, a receiver in WEBHOOK_URL and its secret in WEBHOOK_SECRET:
#
#   rowhook run -c rowhook.hcl

source "postgres" "shop" {
  url = env("DATABASE_URL")
}

event "order.created" {
  description = "A customer placed an order."
  table       = "public.orders"
  on          = ["insert"]
  tenant      = new.account_id
  data        = new
}

event "order.paid" {
  description = "An order was paid in full."
  table       = "public.orders"
  on          = ["update"]
  when        = new.status == "paid" && old.status != "paid"
  tenant      = new.account_id
  data = {
    order_id = new.id
    total    = new.total_cents
    customer = new.customer_id
  }
}

event "order.deleted" {
  description = "An order was removed."
  table       = "public.orders"
  on          = ["delete"]
  data = {
    order_id = old.id
    status   = old.status
  }
}

# SELECT pg_logical_emit_message(true, 'signup', '{...}') in a transaction: an event without a
# table, which comes if and only if the transaction commits.
event "user.signed_up" {
  message = "signup"
  data    = payload
}

# NOTIFY exports, '{...}': for hints. One that is sent while nobody listens is gone.
event "export.requested" {
  channel = "exports"
  when    = payload.format == "csv"
  data    = payload
}

sink "webhook" "receiver" {
  url     = env("WEBHOOK_URL")
  events  = ["**"]
  secrets = [env("WEBHOOK_SECRET")]
}
