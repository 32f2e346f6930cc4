/* The least that a container takes: clone3 with the namespaces, the mounts, pivot_root, exec, wait. No cgroup, no seccomp, no
 * checks, no state. usage: floor PARTS ROOTFS PROGRAM; PARTS: m mount namespace and mounts, n network, p pid, i ipc, u uts,
 * c cgroups and their namespace. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int ok, const char *what) {
    if (!ok) {
        perror(what);
        _exit(125);
    }
}

static void add(const char *type, const char *where, unsigned long flags, const char *options) {
    must(mount(type, where, type, flags, options) == 0, where);
}

static void mounts(const char *rootfs) {
    must(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0, "propagation");
    must(mount(rootfs, rootfs, NULL, MS_BIND, NULL) == 0, "root");
    must(chdir(rootfs) == 0, "chdir");
    unsigned long plain = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    add("proc", "proc", plain, NULL);
    add("tmpfs", "dev", MS_NOSUID, "mode=755,size=65536k");
    must(mkdir("dev/pts", 0755) == 0 && mkdir("dev/shm", 0755) == 0 && mkdir("dev/mqueue", 0755) == 0, "mkdir");
    add("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620");
    add("tmpfs", "dev/shm", plain, "mode=1777,size=65536k");
    add("mqueue", "dev/mqueue", plain, NULL);
    add("sysfs", "sys", plain | MS_RDONLY, NULL);
    must(syscall(SYS_pivot_root, ".", ".") == 0, "pivot_root");
    must(umount2(".", MNT_DETACH) == 0, "umount");
    must(chdir("/") == 0, "chdir");
}

/* One in each hierarchy that containers use. */
static char groups[16][128];
static int count;

static void make_groups(void) {
    static const char *names[] = {"unified", "cpu", "cpuacct", "devices", "memory", "pids"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(groups[count], sizeof *groups, "/sys/fs/cgroup/%s/floor-%d", names[i], getpid());
        char path[160];
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/cgroup.procs", names[i]);
        if (access(path, W_OK) == 0 && mkdir(groups[count], 0755) == 0)
            count++;
    }
    if (count == 0) {
        snprintf(groups[0], sizeof *groups, "/sys/fs/cgroup/floor-%d", getpid());
        must(mkdir(groups[count++], 0755) == 0, "cgroup");
    }
}

static void enter_groups(void) {
    for (int i = 0; i < count; i++) {
        char path[160];
        snprintf(path, sizeof path, "%s/tasks", groups[i]);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0) {
            snprintf(path, sizeof path, "%s/cgroup.procs", groups[i]);
            fd = open(path, O_WRONLY | O_CLOEXEC);
        }
        must(fd >= 0 && write(fd, "0", 1) == 1, path);
        close(fd);
    }
}

int main(int argc, char **argv) {
    must(argc == 4, "usage: floor PARTS ROOTFS PROGRAM");
    struct clone_args args = {.exit_signal = SIGCHLD};
    static const struct {
        char part;
        unsigned long flag;
    } kinds[] = {{'m', CLONE_NEWNS}, {'n', CLONE_NEWNET}, {'p', CLONE_NEWPID}, {'i', CLONE_NEWIPC}, {'u', CLONE_NEWUTS}};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strchr(argv[1], kinds[i].part))
            args.flags |= kinds[i].flag;
    int cgroups = strchr(argv[1], 'c') != NULL;
    if (cgroups)
        make_groups();
    long pid = syscall(SYS_clone3, &args, sizeof args);
    must(pid >= 0, "clone3");
    if (pid == 0) {
        if (cgroups) {
            enter_groups();
            must(unshare(CLONE_NEWCGROUP) == 0, "unshare");
        }
        if (args.flags & CLONE_NEWNS)
            mounts(argv[2]);
        else
            must(chroot(argv[2]) == 0, "chroot");
        execl(argv[3], argv[3], (char *)NULL);
        must(0, argv[3]);
    }
    int status;
    must(waitpid(pid, &status, 0) == pid, "waitpid");
    for (int i = 0; i < count; i++)
        must(rmdir(groups[i]) == 0, groups[i]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}
