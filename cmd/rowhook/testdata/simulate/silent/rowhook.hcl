source "postgres" "stock" {
  url = env("DATABASE_URL")
}

# The rules in force, written otherwise.
locals {
  pepper = env("PEPPER")
}

event "order.paid" {
  table  = "public.orders"
  on     = ["insert", "update"]
  when   = row.status == "paid"
  tenant = row.account
  data = {
    total = new.total
    id    = new.id
    by    = hmacsha256(local.pepper, new.account)
  }
}

event "order.big" {
  table = "public.orders"
  on    = ["insert", "update"]
  when  = new.total > 100
  data  = { id = new.id }
}

event "user.joined" {
  message = "joined"
  data    = payload
}

event "export.wanted" {
  channel = "exports"
  data    = payload
}
