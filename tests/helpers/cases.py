"""One table of grammar cases, to which both server.py and client.py are held.

Each case is a line as typed and the refusal it must get, or None where it is a command. `send` and
`who` are taken to come from a user who is logged in.
"""

from __future__ import annotations

LENGTH = "Denied. UserID must be 3 to 32 characters."
CHARACTERS = "Denied. UserID may hold letters and digits of one script, and _ - ."
RESERVED = 'Denied. UserID "all" is reserved.'
USAGE_RESERVED = 'Denied. UserID "usage" is reserved.'
PASSWORD_LENGTH = "Denied. Password must be 4 to 8 characters."
PASSWORD_CHARACTERS = "Denied. Password must be printable characters without spaces."
MESSAGE_LENGTH = "Denied. Message must be 1 to 256 characters."
MESSAGE_CHARACTERS = "Denied. Message must be printable text."
TOO_LONG = "Denied. Line longer than 2048 bytes."
LOGIN_FIRST = "Denied. Please login first."


def usage(command: str) -> str:
    return f"Usage: {command}"


def unknown(word: str) -> str:
    return f'Denied. Unknown command "{word}". Commands: login, newuser, send, who, logout.'


LOGIN = usage("login UserID Password")
NEWUSER = usage("newuser UserID Password")
SEND = usage("send all|UserID Message")
ALPHA = "\u03b1\u0313\u0300\u0345"  # four code points, one in NFC: no letter gains more

