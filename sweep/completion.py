"""Completion of `python -m sweep` in the shell: eval "$(python -m sweep.completion)".

Hydra knows which keys and values a command may have, but its own completion is for scripts: `python FILE` and commands
without `-m`. This one asks Hydra on behalf of `python -m sweep`, and leaves every other use of python to the shell.
"""

from __future__ import annotations

SCRIPT = r"""
_sweep_completion() {
    COMPREPLY=()
    local line=${COMP_LINE:0:COMP_POINT} given=() choice
    read -ra given <<< "$line"
    [[ "${given[1]:-} ${given[2]:-}" == "-m sweep" ]] || return 0
    local word=${line##* } asked="sweep${line#*-m sweep}"
    while IFS= read -r choice; do
        [[ -n $choice && $choice == "$word"* ]] || continue
        # Where the shell takes "=" to end a word, only what follows it is being completed.
        if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then choice=${choice#"${word%%=*}="}; fi
        COMPREPLY+=("$choice")
    done < <(COMP_LINE=$asked COMP_POINT=${#asked} "${given[0]}" -m sweep -sc query=bash 2> /dev/null | tr ' ' '\n')
}
if [ -n "${ZSH_VERSION:-}" ]; then autoload -Uz bashcompinit && bashcompinit; fi
complete -o nospace -o default -F _sweep_completion python python3
"""


def main() -> None:
    """Print the shell's commands."""
    print(SCRIPT.strip())


if __name__ == "__main__":
    main()
