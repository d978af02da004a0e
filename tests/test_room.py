"""The room and its courier without a network: who is in, who hears what, in which order."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import unittest
from unittest import mock

import server


class Listener:
    """A visitor whose end of the connection the test holds."""

    def __init__(self, room: server.Room, host: str = "192.0.2.1") -> None:
        self.room = room
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(15)
        theirs.setblocking(bool(server.DONT_WAIT))
        if not server.DONT_WAIT:  # Windows' pair is of TCP, which takes more
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.lost: list[str] = []
        outbox = server.Outbox(theirs, self.lose)
        network = server.network_of(host)
        self.visitor = server.Visitor(outbox, f"{host}:9", network)

    def lose(self, reason: str) -> None:
        self.lost.append(reason)
        self.room.leave(self.visitor, reason=reason)

    def arrive(self) -> Listener:
        self.room.arrive(self.visitor)
        return self

    def enter(self, userid: str) -> Listener:
        self.arrive()
        self.room.enter(self.visitor, userid)
        return self

    def release(self) -> None:
        self.room.courier.order(server.Courier.release, self.visitor.outbox)

    def heard(self, size: int = 65536) -> list[str]:
        return self.ours.recv(size).decode().splitlines()


class RoomBase(unittest.TestCase):
    """The test holds the courier's turn: orders are left, and the test itself makes the rounds."""

    HISTORY = 0

    def setUp(self) -> None:
        self.courier = server.Courier()
        self.courier.turn.acquire()
        self.shown: list[str] = []
        display = server.Display()
        display.writers = [mock.Mock(add=lambda *entry: self.shown.append(entry[2]))]
        self.room = server.Room(self.courier, display, 3, self.HISTORY)
        self.listeners: list[Listener] = []
        self.addCleanup(self.close_all)

    def close_all(self) -> None:
        for listener in self.listeners:
            listener.ours.close()
            listener.visitor.outbox.connection.close()
        for end in (self.courier.waker, self.courier.wakeful, self.courier.selector):
            end.close()

    def listener(self, host: str = "192.0.2.1") -> Listener:
        self.listeners.append(Listener(self.room, host))
        return self.listeners[-1]

    def enter(self, *userids: str) -> list[Listener]:
        """Bring users in, and have each forget what it heard of that."""
        entered = [self.listener().enter(userid) for userid in userids]
        self.courier._round()
        for listener in entered:
            listener.heard()
        self.shown.clear()
        return entered


