"""The loop that trains towers, over a denoiser that draws exactly what it is instructed to."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.composition import Composition
from concept_loom.personalization.denoiser import Context
from concept_loom.personalization.learned import Step
from concept_loom.personalization.parts import LatentInstruction
from concept_loom.personalization.towers.instruct import instructions
from concept_loom.personalization.towers.recipe import TowersRecipe
from concept_loom.personalization.towers.training import ASKING, PAIRS, Draw, TowersRun, TowersTask, Trained, train
from concept_loom.personalization.towers.triplets import Triplets
from torch import Tensor

from .toy import CHANNELS, CONTEXT, SIDE, ToyDenoiser, ToyPromptEncoder

USERS, EACH, VISION = 12, 8, 16
RECIPE = TowersRecipe(steps=60, batch_size=8, learning_rate=1e-2, width=16, tokens=2, alone=0.1, min_snr=1.0)


class Obedient(ToyDenoiser):
    """Its denoised latents are a fixed linear map of the instruction's mean token; silent samples get zeros."""

    def __init__(self, breaks: int = -1, raises: type[BaseException] | None = None, deaf: bool = False) -> None:
        super().__init__(breaks, raises)
        self.map = torch.randn(CONTEXT, CHANNELS, generator=torch.Generator().manual_seed(5)) * CONTEXT**-0.5
        self.deaf = deaf

    def predict(
        self, noised: Tensor, sigma: Tensor, contexts: Sequence[Context], composition: Composition = ()
    ) -> Tensor:
        self.calls += 1
        if self.calls == self.breaks and self.raises:
            raise self.raises
        (part,) = composition[0].concept.parts
        assert isinstance(part, LatentInstruction) and all(one.slots for one in contexts)
        drawn = (part.tokens.mean(1) @ self.map)[:, :, None, None].expand(-1, -1, SIDE, SIDE)
        drawn = drawn.detach() if self.deaf else drawn
        return drawn * torch.nan if self.calls == self.breaks else drawn


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def triplets() -> Triplets:
    """Flat latents: half of the channels a user's own, half a picture's; tokens show both, copies another style."""
    style, meaning = draw(USERS, CHANNELS // 2), draw(USERS * EACH, CHANNELS // 2, seed=1)
    users = torch.arange(USERS).repeat_interleave(EACH)
    shown = torch.cat([style[users], meaning], 1)  # (N, channels)
    perturbed = torch.cat([draw(USERS * EACH * 3, CHANNELS // 2, seed=2), meaning.repeat_interleave(3, 0)], 1)
    to_tokens = draw(CHANNELS, 5 * VISION, seed=3)
    tokens, copies = ((one @ to_tokens).unflatten(-1, (5, VISION)) for one in (shown, perturbed))
    latents = shown[:, :, None, None].expand(-1, -1, SIDE, SIDE)
    return Triplets(latents, tokens, copies.unflatten(0, (-1, 3)), users, ("",) * len(users))


def task(denoiser: ToyDenoiser | None = None, **changes: object) -> TowersTask:
    recipe = replace(RECIPE, **changes)
    return TowersTask(denoiser or Obedient(), ToyPromptEncoder(), triplets(), recipe, seed=2)


@pytest.fixture(scope="module")
def learned() -> Trained:
    return train(task(steps=200, batch_size=16))


def test_training_brings_the_anchors_closer(learned: Trained) -> None:
    assert sum(learned.losses[-20:]) < 0.4 * sum(learned.losses[:20])


def test_trained_towers_take_the_style_from_the_history_and_the_meaning_from_the_reference(learned: Trained) -> None:
    """The swap test: the style of each user with the content of another user's picture, which never came together."""
    seen, half = triplets(), CHANNELS // 2
    latents, drawn = seen.latents[:, :, 0, 0], []
    for user in range(USERS):
        own, other = slice(user * EACH, (user + 1) * EACH), (user + 1) % USERS * EACH
        both = instructions(learned.towers, seen.tokens[own], seen.tokens[[other]]).both
        drawn.append((both.mean(0) @ Obedient().map, latents[own].mean(0), latents[other]))
    made, history, reference = map(torch.stack, zip(*drawn, strict=True))  # (users, channels)
    style, meaning = (made - history)[:, :half].square().mean(), (made - reference)[:, half:].square().mean()
    assert style < 0.4 * (made - reference)[:, :half].square().mean()
    assert meaning < 0.4 * (made - history)[:, half:].square().mean()


def test_the_same_task_gives_the_same_towers_and_losses() -> None:
    one, two = train(task()), train(task())
    assert one.losses == two.losses and one.finished and len(one.losses) == RECIPE.steps
    state = two.towers.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.towers.state_dict().items())


def test_an_interrupt_keeps_the_state_of_the_last_whole_step() -> None:
    stopped = train(task(Obedient(breaks=8, raises=KeyboardInterrupt)))
    steps: list[Step] = []

    def stop(step: Step) -> None:
        steps.append(step)
        if step.step == 7:
            raise KeyboardInterrupt

    between = train(task(), stop)
    assert not stopped.finished and len(stopped.losses) == len(between.losses) == len(steps) == 7
    state = between.towers.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in stopped.towers.state_dict().items())


def test_an_interrupt_before_the_first_step_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt):
        train(task(Obedient(breaks=1, raises=KeyboardInterrupt)))


def test_nan_stops_with_a_sentence() -> None:
    with pytest.raises(ArithmeticError, match="NaN or infinity at step 5 of 60.*Lower the learning rate"):
        train(task(Obedient(breaks=5)))


def test_an_instruction_that_acts_nowhere_is_said() -> None:
    with pytest.raises(ValueError, match="acts at no site"):
        train(task(Obedient(deaf=True)))


def test_a_batch_pairs_each_anchor_with_another_picture_of_its_user() -> None:
    run, seen = TowersRun(task(batch_size=64, alone=0.2)), triplets()
    drawn = run.draw()
    assert (seen.users[drawn.anchor] == seen.users[drawn.style]).all() and (drawn.anchor != drawn.style).all()
    assert set(drawn.pair.tolist()) == set(range(len(PAIRS))) and set(drawn.alone.tolist()) == {0, 1, 2}
    assert (drawn.pair[drawn.alone > 0] == ASKING).all()


@pytest.mark.parametrize("pair", range(4))
def test_each_pair_asks_and_is_asked_as_the_paper_says(pair: int) -> None:
    """F_sty^a = StyleTower(q=E_a, kv=E_s), F_sty^s the reverse; the same of the semantics with E_m."""
    run, seen = TowersRun(task()), triplets()
    with torch.no_grad():
        for parameter in run.network.parameters():
            parameter += 0.1 * draw(*parameter.shape, seed=parameter.numel())
    own = torch.tensor([1]), torch.tensor([2]), torch.tensor([0])
    batch = Draw(*own, torch.tensor([pair]), torch.tensor([0]), torch.zeros(1), torch.zeros(1), ("",))
    a, s, m = seen.tokens[[1]], seen.tokens[[2]], seen.copies[[1], [0]]
    style = run.network.style(*((a, s) if PAIRS[pair].startswith("sty^a") else (s, a))).features
    semantics = run.network.semantics(*((a, m) if PAIRS[pair].endswith("sem^a") else (m, a))).features
    assert torch.allclose(run.instruction(batch), run.network.fusion(style, semantics), atol=1e-5)


def test_the_hidden_half_of_a_sample_has_no_say() -> None:
    run, seen = TowersRun(task()), triplets()
    with torch.no_grad():
        run.network.fusion.out.weight += draw(*run.network.fusion.out.weight.shape)
    one, three = torch.tensor([1]), torch.zeros(1)
    made = [
        run.instruction(Draw(one, one + 1, one - 1, one * 0, torch.tensor([alone]), three, three, ("",)))
        for alone in (1, 2)
    ]
    style = run.network.style(seen.tokens[[1]], seen.tokens[[2]]).features
    semantics = run.network.semantics(seen.tokens[[1]], seen.copies[[1], [0]]).features
    assert torch.allclose(made[0], run.network.fusion(style, semantics[:, :0]), atol=1e-5)
    assert torch.allclose(made[1], run.network.fusion(style[:, :0], semantics), atol=1e-5)
