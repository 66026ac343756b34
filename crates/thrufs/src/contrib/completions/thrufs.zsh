(( $+functions[_thrufs_mount_options] )) ||
_thrufs_mount_options() {
    _values -s , 'mount option' \
        @KEYS@
}
# From the mount table alone: a mount that hangs is not looked at.
(( $+functions[_thrufs_mountpoints] )) ||
_thrufs_mountpoints() {
    local -a mounts
    local from dir type rest expl
    while read -r from dir type rest; do
        [[ $type == fuse.thrufs ]] && mounts+=("${(g:o:)dir}")
    done < /proc/self/mounts
    _wanted mounts expl 'mount of thrufs' compadd -a mounts || _files
}
