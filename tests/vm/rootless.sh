# An ordinary user with a cgroup of its own (as systemd delegates one), whose containers have limits.

rootless() {
    home=/tmp/me
    mkdir -p "$home/run" "$home/bundle/rootfs/bin"
    cp /bin/busybox "$home/bundle/rootfs/bin/busybox"
    for applet in sh cat id sleep; do ln -sf busybox "$home/bundle/rootfs/bin/$applet"; done
    (cd "$home/bundle" && swarm-oci spec) || return 1
    # The first one, which is where the limits stand.
    sed -i 's/"resources": {/"resources": { "pids": {"limit": 33}, "memory": {"limit": 67108864},/; s/"readonly": true/"readonly": false/' \
        "$home/bundle/config.json"
    sed -i 's/^ *"sh"$/"sh", "-c", "id -u; cat \/sys\/fs\/cgroup\/pids.max \/sys\/fs\/cgroup\/memory.max"/' "$home/bundle/config.json"
    chown -R 1000:1000 "$home"
    echo "+cpu +memory +pids" >/sys/fs/cgroup/cgroup.subtree_control
    said=$(as_user me "cd $home/bundle && exec swarm-oci run one" 2>&1)
    [ "$(echo $said)" = "0 33 67108864" ] || { echo "  the container said: $said"; return 1; }
    echo "  its limits are set in /sys/fs/cgroup/me"
    [ -z "$(ls -d /sys/fs/cgroup/me/swarm/*/ 2>/dev/null)" ] || { echo "  a cgroup is left"; return 1; }
    # The agent of a user: limits, statistics, and a container that is found again.
    result=0
    (set -e; user_agent) || result=1
    for pid in $(cat "$home/agent.pid" "$home/again.pid" 2>/dev/null); do kill "$pid" 2>/dev/null; done
    [ "$result" = 0 ] || tail -n 20 "$home/agent.log"
    return "$result"
}

# In a new cgroup of the user's, alone, as systemd's scopes are.
as_user() { # CGROUP LINE
    mkdir -p "/sys/fs/cgroup/$1"
    chown 1000:1000 "/sys/fs/cgroup/$1" "/sys/fs/cgroup/$1/cgroup.procs" "/sys/fs/cgroup/$1/cgroup.subtree_control"
    sh -c "echo 0 >/sys/fs/cgroup/$1/cgroup.procs; exec su me -s /bin/sh -c 'export XDG_RUNTIME_DIR=/tmp/me/run HOME=/tmp/me; $2'"
}

user_agent() {
    as_user first "echo \$\$ >/tmp/me/agent.pid; exec swarmd run --log warn >>/tmp/me/agent.log 2>&1" &
    eventually test -S /tmp/me/run/swarmd/host.sock
    ctl() { swarmctl --host unix:///tmp/me/run/swarmd/host.sock "$@"; }
    tar -C /tmp/me/bundle/rootfs -cf /tmp/me/busybox.tar .
    ctl image import busybox /tmp/me/busybox.tar >/dev/null 2>&1
    ctl run -d --name own --memory 64m --pids 40 busybox sleep 1000 >/dev/null
    eventually sh -c 'swarmctl --host unix:///tmp/me/run/swarmd/host.sock ps | grep own | grep -q running'
    group=$(ls -d /sys/fs/cgroup/first/swarmd/*/ | head -n 1)
    group=${group%/}
    holds "$group/memory.max" 67108864
    holds "$group/pids.max" 40
    [ "$(ctl exec own.1 cat /sys/fs/cgroup/pids.max)" = 40 ] || fail "it does not see its own limit"
    ctl stats --no-stream own | grep -q own || fail "no statistics"
    say "stats: $(ctl stats --no-stream own | tail -n 1)"
    kill "$(cat /tmp/me/agent.pid)"
    eventually sh -c '! [ -d /proc/$(cat /tmp/me/agent.pid) ]'
    as_user second "echo \$\$ >/tmp/me/again.pid; exec swarmd run --log warn >>/tmp/me/agent.log 2>&1" &
    eventually sh -c 'swarmctl --host unix:///tmp/me/run/swarmd/host.sock exec own.1 id -u'
    say "it is found again"
    ctl stop --time 1s own >/dev/null
    ctl rm -f own >/dev/null
    eventually sh -c '[ -z "$(ls -d /sys/fs/cgroup/first/swarmd/*/ 2>/dev/null)" ]'
}
