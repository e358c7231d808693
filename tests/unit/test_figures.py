"""Names on pictures are text: dollar signs, backslashes and letters that the font lacks."""

import warnings

import numpy as np
import pytest

from vplface.errors import DataError
from vplface.figures import literal_text, plain_numbers, save_figure

NAMES = ("a$\\foo$", "$", "x_{y}^$2$", "\\alpha \\$", "名前 $\\bad{")


def draw(path, name):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(layout="constrained")
    axes.barh([name, "b"], [1, 2], label=name)
    axes.set_title(name)
    axes.set_xlabel(name)
    axes.legend()
    figure.suptitle(name)
    axes.set_xscale("log")
    plain_numbers(axes.xaxis)
    save_figure(figure, path, dpi=40)
    shown = [text.get_text() for text in axes.get_xticklabels()]
    pyplot.close(figure)
    return shown


@pytest.mark.parametrize("name", NAMES)
def test_literal_text_draws_names_as_they_are_without_warnings(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = literal_text()(draw)(tmp_path / "p.png", name)
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert "1" in shown
    assert not any("$" in label for label in shown)


def test_save_figure_refuses_an_unknown_file_extension(tmp_path):
    from matplotlib.figure import Figure

    with pytest.raises(DataError, match=r"p\.xyz: the name must end in one of \..*\.png"):
        save_figure(Figure(), tmp_path / "p.xyz")
    assert list(tmp_path.iterdir()) == []


def test_draw_pair_and_draw_identified_accept_any_name(tmp_path):
    from types import SimpleNamespace

    from vplface.cli.faces_drawn import draw_identified, draw_pair

    picture = np.zeros((112, 112, 3), np.uint8)
    face = SimpleNamespace(box=(1, 1, 50, 50), picture=picture)
    for name in (NAMES[0], NAMES[-1], "9" * 5000 + "\n\x1b[2J$"):
        photograph = SimpleNamespace(picture=picture, path=SimpleNamespace(name=name), faces=[face], boxes=[face.box])
        draw_pair(tmp_path / "p.png", [photograph] * 2, [face] * 2, name[:50], name[:50])
        draw_identified(tmp_path / "i.png", [(photograph, [(name[:50], True)])], name[:50])
