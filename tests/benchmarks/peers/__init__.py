"""Crucible beside the libraries that people use today, in one process: always `make bench-peers`.

    make bench-peers ARGS="--data-root D"                  all of it, about an hour
    make bench-peers ARGS="--data-root D --quick"          minutes: few images, one turn
    make bench-peers ARGS="--data-root D --only pgd curve --images 200"
    make bench-peers ARGS="--data-root D --only autoattack --images 1000 --seeds 3"
    make bench-peers ARGS="--data-root D --only strength --folder F"    a data set of your own too

D is where MNIST lies, or is downloaded to. The peers live in an environment of their own,
.venv-peers, made from the lock file beside this module (`make lock-peers` writes it anew); torch
has there the version of the product's lock. The engine is this checkout.

Two nets are trained by the engine when they are needed first, two minutes together, and kept in
build/peers: `standard`, and `fast-AT` at eps .3, both the MNIST net of Wong, Rice and Kolter 2020.
The images are those from --first on, by default 5,000: what an attack of ours chose by looking at
test images was chosen on the first ones. Each benchmark is a module with `main(setting) ->
list[Row]`, in a process of its own, one after another:

- pgd: PGD-40 against Foolbox, and what torchattacks, adv-lib, CleverHans and ART take and find
- passes: every attack of a fixed budget, without exit, against the passes that it asks for
- bf16: early exit and bf16 steps against all steps in float32
- minimal: DeepFool, Carlini-Wagner, DDN and FMN against adv-lib; norms against Foolbox too
- autoattack: the standard version against its authors' code, sample by sample, several seeds
- curve: the curve over 20 radii, in runs of PGD
- live: what the pictures of a running attack cost
- square: 1,000 queries of Square against its authors' code
- strength: attacks without a target of their own (PGD l2 and l1, APGD, FAB, EAD, JSMA) against the
  peers, sample by sample; nothing is asked for but not to be weaker

How to read a row: as in tests/benchmarks. Ratios are CPU seconds of turns taken side by side on one
thread, after a turn that warms up. All examples, ours too, are judged by the same code
(`judging.judge`) from the images alone: inside box and ball, and misclassified by a pass of its
own. "Not weaker" and "not above" are McNemar's exact test of the samples that one side alone broke,
p >= .05. Robust accuracies stand with Wilson's 95 % interval.
With fewer than 500 images pgd, passes, live and square are measured, and not judged.
"""
