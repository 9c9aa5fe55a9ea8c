"""Differential privacy for whole clients, at a server that is trusted.

Each client is drawn by its own coin (`sample_rate`), its update is clipped as a whole, and noise is
added to the *sum*, which is divided by how many clients were *expected*. So one client more or less
moves the sum by one clipping norm at most, whoever else was drawn, dropped out or was rejected, and
however many images it has. Neighbouring federations differ in one client, added or removed.

(Flower's wrappers are not used. They let the inner strategy weight the clients by their images, and
divide by those that answered, while the noise is made for an equal share of those that were to
answer: their mean moves by more than the noise covers. Their adaptive norm counts the clipped where
Andrew et al. count the unclipped, and so runs away from its quantile; and one client changes their
count by 1, where the noise of theorem 1 is made for 1/2.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from engine.bench import Bench
from engine.errors import BadInput
from engine.events import Event, Note, Table
from engine.federated.spec import ClientPrivacy, Federate
from engine.models import weights_sha256
from engine.privacy.accounting import curve, split_noise, steps_within, total
from engine.privacy.canaries import DiracCanaries, Promise
from engine.privacy.ledger import Charge, Ledger, Source
from engine.privacy.noise import Draws, SeededDraws, SystemDraws
from engine.privacy.planning import Plan, budget
from engine.store.checkpoints import under
from engine.task import Summary

Update = dict[str, Tensor]

LEDGER = "privacy.jsonl"
"""In the run's folder."""

POINTS = 100
"""Rounds of a run of which epsilon is said beforehand."""

LEAST_NORM, LARGEST_NORM = 1e-6, 1e6
"""Between which an adaptive clipping norm stays."""


class Exhausted(BadInput):
    """Nothing is left to spend on the next round."""

    def __init__(self, target: float, number: int) -> None:
        super().__init__(
            f"the target epsilon of {target:g} is used up: rounds that were played before the run "
            "was cut short count, and this time they went otherwise, which is a second release of "
            f"them. The run ends before round {number}"
        )


