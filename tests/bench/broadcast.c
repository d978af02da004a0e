/* The bare C loop, the yardstick of tests/bench: the least that a chat room can be.
 *
 * One epoll loop, one send() for each recipient and line; no checks, no accounts, no display, no
 * outboxes. It speaks just enough of server.py's protocol for tests/bench/load.py:
 *
 *     login NAME PASSWORD     login confirmed, and "NAME joins." to everyone else
 *     send all MESSAGE        "NAME: MESSAGE" to everyone else
 *
 * Run as: broadcast [quiet]. It prints the port that it took. "quiet" tells no joins: with 10,000
 * users they would take this loop minutes. Sends block, as the load generator always reads.
 *
 * Compiled with -DTLS it is the same loop over OpenSSL: one record for each recipient and line. Run
 * as: broadcast CERTIFICATE KEY [quiet].
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef TLS
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#endif

enum { MAX_USERS = 20000, MAX_LINE = 2048 };

struct user {
    int place; /* in members */
    size_t filled;
    char name[33];
    char input[MAX_LINE];
#ifdef TLS
    SSL *tls;
#endif
};

static struct user *users[MAX_USERS]; /* by descriptor */
static int members[MAX_USERS];        /* descriptors of those who have logged in */
static int member_count;
static int quiet;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

#ifdef TLS
static SSL_CTX *context;

static void secure(int descriptor)
{
    fcntl(descriptor, F_SETFL, O_NONBLOCK); /* or a handshake would stop everybody else */
    SSL *tls = users[descriptor]->tls = SSL_new(context);
    SSL_set_fd(tls, descriptor);
    SSL_set_accept_state(tls);
}

static void deliver(int descriptor, const char *line, size_t length)
{
    SSL *tls = users[descriptor]->tls;
    ERR_clear_error(); /* or SSL_get_error tells of another connection's */
    while (SSL_write(tls, line, length) <= 0) {
        if (SSL_get_error(tls, -1) != SSL_ERROR_WANT_WRITE)
            return;
        struct pollfd room = {.fd = descriptor, .events = POLLOUT};
        poll(&room, 1, -1);
    }
}

/* Return how many bytes came, 0 for none yet, -1 for the end. */
static ssize_t take(int descriptor, char *data, size_t size)
{
    ERR_clear_error();
    int got = SSL_read(users[descriptor]->tls, data, size);
    if (got > 0)
        return got;
    return SSL_get_error(users[descriptor]->tls, got) == SSL_ERROR_WANT_READ ? 0 : -1;
}

/* Tell whether bytes were read ahead, of which the poller knows nothing. */
static int has_more(int descriptor)
{
    return users[descriptor] && SSL_has_pending(users[descriptor]->tls);
}

static void part(int descriptor)
{
    SSL_free(users[descriptor]->tls);
}

static void prepare(int count, char **arguments)
{
    signal(SIGPIPE, SIG_IGN);
    context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_read_ahead(context, 1); /* one read for each record, not two */
    if (count < 3 || SSL_CTX_use_certificate_chain_file(context, arguments[1]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, arguments[2], SSL_FILETYPE_PEM) != 1)
        fail("certificate");
}
#else
static void secure(int descriptor) {}
static void part(int descriptor) {}
static void prepare(int count, char **arguments) {}

static void deliver(int descriptor, const char *line, size_t length)
{
    send(descriptor, line, length, MSG_NOSIGNAL);
}

static ssize_t take(int descriptor, char *data, size_t size)
{
    ssize_t got = recv(descriptor, data, size, 0);
    return got > 0 ? got : -1;
}

static int has_more(int descriptor)
{
    return 0;
}
#endif

static void broadcast(int sender, const char *line, size_t length)
{
    for (int i = 0; i < member_count; i++)
        if (members[i] != sender)
            deliver(members[i], line, length);
}

static void leave(int descriptor)
{
    struct user *user = users[descriptor];
    if (user->place >= 0) {
        members[user->place] = members[--member_count];
        users[members[user->place]]->place = user->place;
    }
    part(descriptor);
    free(user);
    users[descriptor] = NULL;
    close(descriptor);
}

static void obey(int descriptor, char *line)
{
    struct user *user = users[descriptor];
    char said[MAX_LINE + 64];
    if (user->place < 0 && sscanf(line, "login %32s", user->name) == 1) {
        user->place = member_count;
        members[member_count++] = descriptor;
        deliver(descriptor, "login confirmed\n", 16);
        if (!quiet)
            broadcast(descriptor, said, sprintf(said, "%s joins.\n", user->name));
    } else if (user->place >= 0 && strncmp(line, "send all ", 9) == 0) {
        broadcast(descriptor, said, sprintf(said, "%s: %s\n", user->name, line + 9));
    }
}

static ssize_t read_lines(int descriptor)
{
    struct user *user = users[descriptor];
    ssize_t got = take(descriptor, user->input + user->filled, MAX_LINE - user->filled);
    if (got < 0)
        leave(descriptor);
    if (got <= 0)
        return got;
    user->filled += got;
    char *line = user->input, *end;
    while ((end = memchr(line, '\n', user->input + user->filled - line))) {
        *end = 0;
        obey(descriptor, line);
        line = end + 1;
    }
    user->filled -= line - user->input;
    memmove(user->input, line, user->filled);
    return got;
}

static void admit(int poller, int listener)
{
    int on = 1, descriptor = accept(listener, NULL, NULL);
    if (descriptor < 0 || descriptor >= MAX_USERS)
        fail("accept");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    users[descriptor] = calloc(1, sizeof(struct user));
    users[descriptor]->place = -1;
    secure(descriptor);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
    epoll_ctl(poller, EPOLL_CTL_ADD, descriptor, &event);
}

int main(int count, char **arguments)
{
    struct rlimit limit;
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    quiet = count > 1 && strcmp(arguments[count - 1], "quiet") == 0;
    prepare(count, arguments);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);

    int listener = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 4096) < 0)
        fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("broadcast on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);

    int poller = epoll_create1(0);
    struct epoll_event events[256], event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                admit(poller, listener);
            else
                while (read_lines(events[i].data.fd) > 0 && has_more(events[i].data.fd))
                    ;
        }
    }
}
