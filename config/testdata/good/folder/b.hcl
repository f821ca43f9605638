source "postgres" "shop" {
  url = env("DATABASE_URL")
}

locals {
  large = new.total_cents > 100000
}
