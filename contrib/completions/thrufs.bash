_thrufs() {
    local i cur prev opts cmd
    COMPREPLY=()
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        cur="$2"
    else
        cur="${COMP_WORDS[COMP_CWORD]}"
    fi
    prev="$3"
    cmd=""
    opts=""

    for i in "${COMP_WORDS[@]:0:COMP_CWORD}"
    do
        case "${cmd},${i}" in
            ",$1")
                cmd="thrufs"
                ;;
            thrufs,demo)
                cmd="thrufs__subcmd__demo"
                ;;
            thrufs,device)
                cmd="thrufs__subcmd__device"
                ;;
            thrufs,doctor)
                cmd="thrufs__subcmd__doctor"
                ;;
            thrufs,help)
                cmd="thrufs__subcmd__help"
                ;;
            thrufs,mount)
                cmd="thrufs__subcmd__mount"
                ;;
            thrufs,set)
                cmd="thrufs__subcmd__set"
                ;;
            thrufs,status)
                cmd="thrufs__subcmd__status"
                ;;
            thrufs,top)
                cmd="thrufs__subcmd__top"
                ;;
            thrufs,umount)
                cmd="thrufs__subcmd__umount"
                ;;
            thrufs,upgrade)
                cmd="thrufs__subcmd__upgrade"
                ;;
            thrufs__subcmd__help,demo)
                cmd="thrufs__subcmd__help__subcmd__demo"
                ;;
            thrufs__subcmd__help,device)
                cmd="thrufs__subcmd__help__subcmd__device"
                ;;
            thrufs__subcmd__help,doctor)
                cmd="thrufs__subcmd__help__subcmd__doctor"
                ;;
            thrufs__subcmd__help,help)
                cmd="thrufs__subcmd__help__subcmd__help"
                ;;
            thrufs__subcmd__help,mount)
                cmd="thrufs__subcmd__help__subcmd__mount"
                ;;
            thrufs__subcmd__help,set)
                cmd="thrufs__subcmd__help__subcmd__set"
                ;;
            thrufs__subcmd__help,status)
                cmd="thrufs__subcmd__help__subcmd__status"
                ;;
            thrufs__subcmd__help,top)
                cmd="thrufs__subcmd__help__subcmd__top"
                ;;
            thrufs__subcmd__help,umount)
                cmd="thrufs__subcmd__help__subcmd__umount"
                ;;
            thrufs__subcmd__help,upgrade)
                cmd="thrufs__subcmd__help__subcmd__upgrade"
                ;;
            *)
                ;;
        esac
    done

    case "${cmd}" in
        thrufs)
            opts="-h -V --print-capabilities --help --version mount device umount status top doctor upgrade set demo help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 1 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__demo)
            opts="-h --scratch --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --scratch)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__device)
            opts="-o -d -h -V --shared-dir --socket-path --socket-group --fd --tag --num-request-queues --keep --cache --attr-timeout --entry-timeout --negative-timeout --dir-timeout --xattr --posix-acl --readonly --no-readdirplus --allow-direct-io --allow-mmap --inode-file-handles --locks --writeback --durability --write-joining --max-write --one-page-writes --without --translate-uid --translate-gid --xattrmap --sandbox --seccomp --modcaps --uid-map --gid-map --debug --log-level --syslog --rlimit-nofile --metrics --survive --survive-deaths --print-capabilities --thread-pool-size --announce-submounts --no-announce-submounts --killpriv-v2 --no-killpriv-v2 --preserve-noatime --security-label --help --version"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --shared-dir)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --socket-path)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --socket-group)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --fd)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --tag)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --num-request-queues)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -o)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --cache)
                    COMPREPLY=($(compgen -W "never auto always metadata" -- "${cur}"))
                    return 0
                    ;;
                --attr-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --entry-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --negative-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --dir-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --posix-acl)
                    COMPREPLY=($(compgen -W "never auto always" -- "${cur}"))
                    return 0
                    ;;
                --allow-mmap)
                    COMPREPLY=($(compgen -W "yes no" -- "${cur}"))
                    return 0
                    ;;
                --inode-file-handles)
                    COMPREPLY=($(compgen -W "never prefer mandatory" -- "${cur}"))
                    return 0
                    ;;
                --locks)
                    COMPREPLY=($(compgen -W "local host" -- "${cur}"))
                    return 0
                    ;;
                --durability)
                    COMPREPLY=($(compgen -W "fsync dsync" -- "${cur}"))
                    return 0
                    ;;
                --write-joining)
                    COMPREPLY=($(compgen -W "never auto always" -- "${cur}"))
                    return 0
                    ;;
                --max-write)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --without)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --translate-uid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --translate-gid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --xattrmap)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --sandbox)
                    COMPREPLY=($(compgen -W "namespace chroot none" -- "${cur}"))
                    return 0
                    ;;
                --seccomp)
                    COMPREPLY=($(compgen -W "kill log trap none" -- "${cur}"))
                    return 0
                    ;;
                --modcaps)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --uid-map)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --gid-map)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-level)
                    COMPREPLY=($(compgen -W "off error warn info debug trace" -- "${cur}"))
                    return 0
                    ;;
                --rlimit-nofile)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --metrics)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --survive)
                    COMPREPLY=($(compgen -W "never always" -- "${cur}"))
                    return 0
                    ;;
                --survive-deaths)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --thread-pool-size)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --security-label)
                    COMPREPLY=($(compgen -W "never auto always" -- "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__doctor)
            opts="-h --json --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help)
            opts="mount device umount status top doctor upgrade set demo help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help__subcmd__demo)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help__subcmd__device)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help__subcmd__doctor)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help__subcmd__help)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help__subcmd__mount)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help__subcmd__set)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help__subcmd__status)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help__subcmd__top)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help__subcmd__umount)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__help__subcmd__upgrade)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__mount)
            opts="-o -f -d -h -V --cache --attr-timeout --entry-timeout --negative-timeout --dir-timeout --xattr --posix-acl --readonly --no-readdirplus --allow-direct-io --allow-mmap --inode-file-handles --max-inodes --locks --passthrough --writeback --durability --write-joining --max-write --one-page-writes --raise-max-pages-limit --request-timeout --watch --without --translate-uid --translate-gid --xattrmap --sandbox --seccomp --modcaps --uid-map --gid-map --allow-other --allow-root --default-permissions --replace-dead --nonempty --fsname --subtype --idmap --max-read --read-ahead --foreground --debug --log-level --syslog --rlimit-nofile --metrics --thread-pool-size --clone-fd --transport --survive --survive-deaths --help --version"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                -o)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --cache)
                    COMPREPLY=($(compgen -W "never auto always metadata" -- "${cur}"))
                    return 0
                    ;;
                --attr-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --entry-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --negative-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --dir-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --posix-acl)
                    COMPREPLY=($(compgen -W "never auto always" -- "${cur}"))
                    return 0
                    ;;
                --allow-mmap)
                    COMPREPLY=($(compgen -W "yes no" -- "${cur}"))
                    return 0
                    ;;
                --inode-file-handles)
                    COMPREPLY=($(compgen -W "never prefer mandatory" -- "${cur}"))
                    return 0
                    ;;
                --max-inodes)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --locks)
                    COMPREPLY=($(compgen -W "local host" -- "${cur}"))
                    return 0
                    ;;
                --passthrough)
                    COMPREPLY=($(compgen -W "never auto always" -- "${cur}"))
                    return 0
                    ;;
                --durability)
                    COMPREPLY=($(compgen -W "fsync dsync" -- "${cur}"))
                    return 0
                    ;;
                --write-joining)
                    COMPREPLY=($(compgen -W "never auto always" -- "${cur}"))
                    return 0
                    ;;
                --max-write)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --request-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --without)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --translate-uid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --translate-gid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --xattrmap)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --sandbox)
                    COMPREPLY=($(compgen -W "namespace chroot none" -- "${cur}"))
                    return 0
                    ;;
                --seccomp)
                    COMPREPLY=($(compgen -W "kill log trap none" -- "${cur}"))
                    return 0
                    ;;
                --modcaps)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --uid-map)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --gid-map)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --fsname)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --subtype)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --max-read)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --read-ahead)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --log-level)
                    COMPREPLY=($(compgen -W "off error warn info debug trace" -- "${cur}"))
                    return 0
                    ;;
                --rlimit-nofile)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --metrics)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --thread-pool-size)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --transport)
                    COMPREPLY=($(compgen -W "fuser device" -- "${cur}"))
                    return 0
                    ;;
                --survive)
                    COMPREPLY=($(compgen -W "never always" -- "${cur}"))
                    return 0
                    ;;
                --survive-deaths)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__set)
            opts="-h --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__status)
            opts="-h --json --watch --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --watch)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__top)
            opts="-d -b -n -h --delay --batch --iterations --json --sort --by --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --delay)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -d)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --iterations)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -n)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --sort)
                    COMPREPLY=($(compgen -W "requests bytes latency name" -- "${cur}"))
                    return 0
                    ;;
                --by)
                    COMPREPLY=($(compgen -W "process opcode" -- "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__umount)
            opts="-l -h --lazy --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        thrufs__subcmd__upgrade)
            opts="-h --binary --help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --binary)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
    esac
}

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
        "mount cache") echo "never auto always metadata" ;;
        "mount xattr") echo "true false" ;;
        "mount posix-acl") echo "never auto always" ;;
        "mount readonly") echo "true false" ;;
        "mount no-readdirplus") echo "true false" ;;
        "mount allow-direct-io") echo "true false" ;;
        "mount allow-mmap") echo "yes no" ;;
        "mount inode-file-handles") echo "never prefer mandatory" ;;
        "mount locks") echo "local host" ;;
        "mount passthrough") echo "never auto always" ;;
        "mount writeback") echo "true false" ;;
        "mount durability") echo "fsync dsync" ;;
        "mount write-joining") echo "never auto always" ;;
        "mount one-page-writes") echo "true false" ;;
        "mount raise-max-pages-limit") echo "true false" ;;
        "mount watch") echo "true false" ;;
        "mount sandbox") echo "namespace chroot none" ;;
        "mount seccomp") echo "kill log trap none" ;;
        "mount allow-other") echo "true false" ;;
        "mount allow-root") echo "true false" ;;
        "mount default-permissions") echo "true false" ;;
        "mount replace-dead") echo "true false" ;;
        "mount nonempty") echo "true false" ;;
        "mount idmap") echo "true false" ;;
        "mount foreground") echo "true false" ;;
        "mount debug") echo "true false" ;;
        "mount log-level") echo "off error warn info debug trace" ;;
        "mount syslog") echo "true false" ;;
        "mount clone-fd") echo "true false" ;;
        "mount transport") echo "fuser device" ;;
        "mount survive") echo "never always" ;;
        "device keep") echo "true false" ;;
        "device cache") echo "never auto always metadata" ;;
        "device xattr") echo "true false" ;;
        "device posix-acl") echo "never auto always" ;;
        "device readonly") echo "true false" ;;
        "device no-readdirplus") echo "true false" ;;
        "device allow-direct-io") echo "true false" ;;
        "device allow-mmap") echo "yes no" ;;
        "device inode-file-handles") echo "never prefer mandatory" ;;
        "device locks") echo "local host" ;;
        "device writeback") echo "true false" ;;
        "device durability") echo "fsync dsync" ;;
        "device write-joining") echo "never auto always" ;;
        "device one-page-writes") echo "true false" ;;
        "device sandbox") echo "namespace chroot none" ;;
        "device seccomp") echo "kill log trap none" ;;
        "device debug") echo "true false" ;;
        "device log-level") echo "off error warn info debug trace" ;;
        "device syslog") echo "true false" ;;
        "device survive") echo "never always" ;;
        "device print-capabilities") echo "true false" ;;
        "device announce-submounts") echo "true false" ;;
        "device no-announce-submounts") echo "true false" ;;
        "device killpriv-v2") echo "true false" ;;
        "device no-killpriv-v2") echo "true false" ;;
        "device preserve-noatime") echo "true false" ;;
        "device security-label") echo "never auto always" ;;
        "umount lazy") echo "true false" ;;
        "status json") echo "true false" ;;
        "top batch") echo "true false" ;;
        "top json") echo "true false" ;;
        "top sort") echo "requests bytes latency name" ;;
        "top by") echo "process opcode" ;;
        "doctor json") echo "true false" ;;
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
        all="ro rw nodev dev nosuid suid noexec exec noatime atime nodiratime diratime relatime norelatime strictatime nostrictatime lazytime nolazytime sync async dirsync remount cache= attr_timeout= entry_timeout= negative_timeout= dir_timeout= xattr posix_acl posix_acl= readonly no_readdirplus allow_direct_io allow_mmap allow_mmap= inode_file_handles= max_inodes= locks= passthrough= writeback durability= write_joining= max_write= one_page_writes raise_max_pages_limit request_timeout= watch without= translate_uid= translate_gid= xattrmap= sandbox= seccomp= modcaps= uid_map= gid_map= allow_other allow_root default_permissions replace_dead nonempty fsname= subtype= idmap max_read= read_ahead= foreground debug log_level= syslog rlimit_nofile= metrics= thread_pool_size= clone_fd transport= survive= survive_deaths="
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
        umount|status|top|doctor|upgrade|set)
            if [[ "${word}" != -* && -z "$(_thrufs_values "${subcommand}" "${before#--}")" ]]; then
                _thrufs_mountpoints "${word}"
                return
            fi
            ;;
    esac
    _thrufs "$@"
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _thrufs_complete -o nosort -o bashdefault -o default thrufs
else
    complete -F _thrufs_complete -o bashdefault -o default thrufs
fi
