source "postgres" "shop" {
  url = env("DATABASE_URL")
}
