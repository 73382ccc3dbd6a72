"""report.html: everything that was measured in one file that needs nothing else, for researchers and for newcomers."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from handmesh.evaluation.cases import Case, choose_random, choose_worst, draw_case
from handmesh.evaluation.charts import STYLE, Line, bar_chart, hand_diagram, heat_map, histogram, line_chart
from handmesh.evaluation.corruptions import ROBUSTNESS_METRICS, Robustness
from handmesh.evaluation.datasets import FREIHAND_NAME, FREIHAND_TOPOLOGY
from handmesh.evaluation.metrics import PCK_THRESHOLDS_M
from handmesh.evaluation.published import PUBLISHED
from handmesh.evaluation.records import EvaluationSet, Predictions
from handmesh.evaluation.scores import METRIC, METRICS, NOT_APPLICABLE, Metric, Scores, proper_name, truth_sha256
from handmesh.skeleton import BONES, FINGERS, JOINTS

TILES = 24
_HEADLINE = ("pa_mpjpe_mm", "pa_mpvpe_mm", "f_5mm_aligned", "f_15mm_aligned", "auc_joints_aligned")
_COMPARED = _HEADLINE[:4]
_AS_PREDICTED = ("mpjpe_camera_mm", "mpvpe_camera_mm", "f_5mm", "f_15mm", "auc_joints", "auc_vertices")
_PLACED = ("translation_mm", "depth_mm", "keypoints_px", "keypoints_share")
# 95 % of a normal distribution.
_DEVIATIONS = 1.96
_WEBP_QUALITY = 80
_NO_VALUE = "–"
# A setting stands below the heads "crop", "test-time augmentation" and "trained on".
_SETTING, _SETTING_SPAN = "setting", 3
_TEXT = ' class="text"'
_TEXT_HEADS = ("crop", "test-time augmentation", "trained on", "note", _SETTING, "value")


@dataclass(frozen=True)
class Entry:
    """One method's hands and what they scored.

    Attributes:
        name: of the method or its file.
        setting: crop, test-time augmentation and runtime, for readers.
    """

    name: str
    setting: str
    predictions: Predictions
    scores: Scores


@dataclass(frozen=True)
class Report:
    """What a report tells.

    Attributes:
        data: what was measured on.
        entry: the method that the report is about.
        baselines: what it is compared with.
        robustness: to corrupted pictures; None where that was not measured.
        command: that made this.
        versions: of programs, and checksums of files, by name.
        every: 1 for all hands; n where only each n-th was measured.
        faces: (F, 3) triangles of the predicted mesh of right hands; None draws bones.
        truth_faces: (F, 3) of the true mesh.
    """

    data: EvaluationSet
    entry: Entry
    baselines: tuple[Entry, ...]
    robustness: Robustness | None
    command: str
    versions: dict[str, str]
    every: int
    faces: np.ndarray | None
    truth_faces: np.ndarray | None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The method, then its baselines."""
        return (self.entry, *self.baselines)


def report_html(report: Report) -> str:
    """The page. The same report gives the same text."""
    sections = [
        ("compared", "Beside other methods", _compared(report)),
        ("metrics", "All numbers", _metrics(report)),
        ("curves", "How errors are spread", _curves(report)),
        ("joints", "Where on the hand", _joints(report)),
        ("worst", "The worst hands", _worst(report)),
        ("random", "Hands picked at random", _random(report)),
        *([("robustness", "When pictures get worse", _robustness(report.robustness, report.entry))] if report.robustness else []),
        ("made", "How this was made", _made(report)),
    ]
    links = "".join(f'<a href="#{key}">{escape(heading)}</a>' for key, heading, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{escape(heading)}</h2>{text}</section>' for key, heading, text in sections)
    title = f"{report.entry.name} on {report.data.name}"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{STYLE}{_PAGE_STYLE}</style></head>'
        f"<body><header>{_head(report)}</header><nav>{links}</nav><main>{body}</main></body></html>\n"
    )


