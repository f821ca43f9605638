source "postgres" "shop" {
  url = env("DATABASE_URL")
}

event "order.paid" {
  table = "public.orders"
  on    = ["update"]
  data  = row
}

event "order.paid" { # ERROR: Duplicate event | version = 2
  table = "public.other"
  on    = ["update"]
  data  = row
}

event "Order Paid" { # ERROR: Invalid event label | Write "order_paid"
  table = "public.a"
  on    = ["insert"]
  data  = row
}

event "rowhook.mine" { # ERROR: Invalid event label | operational events
  table = "public.b"
  on    = ["insert"]
  data  = row
}

event "bad.type" {
  type    = "order..paid" # ERROR: Invalid event type | Write "order.paid"
  version = 0 # ERROR: Value out of range
  table   = "public.c"
  on      = ["insert"]
  data    = row
}

# ERROR: Missing label | event "LABEL"
event {
  table = "public.d"
  on    = ["insert"]
  data  = row
}

event "no.subject" { # ERROR: Event without a subject
  data = {}
}

event "two.subjects" {
  table   = "public.e"
  channel = "jobs" # ERROR: Event with several subjects | This event has table and channel
  data    = {}
}

event "both.tables" {
  table  = "public.e"
  tables = ["public.f"] # ERROR: Event with several subjects | Put all of them into tables
  on     = ["insert"]
  data   = {}
}

# ERROR: Missing argument | on = ["insert"
event "no.on" {
  table = "public.g"
  data  = {}
}

# ERROR: Missing argument | An event block needs the argument data
event "no.data" {
  table = "public.h"
  on    = ["insert"]
}

event "bad.on" {
  table = "public.i"
  on    = ["insert", "upsert", "insert"] # ERROR: Value not allowed | Did you mean insert? # ERROR: Duplicate entry
  data  = {}
}

event "text.on" {
  table = "public.j"
  on    = "update" # ERROR: Wrong type of value | on = ["update"]
  data  = {}
}

event "empty.on" {
  table = "public.j"
  on    = [] # ERROR: Empty list
  data  = {}
}

event "unquoted.on" {
  table = "public.j"
  on    = [delete] # ERROR: Name where a value is needed | write it in quotes
  data  = {}
}

event "channel.on" {
  channel = "jobs"
  on      = ["insert"] # ERROR: Argument does not apply | on is for events on tables
  barrier = true # ERROR: Argument does not apply
  data    = payload
}

event "channel.transactional" {
  channel           = "jobs2"
  non_transactional = true # ERROR: Argument does not apply | for events on messages
  payload_format    = "xml" # ERROR: Value not allowed | "json" or "text"
  data              = payload
}

event "table.payload" {
  table          = "public.k"
  on             = ["insert"]
  payload_format = "text" # ERROR: Argument does not apply | channels and messages
  data           = row
}

event "message.reserved" {
  message = "rowhook.context" # ERROR: Reserved message prefix
  data    = payload
}

event "channel.long" {
  # ERROR: Name is too long | in the name of a channel
  channel = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
  data    = payload
}

event "unknown.source" {
  source = source.shpo # ERROR: Unknown source | Did you mean shop?
  table  = "public.l"
  on     = ["insert"]
  data   = row
}

event "bare.source" {
  source = shop # ERROR: Invalid reference to a source | Write source.shop
  table  = "public.l"
  on     = ["update"]
  data   = row
}

event "number.source" {
  source = 5 # ERROR: Invalid reference to a source
  table  = "public.l"
  on     = ["delete"]
  data   = row
}

event "typo" {
  table     = "public.m"
  on        = ["insert"]
  condition = true # ERROR: Unknown argument
  wehn      = true # ERROR: Unknown argument | Did you mean when?
  url       = "x" # ERROR: Unknown argument | It belongs in a source block or a sink "webhook" block
  data { # ERROR: Argument written as a block | data = ...
  }
  data = row
}

event "truncate.barrier" {
  table   = "public.n"
  on      = ["truncate"]
  barrier = true # WARNING: Argument without effect
  numbers = "text" # ERROR: Value not allowed
  data    = {}
}

event "order.settled" { # WARNING: Two rules make the same event | version = 2
  type  = "order.paid"
  table = "public.orders"
  on    = ["insert", "update"]
  data  = {}
}

event "item.each" {
  table    = "public.p"
  on       = ["insert"]
  for_each = new.items
  when     = each.value.qty > 0 # ERROR: Not available here | filter: for_each
  on_error = "stop" # ERROR: Value not allowed | "halt"
  data     = each.valeu # ERROR: Unknown name | each.value
}

event "notified.halt" {
  channel  = "c"
  on_error = "halt" # ERROR: Argument does not apply | A notification that is not taken is lost
  data     = payload
}

event "no.old_row" {
  table = "public.q"
  on    = ["insert"]
  when  = old.status == "paid" # ERROR: Comparison can never hold | There is no old row in what the rule is about (insert)
  data  = old # ERROR: Row that is never there | every column would be null. Use new.
}

event "no.new_row" {
  table = "public.q"
  on    = ["delete"]
  when  = new.total > 5 # ERROR: Null where a value is needed | There is no new row
  data = {
    id = new.id # WARNING: Row that is never there | this is always null. Use old.
  }
}

event "other.operation" {
  table = "public.q"
  on    = ["insert", "update"]
  when  = op == "delete" # ERROR: Comparison can never hold | one of "insert", "update"
  data  = new
}
