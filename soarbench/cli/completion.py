"""``completion``: a script that completes the command ``soarbench`` in a shell.

All words stand in the script, so that a shell asks no Python, which would take a second a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.console import Console

from soarbench.cli.help import CHOICES, own_keys_of, takes
from soarbench.common.errors import UserError
from soarbench.common.strict import did_you_mean
from soarbench.config.composition import compose_choices
from soarbench.config.folders import options
from soarbench.config.keys import Options

#: Prints the words that may follow those before the cursor: first those of ``lab build``, then of
#: ``lab``, then the commands.
_LOOK_UP = """\
_soarbench_after() {
  case "$1 $2" in
%s  esac
  case "$1" in
%s  esac
}
_soarbench_words() {
  local word
  if [ "$3" = 1 ]; then set -- "" "" 1; fi
  for word in $(_soarbench_after "$1" "$2"); do
    case "$cur" in *=*) ;; *) case "$word" in *=*) word="${word%%=*}=" ;; esac ;; esac
    case "$word" in "$cur"*) echo "$word" ;; esac
  done | sort -u
}
"""
_BASH = """\
_soarbench() {
  local line="${COMP_LINE:0:COMP_POINT}" cur word
  local -a before
  cur="${line##* }"
  read -ra before <<< "${line%%"$cur"}"
  COMPREPLY=()
  while IFS= read -r word; do
    [[ $word == *= ]] || word="$word "
    # Of a word with a sign in it bash replaces what follows the sign.
    [[ $cur == *=* && $COMP_WORDBREAKS == *=* ]] && word="${word#*=}"
    [[ -n $word ]] && COMPREPLY+=("$word")
  done < <(_soarbench_words "${before[1]}" "${before[2]}" "${#before[@]}")
}
complete -o nospace -o bashdefault -o default -F _soarbench soarbench
"""
_ZSH = """\
_soarbench() {
  local cur="${words[CURRENT]}"
  local -a found keys
  found=(${(f)"$(_soarbench_words "${words[2]}" "${words[3]}" $((CURRENT - 1)))"})
  keys=(${(M)found:#*=})
  found=(${found:#*=})
  compadd -S '' -- $keys
  compadd -- $found
  (( $#found + $#keys )) || { compset -P "*="; _files }
}
compdef _soarbench soarbench
"""
_FISH = """\
function __soarbench_after
    set -l before (commandline -opc)
    set -l cur (commandline -ct)
    set -l words
    switch "$before[2] $before[3]"
%s    end
    if test -z "$words"
        switch "$before[2]"
%s        end
    end
    for word in (string split ' ' -- $words)
        if string match -q '*=*' -- $cur; or not string match -q '*=*' -- $word
            echo $word
        else
            string replace -r '=.*' '=' -- $word
        end
    end | sort -u
end
complete -c soarbench -f -a '(__soarbench_after)'
"""
SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, kw_only=True)
class CompletionOptions(Options):
    """``completion`` takes the name of a shell alone."""

    settings: ClassVar[tuple[str, ...] | None] = ()


def completion(
    shell: str, _options: CompletionOptions, _words: Sequence[str], *, console: Console
) -> int:
    """Print the script; ``UserError`` for another shell."""
    if shell not in SHELLS:
        raise UserError(f"completion {shell}: {did_you_mean(shell, SHELLS)}")
    # Past rich, which would wrap and mark it.
    console.file.write(script(shell, words_by_command()))
    return 0


def script(shell: str, words: Mapping[str, Sequence[str]]) -> str:
    """The script of a shell, with the words that may follow each command; ``""``: nothing."""
    pairs = {name: after for name, after in words.items() if " " in name}
    others = {name: after for name, after in words.items() if " " not in name}
    if shell == "fish":
        return _FISH % ("".join(map(_fish_case, pairs.items())),
                        "".join(map(_fish_case, others.items())))  # fmt: skip
    look_up = _LOOK_UP % (
        "".join(_case(name, after, "; return") for name, after in pairs.items()),
        "".join(_case(name, after) for name, after in others.items()),
    )
    return look_up + (_BASH if shell == "bash" else _ZSH)


def _case(name: str, after: Sequence[str], last: str = "") -> str:
    return f"    '{name}') echo '{' '.join(after)}'{last} ;;\n"


def _fish_case(item: tuple[str, Sequence[str]]) -> str:
    return f"        case '{item[0]}'\n            set words '{' '.join(item[1])}'\n"


def words_by_command() -> dict[str, list[str]]:
    """Every word that may follow a command: flags, ``key=``, and ``group=name``."""
    from soarbench.cli.app import function_of, options_of
    from soarbench.cli.commands import COMMANDS

    settings = _settings()
    words = {"": list(dict.fromkeys(name.split()[0] for name in COMMANDS))}
    for name, command in COMMANDS.items():
        first, _, action = name.partition(" ")
        words.setdefault(first, [])
        if action:
            words[first].append(action)
        kind = options_of(function_of(name))
        own = [f"{key}=" for key in own_keys_of(kind)] if kind else []
        taken = [word for word in settings if word.split("=")[0].split(".")[0] in takes(kind)]
        words.setdefault(name, [])
        words[name] += [*command.flags, "--cfg", "--help", *own, *taken]
    words["completion"] += SHELLS
    return words


def _settings() -> list[str]:
    """Choices of YAML by name, and every other key of a run."""
    choices = [f"{group}={name}" for group in CHOICES for name in options(group)]
    keys = dict.fromkeys(_keys())
    # A group as a whole is seldom set, and its keys begin with it.
    groups = {key.rpartition(".")[0] for key in keys} | {*CHOICES}
    return [*choices, *(f"{key}=" for key in keys if key not in groups)]


def _keys() -> Iterator[str]:
    chosen = [[f"method={method}"] for method in options("method")]
    for choices in [*chosen, ["method=sft", "model=sd35_medium"]]:
        known = compose_choices(choices).known()
        # Of names of one's own, and of judges, there are hundreds.
        yield from (k for k in known if "NAME" not in k and not k.startswith("judge."))
