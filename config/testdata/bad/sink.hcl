source "postgres" "shop" {
  url = env("DATABASE_URL")
}

event "order.paid" {
  table = "public.orders"
  on    = ["update"]
  data  = row
}

sink "webhok" "a" { # ERROR: Unknown type of sink | Did you mean webhook?
  url = "x"
}

sink "kafka" "b" { # ERROR: Unknown type of sink | There is "webhook" and "stdout"
}

sink "billing" { # ERROR: Missing label | sink "webhook" "NAME"
  url     = "https://a.example"
  events  = ["**"]
  secrets = [env("SIGNING")]
}

# ERROR: Missing argument | needs the argument url
# ERROR: Missing argument | needs the argument events
# ERROR: Missing argument | unsigned = true
sink "webhook" "empty" {
}

sink "webhook" "twice" {
  url     = "https://a.example"
  events  = ["**"]
  secrets = [env("SIGNING")]
}

sink "stdout" "twice" { # ERROR: Duplicate sink | line 30
  events  = ["**"]
  secrets = [env("SIGNING")] # ERROR: Unknown argument | A sink "stdout" block has no argument named secrets
  timeout = "1s" # ERROR: Unknown argument | It belongs in a sink "webhook" block
}

sink "webhook" "urls_a" {
  url      = "ftp://a.example" # ERROR: Invalid webhook URL | http:// or https://
  events   = ["order.*"]
  unsigned = true
}

sink "webhook" "urls_b" {
  url      = "a.example/hooks" # ERROR: Invalid webhook URL | Write "https://a.example/hooks"
  events   = ["order.*"]
  unsigned = true
}

sink "webhook" "urls_c" {
  url      = "https:///hooks" # ERROR: Invalid webhook URL | names no host
  events   = ["order.*"]
  unsigned = true
}

sink "webhook" "urls_d" {
  url      = "https://me:s3cr3t-user@a.example" # ERROR: Invalid webhook URL | headers = { authorization
  events   = ["order.*"]
  unsigned = true
}

sink "webhook" "urls_e" {
  url      = "https://a.example/#part" # ERROR: Invalid webhook URL | Remove it
  events   = ["order.*"]
  unsigned = true
}

sink "webhook" "urls_f" {
  url      = "https://a.example:port/?token=s3cr3t-query" # ERROR: Invalid webhook URL | The form is
  events   = ["order.*"]
  unsigned = true
}

sink "webhook" "urls_g" {
  url      = env("WORD") # ERROR: Invalid webhook URL
  events   = ["order.*"]
  unsigned = true
}

sink "webhook" "patterns" {
  url      = "https://a.example"
  # ERROR: Invalid event pattern | "Order.*"
  # ERROR: Invalid event pattern | a version
  # ERROR: Duplicate entry
  # WARNING: Pattern matches no event | Did you mean order.paid?
  # WARNING: Pattern matches no event | order.paid@2
  events   = ["Order.*", "order.paid@x", "order.pid", "order.pid", "order.paid@2", "rowhook.**"]
  unsigned = true
}

sink "webhook" "excludes" {
  url      = "https://a.example"
  events   = ["!order.*"] # ERROR: Invalid event pattern | ["**", "!order.*"]
  unsigned = true
}

sink "webhook" "bad_secrets" {
  url     = "https://a.example"
  events  = ["order.*"]
  secrets = [
    "s3cr3t-plain", # ERROR: Invalid signing secret | openssl rand
    "whsec_s3cr3t!", # ERROR: Invalid signing secret | not base64
    "whsec_c2hvcnQ=", # ERROR: Invalid signing secret | is 5 bytes
    "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", # WARNING: Secret written into the file
    env("WORD"), # ERROR: Invalid signing secret
  ]
}

sink "webhook" "secret_not_list" {
  url     = "https://a.example"
  events  = ["order.*"]
  secrets = "s3cr3t-nolist" # ERROR: Wrong type of value | not a string
}

sink "webhook" "both" {
  url      = "https://a.example"
  events   = ["order.*"]
  secrets  = [env("SIGNING")]
  unsigned = true # ERROR: Both signed and unsigned
}

sink "webhook" "misspelled" {
  url      = "https://a.example"
  events   = ["order.*"]
  secret   = ["s3cr3t-misspelled"] # ERROR: Unknown argument | Did you mean secrets?
  password = "s3cr3t-password" # ERROR: Unknown argument
  unsigned = true
  headers { # ERROR: Argument written as a block | headers = { ... }
    x = "s3cr3t-block"
  }
  retry = { # ERROR: Block written as an argument | retry { ... }
    max_attempts = 3
  }
  max_attempts = 3 # ERROR: Unknown argument | It belongs in the retry block inside sink "webhook"
}

sink "webhook" "bad_headers" {
  url      = "https://a.example"
  events   = ["order.*"]
  unsigned = true
  headers  = {
    "content-type"  = "text/plain" # ERROR: Invalid header | set by rowhook
    webhook-id      = "x" # ERROR: Invalid header | webhook-id is set by rowhook
    "bad name"      = "x" # ERROR: Invalid header | letters, digits and dashes
    authorization   = "Bearer\ns3cr3t-header" # ERROR: Invalid header | line break
    x-a             = "s3cr3t-1"
    X-A             = "s3cr3t-2" # ERROR: Invalid header | already set
    x-b             = "" # ERROR: Empty value
    (env("WORD"))   = "x" # ERROR: Invalid header | written out
  }
}

sink "webhook" "headers_list" {
  url      = "https://a.example"
  events   = ["order.*"]
  unsigned = true
  headers  = ["s3cr3t-list"] # ERROR: Wrong type of value | not a list
  format   = "cloudevents" # ERROR: Value not allowed | always "standard"
}
