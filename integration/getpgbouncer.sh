#!/usr/bin/env bash
# Prints the path of a pgbouncer program, and gets one when there is none. Nothing is installed and no
# service is started: Debian's package and the libraries that the machine lacks are downloaded and
# unpacked into .cache. They find their libraries by LD_LIBRARY_PATH, which the second line has.
set -euo pipefail
cd "$(dirname "$0")/.."
to=$PWD/.cache/pgbouncer
say() { echo "getpgbouncer: $*" >&2; }

libraries() { echo "$to/usr/lib/$(uname -m)-linux-gnu:$to/lib/$(uname -m)-linux-gnu"; }

find_program() {
  local program
  for program in "$(command -v pgbouncer || true)" /usr/sbin/pgbouncer "$to/usr/sbin/pgbouncer"; do
    if [ -x "$program" ] && LD_LIBRARY_PATH=$(libraries) "$program" --version >/dev/null 2>&1; then
      echo "$program"
      libraries
      return
    fi
  done
  return 1
}

fetch() {
  local packages=pgbouncer name
  if ! apt-cache show pgbouncer >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then apt-get update -qq >&2 || true; fi
  for name in $(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances pgbouncer | grep -E '^lib' | sort -u); do
    case $name in libperl* | *-perl | libelogind* | libnewt* | libdebian-installer* | libtextwrap*) continue ;; esac
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || packages="$packages $name"
  done
  rm -rf "$to.part"
  mkdir -p "$to.part/packages"
  say "downloading $packages"
  # Virtual packages have no file: what counts is that the program runs in the end.
  (cd "$to.part/packages" && for name in $packages; do apt-get download -qq -o APT::Sandbox::User=root "$name" >&2 || say "no $name"; done)
  for name in "$to.part"/packages/*.deb; do dpkg-deb -x "$name" "$to.part" || return 1; done
  rm -rf "$to.part/packages" "$to"
  chmod -R a+rX "$to.part"
  mv "$to.part" "$to"
}

if find_program; then exit 0; fi
mkdir -p .cache
exec 9>.cache/getpgbouncer.lock
if command -v flock >/dev/null; then flock 9; fi
if find_program; then exit 0; fi # another run brought it
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
  say "no pgbouncer here, and no apt-get to bring one: install it and run this again"
  exit 1
}
fetch
find_program || { say "the pgbouncer that was brought does not run"; exit 1; }
