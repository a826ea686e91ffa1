#!/bin/sh
# Compiles CPython, and the libraries it needs, into /usr/local on alpine:3.10.
# Usage: build-python.sh DIRECTORY [OPTION_OF_CONFIGURE...]; unpack.sh lies in DIRECTORY.
set -eux

directory=$1
shift

apk add --no-cache curl gcc libc-dev linux-headers make perl
mkdir /tmp/src
cd /tmp/src
sh "$directory/unpack.sh" zlib libffi sqlite openssl python > /tmp/sources
jobs=$(getconf _NPROCESSORS_ONLN)

# What the base has of them is of 2021 at best. musl looks into /usr/local/lib by itself, but into
# /lib before, where the base's zlib lies: that one is linked in.
(cd zlib && CFLAGS='-O3 -fPIC' ./configure --prefix=/usr/local --static && make install)
(
    cd libffi
    ./configure --prefix=/usr/local --disable-static --disable-docs --disable-multi-os-directory
    make -j"$jobs"
    make install
)
(
    cd sqlite
    gcc -O2 -fPIC -shared -DSQLITE_DQS=0 -DSQLITE_OMIT_LOAD_EXTENSION \
        -o /usr/local/lib/libsqlite3.so sqlite3.c
    cp sqlite3.h /usr/local/include/
)
(
    cd openssl
    ./Configure --prefix=/usr/local --libdir=lib --openssldir=/etc/ssl \
        no-apps no-docs no-legacy no-module no-tests
    make -j"$jobs"
    make install_sw
)

cd python
# musl gives threads 128 kB of stack, too little for deep Python calls: 1 MB instead. It has no
# locales, which tests would ask for that train an optimised build.
./configure --prefix=/usr/local --with-openssl=/usr/local --disable-test-modules \
    --with-ensurepip=no CPPFLAGS=-I/usr/local/include \
    LDFLAGS='-L/usr/local/lib -Wl,-z,stack-size=0x100000' \
    PROFILE_TASK="-m test --pgo --ignore 'test_locale*'" "$@"
make -j"$jobs"
make install

# What only development needs.
cd /usr/local
rm -rf include share lib/cmake lib/engines-3 lib/ossl-modules lib/pkgconfig lib/*.a lib/*.la \
    lib/python3.*/config-* lib/python3.*/idlelib lib/python3.*/tkinter lib/python3.*/turtledemo
find . -name '*.opt-[12].pyc' -delete
find . -type f \( -name '*.so' -o -name '*.so.*' -o -path './bin/python3.*[0-9]' \) \
    -exec strip {} +

# A module whose library was not found is only skipped by its build, and one of the base's own
# libraries would do as well.
python3 - <<'END'
import ctypes, sqlite3, ssl, zlib

built = dict(line.split()[:2] for line in open("/tmp/sources"))
assert ssl.OPENSSL_VERSION.split()[1] == built["openssl"], ssl.OPENSSL_VERSION
assert sqlite3.sqlite_version == built["sqlite"], sqlite3.sqlite_version
assert zlib.ZLIB_RUNTIME_VERSION == built["zlib"], zlib.ZLIB_RUNTIME_VERSION
END
