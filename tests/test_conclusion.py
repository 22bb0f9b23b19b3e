"""The sentence at the end of a report, by intervals made up for it."""

from typing import Any

import pytest

from vision.conclusion import conclusion, gain_shown


def score(mean: float, half: float | None = 0.01) -> dict[str, Any]:
    return {"mean": mean, "deviation": half, "half_width": half}


def summary(gains: dict[str, tuple[float, float]], half: float | None = 0.01, labels: str = "30") -> dict[str, Any]:
    rows = [{"name": "vanilla"}]
    rows += [
        {"name": name, "difference": {"id": score(within, half), "ood_mean": score(beyond, half)}}
        for name, (within, beyond) in gains.items()
    ]
    seeds = [0] if half is None else [0, 1, 2]
    return {"labels": labels, "seeds": seeds, "task": {"train_images": 1200}, "rows": rows}


@pytest.mark.parametrize(
    ("gains", "told"),
    [
        (
            {"ftp": (0.03, 0.02), "ftp + WiSE 0.5": (0.02, 0.05), "digrap": (0.0, 0.0)},
            "2 of 3 rows beat vanilla, ftp + WiSE 0.5 by the most (ID +2.0 ± 1.0, OOD +5.0 ± 1.0).",
        ),
        (
            {"ftp": (-0.005, 0.02), "wise": (-0.02, 0.09)},
            "1 of 2 rows beats vanilla, ftp (ID -0.5 ± 1.0, OOD +2.0 ± 1.0).",
        ),
        ({"ftp": (0.009, 0.009), "wise": (-0.02, 0.09)}, "none of 2 rows beats vanilla."),
    ],
    ids=["both", "one score is level", "neither told nor paid for"],
)
def test_a_row_beats_plain_fine_tuning_that_is_above_somewhere_and_below_nowhere(
    gains: dict[str, tuple[float, float]], told: str
) -> None:
    assert conclusion(summary(gains)) == f"1,200 labels: {told}"


def test_one_seed_has_no_interval_and_says_so() -> None:
    told = conclusion(summary({"ftp": (0.0, 0.001)}, half=None, labels="all"))
    assert told == "all 1,200 labels, one seed: 1 of 1 rows beats vanilla, ftp (ID +0.0, OOD +0.1)."


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    assert gain_shown(score(-0.0002, 0.0)) == "+0.0 ± 0.0"


def test_without_an_ood_domain_it_is_of_the_id_domain() -> None:
    found = summary({"ftp": (0.03, 0.0)})
    found["rows"][1]["difference"]["ood_mean"] = None
    assert conclusion(found) == "1,200 labels: 1 of 1 rows beats vanilla, ftp (ID +3.0 ± 1.0)."


def test_without_plain_fine_tuning_there_is_nothing_to_say() -> None:
    assert conclusion(summary({})) is None
