# Several events of one change: one of each element of a list.

event "item.ordered" {
  table    = "public.orders"
  on       = ["insert"]
  for_each = [for item in coalesce(new.items, []) : item if item.qty > 0]
  data = {
    order_id = new.id
    line     = each.key
    sku      = each.value.sku
    qty      = each.value.qty
  }
}
