#!/usr/bin/env bash
# Runs the capture tests (named TestCapture… and TestValues…, and of backfills what depends on the server) on PostgreSQL of the given versions,
# two at a time, each on private clusters. Servers that are not here are brought by getpg.sh.
#
#   bash integration/capture.sh 16
#   bash integration/capture.sh          # 14 15 16 17 18
#
# ROWHOOK_CAPTURE_RUN is a pattern for fewer tests, as go test -run takes it.
set -uo pipefail
cd "$(dirname "$0")/.."
for version in "$@"; do
  if [[ ! $version =~ ^1[4-8]$ ]]; then
    echo "usage: bash integration/capture.sh [VERSION...], each of 14 to 18" >&2
    exit 2
  fi
done
[ $# -gt 0 ] || set -- 14 15 16 17 18

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
# Built once: two runs share the processors.
go test -c -o "$logs/capture.test" ./integration || exit
if [ -z "${ROWHOOK_BIN:-}" ]; then
  export ROWHOOK_BIN=$logs/rowhook
  CGO_ENABLED=0 go build -o "$ROWHOOK_BIN" ./cmd/rowhook || exit
fi

# binaries VERSION: those that ROWHOOK_PG_BIN names count when they are of the version.
binaries() {
  if [ -n "${ROWHOOK_PG_BIN:-}" ] && bash integration/getpg.sh "$1" 2>/dev/null; then return; fi
  ROWHOOK_PG_BIN='' bash integration/getpg.sh "$1"
}

run() {
  local from=$SECONDS status=0
  ROWHOOK_PG_BIN=$(binaries "$1") && export ROWHOOK_PG_BIN &&
    cd integration && "$logs/capture.test" -test.run "${ROWHOOK_CAPTURE_RUN:-^Test(Capture|Values)_|^TestBackfill_(Reads|Says|G2)}" -test.parallel 4 -test.timeout 10m -test.v || status=1
  echo "$((SECONDS - from)) s"
  return $status
}

failed=0
report() { # VERSION PID
  if wait "$2"; then
    echo "PostgreSQL $1: $(grep -c '^--- PASS' "$logs/$1") tests in $(tail -1 "$logs/$1")"
  else
    failed=1
    echo "PostgreSQL $1 FAILED:"
    grep -v '^=== \|^ *--- PASS' "$logs/$1"
  fi
}
while [ $# -gt 0 ]; do
  run "$1" >"$logs/$1" 2>&1 &
  first=$!
  if [ $# -gt 1 ]; then
    run "$2" >"$logs/$2" 2>&1 &
    report "$1" "$first"
    report "$2" $!
    shift
  else
    report "$1" "$first"
  fi
  shift
done
exit $failed
