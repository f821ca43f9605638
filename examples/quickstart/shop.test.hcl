# What the rules make of which change: rowhook test runs this without a database.

locals {
  order = { id = 1, account_id = 7, customer_id = 42, status = "pending", total_cents = 1999 }
}

test "a new order is passed on as it is" {
  insert "public.orders" {
    new = local.order
  }
  expect "order.created" {
    key    = "public.orders/1"
    tenant = 7
    data   = local.order
  }
}

test "an order that becomes paid" {
  update "public.orders" {
    old = local.order
    new = { status = "paid" }
  }
  expect "order.paid" {
    tenant = 7
    data   = { order_id = 1, total = 1999, customer = 42 }
  }
}

test "an order that was paid before is not paid again" {
  update "public.orders" {
    old = { id = 1, account_id = 7, customer_id = 42, status = "paid", total_cents = 1999 }
    new = { status = "shipped" }
  }
}

test "a deleted order says what it was" {
  delete "public.orders" {
    old = local.order
  }
  expect "order.deleted" {
    data = { order_id = 1, status = "pending" }
  }
}

test "a logical message" {
  message "signup" {
    payload = { email = "ada@example.com" }
  }
  expect "user.signed_up" {
    data = { email = "ada@example.com" }
  }
}

test "of the notifications, those that ask for CSV" {
  notify "exports" {
    payload = { format = "csv", rows = 12 }
  }
  notify "exports" {
    payload = { format = "xml" }
  }
  expect "export.requested" {
    data = { format = "csv", rows = 12 }
  }
}
