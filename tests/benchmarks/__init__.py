"""What Crucible promises about speed, measured: never a timed test, always `make bench`.

    make bench                                          everything that needs no data
    make bench ARGS="--data-root D"                     MNIST too, from D/MNIST/raw
    python -m tests.benchmarks --only store start       some of them, by the name of their module
    python -m tests.benchmarks --json FILE              the same as JSON, with the machine

Each benchmark is a module with `main(data_root) -> list[Row]` and runs in a process of its own,
one after another, about five minutes on an idle machine:

- training: the engine's training loop against the same bare PyTorch loop
- window: what the open window costs the engine, and the engine the window
- start: process start to first paint
- first_minute: the demo recipe on the command line
- store: durable rows per second
- early_exit: PGD against the same loop that drops no sample
- data_path: batches of MNIST against torchvision's DataLoader
- diagnostics: training that is looked into, light and full, against training that is not

How to read a row: what, the target, what was found as median (smallest to largest), whether the
median meets the target. Two ways of doing the same are measured in turn in one process, so that
what else the machine does hits both; their ratio is far steadier than any of its parts. CPU seconds
are compared wherever one thread works; a wall time means little on a busy machine, and the load
average is printed with the table. The exit code is 1 if a target was missed or a benchmark failed;
one that needs data that is not there says so and counts for nothing.
"""
