# Two versions of an event, side by side. An endpoint chooses `order.shipped@2`.
# A schema promises the data and says what it means; `rowhook types` prints that.

event "order.shipped" {
  table = "public.orders"
  on    = ["update"]
  when  = changed.shipped_at && new.shipped_at != null
  data  = { id = new.id, at = new.shipped_at }
}

event "order.shipped_v2" {
  type    = "order.shipped"
  version = 2
  table   = "public.orders"
  on      = ["update"]
  when    = changed.shipped_at && new.shipped_at != null
  numbers = "string"
  data    = { order = { id = new.id, shipped = { at = new.shipped_at, day = formatdate("YYYY-MM-DD", new.shipped_at) } } }
  schema {
    order = {
      id      = integer
      shipped = description({ at = timestamp, day = string }, "When it left the warehouse, and the day of it in UTC.")
    }
  }
}
