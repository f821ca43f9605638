# A condition on the row before and after an update. `old` needs a replica identity that has the column.

event "order.paid" {
  description = "An order was paid in full."
  table       = "public.orders"
  on          = ["update"]
  when        = new.status == "paid" && old.status != "paid"
  tenant      = new.account_id
  data = {
    order_id = new.id
    total    = new.total_cents
    vip      = local.vip
  }
}

locals {
  vip = new.total_cents != null && new.total_cents > 100000
}
