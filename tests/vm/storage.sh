# What a container may write, on a file system that keeps project quotas (the kernels of test machines often cannot).

storage() {
    mkdir -p /mnt/limited
    modprobe loop 2>/dev/null
    modprobe quota_v2 2>/dev/null
    mount -o loop,prjquota /tests/quota.img /mnt/limited || return 1
    with_agent writers --data-dir /mnt/limited/data --run-dir /run/limited
    ended=$?
    umount /mnt/limited || { echo "  something still uses the file system"; return 1; }
    return "$ended"
}

writers() {
    export SWARM_HOST=unix:///run/limited/host.sock
    eventually test -S /run/limited/host.sock
    mkdir -p /tmp/writer/bin
    cp /bin/busybox /tmp/writer/bin/busybox
    for applet in sh sleep dd df rm cat; do ln -sf busybox "/tmp/writer/bin/$applet"; done
    tar -C /tmp/writer -cf /tmp/writer.tar .
    swarmctl image import writer /tmp/writer.tar >/dev/null 2>&1
    for name in one two; do
        swarmctl run -d --name "$name" --storage-size 8m writer sleep 1000 >/dev/null
        eventually sh -c "swarmctl ps | grep $name | grep -q running"
        if swarmctl exec "$name" dd if=/dev/zero of=/big bs=1024k count=12 >/tmp/out 2>&1; then fail "$name has written 12 MiB of 8"; fi
        grep -qi quota /tmp/out || fail "$name was stopped by something else: $(tail -n 1 /tmp/out)"
        say "$name: $(grep -i quota /tmp/out | tail -n 1)"
    done
    # Each has its own, which what it removes gives back.
    swarmctl exec one rm /big
    swarmctl exec one dd if=/dev/zero of=/small bs=1024k count=6 >/dev/null 2>&1 || fail "what was removed still counts"
    [ "$(swarmctl exec one df -k / | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2)" = 8192 ] || fail "df in it: $(swarmctl exec one df -k /)"
    say "df in it shows the limit"
    swarmctl df -v | grep one | grep -q 8 || fail "df says nothing of the limit: $(swarmctl df -v)"
    swarmctl rm -f one two >/dev/null
}
