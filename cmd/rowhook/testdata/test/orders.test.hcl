locals {
  order = { id = 42, account_id = 7, customer_id = 3, status = "pending", total_cents = 1999 }
}

test "a paid order is announced once" {
  update "public.orders" {
    old = local.order
    new = { status = "paid" }
  }
  update "public.orders" {
    old = { id = 42, status = "paid" }
    new = { total_cents = 2500 }
  }
  expect "order.paid" {
    key    = "public.orders/42"
    tenant = 7
    data   = { order_id = 42, total = 1999, customer = 3 }
  }
}

test "an order that is shipped says nothing" {
  update "public.orders" {
    old = local.order
    new = { status = "shipped" }
  }
}
