"""What a step keeps, counted without keeping it, against what can be worked out by hand."""

import torch
from concept_loom.personalization.footprint import WORKING, Footprint, footprint
from torch import nn

ROWS, WIDTH = 5, 7
ONE = ROWS * WIDTH * 4  # bytes of one activation


class Block(nn.Module):
    """Keeps the outputs of its two nonlinearities; of a frozen linear layer only the weight is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.two(torch.sigmoid(self.one(x))))


def counted(blocks: int) -> Footprint:
    network = nn.Sequential(*(Block() for _ in range(blocks))).requires_grad_(False)
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    return footprint(lambda: network(x).exp(), network.parameters(), list(network))


def test_every_kept_tensor_counts_once_and_weights_do_not() -> None:
    found = counted(3)
    assert (found.plain, found.largest) == (3 * 2 * ONE + ONE, ONE)


def test_recomputed_blocks_keep_their_inputs_and_one_of_them_what_is_inside() -> None:
    assert counted(3).recomputed == 3 * ONE + 2 * ONE + ONE


def test_a_step_takes_so_much_per_picture() -> None:
    found = Footprint(100, 10, 1)
    assert found.of(3, checkpoint=False) == 3 * (100 + WORKING)
    assert found.of(3, checkpoint=True) == 3 * (10 + WORKING)


def test_nothing_is_kept_while_it_is_counted() -> None:
    weight = torch.randn(WIDTH, WIDTH)
    alive: list[torch.Tensor] = []

    def work() -> None:
        x = torch.randn(ROWS, WIDTH, requires_grad=True)
        out = torch.sigmoid(x @ weight)
        alive.append(out)

    footprint(work, [weight], [])
    with torch.no_grad():
        assert alive[0].grad_fn is not None
    try:
        alive[0].sum().backward()
    except RuntimeError as error:
        assert "only counted" in str(error)
    else:
        raise AssertionError("its backward pass ran")
