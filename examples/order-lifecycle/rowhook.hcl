# The life of an order, from the rows of a shop: one event for each step that somebody outside of
# the orders team cares about, and none for the rest.

rowhook {
  catalog = "catalog.json" # made by: rowhook check --database --save-catalog catalog.json
}

source "postgres" "shop" {
  url = env("DATABASE_URL")
}

locals {
  # What every event of an order says. row is the row after the change, or the deleted one.
  order = {
    order_id    = row.id
    customer_id = row.customer_id
    total_cents = row.total_cents
    currency    = row.currency
  }
}

event "order.placed" {
  description = "A customer has placed an order."
  table       = "public.orders"
  on          = ["insert"]
  data        = merge(local.order, { placed_at = row.placed_at })
}

event "order.paid" {
  description = "An order is paid in full. It can be packed."
  table       = "public.orders"
  on          = ["update"]
  when        = new.status == "paid" && old.status != "paid"
  data        = local.order
}

event "order.shipped" {
  description = "A paid order has left the warehouse."
  table       = "public.orders"
  on          = ["update"]
  when        = new.status == "shipped" && old.status == "paid"
  data        = merge(local.order, { tracking = new.tracking })
}

event "order.cancelled" {
  description = "An order was cancelled. refund says whether there is money to give back."
  table       = "public.orders"
  on          = ["update"]
  when        = new.status == "cancelled" && old.status != "cancelled"
  data = merge(local.order, {
    by     = coalesce(new.cancelled_by, "customer")
    refund = old.status == "paid"
  })
}

# Lines of an order are in the lane of their order: an endpoint gets order.placed before the lines,
# and all of them before order.paid. Keys are one namespace, so this is the default key of an order.
event "order.line_changed" {
  description = "A line of an open order was added, changed or removed."
  table       = "public.order_lines"
  on          = ["insert", "update", "delete"]
  when        = op != "update" || changed.quantity
  key         = "public.orders/${row.order_id}"
  data = {
    order_id = row.order_id
    sku      = row.sku
    quantity = op == "delete" ? 0 : row.quantity
    before   = op == "insert" ? 0 : old.quantity
  }
}

sink "webhook" "fulfilment" {
  url     = env("WEBHOOK_URL")
  events  = ["order.**"]
  secrets = [env("WEBHOOK_SECRET")]
}
