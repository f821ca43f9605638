# An audit trail with who did it: every change of the tables that matter, before and after, with what
# the application said of the transaction. SELECT acting(...) stands in schema.sql.

rowhook {
  catalog = "catalog.json" # made by: rowhook check --database --save-catalog catalog.json
}

source "postgres" "app" {
  url = env("DATABASE_URL")
}

locals {
  # Who, why and when. A change that nobody announced, such as one by hand, is the most interesting
  # of all: it says so.
  circumstances = {
    actor       = try(tx.context.actor, null)
    reason      = try(tx.context.reason, null)
    announced   = can(tx.context.actor) && try(tx.context.actor, null) != null
    transaction = tx.xid
    at          = tx.commit_time
    op          = op
    table       = table
  }
}

event "audit.member" {
  description = "A member was added, changed or removed. Passwords are never part of it."
  table       = "public.members"
  on          = ["insert", "update", "delete"]

  # That somebody was seen is no change of a member.
  when = op != "update" || changed.email || changed.role || changed.password_hash
  data = merge(local.circumstances, {
    member   = row.id
    before   = op == "insert" ? null : omit(old, "password_hash")
    after    = op == "delete" ? null : omit(new, "password_hash")
    password = op == "update" ? changed.password_hash : false
  })
}

event "audit.setting" {
  description = "A setting was added, changed or removed."
  table       = "public.settings"
  on          = ["insert", "update", "delete"]
  data = merge(local.circumstances, {
    setting = row.name
    before  = old.value
    after   = new.value
  })
}

# Rights are worth an event of their own, for somebody who reads mail.
event "alert.owner_made" {
  description = "Somebody became an owner."
  table       = "public.members"
  on          = ["insert", "update"]
  when        = new.role == "owner" && old.role != "owner"
  data = {
    member = new.id
    email  = regexreplace("^(.)[^@]*", new.email, "$1***")
    actor  = try(tx.context.actor, null)
  }
}

# An audit trail that is complete waits for its receiver: one event at a time, and none is given up
# for three days.
sink "webhook" "audit" {
  url        = env("WEBHOOK_URL")
  events     = ["audit.*", "alert.*"]
  secrets    = [env("WEBHOOK_SECRET")]
  order      = "strict"
  on_failure = "block_endpoint"
}
