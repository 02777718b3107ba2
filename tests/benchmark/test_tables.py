"""Means, differences and their errors, by hand."""

import pytest

from pyro_vble.benchmark.tables import Row, Table, latex, markdown, paired, problem_table


def record(image, psnr, **figures):
    rules = {"rules": {"samples": 100, "probability": 0.9}}
    return {"image": image, "made_with": rules, "figures": {"psnr": psnr, "seconds": 1.0, **figures}}


def results(**psnr):
    return {name: {str(k): record(str(k), value) for k, value in enumerate(values)} for name, values in psnr.items()}


def test_differences_are_taken_image_by_image():
    found = results(a=[20.0, 30.0, 25.0], b=[19.0, 28.0])
    # 1 and 2 dB: mean 1.5, standard deviation 1/sqrt(2), over sqrt(2).
    assert paired(found["a"], found["b"]) == "+1.50 ± 0.50"
    assert paired({}, found["b"]) == "-"


def test_rows_of_different_images_are_told():
    same = problem_table("t", results(a=[20.0, 30.0], b=[19.0, 28.0]), {}, "a")
    other = problem_table("t", results(a=[20.0, 30.0], b=[19.0]), {}, "a")
    assert same.notes == []
    assert "not" in other.notes[0].lower()


def test_the_best_is_bold_as_printed():
    table = problem_table("t", results(a=[20.0], b=[30.0], c=[30.001]), {"b": "B"}, "a")
    text = markdown(table)
    assert "| B | 1 | **30.00** |" in text
    assert "| c | 1 | **30.00** |" in text
    assert "**20.00**" not in text


def test_times_are_medians():
    found = {"a": {str(k): record(str(k), 20.0) for k in range(3)}}
    for k, seconds in enumerate((1.0, 2.0, 90.0)):
        found["a"][str(k)]["figures"]["seconds"] = seconds
    table = problem_table("t", found, {}, "a")
    assert table.rows[0].cells[table.columns.index("restoration, s")] == "2.0"


def test_lpips_of_two_networks_has_no_mean():
    found = {
        "a": {
            "0": record("0", 20.0, lpips=0.1, lpips_network="vgg"),
            "1": record("1", 20.0, lpips=0.3, lpips_network="alex"),
        }
    }
    table = problem_table("t", found, {}, "a")
    column = table.columns.index("LPIPS (Alex and VGG)")
    assert table.rows[0].cells[column] == "-"
    del found["a"]["1"]
    table = problem_table("t", found, {}, "a")
    assert table.rows[0].cells[table.columns.index("LPIPS (VGG)")] == "0.1000"


@pytest.mark.parametrize("text", ["90 %", "a_b", "x & y"])
def test_latex_is_escaped(text):
    written = latex(Table(text, [text], [Row(text, [text], [None])], [""], []))
    assert written.count("\\" + next(c for c in text if c in "%_&")) == 4
