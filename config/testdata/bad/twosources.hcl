source "postgres" "a" {
  url = "postgres://app@db/a"
}

source "postgres" "b" {
  url = "postgres://app@db/b"
}

event "order.paid" { # ERROR: Missing argument | source = source.a or source.b
  table = "public.orders"
  on    = ["update"]
  data  = row
}
