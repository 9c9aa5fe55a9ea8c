"""Secure aggregation as SecAgg+ has it (Bell et al. 2020, algorithm 2), over Flower's primitives.

A round has four messages for each client. *keys*: it makes two key pairs, and sends the public
ones. *shares*: it draws a seed, cuts the seed and its first secret key into shares, any `threshold`
of which give them back, and sends each neighbour one, encrypted. *train*: it sends its update under
a mask of its seed and one of every neighbour that is still there; those of two neighbours cancel
out. *unmask*: it hands the server, of each neighbour, either the share of its seed (it has sent its
update) or that of its secret key (it has not, and its masks are to be taken off): never both.

(Flower's own is for its legacy workflows only. Its masks come from 2**32 seeds, and its clients
hand out both shares of a neighbour when asked.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import BadInput
from engine.federated.facts import is_finite
from engine.federated.flower import arrays_in
from engine.federated.masking import (
    TOTALS,
    Scale,
    Sum,
    clipped,
    counted_totals,
    real_totals,
)
from engine.federated.spec import SecureAggregation
from engine.random import derive

# isort: split
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    decrypt,
    encrypt,
    generate_shared_key,
)
from flwr.common.secure_aggregation.secaggplus_utils import (
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

Update = dict[str, Tensor]

SECURE = "secure"
"""Under which messages, and a client's state, hold what belongs to it."""
MASKED = "masked"
"""Under which an answer holds its masked numbers."""
LEAST = 2
"""Clients whose sum hides each of them, at least."""


# --- a client -------------------------------------------------------------------------------------


def keys(record: ConfigRecord, state: RecordDict) -> ConfigRecord:
    """A client's public keys for a round. What it knew of another round is forgotten."""
    asked: dict[str, Any] = dict(record)
    (sk1, pk1), (sk2, pk2) = generate_key_pairs(), generate_key_pairs()
    public = {"pk1": public_key_to_bytes(pk1), "pk2": public_key_to_bytes(pk2)}
    secret = {"sk1": private_key_to_bytes(sk1), "sk2": private_key_to_bytes(sk2)}
    state[SECURE] = ConfigRecord(
        {"stage": "keys", "round": asked["round"], "client": asked["client"], **public, **secret}
    )
    return ConfigRecord(dict(public))


def shares(record: ConfigRecord, state: RecordDict) -> ConfigRecord:
    """Shares of a client's secrets, encrypted for its neighbours. Raises BadInput where what the
    server asks for would give it away."""
    asked: dict[str, Any] = dict(record)
    mine = _state(asked, state, "keys")
    me, there = int(mine["client"]), _ints(asked, "clients")
    pk1s, pk2s = asked["pk1"], asked["pk2"]
    threshold = int(asked["threshold"])
    if len(there) < LEAST or not len(there) < 2 * threshold <= 2 * len(there):
        raise BadInput(
            f"a threshold of {threshold} among {len(there)} clients does not keep a secret"
        )
    if len({*pk1s, *pk2s}) != 2 * len(there) or len(set(there)) != len(there) or me not in there:
        raise BadInput("two clients have the same key")
    if (pk1s[there.index(me)], pk2s[there.index(me)]) != (mine["pk1"], mine["pk2"]):
        raise BadInput("the server gives this client another key")
    seed = os.urandom(32)
    seeds = create_shares(seed, threshold, len(there))
    secrets = create_shares(mine["sk1"], threshold, len(there))
    sent, held = [], {}
    own = bytes_to_private_key(mine["sk2"])
    for place, (client, pk2) in enumerate(zip(there, pk2s, strict=True)):
        if client == me:
            held = {"seed_shares": [seeds[place]], "key_shares": [secrets[place]]}
            sent.append(b"")
            continue
        plain = share_keys_plaintext_concat(me, client, seeds[place], secrets[place])
        sent.append(encrypt(generate_shared_key(own, bytes_to_public_key(pk2)), plain))
    known = {"clients": there, "pk1s": pk1s, "pk2s": pk2s, "threshold": threshold, "seed": seed}
    state[SECURE] = ConfigRecord({**mine, "stage": "shares", **known, **held, "of": [me]})
    return ConfigRecord({"shares": sent})


