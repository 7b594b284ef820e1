"""Tables of every command at every width: whole names and numbers, and no line that is longer than the terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from commands import CNN, RELU, SMALL, recurjac
from places import DATA
from processes import environment

from recurjac_plugin.cli import streams
from recurjac_plugin.cli.terminal.tables import EMPTY, print_table, table_of
from recurjac_plugin.verification.agreement import Contradiction

WIDTHS = (60, 80, 120)
BALLS = ("--vnnlib", SMALL)
COMMANDS = {
    "jacobian": (RELU, *BALLS),
    "lipschitz": (RELU, *BALLS, "--eps", "0.001,0.003,0.01,0.03", "--samples", "2", "--steps", "1"),
    "monotone": (RELU, *BALLS, "--samples", "2", "--max-boxes", "1"),
    "monotone --feature": (RELU, *BALLS, "--samples", "64", "--feature", "20"),
    "radius": (RELU, *BALLS, "--max-probes", "2"),
    "landscape": (RELU, *BALLS, "--points", "9", "--max-probes", "2", "--methods", "Fast-Lip,RecurJac,RecurJac-Linear"),
    "compare": (RELU, SMALL, "--methods", "CROWN,Fast-Lip,RecurJac+CROWN", "--attack-seconds", "0"),
    "doctor": (),
    "doctor --audit": ("--audit", "--quick", "--only", "HardSigmoid"),
    "bench": (DATA / "instances.csv", "--only", "*relu_small*"),
}
"""Arguments of every command that prints a table."""

NO_TABLE = {"verify", "check", "supports", "report"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The tables of a command, and what it printed into a pipe, computed once."""
    folder, known = tmp_path_factory.mktemp("bench"), {}

    def of(command):
        if command not in known:
            seen = []

            def keep(table, stream, width):
                seen.append((table, width))
                print_table(table, stream, width)

            more = ("--out", folder / "out") if command == "bench" else ()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(streams, "print_table", keep)
                shown = recurjac(command.split()[0], *COMMANDS[command], *more, code=None)
            known[command] = [table for table, _ in seen], shown.stdout, [width for _, width in seen]
        return known[command]

    return of


def printed(table, width):
    stream = io.StringIO()
    print_table(table, stream, width)
    return stream.getvalue()


def words_of(table):
    """Every text of a table, cut where lines may end in it."""
    for i, texts in enumerate(zip(table.header, *table.rows, strict=True)):
        yield from (word for text in texts for word in (text.split() if i in table.prose else [text]))


