"""python -m personalization: what needs no ComfyUI."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from concept_loom.personalization.__main__ import main, shared, visible_device
from concept_loom.personalization.checkpoint import save
from concept_loom.personalization.concept import Concept, ConceptInfo
from concept_loom.personalization.exchange.families import known_bases
from safetensors.torch import load_file, save_file

from tools import diffusers_folder, host
from tools.places import ROOT
from tools.refusal import Refusal

from .concepts import concept


@pytest.fixture
def word(tmp_path):
    info = ConceptInfo("mug", "mug", "[V] mug", "mug", "subject", known_bases()[0], "textual inversion", note="for Ada")
    save(Concept(info, {"l": torch.randn(1, 768)}), tmp_path / "mug.safetensors")
    return tmp_path / "mug.safetensors"


@pytest.mark.parametrize(("visible", "number", "own"), [("", 1, "1"), ("2,3", 1, "3"), ("GPU-a, GPU-b", 0, "GPU-a")])
def test_a_process_per_device_keeps_to_the_devices_that_were_chosen(visible, number, own):
    assert visible_device(visible, number) == own


Popen = subprocess.Popen


class Child(Popen):
    """Sleeps instead of learning, and Ctrl-C comes while it is waited for."""

    started: list = []

    def __init__(self, command, **options):
        super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)
        self.started.append(self)

    def wait(self, timeout=None):
        raise KeyboardInterrupt


@pytest.fixture
def started(monkeypatch):
    children = []
    monkeypatch.setattr(Child, "started", children)
    monkeypatch.setattr(subprocess, "Popen", Child)
    yield children
    for child in children:
        child.kill()


@pytest.mark.parametrize(("chosen", "there"), [("0", 4), ("", 1), ("0,1,2", 1)])
def test_of_more_devices_than_are_chosen_or_there_none_is_started(started, monkeypatch, chosen, there):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(ValueError, match="2 processes with a device each, and 1 can be seen"):
        main(["learn", "pictures", "--devices", "2"])
    assert not started


def test_an_interrupt_ends_the_processes_of_all_devices(started, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        main(["learn", "pictures", "--devices", "2"])
    assert len(started) == 2 and all(Popen.wait(child, 20) for child in started)


def test_info_says_what_a_file_is(word, capsys):
    assert main(["info", str(word)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("mug.safetensors: <mug>, mug, subject") and "note: for Ada" in told and "author" not in told


def test_an_embedding_is_exported_once_and_never_overwritten(word, capsys):
    assert main(["export", str(word), "embedding"]) == 0
    assert "embedding:mug-embedding mug" in capsys.readouterr().out
    assert list(load_file(word.with_name("mug-embedding.safetensors"))) == ["emb_params"]
    with pytest.raises(ValueError, match="nothing is overwritten"):
        main(["export", str(word), "embedding"])


def run(*arguments, **environment):
    command = [sys.executable, "-m", "personalization", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})


def test_a_name_that_the_console_cannot_print_is_escaped(word):
    done = run("info", word.rename(word.with_name("кружка.safetensors")), PYTHONIOENCODING="cp1252")
    assert done.returncode == 0 and done.stdout.startswith(r"\u043a\u0440") and "<mug>" in done.stdout


def test_what_cannot_be_exported_ends_with_one_sentence_and_no_file(tmp_path):
    save(replace(concept()), tmp_path / "rows.safetensors")
    done = run("export", tmp_path / "rows.safetensors", "kohya")
    assert done.returncode == 1 and "acts through context rows" in done.stderr and "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["rows.safetensors"]


def test_shares_are_disjoint_and_whole():
    folders = [Path(name) for name in "abcde"]
    shares = [shared(folders, f"{number}/2") for number in range(2)]
    assert shares[0] + shares[1] == [Path(name) for name in "acebd"] and shared(folders, "") == folders


@pytest.mark.parametrize(
    "given",
    [
        "learn none --batch-size -2",
        "learn none --batch-size 1.5",
        "learn none --steps -5",
        "learn none --steps many",
        "learn none --learning-rate nan",
        "learn none --learning-rate -0.001",
        "learn none --devices 0",
        "evaluate none none --seeds 0",
        "evaluate none none --steps 0",
    ],
)
def test_a_number_that_nothing_can_be_done_with_is_refused_at_once(given, capsys):
    with pytest.raises(SystemExit):
        main(given.split())
    told = capsys.readouterr().err
    assert re.search(rf"argument {given.split()[-2]}: '.*' was given; a .*number from .* is needed\. Give one", told)


@pytest.mark.parametrize("name", [".", "missing/scores.json"])
def test_scores_that_could_not_be_written_are_refused_before_anything_is_loaded(tmp_path, name):
    with pytest.raises(ValueError, match=r"No scores can be written to .* is needed\. Make its folder"):
        main(["evaluate", str(tmp_path / "none"), str(tmp_path), "--json", str(tmp_path / name)])


def pipeline(folder, scheduler=None, parts=("unet", "vae", "text_encoder")):
    """A diffusers folder's files without their contents."""
    for part in parts:
        (folder / part).mkdir()
        (folder / part / (diffusers_folder.TEXT if part == "text_encoder" else diffusers_folder.UNET)[0]).touch()
    (folder / "model_index.json").write_text("{}")
    if scheduler:
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def test_a_checkpoint_that_is_not_there_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(Refusal, match=r"no file and no folder.*diffusers folder.*Name one"):
        host.canvas(tmp_path / "mine")


def test_a_folder_that_is_no_diffusers_folder_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"without model_index\.json.*needed"):
        host.canvas(tmp_path)


def test_a_diffusers_folder_without_a_part_is_refused_by_the_parts_name(tmp_path):
    with pytest.raises(Refusal, match=r"vae/ holds none of diffusion_pytorch_model"):
        host.canvas(pipeline(tmp_path, parts=("unet", "text_encoder")))


def test_a_text_encoder_that_comfyui_would_not_know_is_refused(tmp_path):
    folder = pipeline(tmp_path)
    save_file({"encoder.layers.0.mlp.fc1.weight": torch.zeros(1)}, folder / "text_encoder" / diffusers_folder.TEXT[0])
    with pytest.raises(Refusal, match=r"do not begin with text_model\."):
        host.canvas(folder)


@pytest.mark.parametrize(
    ("scheduler", "loaded"),
    [
        ({"prediction_type": "v_prediction"}, "eps"),
        ({"prediction_type": "epsilon"}, "v"),
        ({"_class_name": "EDMEulerScheduler"}, "eps"),
        ({"prediction_type": "sample"}, "eps"),
    ],
)
def test_a_denoiser_that_is_loaded_as_predicting_something_else_is_refused(tmp_path, scheduler, loaded):
    with pytest.raises(Refusal, match=f"loads it as {loaded}"):
        diffusers_folder.refuse_another_prediction(pipeline(tmp_path, scheduler), loaded)


@pytest.mark.parametrize(
    ("scheduler", "loaded"),
    [(None, "v"), ({"beta_start": 0.00085}, "eps"), ({"prediction_type": "v_prediction"}, "v")],
)
def test_a_denoiser_that_predicts_what_its_scheduler_says_is_taken(tmp_path, scheduler, loaded):
    diffusers_folder.refuse_another_prediction(pipeline(tmp_path, scheduler), loaded)
