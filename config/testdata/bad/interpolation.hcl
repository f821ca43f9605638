# A ${ that is not closed hides the quote after it: one mistake, not a row of them.

source "postgres" "shop" {
  url = "postgres://localhost/shop"
}

event "order.paid" {
  table = "public.orders"
  on    = ["update"]
  data = {
    # ERROR: Unclosed template interpolation sequence | no closing brace
    text = "order ${new.id"
    id   = new.id
  }
}

event "order.placed" {
  table = "public.orders"
  on    = ["insert"]
  data  = { text = "order ${new.id}" }
}
