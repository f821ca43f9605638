test "it works" {
expect "order.paid" {}
}
