locals {
  mug = { id = 7, category_id = 1, name = "Mug", visible = true, view_count = 10 }
}

test "a new name drops the product and its category" {
  update "public.products" {
    old = local.mug
    new = { name = "Large mug" }
  }
  expect "cache.product_stale" {
    key  = "product/7"
    data = { drop = ["product:7", "category:1"] }
  }
}

test "a product that moves drops both categories" {
  update "public.products" {
    old = local.mug
    new = { category_id = 2 }
  }
  expect "cache.product_stale" {
    data = { drop = ["product:7", "category:2", "category:1"] }
  }
}

test "a view makes nothing stale" {
  update "public.products" {
    old = local.mug
    new = { view_count = 11 }
  }
}

test "new and removed products" {
  insert "public.products" {
    new = local.mug
  }
  delete "public.products" {
    old = local.mug
  }
  expect "cache.product_stale" {
    op   = "insert"
    data = { drop = ["product:7", "category:1"] }
  }
  expect "cache.product_stale" {
    op   = "delete"
    data = { drop = ["product:7", "category:1"] }
  }
}

test "prices and texts are parts of their product" {
  update "public.prices" {
    new = { product_id = 7, region = "eu", cents = 999 }
  }
  delete "public.translations" {
    old = { product_id = 7, language = "de" }
  }
  expect "cache.product_part_stale" {
    key   = "product/7"
    table = "public.prices"
    data  = { drop = ["product:7"] }
  }
  expect "cache.product_part_stale" {
    key   = "product/7"
    table = "public.translations"
    data  = { drop = ["product:7"] }
  }
}

test "a truncate drops everything" {
  truncate "public.prices" {}
  expect "cache.all_stale" {
    key  = null
    data = { drop = ["*"] }
  }
}
