"""Fine-tunes a pre-trained vision model and reports accuracy in-distribution and out-of-distribution.

    python examples/finetune.py
    python examples/finetune.py --train DIR --val DIR --ood sketch=DIR photo=DIR
    python examples/finetune.py --dataset ROOT --id NAME
    python examples/finetune.py --out RUN_DIR --resume

`--help` explains every flag.
"""

import multiprocessing
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vision.config import CONFIG_FILE, Config, parse_config
from vision.errors import UserError
from vision.interrupts import uninterrupted
from vision.run_dir import RunDir
from vision.supervise import supervised

INTERRUPTED = 130  # the shell's status of a command that Ctrl-C ended
USER_ERROR = 2
# Most of the smallest run is compilation. Without optimization it takes a tenth of the time.
_QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def main(args: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    config = None
    try:
        config = parse_config(args)
        if config.coordinator is not None and multiprocessing.parent_process() is None:
            return supervised(main, args, lambda: _how_to_go_on(config))
        _run(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:  # a disk that is full, a directory that is read-only
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}. {_how_to_go_on(config)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"\nStopped. {_how_to_go_on(config)}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _run(config: Config) -> None:
    assert config.out is not None, "parse_config fills it in"
    # with several hosts, the first creates it later
    run_dir = RunDir(config.out) if config.resume or config.coordinator else RunDir.create(config)
    if config.smallest:
        os.environ.setdefault("XLA_FLAGS", _QUICK_COMPILATION)  # read when JAX starts
    # Imported here, so that --help and a mistyped flag do not wait for JAX.
    with uninterrupted():
        from vision.job import run
        from vision.progress import make_console

    console = make_console()
    run(config, run_dir, console)
    root = shlex.quote(_relative(run_dir.root))
    console.print(f"\nReport, figures and weights: {root}", soft_wrap=True)
    console.print(f"Classify images with them: {_command('predict.py')} {root} IMAGE...", soft_wrap=True)


def _how_to_go_on(config: Config | None) -> str:
    if config is None or config.out is None or not (config.out / CONFIG_FILE).exists():
        return "Nothing was written."
    return f"Continue with: {_command('finetune.py')} --out {shlex.quote(_relative(config.out))} --resume"


def _command(script: str) -> str:
    return f"python {shlex.quote(_relative(Path(__file__).with_name(script).absolute()))}"


def _relative(path: Path) -> str:
    """The command, as short as possible."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _exit(status: int) -> NoReturn:
    """Ends the process. After an error it does not wait for threads.

    The threads of a checkpoint that could not be started wait minutes for a signal that never comes, and Python would
    wait for them. Checkpoints that are being written are finished earlier, when the manager is closed.
    """
    if status == USER_ERROR:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
