/* The inner loop of tests/bench/load.py: reads whatever arrives and counts what ends a line.
 *
 * In Python a read costs about as much as a send costs the servers that are measured; here it costs
 * less, so that the load generator is never what they wait for. tests/bench compiles it as a
 * shared library; without a compiler tests/bench/load.py does the same by itself.
 *
 * Compiled with -DTLS it speaks TLS, and Python sends through it as well. It looks at no
 * certificate: that is not what is measured.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>

enum { MAX_LINKS = 1 << 16 };

static struct {
    SSL *tls;
    char *greeting; /* to be said once the handshake is done */
} links[MAX_LINKS]; /* by descriptor */

/* Say what was to be said once the handshake is done. Return 0, or -1. */
static int greet(int descriptor)
{
    SSL *tls = links[descriptor].tls;
    char *greeting = links[descriptor].greeting;
    if (!greeting || !SSL_is_init_finished(tls))
        return 0;
    int written = SSL_write(tls, greeting, strlen(greeting));
    free(greeting);
    links[descriptor].greeting = NULL;
    return written > 0 ? 0 : -1;
}

/* Begin a handshake on a socket that does not block. Return 0, or -1. */
int secure(int descriptor, const char *greeting)
{
    static SSL_CTX *context;
    if (!context) {
        context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_read_ahead(context, 1); /* one read for each record, not two */
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    }
    SSL *tls = links[descriptor].tls = SSL_new(context);
    links[descriptor].greeting = strdup(greeting);
    SSL_set_fd(tls, descriptor);
    SSL_set_connect_state(tls);
    ERR_clear_error(); /* or SSL_get_error tells of another connection's */
    int error = SSL_get_error(tls, SSL_do_handshake(tls));
    if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ)
        return -1;
    return greet(descriptor);
}

int put(int descriptor, const char *data, int length)
{
    return SSL_write(links[descriptor].tls, data, length);
}

/* Return how many bytes came, 0 for none yet, -1 for the end. */
long take(int descriptor, char *data, int size)
{
    SSL *tls = links[descriptor].tls;
    ERR_clear_error();
    int got = SSL_read(tls, data, size);
    int error = SSL_get_error(tls, got);
    if (greet(descriptor) < 0)
        return -1;
    return got > 0 ? got : error == SSL_ERROR_WANT_READ ? 0 : -1;
}

/* Tell whether bytes were read ahead, of which the poller knows nothing. */
int has_more(int descriptor)
{
    return SSL_has_pending(links[descriptor].tls);
}

void part(int descriptor)
{
    SSL_shutdown(links[descriptor].tls);
    SSL_free(links[descriptor].tls);
    free(links[descriptor].greeting);
    links[descriptor].tls = NULL;
    links[descriptor].greeting = NULL;
}
#else
static long take(int descriptor, char *data, int size)
{
    ssize_t got = read(descriptor, data, size);
    return got > 0 ? got : -1;
}

static int has_more(int descriptor)
{
    return 0;
}
#endif

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
        int descriptor = events[i].data.fd;
        long got;
        do {
            got = take(descriptor, data, sizeof data);
            if (got < 0)
                return -1;
            const char *place = data, *end = data + got;
            while ((place = memchr(place, mark, end - place))) {
                place++;
                counted++;
            }
        } while (got && has_more(descriptor));
    }
    return counted;
}
