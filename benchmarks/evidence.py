"""What methods gain: one task a command. A run that has a row is not run again.

python benchmarks/evidence.py digits         # the main job over five seeds: the README's table and figure
python benchmarks/evidence.py robustness     # emoji by ten artists, digits or clothes; other networks too
python benchmarks/evidence.py corruptions    # the same under fifteen natural corruptions
python benchmarks/evidence.py low-label      # the same with 1 to 100 % of the labels
python benchmarks/evidence.py continual      # the same in one appearance or style after another
python benchmarks/evidence.py dense          # class and boundary of every pixel of emoji scenes
python benchmarks/evidence.py vqa            # questions about emoji scenes
python benchmarks/evidence.py past           # radii without a unit, other hyper-gradients, a DiGraP that acts
python benchmarks/evidence.py recipe         # one setting for all tasks, chosen on validation images
python benchmarks/evidence.py dense --help   # a task's options; --smallest takes a minute, --report runs nothing
"""

import writer

PARTS = ("digits", "robustness", "corruptions", "low-label", "continual", "dense", "vqa", "past", "recipe")
MODULES = {part: part.replace("-", "_") for part in PARTS} | {"corruptions": "under_corruption"}

if __name__ == "__main__":
    writer.run_part("evidence", MODULES, __doc__)
