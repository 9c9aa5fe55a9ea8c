"""The task: to audit a run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from engine.audits.spec.base import AuditSpec
from engine.audits.spec.membership import Membership
from engine.task import OneOf, Steps, Task, param

if TYPE_CHECKING:
    from engine.bench import Bench


class Audit(Task):
    """Attack what was promised of a run's privacy: who was a member, how large epsilon is at least,
    which images a gradient shows, whether a model can be copied by asking it."""

    title: ClassVar[str] = "Audit"
    summary_help: ClassVar[Mapping[str, str]] = {
        "unmet": "what was promised and is contradicted; the run is rejected then",
        "flags": "reasons to doubt the promise",
        "method": "the one that knows most, of those that were run: the figures beside are its own",
        "auc": "area under the curve of true over false positives; .5 is guessing",
        "auc_interval": "where that lies with 95 % confidence (DeLong et al. 1988)",
        "auc_by_method": "the same of each method",
        "balanced_accuracy": "share of members and of others that are told right, on average, at "
        "the best threshold for these very images",
        "tpr_at_fpr_0.001": "share of the members that are found while at most one of a thousand "
        "others is taken for one",
        "tpr_at_fpr_0.001_interval": "where that lies with 95 % confidence (Clopper and Pearson)",
        "tpr_at_fpr_0.01": "the same at one of a hundred",
        "tpr_at_fpr_0.01_interval": "where that lies with 95 % confidence (Clopper and Pearson)",
        "members": "how many training images were judged",
        "others": "how many images that were not trained on",
        "shadows": "how many shadow models were trained",
        "shadow_accuracy": "their mean share of right answers on images that they did not see",
        "epsilon_lower_bound": "epsilon is at least this, at `delta`, with `confidence`",
        "epsilon": "what the accountant of the run says that it is at most",
        "epsilon_reach": "the largest bound that so many canaries could have shown",
        "noise_share": "deviation of the noise in a step as canaries that were left out show it, "
        "over the one that was promised",
        "noise_least": "less than this could not be chance",
        "canary": "of which kind they were",
        "delta": "of both",
        "confidence": "how sure the audit is as a whole: a promise that was kept is rejected with "
        "the remaining probability at most",
        "canaries": "how many there were",
        "guesses": "how many of them were guessed to be in or out; of the others nothing was said",
        "right": "how many of those guesses were right",
        "accuracy": "share of the test images that the student gets right",
        "agreement": "share of the images on which student and model answer alike",
        "agreement_interval": "where that lies with 95 % confidence",
        "model_accuracy": "share of the test images that the audited model gets right",
        "queries": "answers that were paid for",
        "psnr": "mean likeness of the reconstructions to the images, in dB",
        "best_psnr": "of the reconstruction that is most like its image",
        "ssim": "mean structural similarity, 1 is the same",
        "recognised": "share of the reconstructions that a classifier gives the right name",
        "recognised_originals": "the same of the images themselves",
        "images": "how many images were reconstructed",
        "labels_right": "share of the labels that the gradient gave away",
        "clip": "norm that gradients were shortened to before they were seen",
        "noise_multiplier": "deviation of the noise on them, in multiples of that norm",
        "parameters": "numbers in the student",
        "weights_sha256": "of the student: equal where every bit is",
        "seconds": "that the audit took",
        "partial": "the audit was stopped: it says what was known by then",
        "data_changed": "the model may have been trained on images that it is tested on now",
    }

    kind: Literal["audit"] = "audit"
    model: str = param(
        ...,
        "Model",
        "The run that is audited, by name or id, or an exported file.",
        reference=True,
        min_length=1,
    )
    audit: OneOf[AuditSpec] = param(Membership(), "Audit", "What is tried.")
    judge: str | None = param(
        None,
        "Judge",
        "A run whose classifier says what is seen on reconstructions; empty takes the audited "
        "model itself.",
        reference=True,
        advanced=True,
    )

    def run(self, bench: "Bench") -> Steps:
        from engine.audits.auditing import run_audit

        return run_audit(self, bench)
