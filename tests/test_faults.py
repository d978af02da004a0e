"""The promises that matter most when something goes wrong; python -m tests.long.faults has them all.

Each builds a fault against a real server, while two witnesses talk in its room: it fails when the
fault does not end as promised, and also when it delays them.
"""

from __future__ import annotations

import unittest

from tests.long.faults import FAULTS, Skipped, Stage


class Faults(unittest.TestCase):
    def survives(self, name: str) -> None:
        (fault,) = (fault for fault in FAULTS if fault.name == name)
        try:
            fault.build(Stage(quick=True))
        except Skipped as reason:
            self.skipTest(str(reason))

    def test_a_client_that_never_reads_is_dropped_and_delays_nobody(self) -> None:
        self.survives("never-reads")

    def test_a_client_that_takes_nothing_for_too_long_is_dropped_and_costs_no_cpu(self) -> None:
        self.survives("stalls")

    def test_a_reset_leaves_nothing_behind(self) -> None:
        self.survives("resets")

    def test_a_half_closed_client_gets_what_it_is_owed(self) -> None:
        self.survives("half-closes")

    def test_every_connection_is_watched_for_a_peer_that_is_dead(self) -> None:
        self.survives("keepalive")

    def test_the_oldest_at_a_crowded_door_is_told_and_closed(self) -> None:
        self.survives("lobby")

    def test_being_busy_does_not_put_off_the_login_deadline(self) -> None:
        self.survives("login-deadline")

    def test_out_of_descriptors_it_does_not_spin_and_serves_again_later(self) -> None:
        self.survives("descriptors")

    def test_out_of_threads_it_refuses_and_serves_again_later(self) -> None:
        self.survives("threads")

    def test_an_account_that_was_cut_short_leaves_users_txt_as_it_was(self) -> None:
        self.survives("file-limit")

    def test_a_read_only_users_txt_stops_new_accounts_alone(self) -> None:
        self.survives("read-only")

    def test_a_lost_users_txt_is_written_anew_with_every_account(self) -> None:
        self.survives("users-lost")

    def test_an_edited_users_txt_is_taken_in(self) -> None:
        self.survives("users-edited")

    def test_without_standard_output_the_room_goes_on(self) -> None:
        self.survives("display-closed")

    def test_a_full_pipe_does_not_stop_the_room_and_tells_what_it_missed(self) -> None:
        self.survives("display-stuck")

    def test_a_full_disk_under_the_log_does_not_stop_the_room(self) -> None:
        self.survives("log-full")

    def test_sending_on_after_logout_costs_little(self) -> None:
        self.survives("logout-flood")

    def test_stopped_in_a_flood_all_that_was_said_is_heard(self) -> None:
        self.survives("stop-flood")

    def test_it_stops_in_time_with_client_display_and_log_all_stuck(self) -> None:
        self.survives("stop-stuck")

    def test_however_sessions_end_no_ghost_is_left(self) -> None:
        self.survives("one-door")


if __name__ == "__main__":
    unittest.main()
