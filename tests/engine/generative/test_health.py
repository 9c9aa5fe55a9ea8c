"""What goes wrong: each trouble from figures that show it, and none from figures that do not."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from engine.generative.health import MOST_NOISE, MOST_R1, Look, Trouble, Watch, as_set
from engine.generative.spec import Gan, Hinge, Minimax, Rates, WassersteinGP
from engine.task import check_live, live_fields

WELL = Look(share=0.5, reached=8, modes=8, diversity=1.0, moved=0.02)


def looks(
    spec: Gan,
    count: int,
    look: Callable[[int], Look] = lambda _: WELL,
    critic: Callable[[int], float] = lambda _: 1.3,
    slope: Callable[[int], float] = lambda _: 0.5,
    critic_slope: Callable[[int], float] = lambda _: 0.5,
    watch: Watch | None = None,
) -> list[list[Trouble]]:
    watch = watch or Watch()
    found = []
    for k in range(count):
        watch.hear(
            {
                "critic/loss": critic(k),
                "generator/gradient_norm": slope(k),
                "critic/gradient_norm": critic_slope(k),
            }
        )
        found.append(watch.look(spec, look(k)))
    return found


def kinds(found: list[list[Trouble]]) -> list[list[str]]:
    return [[trouble.kind for trouble in each] for each in found]


def test_a_run_that_is_well_has_none() -> None:
    assert kinds(looks(Gan(), 30)) == [[]] * 30


def test_a_collapse_is_said_after_three_looks_and_taken_back_after_three() -> None:
    def look(k: int) -> Look:
        return Look(share=0.5, reached=2 if k < 5 else 8, modes=8, diversity=0.9, moved=0.0)

    found = kinds(looks(Gan(), 10, look))
    assert found[:2] == [[], []]
    assert found[2:5] == [["collapse"]] * 3
    assert found[-1] == []
    (trouble,) = looks(Gan(), 3, look)[-1]
    assert "modes_reached=2, modes=8" in trouble.evidence


def test_images_that_are_all_alike_are_a_collapse() -> None:
    found = kinds(looks(Gan(), 4, lambda _: Look(share=0.5, diversity=0.1)))
    assert found[-1] == ["collapse"]


def test_nothing_is_a_collapse_at_the_beginning() -> None:
    found = kinds(looks(Gan(), 4, lambda _: Look(share=0.05, reached=1, modes=8, diversity=0.1)))
    assert found[-1] == []


def test_a_critic_that_has_won_leaves_no_gradient() -> None:
    def loss(k: int) -> float:
        return 1.3 if k < 4 else 0.01

    found = looks(Gan(loss=Minimax()), 10, critic=loss, slope=lambda k: 0.5 if k < 4 else 0.01)
    (trouble,) = found[-1]
    assert trouble.kind == "critic_wins"
    assert trouble.try_1 == "loss.kind=non_saturating"
    # A minimax generator that still has a gradient is not lost.
    assert kinds(looks(Gan(loss=Minimax()), 10, critic=loss))[-1] == []
    # A hinge loss has no level at which the critic has won.
    assert kinds(looks(Gan(loss=Hinge()), 10, critic=loss, slope=lambda k: 1e-3))[-1] == []


def test_samples_that_run_from_mode_to_mode_oscillate() -> None:
    found = kinds(looks(Gan(), 9, lambda _: Look(share=0.5, reached=8, modes=8, moved=0.7)))
    assert found[-1] == ["oscillation"]


@pytest.mark.parametrize("network", ["critic", "generator"])
def test_a_gradient_a_hundred_times_as_long_as_usual_explodes_at_once(network: str) -> None:
    def burst(k: int) -> float:
        return 200.0 if k == 8 else 0.5

    given = {"critic_slope": burst} if network == "critic" else {"slope": burst}
    found = looks(Gan(), 9, **given)  # type: ignore[arg-type]
    (trouble,) = found[-1]
    assert trouble.kind == "exploding"
    assert f"network={network}" in trouble.evidence
    assert trouble.try_1.startswith(f"{network}_lr=")


def test_a_single_long_gradient_is_no_explosion() -> None:
    watch = Watch()
    looks(Gan(), 8, watch=watch)
    for slope in (0.5, 200.0, 0.5):
        watch.hear({"generator/gradient_norm": slope, "critic/gradient_norm": 0.5})
    assert watch.look(Gan(), WELL) == []


def test_samples_that_have_left_the_picture_are_an_explosion_and_nothing_else() -> None:
    """Whatever else it looks like, and however early."""

    def away(k: int) -> Look:
        return Look(share=0.01 * (k + 1), reached=1, modes=8, diversity=5e7, moved=0.9, nearer=0.1)

    found = looks(Gan(), 40, away, critic=lambda _: 0.0, slope=lambda k: 8e15 / (k + 1))
    assert kinds(found) == [["exploding"]] * 40
    assert found[-1][0].evidence == "scattered=5e+07"
    nowhere = looks(Gan(), 1, lambda _: Look(share=0.5, diversity=float("nan")))
    assert kinds(nowhere) == [["exploding"]]


def test_samples_somewhat_further_apart_than_the_data_are_no_explosion() -> None:
    found = kinds(looks(Gan(), 9, lambda _: Look(share=0.05, reached=8, modes=8, diversity=4.0)))
    assert found == [[]] * 9


def test_what_an_explosion_leaves_is_said_when_it_is_over() -> None:
    def look(k: int) -> Look:
        return Look(share=0.5, reached=1, modes=8, diversity=50.0 if k < 5 else 0.1, moved=0.0)

    found = kinds(looks(Gan(), 12, look))
    assert found[:7] == [["exploding"]] * 7
    assert found[7:10] == [[]] * 3
    assert found[10:] == [["collapse"]] * 2


def test_a_trouble_stands_until_it_is_over() -> None:
    """One look without it is not its end."""

    def look(k: int) -> Look:
        return Look(share=0.5, reached=8 if k == 4 else 2, modes=8, moved=0.0)

    assert kinds(looks(Gan(), 8, look))[2:] == [["collapse"]] * 6


@pytest.mark.parametrize(
    ("generator", "critic"), [(100.0, 100.0), (1000.0, 5.0), (100.0, 1e-3), (1e-3, 100.0)]
)
def test_no_rate_that_is_proposed_is_absurd(generator: float, critic: float) -> None:
    present = {"generator_lr": generator, "critic_lr": critic}
    spec = Gan(rates=Rates(**present))
    well = Look(share=0.5, reached=1, modes=8, moved=0.7)
    troubles = [
        *looks(spec, 9, lambda _: well, critic=lambda _: 0.0)[-1],
        *looks(spec, 9, slope=lambda k: 200.0 if k == 8 else 0.5)[-1],
        *looks(spec, 1, lambda _: Look(share=0.5, diversity=1e9))[-1],
    ]
    assert len(troubles) == 5
    rates = [
        (name, float(value))
        for trouble in troubles
        for name, value in (way.split("=") for way in (trouble.try_1, trouble.try_2))
        if name in present
    ]
    assert rates
    for name, rate in rates:
        assert 0 < rate <= min(1e-2, present[name] / 4)
        check_live(spec, name, rate)
    collapse = next(each for each in troubles if each.kind == "collapse")
    assert collapse.try_1.partition("_lr")[0] in ("generator", "critic")


def test_samples_next_to_training_images_are_memorised() -> None:
    found = kinds(looks(Gan(), 1, lambda _: Look(share=0.9, nearer=0.2)))
    assert found == [["memorising"]]
    assert kinds(looks(Gan(), 1, lambda _: Look(share=0.9, nearer=0.9))) == [[]]


def test_a_look_that_measures_no_neighbours_says_nothing_of_them() -> None:
    """They are looked for at one look in ten."""
    found = kinds(looks(Gan(), 12, lambda k: Look(share=0.9, nearer=None if k % 10 else 0.2)))
    assert found == [["memorising"]] * 12


def test_images_may_take_longer_to_become_many() -> None:
    def narrow(share: float) -> list[list[str]]:
        return kinds(looks(Gan(), 8, lambda _: Look(share=share, diversity=0.25, moved=0.9)))

    assert narrow(0.2)[-1] == []
    assert narrow(0.4)[-1] == ["collapse"]
    assert set(narrow(0.6)[-1]) == {"collapse", "oscillation"}


def test_what_is_proposed_can_be_done() -> None:
    """A live value in its range, or a field of the spec."""
    spec = Gan(loss=Minimax())
    found = [
        *looks(spec, 9, lambda _: Look(share=0.5, reached=1, modes=8, moved=0.7, nearer=0.1))[-1],
        *looks(Gan(), 9, critic=lambda _: 0.01)[-1],
        *looks(Gan(), 9, slope=lambda k: 200.0 if k == 8 else 0.5)[-1],
    ]
    assert len({trouble.kind for trouble in found}) == 5
    for trouble in found:
        for way in (trouble.try_1, trouble.try_2):
            name, value = way.split("=")
            if name in live_fields(spec):
                check_live(spec, name, float(value))
            else:
                part, _, field = name.partition(".")
                assert field in type(getattr(spec, part)).model_fields


def test_what_is_proposed_stays_in_range_however_often_it_is_followed() -> None:
    spec = Gan(loss=Minimax())
    for _ in range(20):
        for trouble in looks(
            spec, 9, lambda _: Look(share=0.5, reached=1, modes=8, moved=0.7, nearer=0.1)
        )[-1]:
            for way in (trouble.try_1, trouble.try_2):
                name, value = way.split("=")
                if name in live_fields(spec):
                    check_live(spec, name, float(value))
                    spec = as_set(spec, {name: float(value)})
    assert spec.steadying.instance_noise == MOST_NOISE
    assert spec.steadying.r1 == MOST_R1


def test_what_was_set_takes_the_place_of_what_was_asked_for() -> None:
    spec = as_set(Gan(loss=WassersteinGP()), {"r1": 2.0, "critic_steps": 3.0, "seeds": 9.0})
    assert spec.steadying.r1 == 2.0
    assert spec.critic_steps == 3
    assert isinstance(spec.critic_steps, int)
    assert spec.seeds == 1  # cannot be changed on the way
    assert as_set(spec, {}) == spec


def test_what_is_remembered_goes_through_json() -> None:
    watch = Watch()
    looks(Gan(), 7, lambda _: Look(share=0.5, reached=1, modes=8, moved=0.7), watch=watch)
    again = Watch(**json.loads(json.dumps(watch.state())))
    look = Look(share=0.6, reached=1, modes=8, moved=0.7)
    assert again.look(Gan(), look) == watch.look(Gan(), look)
