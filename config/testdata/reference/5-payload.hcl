# A logical message, which is durable, and a notification, which is not.

event "export.requested" {
  message = "exports"
  when    = payload.format == "csv"
  key     = payload.id
  data    = payload
}

event "cache.flushed" {
  channel        = "cache"
  payload_format = "text"
  data           = { name = payload }
}
