"""What a step costs: one part a command.

    python benchmarks/cost.py                # step, train, memory and growth one after the other: an hour and a half
    python benchmarks/cost.py step           # the optimizer's step alone: time, bytes, memory, compile time
    python benchmarks/cost.py train          # a whole training step, forward and backward included
    python benchmarks/cost.py memory         # bytes of optimizer state, counted on the live buffers
    python benchmarks/cost.py growth         # with parameters, leaves and devices
    python benchmarks/cost.py gpu            # an H100's program, compiled on a machine without one: half an hour
    python benchmarks/cost.py paper          # 7B and 70B on up to 512 devices, compiled from shapes alone
    python benchmarks/cost.py job-memory     # fine-tuning a ViT-B/16 with the main job
    python benchmarks/cost.py job-speed      # the main job's loop beside a plain one
    python benchmarks/cost.py step --help    # a part's options; --smallest takes seconds, --report measures nothing

Every part is a process of its own, since each sets JAX up in its own way. Timings want the machine for themselves.
"""

import subprocess
import sys

import writer

PARTS = ("step", "train", "memory", "growth", "gpu", "paper", "job-memory", "job-speed")


def main() -> None:
    """Runs a part, or the first four up to one that fails."""
    if sys.argv[1:2] and not (sys.argv[1].startswith("--") and sys.argv[1] != "--help"):
        writer.run_part("cost", {part: part.replace("-", "_") for part in PARTS}, __doc__)
        return
    for part in PARTS[:4]:
        print(f"--- {part}", flush=True)
        if status := subprocess.run([sys.executable, __file__, part, *sys.argv[1:]]).returncode:
            raise SystemExit(f"{part} ended with status {status}.")


if __name__ == "__main__":
    main()
