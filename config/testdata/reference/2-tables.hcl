# One event for several tables, and the whole row with additions. `row` is the old row on delete.

event "record.changed" {
  tables = ["public.customers", "public.orders"]
  on     = ["insert", "update", "delete"]
  key    = "${table}/${row.id}"
  data = merge(omit(row, "password_hash"), {
    table = table
    op    = op
    by    = tx.context.user_id
  })
}
