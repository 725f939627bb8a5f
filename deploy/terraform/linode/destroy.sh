#!/bin/sh
# Fetch a last backup of the machine, then destroy it: destroy.sh DIRECTORY [options of terraform destroy]
# Without the backup nothing is destroyed. DIRECTORY must not exist yet.
set -eu
[ $# -ge 1 ] || { echo 'usage: destroy.sh DIRECTORY [options of terraform destroy]' >&2; exit 2; }
directory=$1
shift
[ ! -e "$directory" ] || { echo "$directory exists already" >&2; exit 2; }
cd "$(dirname "$0")" && here=$PWD && cd "$OLDPWD"
machine=root@$(terraform -chdir="$here" output -raw ipv4)

# Nothing is issued any more, everything issued is in the ledger, then the backup.
ssh "$machine" '
  systemctl stop caddy
  until issuer status --json | grep -q "\"backlog\": 0"; do sleep 1; done
  systemctl start issuer-backup || { systemctl start caddy; exit 1; }
  systemctl stop issuer
'
(umask 077 && mkdir -p "$directory" && ssh "$machine" 'tar -C /var/backups/issuer -cf - .' | tar -C "$directory" -xf -)
newest=$(find "$directory" -mindepth 1 -maxdepth 1 -name 'issuer-*Z' | sort | tail -1)
(cd "$newest" && sha256sum --check --quiet SHA256SUMS)
echo "the last backup is $newest"
terraform -chdir="$here" destroy "$@"
