"""Journal: what rebuilds a sequence, and who is to blame for a crash."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fakes import make_request
from tgi.server.journal import Journal, JournalGap


def _journal(*ids: int) -> Journal:
    journal = Journal()
    for request_id in ids:
        journal.add(make_request(request_id, [1, 2], prompt_logprobs=True))
    return journal


def _run(journal: Journal) -> list[int]:
    """Submit what is due, and let it begin."""
    due = journal.due()
    for sequence in due:
        sequence.submitted = sequence.begun = True
    return [sequence.request.id for sequence in due]


def test_a_resubmission_continues_after_the_last_token_the_client_has() -> None:
    journal = _journal(1)
    sequence = journal.get(1)
    assert sequence is not None
    assert sequence.resubmission() == sequence.request
    for index, token in enumerate([7, 300_000]):
        assert journal.record(1, index, token)
    resubmission = sequence.resubmission()
    assert np.frombuffer(resubmission.output_ids, np.int32).tolist() == [7, 300_000]
    assert resubmission.prompt_logprobs is False  # they came with the first token
    assert (resubmission.id, resubmission.prompt_ids) == (1, sequence.request.prompt_ids)


def test_known_and_unwanted_tokens_are_dropped_and_a_gap_is_a_bug() -> None:
    journal = _journal(1)
    assert journal.record(1, 0, 7)
    assert not journal.record(1, 0, 7)
    assert not journal.record(2, 5, 7)
    with pytest.raises(JournalGap, match="output 2 came after output 0"):
        journal.record(1, 2, 7)


def test_sequences_that_gain_tokens_between_crashes_are_never_suspects() -> None:
    journal = _journal(1, 2)
    for index in range(10):
        assert _run(journal) == [1, 2]
        journal.record(1, index, 7)
        journal.record(2, index, 7)
        assert journal.crashed(None) is None
    assert not journal.isolating


def test_a_sequence_that_had_not_begun_is_not_blamed() -> None:
    journal = _journal(1, 2)
    for _ in range(2):
        for sequence in journal.due():
            sequence.submitted = True
            sequence.begun = sequence.request.id == 1
        assert journal.crashed(None) is None
    assert [sequence.suspect for sequence in journal] == [True, False]


def test_only_members_of_the_failed_step_are_blamed_when_the_engine_names_them() -> None:
    journal = _journal(1, 2)
    for _ in range(2):
        _run(journal)
        assert journal.crashed([2]) is None
    assert [sequence.suspect for sequence in journal] == [False, True]


def test_suspects_run_one_at_a_time_and_the_one_that_crashes_alone_is_the_culprit() -> None:
    journal = _journal(1, 2, 3)
    journal.record(3, 0, 7)
    _run(journal)
    assert journal.crashed([1, 2]) is None
    assert _run(journal) == [1, 2, 3]
    assert journal.crashed([1, 2]) is None
    assert _run(journal) == [1]
    assert _run(journal) == []
    journal.record(1, 0, 7)
    first = journal.get(1)
    assert first is not None
    journal.clear(first)
    first.submitted = first.begun = False
    assert _run(journal) == [2]
    culprit = journal.crashed(None)
    assert culprit is not None
    assert culprit.request.id == 2
    journal.remove(2)
    assert _run(journal) == [1, 3]


def test_removing_the_last_suspect_ends_the_isolation() -> None:
    journal = _journal(1)
    for _ in range(2):
        _run(journal)
        journal.crashed(None)
    assert journal.isolating
    journal.add(make_request(2, [1]))
    assert _run(journal) == [1]
    journal.remove(1)
    assert _run(journal) == [2]


def test_what_waits_runs_and_is_kept_is_counted() -> None:
    journal = _journal(1, 2)
    assert (journal.waiting_tokens, journal.num_bytes, journal.running) == (4, 16, ())
    _run(journal)
    assert (journal.waiting_tokens, journal.running) == (0, ("prefill",))
    journal.record(1, 0, 7)
    assert (journal.num_bytes, journal.running) == (20, ("prefill", "decode"))
    journal.record(2, 0, 7)
    assert journal.running == ("decode",)
    journal.crashed(None)
    assert (journal.waiting_tokens, journal.running) == (6, ())


def test_a_pause_begins_with_the_first_of_several_crashes() -> None:
    journal = _journal(1, 2)
    _run(journal)
    journal.add(make_request(3, [1, 2]))  # no engine has begun it
    journal.crashed(None)
    first = [sequence.paused_at for sequence in journal]
    assert None not in first[:2]
    assert first[2] is None
    _run(journal)
    journal.crashed(None)
    assert [sequence.paused_at for sequence in journal][:2] == first[:2]
