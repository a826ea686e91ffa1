#!/bin/sh
# Is the base of our images the one they were tested on? Compares every file and link of it with
# what release 3.10.9 has, by one SHA-256; Alpine's package keys, which vouch for what `apk`
# fetches, are among them.
#
#   check.sh [EXPECTED] [ROOT]     EXPECTED: a SHA-256, `any`, or nothing for the release's own
#
# Prints the checksum; exit status 1 if it is not the one expected.
set -eu

case $(uname -m) in
    x86_64) release=d57a549d6044cf998c94702965c234f8cc2d8b50d7adf1f73c653ea97bed3418 ;;
    aarch64) release=0587a4fbd67e552eb1daf8aab1b88da9479da5b8b083790d5abb83be8784ed7d ;;
    *) release=known-for-x86_64-and-aarch64-only ;;
esac
expected=${1:-$release}
cd "${2:-/}"

# What the engine itself puts into a container while it builds does not count.
found=$(
    {
        find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./tmp \
            -o -path ./etc/hosts -o -path ./etc/hostname -o -path ./etc/resolv.conf \
            -o -path ./.dockerenv \) -prune -o -type f -print0 | LC_ALL=C sort -z \
            | xargs -0 sha256sum
        find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./tmp \
            -o -path ./etc/mtab \) -prune -o -type l -print | LC_ALL=C sort \
            | while IFS= read -r link; do echo "$link $(readlink "$link")"; done
    } | sha256sum | cut -d' ' -f1
)
echo "$found"
if [ "$expected" != any ] && [ "$found" != "$expected" ]; then
    echo "this is not alpine:3.10 as released (3.10.9): its files have the checksum $found," >&2
    echo "expected was $expected; to build on another base: --build-arg BASE_SHA256=any" >&2
    exit 1
fi