def is_freihand(data: EvaluationSet) -> bool:
    """Whether published FreiHAND numbers are about this data."""
    return data.name == FREIHAND_NAME and data.topology == FREIHAND_TOPOLOGY


def shown(metric: Metric, entry: Entry, data: EvaluationSet) -> str:
    """A mean for readers, or why there is none."""
    value = entry.scores.mean(metric.name)
    if value is not None and math.isfinite(value):
        return metric.shown(value)
    if metric.name in _PLACED:
        return "n/a (not placed)" if data.K is not None else "n/a (no camera)"
    if metric.name == "acceleration_mm_s2":
        return "n/a (no video)"
    if entry.predictions.vertices_m is None:
        return "n/a (no mesh)"
    return NOT_APPLICABLE if data.vertices_m is not None else "n/a (no true mesh)"


def interval(metric: Metric, scores: Scores) -> str:
    """Half of the 95 % interval of the mean over hands, "±0.12"; nothing where there is none."""
    samples = scores.samples.get(metric.name)
    if samples is None or len(samples) < 2:
        return ""
    half_width = _DEVIATIONS * float(samples.std(ddof=1)) / math.sqrt(len(samples))
    return f"±{metric.factor * half_width:.{metric.digits}f}"


def _head(report: Report) -> str:
    data, entry = report.data, report.entry
    tiles = []
    for name in _HEADLINE:
        metric = METRIC[name]
        heading, unit = _heading_and_unit(metric)
        value, better = shown(metric, entry, data), "Lower is better." if metric.lower_is_better else "Higher is better, 1 is perfect."
        large = (
            f'<div class="value na">{escape(value)}</div>'
            if value.startswith("n/a")
            else (
                f'<div class="value">{value}<span class="unit">{escape(unit)}</span> <span '
                f'class="pm">{interval(metric, entry.scores)}</span></div>'
            )
        )
        tiles.append(
            f'<div class="tile"><div class="label">{escape(heading)}</div>{large}<p>{escape(_sentence(metric))} {better}</p></div>'
        )
    warnings = "".join(f"<li>{escape(_capital(line))}.</li>" for line in entry.scores.warnings)
    box = f'<div class="warning" role="note"><strong>Before you read the numbers</strong><ul>{warnings}</ul></div>' if warnings else ""
    return (
        f'<p class="over">handmesh-eval</p><h1>{escape(entry.name)} <span>on {escape(data.name)}</span></h1>'
        f'<p class="lead">{_measured_on(report)} Setting: {escape(entry.setting)}.</p>{box}<div class="tiles">{"".join(tiles)}</div>'
        '<p class="fine">Large numbers are means over all hands measured; behind ± is half of the 95 % interval of that mean, which says '
        "how much it would move with other hands of the same kind, and nothing about other kinds of pictures. "
        "“Aligned” (PA-) means: before distances are taken, the predicted hand is moved, turned and scaled to fit the true one as "
        "well as "
        "possible. It measures the hand’s shape and pose alone.</p>"
    )


def _measured_on(report: Report) -> str:
    data = report.data
    left = int(data.left().sum())
    sides = f" ({len(data) - left:,} right, {left:,} left)" if left else ""
    share = "" if report.every == 1 else f" Only one hand in {report.every} was measured: this is not the number of the whole set."
    return f"<strong>{len(data):,}</strong> labelled hand{'' if len(data) == 1 else 's'}{sides}.{share}"