def hidden(
    record: ConfigRecord,
    state: RecordDict,
    update: Mapping[str, Tensor],
    about: Mapping[str, float],
) -> ArrayRecord:
    """A client's update and totals under masks. Raises BadInput where too few neighbours are left
    to hide it, a share is not what it should be, or the update is not finite: the server could not
    see it."""
    asked: dict[str, Any] = dict(record)
    mine = _state(asked, state, "shares")
    if bad := [name for name, tensor in update.items() if not is_finite(tensor)]:
        raise BadInput(f"{bad[0]} of the update is not finite")
    me, there = int(mine["client"]), list(mine["clients"])
    left, sealed = _ints(asked, "clients"), asked["shares"]
    if len(left) + 1 < int(mine["threshold"]) or len(set(left)) != len(left) or me in left:
        raise BadInput("too few clients are left to hide an update among")
    own = bytes_to_private_key(mine["sk2"])
    seeds, secrets = list(mine["seed_shares"]), list(mine["key_shares"])
    for client, box in zip(left, sealed, strict=True):
        pk2 = mine["pk2s"][there.index(client)]
        plain = decrypt(generate_shared_key(own, bytes_to_public_key(pk2)), box)
        source, target, seed, secret = share_keys_plaintext_separate(plain)
        if (source, target) != (client, me):
            raise BadInput(f"a share of client {source} was passed off as client {client}'s")
        seeds.append(seed)
        secrets.append(secret)
    scale = Scale(float(asked["largest"]), int(asked["summed"]))
    was_clipped = False
    if "clip" in asked:
        update, was_clipped = clipped(update, float(asked["clip"]), scale)
    weight = 1.0 if "clip" in asked else min(1.0, about["examples"] / float(asked["heaviest"]))
    words, cut = scale.counted(update, weight)
    masked = Sum(words, counted_totals({**about, "clipped": was_clipped, "cut": cut}))
    masked.put_on(mine["seed"])
    first = bytes_to_private_key(mine["sk1"])
    for client in left:
        pk1 = mine["pk1s"][there.index(client)]
        common = generate_shared_key(first, bytes_to_public_key(pk1))
        (masked.put_on if me > client else masked.take_off)(common)
    kept = {"seed_shares": seeds, "key_shares": secrets, "of": [me, *left]}
    state[SECURE] = ConfigRecord({**mine, "stage": "train", **kept})
    return ArrayRecord({"words": Array(masked.words), "totals": Array(masked.longs)})


def unmask(record: ConfigRecord, state: RecordDict) -> ConfigRecord:
    """The shares by which masks are taken off: once a round, and of no client both."""
    asked: dict[str, Any] = dict(record)
    mine = _state(asked, state, "train")
    active, gone = _ints(asked, "active"), _ints(asked, "gone")
    held = list(mine["of"])
    if len(active) < int(mine["threshold"]):
        raise BadInput("too few clients have sent an update to be hidden in their sum")
    if len({*active, *gone}) != len(active) + len(gone) or not {*active, *gone} <= set(held):
        raise BadInput("the server asks for secrets that it is not to have")
    state[SECURE] = ConfigRecord({"stage": "done", "round": mine["round"]})
    return ConfigRecord(
        {
            "clients": [*active, *gone],
            "shares": [
                *(mine["seed_shares"][held.index(client)] for client in active),
                *(mine["key_shares"][held.index(client)] for client in gone),
            ],
        }
    )


def _state(asked: Mapping[str, Any], state: RecordDict, stage: str) -> dict[str, Any]:
    mine = state.config_records.get(SECURE)
    if mine is None or mine["stage"] != stage or mine["round"] != asked["round"]:
        raise BadInput(f"the server is out of step: this client has not just done {stage!r}")
    return dict(mine)


def _ints(asked: Mapping[str, Any], name: str) -> list[int]:
    return [int(value) for value in asked[name]]


# --- the server -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Party:
    """A client of this round, as far as the server knows it."""

    neighbours: list[int] = field(default_factory=list)
    """Itself among them, ascending."""
    pk1: bytes = b""
    pk2: bytes = b""
    sealed: dict[int, bytes] = field(default_factory=dict)
    """Its shares, by the client that they are for."""
    masked: Sum | None = None


