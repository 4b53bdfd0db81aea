#!/usr/bin/env bash
# Prometheus's promtool into $VENV/share/promtool, out of Debian's package, without root: the tests
# check docs/operations/alerts.yml with it. Where it is on the PATH, or apt is not there, nothing.
set -euo pipefail
if command -v promtool >/dev/null || ! command -v apt-get >/dev/null; then exit 0; fi
target="$VENV/share/promtool"
if [ -x "$target" ]; then exit 0; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
# An old or missing list of packages names a file that is no longer there: then it is renewed once,
# in a folder of our own, since the system's needs root.
lists=(-o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder/cache")
mkdir -p lists/partial cache/archives/partial
apt-get -q download prometheus >log 2>&1 || {
  apt-get -q "${lists[@]}" update >log 2>&1 && apt-get -q "${lists[@]}" download prometheus >log 2>&1
} || { cat log >&2; exit 1; }
dpkg-deb -x prometheus_*.deb .
cd - >/dev/null
install -D -m 0755 "$folder/usr/bin/promtool" "$target"
