test "a basket is announced, and every article in it reserved" {
  message "outbox" {
    payload = {
      event   = "basket.ordered"
      subject = "basket/1"
      data = {
        user  = 42
        items = [{ sku = "mug", quantity = 2 }, { sku = "sticker", quantity = 1 }]
      }
    }
  }
  expect "basket.ordered" {
    key      = "basket/1"
    includes = { user = 42 }
  }
  expect "stock.reserved" {
    key  = "article/mug"
    data = { sku = "mug", quantity = 2, order = "basket/1" }
  }
  expect "stock.reserved" {
    key  = "article/sticker"
    data = { sku = "sticker", quantity = 1, order = "basket/1" }
  }
}

test "an e-mail address is in lower case" {
  message "outbox" {
    payload = { event = "user.signed_up", subject = "user/42", data = { email = "Ada@Example.com" } }
  }
  expect "user.greeted" {
    key  = "user/42"
    data = { user = "user/42", email = "ada@example.com" }
  }
}

test "a misspelt event is noticed" {
  message "outbox" {
    payload = { event = "user.signedup", subject = "user/42", data = {} }
  }
  expect "outbox.unknown" {
    includes = { event = "user.signedup" }
  }
}

test "what is no JSON becomes a dead letter of each rule, and no event" {
  message "outbox" {
    payload = "hello"
  }
  fails "basket.ordered" {}
  fails "outbox.unknown" {}
  fails "stock.reserved" {}
  fails "user.greeted" {}
}
