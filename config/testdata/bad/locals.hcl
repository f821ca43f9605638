source "postgres" "shop" {
  url = local.database # ERROR: Unknown local | Did you mean data_base?
}

locals "x" { # ERROR: Label not expected
  data_base = env("DATABASE_URL")
  events    = ["order.*"]
  unused    = 5 # WARNING: Local is never used
  # ERROR: Block not expected | names and expressions
  inner {}
}

locals {
  events = ["x"] # ERROR: Duplicate local | line 7
  paid   = local.settled # ERROR: Local needs itself | local.paid needs local.settled needs local.paid
  settled = local.paid
  on_paid = local.paid
  same    = local.same # ERROR: Local needs itself | local.same needs local.same
}

event "order.paid" {
  table = "public.orders"
  on    = ["update"]
  when  = local.paid
  data  = row
}

event "order.late" {
  table = "public.orders"
  on    = ["insert"]
  when  = local.on_paid
  data  = row
}

sink "stdout" "a" {
  events = local.events
  order  = local.events[0] # ERROR: Invalid use of a local
  from   = local.events # ERROR: Wrong type of value
  on_failure = local.same
}

sink "stdout" "b" {
  events = local.data_base # ERROR: Wrong type of value
}
