#!/bin/sh
# Gets a headless Chromium for the tests of pages: the one on PATH, else Debian's package and the libraries that it needs, unpacked into
# .venv without root. Never fails: where there is none to be had it says so, and the tests that need one skip with that reason.
set -u
cd "$(dirname "$0")/.." || exit 1
target=.venv/chromium
package=chromium-headless-shell

for name in chromium-headless-shell chromium chromium-browser google-chrome; do
	command -v "$name" >/dev/null 2>&1 && exit 0
done
[ -x "$target/run" ] && exit 0

none() {
	echo "get-chromium: $1: tests of pages in a browser will be skipped" >&2
	exit 0
}

command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 || none "no apt-get here"
folder=$(mktemp -d) || none "no room for temporary files"
trap 'rm -rf "$folder"' EXIT

# What is missing here of all that it depends on: apt would install these, and says so without being root.
missing() {
	apt-get "$@" install --simulate --no-install-recommends --no-upgrade "$package" 2>"$folder/log" | sed -n 's/^Inst \([^ ]*\).*/\1/p'
}
packages=$(missing)
if [ -z "$packages" ] || ! (cd "$folder" && apt-get download $packages >"$folder/log" 2>&1); then
	# The package lists are missing, or too old for the mirror: then they are fetched, into a folder of our own.
	mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
	set -- -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=
	apt-get "$@" update >"$folder/log" 2>&1
	packages=$(missing "$@")
	[ -n "$packages" ] || none "no package $package ($(tail -n 1 "$folder/log"))"
	(cd "$folder" && apt-get "$@" download $packages >"$folder/log" 2>&1) || none "apt-get download failed ($(tail -n 1 "$folder/log"))"
fi

for file in "$folder"/*.deb; do
	dpkg -x "$file" "$folder/unpacked" || none "$(basename "$file") cannot be unpacked"
done
cat >"$folder/unpacked/run" <<'END'
#!/bin/sh
# Starts the Chromium that was unpacked here, with the libraries that were unpacked beside it.
here=$(CDPATH= cd -- "$(dirname "$0")" && pwd)
libraries=$(find "$here/usr/lib" "$here/lib" -name '*.so*' -exec dirname {} + 2>/dev/null | sort -u | tr '\n' ':')
LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}" exec "$here/usr/lib/chromium/chromium-headless-shell" "$@"
END
chmod +x "$folder/unpacked/run"
"$folder/unpacked/run" --no-sandbox --headless --dump-dom 'data:text/html,<p>works' 2>"$folder/log" | grep -q works \
	|| none "the package does not run here ($(tail -n 1 "$folder/log"))"
# Moved in one piece, so that two runs at once cannot leave half a folder.
mv -T "$folder/unpacked" "$target" 2>/dev/null || [ -x "$target/run" ] || none "cannot write to $target"
