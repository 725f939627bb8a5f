#!/bin/sh
# Writes the secrets of docker-compose.yml into .env of the current directory, which only its owner can read. Secrets
# that are there already stay as they are.
set -eu
umask 077
touch .env
chmod 600 .env
for name in ISSUER_POSTGRES_PASSWORD ISSUER_OWNER_PASSWORD ISSUER_API_PASSWORD ISSUER_WORKER_PASSWORD \
  ISSUER_REDIS_PASSWORD ISSUER_REDIS_ADMIN_PASSWORD; do
  grep -q "^$name=." .env && continue
  printf '%s=%s\n' "$name" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >> .env
  echo "wrote $name to .env"
done
