#!/bin/sh
# Installs what the harness needs and this machine lacks, and says what that is. Debian packages only.
set -eu
PATH=$PATH:/usr/sbin:/sbin

missing=
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need ip iproute2
need nft nftables
need busybox busybox-static
need dig bind9-dnsutils
need curl curl
need setsid util-linux
need newuidmap uidmap
need cc gcc
if [ "${1:-}" = --nextest ]; then
    # The engines that the OCI command line is tested with.
    need podman podman
    need conmon conmon
    # For system containers: a distribution.
    need debootstrap debootstrap
    need dockerd docker.io
    need docker docker.io
    # For images: a registry, and programs of others that make and copy them.
    need docker-registry docker-registry
    need skopeo skopeo
    need umoci umoci
    need htpasswd apache2-utils
    # For disks that lose power, and those with quotas.
    need mkfs.ext4 e2fsprogs
fi
# What the benchmark compares with.
if [ "${1:-}" = --bench ]; then
    need dockerd docker.io
    need docker docker.io
    need iptables iptables
    need podman podman
    need docker-registry docker-registry
    need skopeo skopeo
    need umoci umoci
    need runc runc
    need crun crun
fi
if [ "${1:-}" = --fuzz ]; then
    need g++ g++
fi
if [ "${1:-}" = --vm ]; then
    need qemu-system-x86_64 qemu-system-x86
    need mkfs.ext4 e2fsprogs
    need strip binutils
    need apparmor_parser apparmor
fi

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "this machine lacks$missing, and has no apt-get to install them with; install them by hand" >&2
        exit 1
    fi
    sudo=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null 2>&1 || {
            echo "this machine lacks$missing; become root to install them" >&2
            exit 1
        }
        sudo=sudo
    fi
    echo "installing Debian packages:$missing"
    # Lists that are too old name versions that are gone: only then is it worth fetching new ones.
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 || {
        $sudo apt-get update -q
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
    }
fi

# The test runner, for those who ask for it; `make test` does without where it cannot be had.
if [ "${1:-}" = --nextest ] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "installing cargo-nextest 0.9.143 with cargo install"
    cargo install --locked --quiet --version 0.9.143 cargo-nextest ||
        echo "cargo-nextest cannot be had; cargo test is used in its place" >&2
fi

if [ "${1:-}" = --fuzz ] && ! cargo fuzz --version >/dev/null 2>&1; then
    echo "installing cargo-fuzz 0.13.2 with cargo install"
    cargo install --locked --quiet --version 0.13.2 cargo-fuzz
fi