# What both programs answer alike.
CASES: list[tuple[str, str | None]] = [
    # The command word is case-insensitive.
    ("login Tom Tom11", None),
    ("LOGIN Tom Tom11", None),
    ("newuser Mike Mike44", None),
    ("NewUser Mike Mike44", None),
    ("send all hello", None),
    ("SEND all hello", None),
    ("send Beth hello", None),
    ("who", None),
    ("logout", None),
    ("foo", unknown("foo")),
    ("help me", unknown("help")),
    ("/who", unknown("/who")),
    ("x" * 40, unknown("x" * 32)),
    ("\U0001f600" * 40, unknown("\U0001f600" * 32)),
    ("\x1b[2Jwho", unknown("\ufffd[2Jwho")),
    ("who\x00", unknown("who\ufffd")),
    ("\u202ewho", unknown("\ufffdwho")),
    ("\ufeffwho", unknown("\ufeffwho")),
    ("foo " + "x" * 1000, unknown("foo")),
    # Words are separated by spaces, U+00A0 and U+3000, one or more.
    ("  login   Tom   Tom11  ", None),
    ("send   all   hello", None),
    (" WHO ", None),
    ("Logout  ", None),
    ("login\u00a0Tom\u3000Tom11", None),
    ("\u3000who\u00a0", None),
    ("send\u00a0all\u3000hello", None),
    ("send \u3000 all \u00a0 hello", None),
    ("logout\u3000", None),
    ("foo\u3000bar", unknown("foo")),
    ("newuser To\u00a0m Mike44", NEWUSER),
    ("newuser Mike abc\u00a0d", NEWUSER),
    ("newuser Mike abc\u3000d", NEWUSER),
    # Nothing else separates them.
    ("\twho", unknown("\ufffdwho")),
    ("login\tTom\tTom11", unknown("login\ufffdTom\ufffdTom11")),
    ("send all\u2003hello", SEND),
    ("send all\thello", SEND),
    # A line may end in CR.
    ("who\r", None),
    ("\r", None),
    ("", None),
    ("   ", None),
    ("\u3000\u00a0 ", None),
    # Wrong number of words.
    ("login", LOGIN),
    ("login Tom", LOGIN),
    ("login Tom Tom 11", LOGIN),
    ("newuser", NEWUSER),
    ("newuser Mike", NEWUSER),
    ("newuser Mike Mike44 please", NEWUSER),
    ("newuser ab abc please", NEWUSER),
    ("send", SEND),
    ("send ", SEND),
    ("send all", SEND),
    ("send Beth", SEND),
    ("send\u3000", SEND),
    ("who else", usage("who")),
    ("logout now", usage("logout")),
    # UserIDs: length in code points, after NFC; over 128 it is not even looked at.
    ("newuser ab Mike44", LENGTH),
    ("newuser abc Mike44", None),
    ("newuser " + "a" * 32 + " Mike44", None),
    ("newuser " + "a" * 33 + " Mike44", LENGTH),
    ("login ab Mike44", LENGTH),
    ("newuser e\u0301e\u0301 Mike44", LENGTH),
    ("newuser e\u0301e\u0301e\u0301 Mike44", None),
    ("newuser " + ALPHA * 32 + " Mike44", None),
    ("newuser " + ALPHA * 33 + " Mike44", LENGTH),
    ("login e" + "\u0301\u0327" * 500 + " Mike44", LENGTH),
    ("newuser ab abc", LENGTH),
    # UserIDs: characters that are welcome.
    ("newuser a_b-c.d Mike44", None),
    ("newuser 123 Mike44", None),
    ("newuser Jos\u00e9 Mike44", None),
    ("newuser \u0141ukasz Mike44", None),
    ("newuser Nguy\u1ec5n Mike44", None),
    ("newuser \u0418\u0432\u0430\u043d Mike44", None),
    ("newuser \u0418\u0432\u0430\u043d42 Mike44", None),
    ("newuser \u1f08\u03b8\u03b7\u03bd\u1fb6 Mike44", None),
    ("newuser \u5c71\u7530\u3055\u3093 Mike44", None),
    ("newuser \u4f50\u3005\u6728 Mike44", None),
    ("newuser \u30ed\u30fc\u30de Mike44", None),
    ("newuser \uae40\ucca0\uc218 Mike44", None),
    ("newuser \u0645\u0631\u064a\u0645 Mike44", None),
    ("newuser \u0645\u0631\u064a\u0645\u06f1\u0661 Mike44", None),
    ("newuser \u0928\u092e\u0938\u094d\u0924\u0947 Mike44", None),
    ("newuser \u092e\u094b\u0939\u0928 Mike44", None),
    ("newuser \u0e19\u0e49\u0e33 Mike44", None),
    ("newuser \u0e99\u0ec9\u0eb3 Mike44", None),
    ("newuser \u0edd\u0eb2\u0e81 Mike44", None),
    ("newuser alls Mike44", None),
    ("newuser Usages Mike44", None),
    # Passwords: length in code points, after NFC; over 32 it is not even looked at.
    ("newuser Mike abc", PASSWORD_LENGTH),
    ("newuser Mike abcd", None),
    ("newuser Mike abcdefgh", None),
    ("newuser Mike abcdefghi", PASSWORD_LENGTH),
    ("login Mike abc", PASSWORD_LENGTH),
    ("newuser Mike e\u0301e\u0301e\u0301", PASSWORD_LENGTH),
    ("newuser Mike e\u0301e\u0301e\u0301e\u0301e\u0301", None),
    ("newuser Mike " + ALPHA * 8, None),
    ("newuser Mike " + ALPHA * 9, PASSWORD_LENGTH),
    ("login Mike e" + "\u0301\u0327" * 500, PASSWORD_LENGTH),
    ("newuser Mike a),(#$", None),
    ("newuser Mike \U0001f600\U0001f600\U0001f600\U0001f600", None),
    # `all` means everyone in any case; any other recipient is asked for nothing but its presence.
    ("send ALL hello", None),
    ("send All hello", None),
    ("send ab hello", None),
    ("send a,b hello", None),
    ("send \u0422\u043em hello", None),
    ("send \x1b[2J hello", None),
    ("send " + "x" * 500 + " hello", None),
    # Messages: trimmed of white space of any kind, then their length.
    ("send all ", MESSAGE_LENGTH),
    ("send all\u3000", MESSAGE_LENGTH),
    ("send all      ", MESSAGE_LENGTH),
    ("send all \t ", MESSAGE_LENGTH),
    ("send all \u3000\u00a0\u2003", MESSAGE_LENGTH),
    ("send all \x1f\x85\u2028", MESSAGE_LENGTH),
    ("send all " + "x" * 256, None),
    ("send all " + "x" * 257, MESSAGE_LENGTH),
    ("send all  " + "x" * 256 + " ", None),
    ("send all \u3000\t" + "x" * 256 + "\u2003\t", None),
    ("send all " + "\U0001f600" * 256, None),
    ("send all " + "\U0001f600" * 257, MESSAGE_LENGTH),
    ("send all " + "e\u0301" * 128, None),
    ("send all " + "e\u0301" * 129, MESSAGE_LENGTH),
    ("send all " + "x\x07" * 129, MESSAGE_LENGTH),
    ("send Beth " + "x" * 257, MESSAGE_LENGTH),
    # Messages: characters that are welcome, or go with the trimming.
    ("send all a\tb", None),
    ("send all a  b   c", None),
    ("send all a\u00a0b\u3000c\u2003d", None),
    ("send all x\x85", None),
    ("send all x\u2028", None),
    ("send all \x1cx", None),
    ("send all \U0001f468\u200d\U0001f469\u200d\U0001f467 fam", None),
    ("send all \u05e9\u05dc\u05d5\u05dd \u200f!", None),
    # The line as a whole.
    ("send all " + " " * (2048 - 10) + "x", None),
    ("send all " + " " * (2048 - 9) + "x", TOO_LONG),
    ("\u00e9" * 1025, TOO_LONG),
]

