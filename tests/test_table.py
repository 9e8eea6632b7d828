"""One table in every language, by hand."""

from __future__ import annotations

import csv
import io

import pytest

from advrbd_plugin.table import Table, Value, percent

TABLE = Table(
    ("Set", "Attack", "ACC", "ASR"),
    (
        ("A|B", "x_1", Value("75.0", "92.00", "a.json"), "\u2013"),
        ("<i>", "50%", Value("1.0\u2020"), Value("2.0", "", "b")),
    ),
    title="All & more",
    groups=(("AdvrBD", 2),),
    align="ll",
    notes=("One {note}.",),
)


def test_markdown():
    assert TABLE.markdown() == (
        "### All & more\n\n"
        "| Set | Attack | AdvrBD ACC | AdvrBD ASR |\n"
        "| --- | --- | ---: | ---: |\n"
        "| A\\|B | x_1 | [75.0](a.json) (92.00) | \u2013 |\n"
        "| <i> | 50% | 1.0\u2020 | [2.0](b) |\n"
        "\nOne {note}.\n"
    )


def test_latex():
    assert TABLE.latex() == (
        "\\begin{table}\n\\caption{All \\& more}\n\\begin{tabular}{llrr}\n\\hline\n"
        " &  & \\multicolumn{2}{c}{AdvrBD} \\\\\n"
        "Set & Attack & ACC & ASR \\\\\n\\hline\n"
        "A|B & x\\_1 & 75.0 (92.00) & -- \\\\\n"
        "<i> & 50\\% & 1.0\\dag{} & 2.0 \\\\\n"
        "\\hline\n\\end{tabular}\n\nOne \\{note\\}.\n\\end{table}\n"
    )


def test_latex_without_a_title_is_a_bare_tabular():
    table = Table(("a", "b"), (("c:\\d", "1"),))
    assert table.latex(booktabs=True) == (
        "\\begin{tabular}{lr}\n\\toprule\na & b \\\\\n\\midrule\nc:\\textbackslash{}d & 1 \\\\\n\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_html():
    lines = TABLE.html().splitlines()
    assert lines[0] == "<h2>All &amp; more</h2>"
    assert lines[2] == '  <tr><th></th><th></th><th class="group" colspan="2">AdvrBD</th></tr>'
    assert lines[4] == (
        '  <tr><td>A|B</td><td>x_1</td><td class="number"><a href="a.json">75.0</a> <span class="soft">(92.00)</span>'
        '</td><td class="number">\u2013</td></tr>'
    )
    assert "<td>&lt;i&gt;</td>" in lines[5] and lines[-1] == '<p class="soft">One {note}.</p>'


def test_csv():
    assert TABLE.csv().splitlines()[:2] == ["Set,Attack,ACC,ASR", "A|B,x_1,75.0 (92.00),\u2013"]
    odd = Table(("a", "b"), (("one\rtwo", 'say "x",\nplease'),))
    assert odd.csv() == 'a,b\n"one\rtwo","say ""x"",\nplease"\n'
    assert list(csv.reader(io.StringIO(odd.csv(), newline=""))) == [["a", "b"], list(odd.rows[0])]


def test_the_terminals_table_reads_no_markup():
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=200).print(Table(("[bold]", "b"), (("[/x]", "1"),)).terminal("[caption]"))
    assert all(text in stream.getvalue() for text in ("[bold]", "[/x]", "[caption]"))


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row has 1 entries for 2 columns"):
        Table(("a", "b"), (("1",),))


def test_percent():
    assert [percent(0.1234), percent(0.1234, 2), percent(None), percent(None, missing="-")] == [
        "12.3",
        "12.34",
        "\u2013",
        "-",
    ]
