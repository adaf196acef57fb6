"""The nodes through the real /prompt: learned once, used in any prompt, never silently nothing."""

import json
from pathlib import Path

import pytest
from concept_loom.personalization.checkpoint import load, read_info
from PIL import Image

from tools.client import Client, Event, PromptFailed, PromptRejected
from tools.places import EXAMPLES
from tools.server import Server
from tools.workflow import to_prompt

from .conftest import PACK
from .prompts import STEPS, Json, drawing, learning, loom, node


def watched(client: Client, prompt: Json, **extra_data: object) -> list[Event]:
    events: list[Event] = []
    client.finish(client.queue(prompt, **extra_data), events.append)
    return events


def trained(events: list[Event]) -> bool:
    """Whether Learn Concept took a step: only then its progress has STEPS as its end."""
    return any(e.type == "progress" and e.data["node"] == "3" and e.data["max"] == STEPS for e in events)


def sentences(events: list[Event]) -> list[str]:
    reports = [e.data for e in events if e.type == "concept_loom.report"]
    assert all(report["node"] == "10" for report in reports)
    return [one["sentence"] for report in reports for one in report["reports"]]


def test_a_concept_is_learned_saved_and_seen_in_a_picture(client: Client, concepts: Path) -> None:
    prompt = {**learning(seed=1), **drawing(["3", 0])}
    events = watched(client, prompt)
    (file,) = concepts.glob("*.safetensors")
    learned = load(file)
    assert learned.info.placeholder == "mug" and learned.info.steps <= STEPS and learned.thumbnail
    assert any(e.type == "preview" for e in events)
    assert [s for s in sentences(events) if s.startswith("<mug> acted at")]
    told = next(e.data["output"]["text"][0] for e in events if e.type == "executed" and e.data["node"] == "3")
    assert "concepts/mug.safetensors" in told


def test_what_does_not_change_the_tensors_is_not_learned_again(client: Client, concepts: Path) -> None:
    first = {**learning(seed=2), **drawing(["3", 0])}
    assert trained(watched(client, first))
    assert not trained(watched(client, first))
    assert not trained(watched(client, {**learning(seed=2), **drawing(["3", 0], seed=5, strength=0.5)}))
    other_word = {**learning(seed=2, placeholder="cup"), **drawing(["3", 0], text="a photo of <cup>")}
    events = watched(client, other_word)
    assert not trained(events)
    assert [s for s in sentences(events) if s.startswith("<cup> acted at")]
    saving = {**learning(seed=2), "20": loom("SaveConcept", concept=["3", 0], name="set/red mug", note="for Ada")}
    assert not trained(watched(client, saving))
    assert len(list(concepts.rglob("*.safetensors"))) == 2
    assert read_info(concepts / "set" / "red mug.safetensors").note == "for Ada"


def test_the_learned_file_is_found_after_the_servers_cache_was_emptied(client: Client, concepts: Path) -> None:
    prompt = {**learning(seed=3), **drawing(["3", 0])}
    assert trained(watched(client, prompt))
    watched(client, {**learning(seed=30), **drawing(["3", 0])})  # the cache keeps only what the last prompt used
    client.post("/free", {"unload_models": True, "free_memory": True})
    (file,) = (one for one in concepts.glob("*.safetensors") if read_info(one).seed == 3)
    file.rename(concepts / "renamed.safetensors")
    assert not trained(watched(client, {**learning(seed=3), **drawing(["3", 0], seed=1)}))


def test_what_changes_the_tensors_is_learned_again(client: Client, concepts: Path) -> None:
    for changes in ({"seed": 4}, {"seed": 5}, {"seed": 5, "class_word": "cup"}, {"seed": 5, "role": "both"}):
        assert trained(watched(client, {**learning(**changes), **drawing(["3", 0])}))


def test_a_changed_picture_is_learned_again(client: Client, concepts: Path, server: Server) -> None:
    mine = server.launch.base / "input" / "mine"
    mine.mkdir(exist_ok=True)
    for number in range(3):
        Image.new("RGB", (64, 64), (60 * number, 90, 30)).save(mine / f"{number}.png")
    prompt = {**learning(seed=6), **drawing(["3", 0])}
    prompt["2"] = loom("ConceptDataset", folder="mine", holdout="0")
    assert trained(watched(client, prompt))
    Image.new("RGB", (64, 64), (5, 200, 30)).save(mine / "1.png")
    assert trained(watched(client, prompt))


