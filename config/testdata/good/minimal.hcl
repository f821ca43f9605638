source "postgres" "main" {
  url = "postgres://localhost/shop"
}

event "order.placed" {
  table = "public.orders"
  on    = ["insert"]
  data  = row
}
