# The rules these tests are about are in rules.hcl; the tables of the source shop are in a
# catalogue.

key = "x" # ERROR: Argument outside a block | only test and locals blocks

event "order.paid" { # ERROR: Rules in a test file | Move the event block
}

tests "typo" { # ERROR: Unknown block | Did you mean test?
}

insert "public.orders" { # ERROR: Unknown block | It belongs in a test block
}

locals {
  secret = env("PASSWORD", "x")
}

# ERROR: Missing label | test "NAME"
test {
  truncate "public.orders" {}
}

test "" { # ERROR: Empty name | says what holds
  truncate "public.orders" {}
}

test "no changes" { # ERROR: Test without changes | insert, update, delete, truncate, read, notify and message
  expect "order.paid" {}
}

test "twice" {
  truncate "public.orders" {}
}

test "twice" { # ERROR: Duplicate test | line 32
  truncate "public.orders" {}
}

test "unknown names" {
  source = source.shpo # ERROR: Unknown source | Did you mean shop?
  truncate "public.orders" {}
}

test "unknown table" {
  truncate "public.ordres" {}  # ERROR: No rule is about this | Did you mean public.orders?
  truncate "orders" {}         # ERROR: Invalid table name | public.orders
  notify "export" {}           # ERROR: No rule is about this | Did you mean exports?
  message "signups" {}         # ERROR: No rule is about this | Did you mean signup?
  message "rowhook.context" {} # ERROR: Context as a message | tx { context
}

test "two sources" {
  update "public.users" { # ERROR: Several sources | source = source.shop
    new = { id = 1 }
  }
}

test "changes of two sources" {
  truncate "public.orders" {}
  update "public.items" { # ERROR: Several sources | Divide the test
    new = { id = 1 }
  }
}

test "transaction" {
  tx {
    xid         = -1          # ERROR: Value out of range
    lsn         = "16-1"      # ERROR: Invalid position
    commit_time = "yesterday" # ERROR: Invalid time
    context     = "ada"       # ERROR: Wrong type of value | context = { ... }
    user        = "ada"       # ERROR: Unknown argument
  }
  tx {} # ERROR: Duplicate block
  truncate "public.orders" {}
}

test "rows" {
  source = source.shop
  insert "public.orders" {} # ERROR: Missing argument | new
  insert "public.orders" {
    new = [1]        # ERROR: Wrong type of value | new = { ... }
    old = { id = 1 } # ERROR: Unknown argument
  }
  insert "public.orders" {
    new = { id = 1, totl = 2 } # ERROR: Unknown column | Did you mean total?
  }
  insert "public.orders" {
    new = { id = 1, id = 2 } # ERROR: Duplicate entry
  }
  insert "public.orders" {
    new = {
      id     = "one"   # ERROR: Wrong type of value | Write a number
      status = 5       # ERROR: Wrong type of value | Write a string in quotes
      paid   = "yes"   # ERROR: Wrong type of value | Write true or false
      doc    = "hello" # ERROR: Wrong type of value | JSON as text
      tags   = [{}]    # ERROR: Wrong type of value | as PostgreSQL prints it
      at     = 12      # ERROR: Wrong type of value | 2026-01-31 09:30:00+00
    }
  }
  insert "public.orders" {
    new = { id = 1, status = local.secret } # ERROR: Test depends on the machine
  }
  insert "public.orders" {
    new = { id = new.id } # ERROR: Name where a value is needed
  }
  update "public.users" {
    old       = { name = "Ada" }         # ERROR: Old value not available | REPLICA IDENTITY FULL
    new       = { id = 1, bio = "long" } # ERROR: Unchanged value in the new row
    unchanged = ["bio", "boi"]           # ERROR: Unknown column | boi
  }
  update "public.orders" {
    new       = { id = 1 }
    unchanged = ["doc"] # ERROR: Missing old value | Write it in old
  }
  upsert "public.orders" {} # ERROR: Unknown block | no block named upsert
  truncate {}               # ERROR: Missing label | truncate "TABLE"
}

test "expectations" {
  truncate "public.orders" {}
  expect "order.pad" {} # ERROR: Unknown event type | Did you mean order.paid?
  expect "order.paid" {
    rule     = "order.pade" # ERROR: Unknown rule | Did you mean order.paid?
    op       = "upsert"     # ERROR: Value not allowed
    key      = ["a"]        # ERROR: Wrong type of value | a string, a number or null
    data     = {}
    includes = {} # ERROR: Argument without effect
    tenent   = 7  # ERROR: Unknown argument | Did you mean tenant?
  }
  fails "order.pade" {} # ERROR: Unknown rule
  fails "order.paid" {
    massage = "x" # ERROR: Unknown argument | Did you mean message?
  }
}
