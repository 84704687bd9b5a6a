"""What all tests share: the test kit that users get, and what is left out in always-replay mode."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

import pytest

pytest_plugins = ["colony.testing", "tests.nursery", "tests.stages"]

NEEDS_NO_BROKER = "silences or empties the broker, and a cut worker goes on only when it is rung"
COUNTS_SLICES = "counts the attempts of a worker, of which there are more here"
CUTS_ITSELF = "cuts slices itself, at points of its own"
TIMES_SLICES = "needs a worker that runs on for seconds, or a model that is called at that pace"
MEASURES = "measures a node, which does several times the work here"
NOT_REPLAYED: Mapping[str, str] = {
    "test_many_workers_report_once_each": COUNTS_SLICES,
    "test_a_parked_worker_holds_no_place": COUNTS_SLICES,
    "test_revoke_with_terminate_ends_one_worker_and_no_other": COUNTS_SLICES,
    "test_a_killed_child_costs_its_worker_nothing": COUNTS_SLICES,
    "test_a_tree_of_depth_3_and_breadth_5_finishes_on_one_slot": COUNTS_SLICES,
    "test_doorbells_of_all_members_ten_times_are_one_join": COUNTS_SLICES,
    "test_the_way_of_a_unit_on_one_slot": COUNTS_SLICES,
    "test_a_block_can_be_read_without_the_history": COUNTS_SLICES,
    "test_a_parent_that_dies_between_spawning_and_parking_has_each_child_once": NEEDS_NO_BROKER,
    "test_children_that_have_all_ended_before_the_parent_parks_wake_it": NEEDS_NO_BROKER,
    "test_a_batch_whose_node_dies_and_one_whose_doorbells_are_all_lost": NEEDS_NO_BROKER,
    "test_a_node_that_dies_with_parked_parents_and_running_children": COUNTS_SLICES,
    "test_a_thousand_workers_are_spread_over_two_nodes_and_report_once": COUNTS_SLICES,
    "test_after_the_grace_time_workers_are_handed_over": COUNTS_SLICES,
    "test_sigquit_hands_over_at_once": COUNTS_SLICES,
    "test_a_node_killed_in_its_drain_counts_for_nothing": COUNTS_SLICES,
    "test_a_queued_unit_is_seen_waiting_and_can_be_stopped": COUNTS_SLICES,
    "test_all_are_stopped_whatever_state_they_go_through": COUNTS_SLICES,
    "test_through_one_that_has_ended_its_descendants_are_stopped": TIMES_SLICES,
    "test_descendants_count_once_when_all_are_stopped": TIMES_SLICES,
    "test_ten_thousand_agents_wait_in_one_node_within_400_mb": MEASURES,
    "test_a_full_fleet_lets_wait_what_can_fit": TIMES_SLICES,
    "test_ten_thousand_members": MEASURES,
    "test_a_running_worker_is_stopped_and_frees_its_place": TIMES_SLICES,
    "test_a_late_ack_neighbour_runs_each_long_task_once": COUNTS_SLICES,
    "test_one_frame_fits_a_small_terminal": TIMES_SLICES,
    "test_what_machines_read": TIMES_SLICES,
    "test_a_fleet_on_three_hosts": TIMES_SLICES,
}
"""Tests that do not hold where every slice is cut after each checkpoint (`make replay`), and why."""

FILES_NOT_REPLAYED: Mapping[str, str] = {
    "test_resume": CUTS_ITSELF,
    "test_fencing": TIMES_SLICES,
    "test_bad_messages": NEEDS_NO_BROKER,
    **dict.fromkeys(("test_node_death", "test_redis_trouble"), COUNTS_SLICES),
    **dict.fromkeys(("test_metrics", "test_traces", "test_logs"), COUNTS_SLICES),
    **dict.fromkeys(("test_flower", "test_flower_browser"), COUNTS_SLICES),
}
"""The same, of whole files."""


def pytest_configure() -> None:
    """What a shell starts in the background ignores Ctrl-C, and all that it starts would, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In always-replay mode, skip what does not hold there."""
    if not os.environ.get("TEST_REPLAY"):
        return
    for item in items:
        reason = FILES_NOT_REPLAYED.get(item.path.stem) or NOT_REPLAYED.get(
            getattr(item, "originalname", item.name)
        )
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"always-replay: {reason}"))
