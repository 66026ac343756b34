# Those of the other arguments that begin with the first one. Bash replaces only what follows the last = or : of a word.
_thrufs_reply() {
    local word="$1" cut="" candidate
    shift
    if [[ "${COMP_WORDBREAKS}" == *=* ]]; then
        cut="${word%"${word##*[=:]}"}"
    fi
    COMPREPLY=()
    for candidate in "$@"; do
        if [[ "${candidate}" == "${word}"* ]]; then
            COMPREPLY+=( "${candidate#"${cut}"}" )
        fi
    done
}

# The values of the long option $2 of the subcommand $1, where they are known.
_thrufs_values() {
    case "$1 $2" in
@VALUES@
    esac
}

# The last item of a comma-separated list, or its value.
_thrufs_mount_options() {
    local word="$1" item="${1##*,}" before key all="" each
    before="${word%"${item}"}"
    local -a candidates=()
    if [[ "${item}" == *=* ]]; then
        key="${item%%=*}"
        for each in $(_thrufs_values mount "${key//_/-}"); do
            candidates+=( "${before}${key}=${each}" )
        done
    else
        all="@KEYS@"
        if [[ "${item}" == *-* ]]; then
            all="${all//_/-}"
        fi
        for each in ${all}; do
            candidates+=( "${before}${each}" )
        done
    fi
    compopt -o nospace 2>/dev/null
    _thrufs_reply "${word}" "${candidates[@]}"
}

# From the mount table alone: a mount that hangs is not looked at.
_thrufs_mountpoints() {
    local dir type rest
    COMPREPLY=()
    while read -r rest dir type rest; do
        if [[ "${type}" == fuse.thrufs ]]; then
            printf -v dir '%b' "${dir}"
            if [[ "${dir}" == "$1"* ]]; then
                printf -v dir '%q' "${dir}"
                COMPREPLY+=( "${dir}" )
            fi
        fi
    done < /proc/self/mounts
}

_thrufs_complete() {
    local -a words=()
    local word before subcommand="" each value
    # COMP_WORDS is split at = and : as well.
    read -a words <<< "${COMP_LINE:0:COMP_POINT}|"
    word="${words[${#words[@]}-1]%|}"
    before="${words[${#words[@]}-2]}"
    for each in "${words[@]:1:${#words[@]}-2}"; do
        if [[ "${each}" != -* ]]; then
            subcommand="${each}"
            break
        fi
    done
    case "${subcommand} ${before} ${word}" in
        "mount -o "*)
            _thrufs_mount_options "${word}"
            return
            ;;
        *" --"*=*)
            each="${word%%=*}"
            local -a candidates=()
            for value in $(_thrufs_values "${subcommand}" "${each#--}"); do
                candidates+=( "${each}=${value}" )
            done
            _thrufs_reply "${word}" "${candidates[@]}"
            return
            ;;
    esac
    case "${subcommand}" in
        @ABOUT_MOUNTS@)
            if [[ "${word}" != -* && -z "$(_thrufs_values "${subcommand}" "${before#--}")" ]]; then
                _thrufs_mountpoints "${word}"
                return
            fi
            ;;
    esac
    _thrufs "$@"
}
