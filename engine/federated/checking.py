"""What a look at a federation's spec tells that cannot be done, without torch."""

from __future__ import annotations

import math

from engine.errors import BadInput
from engine.federated.spec import (
    Adaptive,
    Bulyan,
    Byzantine,
    FedAvg,
    FedBN,
    Federate,
    FedProx,
    Krum,
    Local,
    MultiKrum,
    Scaffold,
    TrimmedMean,
)
from engine.task import references
from engine.training.spec import SGD


def check(spec: Federate) -> None:
    """Raises BadInput where the parts of `spec` do not go together."""
    _check_strategy(spec)
    if spec.bench.compile:
        raise BadInput(
            "bench.compile is not for a federation: many short trainings do not pay for compiling"
        )
    if spec.adversarial is not None:
        for name in ("watch", "awp"):
            if getattr(spec.adversarial, name) is not None:
                raise BadInput(
                    f"adversarial.{name} looks at one training as a whole; a federation has many. "
                    "Leave it out."
                )
        for path, ref in references(spec.adversarial).items():
            raise BadInput(
                f"adversarial.{path}: clients do not have {ref!r}, which the attack is made of. "
                'Train against one that needs nothing, as attack = {kind = "pgd"}.'
            )
    if spec.capture is not None and (late := [r for r in spec.capture.rounds if r > spec.rounds]):
        raise BadInput(f"capture.rounds: there is no round {late[0]}; expected 1 to {spec.rounds}")
    _check_secure(spec)
    if not isinstance(spec.grid, Local):
        check_away(spec)
    if spec.drop_out == 1.0:
        raise BadInput("drop_out = 1 leaves no client to answer; set it below 1")


def check_away(spec: Federate) -> None:
    """What only a federation in this process can do. Raises BadInput."""
    if spec.privacy is not None and not spec.privacy.secure:
        raise BadInput(
            "off the local grid an interrupted run starts anew: from the seed the same noise would "
            "be drawn a second time, on other sums, and could be taken off. Set privacy.secure = "
            'true, or take grid = {kind = "local"}'
        )


def _check_secure(spec: Federate) -> None:
    """What needs to see single updates does not go with what hides them."""
    if spec.secure_aggregation is None:
        return
    strategy = spec.strategy
    if not isinstance(strategy, FedAvg | FedProx | FedBN | Adaptive):
        raise BadInput(
            f"{strategy.kind} needs to see single updates"
            + (" and what comes with them" if isinstance(strategy, Scaffold) else "")
            + ", which secure aggregation hides. Take fedavg, fedprox, fedbn or an adaptive one, "
            "or leave secure_aggregation out."
        )
    if spec.compression is not None:
        raise BadInput(
            f"masks are as long as the whole update: {spec.compression.kind} saves nothing under "
            "secure aggregation. Leave one of them out."
        )
    if spec.capture is not None:
        raise BadInput(
            "capture keeps what single clients sent, which secure aggregation hides from the "
            "server. Leave one of them out."
        )
    if spec.privacy is not None and spec.fraction < 1.0:
        raise BadInput(
            "with secure aggregation a round of too few clients comes to nothing, which would show "
            "who was drawn: the accountant does not cover that. Set fraction = 1."
        )
    if spec.privacy is not None and spec.privacy.adaptive is not None:
        raise BadInput(
            "under secure aggregation a client of which nothing comes counts as one that was not "
            "clipped, so that a client moves the count that adaptive clipping follows by more than "
            "its noise is made for. Leave privacy.adaptive or secure_aggregation out."
        )
    if expected(spec) < 2:
        raise BadInput(
            "the sum of a single update hides nothing: secure aggregation needs at least 2 clients "
            "in a round. Take more clients, or a larger fraction."
        )


def expected(spec: Federate) -> int:
    """How many clients a round takes, if none drops out."""
    return max(1, round(spec.fraction * spec.clients))


def least(spec: Federate) -> int:
    """How many updates the strategy needs in a round to keep what it promises."""
    match spec.strategy:
        case Bulyan(hostile=f):
            return 4 * f + 3
        case Krum(hostile=f) | MultiKrum(hostile=f):
            return 2 * f + 3
        case TrimmedMean(beta=beta) if beta:  # of fewer it cuts nothing off, which is FedAvg
            least = math.floor(1 / beta)
            return least if int(beta * least) else least + 1
    return 1


def _check_strategy(spec: Federate) -> None:
    strategy, there = spec.strategy, expected(spec)
    if isinstance(strategy, Byzantine) and there < least(spec):
        kind, f = strategy.kind, strategy.hostile
        most = (there - 3) // (4 if isinstance(strategy, Bulyan) else 2)
        advice = f"Set strategy.hostile to {most}" if most >= 0 else "Take another strategy"
        raise BadInput(
            f"{kind} withstands {f} hostile clients among at least {least(spec)} in a round; here "
            f"there are {there}. {advice}, or take more clients."
        )
    if isinstance(strategy, MultiKrum) and strategy.keep > there - strategy.hostile - 2:
        raise BadInput(
            f"multikrum may keep {there - strategy.hostile - 2} of {there} updates with "
            f"{strategy.hostile} hostile ones; lower strategy.keep"
        )
    if isinstance(strategy, TrimmedMean) and there < least(spec):
        raise BadInput(
            f"trimmed_mean with beta {strategy.beta:g} cuts nothing off {there} updates; set "
            f"strategy.beta to at least {math.ceil(100 / there) / 100:g}, or take fedavg"
        )
    if isinstance(strategy, Scaffold) and (
        not isinstance(spec.optimizer, SGD)
        or spec.optimizer.momentum
        or spec.optimizer.weight_decay
    ):
        raise BadInput(
            "scaffold's control variates are gradients, which it reads off plain steps; set "
            'optimizer = {kind = "sgd", momentum = 0.0} without weight decay'
        )
    means = FedAvg | FedProx | FedBN | Adaptive
    if spec.privacy is not None and not isinstance(strategy, means):
        raise BadInput(
            f"privacy of clients is proved for noisy means; {strategy.kind} is none, or sends "
            "more. Take fedavg, fedprox or an adaptive one."
        )
