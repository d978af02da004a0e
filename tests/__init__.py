"""The tests: what each file promises, how long it takes (two idle cores), and what it needs.

The fast row, `python -m unittest`: under 25 s, ten times green in a row, and beside three busy
loops too. Needs only Python; a test that wants nc, git, setpriv or /proc is skipped without.

    test_grammar    a line is the command that it says, or gets the refusal that it must     0.1 s
    test_limits     how often who may do what: allowances, and whose turn a hash is          0.1 s
    test_accounts   users.txt: read, mended, appended to; never in plain text, never torn    4 s
    test_room       who is in, who hears what in which order; the courier, without network   0.1 s
    test_wire       the replies to the letter, any cutting of the bytes, one order for all   3 s
    test_start      starting, options, the log, stopping, what a system lacks                3 s
    test_console    what the client makes of the keys of Windows' console                    0.1 s
    test_client     the client's parts, and the client in a pipe                             2 s
    test_terminal   the client at a terminal: keys, history, resizing, every way to end      4 s
    test_tls        encryption: refusals, promises, and Tls without a socket; openssl         2 s
    test_faults     the faults of long/faults that are quick to build                        6 s

What they share is in helpers/, and is no test:

    process         server.py as a process, as it is or with a constant changed or a patch run
    talker          a plain socket, or one that speaks TLS, as a client, a line at a time
    certificates    certificates of our own, made anew by openssl
    tls_socket      a socket that speaks TLS and behaves as a plain one does
    census          threads, descriptors, memory and CPU of a process; waiting for no event
    grammar         what server.parse understands of a line, as words
    cases           the table of lines and refusals to which both programs are held
    fake_server     a server that says what a test tells it, for the client
    terminal        a pseudo-terminal with a client on it
    tmux            a program in a real terminal, in a tmux server of our own
    windows_client  the client in Wine's console, told that it obeys escape sequences
    suite           the command line of the suites in long/
    wine            the Windows build of Python under Wine

The long suites, `python -m tests.long.X [--quick] [NAME ...]`, from the dev group (quick, in full):

    properties      any input: grammar, framing, users.txt; hypothesis                  6 s,  2 min
    model           the whole room against a model, step by step; hypothesis            9 s,  3 min
    fuzz            a million lines and 100,000 blobs, while others talk; --tls         2 s,  2 min
    crash           kill -9 at every step; 100,000 accounts; other tools' hashes;
                    passlib                                                             6 s,  2 min
    screen          the picture on the terminal, cell by cell; pyte, tmux              30 s,  3 min
    windows_client  the client on Windows: Wine with the real Python, tmux; else skipped  20 s, 20 s
    foreign         telnet, PuTTY, nc, curl, ssh as clients; openssl, ncat, socat, gnutls-cli
                    over TLS; editors on users.txt; logrotate; README's unit and container;
                    Debian's packages, else these skip                                 30 s,  3 min
    faults          every fault, and how long it delays the others; --tls; Linux, root for
                    some (network namespaces, a small disk), else these skip           80 s, 20 min
    links           links that die, come back and flap, a router that forwards no more;
                    Linux, root: network namespaces, else these skip                   65 s,  7 min
    history         joiners with --history while eight users talk as fast as they can   3 s, 10 s
    pictures        README's pictures are what the programs show and the bench measured;
                    --make draws them; Linux; pyte, a C compiler                        6 s, 10 s
    windows         the server and the fast row under Windows' Python; Wine, a download
                    from PyPI, else all skip                                           75 s,  3 min

The bench, `python -m tests.bench [--quick]`: how fast, beside a bare C loop, with TLS too; Linux,
a C compiler, libssl-dev, ngircd. Its load generator and the loops are in bench/.       70 s, 35 min
"""

import signal

# A script's `&` and nohup have these ignored, and the programs under test would keep it so.
for name in ("SIGINT", "SIGHUP"):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler)
