# rowhook test runs these in a few milliseconds, without a database.

locals {
  order = {
    id          = 1
    customer_id = 42
    status      = "open"
    total_cents = 1999
    currency    = "EUR"
    placed_at   = "2026-01-31T09:30:00Z"
  }
  said = { order_id = 1, customer_id = 42, total_cents = 1999, currency = "EUR" }
}

test "a new order is placed" {
  insert "public.orders" {
    new = local.order
  }
  expect "order.placed" {
    key      = "public.orders/1"
    includes = { order_id = 1, placed_at = "2026-01-31T09:30:00+00:00" }
  }
}

test "an order that becomes paid is announced once" {
  update "public.orders" {
    old = local.order
    new = { status = "paid" }
  }
  # Somebody corrects the total afterwards: it was paid before, and is not paid again.
  update "public.orders" {
    old = { id = 1, customer_id = 42, status = "paid", total_cents = 1999 }
    new = { total_cents = 1500 }
  }
  expect "order.paid" {
    data = local.said
  }
}

test "only a paid order is shipped" {
  update "public.orders" {
    old = local.order
    new = { status = "shipped", tracking = "1Z999" }
  }
}

test "a shipped order has its tracking number" {
  update "public.orders" {
    old = { id = 1, customer_id = 42, total_cents = 1999, currency = "EUR", status = "paid" }
    new = { status = "shipped", tracking = "1Z999" }
  }
  expect "order.shipped" {
    data = {
      order_id    = 1
      customer_id = 42
      total_cents = 1999
      currency    = "EUR"
      tracking    = "1Z999"
    }
  }
}

test "an order that was not paid is cancelled without a refund" {
  update "public.orders" {
    old = local.order
    new = { status = "cancelled" }
  }
  expect "order.cancelled" {
    includes = { by = "customer", refund = false }
  }
}

test "a paid order is cancelled with a refund" {
  update "public.orders" {
    old = { id = 1, customer_id = 42, status = "paid" }
    new = { status = "cancelled", cancelled_by = "fraud team" }
  }
  expect "order.cancelled" {
    includes = { by = "fraud team", refund = true }
  }
}

test "lines are in the lane of their order" {
  insert "public.order_lines" {
    new = { order_id = 1, line = 1, sku = "mug", quantity = 2, price_cents = 999 }
  }
  update "public.order_lines" {
    old = { order_id = 1, line = 1, sku = "mug", quantity = 2, price_cents = 999 }
    new = { quantity = 3 }
  }
  delete "public.order_lines" {
    old = { order_id = 1, line = 1, sku = "mug", quantity = 3, price_cents = 999 }
  }
  expect "order.line_changed" {
    key  = "public.orders/1"
    data = { order_id = 1, sku = "mug", quantity = 2, before = 0 }
  }
  expect "order.line_changed" {
    key  = "public.orders/1"
    data = { order_id = 1, sku = "mug", quantity = 3, before = 2 }
  }
  expect "order.line_changed" {
    key  = "public.orders/1"
    data = { order_id = 1, sku = "mug", quantity = 0, before = 3 }
  }
}

test "another price of a line is nobody's business" {
  update "public.order_lines" {
    old = { order_id = 1, line = 1, sku = "mug", quantity = 2, price_cents = 999 }
    new = { price_cents = 899 }
  }
}
