//! What `-o` takes, item by item.

use super::*;

fn parse(value: &str) -> Result<OptionList, OptionError> {
    OptionList::parse(&[value.to_owned()], false)
}

fn near_of(item: &str) -> Vec<String> {
    match parse(item) {
        Err(OptionError::Unknown { near, .. }) => near,
        other => panic!("{item} is unknown, but gave {other:?}"),
    }
}

#[test]
fn parse_of_each_flag_sets_and_clears_it() {
    for &(name, flag, on) in FLAGS {
        let parsed = parse(name).unwrap();
        assert_eq!(
            parsed.flags,
            if on { flag } else { MsFlags::empty() },
            "{name}"
        );
        assert_eq!(parsed.mentioned, flag, "{name}");
        assert!(matches!(
            parse(&format!("{name}=1")),
            Err(OptionError::TakesNoValue { .. })
        ));
    }
}

#[test]
fn parse_of_contradicting_flags_takes_the_last() {
    let defaults = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let flags = |value| parse(value).unwrap().flags_over(defaults);
    assert_eq!(flags("ro,rw"), defaults);
    assert_eq!(flags("rw,ro"), defaults | MsFlags::MS_RDONLY);
    assert_eq!(flags("dev"), MsFlags::MS_NOSUID);
    assert_eq!(flags("dev,suid,nodev"), MsFlags::MS_NODEV);
}

#[test]
fn parse_of_every_long_option_hands_it_on() {
    let long = LongOptions::new();
    assert!(long.0.len() > 20, "{:?}", long.0);
    for name in &long.0 {
        let with_underscores = name.replace('-', "_");
        for spelled in [name.as_str(), with_underscores.as_str()] {
            let parsed = parse(&format!("{spelled}=x")).unwrap();
            assert_eq!(parsed.arguments, [format!("--{name}=x")]);
            assert_eq!(parse(spelled).unwrap().arguments, [format!("--{name}")]);
        }
    }
}

#[test]
fn parse_of_libfuse_and_mount_options_knows_them() {
    for item in [
        "ro",
        "rw",
        "dev",
        "nodev",
        "suid",
        "nosuid",
        "exec",
        "noexec",
        "atime",
        "noatime",
        "sync",
        "dirsync",
        "allow_other",
        "allow_root",
        "default_permissions",
        "fsname=x",
        "subtype=x",
        "max_read=4096",
        "entry_timeout=1",
        "attr_timeout=1",
        "negative_timeout=1",
        "clone_fd",
        "max_threads=2",
        "cache=never",
        "posix_acl",
        "posix-acl=auto",
        "thread_pool_size=3",
    ] {
        assert!(parse(item).is_ok(), "{item}");
    }
}

#[test]
fn parse_of_what_is_for_others_is_silent() {
    let value = "defaults,nofail,_netdev,auto,noauto,user,nouser,users,user_id=0,group_id=0,\
        x-systemd.automount,x-initrd.mount,X-mount.mkdir=0755,comment=hello there,,";
    let parsed = parse(value).unwrap();
    assert_eq!(parsed.flags | parsed.mentioned, MsFlags::empty());
    assert_eq!(parsed.arguments, Vec::<String>::new());
}

#[test]
fn parse_of_a_typing_error_names_the_nearest() {
    assert_eq!(near_of("entry_timout=1")[0], "entry_timeout");
    assert_eq!(near_of("alow_other")[0], "allow_other");
    assert_eq!(near_of("nosudi")[0], "nosuid");
    assert_eq!(near_of("chache=never")[0], "cache");
    assert_eq!(near_of("MAX_WRITE=4096")[0], "max_write");
    assert!(near_of("zzzzqqq").is_empty());
}

#[test]
fn error_of_an_unknown_item_names_item_and_remedy() {
    let text = parse("ro,entry_timout=1").unwrap_err().to_string();
    assert!(text.contains("'entry_timout=1'"), "{text}");
    assert!(text.contains("did you mean entry_timeout"), "{text}");
    assert!(text.contains("--help"), "{text}");
}

#[test]
fn parse_of_help_and_version_is_refused() {
    assert!(matches!(parse("help"), Err(OptionError::Unknown { .. })));
    assert!(matches!(parse("version"), Err(OptionError::Unknown { .. })));
}

#[test]
fn parse_of_repeated_o_keeps_the_order() {
    let values = ["ro,cache=never".to_owned(), "rw,cache=auto".to_owned()];
    let parsed = OptionList::parse(&values, false).unwrap();
    assert_eq!(parsed.flags, MsFlags::empty());
    assert_eq!(parsed.arguments, ["--cache=never", "--cache=auto"]);
}

#[test]
fn split_with_escapes_keeps_commas_inside() {
    assert_eq!(split(r"fsname=a\,b,ro"), ["fsname=a,b", "ro"]);
    assert_eq!(split(r"fsname=a\\,ro"), [r"fsname=a\", "ro"]);
    assert_eq!(split(r"fsname=a\b"), [r"fsname=a\b"]);
    assert_eq!(split(r"fsname=a\"), [r"fsname=a\"]);
    assert_eq!(split(""), [""]);
    assert_eq!(split("fsname=a=b"), ["fsname=a=b"]);
}

#[test]
fn fusermount_names_leaves_out_what_the_helper_does_not_know() {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_STRICTATIME | MsFlags::MS_NOATIME;
    assert_eq!(
        fusermount_names(flags).collect::<Vec<_>>(),
        ["ro", "noatime"]
    );
}

#[test]
fn parse_sloppily_leaves_out_what_is_unknown_and_nothing_else() {
    let parse = |value: &str| OptionList::parse(&[value.to_owned()], true);
    let parsed = parse("ro,nonsense=1,cache=never,tag=x").unwrap();
    assert_eq!(parsed.flags, MsFlags::MS_RDONLY);
    assert_eq!(parsed.arguments, ["--cache=never"]);
    let ignored: Vec<String> = parsed.ignored.iter().map(ToString::to_string).collect();
    assert!(ignored[0].contains("'nonsense=1'"), "{ignored:?}");
    assert!(
        ignored[1].contains("'tag=x', which is virtiofsd's"),
        "{ignored:?}"
    );
    assert!(matches!(
        parse("ro=1"),
        Err(OptionError::TakesNoValue { .. })
    ));
}

#[test]
fn not_for_users_names_what_fusermount3_would_not_do() {
    let lost = |value| parse(value).unwrap().not_for_users();
    assert_eq!(lost("lazytime,ro,relatime,noatime"), ["lazytime"]);
    assert_eq!(lost("dev,suid,rw,async,atime"), ["dev", "suid"]);
    assert_eq!(
        lost("dev,nodev,strictatime,nostrictatime"),
        Vec::<&str>::new()
    );
}
