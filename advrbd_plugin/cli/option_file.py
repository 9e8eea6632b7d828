"""``--config FILE``: every option of a command in a YAML file, and the options of a run as such a file."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from advrbd_plugin.errors import AdvrBDError

# Of no use in a file, or about where results go and how they are shown: not written, and the first two not read.
_NEVER_READ = ("help", "config")
_CODE = ("model", "network")  # options that may name a function to import
_NEVER_WRITTEN = (*_NEVER_READ, "out", "overwrite", "json", "quiet", "tensorboard")


def add_option(parser: argparse.ArgumentParser) -> None:
    """``--config``; a parser with ``--set`` also takes settings from the file, into ``file_settings``."""
    settings = " and settings (the keys of configs/*.yaml)" if _has_settings(parser) else ""
    parser.add_argument(
        "--config", metavar="FILE", help=f"a YAML file with options of this command{settings}; the command line wins"
    )
    parser.set_defaults(file_settings={})


def apply(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Make the options in the file that ``words`` name the defaults of ``parser``.

    Args:
        parser: of the very command.
        words: what follows the command's name.

    Raises:
        AdvrBDError: the file cannot be read, or holds a key or value that is not allowed.
    """
    path = _named_file(parser, words)
    if path is None:
        return
    from advrbd_plugin.plain import brief, read_yaml

    content = read_yaml(path)
    if not isinstance(content, dict):
        raise AdvrBDError(f"{path} must hold 'key: value' lines, got {type(content).__name__}")
    actions = {name: action for action in parser._actions if (name := _key(action)) not in _NEVER_READ}
    settings: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("_", "-") if isinstance(key, str) else key
        if name in _CODE and is_own_code(value):
            if not any(word == f"--{name}" or word.startswith(f"--{name}=") for word in words):
                raise AdvrBDError(
                    f"{path}: {name} names code of your own, {brief(value)}, which no file may choose: give it on the "
                    f"command line, --{name} {value}"
                )
            continue
        if name == "set" and isinstance(value, dict) and _has_settings(parser):
            settings.update(value)
        elif name in actions and not (name in ("seed", "epochs") and _has_settings(parser)):
            _set_default(parser, actions[name], value, path)
        elif isinstance(key, str) and _has_settings(parser):
            settings[key] = value
        else:
            close = difflib.get_close_matches(str(name)[:100], actions, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the options are {', '.join(actions)}"
            raise AdvrBDError(f"{path}: unknown key {brief(key)}; {hint}")
    parser.set_defaults(file_settings=settings)


def effective(arguments: argparse.Namespace, settings: Mapping[str, Any]) -> str:
    """The options of a run and all settings of its method, as a file for ``--config``."""
    import yaml

    options = {}
    for action in arguments.parser._actions:
        value, name = getattr(arguments, action.dest, None), _key(action)
        left_out = (*_NEVER_WRITTEN, "set", "preset", *settings)
        if name not in left_out and value is not None and value is not False and value != []:
            options[name] = _plain(value)
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    return text + yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)


def is_own_code(value: Any) -> bool:
    """Whether a value of ``--model`` names a function of the user's own."""
    return isinstance(value, str) and ":" in value and not value.startswith(("torchvision:", "timm:"))


def _named_file(parser: argparse.ArgumentParser, words: Sequence[str]) -> str | None:
    """The file of ``--config``, also where the option is abbreviated as far as the command allows."""
    known = [text for action in parser._actions for text in action.option_strings]
    short = ["--config"[:length] for length in range(3, len("--config"))]
    unique = [text for text in short if sum(each.startswith(text) for each in known) == 1]
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", *unique, nargs="?")
    path: str | None = finder.parse_known_args(list(words))[0].config
    return path


def _has_settings(parser: argparse.ArgumentParser) -> bool:
    return any(action.dest == "settings" for action in parser._actions)


def _key(action: argparse.Action) -> str:
    """What an option or argument is called in a file."""
    longest = max(action.option_strings, key=len, default=action.dest)
    return longest.lstrip("-").replace("_", "-")


def _set_default(parser: argparse.ArgumentParser, action: argparse.Action, value: Any, path: str) -> None:
    repeated = isinstance(action, argparse._AppendAction)
    values = value if repeated and isinstance(value, list) else [value]
    found = [_converted(action, each, path) for each in values]
    parser.set_defaults(**{action.dest: found if repeated else found[0]})
    for group in parser._mutually_exclusive_groups:
        if action in group._group_actions:
            group.required = False
    action.required = False
    if not action.option_strings:
        action.nargs, action.default = "?", found[0]


def _converted(action: argparse.Action, value: Any, path: str) -> Any:
    """A value of the file as the option's own type has it."""
    from advrbd_plugin.plain import brief

    name = _key(action)
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise AdvrBDError(f"{path}: {name} must be true or false, got {brief(value)}")
        return value
    if isinstance(value, (dict, bool)) or value is None:
        raise AdvrBDError(f"{path}: {name} must be a value, got {brief(value)}")
    text = ("," if name.endswith("s") else "x").join(map(str, value)) if isinstance(value, list) else str(value)
    convert: Any = action.type or str
    try:
        found = convert(text)
    except (argparse.ArgumentTypeError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, argparse.ArgumentTypeError) else f"invalid value {brief(value)}"
        raise AdvrBDError(f"{path}: {name}: {reason}") from error
    if action.choices is not None and found not in action.choices:
        raise AdvrBDError(f"{path}: {name} must be one of {', '.join(map(str, action.choices))}, got {brief(found)}")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return f"{value[0]}x{value[1]}"
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)
