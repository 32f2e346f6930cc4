# Cgroups that systemd makes: Debian boots beside the machine's own programs, with all of root's rights, and the OCI command line asks its
# systemd for scopes.

systemd() {
    host=/tmp/host
    mkdir -p "$host"
    mount -t tmpfs -o size=1g host "$host" && tar -C "$host" -xf /tests/debian.tar || return 1
    cp /bin/swarm-oci "$host/usr/bin/swarm-oci"
    mkdir -p "$host/bundle/rootfs/bin"
    cp /bin/busybox "$host/bundle/rootfs/bin/busybox"
    for applet in sh cat sleep mknod dd id; do ln -sf busybox "$host/bundle/rootfs/bin/$applet"; done
    # No PAM: there is no pam_systemd in this image.
    mkdir -p "$host/etc/systemd/system/user@.service.d"
    printf '[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/%%i\n' >"$host/etc/systemd/system/user@.service.d/here.conf"
    echo 'me:x:1000:1000::/home/me:/bin/sh' >>"$host/etc/passwd"
    echo 'me:x:1000:' >>"$host/etc/group"
    cat >"$host/boot.sh" <<'END'
set -e
mount --make-rprivate /
cd /tmp/host
pivot_root . mnt
umount -l /mnt
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs dev /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/zero c 1 5
mknod -m 666 /dev/full c 1 7
mknod -m 666 /dev/random c 1 8
mknod -m 666 /dev/urandom c 1 9
mknod -m 666 /dev/tty c 5 0
ln -s /proc/self/fd /dev/fd
mkdir /dev/pts /dev/shm
mount -t devpts -o newinstance,ptmxmode=666 pts /dev/pts
ln -s pts/ptmx /dev/ptmx
mount -t tmpfs run /run
hostname host
# Its cgroup is the root of what it sees.
echo 0 >/sys/fs/cgroup/host/cgroup.procs
exec /usr/bin/unshare --cgroup sh -ec 'umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; container=vm exec /sbin/init'
END
    echo "+cpu +cpuset +io +memory +pids" >/sys/fs/cgroup/cgroup.subtree_control
    mkdir -p /sys/fs/cgroup/host
    unshare --mount --pid --uts --ipc --fork /bin/sh "$host/boot.sh" >/tmp/systemd.log 2>&1 &
    unshare=$!
    result=0
    (set -e; scopes) || result=1
    [ "$result" = 0 ] || { tail -n 5 /tmp/systemd.log; cat /tmp/out; on journalctl --no-pager -n 30 2>/dev/null; }
    kill -9 "$unshare"
    wait "$unshare" 2>/dev/null
    echo 1 >/sys/fs/cgroup/host/cgroup.kill
    umount -l "$host"
    return "$result"
}

# There, as root, with the tools of that distribution.
on() { nsenter -t "$first" -m -p -u -i -- /usr/bin/nsenter -t 1 -C -- "$@"; }
oci() { on sh -c 'cd /bundle && exec swarm-oci --systemd-cgroup "$@"' oci "$@"; }
shows() { # UNIT PROPERTY VALUE
    value=$(on systemctl show --value -p "$2" "$1")
    [ "$value" = "$3" ] || fail "$2 of $1 is \`$value\`, not \`$3\`"
    say "$2 is $3"
}
gone() { # UNIT
    [ "$(on systemctl show --value -p LoadState "$1")" = not-found ] || fail "the unit $1 is left: $(on systemctl list-units --all --no-legend "$1")"
    [ -z "$(find /sys/fs/cgroup/host -name "$1")" ] || fail "the cgroup of $1 is left"
}
spec() { # CGROUPSPATH SCRIPT
    file=/tmp/host/bundle/config.json
    rm -f "$file"
    on sh -c 'cd /bundle && swarm-oci spec'
    sed -i 's#"terminal": true#"terminal": false#; s#"readonly": true#"readonly": false#' "$file"
    limits='"memory": {"limit": 67108864, "swap": 67108864}, "pids": {"limit": 33}, "cpu": {"shares": 512, "quota": 50000, "period": 100000}'
    sed -i "s#^ *\"sh\"\$#\"sh\", \"-c\", \"$2\"#; s#\"linux\": {#\"linux\": { \"cgroupsPath\": \"$1\",#; s#\"resources\": {#\"resources\": { $limits,#" "$file"
}

