test "a typo" {
  insert "public.ordres" {
    new = { id = 42 }
  }
  expect "order.create" {}
}
