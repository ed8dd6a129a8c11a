#!/bin/sh
# Gets a Prometheus for the tests: the one on PATH, else Debian's package, unpacked into .venv without root.
# Never fails: where there is none to be had it says so, and the tests that need one skip with that reason.
set -u
cd "$(dirname "$0")/.." || exit 1
target=.venv/prometheus

if command -v prometheus >/dev/null 2>&1 || [ -x "$target/usr/bin/prometheus" ]; then
	exit 0
fi

none() {
	echo "get-prometheus: $1: tests with a real Prometheus will be skipped" >&2
	exit 0
}

command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 || none "no apt-get here"
folder=$(mktemp -d) || none "no room for temporary files"
trap 'rm -rf "$folder"' EXIT

# The package lists may be missing, or too old for the mirror: then they are fetched, into a folder of our own without root.
download() {
	(cd "$folder" && apt-get "$@" download prometheus >"$folder/log" 2>&1)
}
if ! download; then
	mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
	set -- -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=
	apt-get "$@" update >"$folder/log" 2>&1
	download "$@" || none "apt-get download prometheus failed ($(tail -n 1 "$folder/log"))"
fi

mkdir -p .venv && dpkg -x "$folder"/prometheus_*.deb "$folder/unpacked" || none "the package cannot be unpacked"
"$folder/unpacked/usr/bin/prometheus" --version >/dev/null 2>&1 || none "the package does not run here"
# Moved in one piece, so that two runs at once cannot leave half a folder.
mv -T "$folder/unpacked" "$target" 2>/dev/null || [ -x "$target/usr/bin/prometheus" ] || none "cannot write to $target"
