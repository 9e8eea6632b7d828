"""``report.md``, ``report.tex`` and ``report.html`` from all results in a folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.result import Result, read_results
from advrbd_plugin.evaluation.scales import SCALES
from advrbd_plugin.files import write_bytes, write_text
from advrbd_plugin.report.evaluation.leaderboard import leaderboard_table
from advrbd_plugin.report.evaluation.measured import Measured
from advrbd_plugin.report.evaluation.paper_tables import PaperTables
from advrbd_plugin.report.evaluation.pictures import ablation_svg, curves_svg
from advrbd_plugin.report.evaluation.summary_tables import all_cells_tables, means_table
from advrbd_plugin.report.evaluation.targets import Target, targets_note, targets_of, targets_table
from advrbd_plugin.report.evaluation.values import dagger_note
from advrbd_plugin.report.pictures import data_uri
from advrbd_plugin.report.template import render
from advrbd_plugin.table import NOT_MEASURED, Table, Value

ABLATION = "figure7"
CURVES = "curves"
ABLATION_NOTE = (
    "The preset robust uses the ranks of the consistency scores, on which the partition rate (alpha) has no influence: "
    "its cells are equal by construction."
)
LEGEND = (
    "ACC, ASR, RA, TPR, FPR, DER and the share of poison in D_c (the samples trusted as clean) are in percent. ACC: "
    "clean test images given their true label. ASR: triggered images of other classes given the target label. "
    "DER = (max(0, ASR drop) - max(0, ACC drop) + 1) / 2. The paper's figures (arXiv 2405.12719, "
    "ResNet-18, full data) stand in brackets. A dash: not measured. An asterisk: a mean from which cells are missing. "
    "A dagger: a cell made by another or an unknown version of AdvrBD's algorithm is among them."
)


@dataclass(frozen=True)
class Section:
    """The report's part on one scale.

    Attributes:
        scale: its name.
        about: what it means, in a sentence.
        measured: its results.
        targets: judged; empty where no cell of any was run.
        tables: in the order of the report.
        ablation: the plot of Fig. 7, or ``None`` where it was not measured.
        curves: pictures of the cells that miss a target, by the cell's name.
    """

    scale: str
    about: str
    measured: Measured
    targets: tuple[Target, ...]
    tables: tuple[Table, ...]
    ablation: bytes | None
    curves: dict[str, bytes]

    @property
    def targets_table(self) -> Table:
        """The targets with links to the curves' files."""
        files = {name: _curves_file(self, name) for name in self.curves}
        return targets_table(self.targets, files, self.measured)

    @property
    def ablation_notes(self) -> tuple[str, ...]:
        """How to read the plot, and how many of its cells another algorithm made."""
        cells = [cell for cell in self.measured.results if cell.partition_rate is not None]
        return ABLATION_NOTE, *dagger_note(*self.measured.count_algorithms_of(cells))

    @property
    def targets_notes(self) -> tuple[str, ...]:
        """The footnote of the targets."""
        return targets_note(self.targets, self.measured)


def write_report(out: str | Path, leaderboard: str | Path | None = None) -> list[Path]:
    """Draw all tables from the results in ``out``, and write them there.

    Args:
        out: the results' folder.
        leaderboard: the CSV of BackdoorBench's leaderboard, for a reference table; left out where it is not there.

    Returns:
        The reports that were written.

    Raises:
        AdvrBDError: there are no results, or a file in the way is none.
    """
    results = [result for result in read_results(out) if result.cell.scale in SCALES]
    if not results:
        raise AdvrBDError(f"{out} holds no results: run some cells first, for instance `advrbd reproduce --table VII`")
    by_scale = {scale: [result for result in results if result.cell.scale == scale] for scale in SCALES}
    sections = [_section(scale, own) for scale, own in by_scale.items() if own]
    reference = None if leaderboard is None else leaderboard_table(Path(leaderboard))
    paths = {name: Path(out) / f"report.{name}" for name in ("md", "tex", "html")}
    for section in sections:
        _write_pictures(Path(out), section)
    write_text(paths["md"], _markdown(sections, reference))
    write_text(paths["tex"], _latex(sections, reference))
    write_text(paths["html"], _page(sections, reference))
    return list(paths.values())


