# ERROR: Unknown type of source | There is no source "mysql"
source "mysql" "other" {
  url = env("OTHER_URL")
}

# ERROR: Missing label | source "postgres" "NAME"
source "shop" {
  url = env("THIRD_URL")
}

# ERROR: Missing argument | A source block needs the argument url
source "postgres" "empty" {
}

source "postgres" "My-Shop" { # ERROR: Invalid name | Write "my_shop"
  url         = "postgres://app@db/a"
  slot        = "Rowhook Slot" # ERROR: Invalid slot name | Write "rowhook_slot"
  # ERROR: Name is too long | this one has 70
  publication = "pppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp"
  max_attempts = 3 # ERROR: Unknown argument | It belongs in the retry block
}

source "postgres" "literal" {
  url      = "postgres://app:s3cr3t-literal@db/b" # WARNING: Secret written into the file
  manage   = false
  failover = true # WARNING: Argument without effect
}

source "postgres" "keyvalue" {
  url = "host=db user=app password='s3cr3t kv'" # WARNING: Secret written into the file
}

source "postgres" "scheme" {
  url = "https://db/b" # ERROR: Invalid database URL | begins with postgres://
}

source "postgres" "form" {
  url = "db.internal" # ERROR: Invalid database URL | The form is
}

source "postgres" "unencoded" {
  url = "postgres://app:s3cr3t%zz@db/c" # ERROR: Invalid database URL | percent-encoded
}

source "postgres" "twice" {
  url = env("DATABASE_URL")
}

source "postgres" "twice" { # ERROR: Duplicate source | line 45
  url = env("OTHER_URL2")
}

source "postgres" "same" { # ERROR: Two sources on one database | same URL as twice
  url = env("DATABASE_URL")
}

# ERROR: Label not expected
source "postgres" "many" "labels" {
  url = "postgres://app@db/e"
}

source "postgres" "block" {
  url = "postgres://app@db/f"
  # ERROR: Argument written as a block | slot = ...
  slot {}
  # ERROR: Unknown block | It belongs in a sink "webhook" block
  retry {}
}

source "postgres" "reads" {
  url      = "postgres://app@db/g"
  backfill = [
    "order.read",
    "order.reed",   # ERROR: Unknown event | Did you mean order.read
    "order.placed", # ERROR: Event of another source | source twice
    "order.made",   # ERROR: Event without read | Add "read" to its on
  ]
}

event "order.read" {
  source = source.reads
  table  = "public.orders"
  on     = ["insert", "read"]
  data   = row
}

event "order.made" {
  source = source.reads
  table  = "public.orders"
  on     = ["insert"]
  type   = "order.made2"
  data   = row
}

event "order.placed" {
  source = source.twice
  table  = "public.orders"
  on     = ["insert"]
  data   = row
}
