"""The documentation: its commands parse, its links, paths, names and config fields exist, its code compiles, its site builds."""

import ast
import configparser
import contextlib
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from absl import flags

from configs import default
from mfl_jax import __main__ as mfl_jax_program
from mfl_jax.errors import InputError
from mfl_jax.inference import writers
from mfl_jax.runtime import hosts
from mfl_jax.training import config_checks, experiment_members
from support import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "launch/README.md", "datasets/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
README_LINES = 150
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4}|\t)[^\n]*(?:\n|\Z))+", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[(?:[^\]]|\n)*?\]\(([^)\s]+)\)")
SNIPPET = re.compile(r'^--8<-- "([^"]+)"', re.MULTILINE)
COMMAND_MODULES = ("main", "experiment", "evaluate", "import_labels", "predict", "report", "export")
WITH_CONFIG = ("main", "experiment")
FOLDERS = ("mfl_jax", "configs", "datasets", "launch", "tests", "benchmarks", "examples", "docs", ".ci")
NAMES_OF_LATER_FILES = ("mfl_jax/data", "datasets/recordings")
"""Paths in the documentation of files that a run makes."""


def code_blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yields language and content of each code block; indented blocks have the language ''."""
    for indent, language, content in FENCE.findall(text):
        yield language, re.sub(rf"^{indent}", "", content, flags=re.MULTILINE)
    for block in INDENTED.findall(FENCE.sub("\n", text)):
        yield "", re.sub(r"^(    |\t)", "", block, flags=re.MULTILINE)


def inline_code(text: str) -> list[str]:
    """Returns the contents of inline code, unwrapped."""
    return [" ".join(code.split()) for code in INLINE.findall(FENCE.sub("\n", text))]


def shell_commands(text: str) -> Iterator[list[str]]:
    """Yields the words of each simple command in shell blocks and inline code, without variables set in front of it."""
    blocks = [content for language, content in code_blocks(text) if language in ("", "bash")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *inline_code(text)]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        try:
            words = list(lexer)
        except ValueError:  # prose in an indented block
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set(";&|()<>"):
                yield command
                command = []
            elif command or not re.fullmatch(r"do|[A-Z_]+=.*", word):
                command.append(word)


@contextlib.contextmanager
def flags_of(module) -> Iterator[flags.FlagValues]:
    """The flags of a command, defined while the context lasts."""
    before = set(flags.FLAGS)
    hosts.define_flags()
    if hasattr(module, "define_flags"):
        module.define_flags()
    try:
        yield flags.FLAGS
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


def module_problem(name: str, arguments: list[str]) -> str | None:
    """Says what is wrong with the arguments of `python -m mfl_jax.NAME`, or nothing."""
    if name not in COMMAND_MODULES:
        return f"no command mfl_jax.{name}"
    module = importlib.import_module(f"mfl_jax.{name}")
    with flags_of(module) as values:
        # ml_collections looks for the fields in sys.argv.
        try:
            sys.argv, before = [name, *(re.sub(r"\$\w+", "0", word) for word in arguments)], sys.argv
            try:
                rest = values(sys.argv)[1:]
            finally:
                sys.argv = before
            if name in WITH_CONFIG:
                if rest:
                    return f"unexpected {rest}"
                if values.config is None:
                    return None if not arguments else "--config is missing"
                config_checks.check_config(values.config)
                if ("systems" in values.config) != (name == "experiment"):
                    return f"mfl_jax.{name} does not take this config"
                if name == "experiment":
                    experiment_members.expand_members(values.config)
            if name == "predict" and (unknown := set(values.write) - set(writers.FORMATS)):
                return f"no output format {unknown}"
        except (flags.Error, InputError, OSError, KeyError, AttributeError, ValueError, TypeError) as error:
            return str(error).strip().splitlines()[-1]
    return None


def program_problem(arguments: list[str]) -> str | None:
    """Says what is wrong with the arguments of `mfl-jax`, or nothing."""
    if not arguments or arguments[0].startswith("-"):
        return None
    name, *rest = arguments
    if name not in mfl_jax_program.COMMANDS:
        return f"no command mfl-jax {name}"
    command = mfl_jax_program.find_command(name, rest)
    return module_problem(command.module, [*command.flags, *rest]) if rest else None


def benchmark_problem(name: str, arguments: list[str]) -> str | None:
    """Says what is wrong with the arguments of `python -m benchmarks.NAME`, or nothing."""
    files = (ROOT / "benchmarks" / f"{name}.py", ROOT / "benchmarks" / name / "__main__.py")
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return f"no benchmark {name}"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (results,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "results")
    known = {f"--{argument.arg}" for argument in results.args.kwonlyargs}
    unknown = {argument.partition("=")[0] for argument in arguments} - known
    return f"benchmarks.{name} has no {sorted(unknown)[0]}" if unknown else None


def launch_problem(script: str, arguments: list[str]) -> str | None:
    """Says what is wrong with the arguments of a script of launch/, or nothing."""
    file = ROOT / script
    if not file.is_file():
        return f"no {script}"
    if not script.endswith(".sh") or not arguments or script.endswith(("test.sh", "tpu_worker.sh")):
        return None
    if script.endswith("local.sh"):
        return module_problem("main", arguments)
    own, run = arguments, None
    if "--" in arguments:
        own, run = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    text = file.read_text(encoding="utf-8")
    module = "main"
    for word in own:
        name, equals, value = word.partition("=")
        if f" {name}{'=*' if equals else ''})" not in text:
            return f"{script} has no {name}"
        module = value.removeprefix("mfl_jax.") if name == "--module" else module
    return None if run is None else module_problem(module, run)


def python_problem(words: list[str]) -> str | None:
    """Says what is wrong with a call of Python, or nothing."""
    if words[:1] == ["-m"] and len(words) > 1:
        package, _, name = words[1].partition(".")
        if package == "mfl_jax":
            return module_problem(name, words[2:])
        return benchmark_problem(name, words[2:]) if package == "benchmarks" else None
    if words and words[0].endswith(".py"):
        file = ROOT / words[0]
        if not file.is_file():
            return f"no {words[0]}"
        text = file.read_text(encoding="utf-8")
        flag_names = [word[2:].partition("=")[0] for word in words[1:] if word.startswith("--")]
        return next((f"{words[0]} has no --{name}" for name in flag_names if not re.search(f'"(--)?{name}"', text)), None)
    return None


def extras_problem(names: str) -> str | None:
    """Says which of some extras, separated by commas, setup.cfg lacks, or nothing."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    unknown = set(names.split(",")) - set(setup["options.extras_require"])
    return f"no extra {sorted(unknown)[0]} in setup.cfg" if unknown else None


