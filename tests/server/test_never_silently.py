"""Promise 4 through the real /prompt: what did not act says so, with its cause and the node that is to blame."""

from tools.client import Client, Event

from .prompts import Json, drawing, learning, node

LEARNED = learning(seed=100)
HALF = {"conditioning_to_strength": 0.5}


def watched(client: Client, prompt: Json) -> list[Event]:
    events: list[Event] = []
    client.finish(client.queue(prompt), events.append)
    return events


def told(events: list[Event]) -> list[Json]:
    """What Compose was told: the one concept's report of every sampling, and which node sampled."""
    found = [event.data for event in events if event.type == "concept_loom.report"]
    assert all(data["node"] == "10" and data["prompt_id"] for data in found)
    return [{**one, "sampler": data["sampler"]} for data in found for one in data["reports"]]


def ran(events: list[Event]) -> set[str]:
    return {event.data["node"] for event in events if event.type == "executing"}


def rewired(prompt: Json, **changes: Json) -> Json:
    """`prompt` with some inputs of some nodes changed: `_14={"model": ...}`."""
    changed = {key.lstrip("_"): inputs for key, inputs in changes.items()}
    return {
        key: {**one, "inputs": {**one["inputs"], **changed.get(key, {})}} if key in changed else one
        for key, one in prompt.items()
    }


def test_a_model_that_is_not_wired_through_is_told_by_the_node_that_drew(client: Client) -> None:
    prompt = rewired({**LEARNED, **drawing(["3", 0])}, _14={"model": ["1", 0]})
    (report,) = told(watched(client, prompt))
    assert report["cause"] == "model" and report["sampler"] == "14" and report["acted"] == 0 < report["sites"]
    assert "KSampler (14) draws with a MODEL that is not Compose's" in report["sentence"]


def test_a_model_that_is_rewired_later_is_told_although_nothing_of_ours_runs_again(client: Client) -> None:
    good = {**LEARNED, **drawing(["3", 0], seed=1)}
    (report,) = told(watched(client, good))
    assert report["cause"] == "" and report["acted"] == report["sites"]
    events = watched(client, rewired(good, _14={"model": ["1", 0]}))
    assert ran(events).isdisjoint({"10", "11"})
    assert [report["cause"] for report in told(events)] == ["model"]


def test_nothing_is_told_while_nothing_is_sampled(client: Client) -> None:
    prompt = rewired({**LEARNED, **drawing(["3", 0], seed=2)}, _14={"model": ["1", 0]})
    watched(client, prompt)
    assert told(watched(client, rewired(prompt, _16={"filename_prefix": "again"}))) == []


def test_a_guider_with_another_model_is_told(client: Client) -> None:
    prompt = {
        **LEARNED,
        **drawing(["3", 0]),
        "14": node(
            "SamplerCustomAdvanced",
            noise=["20", 0],
            guider=["21", 0],
            sampler=["22", 0],
            sigmas=["23", 0],
            latent_image=["13", 0],
        ),
        "20": node("RandomNoise", noise_seed=3),
        "21": node("CFGGuider", model=["1", 0], positive=["11", 0], negative=["12", 0], cfg=4.0),
        "22": node("KSamplerSelect", sampler_name="euler"),
        "23": node("BasicScheduler", model=["10", 0], scheduler="normal", steps=2, denoise=1.0),
    }
    (report,) = told(watched(client, prompt))
    assert report["cause"] == "model" and "(14)" in report["sentence"]
    (report,) = told(watched(client, rewired(prompt, _21={"model": ["10", 0]})))
    assert report["cause"] == "" and report["acted"] == report["sites"]


def test_patches_that_a_node_drops_from_the_model_are_told(client: Client) -> None:
    """The wires are right, but merging keeps the first model's patches only."""
    merge = node("ModelMergeSimple", model1=["1", 0], model2=["10", 0], ratio=0.5)
    prompt = {**rewired({**LEARNED, **drawing(["3", 0])}, _14={"model": ["20", 0]}), "20": merge}
    (report,) = told(watched(client, prompt))
    assert report["cause"] == "steps" and "a node in between drops the MODEL's patches" in report["sentence"]


def test_a_sampler_that_takes_no_step_is_not_accused_of_another_model(client: Client) -> None:
    prompt = rewired({**LEARNED, **drawing(["3", 0], seed=3)}, _14={"denoise": 0.0})
    (report,) = told(watched(client, prompt))
    assert report["cause"] == "steps" and "KSampler (14) took no step" in report["sentence"]


def test_the_node_that_changed_the_rows_is_named(client: Client) -> None:
    mixed = {
        "20": node("ConditioningAverage", conditioning_to=["11", 0], conditioning_from=["12", 0], **HALF),
        "21": node("ConditioningSetTimestepRange", conditioning=["20", 0], start=0.0, end=1.0),
    }
    prompt = {**rewired({**LEARNED, **drawing(["3", 0])}, _14={"positive": ["21", 0]}), **mixed}
    (report,) = told(watched(client, prompt))
    assert report["cause"] == "rows" and "(20) has mixed" in report["sentence"]
    swapped = rewired(prompt, _20={"conditioning_to": ["12", 0], "conditioning_from": ["11", 0]})
    (report,) = told(watched(client, swapped))
    assert report["cause"] == "rows"


def test_a_clip_that_is_not_wired_through_and_a_word_that_is_missed_by_a_letter(client: Client) -> None:
    prompt = {**LEARNED, **drawing(["3", 0])}
    (report,) = told(watched(client, rewired(prompt, _11={"clip": ["1", 1]}, _12={"clip": ["1", 1]})))
    assert report["cause"] == "clip"
    (report,) = told(watched(client, rewired(prompt, _11={"text": "a <mugg>"})))
    assert report["cause"] == "word" and "<mugg> does" in report["sentence"]


def test_strength_0_is_told_and_is_no_warning(client: Client) -> None:
    (report,) = told(watched(client, {**LEARNED, **drawing(["3", 0], strength=0.0)}))
    assert report["cause"] == "strength" and not report["warns"]
    unwired = rewired({**LEARNED, **drawing(["3", 0], strength=0.0)}, _14={"model": ["1", 0]})
    (report,) = told(watched(client, unwired))
    assert report["cause"] == "strength"
