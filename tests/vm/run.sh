#!/bin/sh
# Boots Debian's stock kernel in qemu with cgroup v2 alone, overlayfs and AppArmor, and runs the runtime's tests and a one-node
# cluster there. Plain emulation: no /dev/kvm, no root and no network are needed. Ends with the result of what ran inside.
#
#   SWARM_VM_KERNEL=PACKAGE   another kernel package (default: what linux-image-cloud-amd64 depends on)
#   SWARM_VM_TIMEOUT=SECONDS  end the machine after that time (default: 900)
#   SWARM_VM_BUILD=no         take the programs as they were built last
#   SWARM_VM_STEPS="STEP…"    only these of the steps of tests/vm/init
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
work=$target/vm
cargo=${CARGO:-cargo}
PATH=$PATH:/usr/sbin:/sbin
cd "$root"
mkdir -p "$work"

# The kernel: unpacked, not installed.
newest() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: *\(linux-image[^ ]*\).*/\1/p' | head -n 1; }
refresh() { if [ "$(id -u)" = 0 ]; then apt-get update -q; else sudo apt-get update -q; fi; }
package=${SWARM_VM_KERNEL:-$(newest)}
[ -n "$package" ] || { refresh; package=$(newest); }
[ -n "$package" ] || { echo "apt knows no linux-image-cloud-amd64; name a kernel's package in SWARM_VM_KERNEL" >&2; exit 1; }
version=${package#linux-image-}
kernel=$work/$package
if [ ! -e "$kernel/boot/vmlinuz-$version" ]; then
    echo "fetching $package"
    rm -rf "$kernel.new" "$work/deb"
    mkdir -p "$work/deb"
    # Lists that are too old name versions that are gone.
    (cd "$work/deb" && apt-get download -q "$package" 2>/dev/null || { refresh && apt-get download -q "$package"; })
    dpkg -x "$work"/deb/*.deb "$kernel.new"
    rm -rf "$work/deb" "$kernel"
    mv "$kernel.new" "$kernel"
    busybox depmod -b "$kernel" "$version"
fi

# The programs: the agent, its client, and the runtime's integration tests.
tests="container container_v2 container_spec container_escapes engine host"
select=
for test in $tests; do
    if [ -e "runtime/tests/$test.rs" ] || [ -e "runtime/tests/$test/main.rs" ]; then select="$select --test $test"; fi
done
if [ "${SWARM_VM_BUILD:-yes}" = yes ]; then
    $cargo build -p swarmd -p swarmctl -p swarm-oci
    # shellcheck disable=SC2086 # a list of options
    $cargo test --no-run -p swarm-runtime $select
fi

image=$work/root
rm -rf "$image"
for directory in bin sbin lib64 etc proc sys dev run tmp var/lib root tests lib/modules; do mkdir -p "$image/$directory"; done
busybox=$(command -v busybox)
cp "$busybox" "$image/bin/busybox"
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$image/bin/$applet"
done
ln -s ../bin/busybox "$image/sbin/modprobe"
put() { # FILE DESTINATION: with what it is linked against, without what only a debugger needs
    strip --strip-debug -o "$2" "$1" 2>/dev/null || cp "$1" "$2"
    ldd "$1" | sed -n 's/[^/]*\(\/[^ ]*\) (0x.*/\1/p' | while read -r library; do
        [ -e "$image$library" ] || { mkdir -p "$image$(dirname "$library")"; cp -L "$library" "$image$library"; }
    done
}
put "$target/debug/swarmd" "$image/bin/swarmd"
put "$target/debug/swarmctl" "$image/bin/swarmctl"
put "$target/debug/swarm-oci" "$image/bin/swarm-oci"
# Only root makes it; the end-to-end tests have, where they ran before.
[ ! -e "$target/tmp/debian-bookworm.tar" ] || cp "$target/tmp/debian-bookworm.tar" "$image/tests/debian.tar"
for test in $tests; do
    # The newest of what cargo has built under that name.
    program=$(find "$target/debug/deps" -name "$test-????????????????" -perm -100 -printf '%T@ %p\n' | sort -rn | sed -n '1s/[^ ]* //p')
    [ -z "$program" ] || put "$program" "$image/tests/$test"
done
mkdir -p "$image/lib/modules/$version/kernel"
for part in kernel/fs kernel/net kernel/drivers/net kernel/drivers/block kernel/drivers/virtio kernel/lib kernel/crypto kernel/block kernel/arch; do
    [ -d "$kernel/lib/modules/$version/$part" ] || continue
    mkdir -p "$image/lib/modules/$version/$(dirname "$part")"
    cp -r "$kernel/lib/modules/$version/$part" "$image/lib/modules/$version/$part"
done
cp "$kernel/lib/modules/$version"/modules.* "$image/lib/modules/$version/"
# AppArmor's own tool makes a profile what the kernel takes.
apparmor_parser -Q -S -K -T -M /usr/share/apparmor-features/features "$here/profile" >"$image/tests/profile"
cp "$here/init" "$image/init"
cp "$here/cluster.sh" "$here/rootless.sh" "$here/system.sh" "$here/systemd.sh" "$here/storage.sh" "$image/"
chmod 755 "$image/init"
mkfs.ext4 -q -O project,quota -E quotatype=prjquota "$image/tests/quota.img" 256m
printf 'root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/tmp/me:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$image/etc/passwd"
printf 'root:x:0:\nme:x:1000:\nnogroup:x:65534:\n' >"$image/etc/group"
printf '127.0.0.1 localhost vm\n' >"$image/etc/hosts"
rm -f "$work/disk"
mkfs.ext4 -q -d "$image" -E root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0 -O ^has_journal "$work/disk" 3g

# The first file system: only what it takes to mount the disk.
first=$work/first
rm -rf "$first"
for directory in bin dev proc root modules; do mkdir -p "$first/$directory"; done
cp "$busybox" "$first/bin/busybox"
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
    found=$(find "$kernel/lib/modules/$version" -name "$module.ko*" | head -n 1)
    [ -z "$found" ] || cp "$found" "$first/modules/"
done
cat >"$first/init" <<'END'
#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
    [ ! -e "/modules/$module.ko" ] || busybox insmod "/modules/$module.ko"
done
until [ -b /dev/vda ]; do busybox sleep 0.1; done
busybox mount -t ext4 /dev/vda /root
exec busybox switch_root /root /init
END
chmod 755 "$first/init"
(cd "$first" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initramfs"

echo "booting $version"
timeout --foreground "${SWARM_VM_TIMEOUT:-900}" qemu-system-x86_64 -accel tcg,thread=multi -cpu Nehalem -smp 2 -m 2048 -nodefaults -nographic -no-reboot \
    -serial stdio -kernel "$kernel/boot/vmlinuz-$version" -initrd "$work/initramfs" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests=1 swarm.steps=$(echo "${SWARM_VM_STEPS:-}" | tr ' ' ,)" \
    -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" </dev/null | tee "$work/console"
grep -q '^swarm-vm: all passed' "$work/console" || { echo "tests in the virtual machine failed: see above, or $work/console" >&2; exit 1; }
