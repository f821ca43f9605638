event "order.paid" { # ERROR: No source | source "postgres" "main"
  table = "public.orders"
  on    = ["update"]
  data  = row
}
