rowhook {
  language = 2 # ERROR: Unknown language version | reads language = 1
  listen   = "8090" # ERROR: Invalid address | Write "127.0.0.1:8090"
  # ERROR: Unknown argument | Did you mean data_dir?
  data_dri = "/var/lib/rowhook"
  # ERROR: Unknown argument | It belongs in the log block inside rowhook
  max_size = "10GiB"
  # ERROR: Invalid duration | Write "30s"
  shutdown_grace = 30

  log {
    retention = "7d" # ERROR: Invalid duration | Write "168h"
    max_size  = "10GB" # ERROR: Invalid size | Write "10GiB"
    on_full   = "stopp" # ERROR: Value not allowed | Did you mean stop?
  }
  log { # ERROR: Duplicate block | line 11
  }
}

# ERROR: Duplicate block | rowhook.hcl, line 1
rowhook {
  listen = ":1"
}

source "postgres" "shop" {
  url = env("DATABASE_URL")
}

event "order.placed" {
  table = "public.orders"
  on    = ["insert"]
  data  = row
}
