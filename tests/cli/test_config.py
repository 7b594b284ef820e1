"""Options from a file: which file, which of its values count, and what is refused."""

from __future__ import annotations

import pytest
from commands import RELU, SMALL, answer, recurjac

ASKED = ("lipschitz", RELU, "--vnnlib", SMALL)
LIPSCHITZ = 'methods = "Fast-Lip"\neps = [0.01, 0.02]\nsamples = 0\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(result):
    """Methods, radii and norm that a result is about."""
    entries = result["constants"]
    return {entry["asked"] for entry in entries}, sorted({entry["eps"] for entry in entries}), result["norm"]


@pytest.mark.parametrize(
    ("name", "head"), [("recurjac.toml", "[lipschitz]"), ("pyproject.toml", "[tool.recurjac.lipschitz]")]
)
def test_a_file_in_the_working_directory(folder, name, head):
    (folder / name).write_text(f"{head}\n{LIPSCHITZ}norm = 2\n")
    assert asked(answer(*ASKED)) == ({"Fast-Lip"}, [0.01, 0.02], "2")


def test_the_command_line_comes_before_the_file_and_a_table_before_the_top(folder):
    (folder / "recurjac.toml").write_text(
        f'norm = 1\ninput-norm = "inf"\ntimeout = 5\n[lipschitz]\n{LIPSCHITZ}norm = 2\n'
    )
    assert asked(answer(*ASKED)) == ({"Fast-Lip"}, [0.01, 0.02], "2")
    given = answer(*ASKED, "--methods", "RecurJac", "--eps", "0.03", "--norm", "inf")
    assert asked(given) == ({"RecurJac"}, [0.03], "inf")
    assert given["input_norm"] == "inf"
    assert answer("jacobian", RELU, "--vnnlib", SMALL, "--norm", "inf")["norm"] == "inf"


def test_our_own_file_hides_the_shared_one_and_a_named_file_both(folder):
    (folder / "pyproject.toml").write_text(f"[tool.recurjac.lipschitz]\n{LIPSCHITZ}norm = 1\n")
    (folder / "recurjac.toml").write_text(f"[lipschitz]\n{LIPSCHITZ}norm = 2\n")
    (folder / "other.toml").write_text(f"[lipschitz]\n{LIPSCHITZ}norm = 'inf'\n")
    assert answer(*ASKED)["norm"] == "2"
    assert answer(*ASKED, "--config", "other.toml")["norm"] == "inf"
    (folder / "recurjac.toml").unlink()
    assert answer(*ASKED)["norm"] == "1"


def test_a_project_of_somebody_else_says_nothing(folder):
    (folder / "pyproject.toml").write_text("[project\nthis is no TOML")
    assert recurjac("verify", RELU, SMALL).stdout == "unsat\n"
    (folder / "pyproject.toml").write_text('[project]\nname = "uses recurjac"\n')
    assert recurjac("verify", RELU, SMALL).stdout == "unsat\n"


@pytest.mark.parametrize("text", ["tool = 'recurjac'\n", "[[tool]]\nrecurjac = 1\n"])
def test_a_tool_that_is_no_table_says_nothing(folder, text):
    (folder / "pyproject.toml").write_text(text)
    assert recurjac("verify", RELU, SMALL).stdout == "unsat\n"


@pytest.mark.parametrize("text", ["[tool]\nrecurjac = 5\n", "[[tool.recurjac]]\nmethod = 'CROWN'\n"])
def test_options_of_the_project_must_be_a_table(folder, text):
    (folder / "pyproject.toml").write_text(text)
    (line,) = recurjac("verify", RELU, SMALL, code=2).stderr.splitlines()
    assert "`tool.recurjac` must be a table" in line


def test_flags_and_the_common_options(folder):
    (folder / "recurjac.toml").write_text("quiet = true\n[verify]\njson = true\nsplit = false\nmethod = 'CROWN'\n")
    shown = recurjac("verify", RELU, SMALL)
    assert shown.stdout.startswith('{"command": "verify"') and shown.stderr == ""
    assert '"method": "CROWN"' in shown.stdout
    (folder / "recurjac.toml").write_text("[bench]\nonly = ['*relu_small*']\nout = 'results'\n")
    assert '"instances": 1' in recurjac("bench", RELU.replace("digits_relu.onnx", "instances.csv"), "--json").stdout
    assert (folder / "results" / "results.csv").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nrom = 2", "has `nrom`, which is no option; did you mean `norm`?"),
        ("[lipschtz]", "has `lipschtz`, which is no command; did you mean `lipschitz`?"),
        ("[lipschitz]\nmetods = 'x'", "has `metods`, which is no option of `lipschitz`; did you mean `methods`?"),
        ("[verify]\nsamples = 1", "has `samples`, which is no option of `verify`"),
        ("[lipschitz]\nconfig = 'x'", "has `config`, which is no option of `lipschitz`"),
        ("[lipschitz]\nmodel = 'x'", "has `model`, which is no option of `lipschitz`"),
        ("lipschitz = 3", "`lipschitz` is a command; write its options below a line `[lipschitz]`"),
        ("[lipschitz]\nsamples = 'many'", "`samples` is 'many', expected a whole number"),
        ("[lipschitz]\nsamples = 1.5", "`samples` is 1.5, expected a whole number"),
        ("[lipschitz]\nsamples = true", "`samples` is true, expected a whole number"),
        ("[lipschitz]\nrigorous = 1", "`rigorous` is 1, expected true or false"),
        ("norm = [2]", "`norm` is [2], expected a text"),
        ("[lipschitz]\neps = {a = 1}", "`eps` is a table, expected a list, or a text"),
        ("[lipschitz]\ndtype = 'float16'", "float16"),
        ("a =", "is not TOML"),
    ],
)
def test_what_is_refused(folder, text, words):
    (folder / "recurjac.toml").write_text(text)
    (line,) = recurjac(*ASKED, "--eps", "0.01", code=2).stderr.splitlines()
    assert line.startswith("error: ") and words in line


def test_a_named_file_must_be_there(folder):
    (line,) = recurjac(*ASKED, "--eps", "0.01", "--config", "missing.toml", code=2).stderr.splitlines()
    assert "`missing.toml` does not exist" in line


def test_help_is_shown_whatever_the_file_says(folder):
    (folder / "recurjac.toml").write_text("a =")
    assert "--config" in recurjac("lipschitz", "--help").stdout
