"""What the engine says when it cannot do something, in the person's language.

The engine speaks English. Here stand its commonest sentences that can reach the window, with
`{name}` for what varies; one that is not here is shown as it came. A test holds that each of them
still stands in the engine's source.
"""

from __future__ import annotations

from workbench.i18n import mark, matched, name_of, tr, tr_like

HOLDER = mark("process {pid} on {host}")
PARTS = (mark("one folder of images a class, as in cats/1.png and dogs/2.png"),)
"""What the engine puts into several of the sentences."""
CHANCES = (
    mark("By chance that happens with a probability of at most {share}"),
    mark("That cannot happen by chance"),
)
"""How likely a contradiction is by chance."""
REFUSALS = (
    # Runs, models and devices.
    mark("there is no file {file}; expected a run or an exported model"),
    mark("{beginning} is the beginning of {count} runs: {runs}"),
    mark("run {name} ({id}) has no model: a task of kind {kind} makes none"),
    mark("run {name} ({id}) has no model: it is {status}"),
    mark("run {name} ({id}) is being run by {holder}"),
    mark("run {id} is being run by {holder}"),
    mark("run {name} ({id}) is {status}; start a new one instead"),
    mark("run {id} has come to its end; start a new one instead"),
    mark("there is no device {name} on this machine; expected one of: auto, {known}"),
    mark(
        "no run can be written to {folder}: {cause}. Make room, or choose another folder with "
        "--workspace."
    ),
    # An image of one's own.
    mark("the target is the class that the image has; choose another one"),
    mark("the file cannot be read as an image: {error}"),
    mark("the model takes images of {channels} channels, which no image file has"),
    mark("there is no test image {image}; there are {count}"),
    mark("the model's answer to this image holds a NaN or Inf"),
    # Data.
    mark("there is no folder or zip {path}; expected {form}"),
    mark("{path} is neither a folder nor a zip; expected {form}"),
    mark("the zip {path} is encrypted; unpack it and name the folder instead"),
    mark("the zip {path} is damaged: {cause}; copy it again"),
    mark(
        "there is a single class, {name}, in {path}; a classifier needs two or more. Expected "
        "{form}; name the folder that holds the class folders."
    ),
    mark("none of the {count} images in {path} can be read"),
    mark("no image of class {index} in {path} ({name}) can be read"),
    # Models.
    mark(
        "{count} convolutions halve images of {height} x {width} below one pixel; expected at "
        "most {most}"
    ),
    mark(
        "no layer is called {pattern}; this model has {names}. A pattern may name a whole part of"
        " it, as in 'body.4', or stand for several, as in 'body.*.weight'"
    ),
    mark("{kind} must not look at labels, which its attack does; take one of kind kl or vat"),
    mark(
        "fixed targets are what the model says that the run starts from, and this run starts from"
        " none; set init to a trained run, or targets to online"
    ),
    mark(
        "JPEG holds grey or colour images, 1 or 3 channels; these have {count}. Choose another "
        "transform, or set the data's channels."
    ),
    mark(
        "a median of {rows} x {columns} pixels is larger than images of {height} x {width}; "
        "expected a kernel of at most {most}"
    ),
    mark("std must be above 0 in every channel, but it is {given}"),
    mark("{name} has {count} values for images of {channels} channels"),
    mark(
        "a cnn of depth {depth} halves images of {height} x {width} below one pixel; expected a "
        "depth of at most {most}. Lower the depth or enlarge the images."
    ),
    mark(
        "patches of {patch} do not divide images of {height} x {width}; expected a patch of "
        "{fitting}"
    ),
    mark(
        "a token of {width} cannot be shared by {heads} heads; expected a width that is a multiple "
        "of the heads"
    ),
    mark("there is no file {file}; expected a Python file with the model's function"),
    mark("{file} is no Python file"),
    mark(
        "{file} is Python code and would run with your rights. If you trust it, say so: "
        "--trust-code on the command line, or 'Run this file' in the form of the task."
    ),
    mark(
        "{name} holds tensors but no model card, so what they belong to is not known. Bring it in "
        "with the `import` task, naming its architecture."
    ),
    mark(
        "{name} is a pickle (.pt), which is never loaded here: it can run code. Bring it in with "
        "the `import` task, which converts its tensors in a sandbox."
    ),
    mark("{name} is not a safetensors file, or not a whole one"),
    mark(
        "there is no file {file}; expected safetensors, a .pt or .pth state dict, or an exported "
        "model"
    ),
    mark(
        "the model takes images of {model} (channels x height x width), the data has {data}. "
        "Choose data of that size, or set its size and channels."
    ),
    mark("mean and std belong together: give both, or neither"),
    mark("{count} class names are given, but the data has {known}: {names}"),
    # Private training and audits.
    mark("{kind} gives no guarantee, so there is no epsilon to tell of it"),
    mark("batch_size and epochs must be 1 or more"),
    mark(
        "a target epsilon of {epsilon} is exceeded by a single step with noise multiplier {noise} "
        "at a sample rate of {rate}; take more noise, a smaller batch, or a larger target"
    ),
    mark(
        "an epsilon of {epsilon} cannot be reached in {steps} steps at a sample rate of {rate}: "
        "with a noise multiplier of {most} it is still {least} at delta {delta}. Take fewer steps, "
        "a smaller batch or a larger target{more}."
    ),
    mark(
        "the layer {name} ({kind}) normalises over the batch: every sample has a part in every "
        "gradient, and clipping bounds none of them. Expected a model without: in a cnn set norm = "
        '"group", which normalises each image by itself, in an mlp "layer", in both "none" will '
        "do; lenet, strided, scattering, rnn and transformer never do it, resnet18 always does"
    ),
    mark("{count} canaries are more than the {images} training images"),
    mark(
        "{count} canaries need as many parameters that learn; the model has {known}. Take fewer, "
        "or a larger model"
    ),
    mark(
        "the privacy ledger {path} is missing, which says what the run has spent so far. Put it "
        "back: without it the run cannot go on, and nothing can be said of its epsilon."
    ),
    mark(
        "the model {name} does not say what data it was trained on, and an audit is about its "
        "training images; audit a run that trained it"
    ),
    mark(
        "membership is judged on training and test images alike, and there are {train} and "
        "{test}; expected at least {least} of each"
    ),
    mark(
        "the model {name} was not made by a train task, so that shadow models cannot be trained "
        'as it was; audit it with method = ["loss"], which needs none'
    ),
    # Training and attacking.
    mark("the training split holds {count} images; expected at least 2"),
    mark("early stopping needs a validation split: set data.validation above 0"),
    mark(
        "batch normalisation needs batches of at least 2 images; set batch_size to 2 or more, or "
        "the model's norm to group"
    ),
    mark(
        "the model of {run} takes images {shape} of {classes} classes; the data has {size} of "
        "{known}"
    ),
    mark("the model {model} does not say what data it is for: give `data`"),
    mark(
        "the model takes images of (channels, height, width) {shape}, but those of {data} are "
        "{size}; choose other data, or another size of them"
    ),
    mark("the test split is empty: there is nothing to attack"),
    mark("run {name} ({id}) has no adversarial examples: a task of kind {kind} makes none"),
    mark(
        "run {name} ({id}) has no adversarial examples: it is {status}. They are written when it "
        "is over, also if it is cancelled."
    ),
    mark("{ref} is no run of this workspace: expected an attack or an evaluation"),
    mark("there are {count} points; a plane needs {least} or more"),
    mark(
        "what the model makes of these images holds a NaN or Inf: there is no place for it in a "
        "plane. Take the pixels instead."
    ),
    mark(
        "this model has no linear or convolutional layer at its end whose inputs could be taken, "
        "one row an image. Take the pixels instead."
    ),
    # Certificates.
    mark(
        "the certificate is contradicted ({count} of {samples} samples): image {sample} is "
        "certified as {certified} within {norm} {radius}, but at {distance} the classifier says "
        "{taken}. {chance}. Do not use these radii: look for what the certificate does not know of "
        "the model. The images are in {file}."
    ),
    # Explaining.
    mark(
        "run {name} has kept no examples: they are written when it is over, also if it was "
        "cancelled, but not if it failed"
    ),
    mark("there is no sample {index}; the run kept {count}"),
    mark(
        "no attack of the evaluation broke this sample, and what they tried is not kept: there is "
        "nothing to set beside the clean image. {count} were broken, the first: {samples}"
    ),
    mark(
        "no attack of the evaluation broke any sample, and what they tried is not kept: there is "
        "nothing to set beside the clean images"
    ),
    mark("run {name} is of kind {kind}: only samples of an attack or an evaluation are explained"),
    mark("the model's outputs for this sample are not finite numbers: they cannot be explained"),
    mark(
        "the attack left this sample as it was, so there is no adversarial direction to look along"
    ),
    mark("an image of one value has no second direction to look along"),
    # Exporting.
    mark("{path} exists already and is not overwritten. Choose another name."),
    mark(
        "these images have {channels} channels, a PNG file has 1 or 3; write them as safetensors "
        "instead"
    ),
    mark(
        "Nobody could open the file. Give a recipient (age1...), the own key pair, or a passphrase."
    ),
    mark("{file} is the model that is exported. Give another name."),
    mark("{file} is another kind of file and is not overwritten. Give another name."),
    mark("{file} is among the workspace's keys. Choose another folder."),
    mark(
        "{file} cannot be written: there is no folder {folder}. Make it first, or choose another "
        "place."
    ),
    mark("{path} cannot be read: {cause}"),
    # Privacy.
    mark(
        "an epsilon of {target} cannot be reached in {steps} steps at a sample rate of {rate}: with"
        " a noise multiplier of {most} it is still {least} at delta {delta}. Take fewer steps, a "
        "smaller batch or a larger target{more}."
    ),
    mark(
        "a target epsilon of {target} is exceeded by a single step with noise multiplier {noise} at"
        " a sample rate of {rate}; take more noise, a smaller batch, or a larger target"
    ),
    mark(
        "noise of deviation {noise} on the count of clipped gradients spends more than the noise "
        "multiplier {multiplier} allows for the whole step: it must be above {least}. Take more "
        "noise on the count, or a larger batch."
    ),
    mark("{kind} gives no guarantee, so there is no epsilon to tell of it"),
    mark(
        "the privacy ledger {path} is missing, which says what the run has spent so far. Put it "
        "back: without it the run cannot go on, and nothing can be said of its epsilon."
    ),
    mark(
        "the checkpoint was made after step {step}, but the privacy ledger {path} knows of {known} "
        "steps only: it is older than the checkpoint, and what was spent since is unknown. Put back"
        " the ledger that belongs to it."
    ),
    mark(
        "the privacy ledger {path} is damaged in line {line} ({cause}): what the run has spent "
        "cannot be told. Put back an undamaged copy of the file."
    ),
    mark(
        "the privacy ledger {path} could not be written ({cause}). A step that is not in it is not "
        "taken. Free some space, and resume the run."
    ),
    # Federated.
    mark(
        "there are {clients} clients and only {count} training images; expected at least one "
        "image a client. Take at most {most} clients, or more data."
    ),
    mark(
        "{count} of {clients} clients would have no images (client {named}); expected at "
        "least one each. Take fewer clients, or another partition."
    ),
    mark(
        "in {tries} draws with alpha {alpha} there was always a client with fewer than "
        "{least} images (in the last, client {poorest} had {had}). Raise alpha, take fewer "
        "clients, or lower `least`."
    ),
    mark(
        "{clients} clients with at least {least} images each need {needed}; there are "
        "{count}. Take fewer clients, or lower `least`."
    ),
    mark(
        "{clients} clients with {each} shards each need {needed} images; there are {count}. "
        "Take fewer clients or shards."
    ),
    mark(
        "this data does not say who its images are from; a natural partition needs a folder "
        "with further folders inside of each class, as in cats/anna/1.png. Take another "
        "partition."
    ),
    mark(
        "the training images come from {count} groups, fewer than the {clients} clients; take"
        " at most {most} clients."
    ),
    mark(
        "{kind} withstands {hostile} hostile clients among at least {least} in a round; here "
        "there are {there}. {advice}, or take more clients."
    ),
    mark(
        "multikrum may keep {most} of {there} updates with {hostile} hostile ones; lower "
        "strategy.keep"
    ),
    mark("drop_out = 1 leaves no client to answer; set it below 1"),
    mark(
        "privacy of clients is proved for noisy means; {kind} is none, or sends more. Take "
        "fedavg, fedprox or an adaptive one."
    ),
    mark(
        "a target epsilon of {target} is exceeded by a single round with noise multiplier "
        "{noise} at a fraction of {rate}; take more noise, a smaller fraction, or a larger "
        "target"
    ),
    mark(
        "fedbn keeps batch normalisation at the clients, and this model has none; set its "
        "norm to batch, or take fedavg"
    ),
    mark(
        "fedbn takes the global model's batch statistics from validation images; set "
        "data.validation above 0"
    ),
    mark(
        "nothing came of any of the {count} rounds: the last was skipped, as {cause}. The "
        "model is as it was at the start."
    ),
)


def holder_text(holder: str) -> str:
    """Who holds a lock, as `Lock.holder` says it."""
    found = matched(holder, HOLDER)
    return holder if found is None else tr(HOLDER, **found)


def error_text(text: str) -> str:
    """An error of the engine, translated if it is known."""
    from workbench.runs.book import word_of

    inside = {
        "holder": holder_text,
        "form": tr,
        "status": word_of,
        "norm": name_of,
        "chance": lambda words: tr_like(words, CHANCES),
    }
    for pattern in REFUSALS:
        found = matched(text, pattern)
        if found is not None:
            said = {key: inside.get(key, str)(value) for key, value in found.items()}
            return tr(pattern, **said)
    return text
