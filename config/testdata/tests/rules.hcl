source "postgres" "shop" {
  url = "postgres://localhost/shop"
}

source "postgres" "stock" {
  url = "postgres://localhost/stock"
}

event "order.created" {
  source = source.shop
  table  = "public.orders"
  on     = ["insert", "read"]
  data   = row
}

event "order.paid" {
  source = source.shop
  table  = "public.orders"
  on     = ["update"]
  when   = new.status == "paid" && old.status != "paid"
  tenant = new.account_id
  data = {
    id    = new.id
    total = new.total
    by    = try(tx.context.user, null)
  }
}

event "order.gone" {
  source = source.shop
  table  = "public.orders"
  on     = ["delete", "truncate"]
  data   = { id = old.id }
}

event "order.large" {
  source = source.shop
  table  = "public.orders"
  on     = ["insert"]
  when   = new.total > 1000
  data   = { id = new.id }
}

event "user.saved" {
  source = source.shop
  table  = "public.users"
  on     = ["insert", "update", "delete"]
  data   = row
}

event "user.bio" {
  source = source.shop
  table  = "public.users"
  on     = ["update"]
  when   = new.bio != null
  data   = {}
}

event "stock.low" {
  source = source.stock
  tables = ["public.items", "public.users"]
  on     = ["update"]
  data   = { id = new.id }
}

event "signed.up" {
  source            = source.shop
  message           = "signup"
  non_transactional = true
  data              = payload
}

event "export.asked" {
  source  = source.shop
  channel = "exports"
  when    = payload.format == "csv"
  data    = payload
}

event "halting" {
  source   = source.shop
  message  = "halt"
  on_error = "halt"
  data     = payload.a.b
}

event "line.ordered" {
  source   = source.shop
  message  = "lines"
  on_error = "skip"
  for_each = payload.lines
  key      = "${payload.id}/${each.key}"
  data     = each.value
}
