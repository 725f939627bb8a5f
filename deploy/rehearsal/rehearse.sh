#!/usr/bin/env bash
# Make the server of deploy/cloud-init.yaml out of a Debian 12 chroot, boot it, and use it: rehearse.sh DIRECTORY
#
# cloud-init installs it as on a machine, with the wheel of this tree. systemd then boots in namespaces with a loopback
# of their own, where Caddy has a certificate of its own authority, and runs use-server.sh. Needs root, debootstrap and
# the package registries; nothing outside of DIRECTORY is changed. A second run is quicker: it applies everything
# again.
set -euo pipefail
here=$(realpath "$(dirname "$0")") self=$(realpath "$0") tree=$(realpath "$(dirname "$0")/../..")
export PATH=$PATH:/usr/sbin:/sbin

main() {
  [[ $# -eq 1 && $EUID -eq 0 ]] || { echo 'usage, as root: rehearse.sh DIRECTORY' >&2; exit 2; }
  mkdir -p "$1"
  root=$(realpath "$1")/root wheels=$(realpath "$1")/wheels
  [[ -e $root/.complete ]] || create "$root"
  rm -rf "$wheels"
  "$tree/.venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$wheels" "$tree"
  configure "$root" "$wheels"/issuer-*.whl
  unshare --mount --pid --fork --uts --ipc --kill-child "$self" apply "$root"
  prepare_boot "$root"
  boot "$root"
}

create() {
  rm -rf "$1"
  # Without virtual packages, which debootstrap does not resolve; apt does.
  debootstrap --variant=minbase --include=ca-certificates,systemd,dbus,iproute2 bookworm "$1" http://deb.debian.org/debian
  borrow_network "$1"
  printf '#!/bin/sh\nexit 101\n' | install -m 0755 /dev/stdin "$1/usr/sbin/policy-rc.d"
  chroot "$1" sh -c 'update-ca-certificates && apt-get -q update && apt-get -q -y --no-install-recommends install cloud-init'
  touch "$1/.complete"
}

borrow_network() {
  # Names, certificates and the package index, as this machine has them.
  cp /etc/resolv.conf "$1/etc/resolv.conf"
  echo '127.0.0.1 localhost' >"$1/etc/hosts"
  [[ ! -e /etc/pip.conf ]] || cp /etc/pip.conf "$1/etc/pip.conf"
  mkdir -p "$1/usr/local/share/ca-certificates"
  find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$1/usr/local/share/ca-certificates/" \;
}

configure() {
  local root=$1 wheel=$2 seed=$1/var/lib/cloud/seed/nocloud
  mkdir -p "$seed" "$root/etc/cloud/cloud.cfg.d" "$root/opt/wheels"
  rm -f "$root"/opt/wheels/* "$root/etc/cloud/cloud-init.disabled"
  # A new shop each time, on the machine that there is.
  rm -rf "$root/var/lib/issuer" "$root/var/backups/issuer"
  cp "$wheel" "$tree/constraints.txt" "$root/opt/wheels/"
  sed -e "s#^      DOMAIN=.*#      DOMAIN='shop.localhost'#" \
    -e "s#^      WHEEL=.*#      WHEEL='file:///opt/wheels/$(basename "$wheel")'#" \
    -e "s#^      CONSTRAINTS=.*#      CONSTRAINTS='/opt/wheels/constraints.txt'#" "$tree/deploy/cloud-init.yaml" >"$seed/user-data"
  echo "instance-id: rehearsal-$(date +%s%N)" >"$seed/meta-data"
  # Without the modules that change the machine itself: disks, swap, network, name.
  cat >"$root/etc/cloud/cloud.cfg.d/99-rehearsal.cfg" <<'END'
datasource_list: [NoCloud]
network: {config: disabled}
cloud_init_modules: [write-files, users-groups]
cloud_config_modules: [runcmd]
cloud_final_modules: [package-update-upgrade-install, scripts-user]
END
  # There is no systemd to ask yet: remember the questions.
  printf '#!/bin/sh\necho "$*" >>/var/log/systemctl.log\n[ "$1" != is-active ]\n' |
    install -m 0755 /dev/stdin "$root/usr/local/bin/systemctl"
  printf '#!/bin/sh\nexit 101\n' | install -m 0755 /dev/stdin "$root/usr/sbin/policy-rc.d"
}

apply() {
  mount --make-rprivate /
  mount -t proc proc "$1/proc"
  mount --rbind /dev "$1/dev"
  mount -t tmpfs tmpfs "$1/run"
  hostname shop
  export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
  for step in 'schema --config-file /var/lib/cloud/seed/nocloud/user-data' 'init --local' init \
    'modules --mode=config' 'modules --mode=final'; do
    # shellcheck disable=SC2086
    chroot "$1" cloud-init $step
  done
  chroot "$1" grep -q '"errors": \[\]' /run/cloud-init/result.json
  grep -q 'restart issuer caddy' "$1/var/log/systemctl.log"
}

prepare_boot() {
  rm -f "$1/usr/local/bin/systemctl" "$1/usr/sbin/policy-rc.d"
  touch "$1/etc/cloud/cloud-init.disabled"
  for unit in systemd-networkd.service systemd-resolved.service systemd-timesyncd.service systemd-udevd.service \
    apt-daily.timer apt-daily-upgrade.timer getty.target console-getty.service; do
    ln -sfn /dev/null "$1/etc/systemd/system/$unit"
  done
  ln -sfn /lib/systemd/system/multi-user.target "$1/etc/systemd/system/default.target"
  chroot "$1" systemctl enable --quiet issuer caddy issuer-backup.timer issuer-check.timer
  install -m 0755 "$here/use-server.sh" "$1/opt/use-server.sh"
}

boot() {
  unshare --mount "$self" enter "$1" &
  local outer=$! init=
  trap "kill -9 $outer 2>/dev/null; wait; unshare --mount '$self' forget '$1'" EXIT
  until init=$(pgrep --parent $outer) && [[ $(<"/proc/$init/comm") == systemd ]]; do
    kill -0 $outer
    sleep 0.2
  done
  nsenter --target "$init" --all /opt/use-server.sh
}

mount_cgroups() {
  mount --make-rprivate /
  mkdir -p "$1/../cgroups"
  mount -t cgroup2 cgroup2 "$1/../cgroups"
}

# systemd moves every process of its cgroup: it gets one of its own.
enter() {
  mount_cgroups "$1"
  mkdir -p "$1/../cgroups/issuer-rehearsal"
  echo $$ >"$1/../cgroups/issuer-rehearsal/cgroup.procs"
  exec unshare --cgroup --pid --fork --mount --uts --ipc --net --kill-child "$self" become "$1"
}

forget() {
  mount_cgroups "$1"
  # Its processes need a moment to end.
  for _ in $(seq 100); do
    if find "$1/../cgroups/issuer-rehearsal" -depth -type d -exec rmdir {} + 2>/dev/null; then return; fi
    sleep 0.1
  done
}

become() {
  local root=$1 device
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  [[ -d $root/sys/fs/cgroup ]] || { echo 'this kernel has no control groups' >&2; exit 1; }
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  mkdir -p "$root/dev/shm" "$root/dev/pts"
  mount -t tmpfs tmpfs "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  ip link set lo up
  cd "$root" && mkdir -p .outside && pivot_root . .outside && umount -l /.outside
  exec env -i container=other PATH=/usr/sbin:/usr/bin /lib/systemd/systemd
}

case ${1-} in
  apply | enter | become | forget) "$@" ;;
  *) main "$@" ;;
esac