def _compared(report: Report) -> str:
    own = [(report.entry, "own", "this report"), *((baseline, "", "baseline") for baseline in report.baselines)]
    own_rows = [
        _row(
            [escape(entry.name), *_compared_cells(entry, report.data), _text_cell(entry.setting, span=_SETTING_SPAN), _text_cell(note)],
            kind,
        )
        for entry, kind, note in own
    ]
    published_rows = [
        _row(
            [
                escape(row.name),
                *(_NO_VALUE if value is None else f"{value:.1f}" for value in (row.pa_mpjpe_mm, row.pa_mpvpe_mm)),
                *(_NO_VALUE if value is None else f"{value:.3f}" for value in (row.f_5mm, row.f_15mm)),
                *(_text_cell(text) for text in (row.crop, row.tta, row.trained_on, row.note)),
            ]
        )
        for row in PUBLISHED
    ]
    heads = ["method", *(METRIC[name].heading for name in _COMPARED), "crop", "test-time augmentation", "trained on", "note"]
    source = f"{_NO_VALUE} stands for a number that the paper does not give. The papers’ values are rounded as they are there."
    if is_freihand(report.data):
        about = (
            "Same pictures, same metric. Before you compare, look at the crop (one around true keypoints is given where the hand is), at "
            "test-time augmentation (several turned and scaled looks at each picture, averaged) and at the training data."
        )
        part = "" if report.every == 1 else f" Here only one picture in {report.every} was measured; the papers measured all."
        table = _table("Measured here, and published for FreiHAND", heads, [*own_rows, *published_rows])
        return f"<p>{_f_alignment(report.entry.scores)}</p><p>{about}{part} {source}</p>{table}"
    heading = "Published on FreiHAND, not on this data: for scale only"
    about = (
        f"These are other pictures than {escape(report.data.name)}: the two tables cannot be ranked against each other. They only "
        f"show what "
        "size such numbers have."
    )
    return (
        f"<p>{_f_alignment(report.entry.scores)}</p>{_table('Measured here', [*heads[:5], _SETTING, 'note'], own_rows)}"
        f"<h3>{heading}</h3><p>{about} {source}</p>{_table(heading, heads, published_rows)}"
    )


def _compared_cells(entry: Entry, data: EvaluationSet) -> list[str]:
    return [_cell(shown(METRIC[name], entry, data)) for name in _COMPARED]


def _f_alignment(scores: Scores) -> str:
    how = {
        "mesh": "F-scores are those of the mesh aligned by its own vertices, as the official script does it.",
        "joints": "F-scores are those of the mesh aligned by the 21 joints: the predicted mesh has other vertices than the true one, "
        "so the "
        "official alignment by vertices is not possible. F itself compares surfaces point by nearest point, and needs no common "
        "vertices.",
        None: "There is no F-score: it compares two meshes, and here there are not two.",
    }[scores.f_alignment]
    return f"{how} PA-MPJPE and PA-MPVPE are lower for better hands, F-scores higher (1 is perfect)."


def _metrics(report: Report) -> str:
    own, data = report.entry, report.data
    twins = {name for metric in METRICS if (name := proper_name(metric.name)) in METRIC}
    aligned = [metric for metric in METRICS if proper_name(metric.name) in METRIC]
    as_predicted = [METRIC[name] for name in _AS_PREDICTED]
    plain = [metric for metric in METRICS if metric not in aligned and metric.name not in twins and metric.name not in _AS_PREDICTED]

    def rows_of(metrics: Sequence[Metric], with_twin: bool) -> list[str]:
        rows = []
        for metric in metrics:
            better = "Lower is better" if metric.lower_is_better else "Higher is better"
            twin = [_cell(shown(METRIC[proper_name(metric.name)], own, data))] if with_twin else []
            cells = [_cell(shown(metric, own, data), "strong", interval(metric, own.scores)), *twin]
            cells += [_cell(shown(metric, baseline, data)) for baseline in report.baselines]
            about = f'<span class="about">{escape(_sentence(metric))} {better}.</span>'
            rows.append(_row([f"{escape(metric.heading)}{about}", *cells]))
        return rows

    others = [baseline.name for baseline in report.baselines]
    return (
        "<h3>Aligned: shape and pose of the hand</h3><p>The official alignment may mirror a hand, which would turn a left hand into a "
        "right one "
        "for free. The column without reflections forbids that. Where both are equal, nothing was mirrored. Small numbers behind ± "
        "are half of the 95 % interval of the mean.</p>"
        f"{_table('Aligned metrics', ['metric', own.name, 'without reflections', *others], rows_of(aligned, True), are_names=True)}"
        "<h3>Root-relative and in the camera</h3><p>Root-relative: the hand is only moved, so that one joint fits; a wrong size or a "
        "wrong turn "
        "counts. In the camera: the place counts too.</p>"
        f"{_table('Other metrics', ['metric', own.name, *others], rows_of(plain, False), are_names=True)}"
        "<h3>As predicted, nothing aligned</h3><p>The official script prints these too, and they startle. Many methods predict a hand "
        "relative "
        "to one of its joints, and say nothing about where it is in front of the camera. Compared with true hands, which are about 70 "
        "cm away on "
        "FreiHAND, such a prediction is wrong by these 70 cm however good it is: a prediction of zeros alone scores 70.79 cm for "
        "joints and "
        "70.84 cm for vertices there (4.73 and 5.07 cm aligned, F 0.001 and 0.031). So read this table only for methods that place "
        "the hand in "
        "the camera; most of what it measures then is the error of depth.</p>"
        f"{_table('Unaligned metrics', ['metric', own.name, *others], rows_of(as_predicted, False), are_names=True)}"
    )