class SecureSum:
    """The server's side of a round."""

    def __init__(
        self, spec: SecureAggregation, seed: int, like: Mapping[str, Tensor], heaviest: int
    ) -> None:
        """`like` are tensors of an update's names and shapes; `heaviest` is the number of images
        whose client weighs 1, known to all."""
        self.spec = spec
        self.seed = seed
        self.like = like
        self.heaviest = heaviest
        self.words = sum(tensor.numel() for tensor in like.values())
        self.round = 0
        self.clip: float | None = None
        """The norm that clients clip their updates to, where they are private."""
        self.parties: dict[int, Party] = {}
        self.received: dict[int, list[bytes]] = {}
        self.scale = Scale(spec.clipping_range, 1)

    def keys(self, number: int, clients: Sequence[int], clip: float | None) -> dict[int, Any]:
        """A round begins: what the clients are asked first."""
        self.round, self.clip = number, clip
        self.scale = Scale(self.spec.clipping_range if clip is None else clip, len(clients) or 1)
        self.received = {}
        draw = torch.Generator().manual_seed(derive(self.seed, "secure", number))
        ring = [clients[place] for place in torch.randperm(len(clients), generator=draw).tolist()]
        half = (self.spec.neighbours + 1) // 2
        near = range(-half, half + 1)
        self.parties = {
            client: Party(
                sorted(clients)
                if not half or len(near) >= len(ring)
                else sorted(ring[(place + each) % len(ring)] for each in near)
            )
            for place, client in enumerate(ring)
        }
        return {client: self._asked({"client": client}) for client in clients}

    def keyed(self, client: int, said: ConfigRecord) -> None:
        """A client's public keys."""
        party = self.parties[client]
        party.pk1, party.pk2 = _bytes(said, "pk1"), _bytes(said, "pk2")

    def shares(self) -> dict[int, Any]:
        """What those are asked that have keys. Raises BadInput if there are too few."""
        there = {client for client, party in self.parties.items() if party.pk1}
        found = {}
        for client in sorted(there):
            party = self.parties[client]
            party.neighbours = [each for each in party.neighbours if each in there]
            self._check(party.neighbours, client)
            found[client] = self._asked(
                {
                    "clients": party.neighbours,
                    "pk1": [self.parties[each].pk1 for each in party.neighbours],
                    "pk2": [self.parties[each].pk2 for each in party.neighbours],
                    "threshold": self._threshold(len(party.neighbours)),
                }
            )
        return found

    def shared(self, client: int, said: ConfigRecord) -> None:
        """A client's shares for its neighbours."""
        party, sent = self.parties[client], _shares(said)
        if len(sent) != len(party.neighbours):
            raise BadInput("it does not send a share for each neighbour")
        party.sealed = dict(zip(party.neighbours, sent, strict=True))

    def train(self) -> dict[int, Any]:
        """What is added to the training's message, for those that have sent shares. Raises BadInput
        if they are too few."""
        there = {client for client, party in self.parties.items() if party.sealed}
        found = {}
        for client in sorted(there):
            left = [each for each in self.parties[client].neighbours if each in there]
            self._check(left, client)
            left.remove(client)
            about: dict[str, Any] = {
                "clients": left,
                "shares": [self.parties[each].sealed[client] for each in left],
                "largest": self.scale.largest,
                "summed": self.scale.clients,
                "heaviest": self.heaviest,
            }
            found[client] = self._asked(about | ({} if self.clip is None else {"clip": self.clip}))
        return found

    def masked(self, client: int, content: RecordDict) -> int:
        """A client's masked update; gives its bytes. Raises BadInput, or anything, where it is
        none."""
        arrays = arrays_in(content, MASKED)
        words, longs = arrays["words"].numpy(), arrays["totals"].numpy()
        if words.dtype != np.uint32 or words.shape != (self.words,):
            raise BadInput(f"it sends {words.shape} masked numbers, not {self.words}")
        if longs.dtype != np.uint64 or longs.shape != (len(TOTALS),):
            raise BadInput("its masked totals are of another form")
        self.parties[client].masked = Sum(words, longs)
        return words.nbytes + longs.nbytes

    def unmask(self) -> dict[int, Any]:
        """What those are asked whose updates are there. Raises BadInput if they are too few."""
        active = {client for client, party in self.parties.items() if party.masked is not None}
        gone = {c for c, party in self.parties.items() if party.sealed} - active
        if not active:
            raise BadInput(self._too_few(0, self._threshold(len(self.parties))))
        found = {}
        for client in sorted(active):
            near = self.parties[client].neighbours
            self._check([each for each in near if each in active], client)
            found[client] = self._asked(
                {
                    "active": [each for each in near if each in active],
                    "gone": [each for each in near if each in gone],
                }
            )
        return found

    def unmasked(self, client: int, said: ConfigRecord) -> None:
        """The shares of a client's neighbours that it gives back."""
        given = list(zip(_ints(dict(said), "clients"), _shares(said), strict=True))
        for each, share in given:
            self.received.setdefault(each, []).append(share)

    @property
    def summed(self) -> list[int]:
        """The clients whose updates are in the sum."""
        return [c for c, party in self.parties.items() if party.masked is not None]

    def total(self) -> tuple[Update, dict[str, float]]:
        """The sum of the updates, each times its weight, float64, and the totals (TOTALS). Raises
        BadInput where the masks cannot be taken off."""
        active = {c: party.masked for c, party in self.parties.items() if party.masked is not None}
        if len(active) < LEAST:
            raise BadInput(self._too_few(len(active), LEAST))
        first, *others = active.values()
        found = Sum(first.words, first.longs)
        for other in others:
            found.add(other.words, other.longs)
        for client, party in self.parties.items():
            if client in active:
                found.take_off(self._secret(client))
            elif party.sealed:
                near = [each for each in party.neighbours if each in active]
                for each, common in self._common(client, near).items():
                    (found.take_off if each > client else found.put_on)(common)
        return self.scale.real(found.words, self.like), real_totals(found.longs)

    def _secret(self, client: int) -> bytes:
        need = self._threshold(len(self.parties[client].neighbours))
        shares = self.received.get(client, [])
        if len(shares) < need:
            raise BadInput(self._too_few(len(shares), need))
        try:
            secret: bytes = combine_shares(shares[:need])
        except Exception:  # of bytes that others made
            raise BadInput(f"the shares of client {client}'s secret do not fit together") from None
        return secret

    def _common(self, client: int, others: Sequence[int]) -> dict[int, bytes]:
        """The secrets of a client that has gone, and of each of its neighbours."""
        secret = self._secret(client)
        try:
            key = bytes_to_private_key(secret)
            pk1s = {each: bytes_to_public_key(self.parties[each].pk1) for each in others}
            return {each: generate_shared_key(key, pk1) for each, pk1 in pk1s.items()}
        except Exception:  # of bytes that others made
            raise BadInput(f"client {client}'s shares are not those of a key") from None

    def _threshold(self, neighbours: int) -> int:
        return max(LEAST, math.ceil(self.spec.threshold * neighbours - 1e-9), neighbours // 2 + 1)

    def _check(self, there: Sequence[int], client: int) -> None:
        need = self._threshold(len(self.parties[client].neighbours))
        if len(there) < need:
            raise BadInput(self._too_few(len(there), need))

    def _too_few(self, there: int, need: int) -> str:
        return (
            f"secure aggregation needs {need} clients to stay to the end of the round, and there "
            f"were {there}: the sum stays hidden"
        )

    def _asked(self, values: Mapping[str, Any]) -> ConfigRecord:
        return ConfigRecord({"round": self.round, **values})


def _shares(said: ConfigRecord) -> list[bytes]:
    sent: Any = said["shares"]
    if not isinstance(sent, list) or not all(isinstance(each, bytes) for each in sent):
        raise BadInput("its shares are no bytes")
    return sent


def _bytes(said: ConfigRecord, name: str) -> bytes:
    value = said[name]
    if not isinstance(value, bytes) or not value:
        raise BadInput(f"it sends no {name}")
    return value
