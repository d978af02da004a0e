"""One table of grammar cases, to which both server.py and client.py are held.

Each case is a line as typed and the refusal it must get, or None where it is a command.
"""

from __future__ import annotations

LENGTH = "Denied. UserID must be 3 to 32 characters."
CHARACTERS = "Denied. UserID may hold letters and digits of one script, and _ - ."
RESERVED = 'Denied. UserID "all" is reserved.'
PASSWORD_LENGTH = "Denied. Password must be 4 to 8 characters."
PASSWORD_CHARACTERS = "Denied. Password must be printable characters without spaces."
MESSAGE_LENGTH = "Denied. Message must be 1 to 256 characters."
MESSAGE_CHARACTERS = "Denied. Message must be printable text."
TOO_LONG = "Denied. Line longer than 2048 bytes."


def usage(command: str) -> str:
    return f"Usage: {command}"


def unknown(word: str) -> str:
    return f'Denied. Unknown command "{word}". Commands: login, newuser, send, who, logout.'


LOGIN = usage("login UserID Password")
NEWUSER = usage("newuser UserID Password")
SEND = usage("send all|UserID Message")

CASES: list[tuple[str, str | None]] = [
    # The command word is case-insensitive, words are separated by spaces.
    ("login Tom Tom11", None),
    ("LOGIN Tom Tom11", None),
    ("  login   Tom   Tom11  ", None),
    ("newuser Mike Mike44", None),
    ("NewUser Mike Mike44", None),
    ("send all hello", None),
    ("SEND all hello", None),
    ("send   all   hello", None),
    ("send Beth hello", None),
    ("who", None),
    (" WHO ", None),
    ("logout", None),
    ("Logout  ", None),
    ("who\r", None),
    ("foo", unknown("foo")),
    ("help me", unknown("help")),
    ("/who", unknown("/who")),
    ("x" * 40, unknown("x" * 32)),
    ("\x1b[2Jwho", unknown("\ufffd[2Jwho")),
    ("\u202ewho", unknown("\ufffdwho")),
    ("\twho", unknown("\ufffdwho")),
    ("login\tTom\tTom11", unknown("login\ufffdTom\ufffdTom11")),
    # Wrong number of words.
    ("login", LOGIN),
    ("login Tom", LOGIN),
    ("login Tom Tom 11", LOGIN),
    ("newuser", NEWUSER),
    ("newuser Mike", NEWUSER),
    ("newuser Mike Mike44 please", NEWUSER),
    ("send", SEND),
    ("send ", SEND),
    ("send all", SEND),
    ("send Beth", SEND),
    ("who else", usage("who")),
    ("logout now", usage("logout")),
    # UserIDs: length in code points, after NFC.
    ("newuser ab Mike44", LENGTH),
    ("newuser abc Mike44", None),
    ("newuser " + "a" * 32 + " Mike44", None),
    ("newuser " + "a" * 33 + " Mike44", LENGTH),
    ("login ab Mike44", LENGTH),
    ("send ab hello", LENGTH),
    ("newuser e\u0301e\u0301 Mike44", LENGTH),
    ("newuser e\u0301e\u0301e\u0301 Mike44", None),
    # UserIDs: characters.
    ("newuser a_b-c.d Mike44", None),
    ("newuser 123 Mike44", None),
    ("newuser Jos\u00e9 Mike44", None),
    ("newuser \u0418\u0432\u0430\u043d Mike44", None),
    ("newuser \u0418\u0432\u0430\u043d42 Mike44", None),
    ("newuser \u0422\u043em Mike44", CHARACTERS),
    ("newuser T\u03bfm Mike44", CHARACTERS),
    ("newuser \u5c71\u7530\u3055\u3093 Mike44", None),
    ("newuser \u4f50\u3005\u6728 Mike44", None),
    ("newuser \u30ed\u30fc\u30de Mike44", None),
    ("newuser \u5c71\u7530Tom Mike44", CHARACTERS),
    ("newuser \u0645\u0631\u064a\u0645 Mike44", None),
    ("newuser \u0645\u0631\u064a\u0645\u06f1\u0661 Mike44", None),
    ("newuser Tom\u0661 Mike44", CHARACTERS),
    ("newuser \u0928\u092e\u0938\u094d\u0924\u0947 Mike44", None),
    ("newuser \u0e19\u0e49\u0e33 Mike44", None),
    ("newuser \u0301abc Mike44", CHARACTERS),
    ("newuser 1\u0301bc Mike44", CHARACTERS),
    ("newuser a,b Mike44", CHARACTERS),
    ("newuser a:b Mike44", CHARACTERS),
    ("newuser (Tom) Mike44", CHARACTERS),
    ("newuser #Tom Mike44", CHARACTERS),
    ("newuser To\u00adm Mike44", CHARACTERS),
    ("newuser To\u200bm Mike44", CHARACTERS),
    ("newuser To\u200dm Mike44", CHARACTERS),
    ("newuser Tom\ufe0f Mike44", CHARACTERS),
    ("newuser To\u034fm Mike44", CHARACTERS),
    ("newuser \u115f\u115f\u115f Mike44", CHARACTERS),
    ("newuser To\u00a0m Mike44", CHARACTERS),
    ("newuser To\tm Mike44", CHARACTERS),
    ("newuser To\x1bm Mike44", CHARACTERS),
    ("newuser To\u202em Mike44", CHARACTERS),
    ("newuser Tom\u00b2 Mike44", CHARACTERS),
    ("newuser \U0001d413\U0001d428\U0001d426 Mike44", CHARACTERS),
    ("newuser \uff34\uff4f\uff4d Mike44", CHARACTERS),
    ("newuser \U0001f600\U0001f600\U0001f600 Mike44", CHARACTERS),
    ("send a,b hello", CHARACTERS),
    # `all` is reserved as a name, in any case, and means everyone only when written small.
    ("newuser all Mike44", RESERVED),
    ("newuser All Mike44", RESERVED),
    ("login ALL Mike44", RESERVED),
    ("send ALL hello", RESERVED),
    ("newuser alls Mike44", None),
    # So is `Usage`: what such a user says could look like a reply of the server.
    ("newuser Usage Mike44", 'Denied. UserID "usage" is reserved.'),
    ("login usage Mike44", 'Denied. UserID "usage" is reserved.'),
    ("newuser Usages Mike44", None),
    # Passwords.
    ("newuser Mike abc", PASSWORD_LENGTH),
    ("newuser Mike abcd", None),
    ("newuser Mike abcdefgh", None),
    ("newuser Mike abcdefghi", PASSWORD_LENGTH),
    ("login Mike abc", PASSWORD_LENGTH),
    ("newuser Mike e\u0301e\u0301e\u0301", PASSWORD_LENGTH),
    ("newuser Mike e\u0301e\u0301e\u0301e\u0301e\u0301", None),
    ("newuser Mike a),(#$", None),
    ("newuser Mike \U0001f600\U0001f600\U0001f600\U0001f600", None),
    ("newuser Mike abc\x07", PASSWORD_CHARACTERS),
    ("newuser Mike abc\td", PASSWORD_CHARACTERS),
    ("newuser Mike abc\u00a0d", PASSWORD_CHARACTERS),
    ("newuser Mike abc\u3000d", PASSWORD_CHARACTERS),
    ("newuser Mike abc\u200bd", PASSWORD_CHARACTERS),
    ("newuser Mike abc\x85d", PASSWORD_CHARACTERS),
    # Messages.
    ("send all ", MESSAGE_LENGTH),
    ("send all      ", MESSAGE_LENGTH),
    ("send all \t ", MESSAGE_LENGTH),
    ("send all " + "x" * 256, None),
    ("send all " + "x" * 257, MESSAGE_LENGTH),
    ("send all  " + "x" * 256 + " ", None),
    ("send all " + "\U0001f600" * 256, None),
    ("send all " + "\U0001f600" * 257, MESSAGE_LENGTH),
    ("send Beth " + "x" * 257, MESSAGE_LENGTH),
    ("send all a\tb", None),
    ("send all a  b   c", None),
    ("send all \U0001f468\u200d\U0001f469\u200d\U0001f467 fam", None),
    ("send all \u05e9\u05dc\u05d5\u05dd \u200f!", None),
    ("send all x\x00", MESSAGE_CHARACTERS),
    ("send all x\x07", MESSAGE_CHARACTERS),
    ("send all \x1b]0;owned\x07", MESSAGE_CHARACTERS),
    ("send all x\x7f", MESSAGE_CHARACTERS),
    ("send all x\x85", MESSAGE_CHARACTERS),
    ("send all \x9b2J", MESSAGE_CHARACTERS),
    ("send all x\ry", MESSAGE_CHARACTERS),
    ("send all x\u2028y", MESSAGE_CHARACTERS),
    ("send all x\u2029y", MESSAGE_CHARACTERS),
    ("send all x\u202ey", MESSAGE_CHARACTERS),
    ("send all x\u2066y", MESSAGE_CHARACTERS),
    ("send Beth x\u202dy", MESSAGE_CHARACTERS),
    # The line as a whole.
    ("send all " + " " * (2048 - 10) + "x", None),
    ("send all " + " " * (2048 - 9) + "x", TOO_LONG),
    ("\u00e9" * 1025, TOO_LONG),
]
