#!/bin/sh
# Compiles nginx into /usr/sbin on alpine:3.10, with what nginx.conf.template asks for and little
# more. Usage: build-nginx.sh DIRECTORY, in which unpack.sh lies.
set -eux

apk add --no-cache curl gcc libc-dev make
mkdir /tmp/src
cd /tmp/src
sh "$1/unpack.sh" nginx pcre2

cd nginx
./configure --sbin-path=/usr/sbin/nginx --prefix=/etc/nginx --conf-path=/etc/nginx/nginx.conf \
    --error-log-path=stderr --pid-path=/srv/lbctl/nginx.pid --lock-path=/srv/lbctl/nginx.lock \
    --user=nginx --group=nginx \
    --with-cc-opt='-O2 -fstack-protector-strong' --with-ld-opt='-Wl,-z,relro,-z,now' \
    --with-pcre=../pcre2 \
    --with-http_dav_module --with-http_secure_link_module --with-http_stub_status_module \
    --without-http_gzip_module --without-http_ssi_module --without-http_userid_module \
    --without-http_auth_basic_module --without-http_mirror_module \
    --without-http_autoindex_module --without-http_geo_module --without-http_grpc_module \
    --without-http_split_clients_module --without-http_referer_module \
    --without-http_memcached_module --without-http_limit_conn_module \
    --without-http_limit_req_module --without-http_empty_gif_module \
    --without-http_browser_module
make -j"$(getconf _NPROCESSORS_ONLN)"
strip -o /usr/sbin/nginx objs/nginx
nginx -V
