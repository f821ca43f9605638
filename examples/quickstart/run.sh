#!/usr/bin/env bash
# Rowhook in a minute: a throw-away PostgreSQL, a receiver that checks signatures, rowhook between
# them, and an application that changes rows.
#
#   bash examples/quickstart/run.sh           see events arrive; in a terminal, go on until Ctrl-C
#   bash examples/quickstart/run.sh --check   end by itself: 0 when every event came and was verified
#
# Needs Go and git; PostgreSQL's server programs are found, or fetched into .cache. Everything that
# is started is stopped at the end, and nothing else on the machine is touched.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=examples/quickstart
check=
case "$*" in
  "") ;;
  --check) check=yes ;;
  *) echo "usage: bash $here/run.sh [--check]" >&2 && exit 2 ;;
esac

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n== %s\n' "$*"; }

work=$(mktemp -d "${TMPDIR:-/tmp}/rowhook-quickstart.XXXXXX")
pids=() # in the order of their start
cleanup() {
  local status=$? i
  trap - EXIT INT TERM
  if [ $status != 0 ] && [ $status != 130 ] && [ -s "$work/rowhook.log" ]; then
    say "the log of rowhook" && tail -n 50 "$work/rowhook.log"
  fi
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    if kill -TERM "${pids[i]}" 2>/dev/null; then wait "${pids[i]}" 2>/dev/null || true; fi
  done
  rm -rf "$work"
  exit $status
}
# ended PID: it is ours no longer; the number may be given to another process.
ended() {
  local pid rest=()
  for pid in "${pids[@]}"; do [ "$pid" = "$1" ] || rest+=("$pid"); done
  pids=("${rest[@]}")
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "Building"
mkdir -p .cache/bin
rowhook=${ROWHOOK_BIN:-$PWD/.cache/bin/rowhook}
scratch=$PWD/.cache/bin/scratch
if [ -z "${ROWHOOK_BIN:-}" ]; then CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$rowhook" ./cmd/rowhook; fi
CGO_ENABLED=0 go build -o "$scratch" ./integration/scratch
ROWHOOK_PG_BIN=$(bash integration/getpg.sh)
export ROWHOOK_PG_BIN

say "Starting a PostgreSQL of our own ($ROWHOOK_PG_BIN)"
"$scratch" postgres "$work/url" &
pids+=($!)
"$scratch" wait $! "$work/url"
DATABASE_URL=$(cat "$work/url")
export DATABASE_URL
"$scratch" sql "$DATABASE_URL" $here/schema.sql
echo "$DATABASE_URL, with $here/schema.sql"

say "Starting a receiver and rowhook"
receiver=127.0.0.1:$("$scratch" port)
admin=127.0.0.1:$("$scratch" port)
export WEBHOOK_URL=http://$receiver/hooks
WEBHOOK_SECRET=whsec_$(head -c 24 /dev/urandom | base64)
export WEBHOOK_SECRET
expected=7
"$rowhook" receive --listen "$receiver" --secret "$WEBHOOK_SECRET" --expect $expected --timeout 60s &
receive=$!
pids+=($receive)

# The rules are those of this folder; where rowhook keeps its data and listens is the machine's affair.
mkdir "$work/config"
cp $here/rowhook.hcl "$work/config/"
cat >"$work/config/machine.hcl" <<HCL
rowhook {
  data_dir = "$work/data"
  listen   = "$admin"
}
HCL
"$rowhook" check -c "$work/config"
"$rowhook" run -c "$work/config" >"$work/rowhook.log" 2>&1 &
daemon=$!
pids+=($daemon)
"$scratch" wait $daemon "http://$admin/readyz"
echo "ready: http://$admin/readyz"

say "The application at work, $expected events to come"
application() {
  printf '\n-- %s\n%s\n' "$1" "$2"
  "$scratch" sql "$DATABASE_URL" <<<"$2" >/dev/null
}
application "two orders in one transaction: two events" \
  "INSERT INTO orders (account_id, customer_id, total_cents) VALUES (1, 42, 1999), (1, 43, 500);"
application "the first is paid: an event" \
  "UPDATE orders SET status = 'paid' WHERE id = 1;"
application "paid, but rolled back: nothing" \
  "BEGIN; UPDATE orders SET status = 'paid' WHERE id = 2; ROLLBACK;"
application "no rule asks for this: nothing" \
  "UPDATE orders SET status = 'shipped' WHERE id = 1;"
application "the second is paid and then removed: two events, in this order" \
  "BEGIN; UPDATE orders SET status = 'paid' WHERE id = 2; DELETE FROM orders WHERE id = 2; COMMIT;"
application "a logical message, as durable as a row: an event" \
  "SELECT pg_logical_emit_message(true, 'signup', '{\"email\": \"ada@example.com\"}');"
application "notifications, one of which the rule wants: an event" \
  "NOTIFY exports, '{\"format\": \"csv\", \"rows\": 12}'; NOTIFY exports, '{\"format\": \"xml\"}';"

status=0
wait $receive || status=$?
ended $receive
if [ $status != 0 ]; then
  say "Not all of the $expected events came, or one was not signed as it should be"
  exit 1
fi
say "All $expected events came, each signed and verified"

if [ -n "$check" ]; then
  kill -TERM $daemon
  wait $daemon || status=$?
  ended $daemon
  [ $status = 0 ] || echo "rowhook ended with $status on SIGTERM" >&2
  exit $status
fi

cat <<TEXT

What to try next
  $here/rowhook.hcl         the rules: change one, run this again
  rowhook check -c FILE                  what is wrong in a file, with the line and the remedy
  rowhook events list, deliveries list   what was made and where it went
  rowhook status                         how far each source and endpoint is
TEXT
[ -t 0 ] || exit 0

cat <<TEXT

Everything runs on until Ctrl-C. In another terminal:
  export DATABASE_URL='$DATABASE_URL' WEBHOOK_URL='$WEBHOOK_URL' WEBHOOK_SECRET='$WEBHOOK_SECRET'
  $rowhook status -c $work/config
  $rowhook events list -c $work/config
  $scratch sql "\$DATABASE_URL" <<<"UPDATE orders SET status = 'paid'"
Kill rowhook with "kill -9 $daemon", start it again with "$rowhook run -c $work/config", and
nothing is lost.

TEXT
"$rowhook" receive --listen "$receiver" --secret "$WEBHOOK_SECRET" &
pids+=($!)
wait $!