def _curves(report: Report) -> str:
    x_mm = 1e3 * PCK_THRESHOLDS_M

    def pck(of: Callable[[Scores], np.ndarray | None], auc: str, title: str) -> str:
        lines = [
            Line(entry.name, f"AUC {shown(METRIC[auc], entry, report.data)}", curve)
            for entry in report.entries
            if (curve := of(entry.scores)) is not None
        ]
        if of(report.entry.scores) is None:
            reason = shown(METRIC[auc], report.entry, report.data)
            return f'<figure class="card"><figcaption>{title}</figcaption><p class="none">{escape(reason)}</p></figure>'
        return _figure(title, line_chart(x_mm, lines, title, "error allowed, mm", "share within, %"))

    errors_mm = report.entry.scores.samples["pa_mpjpe_mm"]
    median, high = (float(np.quantile(errors_mm, q)) for q in (0.5, 0.95))
    marks = [(f"median {median:.1f} mm", median), (f"95 % are below {high:.1f} mm", high)]
    title = "PA-MPJPE of single hands"
    return (
        "<p>Two curves: for every allowed error, the share of points that keep to it after alignment (PCK); a better method rises "
        "earlier. "
        "AUC is the area under the curve, 1 at best. Bars: how many hands have which error; the tail on the right are the worst hands "
        "below.</p>"
        '<div class="cards three">'
        + pck(lambda scores: scores.pck_joints, "auc_joints_aligned", "Joints within a distance (aligned)")
        + pck(lambda scores: scores.pck_vertices, "auc_vertices_aligned", "Vertices within a distance (aligned)")
        + _figure(title, histogram(errors_mm, title, "mean error of a hand’s 21 joints, mm", "hands", marks))
        + "</div>"
    )


def _joints(report: Report) -> str:
    scores = report.entry.scores
    outline, points = _flat_hand()
    names = [joint.replace("_", " ") for joint in JOINTS]
    drawn = hand_diagram(outline, points, BONES, names, scores.joint_errors_mm, "Mean aligned error of each joint, mm")
    fingers = ("wrist", *FINGERS)
    lines = [Line(entry.name, "", np.array([entry.scores.finger_errors_mm[name] for name in fingers])) for entry in report.entries]
    bars = bar_chart(fingers, lines, "Mean aligned error of each finger, mm", "mean aligned error, mm")
    rows = []
    for finger in FINGERS:
        at = [index for index, joint in enumerate(JOINTS) if joint.startswith(f"{finger}_")]
        rows.append(_row([finger, *(_two(scores, index) for index in at)]))
    table = _table("Errors of joints", ["", "base", "second", "third", "tip"], [_row(["wrist", _two(scores, 0), "", "", ""]), *rows])
    return (
        "<p>Errors after alignment, in millimetres, on an open right hand with its palm to you (values of left hands are counted at "
        "the same "
        "joints). Discs grow and gain colour with the error. Fingertips are usually the worst: they move most, and every joint before them "
        "adds its "
        "own error.</p>"
        '<div class="cards two">' + _figure("Each joint, mm", drawn) + f'<div class="stack">{_figure("Each finger, mm", bars)}'
        f'<figure class="card"><figcaption>Aligned / relative to joint 9, mm</figcaption>{table}</figure></div></div>'
    )