class ClientNoise:
    """What happens to the updates of a round, and what it costs. A charge is in the ledger before
    its noise is drawn.

    `clip` is the norm that updates are clipped to; where it adapts it changes with the rounds.
    `rounds` is after how many the budget is spent, or the run over.
    """

    def __init__(self, spec: Federate, bench: Bench, salt: str = "", parameters: int = 0) -> None:
        """`salt` differs with anything that is asked for or learnt from (`SeededDraws`).
        `parameters` is how many numbers an update has.

        Raises BadInput for a target that cannot be met, for a ledger that is none, and for more
        canaries than parameters."""
        assert spec.privacy is not None
        self.spec: ClientPrivacy = spec.privacy
        self.clients = spec.clients
        self.rate = spec.fraction
        self.expected = self.rate * spec.clients
        self.planned = spec.rounds
        plan = client_plan(self.spec, self.rate, self.planned)
        self.noise = plan.noise
        self._bench, self._line, self._allowed = bench, bench.lineage(salt), plan.allowed
        resume = bench.resume
        self.fresh = resume is None
        self._done = resume.step if resume is not None else 0
        """Rounds that are over."""
        self._start = ""
        self._left: tuple[tuple[Charge, ...], int] = ((), plan.allowed or 0)
        self.ledger = Ledger(
            bench.folder / LEDGER,
            fresh=resume is None,
            step=self._done,
            secure=self.spec.secure,
            source=self._source(),
        )
        if self.rounds < 1:
            raise BadInput(
                f"the target epsilon of {self.spec.epsilon or 0:g} is used up: it allows "
                f"{plan.allowed} rounds, and the run was cut short after {self.ledger.steps()}, "
                "which count although their result is lost. Start a new run"
            )
        self.random: Draws = (
            SystemDraws(torch.device("cpu")) if self.spec.secure else _Seeded(bench, self._line)
        )
        self.clip = self.spec.max_update_norm
        self.sum_noise, self.count_noise = self.noise, 0.0
        if self.spec.adaptive is not None:
            self.count_noise = self.spec.adaptive.count_noise * self.expected
            self.sum_noise = split_noise(self.noise, self.count_noise)
        self.canaries: DiracCanaries | None = None
        self._drawn = torch.zeros(0, dtype=torch.int64)
        if self.spec.canaries:
            self.canaries = DiracCanaries(
                "update", self.spec.canaries, parameters, bench, self.random
            )

    # --- the budget -------------------------------------------------------------------------------

    @property
    def rounds(self) -> int:
        """After how many the run ends, those before it was resumed among them."""
        if self._allowed is None:
            return self.planned
        assert self.spec.epsilon is not None
        wasted = self._wasted(self._done)
        if wasted != self._left[0]:
            left = steps_within(
                self.spec.epsilon, self.noise, self.rate, self.spec.delta, before=wasted
            )
            self._left = (wasted, left)
        return min(self.planned, max(self._done, self._left[1]))

    def _charge(self, rounds: int = 1) -> Charge:
        return Charge(self.noise, self.rate, rounds)

    def _source(self, number: int = 0) -> str:
        """What decides a round bit for bit, as far as it is known before the run goes on."""
        return " ".join([self._line, *self._bench.history(number)])

    def _wasted(self, rounds: int) -> tuple[Charge, ...]:
        """What was spent and leads nowhere where so many rounds are over."""
        changes = sorted({change.step for change in self._bench.changes if change.step > 0})
        sources = [(1, self._source()), *((each, self._source(each)) for each in changes)]
        again = self.ledger.repeated(self._charge(), rounds, sources)
        louder = (c for c in self.ledger.charged() if c.noise_multiplier != self.noise)
        return (*([self._charge(again)] if again else []), *louder)

    def _reserve(self, number: int, clients: Sequence[int]) -> str:
        """Charge a round; gives what tells its noise from any other's.

        A round that is taken again, after the run was cut short, may have another sum, as others
        answered, or as the model is another one. It is another release then, and needs other
        noise, or the two would tell the difference. From another model other clients are drawn for
        it, too. From the same one the same are drawn, so that k releases are like one with noise
        smaller by the root of k; the k-th is charged as that.

        A round by itself: beside one the disk is quick, and what a run that is killed has reserved
        ahead is lost where it cannot be drawn again."""
        source = Source(self._source(number), self._start, f"clients {sorted(clients)}")
        others = self.ledger.others(number, source)
        charge = Charge(self.noise / math.sqrt(1 + others), self.rate)
        self._afford(charge, number, source)
        self.ledger.reserve(charge, number, last=number, source=source)
        self._done = number
        return f"{source.start} {source.outcome}"

    def _afford(self, charge: Charge, number: int, source: Source) -> None:
        """Raises Exhausted where a round would exceed the target."""
        target, charges = self.spec.epsilon, self.ledger.charged_with(charge, number, source)
        if target is None or total(charges, self.spec.delta) <= target:
            return
        raise Exhausted(target, number)

    def begin(self) -> Iterator[Event]:
        """What is to be said before the first round."""
        spec = self.spec
        ahead = curve(self.noise, self.rate, self.rounds, spec.delta, points=POINTS)
        rows = tuple(zip(ahead.steps, ahead.pld, ahead.rdp, strict=True))
        yield Table("budget", ("step", "epsilon", "epsilon_rdp"), rows)
        if not self.fresh:
            return
        yield Note(
            "info",
            f"noise multiplier {self.noise:.4g}, each client in a round with probability "
            f"{self.rate:.4g}, {self.rounds} rounds: epsilon {ahead.pld[-1]:.3f} at delta "
            f"{spec.delta:g}, of every client. It covers the global models and the epsilon. What "
            "is shown of single clients is not covered: it stays in this workspace.",
        )
        if self.rounds < self.planned:
            yield Note(
                "info", f"the target is reached after {self.rounds} of {self.planned} rounds"
            )
        if spec.delta >= 1 / self.clients:
            yield Note(
                "warning",
                f"delta {spec.delta:g} is not below 1 / {self.clients} clients: the promise holds "
                "even for a mechanism that publishes all of one of them",
            )
        if not spec.secure:
            yield Note(
                "info",
                "the drawing of clients and the noise come from the seed, to be repeatable: "
                "whoever knows or guesses it can take the noise off. Set privacy.secure for a "
                "model that leaves the house.",
            )

    def spent(self) -> float:
        """Epsilon by the ledger: of all rounds that were played, also those that were lost."""
        return total(self.ledger.charged(), self.spec.delta)

    def settle(self, rounds: int) -> None:
        """The run ends or rests after so many rounds."""
        self.ledger.settle(rounds)
        if self.canaries is not None:
            promise = Promise(
                self.noise,
                self.sum_noise,
                self.spec.max_update_norm,
                self.rate,
                rounds,
                self.spec.delta,
            )
            self.canaries.save(self._bench.folder, promise)

    def summary(self) -> Summary:
        """What was spent, by the ledger."""
        charges, delta = self.ledger.charged(), self.spec.delta
        return {
            "epsilon": self.spent(),
            "epsilon_rdp": total(charges, delta, "rdp"),
            "delta": delta,
            "noise_multiplier": self.noise,
            "noise_source": self.random.source,
        }

    def tensors(self) -> Update:
        """What the next round depends on."""
        kept = {"clip": torch.tensor(self.clip, dtype=torch.float64)}
        if self.canaries is not None:
            kept |= {f"canaries.{name}": t for name, t in self.canaries.tensors().items()}
        return kept

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        self.clip = float(tensors["clip"])
        if self.canaries is not None:
            self.canaries.restore(under(tensors, "canaries."))

    # --- a round ----------------------------------------------------------------------------------

    def picked(self, number: int, model: Mapping[str, Tensor] | None = None) -> list[int]:
        """The clients of a round that starts from `model`, each by its own coin. Raises Exhausted
        for one that is not paid for, and cannot be."""
        self._start = weights_sha256(model)[:32] if model else ""
        source = Source(self._source(number), self._start)
        if not self.ledger.others(number, source):  # it has not been played from this model
            self._afford(self._charge(), number, source)
        purpose = f"sampling from {self._start}"
        members = self.clients + self.spec.canaries  # which are drawn as clients are
        found = self.random.chosen(number, members, self.rate, purpose)
        self._drawn = found[found >= self.clients] - self.clients
        return [int(client) for client in found[found < self.clients]]

    def mean(
        self,
        updates: Sequence[Update],
        like: Mapping[str, Tensor],
        number: int,
        clients: Sequence[int] = (),
    ) -> tuple[Update, list[bool]]:
        """The noisy mean of a round's updates, which may be none, and which of them were clipped.

        `like` are tensors of an update's names and shapes; `number` is of the round, and `clients`
        whose updates they are. Raises StorageError where the charge cannot be written down, and
        Exhausted where a round that is taken again would exceed the target.
        """
        norms = [norm_of(update) for update in updates]
        sums = {name: torch.zeros_like(tensor) for name, tensor in like.items()}
        shares = self._share(torch.tensor(norms, dtype=torch.float64)).tolist()
        for update, left in zip(updates, shares, strict=True):
            for name, tensor in sums.items():
                # In double precision: single has no share as small as the largest update needs.
                tensor.add_(update[name].double().mul_(left))
        whose = self._reserve(number, clients)
        mean = self._noised(sums, number, whose)
        clipped = [norm > self.clip for norm in norms]
        if self.spec.adaptive is not None:
            self._follow(clipped, number, whose)
        return mean, clipped

    def mean_of(self, total: Update, number: int, clients: Sequence[int] = ()) -> Update:
        """The noisy mean where only the `total` of the updates is known, which clients have clipped
        themselves, to a norm that stays as it is. Raises as `mean`."""
        assert self.spec.adaptive is None  # how many were clipped is told without noise enough
        return self._noised(total, number, self._reserve(number, clients))

    def _share(self, norms: Tensor) -> Tensor:
        """How much clipping leaves of updates, by their lengths."""
        return (self.clip / norms).clamp_max(1.0)

    def _noised(self, sums: Update, number: int, whose: str) -> Update:
        """The noisy mean, from the sum of what is clipped, and the canaries' part in it."""
        flat = torch.cat([tensor.flatten() for tensor in sums.values()])
        if self.canaries is not None:
            self.canaries.put_in(flat, self.clip, self._drawn, self._share)
        flat.add_(self.random.normal(whose, number, len(flat)), alpha=self.sum_noise * self.clip)
        if self.canaries is not None:
            self.canaries.look(flat, self.clip)
        parts = flat.div_(self.expected).split([tensor.numel() for tensor in sums.values()])
        return {
            name: part.view(tensor.shape)
            for (name, tensor), part in zip(sums.items(), parts, strict=True)
        }

    def _follow(self, clipped: Sequence[bool], number: int, whose: str) -> None:
        """The clipping norm of the next round (Andrew et al. 2021, algorithm 1): what is counted
        are halves, up or down, so that one client changes the count by no more than one half."""
        assert self.spec.adaptive is not None
        halves = sum(-0.5 if each else 0.5 for each in clipped)
        halves += float(self.random.normal(f"count of {whose}", number, 1)) * self.count_noise
        below = 0.5 + halves / self.expected
        change = math.exp(-self.spec.adaptive.lr * (below - self.spec.adaptive.quantile))
        self.clip = min(LARGEST_NORM, max(LEAST_NORM, self.clip * change))


def client_plan(spec: ClientPrivacy, fraction: float, rounds: int) -> Plan:
    """What a federated training would cost, before it starts. Raises BadInput for a target epsilon
    that cannot be met."""
    found = budget(spec, fraction, rounds)
    if found.within < 1:
        raise BadInput(
            f"a target epsilon of {spec.epsilon:g} is exceeded by a single round with noise "
            f"multiplier {found.noise:g} at a fraction of {fraction:.4g}; take more noise, a "
            "smaller fraction, or a larger target"
        )
    return found


class _Seeded(SeededDraws):
    """Updates are on the CPU, wherever the clients train."""

    def normal(self, purpose: str, step: int, count: int) -> Tensor:
        changed = self._bench.history(step)
        generator = self._bench.generator("privacy", self._salt, *changed, purpose, step)
        return torch.randn(count, generator=generator)


def norm_of(update: Mapping[str, Tensor]) -> float:
    """The length of a whole update."""
    return math.sqrt(sum(float(t.double().square().sum()) for t in update.values()))
