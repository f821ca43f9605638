source "postgres" "shop" {
  url = env("DATABASE_URL")
}

event "order.paid" {
  table = "public.orders"
  on    = ["insrt"]
  data  = new
}
