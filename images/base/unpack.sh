#!/bin/sh
# Fetches archives that sources.txt names, holds each against its SHA-256, and unpacks it into a
# directory of its name.
#
#   unpack.sh NAME...     into the working directory; sources.txt lies beside this script
#
# Exit status 1 if a name is not in the list, or an archive is another than was listed.
set -eu
sources=$(dirname "$0")/sources.txt

for name in "$@"; do
    line=$(grep "^$name " "$sources") || { echo "no $name in $sources" >&2; exit 1; }
    # shellcheck disable=SC2086  # four words
    set -- $line
    # The base's list of authorities is of 2019. Who sends the archive does not matter: the
    # checksum says whether it is the one. A sender that falls silent ends the build.
    curl --fail --silent --show-error --location --proto '=https' --insecure --retry 3 \
        --connect-timeout 20 --speed-limit 1000 --speed-time 60 -o "$name.archive" "$4"
    found=$(sha256sum < "$name.archive" | cut -d' ' -f1)
    if [ "$found" != "$3" ]; then
        echo "$name $2 from $4 has the SHA-256 $found, expected was $3" >&2
        exit 1
    fi
    mkdir "$name"
    case $4 in
        *.xz) xzcat "$name.archive" ;;
        *) gunzip -c "$name.archive" ;;
    esac | tar -x -C "$name" --strip-components 1 -f -
    rm "$name.archive"
    echo "$name $2 $3"
done
