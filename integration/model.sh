#!/usr/bin/env bash
# Runs the model test: random schemas, transactions, DDL, rule edits, backfills and kills; a
# receiver that applies the events to tables of its own must end with what PostgreSQL has.
#
#   bash integration/model.sh SEEDS [FIRST_SEED] [VERSION]
#
# VERSION is a major version of PostgreSQL, 14 to 18; without it the installed one. A seed that
# fails prints how to run it again.
set -euo pipefail
cd "$(dirname "$0")/.."
for arg in "$@"; do
  [[ $arg =~ ^[0-9]+$ ]] || set --
done
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
  echo "usage: bash integration/model.sh SEEDS [FIRST_SEED] [VERSION]" >&2
  exit 2
fi
if [ $# -eq 3 ]; then
  ROWHOOK_PG_BIN=$(bash integration/getpg.sh "$3")
fi
ROWHOOK_PG_BIN=${ROWHOOK_PG_BIN:-$(bash integration/getpg.sh)}
export ROWHOOK_PG_BIN ROWHOOK_MODEL_SEEDS=$1 ROWHOOK_MODEL_FIRST=${2:-$((RANDOM * 32768 + RANDOM))}
exec go test -count=1 -timeout 0 -v -run '^TestModel_' ./integration