def command_problems(text: str) -> list[str]:
    """Checks every command of a page against the program it starts."""
    problems = [extras_problem(names) for names in re.findall(r"(?:\.\[|mfl_jax\[|MFL_JAX_EXTRAS=)([a-z]+(?:,[a-z]+)*)", text)]
    for words in shell_commands(text):
        if not words:
            continue
        program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
        if re.fullmatch(r"python(3(\.\d+)?)?", program):
            problem = python_problem(arguments)
        elif program == "mfl-jax":
            problem = program_problem(arguments)
        elif re.fullmatch(r"launch/[\w.]+", program):
            problem = launch_problem(program, arguments)
        else:
            continue
        problems.append(problem and f"{shlex.join(words)}: {problem}")
    return [problem for problem in problems if problem]


def field_problems(text: str) -> list[str]:
    """Checks that the config fields and modes of inline code exist."""
    known = default.experiment("any", [])
    problems = []
    for code in inline_code(text):
        for name in re.findall(r"(?<![\w.])config\.([a-z_.]+)", code):
            section, place = known, name.strip(".").split(".")
            for part in place:
                if part in ("py", "json"):  # a file
                    break
                if not hasattr(section, "keys") or part not in section:
                    problems.append(f"no field config.{name}")
                    break
                section = section[part]
        for mode in re.findall(r"--mode=(\w+)", code):
            if mode not in ("train", "evaluate", "tune", "prepare"):
                problems.append(f"no --mode={mode}")
    return problems


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("\n", text), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-") for heading in headings}


