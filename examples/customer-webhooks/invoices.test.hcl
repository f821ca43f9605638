locals {
  draft = {
    id            = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
    account_id    = "acme"
    number        = "2026-0001"
    status        = "draft"
    amount        = "120.50"
    currency      = "EUR"
    payer_email   = "ada@example.com"
    lines         = [{ text = "Consulting", amount = 120.50 }]
    internal_note = "pays late"
    live          = true
  }
}

test "a customer sees the public form of an invoice, for its own tenant" {
  update "public.invoices" {
    old = local.draft
    new = { status = "sent" }
  }
  expect "invoice.sent" {
    tenant = "acme"
    data = {
      id          = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
      number      = "2026-0001"
      status      = "sent"
      amount      = "120.50"
      currency    = "EUR"
      payer_email = "a***@example.com"
    }
  }
}

test "an invoice may be sent as soon as it is made" {
  insert "public.invoices" {
    new = { id = "7d444840-9dc0-11d1-b245-5ffdce74fad2", account_id = "acme", number = "1", status = "sent", amount = 1, currency = "EUR", payer_email = "x", lines = [], live = true }
  }
  expect "invoice.sent" {}
}

test "a payment makes an event of each version" {
  update "public.invoices" {
    old = local.draft
    new = { status = "paid", paid_at = "2026-01-31T09:30:00Z" }
  }
  expect "invoice.paid" {
    version  = 1
    tenant   = "acme"
    includes = { amount = "120.50", paid_at = "2026-01-31T09:30:00+00:00" }
  }
  expect "invoice.paid" {
    version = 2
    rule    = "invoice.paid_v2"
    tenant  = "acme"
    includes = {
      invoice = {
        lines = [{ text = "Consulting", amount = 120.50 }]
      }
    }
  }
}

test "test invoices are for nobody" {
  update "public.invoices" {
    old = { id = "7d444840-9dc0-11d1-b245-5ffdce74fad2", account_id = "acme", number = "1", status = "draft", amount = 1, currency = "EUR", payer_email = "x", lines = [], live = false }
    new = { status = "paid" }
  }
}

test "a note of ours changes nothing for a customer" {
  update "public.invoices" {
    old = local.draft
    new = { internal_note = "has paid after all" }
  }
}