class RoomTest(RoomBase):
    def test_one_round_is_one_send_for_each_connection(self) -> None:
        tom, david, beth = self.enter("Tom", "David", "Beth")
        spies = [mock.Mock(wraps=x.visitor.outbox.connection) for x in (tom, david, beth)]
        for listener, spy in zip((tom, david, beth), spies, strict=True):
            listener.visitor.outbox.connection = spy
        for number in range(10):
            self.room.say(tom.visitor, f"line {number}")
            self.room.tell(david.visitor, "Beth", f"secret {number}")
        self.courier._round()
        self.assertEqual([spy.send.call_count for spy in spies], [0, 1, 1])
        self.assertEqual(david.heard(), [f"Tom: line {number}" for number in range(10)])
        both = [(f"Tom: line {n}", f"David (to Beth): secret {n}") for n in range(10)]
        self.assertEqual(beth.heard(), [line for pair in both for line in pair])
        self.assertEqual(self.shown, [line for pair in both for line in pair])

    def test_replies_and_room_lines_keep_their_order_within_a_round(self) -> None:
        tom, david = self.enter("Tom", "David")
        self.room.list_users(tom.visitor)
        self.room.say(david.visitor, "one")
        self.room.list_users(tom.visitor)
        self.room.say(tom.visitor, "two")
        self.room.say(david.visitor, "three")
        beth = self.listener().enter("Beth")
        self.room.list_users(tom.visitor)
        self.room.say(david.visitor, "four")
        self.room.leave(david.visitor, farewell="David left.")
        self.room.list_users(tom.visitor)
        self.courier._round()
        early = ["David, Tom", "David: one", "David, Tom", "David: three", "Beth joins."]
        late = ["Beth, David, Tom", "David: four", "David left.", "Beth, Tom"]
        self.assertEqual(tom.heard(), early + late)
        self.assertEqual(david.heard(), ["Tom: two", "Beth joins.", "David left."])
        self.assertEqual(beth.heard(), ["login confirmed", "David: four", "David left."])

    def test_a_new_member_hears_nothing_of_what_was_said_before(self) -> None:
        (tom,) = self.enter("Tom")
        self.room.say(tom.visitor, "before")
        david = self.listener().enter("David")
        self.room.say(tom.visitor, "after")
        self.courier._round()
        self.assertEqual(david.heard(), ["login confirmed", "Tom: after"])

    def test_who_has_left_hears_nothing_of_what_is_said_after(self) -> None:
        tom, david = self.enter("Tom", "David")
        self.room.say(tom.visitor, "before")
        self.room.leave(david.visitor, farewell="David left.")
        self.room.say(tom.visitor, "after")
        self.courier._round()
        self.assertEqual(david.heard(), ["Tom: before", "David left."])
        self.assertEqual(david.heard(), [])  # our end is closed

    def test_a_place_is_free_the_moment_its_user_leaves(self) -> None:
        tom, _, _ = self.enter("Tom", "David", "Beth")
        mike = self.listener()
        self.room.arrive(mike.visitor)
        with self.assertRaisesRegex(
            server.Denied, r"^Denied\. The chat room is full \(3 of 3\)\.$"
        ):
            self.room.enter(mike.visitor, "Mike")
        self.room.leave(tom.visitor)
        self.room.enter(mike.visitor, "Mike")
        self.assertEqual(sorted(self.room.users), ["Beth", "David", "Mike"])

    def test_taking_over_a_full_room_is_not_heard(self) -> None:
        tom, david, beth = self.enter("Tom", "David", "Beth")
        newer = self.listener().enter("Tom")
        self.room.leave(tom.visitor, reason="connection lost")  # its own reader, a moment later
        self.room.list_users(newer.visitor)
        self.room.say(newer.visitor, "still me")
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
        for reason in ("", "not reading", "connection lost"):
            self.room.leave(david.visitor, reason=reason)
        self.courier._round()
        self.assertEqual(tom.heard(), ["David left."])
        self.assertEqual(self.shown, ["David logout."])

    def test_who_has_gone_can_neither_speak_nor_enter(self) -> None:
        tom, david = self.enter("Tom", "David")
        late = self.listener()
        self.room.arrive(late.visitor)
        for listener in (david, late):
            self.room.leave(listener.visitor)
        self.room.say(david.visitor, "ghost")
        self.room.tell(david.visitor, "Tom", "ghost")
        self.room.enter(late.visitor, "Beth")
        self.courier._round()
        self.assertEqual(tom.heard(), ["David left."])
        self.assertEqual(sorted(self.room.users), ["Tom"])

    def test_a_crowded_door_closes_one_of_the_address_that_has_most(self) -> None:
        one, other = "192.0.2.1", "192.0.2.2"
        waiting = [self.listener(one).arrive() for _ in range(server.LOBBY - 1)]
        typing = self.listener(other).arrive()
        for _ in range(3 * server.LOBBY):
            waiting.append(self.listener(one).arrive())
        self.courier._round()
        self.assertEqual(len(self.room.lobby), server.LOBBY)
        self.assertFalse(typing.visitor.gone)
        evicted = next(listener for listener in waiting if listener.visitor.gone)
        self.assertEqual(evicted.heard(), ["Denied. The server is busy."])

    def test_whoever_is_evicted_cannot_be_counted_on(self) -> None:
        waiting = [self.listener().arrive() for _ in range(server.LOBBY)]
        with mock.patch("server.random.sample", lambda crowd, size: crowd[17:] + crowd[:17]):
            self.listener().arrive()
        self.assertEqual([x for x in waiting if x.visitor.gone], [waiting[17]])

    def test_who_waits_for_a_hash_is_not_evicted(self) -> None:
        waiting = [self.listener().arrive() for _ in range(server.LOBBY)]
        for listener in waiting[1:]:
            listener.visitor.is_protected = True
        self.listener("192.0.2.2").arrive().visitor.is_protected = True
        self.assertTrue(waiting[0].visitor.gone)

    def test_while_a_crowd_waits_for_hashes_who_comes_from_elsewhere_stays(self) -> None:
        for listener in [self.listener().arrive() for _ in range(server.LOBBY)]:
            listener.visitor.is_protected = True
        newcomers = [self.listener("192.0.2.2").arrive() for _ in range(3)]
        self.assertFalse(any(listener.visitor.gone for listener in newcomers))

    def test_once_a_crowd_has_its_hashes_there_are_no_more_than_before(self) -> None:
        waiting = [self.listener().arrive() for _ in range(server.LOBBY)]
        for listener in waiting:
            listener.visitor.is_protected = True
        for _ in range(50):
            self.listener("192.0.2.2").arrive()
        for listener in waiting:
            listener.visitor.is_protected = False
        self.listener("192.0.2.3").arrive()
        self.assertEqual(len(self.room.lobby), server.LOBBY)

    def test_a_larger_room_has_a_larger_door(self) -> None:
        self.room.limit = server.LOBBY + 50
        waiting = [self.listener().arrive() for _ in range(server.LOBBY + 50)]
        self.assertFalse(any(listener.visitor.gone for listener in waiting))

    def test_no_login_in_time_and_the_door_is_shut(self) -> None:
        early, late, inside = self.listener(), self.listener(), self.listener()
        for listener, arrived in ((early, 0.0), (inside, 0.0), (late, 10.0)):
            listener.arrive()
            listener.visitor.arrived = arrived
        self.room.enter(inside.visitor, "Tom")
        self.assertEqual(self.room.expire(3595.0), 3600.0)
        self.assertEqual(self.room.expire(3600.0), 3610.0)
        self.courier._round()
        self.assertEqual(early.heard(), ["Denied. No login within 60 minutes."])
        self.assertFalse(late.visitor.gone)
        self.assertFalse(inside.visitor.gone)

    def test_whose_account_was_removed_is_told_and_leaves(self) -> None:
        tom, david = self.enter("Tom", "David")
        self.room.evict_removed({"Tom"}.__contains__)
        self.courier._round()
        self.assertEqual(david.heard(), ["Denied. Your account was removed."])
        self.assertEqual(tom.heard(), ["David left."])
        self.assertEqual(self.shown, ["David logout (account removed)."])

    def test_closing_tells_everyone_and_only_that(self) -> None:
        members = self.enter("Tom", "David")
        waiting = self.listener()
        self.room.arrive(waiting.visitor)
        self.room.close()
        after = self.listener()
        self.room.arrive(after.visitor)
        self.courier._round()
        for listener in (*members, waiting, after):
            self.assertEqual(listener.heard(), ["The server is shutting down."])

    def test_what_one_does_not_read_waits_for_it_alone(self) -> None:
        tom, david, beth = self.enter("Tom", "David", "Beth")
        lines = [f"{number} " + "x" * 250 for number in range(2000)]
        for line in lines:
            self.room.say(tom.visitor, line)
            self.courier._round()
            self.assertEqual(beth.heard(), [f"Tom: {line}"])
        outbox = david.visitor.outbox
        self.assertGreater(len(outbox.waiting), 0)
        self.assertEqual(self.courier.stalled, {outbox})
        with david.ours.makefile("rb") as stream:
            for line in lines:
                if outbox.waiting:
                    self.courier._flush(outbox)
                self.assertEqual(stream.readline().decode(), f"Tom: {line}\n")
        self.assertEqual((len(outbox.waiting), self.courier.stalled), (0, set()))

    def test_who_lets_a_mebibyte_wait_is_dropped(self) -> None:
        tom, david, beth = self.enter("Tom", "David", "Beth")
        while not david.lost:
            self.room.say(tom.visitor, "x" * 256)
            self.courier._round()
            beth.heard()
            self.assertLessEqual(len(david.visitor.outbox.waiting), server.OUTBOX_LIMIT)
        self.assertEqual(david.lost, ["not reading"])
        self.courier._round()
        self.assertEqual(beth.heard(), ["David left."])
        self.assertEqual(self.shown[-1], "David logout (not reading).")

    def test_who_takes_nothing_for_half_a_minute_is_dropped(self) -> None:
        tom, david = self.enter("Tom", "David")
        while not david.visitor.outbox.waiting:
            self.room.say(tom.visitor, "x" * 256)
            self.courier._round()
        deadline = david.visitor.outbox.deadline
        self.courier._expire(deadline - 0.1)
        self.assertEqual(david.lost, [])
        self.courier._expire(deadline)
        self.assertEqual(david.lost, ["not reading"])

    def test_who_takes_a_little_in_half_a_minute_is_not_dropped(self) -> None:
        """The selector may not tell of so little room."""
        tom, david = self.enter("Tom", "David")
        outbox = david.visitor.outbox
        while not outbox.waiting:
            self.room.say(tom.visitor, "x" * 256)
            self.courier._round()
        connection = outbox.connection
        outbox.connection = mock.Mock(wraps=connection, send=lambda data, _flags: min(9, len(data)))
        self.courier._expire(outbox.deadline)
        self.assertEqual(david.lost, [])
        outbox.connection = connection
        self.courier._expire(outbox.deadline)
        self.assertEqual(david.lost, ["not reading"])

    def test_who_has_left_is_not_given_ever_more_time_to_read(self) -> None:
        tom, david = self.enter("Tom", "David")
        outbox = david.visitor.outbox
        while len(outbox.waiting) < 600_000:
            self.room.say(tom.visitor, "x" * 256)
            self.courier._round()
        self.room.leave(david.visitor)
        self.courier._round()
        deadline = outbox.deadline
        while outbox.waiting:
            david.ours.recv(4096)
            self.courier._flush(outbox)
            self.assertLessEqual(outbox.deadline, deadline)

    def test_a_socket_is_closed_only_after_its_reader_let_go(self) -> None:
        (tom,) = self.enter("Tom")
        self.room.leave(tom.visitor, farewell="Tom left.")
        self.courier._round()
        self.assertEqual((tom.heard(), tom.heard()), (["Tom left."], []))
        self.assertNotEqual(tom.visitor.outbox.connection.fileno(), -1)
        tom.release()
        self.courier._round()
        self.assertEqual(tom.visitor.outbox.connection.fileno(), -1)
        self.assertEqual((self.courier.outboxes, self.courier.timed), (set(), set()))

    def test_a_reader_that_waits_for_ever_is_woken_after_a_while(self) -> None:
        (tom,) = self.enter("Tom")
        self.room.leave(tom.visitor)
        self.courier._round()
        self.courier._expire(tom.visitor.outbox.deadline)
        with contextlib.suppress(BrokenPipeError):  # as Windows has it
            # At once, though nothing came.
            self.assertEqual(tom.visitor.outbox.connection.recv(1), b"")

    def test_readers_pause_while_the_courier_has_its_hands_full(self) -> None:
        (tom,) = self.enter("Tom")
        self.courier.pause()  # not with so few orders
        for _ in range(server.BACKLOG_LIMIT + 1):
            self.room.say(tom.visitor, "x")
        paused = threading.Thread(target=self.courier.pause)
        paused.start()
        self.courier._round()
        self.assertTrue(paused.is_alive())
        self.courier.turn.release()
        paused.join(15)
        self.assertFalse(paused.is_alive())


