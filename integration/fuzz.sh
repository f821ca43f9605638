#!/usr/bin/env bash
# Fuzzes every decoder of the project, each for some seconds. What it finds is kept by go test in
# testdata/fuzz of the package: commit it with the mend.
#
#   bash integration/fuzz.sh [SECONDS_EACH]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30}
[[ $seconds =~ ^[0-9]+$ ]] || { echo "usage: bash integration/fuzz.sh [SECONDS_EACH]" >&2; exit 2; }
failed=()
for package in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz'); do
    echo "=== $package $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" "$package" | tail -2 || failed+=("$package $target")
  done
done
[ ${#failed[@]} = 0 ] || { printf 'FAILED: %s\n' "${failed[@]}"; exit 1; }
