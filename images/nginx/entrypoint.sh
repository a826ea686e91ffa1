#!/bin/sh
# Lays out the one writable directory and becomes nginx. The list starts empty at every start,
# a restart included: whatever it said before is old, and the publisher brings the present one.
set -eu
cd /srv/lbctl
mkdir -p tmp www
cp /usr/share/lbctl/www/* www/
exec nginx -c /etc/nginx/nginx.conf
