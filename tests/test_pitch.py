"""CREPE on synthetic tones: what is heard is what was made, and the network is the published one's arithmetic."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.cases import trained_looking
from wfbench import Dataset, Network, Unlabeled, fisher_rows
from wfbench.published.pitch import (
    CENTS,
    CHANNELS,
    EACH,
    LENGTH,
    PITCHES,
    RATE,
    TASKS,
    WEIGHTS,
    Crepe,
    Tones,
    dense,
    tones,
)
from wfbench.tasks.evaluate import evaluate


def test_a_tone_without_noise_has_its_pitch() -> None:
    """The autocorrelation of the longest part that holds two periods is largest at the period that the label names."""
    x, labels = Tones(harmonics=4, detuned=0.0, noise=(-80.0, -80.0)).draw(200, 5)
    assert x.shape == (200, LENGTH)
    torch.testing.assert_close(x.mean(1), torch.zeros(200), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std(1, correction=0), torch.ones(200), rtol=0, atol=1e-5)
    hertz = 10 * 2 ** ((CENTS + 20 * (EACH * labels.double() + 2)) / 1200)
    low = (hertz < 500) & (hertz > 100)
    assert low.sum() > 30
    for wave, pitch in zip(x[low].double().numpy(), hertz[low].tolist(), strict=True):
        lags = np.arange(int(0.7 * RATE / pitch), int(1.4 * RATE / pitch) + 1)
        alike = [np.corrcoef(wave[:-lag], wave[lag:])[0, 1] for lag in lags]
        assert abs(lags[int(np.argmax(alike))] - RATE / pitch) <= 1


def test_draws_are_of_their_own_and_the_same_again() -> None:
    x, labels = tones("validation")
    again = Tones().draw(len(x), 1)
    assert torch.equal(again[0], x)
    assert torch.equal(again[1], labels)
    assert not torch.equal(tones("test")[0][0], x[0])
    assert set(tones("test")[1].tolist()) == set(range(PITCHES // EACH))


@pytest.fixture(scope="module")
def small() -> Crepe:
    network = trained_looking(lambda: Crepe((4, 3, 3, 3, 3, 2))).float()
    assert isinstance(network, Crepe)
    return network


def test_logits_are_those_of_the_published_forward_pass_pooled(small: Crepe) -> None:
    x = torch.randn(3, LENGTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = small(x)
        y = x[:, None, :, None]
        for at in range(1, 7):
            y = functional.pad(y, (0, 0, 254, 254) if at == 1 else (0, 0, 31, 32))
            y = functional.relu(getattr(small, f"conv{at}")(y))
            y = functional.max_pool2d(getattr(small, f"conv{at}_BN")(y), (2, 1), (2, 1))
        pitches = small.classifier(y.permute(0, 2, 1, 3).reshape(-1, small.classifier.in_features))
    assert found.shape == (3, PITCHES // EACH)
    for row, wanted in zip(found, pitches, strict=True):
        assert row.tolist() == [float(wanted[at : at + EACH].max()) for at in range(0, PITCHES, EACH)]
    rows = fisher_rows(Network(small), Unlabeled(x), "sampled")
    assert torch.isfinite(rows).all()
    assert (rows != 0).any(1).all()


def test_tiny_crepe_hears_what_is_registered() -> None:
    if not WEIGHTS.path.exists():
        pytest.skip("`wfbench fetch tones-crepe-tiny` was not run")
    assert sum(parameter.numel() for parameter in dense("tiny").parameters()) == 486_552
    assert CHANNELS["tiny"][-1] * 4 == 256
    TASKS[0].check_registered(0, evaluate(dense("tiny"), Dataset(tones("test"))))
