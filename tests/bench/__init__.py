"""How fast is it? Measures server.py side by side with four yardsticks.

    python -m tests.bench [--quick] [--runs N] [--only NAME ...] [--json FILE] [--server FILE]

Each goal is a ratio between two figures of the same run of this program, so that it means the same
on every machine. The contenders take turns, round by round; a ratio is taken within each round, and
the median of the rounds is what counts. A load generator of its own process (load.py) drives all
contenders with the same lines from the same users. It takes the time until a line has reached
everyone, and the server's CPU time from the operating system's clock for that process. Every line
is counted: one too few or too many is a failure, and nothing waits for ever.

    contenders.py     server.py with --rate 0 and its display on, into a file; the bare C loop
                      (broadcast.c, compiled on the spot if there is a C compiler); the bare Python
                      loop (broadcast.py); Debian's ngircd, if installed, without its limits; with
                      TLS, server.py --tls-cert and the C loop over OpenSSL (libssl-dev)
    rounds.py         one load against each contender in turn, several times
    measurements.py   what is measured, and the goals; each returns rows of the table
    table.py          rows, the tables that are printed, the JSON that is saved
    load.py, load.c   the load generator

The fourth yardstick is for what is no chat: bare scrypt for logins, a bare loop that reads
users.txt, `python -c pass` for the client's start. All traffic stays on the loopback interface.
Linux only, as it needs epoll and /proc.

--quick is a smoke run: small, under a minute, and it judges no speed. --server measures another
server.py, such as an older one. The exit status is 0 if all was measured, whether fast or slow, and
1 if not.
"""
