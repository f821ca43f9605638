# catalog.json is what rowhook check --save-catalog writes.
rowhook {
  catalog = "catalog.json"
}

source "postgres" "main" {
  url = env("DATABASE_URL")
}

event "columns" {
  table = "public.shop"
  on    = ["insert"]
  when  = new.statsu == "paid" # ERROR: Unknown column | Did you mean status?
  data = {
    sum  = new.sum      # ERROR: Generated column | does not send generated columns
    home = new.home.zap # ERROR: Unknown attribute | Did you mean zip?
    city = new.home[0]  # ERROR: Wrong type | an attribute is written .name
  }
}

event "tables" {
  table = "public.shops" # ERROR: Table not in the saved catalogue | Did you mean "public.shop"?
  on    = ["insert"]
  data  = new
}

event "comparisons" {
  table = "public.shop"
  on    = ["insert"]
  when = (
    new.status == "piad" ||     # ERROR: Comparison can never hold | Did you mean paid?
    new.status != "lost" ||     # ERROR: Comparison always holds | one of "pending", "paid", "refunded"
    new.status == new.color ||  # ERROR: Comparison can never hold | they are never equal
    new.small == 70000 ||       # ERROR: Comparison can never hold | from -32768 to 32767
    new.small > 70000 ||        # ERROR: Comparison can never hold | from -32768 to 32767
    new.small < 70000 ||        # WARNING: Comparison always holds | from -32768 to 32767
    new.small == 1.5 ||         # ERROR: Comparison can never hold | 1.5
    new.price == 12345 ||       # ERROR: Comparison can never hold | never equal
    new.paid == "true" ||       # ERROR: Comparison of different types | without quotes
    new.id == "7" ||            # ERROR: Comparison of different types | tonumber() or tostring()
    new.id == null ||           # ERROR: Comparison can never hold | declared NOT NULL
    new.cents != null ||        # WARNING: Comparison always holds | declared NOT NULL
    new.uid == "7" ||           # ERROR: Comparison can never hold | a0eebc99
    new.day == "31.1.2026" ||   # ERROR: Comparison can never hold | "2026-01-31"
    new.code == "x" ||          # ERROR: Comparison can never hold | padded with blanks
    new.at == "2026-01-31"      # ERROR: Comparison can never hold | 2026-01-31T09:30:00+00:00
  )
  data = { id = new.id }
}

event "nulls" {
  table  = "public.shop"
  on     = ["insert", "update", "delete"]
  when   = new.mtotal > 5                  # ERROR: Null is possible | There is no new row on delete
  key    = new.id                          # fine: null is no key
  tenant = op != "delete" ? -new.mtotal : 0 # fine: when has looked at it
  data = {
    text  = "${row.mpaid}!" # ERROR: Null is possible | a template then fails # ERROR: Old value not available | where row is the old row
    never = old.paid       # ERROR: Old value not available | USING INDEX
    zip   = op == "insert" ? row.home.zip + 1 : 0 # ERROR: Null is possible | + then fails # ERROR: Old value not available | with a delete
    fine  = coalesce(row.id, 0) + 1
  }
}

event "unsent" {
  table = "public.shop"
  on    = ["update"]
  when  = new.name == "x" && length(new.tags) > 1 # ERROR: Value may not be sent | REPLICA IDENTITY FULL # ERROR: Value may not be sent | SET STORAGE MAIN
  data = {
    name = new.name        # WARNING: Value may not be sent | left out of the event
    big  = upper(new.name) # ERROR: Value may not be sent | dead letter
    nick = lower(new.nick) # WARNING: Value may not be sent | dead letter
    id   = new.id
  }
}

event "schema" {
  table = "public.shop"
  on    = ["update"]
  data = {
    total = new.mtotal # ERROR: Data does not fit the schema | total may be null; the schema in line 90 says a whole number. Give a value with coalesce()
    color = new.color  # ERROR: Data does not fit the schema | color may be "green"
    email = new.name   # WARNING: Value may not be sent | left out # ERROR: Data does not fit the schema | email may be left out
    code  = new.code
    place = { zip = new.paid } # ERROR: Data does not fit the schema | place.zip may be a bool, and not only a whole number
    cents = new.price  # WARNING: Data may not fit the schema | may have a fraction
    ratio = new.ratio
  }
  schema {
    total = integer
    color = enum("red")
    email = string
    code  = string
    place = { zip = integer }
    cents = integer
    ratio = number
  }
}
