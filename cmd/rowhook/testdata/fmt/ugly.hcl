event "order.paid" {
table="public.orders"
  on = ["update"]
  # why
  data = {
      id=new.id
    total = new.total
  }
}
