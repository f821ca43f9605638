#!/usr/bin/env bash
# Kills rowhook and PostgreSQL with SIGKILL at random moments of a mixed workload, and holds what
# arrived against what was committed.
#
#   bash integration/kill.sh KILLS [SEED]
#
# KILLS is how often rowhook is killed; PostgreSQL is killed an eighth as often, and a race build is
# killed, stopped and left without its server a fifth as often. The seed of a run is printed.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 1 ] || [ $# -gt 2 ] || [[ ! ${1}${2:-} =~ ^[0-9]+$ ]]; then
  echo "usage: bash integration/kill.sh KILLS [SEED]" >&2
  exit 2
fi
ROWHOOK_PG_BIN=${ROWHOOK_PG_BIN:-$(bash integration/getpg.sh)}
export ROWHOOK_PG_BIN ROWHOOK_KILLS=$1 ROWHOOK_SEED=${2:-$((RANDOM * 32768 + RANDOM))}
echo "seed $ROWHOOK_SEED"
exec go test -count=1 -timeout 0 -v -run '^TestKill_' ./integration