def _section(scale: str, results: list[Result]) -> Section:
    measured = Measured(results)
    targets = tuple(targets_of(scale, measured))
    if not any(target.measured for target in targets):
        targets = ()
    missed = {cell: measured.results[cell] for target in targets for cell in target.cells}
    of_paper = PaperTables(scale, measured).all()
    ours = [table for table in of_paper if _has_figures(table)]
    tables = [*means_table(scale, measured), *ours, *all_cells_tables(measured)]
    ablation = ablation_svg(scale, measured)
    left_out = [] if targets else ["the targets"]
    left_out += [table.title.split(":")[0] for table in of_paper if not _has_figures(table)]
    left_out += [] if ablation else ["Fig. 7"]
    about = f"{_about(scale, results)}{_names_left_out(left_out)}"
    curves = {cell.name: curves_svg(result) for cell, result in missed.items()}
    return Section(scale, about, measured, targets, tuple(tables), ablation, curves)


def _about(scale: str, results: list[Result]) -> str:
    done = sum(result.is_done for result in results)
    size, usual = SCALES[scale].samples, SCALES[scale].settings["epochs"]
    trained = [(result.content.get("training") or {}).get("epochs", usual) for result in results]
    others = Counter(epochs for epochs in trained if epochs != usual)
    other_epochs = [
        f" {count} of them were trained for {epochs} epochs, not {usual}." for epochs, count in sorted(others.items())
    ]
    return (
        f"{'All training images' if size is None else f'{size:,} training images, each class in proportion'}, "
        f"{SCALES[scale].model} unless a table says otherwise; {done} of {len(results)} cells have their figures."
        f"{''.join(other_epochs)}"
    )


def _has_figures(table: Table) -> bool:
    """Whether a cell of the table was run here, or tried."""
    values = (entry.text for row in table.rows for entry in row if isinstance(entry, Value))
    return any(text != NOT_MEASURED for text in values)


def _names_left_out(parts: list[str]) -> str:
    """A sentence that names what the paper has and the report does not show."""
    names = ", ".join(dict.fromkeys(parts))
    return f" Left out, since no cell of theirs was run: {names}." if names else ""


def _write_pictures(out: Path, section: Section) -> None:
    if section.ablation is not None:
        write_bytes(out / _ablation_file(section), section.ablation)
    for name, picture in section.curves.items():
        write_bytes(out / _curves_file(section, name), picture)


def _ablation_file(section: Section) -> str:
    return f"{ABLATION}-{section.scale}.svg"


def _curves_file(section: Section, name: str) -> str:
    return f"{CURVES}/{section.scale}-{name.replace('/', '-')}.svg"


def _markdown(sections: list[Section], reference: Table | None) -> str:
    parts = ["# AdvrBD's evaluation, reproduced\n", f"{LEGEND}\n"]
    for section in sections:
        parts.append(f"## Scale {section.scale}\n\n{section.about}\n")
        parts += [section.targets_table.markdown()] if section.targets else []
        parts += [table.markdown() for table in section.tables]
        if section.ablation is not None:
            figure = f"![ACC and ASR against the partition rate]({_ablation_file(section)})"
            parts.append("\n\n".join(["### Fig. 7: partition rates", figure, *section.ablation_notes]) + "\n")
    if reference is not None:
        parts.append(f"## Reference\n\n{reference.markdown()}")
    return "\n".join(parts)


def _latex(sections: list[Section], reference: Table | None) -> str:
    tables = [table for section in sections for table in section.tables] + ([] if reference is None else [reference])
    return "\n".join(table.latex() for table in tables)


def _page(sections: list[Section], reference: Table | None) -> str:
    return render(
        "reproduce.html",
        sections=sections,
        reference=reference,
        legend=LEGEND,
        svg=lambda picture: data_uri(picture, "image/svg+xml"),
    )
