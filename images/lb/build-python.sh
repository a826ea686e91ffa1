#!/bin/sh
# Compiles CPython into /usr/local on alpine:3.10.
# Usage: build-python.sh VERSION SHA256 [OPTION_OF_CONFIGURE...]
set -eux

version=$1
sha256=$2
shift 2

apk add --no-cache gcc libc-dev make linux-headers libffi-dev openssl-dev zlib-dev sqlite-dev \
    xz-dev bzip2-dev

cd /tmp
wget -O python.tgz "https://www.python.org/ftp/python/$version/Python-$version.tgz"
echo "$sha256  python.tgz" | sha256sum -c -
tar -xzf python.tgz
cd "Python-$version"

# musl gives threads 128 kB of stack, too little for deep Python calls: 1 MB instead.
./configure --prefix=/usr/local --disable-test-modules --with-ensurepip=no \
    LDFLAGS='-Wl,-z,stack-size=0x100000' "$@"
make -j"$(getconf _NPROCESSORS_ONLN)"
make install

# What only development needs.
cd /usr/local
rm -rf include share lib/pkgconfig lib/libpython*.a lib/python3.*/config-* \
    lib/python3.*/idlelib lib/python3.*/tkinter lib/python3.*/turtledemo
find . -name '*.opt-[12].pyc' -delete
find . -type f \( -name '*.so' -o -path './bin/python3.*[0-9]' \) -exec strip {} +

# The shared libraries that the base lacks travel with it: the image needs no package then.
find lib/python3.*/lib-dynload -name '*.so' -exec ldd {} \; \
    | awk '$3 ~ "^/usr/lib/" { print $3 }' | sort -u \
    | while read -r library; do cp -L "$library" lib/; done

# A module whose library was not found is only skipped by its build.
python3 -c 'import bz2, ctypes, lzma, sqlite3, ssl, zlib'
