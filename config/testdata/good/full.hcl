rowhook {
  language       = 1
  data_dir       = "data"
  listen         = "127.0.0.1:0"
  shutdown_grace = "1m30s"
  log {
    retention = "24h"
    max_size  = "512MiB"
    on_full   = "expire"
  }
}

locals {
  paid  = new.status == "paid"
  hooks = "https://hooks.example.com"
}

source "postgres" "shop" {
  url = env("DATABASE_URL")
}

source "postgres" "stock" {
  url               = "postgres:///stock?host=/run/postgresql"
  slot              = "stock_events"
  publication       = "Stock Events"
  manage            = false
  columns           = "rules"
  confirm           = "delivered"
  max_rule_failures = 5
  on_error          = "skip"
  keep_changes      = "36h"
  keep_changes_size = "64MiB"
}

event "order.paid" {
  description = "An order was paid in full."
  source      = source.shop
  table       = "public.orders"
  on          = ["update"]
  when        = local.paid && old.status != "paid"
  key         = row.id
  tenant      = row.account_id
  data = {
    order_id = new.id
    total    = new.total_cents
  }
}

event "order.paid_v2" {
  type    = "order.paid"
  version = 2
  source  = "shop"
  table   = "public.orders"
  on      = ["update"]
  when    = local.paid
  numbers = "string"
  data    = row
}

event "stock.changed" {
  source  = source.stock
  tables  = ["public.Items", "\"we.ird\".t"]
  on      = ["insert", "update", "delete", "read"]
  barrier = true
  data    = row
}

event "export.requested" {
  source         = source.shop
  channel        = "exports"
  payload_format = "text"
  data           = payload
}

event "user.signed_up" {
  source            = source.shop
  message           = "signup"
  non_transactional = true
  data              = payload
}

sink "webhook" "billing" {
  url           = "${local.hooks}/billing"
  events        = ["order.**", "!order.paid@2"]
  secrets       = [env("SIGNING"), env("NOT_SET", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")]
  format        = "standard"
  order         = "strict"
  on_failure    = "park"
  from          = "earliest"
  max_in_flight = env("NUMBER")
  timeout       = "3s"
  allow_private = false
  headers = {
    authorization = "Bearer ${env("WORD")}"
    x-team        = "billing"
  }
  retry {
    max_attempts = 3
    initial      = "1s"
    max          = "1m"
    multiplier   = 1.5
    jitter       = 0
  }
}

sink "webhook" "plain" {
  url      = env("HOOK_URL")
  events   = ["**"]
  unsigned = true
}

sink "stdout" "log" {
  events = ["**", "rowhook.**"]
}
