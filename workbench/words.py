"""What the quantities, groups and properties that runs report are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from workbench.i18n import mark, matched, name_of, tr, tr_like
from workbench.views.text import within_sentence

_WORDS = {
    # Groups of series, and splits.
    "train": mark("Train"),
    "validation": mark("Validation"),
    "test": mark("Test"),
    "attack": mark("Attack"),
    # Quantities.
    "loss": mark("Loss"),
    "accuracy": mark("Accuracy"),
    "gradient_norm": mark("Gradient norm"),
    "lr": mark("Learning rate"),
    "success_rate": mark("Success rate"),
    "train_success_rate": mark("Success rate on training images"),
    "train_samples": mark("Training images attacked"),
    "fit_steps": mark("Steps of fitting"),
    "mean_norm": mark("Mean norm"),
    "max_norm": mark("Largest norm"),
    "median_norm": mark("Median norm"),
    "norm_quantiles": mark("Norm, quantiles"),
    "median_queries": mark("Median queries"),
    "max_queries": mark("Most queries of a sample"),
    "success_rate_interval": mark("Success rate, interval"),
    "surrogate_success_rate": mark("Success on the surrogate"),
    "surrogate_success_rate_interval": mark("Success on the surrogate, interval"),
    "transfer_rate": mark("Transfer rate"),
    "transfer_rate_interval": mark("Transfer rate, interval"),
    "images_per_second": mark("Images per second"),
    "clean_accuracy": mark("Clean accuracy"),
    "untransformed_accuracy": mark("Without the transform"),
    "robust_accuracy": mark("Robust accuracy"),
    "robust_accuracy_interval": mark("Robust accuracy, interval"),
    "interval": mark("Kind of interval"),
    "validation_accuracy": mark("Validation accuracy"),
    "watched_accuracy": mark("Watched robust accuracy"),
    "collapsed": mark("Robustness collapsed"),
    "test_loss": mark("Test loss"),
    "tested": mark("Tested images"),
    "epochs": mark("Epochs"),
    "steps": mark("Steps"),
    "best_epoch": mark("Best epoch"),
    "best_accuracy": mark("Best accuracy"),
    "best_round": mark("Best round"),
    "parameters": mark("Parameters"),
    "samples": mark("Samples"),
    "unmet": mark("Not as required"),
    "flags": mark("Flags"),
    "unchecked": mark("Not checked"),
    "certified": mark("Certified"),
    "certified_accuracy": mark("Certified accuracy"),
    "certified_accuracy_interval": mark("Certified accuracy, interval"),
    "certified_robust_accuracy": mark("Accuracy of what was certified, attacked"),
    "certified_samples": mark("Certified samples"),
    "certified_seconds": mark("Duration of certifying"),
    "abstentions": mark("Abstentions"),
    "contradictions": mark("Contradictions"),
    "clean_accuracy_interval": mark("Clean accuracy, interval"),
    "robust_accuracy_by_attack": mark("Robust accuracy after"),
    "by_attack": mark("Robust accuracy of an attack is that"),
    "broken_by_curve": mark("Broken by the curve alone"),
    "broken_by_checks": mark("Broken by the checks alone"),
    "mean_queries": mark("Queries for each sample"),
    "corruption_accuracy": mark("Accuracy under corruptions"),
    "curve_points": mark("Points of the curve"),
    "curve_gradient_evaluations": mark("Gradient evaluations of the curve"),
    "curve_runs": mark("Cost of the curve, in searches"),
    "corruptions": mark("Corruptions"),
    "input_noise": mark("Noise of the images"),
    "weight_noise": mark("Noise of the weights"),
    "agreement": mark("Agreement with other seeds"),
    "confusion": mark("What each class is taken for"),
    "smallest_perturbations": mark("Smallest perturbations"),
    "correct": mark("Correct before"),
    "broken": mark("Broken"),
    "still_fooling": mark("Still fooling as PNG"),
    "seconds": mark("Duration"),
    # Privacy and audits.
    "privacy": mark("Privacy"),
    "clipped": mark("Clipped gradients"),
    "max_grad_norm": mark("Clipping norm"),
    "epsilon": mark("Privacy loss ε"),
    "epsilon_rdp": mark("Privacy loss ε, by RDP"),
    "epsilon_prv": mark("Privacy loss ε, by PRV"),
    "delta": "δ",
    "noise_multiplier": mark("Noise multiplier"),
    "sample_rate": mark("Sample rate"),
    "noise_source": mark("Noise comes from"),
    "guarantee": mark("Guarantee"),
    "epsilon_lower_bound": mark("Privacy loss ε is at least"),
    "epsilon_reach": mark("Largest bound that could be shown"),
    "noise_share": mark("Noise, of what was promised"),
    "noise_least": mark("Less noise is no chance"),
    "canary": mark("Kind of canary"),
    "confidence": mark("Confidence"),
    "canaries": mark("Canaries"),
    "guesses": mark("Guesses"),
    "right": mark("Right guesses"),
    "method": mark("Method"),
    "auc": "AUC",
    "auc_interval": mark("AUC, interval"),
    "auc_by_method": "AUC",
    "balanced_accuracy": mark("Balanced accuracy"),
    "tpr_at_fpr_0.001": mark("Found at 0.1 % false"),
    "tpr_at_fpr_0.001_interval": mark("Found at 0.1 % false, interval"),
    "tpr_at_fpr_0.01": mark("Found at 1 % false"),
    "tpr_at_fpr_0.01_interval": mark("Found at 1 % false, interval"),
    "members": mark("Training images judged"),
    "others": mark("Other images judged"),
    "shadows": mark("Shadow models"),
    "shadow_accuracy": mark("Accuracy of the shadow models"),
    "model_accuracy": mark("Accuracy of the model"),
    "agreement_interval": mark("Agreement, interval"),
    "queries": mark("Queries"),
    "psnr": "PSNR",
    "best_psnr": mark("Best PSNR"),
    "ssim": "SSIM",
    "recognised": mark("Recognised"),
    "recognised_originals": mark("Originals recognised"),
    "images": mark("Images"),
    "labels_right": mark("Labels read right"),
    "partial": mark("Stopped early"),
    # How stable answers are, and the loss around the weights.
    "differs": mark("Samples on which answers differ"),
    "accuracy_range": mark("Range of the accuracy"),
    "entropy": mark("Entropy of the answers"),
    "least_stable": mark("Least stable samples"),
    "models": mark("Models compared"),
    "hessian_top": mark("Steepest bend of the loss"),
    "hessian_trace": mark("Sum of all bends"),
    "gradient_noise_scale": mark("Gradient noise scale"),
    "curvature": mark("Loss around the weights"),
    "unstable": mark("Least stable samples"),
    # Generators and critics.
    "critic": mark("Critic"),
    "generator": mark("Generator"),
    "modes_covered": mark("Modes covered"),
    "troubles": mark("Went wrong, seeds"),
    "troubles_at_end": mark("Wrong at the end, seeds"),
    "high_quality": mark("Samples of high quality"),
    "diversity": mark("Diversity of the samples"),
    "fid": "FID",
    # Federations.
    "global": mark("Global model"),
    "round": mark("Round"),
    "client": mark("Client"),
    "rounds": mark("Rounds"),
    "clients": mark("Clients"),
    "skipped": mark("Skipped rounds"),
    "rejected": mark("Rejected updates"),
    "dropped": mark("Answers that did not come"),
    "bytes_up": mark("Bytes sent by clients"),
    "bytes_down": mark("Bytes sent to clients"),
    "attack_success_rate": mark("Backdoor succeeds"),
    "client_accuracy": mark("Accuracy of the clients' own models"),
    "max_update_norm": mark("Clipping norm"),
    "forward_evaluations": mark("Forward evaluations"),
    "gradient_evaluations": mark("Gradient evaluations"),
    "zero_gradients": mark("Zero gradients"),
    "nan_count": mark("NaN values"),
    "weights_sha256": mark("Weights, SHA-256"),
    "data_changed": mark("Tested on training images"),
    "sha256": "SHA-256",
    "size": mark("Size"),
    "file": mark("File"),
    "command": mark("Command"),
    "recipients": mark("Recipients"),
    # Surroundings.
    "device": mark("Device"),
    "device_name": mark("Device, by name"),
    "instructions": mark("Processor's instructions"),
    "threads": mark("Threads"),
    "precision": mark("Precision"),
    "platform": mark("System"),
}

IN_TURN, ALONE = mark("after that attack and all before it"), mark("after that attack alone")
"""What the robust accuracy of an attack of an evaluation is (`by_attack` of its summary)."""


_NOTES = (
    mark("resumed at iteration {iteration}"),
    mark("features are those of {name}; figures compare only with others of the same"),
    mark(
        "features are those of {name}, which was trained on other images than these: figures "
        "compare only with others of the same, and say less of what matters here. A classifier of "
        "these images can take its place, as judge"
    ),
    mark(
        "{images} images do not fill the {dimensions} dimensions of their features: the Fréchet "
        "distance is then far too high, and compares only with figures of as many images. Take "
        "more than {least}"
    ),
    mark("stopped after {done} of {draws} draws"),
    mark("{count} images were kept aside, too few to stand beside samples"),
    mark(
        "only {count} images were kept aside, and {samples} are drawn: a Fréchet distance of fewer "
        "images is higher"
    ),
    mark(
        "{count} images were kept aside, too few to tell copies of training images from others by; "
        "{least} are needed"
    ),
    mark("no FID: {cause}"),
    mark("resumed at step {step}, epoch {epoch}"),
    mark("resumed at step {step}"),
    mark("resumed after round {number}"),
    mark("round {number} is skipped, and the model kept: {cause}"),
    mark("client {client} did not answer in time in round {number}"),
    mark("clients {clients} did not answer in time in round {number}"),
    mark("clients {clients} failed in round {number}: {cause}"),
    mark("the updates of clients {clients} in round {number} are rejected: {cause}"),
    mark(
        "the global model's answers are not finite after round {number}, and no client can go on "
        "from it. A lower learning rate prevents that, or a strategy that withstands hostile "
        "clients."
    ),
    mark("client {client} failed in round {number}: {cause}"),
    mark("the update of client {client} in round {number} is rejected: {cause}"),
    mark("client {client} sent nothing in round {number} that could be kept"),
    mark(
        "noise multiplier {noise}, each client in a round with probability {rate}, {rounds} "
        "rounds: epsilon {epsilon} at delta {delta}, of every client. It covers the global "
        "models and the epsilon. What is shown of single clients is not covered: it stays in "
        "this workspace."
    ),
    mark("the target is reached after {count} of {planned} rounds"),
    mark(
        "the target epsilon of {target} is used up: rounds that were played before the run was cut "
        "short count, and this time they went otherwise, which is a second release of them. The "
        "run ends before round {round}"
    ),
    mark(
        "the SuperLink does not say any more how far the run had come: all rounds that it may have "
        "played count as spent"
    ),
    mark(
        "delta {delta} is not below 1 / {clients} clients: the promise holds even for a "
        "mechanism that publishes all of one of them"
    ),
    mark(
        "the drawing of clients and the noise come from the seed, to be repeatable: whoever knows "
        "or guesses it can take the noise off. Set privacy.secure for a model that leaves the "
        "house."
    ),
    mark("there is no checkpoint to go on from: it begins again"),
    mark("resumed at iteration {count}"),
    mark("Encrypted with a passphrase. Whoever knows it opens the file anywhere, with:\n{command}"),
    mark(
        "Encrypted to the key of this workspace. This opens it, elsewhere too if you take the key "
        "file along:\n{command}"
    ),
    mark(
        "Encrypted to the key of this workspace and one recipient. This opens it, elsewhere too if "
        "you take the key file along:\n{command}"
    ),
    mark(
        "Encrypted to the key of this workspace and {count} recipients. This opens it, elsewhere "
        "too if you take the key file along:\n{command}"
    ),
    mark(
        "Encrypted to one recipient. With the secret key in YOUR-KEY.txt, this opens it anywhere:\n"
        "{command}"
    ),
    mark(
        "Encrypted to {count} recipients. With the secret key in YOUR-KEY.txt, this opens it "
        "anywhere:\n{command}"
    ),
    mark("{title} is not under {folder}: downloading it"),
    mark(
        "{count} images of {width} x {height} exceed the memory budget of {budget} MB: they are "
        "decoded as they are used"
    ),
    mark(
        "the accuracy of {share} is about that of guessing among {count} classes. Check mean and "
        "std, the order of the classes, and the data."
    ),
    mark("begun with {before}, resumed with {now}: the result may differ in its last bits"),
    mark("The picture budget of the run is spent: later iterations are not stored."),
    mark("Took the weights from {name} inside the file."),
    mark("Left out what is not a tensor: {names}."),
    mark("Removed the prefix {prefix} from every name."),
    mark(
        "{zero} of {all} gradients were exactly zero. An attack by gradients cannot break such a "
        "sample, so the robust accuracy may be too high; the margin loss or an attack without "
        "gradients may tell."
    ),
    mark("the test split has {count} images; all of them are attacked"),
    mark(
        "gradients vanish: at step {step} that of {front} is {share} of that of {back}, so the "
        "front does not learn. Normalisation, residual connections or another initialisation keep "
        "it."
    ),
    mark(
        "gradients explode: at step {step} that of {front} is {share} times that of {back}. "
        "Gradient clipping, normalisation or smaller initial weights tame it."
    ),
    mark(
        "so short a run affords no look at the Hessian within the cost of full diagnostics; the "
        "task stability measures it for any model"
    ),
    mark("images of the target class, {name}, are left out"),
    mark("out of memory: going on with {count} images at a time"),
    mark(
        "{attack} is targeted: only samples that are taken for the class aimed at count as broken. "
        "Robust accuracy counts all others that were right when clean, also those that another "
        "class has won."
    ),
    mark(
        "{count} samples that withstood the attacks were broken while the curve was drawn, within "
        "the same radius: robust accuracy counts them as broken."
    ),
    mark(
        "{count} samples that withstood the attacks were broken by the checks, within the same "
        "radius: robust accuracy counts them as broken."
    ),
    mark(
        "the model returns probabilities: all its outputs are 0 or more and add up to 1. Losses "
        "apply the softmax a second time, which flattens their gradients, so that an attack finds "
        "less than it could. Take the softmax off the model's end."
    ),
    mark("accepted: the model is as required"),
    mark("{count} answers of the model held a NaN or Inf; none was counted as a success."),
    mark(
        "{lost} of {all} adversarial examples no longer fool the model once they are rounded to 8 "
        "bits; index.csv says which."
    ),
    mark(
        "catastrophic overfitting: robust accuracy under PGD fell from {before} to {after} in "
        "epoch {epoch}. The run ends with the model of epoch {best}. Another step size, or an "
        "attack of several steps, prevents it."
    ),
    mark(
        "the model was trained on some of the images that it is tested on now: the data or its "
        "split is not what it was. Its accuracies are too high. Put the data back as it was, or "
        "train a model from the beginning on what it is now."
    ),
    mark(
        "{name} was to be {value} from step {step} on, but the run has {steps} steps: it never was"
    ),
    # Private training.
    mark("the target is reached after {steps} of {planned} steps"),
    mark(
        "the run starts from {name}, which spent an epsilon of {spent} itself: images that both "
        "learn from lose the sum of the two"
    ),
    mark(
        "the run starts from {name}, which was not trained privately: what that knows of its "
        "training images no epsilon of this run covers. Start from one that learnt from other "
        "images"
    ),
    mark(
        "delta {delta} is not below 1 / {count} training images: the promise holds even for a "
        "mechanism that publishes one of them"
    ),
    mark(
        "batches and noise come from the seed, to be repeatable: whoever knows or guesses it can "
        "take the noise off. Set privacy.secure for a model that leaves the house."
    ),
    mark(
        "naive noise gives no guarantee: the gradient of the whole batch is clamped, so that one "
        "image can change all of it, and no epsilon can be computed. For one, take {privacy}."
    ),
    # Audits.
    mark("the run promises no epsilon that the bound could be held against"),
    mark(
        "{count} canaries show an epsilon of at most {most}, even where every guess is right, and "
        "{claimed} is promised: the bound could not contradict it. Train with more canaries."
    ),
    mark(
        "these canaries are training images, whose losses do not show the noise: that it is "
        "missing, or too small, this audit can hardly tell. Train with gradient canaries for one "
        "that can."
    ),
    mark(
        "the privacy of the run clips and adds noise at the server, after what is attacked here: a "
        "server sees every update as its client sent it. Give clip and noise_multiplier to see "
        "what clients would show that do both themselves."
    ),
    mark(
        "the clipping norm of the run adapted, and what it came to is not known: {norm} is taken, "
        "with which it began"
    ),
    mark("the run kept too little of its noise to tell whether that was as large as promised"),
    mark("{what} has {count} images: so many are asked about"),
    mark(
        "the model has batch normalisation or dropout: its gradient is taken without, by running "
        "statistics, which is easier to invert than the one of a training step"
    ),
    mark(
        "{method} follows the slope of the gradient's distance, which activations with a kink "
        "hardly have; sigmoid or tanh show what it can do, and cosine needs neither"
    ),
    mark(
        "the shadow models are trained privately as well, with the same noise: what they say of an "
        "image is then what the audited model would have said"
    ),
    mark(
        "the audited run had canaries: of a kind that are samples, some training images were left "
        "out or had other labels, and count as members here all the same"
    ),
    mark(
        "the audited run started from {name}, and so do the shadow models: what that model had "
        "learnt of an image before, they all know"
    ),
    mark(
        "{count} images that were not trained on are too few to tell a share of {share}: true "
        "positives there are those above the highest score of any"
    ),
    mark("stopped after {done} of {count} shadow models"),
    mark("Flower: {line}"),
    mark(
        "the drawing of clients and the noise come from the seed, to be repeatable: whoever knows "
        "or guesses it can take the noise off. Set privacy.secure for a model that leaves the "
        "house."
    ),
    mark(
        "noise multiplier {noise}, sample rate {rate}, {steps} steps: epsilon {epsilon} at delta "
        "{delta}. It covers what the model learns from the training images in this run; not the "
        "validation images, by which early stopping chooses. Losses, accuracies and norms that "
        "are shown meanwhile are not covered: they stay in this workspace."
    ),
    mark(
        "{count} samples that withstood the attacks were broken {how}, within the same radius: "
        "robust accuracy counts them as broken."
    ),
)
"""What tasks say while they work, for translation."""

_ADVICE = (
    mark(
        "{steps} steps of {size} get at most {reach} away from their start, less than epsilon, "
        "{eps}: the attack cannot use the whole ball, and the model may look more robust than it "
        "is. Take a step size of about {better} (2.5 x epsilon / steps), or more steps."
    ),
    mark(
        "The DLR loss needs {least} classes or more, and the model has {count}: the logits' "
        "margin, not divided, is climbed in its place."
    ),
    mark(
        "The DLR loss needs {least} classes or more, and the model has {count}: the third largest "
        "logit alone, is climbed in its place."
    ),
    mark("epsilon is 0: {attack} can change nothing, and every sample that is right stays right."),
    mark(
        "epsilon {eps} is more than any image can change: two images of {count} values in [0, 1] "
        "are at most {reach} apart in {norm}."
    ),
)
"""What makes an attack weaker than it looks."""

_TRAINING = mark("adversarial training: {advice}")

_SKIPPED = mark("{bad} of {all} images cannot be read and are skipped: {names}")
_MORE = mark("and {count} more")
_FAULTS = (
    mark("not an image"),
    mark("too many pixels"),
    mark("{width} x {height} pixels are too many"),
    mark("grey values below zero or not finite"),
    mark("grey values beyond 16 bits"),
    mark("not a regular file"),
    mark("larger than {count} MB"),
)
"""Why an image cannot be read."""

_HIDING = (
    mark("bit depth of {bits}"),
    mark("JPEG of quality {quality}"),
    mark("median of {height} x {width} pixels"),
    mark("activations rounded to {bits} bits"),
)
"""Parts of a model that hide its gradients."""

_HIDDEN = (
    mark("found in the model: {parts}"),
    mark(
        "the model hides its gradients: {parts}. That is not a defence by itself: attacks by "
        "gradients stand still, others do not. Judge it by an evaluation, which also attacks "
        "straight through (BPDA) and without gradients."
    ),
    mark(
        "the model hides its gradients: {parts}. That is not a defence by itself: this attack "
        "stands still, and says nothing of the model. Attack straight through it "
        "(through_transforms; BPDA), or without gradients (Square)."
    ),
)
"""What is said of these."""


def hidden_text(text: str) -> str | None:
    """What was said of a model that hides its gradients, in the person's language; None if it is
    something else."""
    for pattern in _HIDDEN:
        if (found := matched(text, pattern)) is not None:
            parts = [tr_like(part, _HIDING) for part in found["parts"].split(", ")]
            return tr(pattern, parts=", ".join(parts))
    return None


def note_text(text: str) -> str:
    """What a task said, in the person's language where it is known."""
    name, changed, value = text.partition(" set to ")
    if changed and (quantity := _quantity(name)):
        return tr("{quantity} set to {value}", quantity=quantity, value=value)
    for known in (hidden_text, _judged, _advised, _skipped, _troubled):
        if (said := known(text)) is not None:
            return said
    return tr_like(text, _NOTES)


