#!/bin/sh
# Runs once, when the image creates its data: the owner of the tables is no superuser. `issuer migrate` works as this
# owner and creates the roles of the API and the worker.
set -eu
psql -X -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv password OWNER_PASSWORD
CREATE ROLE issuer_owner LOGIN CREATEROLE PASSWORD :'password';
CREATE DATABASE issuer OWNER issuer_owner;
SQL