scopes() {
    eventually grep -q . "/proc/$unshare/task/$unshare/children"
    first=$(tr -d ' ' <"/proc/$unshare/task/$unshare/children")
    for try in $(seq 60); do
        state=$(on systemctl is-system-running 2>/dev/null) || true
        case $state in running | degraded) break ;; esac
        sleep 1
    done
    say "systemd $(on systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p') is $state"

    mknod "$host/bundle/rootfs/disk" b 254 0
    spec machine-box.slice:swarm:one 'sleep 1000'
    oci run --detach one
    scope=swarm-one.scope
    group=/sys/fs/cgroup/host/machine.slice/machine-box.slice/$scope
    shows "$scope" ActiveState active
    shows "$scope" Slice machine-box.slice
    shows "$scope" MemoryMax 67108864
    shows "$scope" TasksMax 33
    shows "$scope" CPUWeight 20
    shows "$scope" CPUQuotaPerSecUSec 500ms
    [ "$(oci ps --format json one)" = "[$(cat "$group/cgroup.procs" | while read -r pid; do sed -n 's/^NSpid:\t[0-9]*\t\([0-9]*\).*/\1/p' "/proc/$pid/status"; done)]" ] \
        || fail "ps is $(oci ps --format json one), the cgroup has $(cat "$group/cgroup.procs")"
    limits() {
        holds "$group/memory.max" "$1"
        holds "$group/pids.max" 33
        holds "$group/cpu.max" "50000 100000"
        holds "$group/cpu.weight" 20
        # A device that it was not given.
        if oci exec one dd if=/disk of=/dev/null count=1 >/tmp/out 2>&1; then fail "it reads the host's disk"; fi
        grep -q "not permitted" /tmp/out || fail "the disk is kept from it by something else: $(cat /tmp/out)"
        oci exec one dd if=/dev/zero of=/dev/null count=1 >/dev/null 2>&1 || fail "it cannot use /dev/zero"
    }
    limits 67108864
    on systemctl daemon-reload
    limits 67108864
    say "the same after daemon-reload"
    oci update --memory 134217728 --memory-swap 134217728 one
    shows "$scope" MemoryMax 134217728
    on systemctl daemon-reload
    # Another property, with which systemd writes its values again.
    on systemctl set-property --runtime "$scope" MemoryMin=1M
    limits 134217728
    oci pause one
    holds "$group/cgroup.freeze" 1
    oci resume one
    oci events --stats one | grep -q '"limit":134217728' || fail "no statistics"
    oci kill --all one KILL
    eventually sh -c "! grep -q . $group/cgroup.procs"
    oci delete one
    gone "$scope"
    oci run --detach one
    oci delete --force one
    gone "$scope"
    say "deleted, with its unit"

    # In the foreground, and one that fails for lack of memory.
    spec :swarm:two 'cat /sys/fs/cgroup/pids.max'
    [ "$(oci run two)" = 33 ] || fail "it does not see its own limit"
    gone swarm-two.scope
    # A limit that the container's first process uses up.
    spec :swarm:two 'echo alone; echo more | cat'
    sed -i 's/"pids": {"limit": 33}/"pids": {"limit": 1}/' /tmp/host/bundle/config.json
    oci run two >/tmp/out 2>&1 || true
    grep -q alone /tmp/out || fail "the only process that it may have is not started: $(cat /tmp/out)"
    if grep -q more /tmp/out; then fail "it has more processes than its limit"; fi
    gone swarm-two.scope
    spec :swarm:two 'x=x; while :; do x=$x$x$x; done'
    if oci run --keep two >/dev/null 2>&1; then fail "it has more memory than its limit"; fi
    oci delete two
    gone swarm-two.scope
    if oci run one >/tmp/out 2>&1 </dev/null; then fail "two with one cgroup"; fi

    # One that makes cgroups of its own in it, and one that is a slice.
    spec :swarm:parted 'cat /proc/self/cgroup; mkdir /sys/fs/cgroup/below \&\& echo made'
    sed -i '/"destination": "\/sys\/fs\/cgroup"/,/"type"/s/"ro"/"rw"/' /tmp/host/bundle/config.json
    oci run parted >/tmp/out 2>&1 || fail "it says: $(cat /tmp/out)"
    grep -q made /tmp/out || fail "it says: $(cat /tmp/out)"
    gone swarm-parted.scope
    spec :swarm:machine-own.slice 'sleep 1000'
    oci run --detach slice
    holds /sys/fs/cgroup/host/machine.slice/machine-own.slice/pids.max 33
    oci delete --force slice
    # A slice can always be loaded.
    shows machine-own.slice ActiveState inactive
    [ ! -e /sys/fs/cgroup/host/machine.slice/machine-own.slice ] || fail "the slice's cgroup is left"

    spec /plain 'sleep 1000'
    if oci run three >/tmp/out 2>&1; then fail "a path is not one for systemd"; fi
    grep -q SLICE:PREFIX:NAME /tmp/out || fail "it says: $(cat /tmp/out)"
    spec system.slice:swarm:four 'sleep 1000'
    # The machine's own first process is no systemd.
    if swarm-oci --systemd-cgroup run --bundle /tmp/host/bundle four >/tmp/out 2>&1; then fail "there is no systemd"; fi
    grep -q "does not run here.*cgroupfs" /tmp/out || fail "it says: $(cat /tmp/out)"
    # Without a bus systemd itself is asked.
    on systemctl stop dbus.socket dbus.service
    oci run --detach four
    shows swarm-four.scope MemoryMax 67108864
    oci delete --force four
    gone swarm-four.scope
    on systemctl start dbus.socket
    users
}

# A user's own systemd, from a session whose cgroup is not below it.
users() {
    on systemctl start user@1000.service
    on chown -R me /bundle
    spec user.slice:swarm:mine 'sleep 1000'
    # No CPU time: older versions do not delegate that to users.
    sed -i 's#, "cpu": {[^}]*}##' /tmp/host/bundle/config.json
    # As if in a session.
    mkdir -p /sys/fs/cgroup/host/session
    me() { on sh -c 'echo 0 >/sys/fs/cgroup/session/cgroup.procs; exec setpriv --reuid me --regid me --clear-groups env XDG_RUNTIME_DIR=/run/user/1000 HOME=/tmp sh -c "cd /bundle; $1"' me "$1"; }
    me 'rm -f config.json.new; swarm-oci --systemd-cgroup run --detach mine'
    group=/sys/fs/cgroup/host/user.slice/user-1000.slice/user@1000.service/user.slice/swarm-mine.scope
    holds "$group/memory.max" 67108864
    holds "$group/pids.max" 33
    [ "$(me 'swarm-oci --systemd-cgroup exec mine id -u')" = 0 ] || fail "no further process"
    me 'swarm-oci update --pids-limit 44 mine'
    me 'systemctl --user daemon-reload'
    holds "$group/pids.max" 44
    me 'swarm-oci delete --force mine'
    [ ! -e "$group" ] || fail "the user's cgroup is left"
    [ "$(me 'systemctl --user show --value -p LoadState swarm-mine.scope')" = not-found ] || fail "the user's unit is left"
    say "the same for a user"
}