# What client.py sends, and the server refuses: it alone judges characters.
SERVER_ONLY: list[tuple[str, str]] = [
    # UserIDs: one script.
    ("newuser \u0422\u043em Mike44", CHARACTERS),
    ("newuser T\u03bfm Mike44", CHARACTERS),
    ("newuser \u5c71\u7530Tom Mike44", CHARACTERS),
    ("newuser Tom\u0661 Mike44", CHARACTERS),
    # UserIDs: letters with their marks, decimal digits, and _ - .
    ("newuser \u0301abc Mike44", CHARACTERS),
    ("newuser 1\u0301bc Mike44", CHARACTERS),
    ("newuser a,b Mike44", CHARACTERS),
    ("newuser a:b Mike44", CHARACTERS),
    ("newuser (Tom) Mike44", CHARACTERS),
    ("newuser #Tom Mike44", CHARACTERS),
    ("newuser To\u00adm Mike44", CHARACTERS),
    ("newuser To\u200bm Mike44", CHARACTERS),
    ("newuser To\u200dm Mike44", CHARACTERS),
    ("newuser \ufeffTom Mike44", CHARACTERS),
    ("newuser Tom\ufe0f Mike44", CHARACTERS),
    ("newuser To\u034fm Mike44", CHARACTERS),
    ("newuser \u115f\u115f\u115f Mike44", CHARACTERS),
    ("newuser To\tm Mike44", CHARACTERS),
    ("newuser To\u2003m Mike44", CHARACTERS),
    ("newuser To\x1bm Mike44", CHARACTERS),
    ("newuser To\u202em Mike44", CHARACTERS),
    ("newuser \U0001f600\U0001f600\U0001f600 Mike44", CHARACTERS),
    ("login a,b Mike44", CHARACTERS),
    # UserIDs: nothing with a compatibility form.
    ("newuser Tom\u00b2 Mike44", CHARACTERS),
    ("newuser \U0001d413\U0001d428\U0001d426 Mike44", CHARACTERS),
    ("newuser \uff34\uff4f\uff4d Mike44", CHARACTERS),
    ("newuser \u017fam Mike44", CHARACTERS),
    ("newuser \ufb01ona Mike44", CHARACTERS),
    ("newuser \uff9b\uff70\uff8f Mike44", CHARACTERS),
    # UserIDs: of Latin only what people write names with; no overlays.
    ("newuser Da\u1d20id Mike44", CHARACTERS),
    ("newuser T\u01c3m Mike44", CHARACTERS),
    ("newuser T\u0254\u0250m Mike44", CHARACTERS),
    ("newuser Be\u0336th Mike44", CHARACTERS),
    ("newuser Be\u0334th Mike44", CHARACTERS),
    ("newuser Be\u0338th Mike44", CHARACTERS),
    # UserIDs: reserved. What a user called Usage says could look like a reply of the server.
    ("newuser all Mike44", RESERVED),
    ("newuser All Mike44", RESERVED),
    ("login ALL Mike44", RESERVED),
    ("newuser Usage Mike44", USAGE_RESERVED),
    ("login usage Mike44", USAGE_RESERVED),
    # Passwords.
    ("newuser Mike abc\x07", PASSWORD_CHARACTERS),
    ("newuser Mike abc\td", PASSWORD_CHARACTERS),
    ("newuser Mike abc\u2003d", PASSWORD_CHARACTERS),
    ("newuser Mike abc\u200bd", PASSWORD_CHARACTERS),
    ("newuser Mike abc\x85d", PASSWORD_CHARACTERS),
    ("login Mike abc\x07", PASSWORD_CHARACTERS),
    # Messages.
    ("send all x\x00", MESSAGE_CHARACTERS),
    ("send all x\x07", MESSAGE_CHARACTERS),
    ("send all \x1b]0;owned\x07", MESSAGE_CHARACTERS),
    ("send all x\x7f", MESSAGE_CHARACTERS),
    ("send all x\x85y", MESSAGE_CHARACTERS),
    ("send all \x9b2J", MESSAGE_CHARACTERS),
    ("send all x\ry", MESSAGE_CHARACTERS),
    ("send all x\u2028y", MESSAGE_CHARACTERS),
    ("send all x\u2029y", MESSAGE_CHARACTERS),
    ("send all x\u202ey", MESSAGE_CHARACTERS),
    ("send all x\u2066y", MESSAGE_CHARACTERS),
    ("send Beth x\u202dy", MESSAGE_CHARACTERS),
]

