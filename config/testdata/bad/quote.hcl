# A quote that is not closed is one mistake, and what stands before it is judged.

source "postgres" "shop" {
  url = "postgres://localhost/shop"
}

event "order.early" {
  table = "public.orders"
  on    = ["insert"]
  wehn  = true # ERROR: Unknown argument | Did you mean when?
  data  = row
}

event "order.paid" {
  # ERROR: Quote is not closed | no closing quote on its line
  table = "public.orders
  on    = ["update"]
  when  = new.status == "paid"
  data = {
    id = new.id
  }
}

sink "stdout" "out" {
  events = ["**"]
}
