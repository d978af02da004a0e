"""What the client makes of the input records of Windows' console; no console is needed."""

from __future__ import annotations

import struct
import unittest

import client

SHIFT, RIGHT_ALT, LEFT_ALT, LEFT_CTRL, ENHANCED = 0x10, 0x1, 0x2, 0x8, 0x100
LEFT, UP, DELETE, HOME, ALT, PAD_4, F1 = 0x25, 0x26, 0x2E, 0x24, 0x12, 0x64, 0x70


def record(
    unit: str = "", key: int = 0, state: int = 0, *, down: int = 1, repeat: int = 1
) -> bytes:
    """Return an INPUT_RECORD with a KEY_EVENT_RECORD."""
    code = ord(unit) if unit else 0
    return struct.pack("<HxxiHHHHI", client.KEY_EVENT, down, repeat, key, 0, code, state)


class ConsoleKeysTest(unittest.TestCase):
    def test_a_key_is_what_a_terminal_would_send(self) -> None:
        for name, records, keys in (
            ("a letter, down and up", record("a") + record("a", down=0), "a"),
            ("held down", record("a", repeat=3), "aaa"),
            ("Enter and Ctrl-C", record("\r") + record("\x03", state=LEFT_CTRL), "\r\x03"),
            ("Alt-B", record("b", state=LEFT_ALT), "\x1bb"),
            ("AltGr-Q", record("@", state=RIGHT_ALT | LEFT_CTRL), "@"),
            ("Escape", record("\x1b", 0x1B), "\x1b"),
            ("Left", record(key=LEFT, state=ENHANCED), "\x1b[D"),
            ("Left on the number pad", record(key=LEFT), "\x1b[D"),
            ("Up twice", record(key=UP, state=ENHANCED, repeat=2), "\x1b[A\x1b[A"),
            ("Ctrl-Left", record(key=LEFT, state=ENHANCED | LEFT_CTRL), "\x1b[1;5D"),
            ("Alt-Left", record(key=LEFT, state=ENHANCED | LEFT_ALT), "\x1b[1;3D"),
            ("Shift-Home", record(key=HOME, state=ENHANCED | SHIFT), "\x1b[H"),
            ("Delete", record(key=DELETE, state=ENHANCED), "\x1b[3~"),
            ("what VT input makes of Home", record("\x1b") + record("[") + record("H"), "\x1b[H"),
            ("a dead key and its letter", record(key=0xDD) + record("\u00ea"), "\u00ea"),
            ("a key that means nothing", record(key=F1), ""),
            ("half a surrogate pair", record("\ud83d"), "\ud83d"),
        ):
            with self.subTest(name):
                self.assertEqual(client.keys_of(records), keys)

    def test_alt_and_the_number_pad_compose_a_character(self) -> None:
        typed = record(key=ALT, state=LEFT_ALT) + record(key=LEFT, state=LEFT_ALT)
        typed += record("4", PAD_4, LEFT_ALT) + record("\u00e9", ALT, down=0)
        self.assertEqual(client.keys_of(typed), "\u00e9")

    def test_records_of_other_kinds_are_no_keys(self) -> None:
        resized = struct.pack("<Hxxhh12x", client.RESIZE_EVENT, 97, 97)
        moved = struct.pack("<Hxx16s", 2, b"a" * 16)
        focus = struct.pack("<Hxxi12x", 16, 1)
        self.assertEqual(client.keys_of(resized + moved + record("a") + focus), "a")


if __name__ == "__main__":
    unittest.main()