# What both answer to somebody who is not logged in.
BEFORE_LOGIN: list[tuple[str, str | None]] = [
    ("send all hello", LOGIN_FIRST),
    ("send Beth hello", LOGIN_FIRST),
    ("SEND all hello", LOGIN_FIRST),
    ("send", LOGIN_FIRST),
    ("send ", LOGIN_FIRST),
    ("send all", LOGIN_FIRST),
    ("send all ", LOGIN_FIRST),
    ("send all " + "x" * 257, LOGIN_FIRST),
    ("send all x\x07", LOGIN_FIRST),
    ("who", LOGIN_FIRST),
    ("Who", LOGIN_FIRST),
    ("who else", LOGIN_FIRST),
    ("\u3000who", LOGIN_FIRST),
    ("send " + "x" * 2044, TOO_LONG),
    ("sned all hello", unknown("sned")),
    ("login Tom", LOGIN),
    ("login Tom Tom11", None),
    ("newuser Mike Mike44", None),
    ("logout now", usage("logout")),
    ("logout", None),
    ("", None),
]

# What both answer to the first line of a connection or a pipe: a byte order mark before it is none
# of it, a second one is.
FIRST_LINES: list[tuple[str, str | None]] = [
    ("\ufefflogin Tom Tom11", None),
    ("\ufefflogout", None),
    ("\ufeff", None),
    ("\ufeffwho", LOGIN_FIRST),
    ("\ufeff\ufeffwho", unknown("\ufeffwho")),
    ("\ufefffoo", unknown("foo")),
]
