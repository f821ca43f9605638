#!/usr/bin/env bash
# Gets what the tests need and runs all of them: formatting, vet, lint, the static binary, every
# package under the race detector, then the integration tests against real PostgreSQL, and those of
# them that capture against the other versions of it, 14 to 18. It asks nothing, needs only Go, git
# and a package manager, and ends non-zero when anything failed.
#
# Tools are kept in .cache; no cluster that exists on the machine is started, changed or used.
set -uo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=${CGO_ENABLED:-1} # the race detector needs it
cache=$PWD/.cache
mkdir -p "$cache/bin"
export PATH=$cache/bin:$PATH

golangci_version=2.15.0
# What judges our signatures and contracts from outside: the JavaScript library of Standard Webhooks,
# the TypeScript compiler, a validator of JSON Schema and the parser of AsyncAPI.
javascript="standardwebhooks@1.0.0 typescript@5.9.3 ajv@8.20.0 ajv-formats@3.0.1 @asyncapi/parser@3.6.3"
most_bytes=$((30 * 1000 * 1000))

failed=()
times=()

# step NAME COMMAND...: runs it, notes its time and whether it failed.
step() {
  local name=$1 from=$SECONDS status=0
  shift
  echo "=== $name"
  "$@" || status=$?
  times+=("$(printf '%4ds  %s%s' $((SECONDS - from)) "$name" "$([ $status = 0 ] || echo '  FAILED')")")
  [ $status = 0 ] || failed+=("$name")
  return $status
}

report() {
  echo "=== times"
  printf '%s\n' "${times[@]}" "$(printf '%4ds  in all' $SECONDS)"
  if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
  fi
}

# need COMMAND PACKAGE...: installs Debian packages for a command that is missing. As a plain user
# it cannot, and says what to install.
updated=
need() {
  local command=$1
  shift
  command -v "$command" >/dev/null && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "$command is missing: install $* and run this again" >&2
    return 1
  fi
  if [ -z "$updated" ]; then
    apt-get update -qq || true
    updated=yes
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null && command -v "$command" >/dev/null
}

prerequisites() {
  need go golang || return
  need git git || return
  need gcc gcc libc6-dev || return
  need strace strace || return
  need node nodejs || return
  need npm npm || return
  ROWHOOK_PG_BIN=$(bash integration/getpg.sh) || return
  export ROWHOOK_PG_BIN
  echo "PostgreSQL: $ROWHOOK_PG_BIN"
  export ROWHOOK_JS=$cache/js
  if [ "$(cat "$ROWHOOK_JS/installed" 2>/dev/null)" != "$javascript" ]; then
    # shellcheck disable=SC2086 # one word a package
    mkdir -p "$ROWHOOK_JS" && npm install --silent --no-audit --no-fund --prefix "$ROWHOOK_JS" $javascript </dev/null || return
    echo "$javascript" >"$ROWHOOK_JS/installed"
  fi
  go mod download
}

linter() {
  [ "$("$cache/bin/golangci-lint" version --short 2>/dev/null)" = "$golangci_version" ] && return
  CGO_ENABLED=0 GOBIN=$cache/bin go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$golangci_version"
}

formatted() {
  local files
  files=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 ls 2>/dev/null | xargs gofmt -l) || return
  [ -z "$files" ] || { echo "not formatted by gofmt:" && echo "$files" && return 1; }
}

static_binary() {
  export ROWHOOK_BIN=$cache/bin/rowhook
  CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$ROWHOOK_BIN" ./cmd/rowhook || return
  if ldd "$ROWHOOK_BIN" >/dev/null 2>&1; then
    echo "the binary is not static:" && ldd "$ROWHOOK_BIN"
    return 1
  fi
  local bytes
  bytes=$(stat -c %s "$ROWHOOK_BIN")
  echo "static, $bytes bytes of at most $most_bytes"
  [ "$bytes" -le "$most_bytes" ] && "$ROWHOOK_BIN" version
}

packages() {
  # shellcheck disable=SC2046 # one word a package
  go test -race -timeout 10m $(go list ./... | grep -v '/rowhook/integration')
}

# The kill tests run on the ordinary binary, and the mixed run that asks for it on a race build.
# Those that slots.sh runs wait for timers most of their time: they run by themselves, more at once.
integration() { go test -count=1 -p 1 -timeout 15m -skip '^Test(Slots|Notify|Failover|Restore|Disk)_' ./integration/...; }

# The installed version has had its turn by then.
other_versions() {
  local version others=()
  for version in 14 15 16 17 18; do
    bash integration/getpg.sh $version >/dev/null 2>&1 || others+=("$version")
  done
  bash integration/capture.sh "${others[@]}"
}

step "prerequisites" prerequisites || report
step "golangci-lint $golangci_version" linter || report
step "gofmt" formatted
step "go vet" go vet ./...
step "lint" golangci-lint run --timeout 10m ./...
step "static binary" static_binary || report
step "packages, race detector" packages
step "integration" integration
step "slots, failover, restore" bash integration/slots.sh
step "capture on the other versions" other_versions
report
