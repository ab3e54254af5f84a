"""Print docs/cli.md: every command's help text, as the program gives it."""

import contextlib
import io

from rich.console import Console

from flyweight.cli import VERBS, app, load_verbs


def help_text(*words: str) -> str:
    """What ``flyweight WORDS --help`` prints on a terminal 100 columns wide, without colours."""
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        app.help_print(list(words), console=Console(file=screen, width=100, no_color=True, force_terminal=False))
    return "\n".join(line.rstrip() for line in screen.getvalue().strip().splitlines())


def main() -> None:
    load_verbs()
    print("# Commands\n\nPrinted by `scripts/print_cli_reference.py`; a test keeps it current.\n")
    print(f"```text\n{help_text()}\n```")
    for verb in VERBS:
        for words in ([verb], *([verb, name] for name in app[verb] if not name.startswith("-"))):
            print(f"\n## flyweight {' '.join(words)}\n\n```text\n{help_text(*words)}\n```")


if __name__ == "__main__":
    main()
