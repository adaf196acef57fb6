"""python dev.py demo | serve | promises | test | check | bench NAME | train | docs, on any system."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - the sentence is for those who still have an older one
    sys.exit("This is Python " + sys.version.split()[0] + "; 3.10 or newer is needed. Run dev.py with a newer python.")

import argparse
from pathlib import Path

from tools import disk, environment
from tools.refusal import Refusal


def main(argv: list[str]) -> int:
    """One sentence and status 1 where a person can mend what stopped it; anything else keeps its traceback."""
    try:
        return _run(argv)
    except Refusal as refusal:
        sys.exit(str(refusal))
    except OSError as error:
        if not disk.is_full(error):
            raise
        sys.exit(disk.sentence(error))
    except KeyboardInterrupt:
        return 130


def _run(argv: list[str]) -> int:
    request, rest = parse(argv)
    python = environment.interpreter()
    if not environment.is_running(python):
        return environment.rerun(python, [__file__, *argv])
    from tools import commands  # needs what the environment has

    return commands.COMMANDS[request.command](request, rest)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The request, and the arguments that `test` hands to pytest and `bench` to the benchmark."""
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _demo(commands.add_parser("demo", help="learn the example concept, or your own, in a real ComfyUI"))
    serve = commands.add_parser("serve", help="ComfyUI's page with this pack, until Ctrl-C")
    serve.add_argument("--port", type=int, help="default: a free one")
    serve.add_argument("--no-browser", action="store_true", help="only print the page's address")
    commands.add_parser("promises", help="learn 20 steps in this ComfyUI and say which promises hold there")
    commands.add_parser("test", help="all rings of tests; further arguments go to pytest", add_help=False)
    commands.add_parser("check", help="ruff, pyright and node --test")
    bench = commands.add_parser("bench", help="one table of benchmarks/; further arguments go to it", add_help=False)
    bench.add_argument("name", help="a file of benchmarks/, without .py")
    commands.add_parser("train", help="the playground's weights; further arguments go to it", add_help=False)
    commands.add_parser("docs", help="docs/compatibility.md, from the cases that the tests run")
    request, rest = parser.parse_known_args(argv)
    if rest and request.command not in ("test", "bench", "train"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return request, rest


def _demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--images", type=Path, metavar="FOLDER", help="your own pictures of one thing or style")
    demo.add_argument("--class-word", metavar="WORD", help="what they show, as in: mug")
    demo.add_argument("--placeholder", metavar="NAME", help="the word to learn, as in: <mug>")
    demo.add_argument("--checkpoint", type=Path, metavar="FILE", help="an SD 1.5 or SDXL checkpoint to learn on")
    demo.add_argument("--clip-vision", type=Path, metavar="FILE", help="an image encoder that scores its pictures")
    demo.add_argument("--port", type=int, help="default: a free one")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
