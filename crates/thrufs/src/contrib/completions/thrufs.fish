
# The last item of a comma-separated list, or its value.
function __fish_thrufs_mount_options
    set -l token (commandline -ct)
    test -n "$token"; or set token ''
    set -l item (string replace -r '.*,' '' -- $token)
    set -l before (string replace -r '[^,]*$' '' -- $token)
    set -l all @KEYS@
    switch "$item"
@VALUES@
        case '*-*'
            set all (string replace -a _ - -- $all)
    end
    for each in $all
        echo "$before$each"
    end
end

# From the mount table alone: a mount that hangs is not looked at.
function __fish_thrufs_mountpoints
    while read -l from dir type rest
        test "$type" = fuse.thrufs; and string unescape -- $dir
    end </proc/self/mounts
end

complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -s o -x -a '(__fish_thrufs_mount_options)'
