"""From slides to patients: classes of slides by their largest metastasis, and pN stages by the rule of five nodes.

After the page and the paper of CAMELYON17 (camelyon17.grand-challenge.org/Evaluation; Bandi et al., IEEE TMI 2019),
which follow the TNM classification but for the number of nodes: a patient has five, one on each slide.

A slide is **negative** without a metastasis; it has isolated tumour cells (**itc**) where the largest is at most
0.2 mm, a micrometastasis (**micro**) where it is above 0.2 mm and at most 2 mm, and a macrometastasis (**macro**) above
2 mm. The published rule also counts cells (fewer than 200 are isolated tumour cells); a heatmap has none to count, and
the length alone decides here.

A patient without any is **pN0**; with isolated tumour cells alone **pN0(i+)**; with micrometastases and no
macrometastasis **pN1mi**, in however many nodes; with a macrometastasis **pN1** where one to three nodes are positive,
and **pN2** where more are. Micro- and macrometastases make a node positive, isolated tumour cells do not.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from digipath.errors import ResultError, SpecError
from digipath.evaluation.agreement import STAGES

__all__ = [
    "ITC_UM",
    "MICRO_UM",
    "NODES",
    "SLIDE_CLASSES",
    "PatientStage",
    "patient_stage",
    "slide_class_by_rule",
    "stage_patients",
    "submission_rows",
]

SLIDE_CLASSES = ("negative", "itc", "micro", "macro")
NODES = 5
ITC_UM, MICRO_UM = 200.0, 2000.0

_SLIDE = re.compile(r"(patient_\d+)_node_(\d+)(?:\.[a-z]+)*", re.IGNORECASE)
_PN1_NODES = 3


def slide_class_by_rule(largest_axis_um: float) -> str:
    """The class of a slide by the longest axis of its largest metastasis, in micrometres; 0 where there is none.

    Example:
        >>> [slide_class_by_rule(axis) for axis in (0, 200, 200.1, 2000, 2000.1)]
        ['negative', 'itc', 'micro', 'micro', 'macro']
    """
    if not largest_axis_um >= 0:
        raise SpecError(f"largest_axis_um is a length in micrometres, 0 where there is none, got {largest_axis_um}.")
    return SLIDE_CLASSES[(largest_axis_um > 0) + (largest_axis_um > ITC_UM) + (largest_axis_um > MICRO_UM)]


def patient_stage(classes: Iterable[str]) -> str:
    """The pN stage, one of `STAGES`, of a patient by the classes of all five nodes, in any order.

    Example:
        >>> patient_stage(["negative", "itc", "micro", "negative", "macro"])
        'pN1'
    """
    classes = [one.strip().lower() for one in classes]
    if unknown := [repr(one) for one in classes if one not in SLIDE_CLASSES]:
        raise SpecError(f"classes of slides are {', '.join(SLIDE_CLASSES)}, got {', '.join(unknown)}.")
    if len(classes) != NODES:
        raise SpecError(
            f"the rule is about patients with {NODES} nodes, one class for each, got {len(classes)} classes. Class the "
            "nodes that are missing; for another number of nodes the rule says nothing."
        )
    macro = classes.count("macro")
    positive = macro + classes.count("micro")
    if macro:
        return "pN1" if positive <= _PN1_NODES else "pN2"
    if positive:
        return "pN1mi"
    return "pN0(i+)" if "itc" in classes else "pN0"


@dataclass(frozen=True)
class PatientStage:
    """A patient with the stage and what it follows from.

    Attributes:
        patient: Such as patient_000.
        stage: One of `STAGES`.
        classes: Of nodes 0 to 4, out of `SLIDE_CLASSES`.
    """

    patient: str
    stage: str
    classes: tuple[str, ...]

    def __post_init__(self):
        if self.stage not in STAGES:
            raise SpecError(f"stage is one of {', '.join(STAGES)}, got {self.stage!r}.")


def stage_patients(classes: Mapping[str, str]) -> list[PatientStage]:
    """The stages of all patients, by name.

    Args:
        classes: Class by slide, which is named patient_XXX_node_N with N from 0 to 4, with or without .tif or a folder.

    Raises:
        ResultError: A name or class is none, a slide comes twice, or nodes are missing; all such are named.
    """
    nodes, faults = _nodes(classes)
    patients = sorted({patient for patient, _ in nodes})
    wanted = [(patient, node) for patient in patients for node in range(NODES)]
    missing = [f"{patient}_node_{node}" for patient, node in wanted if (patient, node) not in nodes]
    if missing:
        faults.append(f"each patient has nodes 0 to {NODES - 1}; missing are {len(missing)}: {', '.join(missing)}")
    if not classes:
        faults.append("there is no slide")
    if faults:
        raise ResultError(f"patients cannot be staged: {'; '.join(faults)}.")
    found = {patient: tuple(nodes[patient, node] for node in range(NODES)) for patient in patients}
    return [PatientStage(patient, patient_stage(five), five) for patient, five in found.items()]


def _nodes(classes: Mapping[str, str]) -> tuple[dict[tuple[str, int], str], list[str]]:
    """The class by patient and node, and what is wrong."""
    nodes, strange, unknown, twice = {}, [], [], []
    for name, text in classes.items():
        match = _SLIDE.fullmatch(re.split(r"[\\/]", name.strip())[-1])
        if match is None or int(match.group(2)) >= NODES:
            strange.append(repr(name))
            continue
        place = match.group(1).lower(), int(match.group(2))
        if place in nodes:
            twice.append(name)
        if (one := text.strip().lower()) not in SLIDE_CLASSES:
            unknown.append(f"{name}: {text!r}")
        nodes[place] = one
    told = (
        (f"slides are named patient_XXX_node_N, with N from 0 to {NODES - 1}, got", strange),
        (f"classes are {', '.join(SLIDE_CLASSES)}, got", unknown),
        ("a slide comes once; again came", twice),
    )
    return nodes, [f"{what} {', '.join(names)}" for what, names in told if names]


def submission_rows(patients: Iterable[PatientStage]) -> dict[str, str]:
    """The rows of CAMELYON17's CSV file: patient_XXX.zip with its stage, then its five slides with their classes.

    `digipath.io.stages.write_stages` writes them.
    """
    rows = {}
    for one in patients:
        rows[f"{one.patient}.zip"] = one.stage
        rows |= {f"{one.patient}_node_{node}.tif": text for node, text in enumerate(one.classes)}
    return rows