def _two(scores: Scores, joint: int) -> str:
    return f'{scores.joint_errors_mm[joint]:.1f} <span class="dim">/ {scores.joint_errors_root_mm[joint]:.1f}</span>'


def _flat_hand() -> tuple[list[np.ndarray], np.ndarray]:
    """The open hand's outline and joints (21, 2), palm to the viewer: x right, y down, metres."""
    import cv2

    from handmesh.hand_model import load_hand_model

    model = load_hand_model("open")
    # The rest frame has fingers at -x and the thumb at +z.
    flat = model.template_m[:, [2, 0]].astype(np.float64)
    points = model.joints(model.template_m)[:, [2, 0]].astype(np.float64)
    low, scale = flat.min(axis=0), 800 / float(np.ptp(flat, axis=0).max())
    mask = np.zeros((840, 840), np.uint8)
    for triangle in np.round((flat[model.faces] - low) * scale + 20).astype(np.int32):
        cv2.fillConvexPoly(mask, triangle, (255,))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = [cv2.approxPolyDP(contour, 1.2, True)[:, 0] for contour in contours if cv2.contourArea(contour) > 100]
    return [(polygon - 20) / scale + low for polygon in outline], points


def _worst(report: Report) -> str:
    chosen = choose_worst(report.entry.scores.samples["pa_mpjpe_mm"], TILES)
    return (
        f"<p>The {len(chosen)} hands with the largest PA-MPJPE, worst first. What a method does not know yet is here, and sometimes a "
        f"wrong "
        f"label.</p>{_legend(report)}{_tiles(report, chosen)}"
    )


def _random(report: Report) -> str:
    chosen = choose_random(len(report.data), TILES)
    which = f"{len(chosen)} hands drawn by chance" if len(chosen) < len(report.data) else "All hands"
    return (
        f"<p>{which}, always the same ones for this data whatever the method: what to expect on an ordinary picture.</p>"
        f"{_legend(report)}{_tiles(report, chosen)}"
    )


def _legend(report: Report) -> str:
    where = (
        "over it the prediction where it was placed in the camera, cut off at the crop’s edge"
        if _is_placed(report.entry)
        else "over it the prediction where it is aligned to the truth, as it is not placed in the camera itself"
    )
    return (
        f'<p class="fine">In each row of three: the picture, cropped around the true keypoints; {where}; and both hands from the '
        f"side, as "
        'somebody at the camera’s right sees them (the camera is at the left): <span class="key truth"></span> truth, '
        '<span class="key ours"></span> prediction after alignment without reflections. The number is the hand’s PA-MPJPE.</p>'
    )


def _tiles(report: Report, chosen: np.ndarray) -> str:
    entry, is_placed = report.entry, _is_placed(report.entry)
    tiles = []
    for index in chosen.tolist():
        case = draw_case(report.data, entry.predictions, index, report.faces, report.truth_faces, is_placed)
        tiles.append(_tile(case, report))
    return f'<div class="cases">{"".join(tiles)}</div>'


