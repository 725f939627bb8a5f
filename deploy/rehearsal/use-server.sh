#!/bin/bash
# On the booted server, as root: what docs/deployment.md lets its operator do, and what happens to a server.
set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
url=https://shop.localhost

main() {
  step 'the units run'
  booted
  trust_caddy
  ready
  step 'a code over TLS'
  issuer clients create shop --name 'My Shop'
  key=$(issuer keys create --name till --scope redeem --client shop --json | field secret)
  seq --format 'shop,C-%05.0f' 1 20000 | sed '1i client_id,code' >/tmp/codes.csv
  batch=$(issuer preload /tmp/codes.csv --batch-name First --json | field batch_id)
  redeem
  step 'points over TLS'
  admin=$(cat /var/lib/issuer/data/api-key)
  post /api/v1/loyalty/programs "$admin" '{"client":"shop","name":"Tea"}' >/dev/null
  post /api/v1/loyalty/programs/Tea/members "$key" '{"ref":"anna"}' >/dev/null
  post /api/v1/loyalty/programs/Tea/members/anna/earn "$key" '{"points":10}' >/dev/null
  post /api/v1/loyalty/programs/Tea/members/anna/spend "$key" '{"points":4}'
  echo
  [[ $(points) == 6 ]]
  step 'memory'
  memory
  step 'memory at 50 redemptions a second, each over a connection of its own'
  redeem_steadily &
  sleep 15
  memory
  wait $!
  step 'backup and check'
  sleep 2  # the worker records what was redeemed
  systemctl start issuer-backup issuer-check
  [[ -z $(systemctl --failed --plain --no-legend) ]]
  after=$(redeem)
  step 'the main process is killed'
  kill -9 "$(systemctl show --property MainPID --value issuer)"
  sleep 1
  ready
  redeem
  step 'everything is destroyed and restored'
  systemctl stop issuer
  destroy_and_restore
  systemctl start issuer
  ready
  [[ $(redeem) > $after ]]
  [[ $(points) == 6 ]]
  issuer reconcile
  step 'a failed backup fails the check'
  chmod 0 /var/backups/issuer
  refuses systemctl start issuer-backup
  refuses systemctl start issuer-check
  step 'rights'
  systemd-analyze security --no-pager issuer issuer-backup issuer-check 2>/dev/null | grep Overall
  echo 'the rehearsal is complete'
}

booted() {
  for _ in $(seq 300); do
    # Without a bus at first. An answer comes when all units have started.
    case $(systemctl is-system-running --wait 2>/dev/null) in
      running) return ;;
      degraded) break ;;
    esac
    sleep 0.2
  done
  systemctl --failed >&2
  return 1
}

step() { printf '\n== %s\n' "$*"; }

field() { sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p" | head -1; }

trust_caddy() {
  local root=/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt
  until [[ -e $root ]]; do sleep 0.2; done
  cp "$root" /usr/local/share/ca-certificates/caddy.crt
  update-ca-certificates >/dev/null 2>&1
}

ready() {
  for _ in $(seq 300); do
    if curl --fail --silent --output /dev/null $url/readyz; then return; fi
    sleep 0.2
  done
  echo 'not ready within a minute' >&2
  journalctl --unit issuer --no-pager --lines 20 >&2
  return 1
}

post() {
  curl --fail-with-body --silent --show-error "$url$1" --header "Authorization: Bearer $2" \
    --header 'Content-Type: application/json' --data "$3"
}

redeem() {
  post /api/v1/code/redeem "$key" \
    "{\"batchid\":\"$batch\",\"clientid\":\"shop\",\"customerid\":\"$(cat /proc/sys/kernel/random/uuid)\"}"
  echo
}

redeem_steadily() {
  for _ in $(seq 1000); do
    redeem >/dev/null &
    sleep 0.02
  done
  wait
}

points() {
  curl --fail-with-body --silent --show-error $url/api/v1/loyalty/programs/Tea/members/anna \
    --header "Authorization: Bearer $key" | sed 's/.*"available": *\([0-9]*\).*/\1/'
}

refuses() {
  if "$@"; then
    echo "it should have failed: $*" >&2
    return 1
  fi
}

memory() {
  awk '/^Pss:/ { kib[FILENAME] = $2 } END { for (file in kib) print file, kib[file] }' \
    $(sed 's#.*#/proc/&/smaps_rollup#' /sys/fs/cgroup/system.slice/{issuer,caddy}.service/cgroup.procs) |
    while read -r file kib; do echo "$kib $(tr '\0' ' ' <"${file%/*}/cmdline" | cut -c 1-60)"; done | sort -rn |
    awk '{ sum += $1 } NR <= 6 { print } END { print int(sum / 1024), "MiB, shared pages counted once" }'
}

destroy_and_restore() {
  rm -rf /var/lib/issuer/data
  issuer restore "$(find /var/backups/issuer -mindepth 1 -maxdepth 1 -name 'issuer-*Z' | sort | tail -1)"
}

main
