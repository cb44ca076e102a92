/* Network namespaces without names: they are held by descriptors of this process alone, and die with it and with the
 * last process that lives in one. */
#ifndef WAN_PLACES_H
#define WAN_PLACES_H
#include <stdint.h>

/* A new namespace; its descriptor, or -1 with errno. The caller stays where it is. */
int place_make(int home);

/* A TUN device `wan0` in that namespace, non-blocking; `offloads`: packets of up to 64 KiB pass as one. -1: errno. */
int place_tun(int place, int home, int offloads);

/* SIGKILL to every process that lives in one of the namespaces, but to `spared`, until none is left or a second has
 * passed. */
void places_clear(const int *places, int count, int spared);
#endif