def _tile(case: Case, report: Report) -> str:
    samples, name = report.entry.scores.samples, "pa_mpjpe_mm"
    official, proper = float(samples[name][case.index]), float(samples[proper_name(name)][case.index])
    notes = []
    if proper - official > 0.05:
        notes.append(f"{proper:.1f} mm without reflection")
    if not case.has_picture:
        notes.append("no picture here")
    if case.is_outside:
        notes.append("prediction is outside of this crop")
    found = report.entry.predictions.found
    if found is not None and not found[case.index]:
        notes.append("the detector found no hand")
    number = case.index * report.every
    pictures = ((case.picture, "as it is"), (case.overlay, "with the prediction over it"), (case.side, "from the side"))
    images = "".join(
        f'<img width="{image.shape[1]}" height="{image.shape[0]}" alt="hand {number} {what}" src="{_data_uri(image)}">'
        for image, what in pictures
    )
    remarks = f'<span class="remark">{"; ".join(notes)}</span>' if notes else ""
    caption = f"<figcaption><strong>{official:.1f} mm</strong><span>hand {number}</span>{remarks}</figcaption>"
    return f'<figure class="case"><div class="panels">{images}</div>{caption}</figure>'


def _is_placed(entry: Entry) -> bool:
    """Whether predictions are in the camera: only those have a place to be wrong about."""
    return "translation_mm" in entry.scores.samples


def _robustness(robustness: Robustness, entry: Entry) -> str:
    severities = [str(severity) for severity in robustness.severities]
    names = [name.replace("_", " ") for name in robustness.names]
    relative = np.asarray(robustness.relative, np.float64)
    measure = METRIC[ROBUSTNESS_METRICS[0]].heading
    title = f"{measure}: corrupted pictures over clean ones"
    errors = np.asarray(robustness.errors, np.float64)
    rows = [
        _row(
            [
                escape(name),
                *(_number(value, 2) for value in of_name),
                _cell(_number(float(of_name.mean()) / float(robustness.clean), 2), "strong"),
            ]
        )
        for name, of_name in zip(names, errors, strict=True)
    ]
    heads = ["corruption", *severities, "mean over clean"]
    mean = _number(float(robustness.mean_relative), 2)
    return (
        f"<p>The same {robustness.hands:,} hands, their pictures made worse in {len(rows)} ways, each from mild (severity 1) to strong. "
        f"A cell is their mean error ({escape(measure)}) over that on clean pictures, {_number(float(robustness.clean), 2)} mm: "
        "1.00 is no harm, 2.00 is twice the error, and a little below 1 is mostly chance. "
        f"Over all cells the mean is <strong>{mean} ×</strong>.</p>"
        '<div class="cards two">'
        + _figure("Error relative to clean pictures", heat_map(names, severities, relative, title, "severity"))
        + _figure(f"{entry.name}: {measure}, by severity", _table("Errors by corruption", heads, rows))
        + "</div>"
    )


def _made(report: Report) -> str:
    data = report.data
    facts = {
        "data": data.name,
        "hands": f"{len(data):,}" + ("" if report.every == 1 else f", one in {report.every} of the set"),
        "left hands": f"{int(data.left().sum()):,}",
        "mesh of the truth": "none" if data.vertices_m is None else f"{data.topology}, {data.vertices_m.shape[1]:,} vertices",
        "predicted mesh": "none"
        if report.entry.predictions.vertices_m is None
        else f"{report.entry.predictions.topology}, {report.entry.predictions.vertices_m.shape[1]:,} vertices",
        "SHA-256 of the true joints": truth_sha256(data),
        "setting": report.entry.setting,
        **report.versions,
    }
    rows = [_row([escape(key), _text_cell(value, "code")]) for key, value in facts.items()]
    return (
        "<p>Run this again to get the same page: the numbers depend on nothing but the data, the network and these versions.</p>"
        f"<pre><code>{escape(report.command)}</code></pre>{_table('Data and versions', ['what', 'value'], rows)}"
        "<p>Distances are Euclidean, in millimetres, between points of the same index. Joints and mesh are aligned separately, each "
        "hand by itself, "
        "by an orthogonal Procrustes fit with scale, as FreiHAND’s evaluation script does. Means are over hands. The random hands "
        "come from a "
        "fixed seed.</p>"
    )


def _heading_and_unit(metric: Metric) -> tuple[str, str]:
    heading, _, unit = metric.heading.rpartition(" ")
    return (heading, unit) if unit == "mm" else (metric.heading, "")


