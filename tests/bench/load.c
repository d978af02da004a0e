/* The inner loop of tests/bench/load.py: reads whatever arrives and counts what ends a line.
 *
 * In Python a read costs about as much as a send costs the servers that are measured; here it costs
 * less, so that the load generator is never what they wait for. tests/bench compiles it as a
 * shared library; without a compiler tests/bench/load.py does the same by itself.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Read once from each connection that `poller` finds ready, and count the marks. Return how many
 * there were, -1 if a connection ended, -2 if `patience` milliseconds passed without any. */
long sweep(int poller, int mark, int patience)
{
    static char data[1 << 16];
    struct epoll_event events[1024];
    long counted = 0;
    int ready = epoll_wait(poller, events, 1024, patience);
    if (ready == 0)
        return -2;
    if (ready < 0)
        return errno == EINTR ? 0 : -1;
    for (int i = 0; i < ready; i++) {
        ssize_t got = read(events[i].data.fd, data, sizeof data);
        if (got <= 0)
            return -1;
        const char *place = data, *end = data + got;
        while ((place = memchr(place, mark, end - place))) {
            place++;
            counted++;
        }
    }
    return counted;
}
