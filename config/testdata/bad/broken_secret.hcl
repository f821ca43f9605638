# What cannot be parsed is printed too, without its secrets.
source "postgres" "shop" {
  # ERROR: Invalid expression
  url = ) "postgres://app:s3cr3t-broken@db/shop"
}
