rowhook {
  data_dir       = "" # ERROR: Empty value | leave the argument out
  listen         = env("NUMBER") # ERROR: Invalid address | the value that env() or file() gave
  language       = 1.5 # ERROR: Not a whole number
  shutdown_grace = "-5s" # ERROR: Value out of range | between "0s" and "1h", not "-5s"
  log {
    retention = env("WORD") # ERROR: Invalid duration | not the value that env() or file() gave
    max_size  = "1KiB" # ERROR: Value out of range | at least "1MiB"
    on_full   = env("WORD") # ERROR: Value not allowed | not the value that env() or file() gave
  }
}

source "postgres" "shop" {
  url               = env("DATABASE_URL")
  manage            = "yes" # ERROR: Wrong type of value | manage is a bool, not "yes"
  max_rule_failures = "many" # ERROR: Wrong type of value | without quotes
  confirm           = always # ERROR: Name where a value is needed | always stands for nothing
  failover          = !true # ERROR: Setting is not a fixed value
  slot              = upper("a") # ERROR: Unknown function | there is no upper
  publication       = env("A", "B", "C") # ERROR: Invalid call of env
  keep_changes      = "1 day"            # ERROR: Invalid duration
  keep_changes_size = "1 thing"          # ERROR: Invalid size
}

event "order.placed" {
  table = "public.orders"
  on    = ["insert"]
  data  = row
}

sink "webhook" "a" {
  url           = file("missing") # ERROR: File cannot be read | missing does not exist
  events        = "**" # ERROR: Wrong type of value | events = ["**"]
  secrets       = [env("MISSING")] # ERROR: Environment variable is not set | env("MISSING", "...")
  max_in_flight = 0 # ERROR: Value out of range | between 1 and 10000, not 0
  timeout       = "soon" # ERROR: Invalid duration
  allow_private = null
  order         = "${["a"]}" # ERROR: Wrong type of value
  on_failure    = "x${[1]}" # ERROR: Template part is not a string
  from          = env(upper("A")) # ERROR: Invalid call of env | with literal strings
  unsigned      = 1 # ERROR: Wrong type of value
  retry {
    max_attempts = env("EMPTY") # ERROR: Environment variable is not set | is not set, or is empty
    initial      = "10m"
    max          = "1m" # ERROR: Delays contradict each other | initial = "10m"
    multiplier   = "5" # ERROR: Wrong type of value
    jitter       = 1.5 # ERROR: Value out of range | between 0 and 1
  }
}
