# Webhooks as a feature for the customers of an application: a small, stable set of events, with
# what they are allowed to see, each for one tenant.

rowhook {
  catalog = "catalog.json" # made by: rowhook check --database --save-catalog catalog.json
}

source "postgres" "billing" {
  url = env("DATABASE_URL")
}

locals {
  # The public form of an invoice. It is written out: a column that is added to the table tomorrow
  # is not in it, and internal_note never was. Renaming the table's columns does not change it.
  invoice = {
    id          = row.id
    number      = row.number
    status      = row.status
    amount      = tostring(row.amount) # money as a string: 0.10 stays 0.10 in every language
    currency    = row.currency
    payer_email = regexreplace("^(.)[^@]*", row.payer_email, "$1***")
  }

  live = row.live # test invoices of our own staff are not for customers
}

event "invoice.sent" {
  description = "An invoice was sent to the payer."
  table       = "public.invoices"
  on          = ["insert", "update"]
  when        = local.live && new.status == "sent" && old.status != "sent"
  tenant      = new.account_id
  data        = local.invoice
}

event "invoice.paid" {
  description = "An invoice was paid in full."
  table       = "public.invoices"
  on          = ["update"]
  when        = local.live && new.status == "paid" && old.status != "paid"
  tenant      = new.account_id
  data        = merge(local.invoice, { paid_at = new.paid_at })
}

# The next version of the same event, side by side with the first: an endpoint asks for
# "invoice.paid@2" when it is ready. Each has ids of its own.
event "invoice.paid_v2" {
  description = "An invoice was paid in full, with its lines."
  type        = "invoice.paid"
  version     = 2
  table       = "public.invoices"
  on          = ["update"]
  when        = local.live && new.status == "paid" && old.status != "paid"
  tenant      = new.account_id
  data = {
    invoice = merge(local.invoice, { lines = new.lines })
    paid_at = new.paid_at
  }
}

# The customers' edge: it looks at "tenant", and passes the event on to that customer's URL.
sink "webhook" "customers" {
  url     = env("WEBHOOK_URL")
  events  = ["invoice.*", "!invoice.paid@2"]
  secrets = [env("WEBHOOK_SECRET")]

  # A customer is slow now and then, and no reason to hold up others.
  on_failure    = "block_key"
  max_in_flight = 128
  retry {
    max_attempts = 12
    initial      = "10s"
    max          = "12h"
  }
}

# Our own ledger reads the second version already.
sink "webhook" "ledger" {
  url     = env("WEBHOOK_URL")
  events  = ["invoice.paid@2"]
  secrets = [env("WEBHOOK_SECRET")]
}
