//! Tables of structs, flags and numbers under the kernel's names. Each table also becomes data, so
//! that `tests/kernel_header.rs` compares every row with linux/fuse.h and none can be left out.
//! Rows typed twice, once here and once in the test, would agree with each other and not with the kernel.

use std::mem::size_of;

/// A field of a struct as this machine lays it out.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The kernel's name of the field.
    pub name: &'static str,
    /// Bytes before the field.
    pub offset: usize,
    /// Bytes in the field.
    pub size: usize,
}

/// A struct as this machine lays it out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The kernel's name of the struct.
    pub name: &'static str,
    /// Bytes in the struct.
    pub size: usize,
    /// All fields in order.
    pub fields: &'static [Field],
}

/// A struct of linux/fuse.h that can be read from any bytes and has no hidden padding.
pub trait Abi: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy {
    /// Layout under the kernel's names.
    const LAYOUT: Layout;
}

impl Layout {
    pub(super) const fn of<T>(name: &'static str, fields: &'static [Field]) -> Self {
        let size = size_of::<T>();
        Self { name, size, fields }
    }
}

/// `kernel_name => RustName { field: type, … }`; the fields keep the kernel's names.
macro_rules! structs {
    ($( $(#[$meta:meta])* $c:ident => $name:ident { $( $field:ident: $ty:ty ),* $(,)? } )*) => {
        $(
            #[doc = concat!("`struct ", stringify!($c), "`.")]
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
            #[repr(C)]
            #[allow(missing_docs, reason = "the fields are the kernel's: linux/fuse.h")]
            pub struct $name {
                $( pub $field: $ty, )*
            }

            impl $crate::abi::macros::Abi for $name {
                const LAYOUT: $crate::abi::macros::Layout = $crate::abi::macros::Layout::of::<Self>(
                    stringify!($c),
                    &[$( $crate::abi::macros::Field {
                        name: stringify!($field),
                        offset: std::mem::offset_of!($name, $field),
                        size: std::mem::size_of::<$ty>(),
                    }, )*],
                );
            }
        )*

        pub(super) const LAYOUTS: &[$crate::abi::macros::Layout] =
            &[$( <$name as $crate::abi::macros::Abi>::LAYOUT, )*];
    };
}

/// `RustName: type { KERNEL_NAME = value, … }`. Bits without a name are kept as they came.
macro_rules! flags {
    ($(
        $(#[$meta:meta])*
        $name:ident: $bits:ty { $( $(#[$inner:ident $($args:tt)*])* $flag:ident = $value:expr, )* }
    )*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Default, PartialEq, Eq)]
            #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
            #[repr(transparent)]
            pub struct $name($bits);

            bitflags::bitflags! {
                impl $name: $bits {
                    $(
                        #[doc = concat!("`", stringify!($flag), "`.")]
                        $(#[$inner $($args)*])*
                        const $flag = $value;
                    )*
                    const _ = !0;
                }
            }

            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    write!(f, "{}(", stringify!($name))?;
                    bitflags::parser::to_writer(self, &mut *f)?;
                    f.write_str(")")
                }
            }
        )*

        pub(super) const FLAGS: &[(&str, u64)] = &[$( $(
            (stringify!($flag), $name::$flag.bits() as u64),
        )* )*];
    };
}

/// `KERNEL_NAME: type = value`.
macro_rules! constants {
    ($( $(#[$meta:meta])* $name:ident: $ty:ty = $value:expr; )*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`.")]
            $(#[$meta])*
            pub const $name: $ty = $value;
        )*

        const CONSTANTS: &[(&str, u64)] = &[$( (stringify!($name), $name as u64), )*];
    };
}

/// `RustName = KERNEL_NAME, value`: an enum that can be made from the number.
macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident: $repr:ident {
        $( $(#[$item_meta:meta])* $item:ident = $c:ident, $value:literal; )*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $name {
            $( #[doc = concat!("`", stringify!($c), "`.")] $(#[$item_meta])* $item = $value, )*
        }

        impl $name {
            /// Every one, in the order of the numbers.
            pub const ALL: &[Self] = &[$( Self::$item, )*];

            /// The one with this number.
            pub const fn from_raw(number: $repr) -> Option<Self> {
                match number {
                    $( $value => Some(Self::$item), )*
                    _unknown => None,
                }
            }

            /// The number on the wire.
            pub const fn as_raw(self) -> $repr {
                self as $repr
            }

            /// The kernel's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$item => stringify!($c), )*
                }
            }
        }
    };
}

pub(crate) use {constants, flags, numbers, structs};
