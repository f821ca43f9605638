# Every kind of change and of expectation. These tests pass.

locals {
  order = { id = 42, account_id = 7, status = "pending", total = "12.50", paid = false, tags = ["a", "b \"c\""], at = "2026-01-31T09:30:00Z" }
}

test "a column that only one row names did not change" {
  tx {
    xid         = 5
    commit_time = "2026-02-01T00:00:00.5Z"
    context     = { user = "ada", roles = ["admin"] }
  }
  update "public.orders" {
    old = local.order
    new = { status = "paid" }
  }
  expect "order.paid" {
    rule    = "order.paid"
    version = 1
    op      = "update"
    table   = "public.orders"
    key     = "public.orders/42"
    old_key = null
    tenant  = 7
    data    = { total = 12.5, id = 42, by = "ada" }
  }
}

test "a condition that does not hold makes nothing" {
  update "public.orders" {
    old = local.order
    new = { status = "shipped" }
  }
}

test "a row is passed through as PostgreSQL would print it" {
  insert "public.orders" {
    new = local.order
  }
  expect "order.created" {
    data = {
      id         = 42
      account_id = 7
      status     = "pending"
      total      = 12.50
      paid       = false
      doc        = null
      tags       = ["a", "b \"c\""]
      at         = "2026-01-31T09:30:00+00:00"
    }
  }
}

test "events of one change come in the order of their rules' names" {
  insert "public.orders" {
    new = { id = 1, total = 5000, doc = { a = [1, { b = null }] } }
  }
  expect "order.created" {
    includes = { doc = { a = [1, { b = null }] } }
  }
  expect "order.large" {
    data = { id = 1 }
  }
}

test "a changed key" {
  update "public.users" {
    old = { id = 1 }
    new = { id = 2, name = "Ada" }
  }
  expect "user.saved" {
    key     = "public.users/2"
    old_key = "public.users/1"
    data    = { id = 2, name = "Ada", bio = null }
  }
  source = source.shop
}

test "an unchanged value is left out, and a rule cannot decide on it" {
  source = source.shop
  update "public.users" {
    new       = { id = 1, name = "Ada" }
    unchanged = ["bio"]
  }
  fails "user.bio" {
    message = "stored out of line"
  }
  expect "user.saved" {
    unchanged = ["bio"]
    data      = { id = 1, name = "Ada" }
  }
}

test "an unchanged value is in the whole old row" {
  update "public.orders" {
    old       = { id = 1, status = "open", doc = { a = 1 } }
    new       = { status = "closed" }
    unchanged = ["doc"]
  }
}

test "a delete knows what the replica identity carries" {
  source = source.shop
  delete "public.users" {
    old = { id = 1 }
  }
  delete "public.orders" {
    old = { id = 9 }
  }
  truncate "public.orders" {}
  expect "user.saved" {
    key  = "public.users/1"
    data = { id = 1 }
  }
  expect "order.gone" {
    op   = "delete"
    data = { id = 9 }
  }
  expect "order.gone" {
    op   = "truncate"
    key  = null
    data = { id = null }
  }
}

test "a backfill" {
  read "public.orders" {
    new = local.order
  }
  expect "order.created" {
    op = "read"
  }
}

test "messages within a transaction and outside of it" {
  message "signup" {
    payload = { n = 1 }
  }
  message "signup" {
    payload       = "{\"n\": 2}"
    transactional = false
  }
  insert "public.orders" {
    new = local.order
  }
  message "signup" {
    payload = 3
  }
  expect "signed.up" {
    data = { n = 1 }
  }
  expect "signed.up" {
    data = { n = 2 }
  }
  expect "order.created" {}
  expect "signed.up" {
    data = 3
  }
}

test "notifications" {
  notify "exports" {
    payload = { format = "csv" }
  }
  notify "exports" {
    payload = { format = "xml" }
  }
  notify "exports" {
    payload = "no JSON"
  }
  expect "export.asked" {
    key  = null
    data = { format = "csv" }
  }
  fails "export.asked" {
    message = "when:"
  }
}

test "a table without a catalogue has the columns that are named" {
  update "public.items" {
    old = { id = 1, name = "nail", price = 1.5, new = true, size = { w = 1 } }
    new = { price = 2 }
  }
  expect "stock.low" {
    key  = "public.items/1"
    data = { id = 1 }
  }
}

test "a rule that halts ends the test there, and what it made of the transaction is gone" {
  message "signup" {
    payload       = 1
    transactional = false
  }
  message "signup" {
    payload = 2
  }
  message "halt" {
    payload = "no JSON"
  }
  message "signup" {
    payload = 3
  }
  expect "signed.up" {
    data = 1
  }
  fails "halting" {}
}

test "several events of one change, and a failure that leaves nothing behind" {
  message "lines" {
    payload = { id = 7, lines = ["a", { b = 1 }] }
  }
  message "lines" {
    payload = "no JSON"
  }
  message "halt" {
    payload = { a = { b = 1 } }
  }
  expect "line.ordered" {
    key  = "7/0"
    data = "a"
  }
  expect "line.ordered" {
    key  = "7/1"
    data = { b = 1 }
  }
  expect "halting" {
    data = 1
  }
  fails "line.ordered" {}
}
