#!/bin/bash
# A real Apptainer (it answers to "singularity" too) on Debian 12, amd64.  Quick when it is there.
# Exit code 0: containers run here; 1: they do not, and why stands on standard error.
#
# bookworm has no Apptainer.  The package of sid wants a newer libc: both are fetched with an apt
# state of their own (the machine's sources and pins are not touched), the libc goes into a folder
# of Apptainer's, and the package is put together again so that bookworm's apt can install it.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
PATH=$PATH:/usr/sbin:/sbin

libdir=/usr/lib/x86_64-linux-gnu/apptainer/libc
starter=/usr/lib/x86_64-linux-gnu/apptainer/bin/starter

say() { echo "apptainer: $*" >&2; }
works() { command -v apptainer >/dev/null && apptainer version >/dev/null 2>&1; }

# Ordinary users mount a SIF through FUSE; some virtual machines keep the device to root.
allow_fuse() {
  [ -c /dev/fuse ] || mknod /dev/fuse c 10 229 2>/dev/null || return 0
  [ "$(stat -c %a /dev/fuse)" = 666 ] || chmod 0666 /dev/fuse
}

# Where root lacks a capability (in a container mostly), Apptainer as root asks for it in vain and
# nothing starts: give root those that it has.  Builds use --fakeroot instead, which takes a range.
allow_root() {
  local file last held names=() have=() place
  for file in /etc/subuid /etc/subgid; do
    grep -q '^root:' "$file" 2>/dev/null || echo 'root:1000000000:65536' >> "$file"
  done
  last=$(cat /proc/sys/kernel/cap_last_cap)
  held=$(awk '/^CapPrm:/ {print $2}' /proc/self/status)
  [ "$((16#$held))" != "$(((1 << (last + 1)) - 1))" ] || return 0
  [ ! -s /etc/apptainer/capability.json ] || return 0
  read -ra names <<< "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP \
    LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE \
    SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME \
    SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG \
    WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
  for place in "${!names[@]}"; do
    (((16#$held >> place) & 1)) && have+=("CAP_${names[$place]}")
  done
  apptainer config global --set 'root default capabilities' file
  apptainer -q capability add --user root "$(IFS=,; echo "${have[*]}")" 2>/dev/null
}

if works; then
  [ "$(id -u)" != 0 ] || { allow_fuse; allow_root; }
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  say "cannot install it: this takes root and apt-get"
  exit 1
fi
if [ "$(dpkg --print-architecture)" != amd64 ] || ! grep -q '^VERSION_CODENAME=bookworm' /etc/os-release; then
  say "not installed; this script only knows Debian 12 on amd64"
  exit 1
fi

# The mirror that apt uses for Debian itself.
# shellcheck disable=SC2016 # apt's own variables
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' |
  awk '$2 == "bookworm" && !found++ {print $1}')
work=$(mktemp -d /var/tmp/apptainer-install.XXXXXX)
trap 'rm -rf "$work"' EXIT

fetch() {
  mkdir -p "$work"/apt/{sources.d,preferences.d,lists/partial,cache/archives/partial} "$work/got"
  cat > "$work/apt/sources.d/sid.sources" <<SOURCE
Types: deb
URIs: $mirror
Suites: sid
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCE
  local own=(
    -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/apt/sources.d"
    -o Dir::Etc::preferences=/dev/null -o "Dir::Etc::preferencesparts=$work/apt/preferences.d"
    -o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache"
    -o Acquire::Languages=none -o APT::Sandbox::User=root
  )
  apt-get "${own[@]}" update -qq
  (cd "$work/got" && apt-get "${own[@]}" download -qq apptainer/sid libc6/sid)
}

repack() {
  local root=$work/root program name
  dpkg-deb -R "$work"/got/apptainer_*.deb "$root"
  dpkg-deb -x "$work"/got/libc6_*.deb "$work/libc"
  mkdir -p "$root$libdir"
  for name in ld-linux-x86-64 libc libm libdl libpthread librt libresolv libnss_files libnss_dns libnss_compat; do
    find "$work/libc" -name "$name.so.*" -type f -exec cp -a {} "$root$libdir/" \;
  done
  for program in /usr/bin/apptainer "$starter"; do
    # RPATH, not RUNPATH: it must also hold for the libraries that libraries need.
    patchelf --set-interpreter "$libdir/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$libdir" "$root$program"
  done
  sed -i -E -e 's/^(Version: .*)/\1~bookworm1/' -e 's/, libc6 \(>= [^)]*\)//' \
    -e '/^(Static-)?Built-Using:/d' -e '/^Depends:/s/$/, squashfuse, fuse3/' "$root/DEBIAN/control"
  (cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | xargs -0 md5sum > DEBIAN/md5sums)
  dpkg-deb --root-owner-group -Zzstd -z3 -b "$root" "$work/apptainer.deb" >/dev/null
}

install() {
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends patchelf ca-certificates squashfs-tools uidmap \
    squashfuse fuse3 fuse-overlayfs fuse2fs gocryptfs fakeroot debootstrap debian-archive-keyring \
    openssl >/dev/null
  fetch
  repack
  apt-get install -y -qq --no-install-recommends -o APT::Sandbox::User=root "$work/apptainer.deb" >/dev/null
}

# A subshell with -e of its own: a function called in a condition would go on after a failed step.
set +e
(set -e; install)
code=$?
set -e
if [ "$code" != 0 ] || ! works; then
  say "the installation failed"
  exit 1
fi
allow_fuse
allow_root
say "installed $(apptainer --version)"
