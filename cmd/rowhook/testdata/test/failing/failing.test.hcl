# What is wrong here is put right by --update, but for the rule that fails.
test "a deleted order" {
  delete "public.orders" {
    old = { id = 42, status = "paid" }
  }
  expect "order.deleted" {
    tenant = null
    # The whole of it.
    data = {
      order_id = 42
      status   = "pending"
    }
  }
}

test "a request that is no JSON" {
  notify "exports" {
    payload = "csv, please"
  }
}
