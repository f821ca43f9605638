event "order.placed" {
  table = "public.orders"
  on    = ["insert"]
  when  = local.large
  data  = { id = new.id }
}