def test_an_interrupted_run_keeps_the_best_so_far_and_goes_on(client: Client, concepts: Path) -> None:
    prompt = {**learning(seed=7, steps=20_000), **drawing(["3", 0])}
    prompt_id = client.queue(prompt)
    pressed = []

    def press(event: Event) -> None:
        if event.type == "progress" and event.data["node"] == "3" and event.data["value"] >= 3 and not pressed:
            pressed.append(client.interrupt(prompt_id))

    client.finish(prompt_id, press)
    (file,) = concepts.glob("*.safetensors")
    assert pressed and load(file).info.key == ""
    assert client.outputs(prompt_id)["16"]["images"]


def test_a_loaded_concept_can_be_renamed_and_placed(client: Client, concepts: Path) -> None:
    watched(client, {**learning(seed=8), "9": node("PreviewImage", images=["3", 2])})
    loading = {
        "1": loom("LoadPlaygroundModel"),
        "3": loom("LoadConcept", file="mug.safetensors", placeholder="Cup"),
        "4": loom("PlaceConcept", concept=["3", 0], strength=0.8, role="as learned", start=0.0, end=0.9),
        **drawing(["4", 0], text="(<cup>:1.1) in the snow"),
    }
    (sentence,) = sentences(watched(client, loading))
    assert sentence.startswith("<cup> acted at")


def test_a_list_of_pictures_of_any_size_is_learned_and_placed_in_a_region(
    client: Client, concepts: Path, server: Server
) -> None:
    mixed = server.launch.base / "input" / "mixed"
    mixed.mkdir(exist_ok=True)
    for number, size in enumerate([(64, 64), (96, 70), (40, 120)]):
        Image.effect_noise(size, 40 + number).convert("RGB").save(mixed / f"{number}.png")
    prompt = {
        **learning(seed=13),
        "2": loom("ConceptDataset", folder="", images=["31", 0]),
        "31": node("LoadImageDataSetFromFolder", folder="mixed"),
        "4": loom("PlaceConcept", concept=["3", 0], strength=1.0, role="as learned", region=["5", 0]),
        "5": node("SolidMask", value=1.0, width=32, height=64),
        **drawing(["4", 0]),
    }
    events = watched(client, prompt)
    assert [s for s in sentences(events) if s.startswith("<mug> acted at")]
    report = next(e.data["output"]["text"][0] for e in events if e.type == "executed" and e.data["node"] == "2")
    assert "\n3 pictures" in report


def test_a_word_in_no_prompt_is_said_on_the_node(client: Client, concepts: Path) -> None:
    (sentence,) = sentences(watched(client, {**learning(seed=9), **drawing(["3", 0], text="a photo of a mug")}))
    assert sentence.startswith("<mug> did not act: it stands in no prompt")


def test_a_missing_file_is_refused_with_the_place_to_put_it(client: Client) -> None:
    loading = {
        "1": loom("LoadPlaygroundModel"),
        "3": loom("LoadConcept", file="none.safetensors"),
        **drawing(["3", 0]),
    }
    with pytest.raises(PromptRejected) as rejected:
        client.queue(loading)
    assert "Copy it to models/concepts" in json.dumps(rejected.value.answer["node_errors"]["3"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"placeholder": "two words"}, "one word without spaces"),
        ({"class_word": ""}, "No class word was given"),
    ],
)
def test_wrong_settings_end_in_a_sentence(client: Client, server: Server, changes: dict, said: str) -> None:
    prompt = {**learning(**changes), "9": node("PreviewImage", images=["3", 2])}
    with pytest.raises(PromptFailed, match=said) as failed:
        client.run(prompt)
    assert "output/concepts/report.txt" in failed.value.event.data["exception_message"]
    report = (server.launch.base / "output" / "concepts" / "report.txt").read_text(encoding="utf-8")
    assert said in report and str(server.launch.base) not in report and "mug-1" not in report