class StrangersTest(unittest.TestCase):
    def test_what_they_cause_is_a_line_a_second_at_most_and_none_is_forgotten(self) -> None:
        display, now, told = server.Display(), 0.0, 0
        shown: list[str] = []
        display.writers = [mock.Mock(add=lambda *entry: shown.append(entry[2]))]
        with mock.patch("server.time.monotonic", lambda: now):
            for step in range(200):  # 20 seconds, of which strangers are busy for 15
                now = step / 10
                before = len(shown)
                if step < 150:
                    display.show_stranger("x", "-")
                if step % 10 == 3:
                    display.tell_unshown()
                told += sum(
                    1 if line == "x" else int(line[1:].split()[0]) for line in shown[before:]
                )
        self.assertEqual(told, 150)
        self.assertLessEqual(len(shown), 20)


class TurnTest(unittest.TestCase):
    """Whoever has left an order delivers it, if nobody else is at it."""

    def setUp(self) -> None:
        self.courier = server.Courier()
        self.addCleanup(self.close_all)
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(15)
        theirs.setblocking(bool(server.DONT_WAIT))
        self.outbox = server.Outbox(theirs, lambda reason: None)

    def close_all(self) -> None:
        for end in (self.ours, self.outbox.connection, self.courier.waker, self.courier.wakeful):
            end.close()
        self.courier.selector.close()

    def order(self, line: str) -> None:
        self.courier.order(server.Courier.unicast, self.outbox, line.encode())
        self.courier.deliver()

    def was_woken(self) -> bool:
        return bool(select.select([self.courier.wakeful], [], [], 0)[0])

    def test_a_line_is_on_its_way_when_deliver_returns_and_no_thread_was_woken(self) -> None:
        self.courier.asleep = True
        self.order("hello")
        self.assertEqual(self.ours.recv(100, server.DONT_WAIT), b"hello")
        self.assertFalse(self.was_woken())

    def test_an_order_left_while_the_turn_is_taken_is_found_when_it_is_given_back(self) -> None:
        self.courier.asleep = True
        real_round = self.courier._round

        def round_and_one_more_order() -> None:
            real_round()
            self.order("late")  # whose deliver() finds the turn taken

        with mock.patch.object(self.courier, "_round", round_and_one_more_order):
            self.order("early")
        self.assertEqual(self.ours.recv(100, server.DONT_WAIT), b"early")
        self.assertTrue(self.was_woken())
        with self.courier.turn:
            self.courier._work()
        self.assertEqual(self.ours.recv(100, server.DONT_WAIT), b"late")

    def test_who_pauses_delivers_what_was_left_while_it_had_the_turn(self) -> None:
        turn = mock.MagicMock(wraps=self.courier.turn)
        turn.__enter__.side_effect = lambda: self.order("late")
        turn.acquire.side_effect = [False, True]  # late's own deliver finds the turn taken
        turn.release = lambda: None
        with mock.patch.object(self.courier, "turn", turn), mock.patch("server.BACKLOG_LIMIT", -1):
            self.courier.pause()
        self.assertEqual(self.ours.recv(100, server.DONT_WAIT), b"late")

    def test_a_socket_that_takes_no_more_wakes_the_thread_that_watches_it(self) -> None:
        self.courier.asleep = True
        while not self.outbox.waiting:
            self.order("x" * 1000)
        self.assertTrue(self.was_woken())

    def test_what_waits_is_held_as_bytes_not_as_objects(self) -> None:
        while not self.outbox.waiting:
            self.order("x" * 1000)
        before = len(self.outbox.waiting)
        for _ in range(1000):
            self.order("x")
        self.assertEqual(len(self.outbox.waiting), before + 1000)
        self.assertLess(sys.getsizeof(self.outbox.waiting), 2 * len(self.outbox.waiting) + 4096)


