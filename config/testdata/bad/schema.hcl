source "postgres" "main" {
  url = env("DATABASE_URL")
}

event "types" {
  message = "m"
  data    = payload
  schema {
    a = strin              # ERROR: Invalid type in a schema | Did you mean string?
    b = "string"           # ERROR: Invalid type in a schema | without quotes
    c = lists(string)      # ERROR: Invalid type in a schema | Did you mean list?
    d = list()             # ERROR: Invalid type in a schema | one type in parentheses
    e = enum()             # ERROR: Invalid type in a schema | needs its values
    f = enum(paid)         # ERROR: Invalid type in a schema | The values of an enum are strings
    g = list(optional(string)) # ERROR: Invalid type in a schema | Only an attribute can be optional
    h = 5                  # ERROR: Invalid type in a schema | A type is a word
    i = { a = string, a = string } # ERROR: Invalid type in a schema | already there
    k = description(string) # ERROR: Invalid type in a schema | description needs a type and what it means
    l = description(string, 5) # ERROR: Invalid type in a schema | What an attribute means is a string
    m = list(description(string, "x")) # ERROR: Invalid type in a schema | around the whole type
    j { # ERROR: Block not expected | as j = { ... }
    }
  }
}

event "fits.not" {
  table = "public.t"
  on    = ["insert"]
  # ERROR: Data does not fit the schema | missing is not there; the schema in line 39 says a string. Add it, or declare it optional(...).
  data = {
    id     = "x"          # ERROR: Data does not fit the schema | id may be "x", and not only a whole number; the schema in line 37 says a whole number
    status = new.ok ? "paid" : "lost" # ERROR: Data does not fit the schema | status may be "lost"
    extra  = 1            # ERROR: Attribute is not in the schema | Add it there, or leave it out here.
    half   = length(new.x) / 2 # WARNING: Data may not fit the schema | half may have a fraction
  }
  schema {
    id      = integer
    status  = enum("paid", "refunded")
    missing = string
    half    = integer
    more    = optional(string)
  }
}
