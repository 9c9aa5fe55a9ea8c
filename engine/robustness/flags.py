"""What the checks of an evaluation, and audits, can find: what it means, and what to try.
Torch-free.

After Athalye, Carlini and Wagner 2018 (section 3.1), Carlini et al. 2019 (section 4) and Croce et
al. 2022, whose advice these are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a flag is called, what it means for the figures, and what to try. English."""

    title: str
    means: str
    advice: str


@dataclass(frozen=True, slots=True)
class Flag:
    """A reason to doubt an evaluation. name: a key of `FLAGS`. evidence: what was measured.
    p: of an exact test: McNemar's where attacks are compared, the binomial one where samples are
    counted that misbehave."""

    name: str
    evidence: str
    p: float | None = None

    @property
    def meaning(self) -> Meaning:
        return FLAGS[self.name]


FLAGS: dict[str, Meaning] = {
    "randomised_output": Meaning(
        "Randomised output",
        "The model answers the same image differently each time. An attack follows the gradient "
        "of one draw, and is judged by another.",
        "Average the gradient over many draws (expectation over transformation, AutoAttack rand), "
        "or switch the randomness off, and judge the mean answer.",
    ),
    "probabilities": Meaning(
        "Probabilities instead of logits",
        "The model returns probabilities. Losses apply the softmax a second time, which flattens "
        "their gradients.",
        "Take the softmax or sigmoid off the model's end and evaluate its logits.",
    ),
    "hidden_gradients": Meaning(
        "Hides its gradients",
        "A part of the model passes no gradient on, so that plain attacks by gradients stand "
        "still. That is not a defence by itself: the decision lies as near as before.",
        "Attack straight through it (through_transforms; BPDA, Athalye, Carlini and Wagner 2018, "
        "section 4.1) and without gradients (Square), and take the worst case.",
    ),
    "zero_gradients": Meaning(
        "Zero gradients",
        "Gradients of many samples are exactly zero: rounding, a step function or saturation in "
        "the model. No attack by gradients can break those samples, robust or not.",
        "Attack without gradients (Square, HopSkipJump), or replace the rounding by the identity "
        "in the backward pass (BPDA).",
    ),
    "wrong_gradients": Meaning(
        "Gradients do not describe the model",
        "Where the gradient says that the margin rises, it does not. The gradient is that of "
        "something else: cut off, replaced, or shattered.",
        "Attack without gradients (Square), or differentiate a smooth stand-in of the model.",
    ),
    "flat_around": Meaning(
        "Flat around the images",
        "The outputs hardly change near the images, though another class is not far: what the "
        "gradient follows is not what decides. So it is with lookup tables, with answers that are "
        "remembered, with votes, and with saturated outputs.",
        "Attack by decisions alone (HopSkipJump, Boundary) and with many queries (Square), or take "
        "the examples of another model (an attack task with `surrogate`).",
    ),
    "saturated_loss": Meaning(
        "Saturated loss",
        "Attacks that climb the margin break samples that cross-entropy does not: its gradient "
        "has vanished in float32, as with scaled logits or a distilled model.",
        "Use the margin or the DLR loss (APGD-DLR, Carlini-Wagner), or scale the logits down.",
    ),
    "black_box_wins": Meaning(
        "Black box beats white box",
        "An attack that sees no gradients breaks more samples than one that does. With useful "
        "gradients it is the other way round.",
        "Take the worst case with Square, and look for what masks the gradient.",
    ),
    "one_step_wins": Meaning(
        "One step beats many",
        "A single gradient step breaks more samples than an iterated attack inside the same ball, "
        "which could have taken the same step.",
        "Check the step size of the iterated attack; a loss surface that is bent near the image "
        "(catastrophic overfitting) needs a random start and more restarts.",
    ),
    "unbounded_fails": Meaning(
        "Not broken at any size",
        "With a ball so large that every image is inside, samples still withstand the attack. "
        "No model does: the attack is what fails.",
        "Do not trust any figure of this attack; attack without gradients (Square).",
    ),
    "not_converged": Meaning(
        "Loss not converged",
        "A longer attack that adapts its steps still breaks more samples.",
        "Use more steps, or a step size that shrinks by itself (APGD).",
    ),
    "restarts_win": Meaning(
        "More restarts still win",
        "Further random starts still break more samples: one start finds too little.",
        "Use more restarts, or several losses (AutoAttack).",
    ),
    "weak_attacks": Meaning(
        "The attacks are too weak",
        "The checks, which are no strong attacks, break samples that the attacks of this "
        "evaluation in the same norm all missed.",
        "Evaluate with AutoAttack, or with PGD of 40 steps or more and both losses.",
    ),
    "optimises_inside": Meaning(
        "Computes gradients inside forward",
        "The model runs an optimiser or asks for gradients while it answers. An attack does not "
        "differentiate through that.",
        "Attack the model without that step and try what breaks it here (an attack task with that "
        "model as `surrogate`), or attack without gradients (Square).",
    ),
    "batch_dependent": Meaning(
        "Answers depend on the batch",
        "An image is answered differently alone than among others, as with batch norm in train "
        "mode. Attacked and clean images then change each other's answers.",
        "Evaluate in eval mode with running statistics (track_running_stats=True).",
    ),
    "changes_itself": Meaning(
        "The model changes while it answers",
        "The model changes its weights, counts or remembers, and answers the same image otherwise "
        "later, in another order, or as a fresh copy. What was attacked is not what is judged.",
        "Freeze the model: eval mode, nothing kept from one pass to the next.",
    ),
    "rewrites_input": Meaning(
        "Writes into its input",
        "The model changes the images that it is given, in place: an attack goes on from another "
        "point than the one that it made.",
        "Let the model work on a copy (x = x.clone()).",
    ),
    "not_attacked": Meaning(
        "Samples that nothing attacked",
        "They count as robust, and no attack has come to its end there: its time or queries ran "
        "out, or they are of the class that it aims at.",
        "Raise max_seconds or max_queries, or add an attack that takes every sample.",
    ),
    "watches_gradients": Meaning(
        "Answers depend on being watched",
        "The model answers differently when gradients are recorded.",
        "Look for torch.is_grad_enabled or requires_grad in its code, and remove it.",
    ),
    "epsilon_contradicted": Meaning(
        "Epsilon is contradicted",
        "An audit by canaries shows that the training gave more away than its accountant says: the "
        "noise, the clipping, the sampling or the accounting is not what was promised.",
        "Do not hand the model out. Look for noise that is missing or drawn twice, for gradients "
        "that are not clipped one by one, and for batches that are not drawn by Poisson sampling.",
    ),
    "noise_missing": Meaning(
        "Noise is missing",
        "Canaries that were left out of the training show less noise in its steps than its "
        "accountant counts with, or the same noise again. Its epsilon does not hold.",
        "Do not hand the model out. Look for noise that is switched off, scaled down, drawn once "
        "for several steps or parameters, or taken off again.",
    ),
    "not_numbers": Meaning(
        "Answers that are no numbers",
        "Some logits are NaN or infinite. None of them counts as broken.",
        "Find the layer that makes them; a division or a logarithm of zero is usual.",
    ),
}
