#define _GNU_SOURCE
#include "places.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CLEAR_ROUNDS = 100, CLEAR_PAUSE_NS = 10000000 };

int place_make(int home)
{
    if (unshare(CLONE_NEWNET))
        return -1;
    int place = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (setns(home, CLONE_NEWNET))
        abort(); /* nothing that this process does next may happen in the wrong place */
    return place;
}

int place_tun(int place, int home, int offloads)
{
    struct ifreq request = {.ifr_name = "wan0", .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    if (setns(place, CLONE_NEWNET))
        return -1;
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    int made = tun >= 0 && !ioctl(tun, TUNSETIFF, &request);
    int why = errno;
    if (setns(home, CLONE_NEWNET))
        abort();
    if (made && !ioctl(tun, TUNSETOFFLOAD, offloads ? TUN_F_CSUM | TUN_F_TSO4 : 0))
        return tun;
    if (made)
        why = errno;
    if (tun >= 0)
        close(tun);
    errno = why;
    return -1;
}

static int lives_in(const char *pid, const struct stat *places, int count)
{
    char path[64];
    struct stat found;
    snprintf(path, sizeof path, "/proc/%.16s/ns/net", pid);
    if (stat(path, &found))
        return 0;
    for (int i = 0; i < count; i++)
        if (found.st_ino == places[i].st_ino && found.st_dev == places[i].st_dev)
            return 1;
    return 0;
}

void places_clear(const int *places, int count, int spared)
{
    struct stat known[count > 0 ? count : 1];
    for (int i = 0; i < count; i++)
        if (fstat(places[i], known + i))
            return;
    for (int round = 0; round < CLEAR_ROUNDS; round++) {
        int found = 0;
        DIR *processes = opendir("/proc");
        for (struct dirent *entry; processes && (entry = readdir(processes));) {
            int pid = atoi(entry->d_name);
            if (pid > 1 && pid != getpid() && pid != spared && lives_in(entry->d_name, known, count)) {
                kill(pid, SIGKILL);
                found = 1;
            }
        }
        if (processes)
            closedir(processes);
        if (!found)
            return;
        nanosleep(&(struct timespec){0, CLEAR_PAUSE_NS}, NULL);
    }
}
