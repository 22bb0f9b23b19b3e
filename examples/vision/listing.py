"""The files of a task, kept with a run: it goes on with the same ones, and lists no folder again."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vision.data import Domain, Task
from vision.errors import UserError
from vision.files import atomic_write
from vision.folders import FolderDomain
from vision.paths import Paths

__all__ = ["load_listing", "store_listing"]

_FORM = b"listing 1"
_DIGEST = 32
_ARRAYS = ("folder", "names", "ends", "labels")
_PLAIN = ("name", "classes", "image_size", "ood_groups", "ood_labels", "notes")


def store_listing(path: Path, task: Task) -> None:
    """Writes which files a task of folders has, all of it or nothing.

    Args:
        path: The file: a digest, then what numpy calls an .npz.
        task: One whose domains are all `FolderDomain`s. How they are prepared is the model's, and not written.

    Raises:
        OSError: It cannot be written.
    """
    domains: list[FolderDomain] = []

    def number(domain: Domain) -> int:
        assert isinstance(domain, FolderDomain), "a task of folders"
        for i, other in enumerate(domains):
            if other is domain:  # one held-out set may be validation and test
                return i
        domains.append(domain)
        return len(domains) - 1

    roles = {role: number(getattr(task, role)) for role in ("train", "validation", "id_test")}
    facts = {
        "task": {key: getattr(task, key) for key in _PLAIN},
        "roles": roles,
        "ood": {name: number(domain) for name, domain in task.ood.items()},
        "domains": [
            # From anywhere: a run may be resumed from another directory.
            {"name": domain.name, "folders": [os.path.abspath(folder) for folder in domain.paths.folders]}
            for domain in domains
        ],
    }
    arrays: dict[str, Any] = {
        f"{i}.{key}": value for i, domain in enumerate(domains) for key, value in _arrays(domain).items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)
    data = buffer.getvalue()
    atomic_write(path, hashlib.sha256(_FORM + data).digest() + data)


def load_listing(path: Path) -> Task:
    """The task whose files were written to `path`.

    Raises:
        UserError: The file is missing, damaged, or of another version.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: the run cannot go on; start it anew with another --out.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    digest, data = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(_FORM + data).digest() != digest:
        raise UserError(f"{path} is damaged or of another version: start the run anew with another --out.")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        facts = json.loads(file["facts"].tobytes())
        domains = [
            _domain(about, facts["task"]["image_size"], {key: file[f"{i}.{key}"] for key in _ARRAYS})
            for i, about in enumerate(facts["domains"])
        ]
    return _task(facts, domains)


def _arrays(domain: FolderDomain) -> dict[str, np.ndarray]:
    paths = domain.paths
    return dict(zip(_ARRAYS, (paths.folder, paths.names, paths.ends, domain.labels), strict=True))


def _domain(about: dict[str, Any], image_size: int, arrays: dict[str, np.ndarray]) -> FolderDomain:
    folder, names, ends, labels = (arrays[key] for key in _ARRAYS)
    return FolderDomain(about["name"], Paths(tuple(about["folders"]), folder, names, ends), labels, image_size)


def _task(facts: dict[str, Any], domains: list[FolderDomain]) -> Task:
    plain = facts["task"]
    tuples = lambda lists: {name: tuple(values) for name, values in lists.items()}
    return Task(
        **{role: domains[i] for role, i in facts["roles"].items()},
        ood={name: domains[i] for name, i in facts["ood"].items()},
        name=plain["name"],
        classes=tuple(plain["classes"]),
        image_size=plain["image_size"],
        ood_groups=tuples(plain["ood_groups"]),
        ood_labels=tuples(plain["ood_labels"]),
        notes=tuple(plain["notes"]),
    )