def test_the_loss_map_can_be_plotted_by_the_core(client: Client) -> None:
    prompt = {**learning(seed=12), "9": node("LossGraphNode", loss=["3", 1], filename_prefix="loss")}
    assert client.run(prompt)["9"]["images"]


def test_a_concept_is_evaluated_and_its_strength_found_without_a_browser(client: Client) -> None:
    wired = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "clip_vision": ["1", 3]}
    asked = {**wired, "concept": ["3", 0], "dataset": ["2", 0], "prompts": "a photo of <word>", "steps": 2, "seeds": 1}
    prompt = {
        **learning(seed=13),
        "7": loom("EvaluateConcept", **asked),
        "8": loom("StrengthSheet", **asked, highest=1.0, columns=3),
        "9": node("SaveImage", images=["7", 0], filename_prefix="evaluated"),
        "20": loom("SaveConcept", concept=["8", 1], name="recommended"),
    }
    outputs = client.run(prompt)
    assert "against 5 training pictures" in outputs["7"]["text"][0] and outputs["7"]["images"]
    assert "strength" in outputs["8"]["text"][0] and outputs["9"]["images"]


def test_every_node_has_a_help_page_and_words_in_both_languages(client: Client) -> None:
    ours = {key: info for key, info in client.get("/object_info").items() if info["category"] == "Concept Loom"}
    translations = client.get("/i18n")
    for key, info in ours.items():
        for language in ("en", "ja"):
            known = translations[language]["nodeDefs"][key]
            inputs = {name for kind in ("required", "optional") for name in info["input"].get(kind, ())}
            assert known["display_name"] and known["inputs"].keys() == inputs
            page = client.page(f"/extensions/{PACK}/docs/{key}/{language}.md")
            assert page.startswith(b"# ")


def test_the_quickstart_runs_as_it_is_shared(client: Client, concepts: Path) -> None:
    workflow = json.loads((EXAMPLES / "quickstart.json").read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, client.get("/object_info"))
    (learn,) = (one for one in prompt.values() if one["class_type"] == "ConceptLoom_LearnConcept")
    learn["inputs"]["steps"] = STEPS
    events: list[Event] = []
    outputs = client.outputs(client.finish(client.queue(prompt), events.append))
    assert [picture for one in outputs.values() for picture in one.get("images", ()) if picture["type"] == "output"]
    told = [one for event in events if event.type == "concept_loom.report" for one in event.data["reports"]]
    assert told and all(one["acted"] == one["sites"] > 0 for one in told), told


def test_the_time_left_is_told_after_ten_steps_and_no_longer_when_it_is_over(client: Client) -> None:
    events = watched(client, learning(seed=31, steps=40) | {"4": loom("SaveConcept", concept=["3", 0], name="timed")})
    told = [event.data for event in events if event.type == "concept_loom.progress"]
    assert {one["node"] for one in told} == {"3"} and told[0]["text"].startswith("Learning in fp32 needs ")
    steps = [int(one["text"].partition(" of 40 steps, about ")[0]) for one in told[1:-1]]
    assert steps == sorted(steps) and 10 <= steps[0] < 40
    assert told[-1]["text"] == ""
    assert told[-2]["curve"]["training"][-1][0] == int(told[-2]["text"].partition(" ")[0])
    (kept,) = next(e.data["output"]["curve"] for e in events if e.type == "executed" and e.data["node"] == "3")
    assert kept["training"][-1][0] == kept["steps"] == 40


def test_what_is_told_names_the_workflow_that_was_queued_also_where_the_nodes_results_are_kept(client: Client) -> None:
    told = []
    for seed, info in enumerate(({"workflow": {"id": "one"}}, {"workflow": {"id": "two"}}, {"workflow": None}, None)):
        prompt = {**learning(seed=32), **drawing(["3", 0], seed=seed)}
        events = watched(client, prompt, extra_pnginfo=info)
        assert trained(events) == (seed == 0)
        told.append({e.data["workflow"] for e in events if e.type.startswith("concept_loom.")})
    assert told == [{"one"}, {"two"}, {""}, {""}]
