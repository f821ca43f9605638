# A syntax error does not hide the mistakes before it.
source "postgres" "shop" {
  url  = env("DATABASE_URL")
  # ERROR: Unknown argument | Did you mean slot?
  slto = "a"
}

event "order.placed" {
  table = "public.orders"
  on    = ["insert"]
  data  = {
    # ERROR: Invalid attribute name
    a = new.
  }
}
