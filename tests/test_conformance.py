"""The conformance suite: ours conforms, and each check catches the mistake that it stands for."""

import math

import pytest
import torch

from ezo import ElasticZO, conformance
from ezo.noise import NOISES

CHECKS = [
    "sign", "scale", "independence", "same_noise", "symmetric", "replay", "global_state", "drift",
    "gradient",
]  # fmt: skip


ALONE = {  # a mistake that this check catches, with one other at most
    "scale": "half eps", "independence": "one seed for all", "same_noise": "lags",
    "symmetric": "one-sided", "replay": "ignores the seed", "global_state": "seeds torch",
    "drift": "drifts", "gradient": "mean is not 0",
}  # fmt: skip


def ours(noise):
    def make_step(model, lr, eps, seed):
        return ElasticZO(model, bp=0, lr=lr, eps=eps, seed=seed, noise=noise).step

    return make_step


@pytest.mark.parametrize("noise", NOISES)
def test_elastic_zo_conforms(noise):
    conformance.assert_conforms(ours(noise), drift_steps=100)


def test_elastic_zo_does_not_drift_in_ten_thousand_steps():
    found = conformance.drift(ours("gaussian"), steps=10_000)
    assert found.passed, found
    assert 0 < found.measured <= 2.0**-23 == found.bound


def plain(change=None):
    """A zeroth-order step, written out, with one mistake.

    It keeps a copy of theta, so that nothing drifts by itself, and its noise comes from generators
    of its own, one for each step and tensor.
    """

    def make_step(model, lr, eps, seed):
        parameters = list(model.parameters())
        count = 0
        if change == "seeds torch":
            torch.manual_seed(seed)

        def noise(step):
            if change == "every step alike":
                step = 0
            if change == "ignores the seed":
                places = [10_000 * step + t for t in range(len(parameters))]
            elif change == "one seed for all":
                places = [seed * 10**8 + 10_000 * step] * len(parameters)
            else:
                places = [seed * 10**8 + 10_000 * step + t for t in range(len(parameters))]
            generators = [torch.Generator().manual_seed(place) for place in places]
            if change == "seeds torch":
                torch.manual_seed(places[0])
            if change in ("draws from torch", "seeds torch"):
                generators = [None] * len(parameters)
            shift = 0.3 if change == "mean is not 0" else 0.0
            sizes = torch.arange(1.0, len(parameters) + 1) if change == "uneven" else None
            return [
                (torch.randn(p.shape, generator=g) + shift) * (1 if sizes is None else sizes[t])
                for t, (p, g) in enumerate(zip(parameters, generators, strict=True))
            ]

        @torch.no_grad()
        def step(closure):
            nonlocal count
            theta, z = [p.clone() for p in parameters], noise(count)

            def loss_at(times):
                for p, t, n in zip(parameters, theta, z, strict=True):
                    p.copy_(t + times * eps * n)
                return float(closure())

            plus = loss_at(1.0)
            minus = loss_at(0.0 if change == "one-sided" else -1.0)
            g = (plus - minus) / (eps if change in ("half eps", "one-sided") else 2 * eps)
            g *= {"uphill": -1.0, "forgets eps": 2 * eps, "squares lr": lr, "zero": 0.0}.get(
                change, 1
            )
            if change == "other noise":
                z = noise(count + 5000)
            for i, (p, t, n) in enumerate(zip(parameters, theta, z, strict=True)):
                p.copy_(t - lr * g * n)
                if change == "lags" and i == 0:
                    p.copy_(t + 0.25 * lr * g * n)
                if change == "drifts":
                    p.add_(eps * n).sub_(2 * eps * n).add_(eps * n)
                if change == "nan":
                    p.fill_(math.nan)
            count += 1

        return step

    return make_step


def failed(make_step, checks):
    findings = [getattr(conformance, check)(make_step) for check in checks if check != "drift"]
    findings += [conformance.drift(make_step, steps=100)]
    return {f.check for f in findings if not f.passed}


def test_a_correct_step_written_out_conforms():
    findings = conformance.run(plain(), drift_steps=100)
    assert [f.check for f in findings] == CHECKS
    assert all(f.passed for f in findings), "\n".join(map(str, findings))


@pytest.mark.parametrize(("change", "caught"), [
    ("uphill", {"sign", "same_noise", "gradient"}),
    ("zero", {"sign", "scale", "independence", "same_noise", "replay"}),
    ("half eps", {"scale", "same_noise"}),
    ("forgets eps", {"scale", "same_noise"}),
    ("squares lr", {"scale", "same_noise"}),
    ("one seed for all", {"independence"}),
    ("every step alike", {"independence", "gradient"}),
    ("other noise", {"same_noise", "gradient"}),
    ("one-sided", {"symmetric", "same_noise"}),
    ("draws from torch", {"replay", "global_state"}),
    ("seeds torch", {"global_state"}),
    ("ignores the seed", {"replay"}),
    ("drifts", {"drift"}),
    ("mean is not 0", {"gradient"}),
    ("uneven", {"gradient"}),
    ("lags", {"same_noise"}),
    ("nan", {"sign", "independence", "same_noise", "drift"}),
])  # fmt: skip
def test_a_mistake_is_caught(change, caught):
    slow = {"scale", "gradient"}
    found = failed(plain(change), [c for c in CHECKS if c in caught or c not in slow])
    assert caught <= found
    if change in ALONE.values():
        assert len(found) <= 2
    if change != "nan":
        blind = {"replay", "global_state"}  # these see only where the noise comes from
        assert found & blind == caught & blind


def test_the_error_lists_the_failures_and_no_others():
    with pytest.raises(AssertionError, match="does not conform") as caught:
        conformance.assert_conforms(plain("half eps"), drift_steps=10)
    lines = str(caught.value).splitlines()[1:]
    assert sorted(line.split(":")[0] for line in lines) == ["same_noise", "scale"]
    assert "2 expected" not in lines[0] and "FAILED" in lines[0]


def test_a_step_that_evaluates_elsewhere_fails_by_name():
    def make_step(model, lr, eps, seed):
        return lambda closure: closure()

    for check in (conformance.same_noise, conformance.symmetric):
        finding = check(make_step)
        assert not finding.passed and "0 points other than theta; 2 expected" in finding.detail


def test_findings_repeat_and_leave_torchs_generator():
    before = torch.get_rng_state()
    for check in (conformance.sign, conformance.same_noise, conformance.replay):
        for change in ("draws from torch", None):
            found = check(plain(change))
            if change is None or check is conformance.replay:  # replay forks the generator itself
                assert torch.equal(before, torch.get_rng_state())
            torch.set_rng_state(before)
            assert str(found) == str(check(plain(change)))
            torch.set_rng_state(before)


def test_an_evaluation_at_theta_more_does_not_matter():
    def make_step(model, lr, eps, seed):
        step = plain()(model, lr, eps, seed)

        def with_loss(closure):
            closure()
            step(closure)

        return with_loss

    assert conformance.same_noise(make_step).passed and conformance.symmetric(make_step).passed
