# Personal data is hashed with a key that only you have, masked, or left out.

locals {
  pii_key = env("PII_KEY")
}

event "customer.updated" {
  table    = "public.customers"
  on       = ["update"]
  on_error = "halt"
  data = merge(pick(row, "id", "created_at"), {
    customer = hmacsha256(local.pii_key, lower(coalesce(new.email, "")))
    phone    = mask(coalesce(new.phone, ""), 3)
  })
}
