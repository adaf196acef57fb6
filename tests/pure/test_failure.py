"""What is told of a failed learning holds nothing private."""

import errno
from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.dataset import dataset_of
from concept_loom.personalization.failure import Failure, report_of, sentence_of
from concept_loom.personalization.learned import Held, Step
from concept_loom.personalization.pictures import picture_from
from concept_loom.personalization.whole_file import must_be_writable


def dataset():
    pictures = [picture_from(f"ada at home {n}.jpg", torch.rand(16, 16, 3)) for n in range(3)]
    return dataset_of([replace(one, caption="our ada in Paris") for one in pictures], "0")


def failed(message, kind=RuntimeError):
    try:
        try:
            raise OSError(message)
        except OSError as cause:
            raise kind(f"because: {message}") from cause
    except kind as error:
        return error


def report(message, names=("ada", "adas-mac")):
    steps = [Step(n, 200, 0.5 / n, float(n)) for n in range(1, 51)]
    settings = {"class_word": "mug", "batch_size": 4}
    held = [Held(10, 0.9, True)]
    return report_of(Failure(failed(message), {"torch": "2.13.0"}, settings, dataset(), steps, held, names))


@pytest.mark.parametrize(
    "message",
    [
        "No such file: '/home/ada/My Pictures/secret 1.png'",
        "cannot open /home/ada/ComfyUI/input/secret.png, sorry",
        "C:\\Users\\Ada\\secret.safetensors is missing",
        'File "D:\\my things\\secret project\\a.py", line 3',
        "\\\\server\\share\\secret.txt and ~/secret/x",
        "secret/set/picture.webp is cut off",
        "the picture ada at home 1.jpg of secret.jpeg is damaged",
        "no site in 'our ada in Paris' on adas-mac",
        "ADA, secret.png",
    ],
)
def test_no_path_name_caption_or_picture_is_told(message):
    told = report(message).lower()
    for private in ("secret", "ada", "paris", "users", "home", "my pictures", "share"):
        assert private not in told


def test_versions_settings_pictures_steps_and_the_chain_of_causes_are_told():
    told = report("CUDA error: an illegal access, 3/4 done, mask at 0.5")
    for part in ("torch: 2.13.0", "batch_size: 4", "3 pictures", "50/200", "RuntimeError: because", "OSError: CUDA"):
        assert part in told
    assert "3/4 done" in told and "in failed, test_failure, line" in told


def test_an_unexpected_error_says_what_it_is_and_when():
    assert sentence_of(ValueError("Lower\n batch_size."), 3) == "Lower batch_size."
    said = sentence_of(KeyError("x"), 12)
    assert "after step 12" in said and "KeyError" in said and "queue it again, and it goes on from its last" in said
    assert "snapshot" not in sentence_of(KeyError("x"), 0)


@pytest.mark.parametrize("path", [None, "/home/ada/concepts/mug.safetensors"])
def test_a_full_disk_is_named_with_what_to_do_and_without_its_number(path):
    said = sentence_of(OSError(errno.ENOSPC, "No space left on device", path), 12)
    assert "Errno" not in said and "unexpected" not in said
    for part in ("the disk is full", "room in ComfyUI's output folder", "queue it again", "its last snapshot"):
        assert part in said


def test_a_file_that_the_system_refuses_is_told_as_it_says_it_and_one_of_ours_as_we_do():
    refused = sentence_of(PermissionError(errno.EACCES, "Permission denied", "mug.safetensors"), 12)
    assert "Permission denied: 'mug.safetensors'" in refused and "queue it again" in refused
    assert sentence_of(FileNotFoundError("The model lacks a file. Load it again."), 12).endswith("Load it again.")


def test_a_folder_that_cannot_be_written_to_is_told_as_we_say_it(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^Nothing can be written to ") as refused:
        must_be_writable(tmp_path / "file" / "concepts")
    assert sentence_of(refused.value, 0) == str(refused.value)
