# A transactional outbox by logical message: events that the application itself announces, without
# an outbox table. SELECT announce(...) stands in schema.sql.

source "postgres" "app" {
  url = env("DATABASE_URL")
}

event "basket.ordered" {
  description = "A basket became an order."
  message     = "outbox"
  when        = payload.event == "basket.ordered"
  key         = payload.subject # events of one subject reach an endpoint in order
  data        = payload.data
}

# Several events of one message: one for each item, in the lane of its article.
event "stock.reserved" {
  description = "Articles were reserved for an order."
  message     = "outbox"
  when        = payload.event == "basket.ordered"
  for_each    = payload.data.items
  key         = "article/${each.value.sku}"
  data = {
    sku      = each.value.sku
    quantity = each.value.quantity
    order    = payload.subject
  }
}

event "user.greeted" {
  description = "Somebody new has signed up."
  message     = "outbox"
  when        = payload.event == "user.signed_up"
  key         = payload.subject
  data = {
    user  = payload.subject
    email = lower(payload.data.email)
  }
}

# What the application announces and no rule knows is an event too, so that a misspelt name is
# noticed rather than lost.
event "outbox.unknown" {
  description = "The application announced something that no rule is about."
  message     = "outbox"
  when        = !contains(["basket.ordered", "user.signed_up"], payload.event)
  key         = payload.subject
  data        = payload
}

sink "webhook" "bus" {
  url     = env("WEBHOOK_URL")
  events  = ["**"]
  secrets = [env("WEBHOOK_SECRET")]
}
