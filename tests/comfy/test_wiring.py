"""What is told of a MODEL that is not wired through must not disturb the host."""

import logging

from concept_loom.nodes import wiring
from concept_loom.nodes.reports import TELLERS, Teller


def test_no_error_leaves_the_hosts_progress(monkeypatch, caplog) -> None:
    """The host calls outside of its own try: an error here would end the worker, and nothing more would run."""

    def failing() -> None:
        raise TypeError("unhashable type: 'dict'")

    teller = Teller("7", ())  # who listens, so that there is something to tell
    monkeypatch.setattr(wiring.Graph, "running", failing)
    watching = wiring.Wiring()
    watching.start_handler("3", None, "prompt")
    with caplog.at_level(logging.ERROR, "concept_loom"):
        watching.finish_handler("3", None, "prompt")
    assert teller.node == "7"
    (record,) = caplog.records
    assert "node 3" in record.getMessage() and record.exc_info


def test_a_composition_that_comes_from_the_cache_is_the_one_that_counts_again() -> None:
    """With ComfyUI's larger caches the MODEL of an earlier strength draws, though a later one was composed since."""
    earlier, later = Teller("8", ()), Teller("8", ())
    assert TELLERS["8"] is later
    earlier(())
    assert TELLERS["8"] is earlier and earlier.heard_of("", "")