def link_problems(text: str, folder) -> list[str]:
    """Checks that the targets of relative links exist, headings included, and so do included files."""
    problems = [f"no file {name} to include" for name in SNIPPET.findall(text) if not (ROOT / name).is_file()]
    for target in LINK.findall(FENCE.sub("\n", text)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (folder / path).resolve() if path else None
        if file is not None and not file.exists():
            problems.append(f"no {target}")
        elif anchor and anchor not in anchors(text if file is None else file.read_text(encoding="utf-8")):
            problems.append(f"no heading for {target}")
    return problems


def path_problems(text: str) -> list[str]:
    """Checks that files and Python names of the project in inline code exist."""
    problems = []
    for code in inline_code(text):
        word = code.split()[0].partition(":")[0].rstrip("/")
        if re.fullmatch(rf"({'|'.join(map(re.escape, FOLDERS))})/[\w./-]+", word):
            if not (ROOT / word).exists() and word not in NAMES_OF_LATER_FILES:
                problems.append(f"no file {word}")
        elif re.fullmatch(r"mfl_jax(\.\w+)+", code.partition("(")[0]) and not python_name_exists(code.partition("(")[0]):
            problems.append(f"no Python name {code}")
    return problems


def python_name_exists(name: str) -> bool:
    """Whether a dotted name is a module of the project, or defined at the top level of one; imports nothing."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.is_file():
            rest = parts[length:]
            return not rest or re.search(rf"^(def|class) {rest[0]}\b|^{rest[0]}\b.*=", file.read_text(), re.M) is not None
    return False


def python_problems(text: str) -> list[str]:
    """Checks that Python snippets compile."""
    problems = []
    for language, content in code_blocks(text):
        if language == "python" or (not language and re.match(r"(import|from) \w", content)):
            try:
                compile(content, "snippet", "exec")
            except SyntaxError as error:
                problems.append(f"{error.msg}: {error.text}")
    return problems


def diff_problems(text: str) -> list[str]:
    """Checks that diffs apply to the code, with one line of context."""
    problems = []
    for language, content in code_blocks(text):
        if language == "diff":
            call = ["git", "apply", "--check", "-C1", "-"]
            done = subprocess.run(call, input=content, capture_output=True, text=True, cwd=ROOT, check=False)
            problems += [done.stderr.strip()] if done.returncode else []
    return problems


def current_names(page) -> str:
    """The text of a page; of the changelog's table of renamed modules, only the new names."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^\| `mfl_jax\.\w+`( \(functions\))? \|", "|", text, flags=re.MULTILINE)


@pytest.fixture(params=PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def page(request):
    return request.param


def test_commands_parse(page):
    assert command_problems(page.read_text(encoding="utf-8")) == []


def test_config_fields_exist(page):
    assert field_problems(page.read_text(encoding="utf-8")) == []


def test_links_lead_somewhere(page):
    assert link_problems(page.read_text(encoding="utf-8"), page.parent) == []


def test_paths_and_names_exist(page):
    assert path_problems(current_names(page)) == []


def test_python_snippets_compile(page):
    assert python_problems(page.read_text(encoding="utf-8")) == []


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_diffs_apply(page):
    assert diff_problems(page.read_text(encoding="utf-8")) == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_every_command_is_documented():
    """The pages together show each command, and enough commands that finding none would be noticed."""
    commands = [" ".join(words) for page in PAGES for words in shell_commands(page.read_text(encoding="utf-8")) if words]
    for module in COMMAND_MODULES:
        assert any(f"-m mfl_jax.{module}" in command for command in commands), module
    assert sum("mfl_jax." in command or command.startswith("launch/") for command in commands) > 40


@pytest.mark.ci_only
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed (extra docs)")
def test_site_builds(tmp_path):
    call = ["mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([sys.executable, "-m", *call], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "training.html").read_text(encoding="utf-8").count("multi_focal_loss") > 2
    for file in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', file.read_text(encoding="utf-8"))
        assert loaded == [], file


BAD_SAMPLES: list[tuple[Callable, str, str]] = [
    (command_problems, "    python -m mfl_jax.main --config=configs/none.py", "none.py"),
    (command_problems, "    python -m mfl_jax.main --config=configs/proposed.py --config.alhpa=1", "alhpa"),
    (command_problems, "    python -m mfl_jax.main --config=configs/proposed.py --config.alpha=much", "much"),
    (command_problems, "    python -m mfl_jax.main --config=configs/proposed.py --config.compute=float16", "float16"),
    (command_problems, "    python -m mfl_jax.main --config=configs/proposed.py:fast", "fast"),
    (command_problems, "    python -m mfl_jax.main --config=configs/table4.py", "does not take"),
    (command_problems, "    python -m mfl_jax.main --alpha=1", "alpha"),
    (command_problems, "`python -m mfl_jax.main --config=configs/proposed.py --mode=tain`", "tain"),
    (command_problems, "```bash\n.venv/bin/python -m mfl_jax.man --help\n```", "mfl_jax.man"),
    (command_problems, "    python -m mfl_jax.experiment --config=configs/table4.py --config.seeds=0", "seeds"),
    (command_problems, "    python -m mfl_jax.predict --checkpoint=runs/x --write=midi DIR", "midi"),
    (command_problems, "    python -m mfl_jax.export --format=tflite", "tflite"),
    (command_problems, "    python -m mfl_jax.evaluate A B --offset_part=0.2", "offset_part"),
    (command_problems, "    X=1 launch/local.sh \\\n      --config=configs/proposed.py --work=x", "work"),
    (command_problems, "    launch/gpu.sh --cards=2 -- --config=configs/proposed.py", "--cards"),
    (command_problems, "    launch/slurm.sh --nodes=2 -- --config=configs/none.py", "none.py"),
    (command_problems, "    launch/cloud.sh", "launch/cloud.sh"),
    (command_problems, "    for I in 0 1; do A=1 python -m benchmarks.fast & done", "no benchmark fast"),
    (command_problems, "    python -m benchmarks.soak --kill=50", "--kill"),
    (command_problems, "    python examples/analyze.py", "analyze.py"),
    (command_problems, "    pip install -e '.[gpu]'", "no extra gpu"),
    (command_problems, "    pip install 'mfl_jax[gpu]'", "no extra gpu"),
    (command_problems, "    mfl-jax trian --config=proposed", "no command mfl-jax trian"),
    (command_problems, "`mfl-jax train --config=propsed`", "propsed"),
    (command_problems, "    mfl-jax predict --chekpoint=x", "chekpoint"),
    (command_problems, "    MFL_JAX_EXTRAS=peer,evil launch/test.sh", "no extra evil"),
    (field_problems, "`config.keep_each=3`", "config.keep_each"),
    (field_problems, "`config.audio.clip`", "config.audio.clip"),
    (field_problems, "`--mode=test`", "--mode=test"),
    (lambda text: link_problems(text, ROOT), "[a\npage](docs/none.md)", "docs/none.md"),
    (lambda text: link_problems(text, ROOT), "[here](#nowhere)\n\n# Somewhere", "#nowhere"),
    (lambda text: link_problems(text, ROOT), "![picture](docs/images/none.png)", "none.png"),
    (lambda text: link_problems(text, ROOT), '--8<-- "none.md"', "none.md"),
    (path_problems, "`mfl_jax/step.py`", "mfl_jax/step.py"),
    (path_problems, "`configs/propose.py:quick`", "configs/propose.py"),
    (path_problems, "`mfl_jax.losses`", "mfl_jax.losses"),
    (path_problems, "`mfl_jax.metrics.frame_score(x)`", "frame_score"),
    (python_problems, "```python\nmodel = load(\n```", "was never closed"),
    (python_problems, "    import json\n    x = = 1\n", "invalid syntax"),
    (
        diff_problems,
        "```diff\n--- a/setup.cfg\n+++ b/setup.cfg\n@@ -1,2 +1,2 @@\n [metadata]\n-name = other\n+name = x\n```",
        "setup.cfg",
    ),
]


@pytest.mark.parametrize("check, sample, problem", BAD_SAMPLES, ids=[sample[1].strip()[:60] for sample in BAD_SAMPLES])
def test_checks_can_fail(check, sample, problem):
    assert any(problem in found for found in check(sample)), check(sample)
