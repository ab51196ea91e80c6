"""``amorsize completion bash|zsh|fish``: a script that completes verbs, actions and options, made from the parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

from amorsize_executor.cli.render import Renderer

_BASH = """\
# bash completion for amorsize; load it with: eval "$(amorsize completion bash)"
_amorsize() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} place= words= files= part
    if [[ $word == "=" ]]; then  # bash takes --option=value for three words
        word=
    elif [[ $previous == "=" ]]; then
        previous=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for part in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$place $part" in
%(paths)s
        esac
    done
    case "$place $previous" in
%(values)s
    esac
    case "$place" in
%(words)s
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [[ $files && $word != -* ]]; then
        COMPREPLY+=($(compgen -f -- "$word"))
    fi
}
complete -o filenames -F _amorsize amorsize
"""
_ZSH = """\
# zsh completion for amorsize; load it with: eval "$(amorsize completion zsh)"
autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
"""
_FISH = """\
# fish completion for amorsize; load it with: amorsize completion fish | source
"""


class Option(NamedTuple):
    """A word that can stand at some place, its meaning, and what may follow it; without words, any file's name."""

    words: tuple[str, ...]
    text: str
    choices: tuple[str, ...] = ()
    takes_file: bool = False
    takes_value: bool = False


Places = dict[tuple[str, ...], list[Option]]
"""What can stand behind each path of verb and action."""


def add_to(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the parser."""
    parser = verbs.add_parser("completion", parents=[common], help="print a script that completes words in a shell")
    parser.add_argument("shell", choices=tuple(_SHELLS))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Print the script."""
    from amorsize_executor.cli.main import make_parser  # noqa: PLC0415 - it knows all verbs

    script = _SHELLS[arguments.shell](collect(make_parser()))
    renderer.show({"shell": arguments.shell, "script": script}, script.rstrip("\n"))


def collect(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Places:
    """Return what a parser and those below it take."""
    found: Places = {path: []}
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to ask
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            texts = {entry.dest: entry.help or "" for entry in action._choices_actions}  # noqa: SLF001
            for name, below in action.choices.items():
                found[path].append(Option((name,), texts.get(name, "")))
                found |= collect(below, (*path, name))
        elif action.option_strings:
            text = (action.help or "") % {"default": action.default, "prog": "amorsize"}
            choices = tuple(map(str, action.choices or ()))
            takes_file = action.nargs != 0 and action.metavar in ("FILE", "DIR")
            found[path].append(Option(tuple(action.option_strings), text, choices, takes_file, action.nargs != 0))
        elif action.choices:
            found[path] += [Option((str(choice),), action.help or "") for choice in action.choices]
        elif action.dest in ("file", "function"):
            found[path].append(Option((), action.help or ""))
    return found


def make_bash(places: Places) -> str:
    """Return a script for bash."""
    words = [
        f'        "{_joined(path)}") words="{" ".join(word for option in options for word in option.words)}"'
        f"{'' if all(option.words for option in options) else ' files=yes'} ;;"
        for path, options in places.items()
    ]
    values = [
        f"        {_pattern(path, option)}) COMPREPLY=({_bash_values(option)}); return ;;"
        for path, options in places.items()
        for option in options
        if option.takes_value
    ]
    return _BASH % {"paths": "\n".join(_paths(places)), "values": "\n".join(values), "words": "\n".join(words)}


def _bash_values(option: Option) -> str:
    if option.takes_file:
        return '$(compgen -f -- "$word")'
    return f'$(compgen -W "{" ".join(option.choices)}" -- "$word")'


def make_zsh(places: Places) -> str:
    """Return a script for zsh, which knows how to use one of bash's."""
    return _ZSH + make_bash(places).partition("\n")[2]


def make_fish(places: Places) -> str:
    """Return a script for fish."""
    lines = [_FISH.rstrip("\n")]
    for path, options in places.items():
        if path:
            condition = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in path)
        else:
            condition = "__fish_use_subcommand"
        below = [word for option in options for word in option.words[:1] if not word.startswith("-")]
        if path and below:
            condition += f"; and not __fish_seen_subcommand_from {' '.join(below)}"
        lines += [
            f"complete -c amorsize -n {_quote(condition)} {' '.join(_fish_parts(option))}"
            for option in options
            if option.words
        ]
    return "\n".join(lines) + "\n"


def _fish_parts(option: Option) -> Iterator[str]:
    for word in option.words:
        if word.startswith("--"):
            yield f"-l {word[2:]}"
        elif word.startswith("-"):
            yield f"-s {word[1:]}"
        else:
            yield f"-f -a {word}"
    if option.choices:
        yield f"-x -a {_quote(' '.join(option.choices))}"
    elif option.takes_file:
        yield "-r -F"
    elif option.takes_value:
        yield "-x"
    if option.text:
        yield f"-d {_quote(option.text)}"


def _paths(places: Places) -> Iterator[str]:
    """Yield the lines by which a script knows how deep the words are."""
    for path in places:
        if path:
            yield f'            "{_joined(path[:-1])} {path[-1]}") place="{_joined(path)}" ;;'


def _pattern(path: tuple[str, ...], option: Option) -> str:
    return "|".join(f'"{_joined(path)} {word}"' for word in option.words)


def _joined(path: tuple[str, ...]) -> str:
    return " ".join(path)


def _quote(text: str) -> str:
    """Quote text for fish."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_SHELLS = {"bash": make_bash, "zsh": make_zsh, "fish": make_fish}
