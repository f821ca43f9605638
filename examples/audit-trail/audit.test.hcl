locals {
  ada = { id = 1, email = "ada@example.com", role = "editor", password_hash = "$2b$10$x", last_seen_at = null }
}

test "who made somebody an owner, and why" {
  tx {
    xid         = 771
    commit_time = "2026-01-31T09:30:00Z"
    context     = { actor = "user/7", reason = "ticket 123" }
  }
  update "public.members" {
    old = local.ada
    new = { role = "owner" }
  }
  expect "alert.owner_made" {
    data = { member = 1, email = "a***@example.com", actor = "user/7" }
  }
  expect "audit.member" {
    key = "public.members/1"
    data = {
      actor       = "user/7"
      reason      = "ticket 123"
      announced   = true
      transaction = 771
      at          = "2026-01-31T09:30:00.000000Z"
      op          = "update"
      table       = "public.members"
      member      = 1
      password    = false
      before      = { id = 1, email = "ada@example.com", role = "editor", last_seen_at = null }
      after       = { id = 1, email = "ada@example.com", role = "owner", last_seen_at = null }
    }
  }
}

test "a change by hand is not announced" {
  update "public.members" {
    old = local.ada
    new = { email = "eve@example.com" }
  }
  expect "audit.member" {
    includes = { actor = null, announced = false }
  }
}

test "that a password changed is known, the password is not" {
  update "public.members" {
    old = local.ada
    new = { password_hash = "$2b$10$y" }
  }
  expect "audit.member" {
    includes = {
      password = true
      before   = { role = "editor" }
      after    = { role = "editor" }
    }
  }
}

test "that somebody was seen is no change" {
  update "public.members" {
    old = local.ada
    new = { last_seen_at = "2026-01-31T09:30:00Z" }
  }
}

test "members come and go" {
  insert "public.members" {
    new = local.ada
  }
  delete "public.members" {
    old = local.ada
  }
  expect "audit.member" {
    includes = { op = "insert", before = null, after = { id = 1 } }
  }
  expect "audit.member" {
    includes = { op = "delete", before = { id = 1 }, after = null }
  }
}

test "settings" {
  tx {
    context = { actor = "user/7" }
  }
  insert "public.settings" {
    new = { name = "limits", value = { users = 5 } }
  }
  update "public.settings" {
    old = { name = "limits", value = { users = 5 } }
    new = { value = { users = 50 } }
  }
  expect "audit.setting" {
    includes = { setting = "limits", before = null, after = { users = 5 }, actor = "user/7", reason = null }
  }
  expect "audit.setting" {
    includes = { setting = "limits", before = { users = 5 }, after = { users = 50 } }
  }
}
