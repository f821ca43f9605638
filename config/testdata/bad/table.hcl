source "postgres" "shop" {
  url = env("DATABASE_URL")
}

event "a" {
  table = "orders" # ERROR: Invalid table name | Write "public.orders"
  on    = ["insert"]
  data  = row
}

event "b" {
  table = "public." # ERROR: Invalid table name | missing after the dot
  on    = ["insert"]
  data  = row
}

event "c" {
  table = ".orders" # ERROR: Invalid table name | schema is empty
  on    = ["insert"]
  data  = row
}

event "d" {
  table = "\"we.ird.orders" # ERROR: Invalid table name | not closed
  on    = ["insert"]
  data  = row
}

event "e" {
  table = "\"we.ird\"orders" # ERROR: Invalid table name | After the closing quote
  on    = ["insert"]
  data  = row
}

event "f" {
  table = "pg_catalog.pg_class" # ERROR: System table
  on    = ["insert"]
  data  = row
}

event "g" {
  tables = ["public.a", "\"public\".a"] # ERROR: Duplicate entry | public.a is already in the list
  on     = ["insert"]
  data   = {}
}

event "h" {
  tables = "public.a" # ERROR: Wrong type of value | tables = ["public.a"]
  on     = ["insert"]
  data   = {}
}

event "i" {
  # ERROR: Invalid table name | at most 63 bytes
  table = "public.ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt"
  on    = ["insert"]
  data  = {}
}

event "j" {
  table = env("WORD") # ERROR: Invalid table name | schema and name
  on    = ["insert"]
  data  = {}
}
