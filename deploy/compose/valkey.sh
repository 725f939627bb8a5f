#!/bin/sh
# Starts Valkey as docker-compose.yml needs it; further arguments are options of valkey-server.
# The users file is written where only this user can read it: passwords are no arguments.
set -eu
umask 077
sed -e '/^#/d' -e "s/ADMIN_PASSWORD/$ADMIN_PASSWORD/" -e "s/ISSUER_PASSWORD/$ISSUER_PASSWORD/" \
  "$USERS_TEMPLATE" > "$USERS_FILE"
unset ADMIN_PASSWORD ISSUER_PASSWORD
# Every redemption is synced to disk before it is answered, and Valkey refuses writes at its memory limit instead of
# evicting keys.
exec valkey-server --aclfile "$USERS_FILE" --appendonly yes --appendfsync always --no-appendfsync-on-rewrite no \
  --save '' --maxmemory-policy noeviction "$@"
