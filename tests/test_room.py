"""The room and its courier without a network: who is in, who hears what, in which order."""

from __future__ import annotations

import socket
import threading
import unittest
from unittest import mock

import server


class Listener:
    """A member whose end of the connection the test holds."""

    def __init__(self, room: server.Room) -> None:
        self.room = room
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(15)
        self.lost: list[str] = []
        self.member = server.Member(server.Outbox(theirs, self.lose), "192.0.2.1:9")

    def lose(self, how: str) -> None:
        self.lost.append(how)
        self.room.leave(self.member, how)

    def enter(self, userid: str) -> Listener:
        self.room.arrive(self.member)
        self.room.enter(self.member, userid)
        return self

    def release(self) -> None:
        self.room.post.instruct(server.Action.RELEASE, self.member.outbox)
        self.room.post.wake()

    def heard(self, size: int = 65536) -> list[str]:
        return self.ours.recv(size).decode().splitlines()


class RoomTest(unittest.TestCase):
    """Orders are posted, and the test itself has the courier make its rounds."""

    def setUp(self) -> None:
        self.post = server.Post()
        self.courier = server.Courier(self.post)
        self.room = server.Room(self.post, 3)
        self.shown: list[str] = []
        scribe = mock.Mock()
        scribe.write = lambda lines: self.shown.extend(server.display_format(x) for x in lines)
        self.courier.scribes = [scribe]
        self.listeners: list[Listener] = []
        self.addCleanup(self.close_all)

    def close_all(self) -> None:
        for listener in self.listeners:
            listener.ours.close()
            listener.member.outbox.connection.close()
        for end in (self.courier.bell, self.courier.bell_rope, self.courier.selector):
            end.close()

    def listener(self) -> Listener:
        self.listeners.append(Listener(self.room))
        return self.listeners[-1]

    def enter(self, *userids: str) -> list[Listener]:
        """Bring users in, and have each forget what it heard of that."""
        entered = [self.listener().enter(userid) for userid in userids]
        self.courier._round()
        for listener in entered:
            listener.heard()
        self.shown.clear()
        return entered

    def test_one_round_is_one_send_for_each_connection(self) -> None:
        tom, david, beth = self.enter("Tom", "David", "Beth")
        spies = [mock.Mock(wraps=x.member.outbox.connection) for x in (tom, david, beth)]
        for listener, spy in zip((tom, david, beth), spies, strict=True):
            listener.member.outbox.connection = spy
        for number in range(10):
            self.room.say(tom.member, f"line {number}")
            self.room.tell(david.member, "Beth", f"secret {number}")
        self.courier._round()
        self.assertEqual([spy.send.call_count for spy in spies], [0, 1, 1])
        self.assertEqual(david.heard(), [f"Tom: line {number}" for number in range(10)])
        both = [(f"Tom: line {n}", f"David (to Beth): secret {n}") for n in range(10)]
        self.assertEqual(beth.heard(), [line for pair in both for line in pair])
        self.assertEqual(self.shown, [line for pair in both for line in pair])

    def test_replies_and_room_lines_keep_their_order_within_a_round(self) -> None:
        tom, david = self.enter("Tom", "David")
        self.room.list_users(tom.member)
        self.room.say(david.member, "one")
        self.room.list_users(tom.member)
        self.room.say(tom.member, "two")
        self.room.say(david.member, "three")
        beth = self.listener().enter("Beth")
        self.room.list_users(tom.member)
        self.room.say(david.member, "four")
        self.room.leave(david.member, farewell="David left.")
        self.room.list_users(tom.member)
        self.courier._round()
        early = ["David, Tom", "David: one", "David, Tom", "David: three", "Beth joins."]
        late = ["Beth, David, Tom", "David: four", "David left.", "Beth, Tom"]
        self.assertEqual(tom.heard(), early + late)
        self.assertEqual(david.heard(), ["Tom: two", "Beth joins.", "David left."])
        self.assertEqual(beth.heard(), ["login confirmed", "David: four", "David left."])

    def test_a_new_member_hears_nothing_of_what_was_said_before(self) -> None:
        (tom,) = self.enter("Tom")
        self.room.say(tom.member, "before")
        david = self.listener().enter("David")
        self.room.say(tom.member, "after")
        self.courier._round()
        self.assertEqual(david.heard(), ["login confirmed", "Tom: after"])

    def test_who_has_left_hears_nothing_of_what_is_said_after(self) -> None:
        tom, david = self.enter("Tom", "David")
        self.room.say(tom.member, "before")
        self.room.leave(david.member, farewell="David left.")
        self.room.say(tom.member, "after")
        self.courier._round()
        self.assertEqual(david.heard(), ["Tom: before", "David left."])
        self.assertEqual(david.heard(), [])  # our end is closed

    def test_a_place_is_free_the_moment_its_user_leaves(self) -> None:
        tom, _, _ = self.enter("Tom", "David", "Beth")
        mike = self.listener()
        self.room.arrive(mike.member)
        with self.assertRaisesRegex(
            server.Denied, r"^Denied\. The chat room is full \(3 of 3\)\.$"
        ):
            self.room.enter(mike.member, "Mike")
        self.room.leave(tom.member)
        self.room.enter(mike.member, "Mike")
        self.assertEqual(sorted(self.room.users), ["Beth", "David", "Mike"])

    def test_taking_over_a_full_room_is_not_heard(self) -> None:
        tom, david, beth = self.enter("Tom", "David", "Beth")
        newer = self.listener().enter("Tom")
        self.room.leave(tom.member, " (connection lost)")  # its own reader, a moment later
        self.room.list_users(newer.member)
        self.room.say(newer.member, "still me")
        self.courier._round()
        self.assertEqual(tom.heard(), ["Denied. Tom logged in from another connection."])
        self.assertEqual(newer.heard(), ["login confirmed", "Beth, David, Tom"])
        self.assertEqual(david.heard(), ["Tom: still me"])
        self.assertEqual(beth.heard(), ["Tom: still me"])
        self.assertEqual(
            self.shown, ["Tom logout (logged in elsewhere).", "Tom login.", "Tom: still me"]
        )

    def test_leaving_twice_is_leaving_once(self) -> None:
        tom, david = self.enter("Tom", "David")
        for how in ("", " (not reading)", " (connection lost)"):
            self.room.leave(david.member, how)
        self.courier._round()
        self.assertEqual(tom.heard(), ["David left."])
        self.assertEqual(self.shown, ["David logout."])

    def test_who_has_gone_can_neither_speak_nor_enter(self) -> None:
        tom, david = self.enter("Tom", "David")
        late = self.listener()
        self.room.arrive(late.member)
        for listener in (david, late):
            self.room.leave(listener.member)
        self.room.say(david.member, "ghost")
        self.room.tell(david.member, "Tom", "ghost")
        self.room.enter(late.member, "Beth")
        self.courier._round()
        self.assertEqual(tom.heard(), ["David left."])
        self.assertEqual(sorted(self.room.users), ["Tom"])

    def test_the_oldest_at_the_door_makes_room_for_a_newcomer(self) -> None:
        waiting = [self.listener() for _ in range(server.LOBBY + 1)]
        for listener in waiting:
            self.room.arrive(listener.member)
        self.courier._round()
        self.assertEqual(waiting[0].heard(), ["Denied. The server is busy."])
        self.assertEqual(len(self.room.lobby), server.LOBBY)
        self.assertNotIn(waiting[0].member, self.room.lobby)

    def test_no_login_in_time_and_the_door_is_shut(self) -> None:
        early, late, inside = self.listener(), self.listener(), self.listener()
        for listener, arrived in ((early, 0.0), (inside, 0.0), (late, 10.0)):
            self.room.arrive(listener.member)
            listener.member.arrived = arrived
        self.room.enter(inside.member, "Tom")
        self.assertEqual(self.room.expire(299.9), 300.0)
        self.assertEqual(self.room.expire(300.0), 310.0)
        self.courier._round()
        self.assertEqual(early.heard(), ["Denied. No login within 300 seconds."])
        self.assertFalse(late.member.gone)
        self.assertFalse(inside.member.gone)

    def test_closing_tells_everyone_and_only_that(self) -> None:
        members = self.enter("Tom", "David")
        waiting = self.listener()
        self.room.arrive(waiting.member)
        self.room.close()
        after = self.listener()
        self.room.arrive(after.member)
        self.courier._round()
        for listener in (*members, waiting, after):
            self.assertEqual(listener.heard(), ["The server is shutting down."])

    def test_what_one_does_not_read_waits_for_it_alone(self) -> None:
        tom, david, beth = self.enter("Tom", "David", "Beth")
        lines = [f"{number} " + "x" * 250 for number in range(2000)]
        for line in lines:
            self.room.say(tom.member, line)
            self.courier._round()
            self.assertEqual(beth.heard(), [f"Tom: {line}"])
        outbox = david.member.outbox
        self.assertGreater(outbox.waiting_size, 0)
        self.assertEqual(self.courier.stalled, {outbox})
        with david.ours.makefile("rb") as stream:
            for line in lines:
                if outbox.waiting:
                    self.courier._flush(outbox)
                self.assertEqual(stream.readline().decode(), f"Tom: {line}\n")
        self.assertEqual((outbox.waiting_size, self.courier.stalled), (0, set()))

    def test_who_lets_a_mebibyte_wait_is_dropped(self) -> None:
        tom, david, beth = self.enter("Tom", "David", "Beth")
        while not david.lost:
            self.room.say(tom.member, "x" * 256)
            self.courier._round()
            beth.heard()
            self.assertLessEqual(david.member.outbox.waiting_size, server.OUTBOX_LIMIT)
        self.assertEqual(david.lost, [" (not reading)"])
        self.courier._round()
        self.assertEqual(beth.heard(), ["David left."])
        self.assertEqual(self.shown[-1], "David logout (not reading).")

    def test_who_takes_nothing_for_half_a_minute_is_dropped(self) -> None:
        tom, david = self.enter("Tom", "David")
        while not david.member.outbox.waiting:
            self.room.say(tom.member, "x" * 256)
            self.courier._round()
        deadline = david.member.outbox.deadline
        self.courier._expire(deadline - 0.1)
        self.assertEqual(david.lost, [])
        self.courier._expire(deadline)
        self.assertEqual(david.lost, [" (not reading)"])

    def test_a_socket_is_closed_only_after_its_reader_let_go(self) -> None:
        (tom,) = self.enter("Tom")
        self.room.leave(tom.member, farewell="Tom left.")
        self.courier._round()
        self.assertEqual((tom.heard(), tom.heard()), (["Tom left."], []))
        self.assertNotEqual(tom.member.outbox.connection.fileno(), -1)
        tom.release()
        self.courier._round()
        self.assertEqual(tom.member.outbox.connection.fileno(), -1)
        self.assertEqual((self.courier.outboxes, self.courier.timed), (set(), set()))

    def test_a_reader_that_waits_for_ever_is_woken_after_a_while(self) -> None:
        (tom,) = self.enter("Tom")
        self.room.leave(tom.member)
        self.courier._round()
        self.courier._expire(tom.member.outbox.deadline)
        self.assertEqual(tom.member.outbox.connection.recv(1), b"")  # at once, though nothing came

    def test_readers_pause_while_the_courier_has_its_hands_full(self) -> None:
        (tom,) = self.enter("Tom")
        for _ in range(server.POST_LIMIT + 1):
            self.room.say(tom.member, "x")
        paused = threading.Thread(target=self.post.pause)
        paused.start()
        paused.join(0.05)
        self.assertTrue(paused.is_alive())
        self.courier._round()
        paused.join(15)
        self.assertFalse(paused.is_alive())