def test_every_command_is_looked_at():
    from recurjac_plugin.cli.app import app

    assert {command.name for command in app.registered_commands} == NO_TABLE | {name.split()[0] for name in COMMANDS}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_too_long_and_no_word_is_broken(tables, command, width):
    found = tables(command)[0]
    assert found
    for table in found:
        text = printed(table, width)
        assert max(map(len, text.splitlines())) <= width, text
        cells = {cell.strip() for line in text.splitlines() for cell in re.split("[│┃]", line)}
        whole = cells | {word for cell in cells for word in cell.split()}
        keys = {text for row in table.rows for text in row[: table.keys]}
        lost = {word for word in words_of(table) if word not in whole} - {EMPTY}
        # The key columns of a transposed table stand in its head together.
        assert {word for word in lost if not any(word in cell for cell in cells)} == set()
        assert lost <= keys | set(table.header[: table.keys]), text


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_gets_the_whole_table(tables, command, monkeypatch):
    found, text, widths = tables(command)
    assert set(widths) == {None}
    for columns in ("20", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert all(printed(table, None) in text for table in found)
    assert "\x1b" not in text


def made(columns, rows=3, keys=1, **more):
    header = [f"column {i}" for i in range(columns)]
    body = [[f"row {r}" if i == 0 else 1000.0 * r + i for i in range(columns)] for r in range(rows)]
    return table_of("A title", header, body, keys=keys, **more)


def test_the_form_follows_the_width():
    assert printed(made(4), 80).count("┏") == 1  # as it is
    transposed = printed(made(30), 80)
    assert transposed.count("┏") == 1 and "row 0 ┃ row 1" in transposed
    groups = printed(made(12, rows=40), 60)
    assert groups.count("┏") > 1 and groups.count("row 39") == groups.count("┏")
    blocks = printed(made(12, rows=40), 15)
    assert "┏" not in blocks and "column 11: 11" in blocks.splitlines()


def test_a_word_that_is_longer_than_the_terminal_stays_whole():
    name = "a_network_with_a_name_that_goes_on_and_on_" * 3 + ".onnx"
    table = table_of(f"About {name}", ("file", "seconds"), [(name, 1.5)])
    text = printed(table, 60)
    assert text.count(name) == 2 and "seconds: 1.5" in text


def test_two_columns_of_one_name_are_a_mistake():
    with pytest.raises(AssertionError):
        table_of("", ("seconds", "seconds"), [])


def test_prose_goes_on_between_words():
    text = printed(table_of("", ("a", "for"), [("x", "many words that are longer than this")], prose=(1,)), 24)
    assert max(map(len, text.splitlines())) <= 24 and "┏" in text


def in_a_terminal(columns, *arguments, **variables):
    """What a command shows on a terminal of so many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in environment().items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-m", "recurjac_plugin.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, env=env | variables)
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert process.wait() == 0
    return shown.decode()


ON_A_TERMINAL = ("lipschitz", CNN, "--vnnlib", SMALL, "--eps", "0.001,0.01", "--samples", "2", "--steps", "1")


def test_a_terminal_is_asked_for_its_width():
    shown = in_a_terminal(70, *ON_A_TERMINAL, TERM="xterm")
    assert "\x1b[" in shown and "Radii" not in shown
    lines = [re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", line) for line in shown.splitlines()]
    assert any(re.match(r"│ RecurJac-McCormick +│", line) for line in lines), shown


@pytest.mark.parametrize(("variables", "allowed"), [({"NO_COLOR": "1"}, "0123"), ({"TERM": "dumb"}, "")])
def test_colours_are_left_out_where_they_are_not_wanted(variables, allowed):
    shown = in_a_terminal(100, "doctor", **({"TERM": "xterm"} | variables))
    styles = re.findall("\x1b\\[([0-9;]*)m", shown)
    assert all(code in allowed for style in styles for code in style.split(";")), styles


def test_force_color_gives_styles_to_a_pipe():
    env = environment(FORCE_COLOR="1", TERM="xterm")
    shown = subprocess.run(
        [sys.executable, "-m", "recurjac_plugin.cli", "doctor"], capture_output=True, text=True, env=env, check=True
    )
    assert "\x1b[" in shown.stdout and "\x1b[" not in shown.stderr


def test_quiet_leaves_the_result_alone(tmp_path, image):
    plot = tmp_path / "p.csv"
    arguments = ("lipschitz", RELU, "--vnnlib", SMALL, "--eps", "0.01", "--samples", "0", "--csv", plot)
    loud, quiet = recurjac(*arguments), recurjac(*arguments, "--quiet")
    assert (quiet.stdout, quiet.stderr) == (loud.stdout, "")
    assert "wrote" in loud.stderr
    assert recurjac("verify", RELU, SMALL, "-q").stderr == ""
    assert json.loads(recurjac("verify", RELU, SMALL, "-q", "--json").stdout)["verdict"] == "unsat"
    assert "wrote" in recurjac(*arguments).stderr  # nothing is left of it
    refused = recurjac("verify", RELU, tmp_path / "missing", "--quiet", code=2)
    assert len(refused.stderr.splitlines()) == 1


def test_quiet_hides_no_contradiction(tmp_path, monkeypatch):
    import recurjac_plugin.tables.on_property as on_property

    found = Contradiction("A", "B", 0, None, None, (), "both cannot be right")
    monkeypatch.setattr(on_property, "contradictions", lambda *_: [found])
    result = recurjac("compare", RELU, SMALL, "--methods", "CROWN", "--attack-seconds", "0", "-q", code=1)
    assert "CONTRADICTION: both cannot be right" in result.stdout


def test_things_are_counted_in_words():
    from recurjac_plugin.errors import counted

    assert [counted(n, "box") for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]
    assert [counted(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]
    assert counted(2, "unsupported part") == "2 unsupported parts"
    shown = recurjac("verify", RELU, SMALL).stderr
    assert "1 box," in shown
