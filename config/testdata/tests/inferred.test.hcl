# Here the source shop has no catalogue.

locals {
  unused = 1 # WARNING: Local is never used
}

test "a column of two types" {
  insert "public.orders" {
    new = { id = 1, total = 5 }
  }
  insert "public.orders" {
    new = { id = "1", total = null } # ERROR: Column of two types | Save the catalogue
  }
}
