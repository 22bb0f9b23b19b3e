"""The page docs/dense.md: every number of it comes from the rows."""

from collections.abc import Sequence

from robust import summary, tables
from segment.finetune import BATCH_SIZE, CORRUPTIONS, EPOCHS, FOUNDATION_STEPS, SEVERITY
from segment.networks import WIDTH
from segment.rows import BOUNDARIES, SCORES, Row
from segment.worlds import WORLDS

__all__ = ["dense"]

_INTRODUCTION = """# Dense prediction

What fine-tuning keeps where every pixel is an answer: the class of every pixel of a scene (16 classes and the
background), and whether a boundary runs there. Scenes are emoji on a crop of a photograph, {side} x {side} pixels, with
masks from the artwork's opacity. Every number on this page is from a row of
[dense.csv](../benchmarks/results/dense.csv); `python benchmarks/dense.py` appends what is missing, `--report` writes
this page.

```{{figure}} ../benchmarks/results/dense_scenes.png
:class: on-white
:alt: Test scenes in three styles, their true masks, and those of the foundation model, vanilla fine-tuning and FTP.

Test scenes, their masks and the models' at seed 0; boundaries in black. The first two scenes are in the style that is
fine-tuned on, the next two in a style of the foundation model, the last two in one held out from all training.
```

**Data.** {fewest} to {most} emoji a scene, split by identity as in [Evidence](evidence.md); no part of a photograph
that is behind a test scene is behind any other. What an artist's lines enclose is filled with white, so that the mask
of a face drawn in outline is the face. A test scene is the same in every style but for the artwork; where an artist has
not drawn an emoji, another of its class stands in. {pretrain} scenes in each of the {styles} styles train the
foundation model, {train} are fine-tuned on, {validation} choose settings, {test} test in each style.

**Model.** The foundation model of the classification benchmark (EfficientNet-Lite0, ImageNet's weights trained on in
six colour styles) without its classifier, and a fresh decoder: a feature pyramid of {width} channels, with a logit for
each class and two for the boundary. The decoder alone is trained for {foundation_steps:,} steps on scenes of the same
emoji in the same styles; then the whole is fine-tuned for {epochs} epochs in batches of {batch} on scenes in
*{id_style}*, decoder and all constrained. AdamW without weight decay, warm-up over a tenth, cosine decay, gradients
clipped to norm 1. The loss is the mean cross-entropy of the two answers.

**Scores.** Mean IoU over classes, background included, and the F-score of boundary pixels with one pixel of tolerance;
pixels of all scenes pooled. *ID*: the style fine-tuned on; *OOD seen*: the mean over the six styles of the foundation
model; *OOD held out*: the mean over three that no training has seen; *ID corrupted*: the mean over
{corruptions}, all at severity {severity}, which leave every pixel where it is. The numbers are low: pictures are small,
classes are many, and the decoder has seen little. What counts is what a method changes.

**Protocol.** Every method has one knob. {trials} A seed is another split, other scenes, another foundation model and
another order. `wise_ft` is vanilla fine-tuning interpolated with the foundation model, at the alpha that is best on the
validation scenes; `NAME+wise_ft` is another method at alpha 0.7.
"""


def dense(found: Sequence[Row], trials: Sequence[Row]) -> str:
    """The page."""
    lines = summary.lines(found)
    world = WORLDS[found[0]["experiment"]]
    introduction = _INTRODUCTION.format(
        side=world.composition.side,
        fewest=world.composition.fewest,
        most=world.composition.most,
        styles=len(world.seen),
        **world.scenes,
        width=WIDTH,
        foundation_steps=FOUNDATION_STEPS[world.name],
        epochs=EPOCHS,
        batch=BATCH_SIZE,
        id_style=world.id_style,
        corruptions=", ".join(kind.replace("_", " ") for kind in CORRUPTIONS),
        severity=SEVERITY,
        trials=_tried(trials),
    )
    warning = (
        "**Scenes of digits, at the smallest size: these numbers mean nothing.**\n" if world.name == "digits" else ""
    )
    parts = [
        introduction,
        warning,
        "## Classes\n",
        tables.scores(lines, SCORES),
        tables.figure(
            "dense.png",
            "Mean IoU in the style fine-tuned on against that elsewhere, by method.",
            "Means over seeds; small points are the seeds.",
        ),
        tables.curve(found, SCORES),
        tables.differences(lines, SCORES),
        "## Boundaries\n",
        tables.scores(lines, BOUNDARIES),
        tables.differences(lines, BOUNDARIES),
    ]
    return "\n".join(part for part in parts if part)


def _tried(trials: Sequence[Row]) -> str:
    if not trials:
        return """No setting was tried here: each method has the one that the classification benchmark chose for
it on its own ID validation images ([robustness_trials.csv](../benchmarks/results/robustness_trials.csv))."""
    counts = {name: sum(row["method"] == name for row in trials) for name in dict.fromkeys(r["method"] for r in trials)}
    tried = ", ".join(f"{count} for `{name}`" for name, count in counts.items())
    return f"""Settings are tried on the first seed only, judged by mean IoU on ID validation scenes only, the default
first among equals ({tried}); the learning rate is the one that vanilla fine-tuning chose."""