class HistoryTest(RoomBase):
    HISTORY = 3

    def test_a_joiner_gets_the_last_public_lines_and_then_what_follows(self) -> None:
        (tom,) = self.enter("Tom")
        with mock.patch("server.time.strftime", return_value="12:04"):
            for number in range(5):
                self.room.say(tom.visitor, f"line {number}")
            self.room.tell(tom.visitor, "Tom", "a secret")
        spy = mock.Mock(wraps=(beth := self.listener()).visitor.outbox.connection)
        beth.visitor.outbox.connection = spy
        beth.enter("Beth")
        self.room.say(tom.visitor, "after")
        self.courier._round()
        kept = [f"Tom (at 12:04): line {number}" for number in (2, 3, 4)]
        self.assertEqual(beth.heard(), ["login confirmed", *kept, "Tom: after"])
        self.assertEqual(spy.send.call_count, 1)

    def test_the_talk_is_forgotten_when_the_room_is_empty(self) -> None:
        (tom,) = self.enter("Tom")
        self.room.say(tom.visitor, "for us alone")
        self.room.leave(tom.visitor)
        beth = self.listener().enter("Beth")
        self.courier._round()
        self.assertEqual(beth.heard(), ["login confirmed"])

    def test_it_is_bounded_in_bytes_too(self) -> None:
        (tom,) = self.enter("Tom")
        with mock.patch("server.HISTORY_BYTES", 200):
            for _ in range(50):
                self.room.say(tom.visitor, "\u5c71" * 30)
                self.assertLessEqual(len("".join(self.room.history).encode()), 200)
        self.assertEqual(len(self.room.history), 1)