def _quantity(name: str) -> str:
    """What a live value is called; nothing where nobody has named it."""
    from workbench.panels.gan_words import FIELDS

    if name in _WORDS:
        return word(name)
    return tr(FIELDS[name]) if name in FIELDS else ""


def _advised(text: str) -> str | None:
    """What an attack was said to be weaker by, of itself or in a training, where there may be
    several; None if it is something else."""
    training = matched(text, _TRAINING)
    each = re.split(r"(?<=or more steps\.) ", training["advice"] if training else text)
    if not all(any(matched(part, pattern) for pattern in _ADVICE) for part in each):
        return None
    advice = " ".join(tr_like(part, _ADVICE) for part in each)
    return tr(_TRAINING, advice=advice) if training else advice


def _skipped(text: str) -> str | None:
    """Which images could not be read, and why; None if it is something else."""
    found = matched(text, _SKIPPED)
    if found is None:
        return None

    def part(words: str) -> str:
        name, bracket, why = words.removesuffix(")").rpartition(" (")
        return f"{name} ({tr_like(why, _FAULTS)})" if bracket else tr_like(words, (_MORE,))

    return tr(_SKIPPED, **found | {"names": "; ".join(map(part, found["names"].split("; ")))})


_TROUBLE = mark("seed {seed}: {trouble} ({evidence}); try {first} or {second}")