def _sentence(metric: Metric) -> str:
    """What a metric means, without another one beside it."""
    whole = {
        "pa_mpvpe_mm": "mean distance of the mesh’s vertices after the best similarity of the mesh itself",
        "f_15mm_aligned": "harmonic mean of the shares of either mesh within 15 mm of the other, aligned",
    }
    return f"{_capital(whole.get(metric.name, metric.about))}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "n/a"


def _figure(caption: str, content: str) -> str:
    return f'<figure class="card"><figcaption>{escape(caption)}</figcaption>{content}</figure>'


def _table(label: str, heads: Sequence[str], rows: Sequence[str], are_names: bool = False) -> str:
    """A table that scrolls in its own box; heads are plain text, rows are `_row`s.

    Args:
        are_names: heads after the first are names of methods, above numbers.
    """
    texts, wide = ((), "") if are_names else (_TEXT_HEADS, _SETTING)
    top = "".join(
        f'<th scope="col"{_TEXT if head in texts else ""}{_span(_SETTING_SPAN if head == wide else 1)}>{escape(head)}</th>'
        for head in heads
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(cells: Sequence[str], kind: str = "") -> str:
    """A row of HTML cells; those that are not yet `<td>` become numbers, the first one heads the row."""
    first, rest = cells[0], cells[1:]
    named = f' class="{kind}"' if kind else ""
    body = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in rest)
    return f'<tr{named}><th scope="row">{first}</th>{body}</tr>'


def _cell(text: str, kind: str = "", below: str = "") -> str:
    kinds = " ".join(filter(None, (kind, "na" if text.startswith("n/a") else "")))
    small = f'<span class="below">{escape(below)}</span>' if below else ""
    return f'<td class="{kinds}">{escape(text)}{small}</td>' if kinds else f"<td>{escape(text)}{small}</td>"


def _text_cell(text: str, kind: str = "", span: int = 1) -> str:
    return f'<td class="{f"text {kind}".strip()}"{_span(span)}>{escape(text)}</td>'


def _span(columns: int) -> str:
    return f' colspan="{columns}"' if columns > 1 else ""


