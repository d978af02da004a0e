"""What server.py makes of a line, and what the specification makes of a stream of bytes."""

from __future__ import annotations

import server

Words = tuple[str, ...]  # of a command: ("send", "all", "hi"); () for an empty line


def understood(line: bytes, is_logged_in: bool = True) -> Words | str:
    """Return the words of a line's command, or the refusal of what is none."""
    try:
        return server.parse(line, is_logged_in)
    except server.Denied as denied:
        return str(denied)


LONGEST = 2048  # bytes of a line, without its end, with the telnet commands in it
OVERLONG = b"x" * (LONGEST + 1)  # stands for any line that is longer
LF, NUL, IAC = 0x0A, 0x00, 0xFF
SB, SE, IP = 0xFA, 0xF0, 0xF4  # RFC 854: a subnegotiation and its end, Interrupt Process
WILL, WONT, DO, DONT = 0xFB, 0xFC, 0xFD, 0xFE
REFUSAL = {WILL: DONT, DO: WONT}
# Brings a stream back to plain text, whatever telnet command it stops in, and ends the line.
CLOSING = bytes([IAC, SE, IAC, SE, LF])


class Stream:
    """Lines and telnet's answers, a byte at a time, after section 3 of the specification.

    It shares no code and no pattern with server.Framing, and does not care what it costs.
    """

    def __init__(self, is_opening: bool = True) -> None:
        """is_opening: of a connection, where a byte order mark is dropped."""
        self.is_opening = is_opening
        self.lines: list[bytes] = []
        self.answers = b""
        self.text = bytearray()  # of the line that has begun
        self.command = bytearray()  # the telnet command that has begun
        self.commands = 0  # bytes of the line's other telnet commands
        self.is_after_iac = False  # in a subnegotiation
        self.is_skipping = False
        self.last = -1  # byte of text, in a line that is skipped

    @classmethod
    def of(cls, data: bytes, is_opening: bool = True) -> Stream:
        stream = cls(is_opening)
        for byte in data:
            stream.take(byte)
        return stream

    @property
    def is_between_lines(self) -> bool:
        return not (self.text or self.command or self.commands or self.is_skipping)

    def take(self, byte: int) -> None:
        if self.is_skipping:
            self.skip(byte)
            return
        if self.command or byte == IAC:
            self.command.append(byte)
            self.take_command()
        else:
            self.take_text(byte)
        # A CR may still turn out to belong to the line end, so that one byte more decides.
        if len(self.text) + len(self.command) + self.commands > LONGEST + 1:
            self.is_skipping = True
            self.last = self.text[-1] if self.text and not self.command else -1
            self.end_line(OVERLONG)

    def skip(self, byte: int) -> None:
        """What follows in a line that was too long is only looked at for its end."""
        self.is_skipping = byte != LF and (self.last, byte) != (0x0D, NUL)
        self.last = byte

    def take_text(self, byte: int) -> None:
        if byte == LF or (byte == NUL and self.text.endswith(b"\r")):
            line = bytes(self.text if byte == LF else self.text[:-1])
            length = len(line.removesuffix(b"\r")) + self.commands
            self.end_line(line if length <= LONGEST else OVERLONG)
        else:
            self.text.append(byte)

    def end_line(self, line: bytes) -> None:
        self.lines.append(line.removeprefix("\ufeff".encode()) if self.is_opening else line)
        self.is_opening = False
        self.text.clear()
        self.command.clear()
        self.commands = 0

    def take_command(self) -> None:
        if len(self.command) == 1:
            return
        code, option = self.command[1], self.command[-1]
        if code == IAC or code < SE:  # no command
            self.command.clear()
            self.text.append(IAC)
            if code == IAC:
                self.text.append(IAC)
            else:
                self.take_text(code)
        elif code == SB:
            self.take_subnegotiation(option)
        elif code < WILL or len(self.command) == 3:
            if code == IP:
                self.text.clear()
            elif code in REFUSAL:
                self.answers += bytes([IAC, REFUSAL[code], option])
            self.end_command()

    def take_subnegotiation(self, byte: int) -> None:
        """It ends with IAC SE; IAC before anything else stands for that."""
        if len(self.command) > 2 and self.is_after_iac and byte == SE:
            self.end_command()
        self.is_after_iac = len(self.command) > 2 and byte == IAC and not self.is_after_iac

    def end_command(self) -> None:
        self.commands += len(self.command)
        self.command.clear()
