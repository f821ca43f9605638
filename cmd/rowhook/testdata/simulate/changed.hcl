source "postgres" "shop" {
  url = env("DATABASE_URL")
}

event "order.paid" {
  table  = "public.orders"
  on     = ["insert", "update"]
  when   = contains(["paid", "refunded"], new.status)
  tenant = upper(new.account)
  data = {
    id    = new.id
    total = coalesce(new.total, 0)
    by    = hmacsha256(env("PEPPER"), new.account)
  }
}

event "order.big" {
  table = "public.orders"
  on    = ["insert", "update", "delete"]
  when  = row.total != null && row.total > 50
  key   = row.account
  data  = { id = row.id }
}

event "user.joined" {
  message = "joined"
  data    = { user = payload.user, team = payload.team.name }
}

event "invoice.made" {
  table = "public.invoices"
  on    = ["insert"]
  data  = { id = new.id, note = new.note }
}

event "order.shipped" {
  table = "public.orders"
  on    = ["update", "insert"]
  data  = { id = new.id, at = new.shipped_at }
}
