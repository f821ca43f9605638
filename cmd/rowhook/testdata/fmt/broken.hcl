event "order.paid" {
  table = "public.orders
}