def _troubled(text: str) -> str | None:
    """What goes wrong between a generator and its critic; None if it is something else."""
    from workbench.panels.gan_words import TROUBLES, evidence_text, proposal_of

    found = matched(text, _TROUBLE)
    if found is None or found["trouble"] not in TROUBLES:
        return None
    return tr(
        _TROUBLE,
        seed=found["seed"],
        trouble=within_sentence(tr(TROUBLES[found["trouble"]][0])),
        evidence=within_sentence(evidence_text(found["evidence"]).rstrip(".。")),
        first=proposal_of(found["first"]).words(),
        second=proposal_of(found["second"]).words(),
    )


def _judged(text: str) -> str | None:
    """What an evaluation said of its figures, in the person's language; None if it is something
    else: a flag with its evidence, meaning and advice, or what was required and is not so."""
    begin, colon, rest = text.partition(": ")
    from engine.robustness.flags import FLAGS
    from workbench.panels.evaluate_view import UNCHECKED, evidence_text, unmet_text

    if any(matched(text, pattern) is not None for pattern in UNCHECKED):
        return tr_like(text, UNCHECKED)
    if not colon:
        return None
    if begin == "rejected":
        each = re.split(r"; (?=[a-z ]+ >= )", rest)
        why = "; ".join(map(unmet_text, each))
        return tr("Rejected: {why}", why=why)
    for flag in FLAGS.values():
        end = f". {flag.means} {flag.advice}"
        if begin == flag.title and rest.endswith(end):
            return tr(
                "{title}: {evidence}. {means} {advice}",
                title=tr(flag.title),
                evidence=evidence_text(rest.removesuffix(end)),
                means=tr(flag.means),
                advice=tr(flag.advice),
            )
    return None


def measure(norm: str) -> str:
    """In what a size of that norm is given: where nothing bounds a change, its Euclidean length."""
    return name_of("l2" if norm == "free" else norm)


def warning_of(summary: Mapping[str, Any]) -> str:
    """Why the results of a run may mislead, for a person; nothing where they do not."""
    if not summary.get("data_changed"):
        return ""
    return tr(
        "The data or its split has changed: the model was trained on some of these images, and its "
        "accuracies are too high."
    )


def word(key: str) -> str:
    """`key` in the person's language; readable English where nobody has named it."""
    if key in _WORDS:
        return tr(_WORDS[key])
    last = key.rpartition(".")[2]
    return re.sub(r"[_-]+", " ", last)[:1].upper() + re.sub(r"[_-]+", " ", last)[1:]


def title(key: str) -> str:
    """The English of `key`, for what translates its title itself."""
    return _WORDS.get(key) or re.sub(r"[_-]+", " ", key).capitalize()
