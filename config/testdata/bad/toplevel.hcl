# ERROR: Argument outside a block | listen belongs in a rowhook block
listen = "127.0.0.1:8090"
# ERROR: Block written as an argument | write rowhook { ... } without the equals sign
rowhook = {}

# ERROR: Unknown block | Did you mean source?
sorce "postgres" "shop" {
  url = env("DATABASE_URL")
}

source "postgres" "shop" {
  url = env("DATABASE_URL")
}

# ERROR: Unknown block | It belongs in a rowhook block
log {
  max_size = "1GiB"
}

# ERROR: Unknown block | Did you mean event?
events "order.paid" {}

# ERROR: Unknown block | There is rowhook, source, event, locals and sink
terraform {}

event "order.placed" {
  table = "public.orders"
  on    = ["insert"]
  data  = row
}