def _data_uri(image: np.ndarray) -> str:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image).save(data, "WEBP", quality=_WEBP_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


_PAGE_STYLE = """
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
header,main{max-width:1280px;margin:0 auto;padding:0 24px}header{padding-top:36px}
.over{margin:0;color:var(--muted);font-size:13px;letter-spacing:.06em;text-transform:uppercase}
h1{margin:2px 0 6px;font-size:clamp(26px,3.2vw,38px);line-height:1.2;font-weight:650;letter-spacing:-.01em}
h1 span{color:var(--muted);font-weight:400}
h2{margin:0 0 8px;font-size:24px;line-height:1.25;font-weight:650;letter-spacing:-.005em}
h3{margin:26px 0 4px;font-size:17px;font-weight:650}p{margin:0 0 12px;max-width:76ch}
.below{display:block;font-size:13px;font-weight:400;color:var(--muted)}td[colspan]{min-width:20em}
.card tbody th{min-width:0}.card th,.card td{padding:6px 8px}
.lead{font-size:17px;max-width:110ch}.fine{font-size:14px;color:var(--muted);max-width:100ch}.dim{color:var(--muted)}
nav{position:sticky;top:0;z-index:2;display:flex;gap:4px 17px;overflow-x:auto;margin:18px 0 0;
padding:10px max(24px,calc(50vw - 616px));background:var(--page);border-bottom:1px solid var(--line);font-size:14px;white-space:nowrap}
nav a{color:var(--muted);text-decoration:none}nav a:hover,nav a:focus{color:var(--accent);text-decoration:underline}
section{padding-top:40px;scroll-margin-top:28px}main{padding-bottom:64px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:14px;margin:20px 0 12px}
.tile,.card,.case{background:var(--surface);border:1px solid var(--line);border-radius:10px}
.tile{padding:14px 16px}.tile .label{font-size:14px;font-weight:600;color:var(--muted)}
.tile .value{font-size:36px;line-height:1.25;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums;white-space:nowrap}
.tile .value.na{font-size:20px;line-height:45px;color:var(--muted);font-weight:500}
.unit{font-size:17px;font-weight:500;letter-spacing:0;margin-left:4px}
.pm{font-size:14px;font-weight:400;color:var(--muted);letter-spacing:0}
.tile p{margin:4px 0 0;font-size:13px;line-height:1.4;color:var(--muted)}
.warning{margin:14px 0;padding:12px 16px;border:1px solid var(--warn);border-left-width:5px;border-radius:8px;
background:var(--warn-page);max-width:100ch}
.warning strong{color:var(--warn)}.warning ul{margin:4px 0 0;padding-left:20px}
.scroll{overflow-x:auto;margin:10px 0 16px;border:1px solid var(--line);border-radius:10px;background:var(--surface)}
table{border-collapse:collapse;width:100%;font-size:14px;line-height:1.4}
th,td{padding:7px 12px;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;white-space:nowrap;
font-variant-numeric:tabular-nums}
tbody tr:last-child>*{border-bottom:0}
thead th{color:var(--muted);font-weight:600;vertical-align:bottom;white-space:normal;overflow-wrap:normal}thead th.text{text-align:left}
th:first-child{text-align:left}tbody th{font-weight:500;white-space:normal;min-width:10.5em;overflow-wrap:break-word}
.about{display:block;min-width:15em;max-width:44em;font-size:13px;font-weight:400;color:var(--muted)}td:last-child.text{min-width:13em}
td.text{text-align:left;white-space:normal;min-width:9em;max-width:34em;color:var(--muted)}
td.na{color:var(--muted)}td.strong,tr.own th,tr.own td{font-weight:650}tr.own>*{background:var(--soft)}tr.own td.text{font-weight:400}
td.code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:13px}td.code{color:var(--ink)}
pre{margin:0 0 14px;padding:12px 14px;border:1px solid var(--line);border-radius:10px;background:var(--surface);white-space:pre-wrap}
.cards{display:grid;gap:14px;align-items:start;margin-top:14px}.card{margin:0;padding:14px 16px;min-width:0}
figcaption{font-size:14px;font-weight:600}.card figcaption{margin-bottom:8px}.card .scroll{margin:0}
.none{color:var(--muted);margin:60px 0;text-align:center}
.cards.two{align-items:stretch}.stack{align-content:start;display:grid;gap:14px;min-width:0}.cards>*{min-width:0}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:14px}
.case{margin:0;padding:8px}.panels{display:grid;grid-template-columns:repeat(3,1fr);gap:5px;align-items:center}
.panels img{display:block;width:100%;height:auto;border-radius:5px}
.case figcaption{display:flex;flex-wrap:wrap;gap:0 12px;padding:6px 4px 0;font-weight:400;font-size:13px;color:var(--muted)}
.case figcaption strong{color:var(--ink)}.remark{color:var(--warn)}
.key{display:inline-block;width:11px;height:11px;border-radius:3px;margin:0 1px -1px 4px}.key.truth{background:rgb(168,171,176)}
.key.ours{background:rgb(84,158,250)}
@media (min-width:760px){.cards.two{grid-template-columns:1fr 1fr}
.cards.three{grid-template-columns:repeat(auto-fit,minmax(340px,1fr))}}
@media (max-width:600px){header,main{padding-left:14px;padding-right:14px}nav{padding-left:14px;padding-right:14px}
.tiles{grid-template-columns:1fr 1fr;gap:10px}.tile:last-child:nth-child(odd){grid-column:span 2}
.tile{padding:10px 12px}.tile .value{font-size:28px}.tile .value.na{font-size:16px;line-height:35px;white-space:normal}
.pm{display:block;line-height:1.2}.cases{grid-template-columns:1fr}
.card{padding:12px 10px}th,td{padding:6px 9px}h2{font-size:21px}section{padding-top:32px}}
@media print{nav{position:static}.case,.card,.tile{break-inside:avoid}}
"""
